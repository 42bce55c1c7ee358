"""Published purging bugs of neighbouring projects, each as a case that the bug would fail."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from pipeline.errors import BadInput
from pipeline.folds.purging import EMBARGO, KEPT, SPAN, Spans, purge
from pipeline.folds.spec import FoldSpec
from pipeline.folds.splits import make_folds, roles
from tests.folds.panels import balanced, unbalanced, weekdays
from tests.folds.test_purging import _purge


def test_training_spans_that_end_inside_the_test_go() -> None:
    """mlfinlab#295: 2-day events of days 3 and 4 stayed although they end on test days 5 and 6."""
    assert _purge([(2, 4), (3, 5), (4, 6)], [[(5, 7), (6, 8)]], 0, 10) == [KEPT, KEPT, SPAN]
    assert _purge([(3, 6), (4, 7)], [[(5, 8)]], 0, 10) == [SPAN, SPAN]


def test_window_starts_at_the_first_test_start_and_ends_at_the_latest_end() -> None:
    """openquant#66: the window began at the first test label's END and ended with the last row's."""
    test = [(3, 6), (4, 12), (5, 8)]
    before, after = [(0, 3), (1, 4), (2, 5)], [(8, 11), (11, 14), (12, 15)]
    assert _purge(before + after, [test], 0, 20) == [KEPT, SPAN, SPAN, SPAN, SPAN, KEPT]


def test_each_block_embargoes_after_its_own_end() -> None:
    """timeseriescv#8: every embargo was taken at the last evaluation time, and clipped what lay between."""
    blocks = [[(2, 5), (3, 6)], [(12, 15)]]
    train = [(6, 7), (7, 8), (8, 9), (10, 11), (15, 16), (16, 17), (17, 18)]
    assert _purge(train, blocks, 2, 20) == [EMBARGO, EMBARGO, KEPT, KEPT, EMBARGO, EMBARGO, KEPT]


def test_embargo_stacks_beyond_the_purge() -> None:
    """fynance#273: the embargo counted from the last decision, so the purge had already swallowed it."""
    train = [(t, t + 4) for t in range(6, 14)]
    cause = _purge(train, [[(5, 9)]], 2, 20)
    assert cause == [SPAN, SPAN, SPAN, EMBARGO, EMBARGO, KEPT, KEPT, KEPT]


def test_gap_between_two_test_blocks_survives() -> None:
    """Vibe-Trading#1204: one window over both blocks wiped the training rows between them."""
    blocks = [[(2, 3)], [(9, 10)]]
    assert _purge([(t, t + 1) for t in range(4, 8)], blocks, 0, 12) == [KEPT] * 4
    calendar = weekdays(140)
    labels = balanced(calendar, 120, names=1)
    folds = make_folds(labels, calendar, FoldSpec(n_groups=6, n_test_groups=2, locked_share=0))
    role = roles(folds, "cpcv_01", labels).to_list()  # tests groups 0 and 2 of 20 sessions each
    assert role[20:40] == ["purged"] * 3 + ["fit"] * 14 + ["purged"] * 3


@pytest.mark.parametrize("embargo", [1, 2, 5])
def test_embargo_removes_exactly_its_sessions(embargo: int) -> None:
    """mlfinpy: a small embargo was silently rounded to 0."""
    calendar = weekdays(140)
    labels = balanced(calendar, 120, names=3)
    folds = make_folds(
        labels, calendar, FoldSpec(n_groups=6, n_test_groups=1, embargo_sessions=embargo, locked_share=0)
    )
    gone = folds.purged.filter((pl.col("split") == "cpcv_02") & (pl.col("cause") == "embargo"))
    days = calendar.sessions[
        60 + 3 : 60 + 3 + embargo
    ]  # group 2 is sessions 40..59, its last span ends at 63
    assert gone["session"].unique(maintain_order=True).to_list() == list(days)
    assert gone.height == 3 * embargo


def test_an_embargo_over_everything_is_an_error_not_an_empty_fit() -> None:
    """Vibe-Trading#1204, second half: a fold whose training rows were all gone was handed on."""
    calendar = weekdays(140)
    with pytest.raises(BadInput, match="must keep"):
        make_folds(balanced(calendar, 120), calendar, FoldSpec(embargo_sessions=130))


def test_embargo_counts_calendar_sessions_not_rows_or_days() -> None:
    """Embargo counted in rows or days: a session without rows and a weekend both have to count right."""
    calendar = weekdays(140)
    hole = calendar.sessions[64]
    labels = balanced(calendar, 120, names=3).filter(pl.col("session") != hole)
    folds = make_folds(
        labels, calendar, FoldSpec(n_groups=6, n_test_groups=1, embargo_sessions=3, locked_share=0)
    )
    gone = folds.purged.filter((pl.col("split") == "cpcv_02") & (pl.col("cause") == "embargo"))
    assert gone["session"].unique(maintain_order=True).to_list() == [
        calendar.sessions[63],
        calendar.sessions[65],
    ]


def test_row_count_purging_leaks_on_an_unbalanced_panel_and_ours_does_not() -> None:
    """skfolio, ml4t-diagnostic: groups and purge in rows; even horizon x mean rows a session leaks."""
    calendar = weekdays(400)
    labels = unbalanced(calendar, 360, 40, seed=7)
    spans = Spans.from_labels(labels, calendar)
    start, end = spans.start[spans.kind], spans.end[spans.kind]
    horizon = round(3 * labels.height / labels["session"].n_unique())
    group = np.arange(labels.height) * 6 // labels.height
    leaked = kept = 0
    for g in range(6):
        test = np.flatnonzero(group == g)
        near = np.zeros(labels.height, bool)
        near[max(0, test[0] - horizon) : test[-1] + 1 + horizon] = True
        train = ~near
        reach = [(end[test][start[test] < e]).max(initial=-1) for e in range(end.max() + 1)]
        leaked += int((train & (np.array(reach)[end] > start)).sum())
        kept += int(train.sum())
        ours = purge(start, end, group != g, np.where(group == g, 0, -1), 0, spans.length)
        left = (group != g) & (ours == KEPT)
        assert not (left & (np.array(reach)[end] > start)).any()
    assert leaked > 0, f"{leaked} of {kept} rows"


def test_training_rows_equal_those_of_purgedcv() -> None:
    """A purge that differs from a published one on the same test rows (which that one cuts by row count)."""
    purgedcv = pytest.importorskip("purgedcv", reason="purgedcv==0.1.11 is not installed")
    calendar = weekdays(400)
    labels = unbalanced(calendar, 330, 25, seed=11)
    spans = Spans.from_labels(labels, calendar)
    start, end = spans.start[spans.kind], spans.end[spans.kind]
    days = np.array("2000-01-01", "datetime64[ns]")
    at, until = (days + x.astype("timedelta64[D]") for x in (start, end))
    splitter = purgedcv.CombinatorialPurgedCV(
        n_splits=6, n_test_groups=2, prediction_times=at, evaluation_times=until
    )
    compared = 0
    for train, test in splitter.split(np.zeros((labels.height, 1))):
        block = np.full(labels.height, -1)
        block[test] = np.cumsum(np.diff(test, prepend=test[0]) > 1)
        cause = purge(start, end, block < 0, block, 0, spans.length)
        assert np.array_equal(np.flatnonzero((block < 0) & (cause == KEPT)), train)
        compared += 1
    assert compared == 15
