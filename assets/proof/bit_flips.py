"""One bit of a stored file changed, silently: a raw row, a table, a bundle, a record; and where each must be found."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.features.compute import CHANNELS
from pipeline.frames import MINUTE
from pipeline.serving.parity import table_key
from resources.environments import Environment

# Raw table -> (its column of codes, its instant, columns and what the panel calls them).
RAW: dict[str, tuple[str, str, dict[str, str]]] = {
    "daily": ("ts_code", "trade_date", {"open": "open", "close": "close", "vol": "volume"}),
    "adj_factor": ("ts_code", "trade_date", {"adj_factor": "factor"}),
    "daily_basic": ("ts_code", "trade_date", {"turnover_rate": "turnover", "total_mv": "total_mv"}),
    "klines_1m": (
        "symbol",
        "open_time",
        {"close": "close", "volume": "volume", "taker_buy_volume": "taker_buy_volume"},
    ),
}
FLOATS: dict[Any, tuple[Any, Any, int]] = {
    pl.Float32: (np.float32, np.uint32, 23),
    pl.Float64: (np.float64, np.uint64, 52),
}
# A raw value passes a change of units on its way, which may round the last bits away; higher ones are out of bounds.
RAW_BITS = range(8, 24)


@dataclass(frozen=True)
class Place:
    """Where a change must be found; an empty instrument or column is none.

    Parameters
    ----------
    asset : str
        Of the parity report, or `record`, or `bundle`.
    instrument : str
        As the report names a row.
    column : str
        Or the file's name.
    """

    asset: str
    instrument: str
    column: str

    def __str__(self) -> str:
        return ", ".join(part for part in (self.asset, self.instrument, self.column) if part)


@dataclass(frozen=True)
class Flip:
    """A changed bit of a file.

    Parameters
    ----------
    what : str
        For people: what was changed.
    path : Path
    data : bytes
        The file with its bit changed.
    place : Place
        Where it must be found.
    rebuilds : bool
        The research path must first make panel and features anew to meet it.
    """

    what: str
    path: Path
    data: bytes
    place: Place
    rebuilds: bool = False


@contextmanager
def changed(flip: Flip) -> Iterator[None]:
    """The file with its bit changed, and as it was again."""
    before = flip.path.read_bytes()
    flip.path.write_bytes(flip.data)
    try:
        yield
    finally:
        flip.path.write_bytes(before)


def raw_flip(environment: Environment, session: date, draw: random.Random) -> Flip:
    """A value of a raw row of the session that its panel row shows."""
    tables = [use.table for use in environment.study.tables if use.table in RAW]
    name = draw.choice(tables)
    code, instant, columns = RAW[name]
    column = draw.choice(sorted(columns))
    rows = environment.lake.scan(name, start=session, end=session)
    once = rows.filter(pl.len().over(code, instant) == 1)
    panel = environment.artifacts.table(environment.study.name, "panel", "panel", partitions=[f"{session:%Y-%m}"])
    shown = panel.filter(pl.col("session") == session, pl.col(columns[column]) > 0)
    codes = "instrument" if MINUTE in panel.columns else "code"
    by = {codes: code} | ({MINUTE: instant} if MINUTE in panel.columns else {})
    known = [pl.col(theirs).dt.replace_time_zone("UTC").alias(ours) if ours == MINUTE else pl.col(theirs).alias(ours)
             for ours, theirs in by.items()]  # fmt: skip
    rows_of = once.filter(pl.col(column) > 0).select(*known, *{code, instant} - {*by.values()}, raw=pl.col(column))
    row = draw.choice(shown.join(rows_of, on=[*by], how="inner").sort("instrument", *[*by]).to_dicts())
    wanted = (pl.col(code) == row[codes]) & (pl.col(column) == row["raw"])
    wanted &= pl.col(instant) == (row[MINUTE].replace(tzinfo=None) if MINUTE in by else session)
    file, index = _file_with(environment, name, wanted)
    frame = pl.read_parquet(file)
    label = "|".join(str(row[part]) for part in ("instrument", MINUTE) if part in row)
    place = Place("panel", label, columns[column])
    bits = frame[column].scatter(index, _one_bit_of(row["raw"], frame.schema[column], draw, RAW_BITS))
    data = _parquet(frame.with_columns(bits), file)
    return Flip(f"raw {name}.{column}", file, data, place, rebuilds=True)


def _file_with(environment: Environment, table: str, wanted: pl.Expr) -> tuple[Path, int]:
    """The lake's file that holds the row, and its place in it."""
    for kept in environment.lake.manifest().table(table).files:
        path = environment.lake.root / kept.file
        hits = pl.read_parquet(path).with_row_index("__at").filter(wanted)["__at"]
        if len(hits):
            return path, int(hits[0])
    raise LookupError(f"no file of {table} holds the row")


