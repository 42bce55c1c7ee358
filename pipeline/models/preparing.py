"""From stored tables to the arrays of `prepared`: one part of consecutive sessions at a time, each read once.

Not here: where the parts come from, and what is gathered from the arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import BadInput, SchemaError
from pipeline.fingerprints import canonical_json
from pipeline.frames import require_columns, require_unique, row_key
from pipeline.models.kernels import centred_ranks
from pipeline.models.normaliser import RANKED, feature_schema
from pipeline.models.prepared import (
    ARRAYS,
    META,
    MISSING,
    NOTHING_MORE,
    ROWS,
    Prepared,
    Reads,
    assembled,
    session_starts,
)


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
    return assembled(rows, meta, arrays, _content(rows, meta, arrays))


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
        key = row_key(part.standing)
        rows = part.standing.filter(pl.col("eligible")).select(key).sort(key)
        read = rows.join(part.features, on=key, how="left", maintain_order="left")
        arrays = {
            "values": self._ranks(read.select(self.schema), rows),
            "bars": self._bars(rows, part.paths),
            "codes": self._codes(read.join(part.standing, on=key, how="left", maintain_order="left")),
        }
        self.rows.append(rows)
        self.sessions += part.standing["session"].unique().sort().to_list()
        return arrays

    def _require(self, part: Part) -> None:
        schema = feature_schema(part.features, self.scopes)
        if self.schema and schema != self.schema:
            raise SchemaError("all parts have the same features", schema, "rebuild the features stage")
        self.schema = schema
        key = row_key(part.standing)
        require_columns(part.standing, (*key, "eligible"), "eligibility")
        require_columns(part.features, key, "features")
        require_unique(part.features, key, "features")
        require_unique(part.standing, key, "eligibility")
        first = part.standing["session"].min()
        if self.sessions and first is not None and first <= self.sessions[-1]:  # type: ignore[operator]
            raise BadInput("parts follow each other in time", f"{first!s} after {self.sessions[-1]}", "sort them")

    def _ranks(self, read: pl.DataFrame, rows: pl.DataFrame) -> NDArray[np.float32]:
        values = _matrix(read)
        out = np.empty(values.shape, np.float32)
        kept = [i for i, name in enumerate(self.schema) if self.scopes[name] not in RANKED]
        if len(kept) < len(self.schema):  # waking the kernel's threads costs a live minute 8 ms
            centred_ranks(values.view(np.uint32), session_starts(rows["session"].to_numpy()), out)
        out[:, kept] = values[:, kept]
        return out

    def _bars(self, rows: pl.DataFrame, paths: pl.DataFrame | None) -> NDArray[np.float32]:
        bars, channels = self.reads.bars, self.reads.channels
        out = np.full((len(rows), bars, len(channels) if bars else 0), np.nan, np.float32)
        if paths is None or not bars:
            return out
        key = row_key(rows)
        require_columns(paths, (*key, "channels"), "paths")
        require_unique(paths, key, "paths")
        held = getattr(paths.schema["channels"], "size", 0)
        if held != bars * len(channels):
            raise SchemaError(
                f"a day of minutes is {bars} bars x {len(channels)} channels",
                f"{held} values",
                "set bars_per_session to what the vendor sells, and rebuild the features stage",
            )
        placed = rows.with_row_index("row").join(paths, on=key)
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
