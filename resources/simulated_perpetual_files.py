"""The files of a simulated perpetual: the archive's ZIPs as published at an instant, and a folder of book snapshots.

Who asks for them over HTTP is in `simulated_perpetual.py`.
"""

from __future__ import annotations

import io
import re
import zipfile
from calendar import monthrange
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from threading import Lock
from typing import Any

import polars as pl

from pipeline.clock import Clock
from pipeline.files import replace_if_changed
from pipeline.fingerprints import hash_json
from pipeline.simulation.perpetual import PerpetualMarket
from pipeline.tables.binance import BOOK_1M, level_names
from pipeline.tables.binance_rows import FUNDING_FIELDS, KLINE_FIELDS
from pipeline.tables.spec import TableSpec
from resources.book_folder import BookFolder
from resources.source import Fetched

PUBLISHED_AT = time(8, 30)  # UTC: of the day after, or of the first Monday of the month after
CACHED_FILES = 8  # a month of candles is 2 MB
EXCHANGE = "BINANCE_FUTURES"

_KLINES = re.compile(r"data/futures/um/(?:daily|monthly)/klines/(\w+)/1m/\1-1m-(\d{4}-\d\d(?:-\d\d)?)\.zip")
_FUNDING = re.compile(r"data/futures/um/monthly/fundingRate/(\w+)/\1-fundingRate-(\d{4}-\d\d)\.zip")


class PublishedFiles:
    """What the archive holds of a market, file by file; safe to ask from several threads."""

    def __init__(self, market: PerpetualMarket) -> None:
        self._market = market
        self._made: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()
        self._lock = Lock()

    def at(self, path: str, now: datetime) -> bytes | None:
        """A file's bytes as they are published at an aware instant; None where there is no such file.

        A file holds the days of its name that lie in the sample, so that the first and last month may be short.
        """
        candles = _KLINES.fullmatch(path)
        found = candles or _FUNDING.fullmatch(path)
        if found is None or found[1] not in self._market.profile.symbols:
            return None
        symbol, days = found[1], _days_of(found[2])
        first, last = max(days[0], self._market.days[0]), min(days[-1], self._market.days[-1])
        if first > last or now < _publication(days):
            return None
        if candles is None:
            return self._kept((path,), path, lambda: self._funding_csv(symbol, days))
        lacks = {day: self._market.first_publication(symbol, day, now) for day in days if first <= day <= last}
        lacking = {day: minutes for day, minutes in lacks.items() if minutes}
        key = (path, *lacking.items())
        return self._kept(key, path, lambda: self._candle_csv(symbol, first, last, lacking))

    def _kept(self, key: tuple[Any, ...], path: str, text: Callable[[], bytes]) -> bytes:
        """The file from the cache, or made and kept among the latest asked for."""
        with self._lock:
            if key not in self._made:
                self._made[key] = _zipped(path.rpartition("/")[2], text())
            self._made.move_to_end(key)
            while len(self._made) > CACHED_FILES:
                self._made.popitem(last=False)
            return self._made[key]

    def _candle_csv(self, symbol: str, first: date, last: date, lacking: Mapping[date, tuple[int, int]]) -> bytes:
        rows = self._market.klines(symbol, first, last)
        for day, minutes in lacking.items():
            begin, end = (datetime.combine(day, time(0)) + timedelta(minutes=m) for m in minutes)
            rows = rows.filter(~pl.col("open_time").is_between(begin, end, closed="left"))
        return _csv(rows.with_columns(pl.lit(0).alias("ignore")), KLINE_FIELDS)

    def _funding_csv(self, symbol: str, days: Sequence[date]) -> bytes:
        """Stamps with the vendor's milliseconds; no mark price."""
        rows = self._market.funding(symbol, days[0], days[-1])
        return _csv(rows.with_columns(pl.col("published_at").alias("calc_time")), FUNDING_FIELDS)


def _days_of(name: str) -> list[date]:
    """The days of `2026-06` or `2026-06-17`."""
    year, month, *day = (int(part) for part in name.split("-"))
    return [date(year, month, d) for d in (day or range(1, monthrange(year, month)[1] + 1))]


def _publication(days: Sequence[date]) -> datetime:
    """A day's file comes on the day after, a month's on the first Monday of the next [C]."""
    after = days[-1] + timedelta(days=1)
    if len(days) > 1:
        after += timedelta(days=-after.weekday() % 7)
    return datetime.combine(after, PUBLISHED_AT, UTC)


def _csv(rows: pl.DataFrame, fields: Sequence[str]) -> bytes:
    """Instants as milliseconds, floats in their shortest exact form, with the header of files since 2022-06."""
    written = rows.select(
        pl.col(name).dt.epoch("ms") if rows.schema[name].is_temporal() else pl.col(name) for name in fields
    )
    return written.write_csv().encode()


def _zipped(name: str, text: bytes) -> bytes:
    """A ZIP of one CSV; equal text gives equal bytes."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name.removesuffix(".zip") + ".csv"), text, zipfile.ZIP_DEFLATED, 1)
    return held.getvalue()


class SimulatedBooks:
    """Minute books of a market: writes the days asked for as snapshot files, then reads them as any such folder.

    Parameters
    ----------
    market : PerpetualMarket
    clock : Clock
        Days that are not over have no file.
    folder : Path
        Each market writes below a name of its own, so that one folder may serve several; 1.1 MB a day and symbol.
    """

    def __init__(self, market: PerpetualMarket, clock: Clock, folder: Path) -> None:
        self._market, self._clock = market, clock
        made_from = [market.profile.model_dump(mode="json"), market.strength]
        self.folder = Path(folder) / hash_json(made_from)[:12]

    def tables(self) -> frozenset[str]:
        """Minute books only."""
        return frozenset({BOOK_1M.name})

    def fetch(self, spec: TableSpec, sessions: Sequence[date], codes: Sequence[str] = ()) -> Fetched:
        """As `BookFolder.fetch`; a day without a file is told by it.

        Raises
        ------
        BadInput, MissingTable
            A symbol that is not simulated; no book on any of the days.
        """
        for code in codes:
            for day in sorted(set(sessions)):
                self.write(code, day)
        return BookFolder(self._opened(), EXCHANGE, self._clock).fetch(spec, sessions, codes)

    def write(self, symbol: str, day: date) -> Path | None:
        """One day's file, made if it is not there; None for a day without books, or one that is not over."""
        place = self._opened() / f"table=book/exchange={EXCHANGE}/symbol={symbol.removesuffix('USDT')}-USDT-PERP"
        file = place / f"dt={day}" / "data.parquet"
        if self._clock.now() < datetime.combine(day + timedelta(days=1), time(0), UTC):
            return None
        if file.exists():
            return file
        books = self._market.books(symbol, day, day)
        if books.is_empty():
            return None
        buffer = io.BytesIO()
        snapshots = books.select(pl.col("origin_time").cast(pl.Datetime("ns")), *level_names())
        snapshots.write_parquet(buffer, compression_level=1)
        replace_if_changed(file, buffer.getvalue())
        return file

    def _opened(self) -> Path:
        (self.folder / "table=book" / f"exchange={EXCHANGE}").mkdir(parents=True, exist_ok=True)
        return self.folder
