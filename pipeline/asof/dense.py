"""Long tables as arrays: one row per instrument, one column per session, for kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl

from pipeline.errors import SchemaError
from pipeline.frames import require_columns


@dataclass(frozen=True)
class Dense:
    """Columns of a panel as arrays.

    Parameters
    ----------
    sessions : ndarray of datetime64[D], shape [n_sessions]
    instruments : ndarray of str objects, shape [n_instruments]
    values : dict of str to ndarray of float64, shape [n_instruments, n_sessions]
        C-contiguous; NaN where the row or the value is absent; booleans as 0 and 1.
    """

    sessions: np.ndarray
    instruments: np.ndarray
    values: dict[str, np.ndarray]


def dense(
    frame: pl.DataFrame,
    columns: Sequence[str],
    sessions: Sequence[date] | np.ndarray | None = None,
    instruments: Sequence[str] | np.ndarray | None = None,
) -> Dense:
    """Arrays of numeric `columns` on the given axes (default: the frame's own, ascending).

    Rows outside the axes are left out. Keys must be unique; the panel's are.
    """
    require_columns(frame, ["session", "instrument", *columns], "a dense array")
    textual = [c for c in columns if not (frame.schema[c].is_numeric() or frame.schema[c] == pl.Boolean)]
    if textual:
        raise SchemaError(
            "dense arrays hold numbers",
            f"{textual}: {[str(frame.schema[c]) for c in textual]}",
            "encode the column first",
        )
    days = np.sort(frame["session"].unique().to_numpy()) if sessions is None else np.asarray(sessions)
    days = days.astype("datetime64[D]")
    names = list(frame["instrument"].unique().sort() if instruments is None else instruments)
    cell = _cells(frame, days, names)
    inside = cell >= 0
    whole = bool(inside.all())
    values = {}
    for c in columns:
        array = np.full(len(names) * len(days), np.nan)
        column = frame[c].cast(pl.Float64).fill_null(np.nan).to_numpy()
        array[cell if whole else cell[inside]] = column if whole else column[inside]
        values[c] = array.reshape(len(names), len(days))
    return Dense(days, np.array(names, dtype=object), values)


def _cells(frame: pl.DataFrame, days: np.ndarray, names: list[str]) -> np.ndarray:
    """int64 flat position of each row, -1 outside the axes. `days` need not be sorted."""
    known = days.astype(np.int64)
    stamps = frame["session"].cast(pl.Date).to_physical().fill_null(-1).to_numpy().astype(np.int64)
    if not len(known) or not names:
        return np.full(len(frame), -1, dtype=np.int64)
    lookup = np.full(int(known.max() - known.min()) + 2, -1, dtype=np.int64)
    lookup[known - known.min()] = np.arange(len(known))
    offset = stamps - known.min()
    column = lookup[np.where((offset < 0) | (offset >= len(lookup)), len(lookup) - 1, offset)]
    codes = (
        frame["instrument"]
        .cast(pl.Enum(names), strict=False)
        .to_physical()
        .cast(pl.Int64)
        .fill_null(-1)
        .to_numpy()
    )
    return np.asarray(np.where((codes >= 0) & (column >= 0), codes * len(days) + column, -1))
