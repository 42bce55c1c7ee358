"""Content hashes: of values, files, frames and code. Run ids, paths and clocks never enter one."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import BaseModel

from pipeline.errors import BadInput, KeyViolation
from pipeline.frames import canonical


def hash_bytes(data: bytes) -> str:
    """sha256 as hex."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"cannot be hashed: {type(value).__name__}")


def canonical_json(value: Any) -> str:
    """Sorted keys, no spaces, no NaN: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain,
                      allow_nan=False)


def hash_json(value: Any) -> str:
    """sha256 of the canonical JSON of a value."""
    return hash_bytes(canonical_json(value).encode())


# A run of bytes and where each slice of rows begins and ends in it, in bytes.
Run = tuple[memoryview, list[int]]

# Threads help where hashlib releases the lock for long enough; below this a pool costs more than it gives.
_POOL_BYTES = 4 << 20


def _run(values: np.ndarray, cuts: np.ndarray) -> Run:
    plain = np.ascontiguousarray(values)
    return plain.view(np.uint8).data, (np.asarray(cuts, dtype=np.int64) * plain.itemsize).tolist()


def _null_runs(series: pl.Series, cuts: np.ndarray) -> Iterator[Run]:
    """Per slice the number of nulls, then their places inside the slice: nothing depends on other slices."""
    where = np.flatnonzero(series.is_null().to_numpy()) if series.null_count() else np.empty(0, np.int64)
    bounds = np.searchsorted(where, cuts)
    counts = np.diff(bounds)
    yield _run(counts.astype(np.int64), np.arange(len(cuts)))
    yield _run((where - np.repeat(cuts[:-1], counts)).astype(np.int64), bounds)


def _column_runs(series: pl.Series, cuts: np.ndarray) -> Iterator[Run]:
    """The bytes that identify a column, cut at the row numbers `cuts`; prefix-free, nulls as zeros."""
    dtype = series.dtype
    if dtype == pl.Null:
        return
    yield from _null_runs(series, cuts)
    if isinstance(dtype, pl.Array):
        if series.null_count():
            blank = pl.Series([[None] * dtype.size], dtype=dtype)
            blank = blank.new_from_index(0, len(series))
            series = series.zip_with(series.is_not_null(), blank)
        inner = series.explode() if len(series) else pl.Series([], dtype=dtype.inner)
        yield from _column_runs(canonical(inner.to_frame(), ()).to_series(), cuts * dtype.size)
    elif dtype == pl.String:
        text = series.fill_null("").rechunk().to_arrow().cast(pa.large_string())
        offsets = np.frombuffer(text.buffers()[1], dtype=np.int64)[text.offset :][: len(text) + 1]
        offsets = offsets if len(text) else np.zeros(1, dtype=np.int64)
        data = np.frombuffer(text.buffers()[2] or b"", dtype=np.uint8)
        yield _run(np.diff(offsets), cuts)
        yield _run(data, offsets[cuts])
    elif dtype == pl.Boolean:
        yield _run(series.fill_null(False).to_numpy(), cuts)
    elif dtype.is_numeric() or dtype.is_temporal():
        yield _run(series.to_physical().fill_null(0).to_numpy(), cuts)
    else:
        raise BadInput("hashed columns are numbers, text, times, booleans or fixed-size arrays of them",
                       f"{series.name}: {dtype}", "store one value per row")


def _column_digests(series: pl.Series, cuts: np.ndarray) -> list[bytes]:
    if isinstance(series.dtype, (pl.Categorical, pl.Enum)):
        series = series.cast(pl.String)
    named = f"{len(series.name)}:{series.name}:{series.dtype};".encode()
    runs = list(_column_runs(series, cuts))
    digests = []
    for i in range(len(cuts) - 1):
        digest = hashlib.sha256(named)
        for data, at in runs:
            digest.update(data[at[i] : at[i + 1]])
        digests.append(digest.digest())
    return digests


def _slice_hashes(ordered: pl.DataFrame, cuts: np.ndarray) -> list[str]:
    """Hash of each slice of rows, as if it were a frame of its own."""
    columns = [series.rechunk() for series in ordered.iter_columns()]
    pooled = ordered.estimated_size() > _POOL_BYTES
    with ThreadPoolExecutor(4 if pooled else 1) as pool:
        digests = list((pool.map if pooled else map)(lambda series: _column_digests(series, cuts), columns))
    heights = np.diff(cuts).tolist()
    return [
        hashlib.sha256(b"".join([f"{heights[i]};".encode(), *(column[i] for column in digests)])).hexdigest()
        for i in range(len(heights))
    ]


def hash_frame(frame: pl.DataFrame, key: Sequence[str] = ()) -> str:
    """sha256 of a frame's names, types and values in canonical form.

    Independent of chunking and, with a `key`, of row order; -0.0 counts as 0.0, every NaN as the same one,
    and null, 0, NaN and the empty string stay apart. Categoricals count as their text.
    """
    return _slice_hashes(canonical(frame, key), np.array([0, frame.height], dtype=np.int64))[0]


def session_hashes(frame: pl.DataFrame, key: Sequence[str], by: str = "session") -> dict[str, str]:
    """ISO day -> hash of that day's rows, equal to `hash_frame` of them alone.

    `by` is a Date column, or text that is used as it is. Rows without a session are refused: they would
    belong to no hash.
    """
    if frame[by].null_count():
        raise KeyViolation(f"every row needs a {by}", f"{frame[by].null_count()} nulls",
                           "drop or quarantine the rows")
    if frame.is_empty():
        return {}
    ordered = canonical(frame, [by, *(k for k in key if k != by)])
    days = ordered[by]
    starts = np.flatnonzero((days != days.shift()).fill_null(True).to_numpy())
    cuts = np.append(starts, ordered.height).astype(np.int64)
    return dict(zip(days.gather(starts).cast(pl.String), _slice_hashes(ordered, cuts), strict=True))


@cache
def with_imports(module: str, package: str) -> frozenset[str]:
    """A module and all modules of the package that it imports, directly or through others (nothing is imported)."""
    found, waiting = {module}, [module]
    while waiting:
        at = waiting.pop()
        if not at.startswith(f"{package}."):
            continue
        for node in ast.walk(ast.parse(_origin(at)[0].read_bytes())):
            if isinstance(node, ast.ImportFrom):
                names = [f"{package}.{each.name}" for each in node.names] if node.module == package else [node.module]
                new = [name for name in names if name and name.startswith(f"{package}.") and name not in found]
                found.update(new)
                waiting += new
    return frozenset(found)


def hash_sources(modules: Iterable[str]) -> str:
    """sha256 over the source text of modules and packages, named by import path (nothing is imported)."""
    digest = hashlib.sha256()
    for name in sorted(set(modules)):
        origin, package = _origin(name)
        files = sorted(origin.parent.rglob("*.py")) if package else [origin]
        for file in files:
            text = file.read_bytes()
            digest.update(f"{name}/{file.relative_to(origin.parent).as_posix()}:{len(text)}:".encode() + text)
    return digest.hexdigest()


def _origin(module: str) -> tuple[Path, bool]:
    """A module's file, and whether it is a package."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    return Path(spec.origin), bool(spec.submodule_search_locations)
