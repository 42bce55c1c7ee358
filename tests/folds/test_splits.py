"""Splits as tables: against the brute-force oracle, and the promises of the certificate."""

from __future__ import annotations

from math import comb

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from pydantic import ValidationError

from pipeline.calendars import Calendar
from pipeline.errors import BadInput, LookAheadError
from pipeline.folds.certificate import certify
from pipeline.folds.purging import Spans
from pipeline.folds.spec import LOCKED, PRODUCTION, FoldSpec
from pipeline.folds.splits import CAUSES, Folds, fit_rows, make_folds, production_folds, roles
from tests.folds.panels import balanced, labelled, unbalanced, weekdays
from tests.oracles.folds_bruteforce import brute_force_roles

KEY = ["session", "instrument"]


@st.composite
def panels(draw: st.DrawFn) -> tuple[Calendar, pl.DataFrame]:
    """Unbalanced panels: names come and go, spans start late, are carried, or are not yet known."""
    calendar = weekdays(100)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_sessions = draw(st.integers(24, 80))
    lengths = draw(st.sampled_from([[1, 2, 3], [2, 2, 4], [4, 4, 4, 9]]))
    rows = []
    for name in "abcd"[: draw(st.integers(1, 4))]:
        late, present = draw(st.sampled_from([0, 0, 1])), draw(st.sampled_from([0.3, 0.9, 1.0]))
        for t in np.flatnonzero(rng.random(n_sessions) < present).tolist():
            end = t + late + int(rng.choice(lengths))
            rows.append((t, name, t + late, end if rng.random() > 0.05 else None))
    return calendar, labelled(calendar, rows)


specs = st.builds(
    lambda stress_share, **given: FoldSpec(stress_share=stress_share if given["locked_share"] else 0.0, **given),
    stress_share=st.sampled_from([0.0, 0.0, 0.05, 0.2]),
    scheme=st.sampled_from(["cpcv", "cpcv", "expanding", "rolling"]),
    n_groups=st.integers(3, 6),
    n_test_groups=st.integers(1, 2),
    embargo_sessions=st.integers(0, 3),
    tune_share=st.sampled_from([0.2, 0.3, 0.4]),
    locked_share=st.sampled_from([0.0, 0.15, 0.3]),
    rolling_groups=st.integers(1, 3),
)


def _found(folds: Folds, split: str, labels: pl.DataFrame) -> dict[tuple, str]:
    causes = {(s, i): c for sp, s, i, c in folds.purged.iter_rows() if sp == split}
    return {
        key: f"purged:{causes[key]}" if role == "purged" else role
        for *key_, role in labels.select(KEY).with_columns(roles(folds, split, labels)).iter_rows()
        if (key := tuple(key_))
    }


@settings(max_examples=120, deadline=None)
@given(panels(), specs)
def test_every_row_of_every_split_agrees_with_brute_force(
    panel: tuple[Calendar, pl.DataFrame], spec: FoldSpec
) -> None:
    """A training row kept although its span meets a test row's, or dropped without need, on any odd panel."""
    calendar, labels = panel
    try:
        folds = make_folds(labels, calendar, spec)
    except BadInput as refused:
        _assert_refusal_is_deserved(refused, labels, calendar, spec)
        return
    expected = brute_force_roles(labels, list(calendar.sessions), spec)
    assert sorted(folds.certificate["split"]) == sorted(expected)
    for split, answer in expected.items():
        assert _found(folds, split, labels) == answer, split


def _assert_refusal_is_deserved(
    refused: BadInput, labels: pl.DataFrame, calendar: Calendar, spec: FoldSpec
) -> None:
    used = labels.filter(pl.col("label_end").is_not_null())["session"].n_unique()
    n_locked = round(spec.locked_share * used)
    n_stress = round(spec.stress_share * used)
    if used < 2 or used - n_locked - n_stress < spec.n_groups or (spec.locked_share and not n_locked):
        return
    if spec.stress_share and not n_stress:
        return
    if "one stretch" in str(refused):
        with pytest.raises(StopIteration):
            brute_force_roles(labels, list(calendar.sessions), spec)
        return
    assert "must keep" in str(refused)
    answers = brute_force_roles(labels, list(calendar.sessions), spec)
    if "locked stretch" in str(refused):
        newest = sorted(labels.filter(pl.col("label_end").is_not_null())["session"].unique())[-n_stress:]
        assert all(role != "test" or day in newest for (day, _), role in answers[LOCKED].items())
        return
    assert any(not {"fit", "tune", "test"} <= set(answer.values()) for answer in answers.values())


