"""A folder of someone's own minutes as a source: candles and funding in Parquet or CSV, books as snapshot files.

`klines_1m.parquet` with a column `symbol`, or `klines_1m/BTCUSDT.parquet`, a file or more a symbol; `funding_rate`
alike; books as in `book_folder.py`. Instants are integers, stamps or text; columns keep the archive's names.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path

import polars as pl

from pipeline.clock import Clock, SystemClock
from pipeline.errors import BadInput, MissingTable
from pipeline.tables.binance import FUNDING_RATE, KLINES_1M
from pipeline.tables.binance_rows import funding_rows, kline_rows
from pipeline.tables.epochs import instant
from pipeline.tables.spec import TableSpec
from resources.binance import whole_days
from resources.book_folder import BookFolder
from resources.dump import Dump, find
from resources.source import Fetched

SPECS = (KLINES_1M, FUNDING_RATE)


class BinanceFolder:
    """A folder of minute tables.

    Parameters
    ----------
    folder : Path
    symbols : sequence of str
        Whom the tables must hold: one that lacks a symbol counts as absent, and candles must be there.
    clock : Clock, optional
        Tells which days are over.

    Raises
    ------
    BadInput
        No such folder, a table in more than one place, or no candles of a symbol.
    MissingTable
        The folder holds no candles.
    """

    def __init__(self, folder: Path, symbols: Sequence[str], clock: Clock | None = None) -> None:
        self._folder, self._symbols, self._clock = Path(folder), tuple(symbols), clock or SystemClock()
        if not self._folder.is_dir():
            raise BadInput("an import needs a folder", str(folder), "give the folder that holds the dumps")
        self._held = {spec.name: _by_symbol(found) for spec in SPECS if (found := find(self._folder, spec))}
        if KLINES_1M.name not in self._held:
            raise MissingTable("the folder must hold one-minute candles",
                               sorted(path.name for path in self._folder.iterdir())[:20],
                               f"add {KLINES_1M.name}.parquet, or {KLINES_1M.name}/<symbol>.parquet")
        absent = sorted(set(self._symbols) - set(self._held[KLINES_1M.name]))
        if absent:
            raise BadInput(f"the folder must hold {KLINES_1M.name} of every symbol of the study",
                           f"no {', '.join(absent)}; there are {sorted(self._held[KLINES_1M.name])}",
                           f"add {KLINES_1M.name}/{absent[0]}.parquet, or name other symbols in the study")

    @cached_property
    def _books(self) -> BookFolder | None:
        if not (self._folder / "table=book").is_dir():
            return None
        books = BookFolder(self._folder, clock=self._clock)
        return books if set(self._symbols) <= set(books.symbols()) else None

    def tables(self) -> frozenset[str]:
        """Names of the tables that hold every symbol."""
        held = {name for name, symbols in self._held.items() if set(self._symbols) <= set(symbols)}
        return frozenset(held | (self._books.tables() if self._books else frozenset()))

    def span(self, table: str = KLINES_1M.name) -> tuple[date, date]:
        """First and last day on which every symbol has rows of a table."""
        if table not in self._held:
            raise MissingTable(f"the folder must hold {table}", sorted(self._held), f"add {table}.parquet")
        spec = next(spec for spec in SPECS if spec.name == table)
        ends = [_ends(spec, self._held[table][symbol]) for symbol in self._symbols or self._held[table]]
        return max(first for first, _ in ends), min(last for _, last in ends)

    def fetch(self, spec: TableSpec, sessions: Sequence[date], codes: Sequence[str] = ()) -> Fetched:
        """Rows of some days (UTC) of some symbols, with the checks of the vendor's own files.

        Raises
        ------
        MissingTable
            The folder lacks the table, or a symbol of it.
        BadInput
            No symbols, or rows that cannot be true.
        """
        if self._books and spec.name in self._books.tables():
            return self._books.fetch(spec, sessions, codes)
        held = self._held.get(spec.name, {})
        if not codes or not set(codes) <= set(held):
            raise MissingTable(f"the folder must hold {spec.name} of {list(codes)}", sorted(held), "add the files")
        days = sorted(set(sessions))
        frames = [_rows(spec, code, held[code], days) for code in codes]
        rows, complete, notes = whole_days(spec, frames, days, codes, self._clock.now())
        return Fetched(rows, f"import {spec.name} {len(days)} sessions {len(codes)} symbols", complete, tuple(notes))


def _by_symbol(found: Dump) -> dict[str, list[pl.LazyFrame]]:
    """Symbol -> its rows, unread, with epochs in milliseconds: by column, by folder, or by the file's name."""
    held: dict[str, list[pl.LazyFrame]] = {}
    for file in found.files:
        dump = Dump(found.spec, (file,))
        schema = dump.raw_schema
        names = [name for name in found.spec.names if name in schema and name != "symbol"]
        scan = dump.scan.with_columns(_epoch(name, schema[name]) for name in names if _is_instant(found.spec, name))
        if "symbol" in schema:
            present = dump.collect(dump.scan.select(pl.col("symbol").cast(pl.String).unique()))["symbol"]
            for symbol in present.drop_nulls().sort():
                mine = scan.filter(pl.col("symbol").cast(pl.String) == symbol)
                held.setdefault(symbol, []).append(mine.select(names))
        else:
            held.setdefault(file.name.partition(".")[0].partition("-")[0].upper(), []).append(scan.select(names))
    return held


def _is_instant(spec: TableSpec, name: str) -> bool:
    return isinstance(spec.schema[name], pl.Datetime)


def _epoch(name: str, dtype: pl.DataType) -> pl.Expr:
    """An instant in any form as an integer since 1970."""
    column = pl.col(name)
    if dtype.is_temporal():
        return column.dt.epoch("us")
    if dtype == pl.String:
        stamp = column.str.to_datetime(time_unit="us", strict=False).dt.epoch("us")
        return pl.coalesce(column.cast(pl.Int64, strict=False), stamp).alias(name)
    return column.cast(pl.Int64)


def _day(spec: TableSpec) -> pl.Expr:
    return instant(str(spec.event)).dt.date()


def _rows(spec: TableSpec, symbol: str, parts: Sequence[pl.LazyFrame], days: Sequence[date]) -> pl.DataFrame:
    """A symbol's rows of some days; of funding those of the days before too, which tell the first one's interval."""
    funding = spec.name == FUNDING_RATE.name
    wanted = {*days, *(day - timedelta(days=1) for day in days)} if funding else set(days)
    inside = _day(spec).is_in(sorted(wanted)) | _day(spec).is_null()
    raw = pl.concat([part.filter(inside) for part in parts], how="diagonal").collect()
    if raw.is_empty():
        return spec.empty()
    return funding_rows(raw.sort(str(spec.event)), symbol) if funding else kline_rows(raw, symbol, spec)


def _ends(spec: TableSpec, parts: Sequence[pl.LazyFrame]) -> tuple[date, date]:
    ends = pl.concat([p.select(_day(spec).min().alias("first"), _day(spec).max().alias("last")) for p in parts])
    found = ends.collect()
    first, last = found["first"].min(), found["last"].max()
    if not isinstance(first, date) or not isinstance(last, date):
        raise MissingTable("a span needs rows by session", f"{spec.name} has none", "fill the table")
    return first, last
