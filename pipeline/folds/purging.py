"""Purging and embargo: which training rows saw what a test row saw. Spans lie on an axis of sessions, or of minutes.

Choosing the test sessions is `splits.py`; checking the result by another algorithm is `certificate.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import polars as pl

from pipeline.calendars import Calendar
from pipeline.errors import BadInput
from pipeline.frames import require_columns, require_unique, row_key

KEPT, SPAN, EMBARGO = 0, 1, 2
MINUTES_A_DAY = 1440


@numba.njit(cache=True)
def purge(
    start: np.ndarray, end: np.ndarray, train: np.ndarray, block: np.ndarray, embargo: int, length: int
) -> np.ndarray:
    """Why each training span must go, given the test spans.

    A training span `[s, e)` meets a test span exactly when some test span that starts before `e` ends after
    `s`. So one running maximum over the axis (the furthest end of any test span started so far)
    answers for all test spans at once; a gap between two test blocks stays free, as neither reaches into it.

    Parameters
    ----------
    start, end : int32 array [n]
        Half-open spans, `0 <= start < end <= length`.
    train : bool array [n]
        Spans that may train.
    block : int32 array [n]
        Id, from 0, of the contiguous test block a span belongs to; -1 outside the test set.
    embargo : int
        Places of the axis after each block's realised end whose spans may not train.
    length : int
        Of the axis.

    Returns
    -------
    int8 array [n]
        `SPAN`, `EMBARGO` or `KEPT` (also for spans that do not train).

    Notes
    -----
    Lopez de Prado, Advances in Financial Machine Learning (2018), snippets 7.1-7.3, with half-open spans. The
    embargo runs from the end of the block's last label, not from its last decision, which purging covers.
    """
    reach = np.zeros(length + 1, np.int64)
    block_end = np.zeros(block.max() + 1 if len(block) else 0, np.int64)
    for i in range(len(start)):
        if block[i] >= 0:
            reach[start[i]] = max(reach[start[i]], end[i])
            block_end[block[i]] = max(block_end[block[i]], end[i])
    for o in range(1, length + 1):
        reach[o] = max(reach[o], reach[o - 1])
    embargoed = np.zeros(length + 1, np.bool_)
    for b in range(len(block_end)):
        embargoed[block_end[b] : block_end[b] + embargo] = True

    cause = np.zeros(len(start), np.int8)
    for i in range(len(start)):
        if train[i]:
            if reach[end[i] - 1] > start[i]:
                cause[i] = SPAN
            elif embargoed[start[i]]:
                cause[i] = EMBARGO
    return cause


@numba.njit(cache=True)
def _distinct(session: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kind of each row (rows sorted by session), and the first row of each kind."""
    kind = np.empty(len(session), np.int32)
    first = np.empty(len(session), np.int32)
    n_kinds = session_kinds = 0
    for i in range(len(session)):
        if i == 0 or session[i] != session[i - 1]:
            session_kinds = n_kinds
        k = session_kinds
        while k < n_kinds and (start[first[k]] != start[i] or end[first[k]] != end[i]):
            k += 1
        if k == n_kinds:
            first[k] = i
            n_kinds += 1
        kind[i] = k
    return kind, first[:n_kinds].copy()