@pytest.mark.parametrize("scheme", ["cpcv", "expanding", "rolling"])
def test_certificate_counts_what_the_tables_say(scheme: str) -> None:
    """A certificate about other rows than the ones handed out."""
    calendar = weekdays(200)
    labels = unbalanced(calendar, 150, 12, seed=3)
    folds = make_folds(labels, calendar, FoldSpec(scheme=scheme, embargo_sessions=2))
    place = {day: i for i, day in enumerate(calendar.sessions)}
    spans = labels.select(
        pl.col("label_start", "label_end").replace_strict(place, return_dtype=pl.Int64)
    ).to_numpy()
    for row in folds.certificate.iter_rows(named=True):
        role = roles(folds, row["split"], labels).to_numpy()
        assert [row[f"{r}_rows"] for r in ("fit", "tune", "test")] == [
            (role == r).sum() for r in ("fit", "tune", "test")
        ]
        purged = folds.purged.filter(pl.col("split") == row["split"])["cause"]
        assert [row[f"purged_{c}"] for c in ("span", "embargo", "tune")] == [
            (purged == c).sum() for c in ("span", "embargo", "tune")
        ]
        assert row["overlap_rows"] == 0 == _overlaps(spans, role, ("fit", "tune"), "test")
        assert _overlaps(spans, role, ("fit",), "tune") == 0
        assert row["tested_min"] == row["tested_max"] == row["tested_expected"]


def _overlaps(spans: np.ndarray, role: np.ndarray, train: tuple[str, ...], seen: str) -> int:
    a, b = spans[np.isin(role, train)], spans[role == seen]
    return int(((a[:, None, 0] < b[None, :, 1]) & (a[:, None, 1] > b[None, :, 0])).any(axis=1).sum())


@pytest.mark.parametrize(("n", "k"), [(6, 2), (8, 3), (5, 1), (7, 5)])
def test_each_free_session_is_tested_equally_often(n: int, k: int) -> None:
    """A group tested more or less often than C(N-1, k-1), which would tilt the distribution over paths."""
    calendar = weekdays(200)
    spec = FoldSpec(n_groups=n, n_test_groups=k, tune_share=0.2)
    folds = make_folds(balanced(calendar, 160), calendar, spec)
    tested = folds.split_sessions.filter((pl.col("role") == "test") & (pl.col("split") != LOCKED))
    times = tested.group_by("session").len()
    free = folds.split_sessions.filter(pl.col("group") < n)["session"].n_unique()
    assert times.height == free
    assert times["len"].unique().to_list() == [comb(n - 1, k - 1)]
    assert folds.certificate.height == comb(n, k) + 1


def test_locked_stretch_is_in_no_search_split() -> None:
    """Sessions of the locked stretch seen by a CPCV split, or missing from the end of the locked one."""
    calendar = weekdays(140)
    folds = make_folds(balanced(calendar, 100), calendar, FoldSpec(locked_share=0.15))
    late = folds.split_sessions.filter(pl.col("session") >= calendar.sessions[85])
    assert set(late.filter(pl.col("split") != LOCKED)["role"]) == {"unused"}
    assert set(late.filter(pl.col("split") == LOCKED)["role"]) == {"test"}
    early = folds.split_sessions.filter(
        (pl.col("split") == LOCKED) & (pl.col("session") < calendar.sessions[85])
    )
    assert early["role"].to_list() == ["fit"] * 68 + ["tune"] * 17


def test_stress_stretch_is_sealed_off_from_the_locked_one() -> None:
    """Two sealed stretches that share a session of some label, or a stress stretch that a search split sees."""
    calendar = weekdays(140)
    labels = balanced(calendar, 100)
    plain = make_folds(labels, calendar, FoldSpec(n_groups=4, locked_share=0.25))
    spec = FoldSpec(n_groups=4, locked_share=0.15, stress_share=0.1)
    folds = make_folds(labels, calendar, spec)
    days = calendar.sessions
    locked = folds.split_sessions.filter(split=LOCKED)
    assert locked.filter(group=4)["session"].to_list() == list(days[75:90])
    assert locked.filter(group=5)["session"].to_list() == list(days[90:100])
    assert folds.paths.filter(path=LOCKED).rows() == [(LOCKED, 4, LOCKED), (LOCKED, 5, LOCKED)]
    gone = folds.purged.filter(split=LOCKED, cause="span").filter(pl.col("session") >= days[75])
    assert gone["session"].unique(maintain_order=True).to_list() == list(days[87:90])  # labels of four sessions
    facts = folds.certificate.filter(split=LOCKED).row(0, named=True)
    assert (facts["test_rows"], facts["overlap_rows"], facts["tested_min"], facts["tested_max"]) == (44, 0, 1, 1)
    # The search splits and the training part are those of one sealed stretch of the same length.
    search = pl.col("split") != LOCKED
    for name in ("split_sessions", "purged", "certificate"):
        found, expected = (getattr(made, name).filter(search).drop("group", strict=False) for made in (folds, plain))
        assert_frame_equal(found, expected)


