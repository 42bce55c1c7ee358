"""What no split changes: eligible rows, their ranks, minute channels and category codes, stored once per stock-day.

Windows are gathered from here by index and never stored. At the size of a whole market the arrays lie in a folder
and are mapped; not here: anything that is fitted on rows.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import BadInput, SchemaError
from pipeline.fingerprints import canonical_json
from pipeline.frames import require_columns, require_unique
from pipeline.models.kernels import centred_ranks
from pipeline.models.normaliser import KEY, feature_schema

ARRAYS = ("values", "bars", "codes")
ROWS, META = "rows.parquet", "prepared.json"
MISSING = -1  # a category that the row does not have


class Part(NamedTuple):
    """Consecutive whole sessions, as the stages store them.

    Parameters
    ----------
    features : DataFrame
        `session`, `instrument` and float32 columns in schema order; rows that are not eligible are ignored.
    standing : DataFrame
        `session`, `instrument`, `eligible` of every panel row, and the panel's categories. Its sessions are the
        time axis.
    paths : DataFrame or None
        `session`, `instrument`, `channels` of `features.path_channels`; None where the market has no minutes.
    """

    features: pl.DataFrame
    standing: pl.DataFrame
    paths: pl.DataFrame | None = None


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
        `session`, `instrument`.
    sessions : tuple of date
        Every session of the store, also those without an eligible row.
    session_index, instrument_index : int32 [n]
        Position of each row on the two axes.
    row_at : int32 [S, I]
        The row of a session and instrument; -1 where there is none.
    values : float32 [n, F]
        Centred ranks; market features as stored, NaN missing.
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


def prepare(
    features: pl.DataFrame,
    standing: pl.DataFrame,
    scopes: Mapping[str, str],
    reads: Reads = NOTHING_MORE,
    paths: pl.DataFrame | None = None,
) -> Prepared:
    """Rank the eligible rows of every session of one part and keep everything in memory.

    Parameters
    ----------
    features, standing, paths : DataFrame
        As in `Part`.
    scopes : mapping
        Feature -> `instrument`, `cross_section` (both ranked) or `market` (kept for the normaliser).
    reads : Reads
        What members want beside the features.

    Raises
    ------
    SchemaError, KeyViolation
        Columns, types or keys that break the contract.
    BadInput
        An infinite value, named; a feature without a known scope.
    """
    built = _Builder(scopes, reads)
    arrays = built.add(Part(features, standing, paths))
    rows, meta = built.described()
    return _prepared(rows, meta, arrays, _content(rows, meta, arrays))


def prepare_folder(folder: Path, parts: Iterable[Part], scopes: Mapping[str, str], reads: Reads) -> None:
    """The same written into an empty folder part by part, for `open_prepared`: memory holds one part at a time.

    Parameters
    ----------
    parts : iterable of Part
        In the order of time; a session lies in one part.
    """
    built = _Builder(scopes, reads)
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / name).open("wb")) for name in ARRAYS}
        for part in parts:
            for name, array in built.add(part).items():
                files[name].write(np.ascontiguousarray(array).data)
    rows, meta = built.described()
    rows.write_parquet(folder / ROWS)
    (folder / META).write_text(canonical_json(meta))


def open_prepared(folder: Path, identity: str) -> Prepared:
    """The mapped arrays of a folder of `prepare_folder`; `identity` is the hash of what it was made from."""
    meta = json.loads((folder / META).read_text())
    rows = pl.read_parquet(folder / ROWS)
    arrays = {name: _mapped(folder / name, np.dtype(kind), shape) for name, (kind, shape) in meta["arrays"].items()}
    return _prepared(rows, meta, arrays, identity)


def _mapped(path: Path, kind: np.dtype[Any], shape: Sequence[int]) -> NDArray[Any]:
    if 0 in shape:  # nothing can be mapped
        return np.zeros(shape, kind)
    expected = int(np.prod(shape)) * kind.itemsize
    if path.stat().st_size != expected:
        rule = "a prepared array has the size that its folder declares"
        raise BadInput(rule, f"{path.name}: {path.stat().st_size} of {expected} bytes", "delete the folder")
    return np.memmap(path, kind, "r", shape=tuple(shape))  # read ahead: rows of a session and its window are neighbours


class _Builder:
    """Parts in, arrays out; what spans all parts is kept here."""

    def __init__(self, scopes: Mapping[str, str], reads: Reads) -> None:
        self.scopes, self.reads = scopes, reads
        self.levels: list[dict[str, int]] = [{} for _ in reads.categories]
        self.schema: tuple[str, ...] = ()
        self.rows: list[pl.DataFrame] = []
        self.sessions: list[date] = []

    def add(self, part: Part) -> dict[str, NDArray[Any]]:
        """The part's arrays over its eligible rows."""
        self._require(part)
        rows = part.standing.filter(pl.col("eligible")).select(KEY).sort(KEY)
        read = rows.join(part.features, on=KEY, how="left", maintain_order="left")
        arrays = {
            "values": self._ranks(read.select(self.schema), rows),
            "bars": self._bars(rows, part.paths),
            "codes": self._codes(read.join(part.standing, on=KEY, how="left", maintain_order="left")),
        }
        self.rows.append(rows)
        self.sessions += part.standing["session"].unique().sort().to_list()
        return arrays

    def _require(self, part: Part) -> None:
        schema = feature_schema(part.features, self.scopes)
        if self.schema and schema != self.schema:
            raise SchemaError("all parts have the same features", schema, "rebuild the features stage")
        self.schema = schema
        require_columns(part.standing, (*KEY, "eligible"), "eligibility")
        require_unique(part.features, KEY, "features")
        require_unique(part.standing, KEY, "eligibility")
        first = part.standing["session"].min()
        if self.sessions and first is not None and first <= self.sessions[-1]:  # type: ignore[operator]
            raise BadInput("parts follow each other in time", f"{first!s} after {self.sessions[-1]}", "sort them")

    def _ranks(self, read: pl.DataFrame, rows: pl.DataFrame) -> NDArray[np.float32]:
        values = _matrix(read)
        out = np.empty(values.shape, np.float32)
        centred_ranks(values.view(np.uint32), session_starts(rows["session"].to_numpy()), out)
        market = [i for i, name in enumerate(self.schema) if self.scopes[name] == "market"]
        out[:, market] = values[:, market]
        return out

    def _bars(self, rows: pl.DataFrame, paths: pl.DataFrame | None) -> NDArray[np.float32]:
        bars, channels = self.reads.bars, self.reads.channels
        out = np.full((len(rows), bars, len(channels) if bars else 0), np.nan, np.float32)
        if paths is None or not bars:
            return out
        require_columns(paths, (*KEY, "channels"), "paths")
        require_unique(paths, KEY, "paths")
        held = getattr(paths.schema["channels"], "size", 0)
        if held != bars * len(channels):
            raise SchemaError(
                f"a day of minutes is {bars} bars x {len(channels)} channels",
                f"{held} values",
                "set bars_per_session to what the vendor sells, and rebuild the features stage",
            )
        placed = rows.with_row_index("row").join(paths, on=KEY)
        out[placed["row"].to_numpy()] = placed["channels"].to_numpy().reshape(out[: len(placed)].shape)
        _require_finite(out, rows, channels)
        return out

    def _codes(self, known: pl.DataFrame) -> NDArray[np.int32]:
        out = np.full((len(known), len(self.reads.categories)), MISSING, np.int32)
        for k, name in enumerate(self.reads.categories):
            if name not in known.columns:
                rule, remedy = "a category is a column of the panel or a feature", "correct the member's spec"
                raise SchemaError(rule, name, remedy)
            values = known[name].fill_nan(None) if known.schema[name].is_float() else known[name]
            text, levels = values.cast(pl.String), self.levels[k]
            for level in text.drop_nulls().unique(maintain_order=True):
                levels.setdefault(level, len(levels))
            if levels:
                coded = text.replace_strict(levels, default=MISSING, return_dtype=pl.Int32)
                out[:, k] = coded.fill_null(MISSING).to_numpy()
        return out

    def described(self) -> tuple[pl.DataFrame, dict[str, Any]]:
        """Rows, and everything else but the arrays."""
        if not self.rows:
            raise BadInput("there are sessions to prepare", "no part", "materialise panel and features first")
        rows = pl.concat(self.rows)
        meta: dict[str, Any] = {
            "schema": list(self.schema),
            "scopes": [self.scopes[name] for name in self.schema],
            "channels": list(self.reads.channels) if self.reads.bars else [],
            "categories": list(self.reads.categories),
            "levels": [list(levels) for levels in self.levels],
            "sessions": [day.isoformat() for day in self.sessions],
            "arrays": {
                "values": ("float32", [len(rows), len(self.schema)]),
                "bars": ("float32", [len(rows), self.reads.bars, len(self.reads.channels) if self.reads.bars else 0]),
                "codes": ("int32", [len(rows), len(self.reads.categories)]),
            },
        }
        return rows, meta


