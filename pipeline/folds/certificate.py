"""The referee of a split: overlap, gaps and coverage, recomputed by counting what is covered.

Shares no algorithm with `purge`, so that an error there turns a certificate red instead of repeating itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import polars as pl

from pipeline.errors import LookAheadError
from pipeline.folds.purging import Spans
from pipeline.folds.sessions import FIT, TEST, TUNE
from pipeline.frames import row_key


def require_apart(rows: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """The rows of one fit, if no span of theirs meets one that it must not know.

    The last check before anything is fitted: it reads the roles that the fit is handed and the labels as they are
    stored, whoever divided them.

    Parameters
    ----------
    rows : pl.DataFrame
        The key and `role`.
    labels : pl.DataFrame
        The key, `label_start`, `label_end`.

    Raises
    ------
    LookAheadError
        A fit or tune row meets a test row, or a fit row a tune row.
    """
    key = list(row_key(rows))
    spans = rows.join(labels.select(*key, "label_start", "label_end"), on=key).drop_nulls(["label_start", "label_end"])
    start, end, role = (spans[name].to_numpy() for name in ("label_start", "label_end", "role"))
    fit, tune, test = (role == name for name in ("fit", "tune", "test"))
    met = meeting(start, end, fit | tune, test) + meeting(start, end, fit, tune)
    if met:
        raise LookAheadError(
            "no row of a fit has a label span that meets a row it must not know",
            f"{met} of {np.count_nonzero(fit | tune)} rows",
            "divide the rows by the stored labels: `folds.splits`",
        )
    return rows


def meeting(start: np.ndarray, end: np.ndarray, train: np.ndarray, seen: np.ndarray) -> int:
    """How many training spans meet a seen one: more of these have begun before its end than have ended by its start.

    Parameters
    ----------
    start, end : array [n]
        Half-open spans, as days or instants.
    train, seen : bool or int array
        Which of them.
    """
    begun = np.searchsorted(np.sort(start[seen]), end[train], side="left")
    over = np.searchsorted(np.sort(end[seen]), start[train], side="right")
    return int(np.count_nonzero(begun > over))


def certify(
    spans: Spans, role: np.ndarray, cause: np.ndarray, causes: Sequence[str], stress: np.ndarray, embargo: int = 0
) -> dict[str, int | None]:
    """Rows and sessions by role, rows by cause, overlaps and the smallest gap of one split.

    Parameters
    ----------
    spans : Spans
        Label spans by kind.
    role, cause : int8 array [kinds]
        Role code, and code into `causes` (0: the kind keeps its role).
    causes : sequence of str
        Names of the codes.
    stress : bool array [kinds]
        Test spans of a stress stretch; those of the locked stretch before it may not meet them.
    embargo : int
        Places of the axis after a test block in which no training span may start; one that does counts as overlapping.
    """
    fit, tune, test = ((role == code) & (cause == 0) for code in (FIT, TUNE, TEST))
    facts: dict[str, int | None] = {}
    for name, kinds in {"fit": fit, "tune": tune, "test": test}.items():
        facts[f"{name}_rows"] = int(spans.rows[kinds].sum())
        facts[f"{name}_sessions"] = len(np.unique(spans.session[kinds]))
    for code, name in enumerate(causes):
        if name:
            facts["open_rows" if name == "open" else f"purged_{name}"] = int(spans.rows[cause == code].sum())
    known = (spans.start, spans.end, spans.rows)
    by_test, gap = overlap_and_gap(*known, fit | tune, test, spans.length)
    by_tune, _ = overlap_and_gap(*known, fit, tune, spans.length)
    by_stress, _ = overlap_and_gap(*known, test & ~stress, test & stress, spans.length)
    apart = spans.end >= 0
    overlapping = by_test + by_tune + by_stress + _embargoed(spans, apart & (fit | tune), apart & test, embargo)
    return facts | {"overlap_rows": overlapping, "min_gap_sessions": gap // spans.ticks if gap >= 0 else None}


def _embargoed(spans: Spans, train: np.ndarray, test: np.ndarray, embargo: int) -> int:
    """Training rows that start within the embargo after the last label of a run of tested sessions."""
    if not embargo or not test.any():
        return 0
    place = np.searchsorted(np.unique(spans.session), spans.session)
    tested = np.unique(place[test])
    run = np.cumsum(np.diff(tested, prepend=tested[0]) > 1)
    of_test = run[np.searchsorted(tested, place[test])]
    last = np.zeros(run[-1] + 1, np.int64)
    np.maximum.at(last, of_test, spans.end[test])
    after = spans.start[train, None] - last[None, :]
    return int(spans.rows[train][((after >= 0) & (after < embargo)).any(axis=1)].sum())


@numba.njit(cache=True)
def overlap_and_gap(
    start: np.ndarray, end: np.ndarray, rows: np.ndarray, train: np.ndarray, seen: np.ndarray, length: int
) -> tuple[int, int]:
    """Training rows whose span shares a session with a `seen` span, and the smallest gap of the others.

    Parameters
    ----------
    start, end : int32 array [n]
        Half-open spans on an axis of sessions or minutes.
    rows : int64 array [n]
        Panel rows behind each span.
    train, seen : bool array [n]
        The two sets to hold apart.
    length : int
        Of the axis.

    Returns
    -------
    (int, int)
        Overlapping rows; places between the closest pair of spans, -1 where one set is empty.
    """
    change = np.zeros(length + 1, np.int64)
    for i in range(len(start)):
        if seen[i]:
            change[start[i]] += 1
            change[end[i]] -= 1
    covered_before = np.zeros(length + 1, np.int64)
    previous = np.full(length + 1, -1, np.int64)  # last covered session before o
    following = np.full(length + 1, -1, np.int64)  # first covered session from o on
    depth = 0
    for o in range(length):
        depth += change[o]
        covered_before[o + 1] = covered_before[o] + (depth > 0)
        previous[o + 1] = o if depth > 0 else previous[o]
    for o in range(length - 1, -1, -1):
        following[o] = o if covered_before[o + 1] > covered_before[o] else following[o + 1]

    overlapping, gap = 0, -1
    for i in range(len(start)):
        if not train[i]:
            continue
        if covered_before[end[i]] > covered_before[start[i]]:
            overlapping += rows[i]
            continue
        if previous[start[i]] >= 0 and (gap < 0 or start[i] - previous[start[i]] - 1 < gap):
            gap = start[i] - previous[start[i]] - 1
        if following[end[i]] >= 0 and (gap < 0 or following[end[i]] - end[i] < gap):
            gap = following[end[i]] - end[i]
    return overlapping, gap