def test_the_referee_sees_locked_rows_that_reach_into_the_stress_stretch() -> None:
    """A certificate that reads 0 because it compares training with tests only."""
    calendar = weekdays(40)
    labels = labelled(calendar, [(0, "a", 0, 1), (4, "a", 4, 7), (6, "a", 6, 8), (7, "a", 7, 9)])
    spans = Spans.from_labels(labels, calendar)
    role = np.array([0, 2, 2, 2], np.int8)
    stress = np.array([False, False, True, True])
    assert certify(spans, role, np.zeros(4, np.int8), CAUSES, stress)["overlap_rows"] == 1
    assert certify(spans, role, np.array([0, 1, 0, 0], np.int8), CAUSES, stress)["overlap_rows"] == 0


def test_the_referee_sees_rows_inside_an_embargo() -> None:
    """An embargo that the purge forgets while the certificate counts spans only: it read 0 for all of these rows."""
    calendar = weekdays(40)
    labels = labelled(calendar, [(0, "a", 0, 1), (4, "a", 4, 7), (8, "a", 8, 9), (9, "a", 9, 10)])
    spans, none = Spans.from_labels(labels, calendar), np.zeros(4, bool)
    role = np.array([0, 2, 0, 0], np.int8)
    kept, purged = np.zeros(4, np.int8), np.array([0, 0, 2, 2], np.int8)
    assert [certify(spans, role, kept, CAUSES, none, embargo)["overlap_rows"] for embargo in (0, 2, 3)] == [0, 1, 2]
    assert certify(spans, role, purged, CAUSES, none, 3)["overlap_rows"] == 0


def test_a_fit_is_refused_rows_whose_stored_spans_meet() -> None:
    """Folds that were divided by other spans than the labels have: their own certificate is green."""
    calendar = weekdays(60)
    labels, shorter = balanced(calendar, 40), balanced(calendar, 40, length=1)
    spec = FoldSpec(n_groups=3, n_test_groups=1, locked_share=0.0)
    handed = fit_rows(make_folds(labels, calendar, spec), "cpcv_01", labels)
    assert {*handed["role"]} == {"fit", "tune", "test", "purged"}
    folds = make_folds(shorter, calendar, spec)
    assert folds.certificate["overlap_rows"].sum() == 0
    with pytest.raises(LookAheadError, match="of a fit has a label span"):
        fit_rows(folds, "cpcv_01", labels)


@pytest.mark.parametrize(
    "shares", [{"locked_share": 0, "stress_share": 0.1}, {"locked_share": 0.6, "stress_share": 0.4}]
)
def test_a_stress_stretch_needs_a_locked_one_and_something_before_both(shares: dict[str, float]) -> None:
    """A second opening of the newest rows without a first, and a study that seals everything."""
    with pytest.raises(ValidationError, match="stress_share"):
        FoldSpec(**shares)


@pytest.mark.parametrize("scheme", ["expanding", "rolling"])
def test_walk_forward_trains_on_the_past_only(scheme: str) -> None:
    """A walk-forward split that trains on sessions after, or (rolling) too far before, its test."""
    calendar = weekdays(140)
    spec = FoldSpec(scheme=scheme, locked_share=0, rolling_groups=2)
    folds = make_folds(balanced(calendar, 120), calendar, spec)
    for split in spec.splits:
        by_role = {
            role: frame
            for (role,), frame in folds.split_sessions.filter(pl.col("split") == split)
            .partition_by("role", as_dict=True)
            .items()
        }
        train = pl.concat([by_role["fit"], by_role["tune"]])
        assert train["session"].max() < by_role["test"]["session"].min()
        assert by_role["fit"]["session"].max() < by_role["tune"]["session"].min()
        first = by_role["test"]["group"][0]
        oldest = max(0, first - 2) if scheme == "rolling" else 0
        assert sorted(train["group"].unique()) == list(range(oldest, first))


def test_order_of_rows_changes_nothing() -> None:
    """Folds that depend on how the label table happened to be sorted."""
    calendar = weekdays(120)
    labels = unbalanced(calendar, 90, 6, seed=1)
    once, again = (
        make_folds(frame, calendar, FoldSpec())
        for frame in (labels, labels.sample(fraction=1, shuffle=True, seed=2))
    )
    for name in ("split_sessions", "purged", "paths", "certificate"):
        assert_frame_equal(getattr(once, name), getattr(again, name))
        assert_frame_equal(getattr(once, name).sort(getattr(once, name).columns[:2]), getattr(once, name))