def table_flip(environment: Environment, stage: str, table: str, session: date, draw: random.Random) -> Flip | None:
    """A value in a stored table that the session's parity compares; None where it has no row of the session."""
    partition = session.isoformat() if stage == "inference" else f"{session:%Y-%m}"
    version = environment.artifacts.current(environment.study.name, stage)[partition]
    path = environment.artifacts.root / version.tables[table]["file"]
    frame = pl.read_parquet(path)
    key = table_key(table, frame)
    rows: list[int] = np.flatnonzero((frame["session"] == session).to_numpy()).tolist() if len(frame) else []
    if not rows:
        return None
    values = [name for name, dtype in frame.schema.items() if dtype in FLOATS or isinstance(dtype, pl.Array)]
    held = {name: [at for at in rows if _is_value(frame[name][at])] for name in values or frame.columns}
    column = draw.choice([name for name, places in held.items() if places and name not in key])
    index = draw.choice(held[column])
    row = frame.row(index, named=True)
    label = "|".join(str(row[part]) for part in key if part != "session")
    bits, name = _flipped(frame[column], index, draw)
    data = _parquet(frame.with_columns(bits.alias(column)), path)
    return Flip(f"{stage} {table}", path, data, Place(table, label, name))


def _is_value(cell: Any) -> bool:
    return cell is not None and not (isinstance(cell, float) and math.isnan(cell))


def _flipped(values: pl.Series, index: int, draw: random.Random) -> tuple[pl.Series, str]:
    """The column with one bit of one value changed, and what parity calls it: each bar's channel has a name."""
    if isinstance(values.dtype, pl.Array):
        bars = values.to_numpy().copy()
        at = draw.choice(np.flatnonzero(~np.isnan(bars[index])).tolist())
        bars[index, at] = _one_bit_of(bars[index, at], values.dtype.inner, draw)
        name = f"{CHANNELS[at % len(CHANNELS)]}_{at // len(CHANNELS):02d}"
        return pl.Series(values.name, bars, dtype=values.dtype), name
    if values.dtype == pl.String:
        text = values[index]
        return values.scatter(index, chr(ord(text[0]) ^ 1) + text[1:]), values.name
    return values.scatter(index, _one_bit_of(values[index], values.dtype, draw)), values.name


def _one_bit_of(value: float, dtype: Any, draw: random.Random, among: Sequence[int] = ()) -> Any:
    """A float with one bit of its significand changed."""
    real, unsigned, significand = FLOATS[dtype.base_type()]
    held = np.array([value], dtype=real)
    held.view(unsigned)[0] ^= unsigned(1 << draw.choice(among or range(significand)))
    return held[0]


def _parquet(frame: pl.DataFrame, path: Path) -> bytes:
    aside = path.with_name(f".flipped-{path.name}")
    frame.write_parquet(aside)
    data = aside.read_bytes()
    aside.unlink()
    return data


def file_flips(root: Path, asset: str, what: str, names: Sequence[str], draw: random.Random) -> list[Flip]:
    """One bit of each named file under a folder."""
    return [
        Flip(f"{what} file", root / name, _one_bit((root / name).read_bytes(), draw), Place(asset, "", name))
        for name in names
    ]


def _one_bit(data: bytes, draw: random.Random) -> bytes:
    at, bit = draw.randrange(len(data)), draw.randrange(8)
    return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]