@dataclass(frozen=True)
class Spans:
    """The label spans of a panel, folded to their distinct kinds.

    Rows of one session with the same span share their fate in every split, so splits are decided on some ten
    thousand kinds instead of millions of rows, and only purged kinds are unfolded again.

    Parameters
    ----------
    keys : pl.DataFrame
        Key of every row, in key order.
    session : int32 array [kinds]
        Calendar ordinals.
    start, end : int32 array [kinds]
        Places on the axis; `end` is -1 where the label is not yet known.
    rows : int64 array [kinds]
        How many rows each kind has.
    kind : int32 array [rows]
        Kind of each row.
    order, offset : int64 array [rows], [kinds + 1]
        Row numbers sorted by kind, and where each kind starts among them.
    ticks : int
        Places of the axis per session: 1, or 1,440 where spans are given to the minute.
    length : int
        Of the axis: the calendar's sessions times `ticks`.
    """

    keys: pl.DataFrame
    session: np.ndarray
    start: np.ndarray
    end: np.ndarray
    rows: np.ndarray
    kind: np.ndarray
    order: np.ndarray
    offset: np.ndarray
    ticks: int
    length: int

    @classmethod
    def from_labels(cls, labels: pl.DataFrame, calendar: Calendar) -> Spans:
        """From keyed rows with `label_start`, `label_end` (null end: not yet known): sessions, or instants in UTC.

        Raises
        ------
        BadInput
            Empty labels, a null start, or a span that ends before it has begun.
        KeyViolation
            A doubled key.
        CalendarError
            A date that is no session of the calendar.
        """
        require_columns(labels, ["session", "instrument", "label_start", "label_end"], "folds")
        if labels.is_empty():
            raise BadInput("folds need at least one label row", 0, "materialise labels first")
        labels = in_key_order(labels)
        session = calendar.ordinals(labels["session"])
        to_the_minute = labels.schema["label_start"].is_temporal() and labels.schema["label_start"] != pl.Date
        if to_the_minute:
            start, end = _minutes(labels["label_start"], calendar), _last_minutes(labels["label_end"], calendar) + 1
            end[labels["label_end"].is_null().to_numpy()] = -1
        else:
            start, end = (calendar.ordinals(labels[c]) for c in ("label_start", "label_end"))
        wrong = np.flatnonzero((start < 0) | ((end >= 0) & (end <= start)))
        if len(wrong):
            observed = labels.select(*row_key(labels), "label_start", "label_end").row(int(wrong[0]))
            raise BadInput("a label span must start on a session and end after it", observed,
                           "label_end is the session after the last one looked at")
        kind, first = _distinct(session, start, end)
        rows = np.bincount(kind, minlength=len(first))
        return cls(
            keys=labels.select(row_key(labels)),
            session=session[first], start=start[first], end=end[first], rows=rows,
            kind=kind, order=np.argsort(kind, kind="stable"), offset=np.concatenate(([0], np.cumsum(rows))),
            ticks=MINUTES_A_DAY if to_the_minute else 1,
            length=len(calendar.sessions) * (MINUTES_A_DAY if to_the_minute else 1),
        )

    def unfold(self, kinds: np.ndarray) -> np.ndarray:
        """Row numbers of the chosen kinds (boolean [kinds]), ascending."""
        chosen = np.flatnonzero(kinds)
        if not len(chosen):
            return np.empty(0, np.int64)
        return np.sort(np.concatenate([self.order[self.offset[k] : self.offset[k + 1]] for k in chosen]))


def _minutes(instants: pl.Series, calendar: Calendar) -> np.ndarray:
    """int32 minutes on the calendar's axis; 0 for null."""
    known = instants.fill_null(calendar.sessions[0])
    minute = (known.dt.hour().cast(pl.Int32) * 60 + known.dt.minute()).to_numpy()
    return (calendar.ordinals(known.dt.date()) * MINUTES_A_DAY + minute).astype(np.int32)


def _last_minutes(ends: pl.Series, calendar: Calendar) -> np.ndarray:
    """The last minute inside half-open spans: an end at midnight belongs to the day before."""
    return _minutes(ends.dt.offset_by("-1us"), calendar)


def in_key_order(labels: pl.DataFrame) -> pl.DataFrame:
    """Rows in key order, each once. Sorting is skipped where neighbours already ascend."""
    key = row_key(labels)
    ascends, same = pl.lit(False), pl.lit(True)
    for column in map(pl.col, key):
        ascends = ascends | (same & (column > column.shift()))
        same = same & (column == column.shift())
    if labels.height > 1 and labels.select(ascends.slice(1).all(ignore_nulls=False)).item():
        return labels
    require_unique(labels, key, "labels")
    return labels.sort(key)
