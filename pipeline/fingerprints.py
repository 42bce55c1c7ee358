"""Content hashes: of values, files, frames and code. Run ids, paths and clocks never enter one."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel

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
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain, allow_nan=False)


def hash_json(value: Any) -> str:
    """sha256 of the canonical JSON of a value."""
    return hash_bytes(canonical_json(value).encode())


def _column_chunks(series: pl.Series) -> Iterable[bytes | np.ndarray]:
    """The bytes that identify a column: null mask, then values with nulls zeroed."""
    dtype = series.dtype
    if isinstance(dtype, pl.Array):
        yield np.packbits(series.is_null().to_numpy())
        yield from _column_chunks(series.explode(empty_as_null=True) if len(series) else pl.Series([], dtype=dtype.inner))
        return
    if dtype in (pl.Categorical, pl.Enum):
        series, dtype = series.cast(pl.String), pl.String()
    if series.null_count():
        yield np.packbits(series.is_null().to_numpy())
    if dtype == pl.String:
        filled = series.fill_null("")
        yield filled.str.len_bytes().to_numpy().astype(np.int64)
        yield "".join(filled.to_list()).encode()
    elif dtype == pl.Boolean:
        yield np.packbits(series.fill_null(False).to_numpy())
    elif dtype == pl.Null:
        yield b"null"
    else:
        physical = series.to_physical()
        yield np.ascontiguousarray(physical.fill_null(0).to_numpy())


def hash_frame(frame: pl.DataFrame, key: Sequence[str] = ()) -> str:
    """sha256 of a frame's names, types and values in canonical form; independent of chunking."""
    digest = hashlib.sha256()
    for series in canonical(frame, key).rechunk().iter_columns():
        digest.update(f"{series.name}:{series.dtype}:{len(series)};".encode())
        for chunk in _column_chunks(series):
            digest.update(chunk)
    return digest.hexdigest()


def session_hashes(frame: pl.DataFrame, key: Sequence[str], by: str = "session") -> dict[str, str]:
    """ISO day -> hash of that day's rows."""
    ordered = canonical(frame, key)
    return {
        part[by][0].isoformat(): hash_frame(part)
        for part in ordered.partition_by(by, maintain_order=True)
    }


def hash_sources(modules: Sequence[str]) -> str:
    """sha256 over the source text of modules and packages, named by import path (nothing is imported)."""
    digest = hashlib.sha256()
    for name in sorted(modules):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(name)
        origin = Path(spec.origin)
        files = sorted(origin.parent.rglob("*.py")) if spec.submodule_search_locations else [origin]
        for file in files:
            digest.update(f"{name}/{file.name}:".encode() + file.read_bytes())
    return digest.hexdigest()
