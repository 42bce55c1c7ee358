"""Book snapshots in a folder of Parquet files, one a day and symbol, as a source of minute books.

`table=book/exchange=<exchange>/symbol=<symbol>/dt=<day>/data.parquet`. Which snapshot stands for a minute, and what a
snapshot must have, is in `pipeline/tables/books.py`.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import polars as pl

from pipeline.clock import Clock, SystemClock
from pipeline.errors import BadInput, MissingTable, SchemaError
from pipeline.fingerprints import hash_file, hash_json
from pipeline.tables.binance import BOOK_1M, level_names
from pipeline.tables.books import BEST, BookCounts, last_of_minutes, settle
from pipeline.tables.depth_feed import DepthFeed, read_feed
from pipeline.tables.spec import TableSpec
from resources.source import Fetched, shown

# A day at 100 ms is 7 MB a column; of a minute's 600 snapshots only one is kept.
COLUMNS_AT_ONCE = 20


@dataclass
class _Reading:
    """What one fetch gathered."""

    frames: list[pl.DataFrame] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hashes: list[tuple[str, str]] = field(default_factory=list)
    lacking: set[date] = field(default_factory=set)


class BookFolder:
    """Minute books out of a folder of snapshots.

    Parameters
    ----------
    folder : Path
        Holds `table=book/…`.
    exchange : str
        Its folder.
    clock : Clock, optional
        Tells which days are over.

    Raises
    ------
    BadInput
        No such folder, or two of its symbols that are one to the exchange.
    """

    def __init__(self, folder: Path, exchange: str = "BINANCE_FUTURES", clock: Clock | None = None) -> None:
        self._root = Path(folder) / "table=book" / f"exchange={exchange}"
        self._clock: Clock = clock or SystemClock()
        if not self._root.is_dir():
            raise BadInput("book snapshots lie in table=book/exchange=…/symbol=…/dt=…/data.parquet", str(self._root),
                           "give the folder that holds table=book")
        self._symbols: dict[str, Path] = {}
        for place in sorted(self._root.glob("symbol=*")):
            name = _exchange_symbol(place.name.partition("=")[2])
            if name in self._symbols:
                raise BadInput(f"one folder holds the books of {name}", [self._symbols[name].name, place.name],
                               "keep one of them")
            self._symbols[name] = place

    def tables(self) -> frozenset[str]:
        """Minute books only."""
        return frozenset({BOOK_1M.name})

    def symbols(self) -> tuple[str, ...]:
        """Symbols with a folder, as the exchange writes them: `BTC-USDT-PERP` is BTCUSDT."""
        return tuple(self._symbols)

    def days(self, symbol: str) -> tuple[date, ...]:
        """Days with a file, ascending."""
        return tuple(sorted(date.fromisoformat(f.parent.name.partition("=")[2]) for f in self._files(symbol)))

    def fetch(self, spec: TableSpec, sessions: Sequence[date], codes: Sequence[str] = ()) -> Fetched:
        """Minute books of some days (UTC) of some symbols.

        A row of another day than its file's is passed by, so that a day's books do not depend on which other days were
        asked for. A missing day is named in a note and not complete.

        Raises
        ------
        MissingTable
            A symbol has no file on any of the days.
        SchemaError
            A file without the columns of a book.
        """
        if not codes:
            raise BadInput(f"{spec.name} is asked for by symbol", "no symbols", f"choose from {self.symbols()}")
        days, read = sorted(set(sessions)), _Reading()
        for code in codes:
            self._read(code, days, read)
        rows = pl.concat([spec.empty(), *read.frames]).sort(spec.key)
        spec.check(rows)
        complete = tuple(day for day in spec.published(days, self._clock.now()) if day not in read.lacking)
        words = f"folder {spec.name} {shown(days)} {len(codes)} symbols"
        return Fetched(rows, f"{words} #{hash_json(read.hashes)[:12]}", complete, tuple(read.notes))

    def _read(self, symbol: str, days: Sequence[date], read: _Reading) -> None:
        """The days of one symbol."""
        missing = [day for day in days if not self._file(symbol, day).exists()]
        if len(missing) == len(days):
            raise MissingTable(f"{symbol} must have books on at least one day asked for", f"none on {shown(days)}",
                               "add the days' files, or run without books")
        if missing:
            read.lacking.update(missing)
            read.notes.append(f"{BOOK_1M.name} {symbol}: no file for {', '.join(map(str, missing))}")
        for day in days:
            if day in missing:
                continue
            rows, counts, strays = _minute_books(self._file(symbol, day), symbol, day)
            read.frames.append(rows)
            read.hashes.append((f"{symbol} {day}", hash_file(self._file(symbol, day))))
            if strays or not counts.faultless:
                read.notes.append(f"{BOOK_1M.name} {symbol} {day}: {counts}, {strays} minutes of other days")
            if rows.is_empty():
                read.lacking.add(day)

    def _file(self, symbol: str, day: date) -> Path:
        return self._place(symbol) / f"dt={day}" / "data.parquet"

    def _files(self, symbol: str) -> Iterator[Path]:
        return self._place(symbol).glob("dt=*/data.parquet")

    def _place(self, symbol: str) -> Path:
        if symbol not in self._symbols:
            raise MissingTable(f"the folder must hold books of {symbol}", list(self._symbols), "add symbol=… to it")
        return self._symbols[symbol]


def _minute_books(file: Path, symbol: str, day: date) -> tuple[pl.DataFrame, BookCounts, int]:
    """One file's minutes. The best quotes choose the rows first, for a day of 20 levels at 100 ms would be 570 MB."""
    with _teaching(file):
        scan = pl.scan_parquet(file, hive_partitioning=False)
        names = scan.collect_schema().names()
        lacking = [name for name in ("origin_time", *level_names()) if name not in names]
        if lacking:
            raise SchemaError(f"{symbol} {day}: a book has origin_time and 20 levels", f"missing {lacking[:8]}",
                              "write the file with all of them, null where a level is missing")
        best = scan.select("origin_time", *BEST).collect()
        chosen, counts = last_of_minutes(best)
        behind = [name for name in level_names() if name not in BEST]
        parts = [scan.select(behind[i:i + COLUMNS_AT_ONCE]).collect()[chosen]
                 for i in range(0, len(behind), COLUMNS_AT_ONCE)]
    rows, found = settle(pl.concat([best[chosen], *parts], how="horizontal"), symbol, counts, best.height)
    kept = rows.filter(BOOK_1M.event_day() == day)
    return kept, found, rows.height - kept.height


@contextmanager
def _teaching(file: Path) -> Iterator[None]:
    """A cut or foreign file is an error that says so."""
    try:
        yield
    except (pl.exceptions.ComputeError, OSError) as error:
        raise BadInput("a day's books are one Parquet file",
                       f"{'/'.join(file.parts[-3:])}: {str(error).splitlines()[0]}",
                       "the file is cut or of another form; write it again") from None


def _exchange_symbol(name: str) -> str:
    """`BTC-USDT-PERP` and BTCUSDT are one symbol."""
    return name.removesuffix("-PERP").replace("-", "")


def read_recorded_feed(file: Path, symbol: str) -> DepthFeed:
    """A recorded feed of `<receive ns> <message>` lines, plain or gzipped."""
    with _recorded(file) as lines:
        return read_feed(lines, symbol)


@contextmanager
def _recorded(file: Path) -> Iterator[Iterator[str]]:
    try:
        with (gzip.open(file, "rt") if file.suffix == ".gz" else file.open()) as handle:
            yield iter(handle)
    except (EOFError, gzip.BadGzipFile) as error:
        raise BadInput("a recorded feed is a whole file", f"{file.name}: {error}",
                       "the copy was cut; take it again") from None
