"""The purge kernel alone, and the referee that checks it."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BadInput, CalendarError, KeyViolation
from pipeline.folds.certificate import overlap_and_gap
from pipeline.folds.purging import EMBARGO, KEPT, SPAN, Spans, purge
from tests.folds.panels import balanced, labelled, weekdays


def _purge(
    train: list[tuple[int, int]], blocks: list[list[tuple[int, int]]], embargo: int, n: int
) -> list[int]:
    spans = np.array([*train, *(span for block in blocks for span in block)], dtype=np.int32)
    block = np.array([-1] * len(train) + [b for b, block in enumerate(blocks) for _ in block], dtype=np.int64)
    cause = purge(spans[:, 0].copy(), spans[:, 1].copy(), block < 0, block, embargo, n)
    return list(cause[: len(train)])


def test_every_pair_of_spans_on_six_sessions() -> None:
    """An off-by-one at any edge: all pairs of half-open spans with embargo 0 to 2 against the definition."""
    spans = [(a, b) for a, b in product(range(7), repeat=2) if a < b]
    for train, test, embargo in product(spans, spans, range(3)):
        shared = set(range(*train)) & set(range(*test))
        expected = SPAN if shared else EMBARGO if 0 <= train[0] - test[1] < embargo else KEPT
        assert _purge([train], [[test]], embargo, 6) == [expected], (train, test, embargo)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 19), st.integers(1, 8), st.sampled_from(["train", "seen", "none"])),
        min_size=1,
        max_size=40,
    )
)
def test_referee_counts_overlaps_and_gaps_like_pairwise_comparison(rows: list[tuple[int, int, str]]) -> None:
    """A certificate that reads 0 although spans overlap, or reports a gap that is not the smallest one."""
    start = np.array([s for s, _, _ in rows], dtype=np.int32)
    end = np.array([min(s + n, 20) for s, n, _ in rows], dtype=np.int32)
    kind = np.array([k for _, _, k in rows])
    weight = np.arange(1, len(rows) + 1)
    train, seen = kind == "train", kind == "seen"
    meets = (start[:, None] < end[None, seen]) & (end[:, None] > start[None, seen])
    overlapping = train & meets.any(axis=1)
    apart = np.maximum(start[:, None] - end[None, seen], start[None, seen] - end[:, None])[
        train & ~overlapping
    ]
    gap = int(apart.min()) if apart.size else -1
    assert overlap_and_gap(start, end, weight, train, seen, 20) == (weight[overlapping].sum(), gap)


def test_kinds_unfold_to_all_rows() -> None:
    """Rows lost or doubled when equal spans are folded to one kind."""
    calendar = weekdays(40)
    labels = labelled(calendar, [(t, f"{i}", t, t + 4 + (i == t % 3)) for t in range(20) for i in range(5)])
    spans = Spans.from_labels(labels, calendar)
    assert spans.rows.sum() == labels.height
    assert list(spans.unfold(np.ones(len(spans.rows), bool))) == list(range(labels.height))
    some = spans.end - spans.start == 5
    expected = [
        i
        for i, (s, e) in enumerate(labels.select("label_start", "label_end").iter_rows())
        if calendar.ordinal(e) - calendar.ordinal(s) == 5
    ]
    assert list(spans.unfold(some)) == expected


def test_bad_labels_are_named() -> None:
    """Folds silently made from empty, doubled or backward spans, or from days that are no session."""
    calendar = weekdays(40)
    good = balanced(calendar, 20)
    with pytest.raises(BadInput, match="at least one label row"):
        Spans.from_labels(good.clear(), calendar)
    with pytest.raises(KeyViolation):
        Spans.from_labels(good.vstack(good.head(1)), calendar)
    with pytest.raises(BadInput, match="start on a session and end after it"):
        Spans.from_labels(labelled(calendar, [(3, "a", 3, 3)]), calendar)
    with pytest.raises(CalendarError):
        Spans.from_labels(good, weekdays(10))
