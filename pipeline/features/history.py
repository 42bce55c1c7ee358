"""The dense history that families read: the panel as arrays, and beside it what later became known.

A *history* is one instrument's rows as some decision sessions see them. History `i < n_instruments` is the
panel itself; each set of patches that becomes effective together adds one more history of its instrument,
read from then until the next. Kernels run over all histories at once; `row_history` picks, for every panel
row, the one that its own decision could see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl

from pipeline.asof.panel import dense
from pipeline.errors import BadInput
from pipeline.features.kernels import gather
from pipeline.frames import require_columns, require_unique

KEY = ("session", "instrument")


@dataclass(frozen=True)
class History:
    """Arrays of one batch.

    Parameters
    ----------
    values : dict of str to ndarray
        Panel column -> float64 `[n_histories, n_sessions]`, NaN where absent.
    n_sessions : int
        Sessions of the panel up to the last wanted one.
    start, stop : ndarray
        int64 `[n_histories]`: session positions `[start, stop)` whose decisions read this history.
    first : int
        Position of the first wanted session; kernels write column `position - first`.
    rows : polars.DataFrame
        Panel rows of the wanted sessions in key order.
    row_history, row_position : ndarray
        int64 `[n_rows]`: the history and the session position of each row.
    row_starts : ndarray
        int64 `[n_wanted + 1]`: offsets of the sessions in `rows`.
    bars : ndarray
        float64 `[n_rows, n_bars, 5]` open, high, low, close, amount; `n_bars` 0 without minutes.
    """

    values: dict[str, np.ndarray]
    n_sessions: int
    start: np.ndarray
    stop: np.ndarray
    first: int
    rows: pl.DataFrame
    row_history: np.ndarray
    row_position: np.ndarray
    row_starts: np.ndarray
    bars: np.ndarray

    def empty(self, n_features: int) -> np.ndarray:
        """Uninitialised float32 `[n_features, n_histories, n_sessions - first]` for a kernel to fill."""
        return np.empty((n_features, len(self.start), self.n_sessions - self.first), np.float32)

    def at_rows(self, dense: np.ndarray) -> np.ndarray:
        """float32 `[F, n_rows]` of a kernel's `[F, n_histories, n_sessions - first]`."""
        return gather(dense, self.row_history, self.row_position - self.first)

    def lagged(self, column: str, lag: int = 0) -> np.ndarray:
        """float64 `[n_rows]`: a column `lag` sessions before each row's session."""
        return self.take(self.values[column], lag)

    def take(self, dense: np.ndarray, lag: int = 0) -> np.ndarray:
        """float64 `[n_rows]` of `[n_histories, n_sessions]`, `lag` sessions back, NaN before the first."""
        position = self.row_position - lag
        found = dense[self.row_history, np.maximum(position, 0)]
        return np.where(position >= 0, found, np.nan)

    def adjusted(self, column: str) -> np.ndarray:
        """`[n_histories, n_sessions]` price times factor; only ratios of it mean anything."""
        return self.values[column] * self.values["factor"]

    def change(self, sessions: int) -> np.ndarray:
        """float64 `[n_rows]`: adjusted close over the adjusted close `sessions` before, minus one."""
        close = self.adjusted("close")
        return self.take(close) / self.take(close, sessions) - 1.0

    @property
    def eligible(self) -> np.ndarray:
        """bool `[n_rows]`."""
        return self.rows["eligible"].fill_null(False).to_numpy()

    def per_session(self, values: np.ndarray) -> np.ndarray:
        """`[n_rows]` from one value per wanted session."""
        return np.repeat(values, np.diff(self.row_starts))


@dataclass(frozen=True)
class _Axes:
    """Sorted sessions and instruments, and the positions of a frame's rows on them."""

    sessions: np.ndarray
    instruments: pl.Series

    def positions(self, frame: pl.DataFrame, session: str = "session") -> np.ndarray:
        days = frame[session].to_numpy().astype("datetime64[D]")
        return np.searchsorted(self.sessions, days)

    def codes(self, frame: pl.DataFrame) -> np.ndarray:
        enum = pl.Enum(self.instruments)
        return frame["instrument"].cast(enum).to_physical().to_numpy().astype(np.int64)


def build(
    panel: pl.DataFrame,
    patches: pl.DataFrame,
    intraday: pl.DataFrame,
    inputs: Sequence[str],
    lookback: int,
    wanted: Sequence[date],
) -> History:
    """The arrays for the decision sessions `wanted`, from panel rows at or before the last of them.

    Raises
    ------
    BadInput
        A wanted session without panel rows; a doubled key; a missing column.
    """
    columns = [c for c in inputs if c != "bars"]
    require_columns(panel, [*KEY, "eligible", *columns], "features: the panel")
    days = _wanted_days(panel, wanted)
    span = panel.filter(pl.col("session") <= days[-1])
    axes = _Axes(
        span["session"].unique().sort().to_numpy().astype("datetime64[D]"), span["instrument"].unique().sort()
    )
    numeric = [c for c in columns if span.schema[c].is_numeric() or span.schema[c] == pl.Boolean]
    first = int(np.searchsorted(axes.sessions, np.datetime64(days[0])))
    _require_one_row_per_key(span, axes)
    base = dense(span, numeric, axes.sessions, axes.instruments.to_list()).values
    segments = _segments(patches, axes, numeric, max(first - lookback + 1, 0), first)
    values = {name: _with_patches(name, array, segments) for name, array in base.items()}
    start, stop, active = _spans(segments, len(axes.instruments), len(axes.sessions), first)
    rows = span.filter(pl.col("session").is_in(days)).select([*KEY, "eligible", *columns]).sort(KEY)
    position, code = axes.positions(rows), axes.codes(rows)
    starts = np.searchsorted(
        rows["session"].to_numpy().astype("datetime64[D]"), np.array(days, "datetime64[D]")
    )
    return History(
        values,
        len(axes.sessions),
        start,
        stop,
        first,
        rows,
        active[code, position - first],
        position,
        np.append(starts, len(rows)).astype(np.int64),
        _bars(intraday, rows, "bars" in inputs),
    )


