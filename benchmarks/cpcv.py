"""CPCV(6, 2) on an 850,000-row panel, beside purgedcv.

Ours: folds with tune groups, locked stretch, all tables and the certificate. Theirs: train and test indices.
First the two purges must keep the same training rows for purgedcv's own test rows; then both are timed.

    pip install purgedcv==0.1.11
    python -m benchmarks.cpcv
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import date, timedelta

import numpy as np
import polars as pl

from pipeline.calendars import Calendar
from pipeline.folds.purging import KEPT, Spans, purge
from pipeline.folds.spec import FoldSpec
from pipeline.folds.splits import make_folds

N_SESSIONS, N_INSTRUMENTS, N_ROWS = 1_000, 1_200, 850_000


def panel() -> tuple[Calendar, pl.DataFrame]:
    """Labels of a growing universe with gaps; 7% of the exits are carried by one to ten sessions."""
    rng = np.random.default_rng(0)
    days = [day for i in range(2 * N_SESSIONS) if (day := date(2016, 1, 1) + timedelta(i)).weekday() < 5]
    calendar = Calendar(tuple(days), days[-1])
    listed = np.sort(rng.integers(0, N_SESSIONS // 3, N_INSTRUMENTS))
    session, name = np.nonzero(np.arange(N_SESSIONS)[:, None] >= listed[None, :])
    kept = np.sort(rng.choice(len(session), N_ROWS, replace=False))
    session, name = session[kept], name[kept]
    end = session + 4 + np.where(rng.random(N_ROWS) < 0.07, rng.integers(1, 11, N_ROWS), 0)
    codes = np.array([f"{i:06d}.SZ" for i in range(N_INSTRUMENTS)])
    labels = pl.DataFrame({
        "session": calendar.days[session], "instrument": codes[name],
        "label_start": calendar.days[session], "label_end": calendar.days[end],
    })
    return calendar, labels


def fastest(work: Callable[[], object], times: int) -> float:
    """Best of several runs, seconds."""
    took = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        took.append(time.perf_counter() - begin)
    return min(took)


def theirs(labels: pl.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
    """purgedcv's (train, test) positions of all fifteen splits."""
    from purgedcv import CombinatorialPurgedCV

    start, end = (labels[name].to_numpy().astype("datetime64[ns]") for name in ("label_start", "label_end"))
    cv = CombinatorialPurgedCV(n_splits=6, n_test_groups=2, prediction_times=start, evaluation_times=end)
    return list(cv.split(np.empty((labels.height, 1))))


def check(labels: pl.DataFrame, calendar: Calendar, splits: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Our kernel must keep the same training rows for the same test rows."""
    spans = Spans.from_labels(labels, calendar)
    start, end = spans.start[spans.kind], spans.end[spans.kind]
    for number, (train, test) in enumerate(splits):
        block = np.full(labels.height, -1)
        block[test] = np.cumsum(np.diff(test, prepend=test[0]) > 1)
        cause = purge(start, end, block < 0, block, 0, spans.length)
        if not np.array_equal(np.flatnonzero((block < 0) & (cause == KEPT)), train):
            sys.exit(f"split {number}: training rows differ")
    print(f"training rows equal in all {len(splits)} splits")


def main() -> None:
    calendar, labels = panel()
    spec = FoldSpec(n_groups=6, n_test_groups=2)
    folds = make_folds(labels, calendar, spec)  # compiles the kernels
    ours = fastest(lambda: make_folds(labels, calendar, spec), 5)
    n_splits, overlap = folds.certificate.height, folds.certificate["overlap_rows"].sum()
    print(f"ours: {ours:.3f} s for {labels.height:,} rows, {n_splits} splits, {overlap} overlapping rows")
    try:
        splits = theirs(labels)
    except ImportError:
        print("purgedcv is not installed: no comparison (pip install purgedcv==0.1.11)")
        return
    check(labels, calendar, splits)
    peer = fastest(lambda: theirs(labels), 2)
    print(f"purgedcv: {peer:.2f} s; ratio {peer / ours:.0f}")


if __name__ == "__main__":
    main()
