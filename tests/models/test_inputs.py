"""The input builder: exact ranks, a normaliser of fit rows only, tensors of their own window."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from pipeline.errors import BadInput, KeyViolation, SchemaError
from pipeline.models.inputs import build_inputs, fit_normaliser, prepare
from pipeline.models.kernels import centred_ranks
from pipeline.models.normaliser import Normaliser
from tests.models.small_market import small_market

MARKET = small_market()
PREPARED = prepare(MARKET.features, MARKET.eligible, MARKET.scopes)
FIT = PREPARED.session_index < 22
NORMALISER = fit_normaliser(PREPARED, FIT)
SEQUENCE = ("f1", "market", "f3")

edgy = st.sampled_from([np.nan, 0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3.4e38, -3.4e38])
floats = st.one_of(edgy, st.floats(width=32, allow_infinity=False))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(floats, min_size=0, max_size=9), min_size=1, max_size=5))
def test_ranks_equal_scipy(sessions: list[list[float]]) -> None:
    """Pins wrong ties (-0.0, denormals), wrong missing handling and leaks over session borders."""
    values = np.array([v for day in sessions for v in day], np.float32).reshape(-1, 1)
    starts = np.cumsum([0, *map(len, sessions)]).astype(np.int64)
    out = np.full(values.shape, 7.0, np.float32)
    centred_ranks(np.asfortranarray(values).view(np.uint32), starts, out)
    for low, high in pairwise(starts):
        day = values[low:high, 0].astype(np.float64)
        known = ~np.isnan(day)
        expected = np.zeros(high - low)
        expected[known] = (rankdata(day[known]) - 0.5) / max(known.sum(), 1) - 0.5
        np.testing.assert_array_equal(out[low:high, 0], expected.astype(np.float32))


def test_only_eligible_rows_enter_ranks_and_rows() -> None:
    """Pins ranking against names that may not be scored, and rows out of key order."""
    expected = MARKET.eligible.filter("eligible").select("session", "instrument").sort("session", "instrument")
    assert PREPARED.rows.equals(expected)
    day = MARKET.days[5]
    values = expected.filter(session=day).join(MARKET.features, on=["session", "instrument"], maintain_order="left")[
        "f3"
    ]
    known = values.drop_nulls().to_numpy()
    ranks = np.zeros(len(values), np.float32)
    ranks[values.is_not_null().to_numpy()] = (rankdata(known) - 0.5) / len(known) - 0.5
    np.testing.assert_array_equal(PREPARED.values[PREPARED.session_index == 5, 3], ranks)


def test_input_row_order_does_not_matter() -> None:
    """Pins a builder that trusts the order in which files were read."""
    shuffled = prepare(
        MARKET.features.sample(fraction=1.0, shuffle=True, seed=1),
        MARKET.eligible.sample(fraction=1.0, shuffle=True, seed=2),
        MARKET.scopes,
    )
    assert shuffled.fingerprint == PREPARED.fingerprint


def test_tensors_do_not_depend_on_the_call() -> None:
    """Pins research and live tensors that differ: one session from its own window against the whole store."""
    whole = PREPARED.inputs(NORMALISER, None, 4, SEQUENCE).hashes()
    for day in (MARKET.days[0], MARKET.days[2], MARKET.days[17], MARKET.days[-1]):
        at = MARKET.days.index(day)
        recent = pl.col("session").is_between(MARKET.days[max(0, at - 3)], day)
        live = build_inputs(
            MARKET.features.filter(recent), MARKET.eligible.filter(recent), NORMALISER, [day], 4, SEQUENCE
        )
        assert live.hashes() == {day.isoformat(): whole[day.isoformat()]}


def test_hashes_see_a_single_changed_value_in_the_window() -> None:
    """Pins parity evidence that would not notice a revised bar three sessions ago."""
    before = PREPARED.inputs(NORMALISER, None, 4, SEQUENCE).hashes()
    revised = pl.col("session") == MARKET.days[10]
    features = MARKET.features.with_columns(pl.when(revised).then(-pl.col("f1")).otherwise(pl.col("f1")).alias("f1"))
    after = prepare(features, MARKET.eligible, MARKET.scopes).inputs(NORMALISER, None, 4, SEQUENCE).hashes()
    changed = [day for day in before if before[day] != after[day]]
    assert changed == [day.isoformat() for day in MARKET.days[10:14]]


def test_windows_equal_a_plain_lookup() -> None:
    """Pins windows that are shifted by a session, or filled where a name was absent."""
    inputs = PREPARED.inputs(NORMALISER, None, 4, SEQUENCE)
    columns = [PREPARED.schema.index(name) for name in SEQUENCE]
    at = {key: i for i, key in enumerate(inputs.rows.iter_rows())}
    windows = inputs.windows(np.arange(len(inputs)))
    for (day, name), row in list(at.items())[::37]:
        here = MARKET.days.index(day)
        for step in range(4):
            past = here - 3 + step
            found = at.get((MARKET.days[past], name)) if past >= 0 else None
            expected = np.zeros(4, np.float32) if found is None else np.append(inputs.x[found, columns], np.float32(1))
            np.testing.assert_array_equal(windows[row, step], expected)


def test_normaliser_reads_fit_rows_only_and_survives_json() -> None:
    """Pins a normaliser that has seen test sessions, or whose bits change on the way through the bundle."""
    later = pl.col("session") >= MARKET.days[22]
    changed = MARKET.features.with_columns(
        pl.when(later).then(99.0).otherwise(pl.col("market")).cast(pl.Float32).alias("market")
    )
    assert fit_normaliser(prepare(changed, MARKET.eligible, MARKET.scopes), FIT) == NORMALISER
    assert Normaliser.from_json(NORMALISER.to_json()) == NORMALISER
    column = PREPARED.inputs(NORMALISER).x[FIT, PREPARED.schema.index("market")]
    assert abs(column.mean()) < 1e-5
    assert abs(column.std() - 1.0) < 1e-5


def test_market_features_are_clipped_and_switched_off_when_constant() -> None:
    """Pins an outlier of a live day that runs through the net, and a division by a zero deviation."""
    flat = MARKET.features.with_columns(
        pl.when(pl.col("session") < MARKET.days[22]).then(0.1).otherwise(1e6).cast(pl.Float32).alias("market")
    )
    off = prepare(flat, MARKET.eligible, MARKET.scopes)
    assert not off.inputs(fit_normaliser(off, FIT)).x[:, off.schema.index("market")].any()
    wild = MARKET.features.with_columns(pl.lit(1e30, pl.Float32).alias("market"))
    inputs = prepare(wild, MARKET.eligible, MARKET.scopes).inputs(NORMALISER)
    assert (inputs.x[:, PREPARED.schema.index("market")] == 5.0).all()


def test_missing_and_constant_features_are_zero() -> None:
    """Pins NaN in a tensor, and a rank invented among equals."""
    features = MARKET.features.with_columns(
        pl.lit(None, pl.Float32).alias("f0"),
        pl.lit(2.5, pl.Float32).alias("f1"),
        pl.lit(float("nan"), pl.Float32).alias("market"),
    )
    prepared = prepare(features, MARKET.eligible, MARKET.scopes)
    inputs = prepared.inputs(fit_normaliser(prepared, FIT))
    assert not inputs.x[:, [0, 1, 6]].any()
    assert np.isfinite(inputs.x).all()


def test_three_names_and_rows_without_features() -> None:
    """Pins a thin session, and an eligible name that the features stage never saw."""
    day, names = date(2024, 5, 6), ["a", "b", "c"]
    eligible = pl.DataFrame({"session": [day] * 3, "instrument": names, "eligible": [True] * 3})
    features = pl.DataFrame(
        {"session": [day] * 2, "instrument": names[:2], "f": [2.0, 1.0]}, schema_overrides={"f": pl.Float32}
    )
    prepared = prepare(features, eligible, {"f": "instrument"})
    np.testing.assert_array_equal(prepared.values[:, 0], np.float32([0.25, -0.25, 0.0]))


@pytest.mark.parametrize(
    ("break_it", "error", "named"),
    [
        (
            lambda m: replace(m, features=m.features.with_columns(pl.lit(float("inf"), pl.Float32).alias("f2"))),
            BadInput,
            "f2",
        ),
        (
            lambda m: replace(m, features=m.features.with_columns(pl.col("f2").cast(pl.Float64))),
            SchemaError,
            "f2",
        ),
        (lambda m: replace(m, scopes=m.scopes | {"f2": "planet"}), BadInput, "planet"),
        (lambda m: replace(m, features=pl.concat([m.features, m.features[:1]])), KeyViolation, "000000.SZ"),
        (lambda m: replace(m, eligible=pl.concat([m.eligible, m.eligible[:1]])), KeyViolation, "000000.SZ"),
        (lambda m: replace(m, eligible=m.eligible.drop("eligible")), SchemaError, "eligible"),
    ],
)
def test_bad_features_are_named(break_it, error, named) -> None:
    """Pins silent NaN tensors, doubled rows and mistyped columns."""
    bad = break_it(MARKET)
    with pytest.raises(error, match=named):
        prepare(bad.features, bad.eligible, bad.scopes)


def test_schema_mismatch_unknown_session_and_unknown_sequence_feature() -> None:
    """Pins scoring with the columns of another bundle, and a request beyond the store."""
    renamed = MARKET.features.rename({"f2": "g2"})
    with pytest.raises(SchemaError, match=r"missing \['f2'\], unexpected \['g2'\]"):
        build_inputs(renamed, MARKET.eligible, NORMALISER, MARKET.days[:1])
    with pytest.raises(BadInput, match="2030-01-01"):
        build_inputs(MARKET.features, MARKET.eligible, NORMALISER, [date(2030, 1, 1)])
    with pytest.raises(SchemaError, match="nowhere"):
        PREPARED.inputs(NORMALISER, None, 4, ("nowhere",))
    with pytest.raises(BadInput, match="fit rows"):
        fit_normaliser(PREPARED, np.zeros(len(PREPARED.values), bool))