def _wanted_days(panel: pl.DataFrame, wanted: Sequence[date]) -> list[date]:
    held = set(panel["session"].unique().to_list())
    absent = sorted(set(wanted) - held)
    if absent or not wanted:
        raise BadInput(
            "every wanted session needs panel rows",
            ", ".join(day.isoformat() for day in absent[:3]) or "no session wanted",
            "build the panel of that month first",
        )
    return sorted(set(wanted))


def _require_one_row_per_key(frame: pl.DataFrame, axes: _Axes) -> None:
    held = np.zeros((len(axes.instruments), len(axes.sessions)), bool)
    held[axes.codes(frame), axes.positions(frame)] = True
    if held.sum() != len(frame):
        require_unique(frame, KEY, "features: the panel")


def _float64(series: pl.Series) -> np.ndarray:
    return series.cast(pl.Float64).fill_null(float("nan")).to_numpy()


@dataclass(frozen=True)
class _Segments:
    """Patches of the batch, grouped into histories, and where each history lies."""

    instrument: np.ndarray  # [n_segments] code
    effective: np.ndarray  # [n_segments] position from which it is read
    segment: np.ndarray  # [n_cells] segment of each patched row, oldest patch first
    position: np.ndarray  # [n_cells] session position of each patched row
    cells: dict[str, np.ndarray]  # column -> [n_cells]


def _segments(
    patches: pl.DataFrame, axes: _Axes, columns: Sequence[str], oldest: int, first: int
) -> _Segments:
    """A segment is an instrument and a session at which patches of its window became effective.

    It holds every patch effective by then. All that became effective before the first wanted session is one.
    """
    require_columns(patches, ["effective_session", *KEY], "features: patches")
    read = [c for c in columns if c in patches.columns]
    days = axes.sessions
    kept = (
        patches.filter(
            pl.col("session").is_in(pl.Series(days[oldest:]).implode()),
            pl.col("effective_session") <= days[-1].item(),
            pl.col("instrument").is_in(axes.instruments.implode()),
        )
        .select("effective_session", *KEY, *read)
        .sort("instrument", "effective_session", "session")
    )
    code = axes.codes(kept)
    effective = np.maximum(axes.positions(kept, "effective_session"), first)
    keys, segment = np.unique(code * len(days) + effective, return_inverse=True)
    owner, since = keys // len(days), keys % len(days)
    cell, of = _prefixes(code, segment, owner)
    return _Segments(owner, since, of, axes.positions(kept)[cell], {c: _float64(kept[c])[cell] for c in read})


def _prefixes(code: np.ndarray, segment: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(patch, segment) pairs: each segment repeats the patches of its instrument up to its own, in order."""
    begin = np.searchsorted(code, owner, side="left")
    end = np.searchsorted(segment, np.arange(len(owner)), side="right")
    return _ranges(begin, end), np.repeat(np.arange(len(owner)), end - begin)


def _ranges(begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The integers of all `[begin, end)`, one after the other."""
    lengths = end - begin
    return np.arange(lengths.sum()) + np.repeat(begin - (np.cumsum(lengths) - lengths), lengths)


def _with_patches(column: str, base: np.ndarray, segments: _Segments) -> np.ndarray:
    """The panel's array with one patched copy of its instrument's row below it for every segment."""
    values = np.concatenate([base, base[segments.instrument]])
    if column in segments.cells:
        values[len(base) + segments.segment, segments.position] = segments.cells[column]
    return values


def _spans(
    segments: _Segments, n_base: int, n_sessions: int, first: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`[start, stop)` of every history, and `[n_instruments, n_sessions - first]`: which one a decision
    reads."""
    owner, since, n_more = segments.instrument, segments.effective, len(segments.instrument)
    until = np.full(n_more, n_sessions, np.int64)
    followed = np.flatnonzero(owner[1:] == owner[:-1])
    until[followed] = since[followed + 1]
    active = np.repeat(np.arange(n_base, dtype=np.int64)[:, None], n_sessions - first, axis=1)
    lengths = until - since
    active[np.repeat(owner, lengths), _ranges(since, until) - first] = np.repeat(
        n_base + np.arange(n_more), lengths
    )
    start = np.concatenate([np.full(n_base, first), since]).astype(np.int64)
    return start, np.concatenate([np.full(n_base, n_sessions), until]).astype(np.int64), active


def _bars(intraday: pl.DataFrame, rows: pl.DataFrame, read: bool) -> np.ndarray:
    """`[n_rows, n_bars, 5]` in row order, NaN for a row without minutes."""
    if not read or intraday.is_empty():
        return np.full((len(rows), 0, 5), np.nan)
    joined = rows.select(KEY).join(
        intraday.select(*KEY, "bars"), on=list(KEY), how="left", maintain_order="left"
    )
    width = intraday.schema["bars"].size  # type: ignore[attr-defined]
    out = np.full((len(rows), width), np.nan)
    present = joined["bars"].is_not_null().to_numpy()
    out[present] = joined["bars"].drop_nulls().to_numpy()
    return out.reshape(len(rows), width // 5, 5)