def _prepared(
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
    row_at = np.full((len(sessions), len(instruments)), -1, np.int32)
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


def _content(rows: pl.DataFrame, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(canonical_json(meta).encode())
    digest.update("".join(rows["instrument"].to_list()).encode())
    digest.update(rows["session"].to_physical().to_numpy().tobytes())
    for name in ARRAYS:
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _require_finite(bars: NDArray[np.float32], rows: pl.DataFrame, channels: Sequence[str]) -> None:
    """An infinite channel is named: it would otherwise reach a weight as a clipped, believable number."""
    infinite = np.isinf(bars)
    if infinite.any():
        row, bar, channel = (int(places[0]) for places in np.nonzero(infinite))
        session, instrument = rows.row(row)
        rule, observed = "minute channels are finite or missing", f"{channels[channel]} of bar {bar}"
        raise BadInput(rule, f"{observed}, {instrument} on {session}", "quarantine the bar, or guard the division")


def _matrix(frame: pl.DataFrame) -> NDArray[np.float32]:
    """Fortran order: the rank kernel reads column by column."""
    out = np.empty(frame.shape, np.float32, order="F")
    for i, series in enumerate(frame.iter_columns()):
        out[:, i] = series.to_numpy()
    return out


def session_starts(days: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """First row of each session in sorted `days`, then the row count."""
    changes = np.flatnonzero(days[1:] != days[:-1]) + 1
    first = np.zeros(min(1, len(days)), np.int64)
    return np.concatenate([first, changes, [len(days)]]).astype(np.int64)