def test_unknown_labels_are_used_nowhere_and_move_no_boundary() -> None:
    """Rows without a known end that train, tune or test, or sessions of them that shift the groups."""
    calendar = weekdays(120)
    known = [(t, n, t, t + 4) for t in range(80) for n in "ab"]
    waiting = [(80, "a", 80, None), (81, "a", 81, None)]
    part = [(t, n, s, None if (t, n) == (40, "a") else e) for t, n, s, e in known]
    folds, more = (
        make_folds(labelled(calendar, rows), calendar, FoldSpec()) for rows in (known, part + waiting)
    )
    labels = labelled(calendar, part + waiting)
    tail = more.split_sessions.filter(pl.col("session") >= calendar.sessions[80])
    assert set(tail["role"]) == {"unused"}
    assert tail["group"].null_count() == tail.height
    assert_frame_equal(
        folds.split_sessions, more.split_sessions.filter(pl.col("session") < calendar.sessions[80])
    )
    for split in FoldSpec().splits:
        role = labels.with_columns(roles(more, split, labels)).filter(pl.col("label_end").is_null())["role"]
        assert set(role) == {"unused"}


def test_production_takes_what_is_known_at_the_cutoff_and_tests_nothing() -> None:
    """A production fit on a label that ends after the cutoff, or on fit rows that saw the tune rows."""
    calendar = weekdays(120)
    labels = unbalanced(calendar, 90, 8, seed=5)
    cutoff = calendar.sessions[70]
    folds = production_folds(labels, calendar, FoldSpec(), cutoff)
    role = labels.with_columns(roles(folds, PRODUCTION, labels))
    assert role.filter(pl.col("role").is_in(["fit", "tune"]))["label_end"].max() == cutoff
    late = role.filter(pl.col("label_end") > cutoff)
    assert set(late["role"]) == {"unused"}
    known = role.filter((pl.col("label_end") <= cutoff) & (pl.col("role") != "purged"))
    assert set(known["role"]) == {"fit", "tune"}
    tune = role.filter(pl.col("role") == "tune")
    assert role.filter(pl.col("role") == "fit")["label_end"].max() <= tune["label_start"].min()
    assert folds.certificate.select("split", "test_rows", "overlap_rows").row(0) == (PRODUCTION, 0, 0)
    assert folds.paths.is_empty()


def test_groups_differ_by_one_session_at_most() -> None:
    """All left-over sessions piled into the last group."""
    calendar = weekdays(140)
    folds = make_folds(balanced(calendar, 101), calendar, FoldSpec(locked_share=0))
    sizes = (
        folds.split_sessions.filter(pl.col("split") == "cpcv_00").group_by("group").len().sort("group")["len"]
    )
    assert sizes.to_list() == [17, 17, 17, 17, 17, 16]


@pytest.mark.parametrize(
    ("n_sessions", "spec", "message"),
    [
        (5, FoldSpec(), "every group must hold at least one session"),
        (12, FoldSpec(), "every split must keep"),
        (60, FoldSpec(embargo_sessions=40), "every split must keep"),
        (60, FoldSpec(n_groups=6, n_test_groups=4, tune_share=0.9), "must fit into one stretch"),
        (20, FoldSpec(locked_share=0.01), "locked stretch must hold"),
        (20, FoldSpec(locked_share=0.3, stress_share=0.01), "stress stretch must hold"),
        (60, FoldSpec(locked_share=0.04, stress_share=0.2), "locked stretch must keep"),
        (1, FoldSpec(n_groups=2, n_test_groups=1), "at least two sessions"),
    ],
)
def test_impossible_divisions_are_refused_with_a_remedy(
    n_sessions: int, spec: FoldSpec, message: str
) -> None:
    """A split without fit, tune or test rows handed on to training."""
    calendar = weekdays(140)
    with pytest.raises(BadInput, match=message) as refused:
        make_folds(balanced(calendar, n_sessions), calendar, spec)
    assert refused.value.remedy


def test_unknown_split_is_refused() -> None:
    """Roles of a misspelt split: all rows `unused`, and a model fitted on nothing."""
    calendar = weekdays(120)
    labels = balanced(calendar, 90)
    with pytest.raises(BadInput, match="must be one of these folds"):
        roles(make_folds(labels, calendar, FoldSpec()), "cpcv_99", labels)
