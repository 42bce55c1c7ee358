"""What no split changes: eligible rows, their ranks, minute channels and category codes, stored once per stock-day.

Windows are gathered from here by index and never stored. At the size of a whole market the arrays lie in a folder
and are mapped. How they are made is in `preparing`; anything fitted on rows is in `inputs`.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import BadInput, SchemaError
from pipeline.frames import MINUTE

ARRAYS = ("values", "bars", "codes")
ROWS, META = "rows.parquet", "prepared.json"
MISSING = -1  # a category that the row does not have


class Reads(NamedTuple):
    """What the members of a study want beside the features.

    Parameters
    ----------
    channels : tuple of str
        Names of a bar's channels, in stored order.
    bars : int
        Bars a session; 0 reads no minutes.
    categories : tuple of str
        Columns of `standing`, or features with few values.
    """

    channels: tuple[str, ...] = ()
    bars: int = 0
    categories: tuple[str, ...] = ()


NOTHING_MORE = Reads()


@dataclass(frozen=True)
class Prepared:
    """Arrays over the n eligible rows in key order, in memory or mapped.

    Parameters
    ----------
    schema, scopes : tuple of str
        Feature columns in order, and their scopes.
    channels : tuple of str
        Of a minute bar; empty without minutes.
    categories : tuple of str
    levels : tuple of tuple of str
        Per category every value seen, in order of appearance: what `codes` point into.
    rows : DataFrame [n]
        Keys: `session`, `instrument`, and `minute` where a study decides by it.
    sessions : tuple of date
        Every session of the store, also those without an eligible row.
    session_index, instrument_index : int32 [n]
        Position of each row on the two axes.
    row_at : int32 [S, I]
        The row of a session and instrument; -1 where there is none. Empty where a study decides by the minute.
    values : float32 [n, F]
        Centred ranks; features that are not ranked as stored, NaN missing.
    bars : float32 [n, T, C]
        As stored, NaN where a bar is missing; T = 0 without minutes.
    codes : int32 [n, K]
        -1 where the category is missing.
    identity : str
        Hash of everything above, or of what it was made from; tells a resumed training whether it is the same one.
    """

    schema: tuple[str, ...]
    scopes: tuple[str, ...]
    channels: tuple[str, ...]
    categories: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]
    rows: pl.DataFrame
    sessions: tuple[date, ...]
    session_index: NDArray[np.int32]
    instrument_index: NDArray[np.int32]
    row_at: NDArray[np.int32]
    values: NDArray[np.float32]
    bars: NDArray[np.float32]
    codes: NDArray[np.int32]
    identity: str

    def __len__(self) -> int:
        return len(self.session_index)

    @property
    def has_bars(self) -> bool:
        return self.bars.shape[1] > 0

    def rows_of(self, sessions: Sequence[date]) -> NDArray[np.int64]:
        """Rows of some sessions, in key order; an error naming those that are not in the store."""
        position = {day: i for i, day in enumerate(self.sessions)}
        unknown = [day.isoformat() for day in sessions if day not in position]
        if unknown:
            raise BadInput("sessions must be in the store", unknown[:5], "hand over their features and panel")
        wanted = np.zeros(len(self.sessions), bool)
        wanted[[position[day] for day in sessions]] = True
        return np.flatnonzero(wanted[self.session_index])

    def columns_of(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Positions of features in the schema."""
        unknown = [name for name in names if name not in self.schema]
        if unknown:
            raise SchemaError("a member reads features of the study", unknown, "correct the member's spec")
        return np.array([self.schema.index(name) for name in names], np.int64)

    def release(self) -> None:
        """Give mapped pages back: they stay in the system's cache, but no longer count as this process's memory."""
        for array in (self.values, self.bars, self.codes):
            if isinstance(array, np.memmap) and array.size:
                array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def open_prepared(folder: Path, identity: str) -> Prepared:
    """The mapped arrays of a folder of `prepare_folder`; `identity` is the hash of what it was made from."""
    meta = json.loads((folder / META).read_text())
    rows = pl.read_parquet(folder / ROWS)
    arrays = {name: _mapped(folder / name, np.dtype(kind), shape) for name, (kind, shape) in meta["arrays"].items()}
    return assembled(rows, meta, arrays, identity)


def _mapped(path: Path, kind: np.dtype[Any], shape: Sequence[int]) -> NDArray[Any]:
    if 0 in shape:  # nothing can be mapped
        return np.zeros(shape, kind)
    expected = int(np.prod(shape)) * kind.itemsize
    if path.stat().st_size != expected:
        rule = "a prepared array has the size that its folder declares"
        raise BadInput(rule, f"{path.name}: {path.stat().st_size} of {expected} bytes", "delete the folder")
    return np.memmap(path, kind, "r", shape=tuple(shape))  # read ahead: rows of a session and its window are neighbours


def assembled(
    rows: pl.DataFrame, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], identity: str
) -> Prepared:
    sessions = tuple(date.fromisoformat(day) for day in meta["sessions"])
    axis = np.array(sessions, "datetime64[D]")
    session_index = np.searchsorted(axis, rows["session"].to_numpy().astype("datetime64[D]")).astype(np.int32)
    instruments = rows["instrument"].unique().sort()
    places = np.arange(len(instruments), dtype=np.int32)
    instrument_index = (
        rows["instrument"].replace_strict(instruments, places, return_dtype=pl.Int32).to_numpy()
        if len(instruments)
        else np.zeros(0, np.int32)
    )
    windowed = MINUTE not in rows.columns  # a window of sessions has one row a session
    row_at = np.full((len(sessions), len(instruments)) if windowed else (0, 0), -1, np.int32)
    if windowed:
        row_at[session_index, instrument_index] = np.arange(len(rows), dtype=np.int32)
    return Prepared(
        schema=tuple(meta["schema"]),
        scopes=tuple(meta["scopes"]),
        channels=tuple(meta["channels"]),
        categories=tuple(meta["categories"]),
        levels=tuple(tuple(levels) for levels in meta["levels"]),
        rows=rows,
        sessions=sessions,
        session_index=session_index,
        instrument_index=instrument_index,
        row_at=row_at,
        values=arrays["values"],
        bars=arrays["bars"],
        codes=arrays["codes"],
        identity=identity,
    )


def session_starts(days: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """First row of each session in sorted `days`, then the row count."""
    changes = np.flatnonzero(days[1:] != days[:-1]) + 1
    first = np.zeros(min(1, len(days)), np.int64)
    return np.concatenate([first, changes, [len(days)]]).astype(np.int64)
