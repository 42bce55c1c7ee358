"""Binance as a source of vendor tables: archive files first, the interface for days that no file holds yet.

The clients are in `binance_archive.py` and `binance_rest.py`; minute books come from `book_folder.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta

import polars as pl

from pipeline.clock import Clock, SystemClock
from pipeline.errors import BadInput, BrokenArchive, MissingTable
from pipeline.fingerprints import hash_json
from pipeline.tables.binance import EXCHANGE_INFO, FUNDING_RATE, KLINES_1M, SPOT_KLINES_1M
from pipeline.tables.binance_rows import (
    FUNDING_FIELDS,
    KLINE_FIELDS,
    csv_columns,
    funding_rows,
    kline_rows,
    minute_gaps,
)
from pipeline.tables.spec import TableSpec
from resources.archive_files import read_member
from resources.binance_archive import ArchiveClient, ArchiveFile, Held, daily_files, funding_files, kline_files
from resources.binance_rest import BinanceRest
from resources.source import Fetched, shown

ARCHIVED = (KLINES_1M, SPOT_KLINES_1M, FUNDING_RATE)


@dataclass
class _Reading:
    """What one fetch gathered."""

    frames: list[pl.DataFrame] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    # What was read, for the request's fingerprint: (path, sha256) of files, (symbol, first, last) of spans.
    files: list[tuple[str, str]] = field(default_factory=list)
    spans: list[tuple[str, str, str]] = field(default_factory=list)
    covered: dict[str, set[date]] = field(default_factory=dict)


class BinanceSource:
    """Candles, funding and contracts of Binance.

    Parameters
    ----------
    archive : ArchiveClient, optional
        None: everything is asked from the interfaces.
    interfaces : mapping
        Market (`um`, `spot`) -> its client; a market without one has archive files only.
    clock : Clock, optional
        Tells which days are over.
    watch : callable
        Told a line after each file and each span.
    """

    def __init__(
        self, archive: ArchiveClient | None, interfaces: Mapping[str, BinanceRest], clock: Clock | None = None,
        watch: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._archive, self._interfaces, self._watch = archive, dict(interfaces), watch
        self._clock: Clock = clock or SystemClock()

    def tables(self) -> frozenset[str]:
        """Names of the tables it can answer for."""
        held = [spec.name for spec in ARCHIVED if self._archive is not None or _market(spec) in self._interfaces]
        return frozenset(held + ([EXCHANGE_INFO.name] if "um" in self._interfaces else []))

    def fetch(self, spec: TableSpec, sessions: Sequence[date], codes: Sequence[str] = ()) -> Fetched:
        """Rows of some days (UTC) of some symbols; `exchange_info` whole, as it is now.

        A session is complete once it is over and every symbol has rows in it. Minutes that are missing inside are
        told in a note, because they may be the exchange's own outage.

        Raises
        ------
        MissingTable
            No client for the table.
        BadInput
            No symbols, or rows that break the table's spec.
        VendorError
            The vendor's answer is not data; `BrokenArchive` for a file that is not what was published.
        """
        if spec.name not in self.tables():
            raise MissingTable(f"a client of the market must be at hand to read {spec.name}", sorted(self.tables()),
                               "hand in the archive or the interface")
        if spec.name == EXCHANGE_INFO.name:
            return Fetched(self._interfaces["um"].exchange_info(), "binance exchange_info", tuple(sessions), ())
        if not codes:
            raise BadInput(f"{spec.name} is asked for by symbol", "no symbols", "hand in the symbols wanted")
        days = sorted(set(sessions))
        read = _Reading(covered={code: set() for code in codes})
        if self._archive is not None:
            self._read_archive(self._archive, spec, days, codes, read)
        self._read_interface(spec, days, codes, read)
        return self._fetched(spec, days, codes, read)

    def _read_archive(
        self, archive: ArchiveClient, spec: TableSpec, days: Sequence[date], codes: Sequence[str], read: _Reading
    ) -> None:
        """Every file that is published; a month that is not, day by day."""
        today = self._today()
        files = [file for code in codes for file in self._files(spec, code, days, today)]
        found = archive.fetch(files, self._watch)
        months = [file for file, held in zip(files, found, strict=True) if held is None and "/monthly/" in file.path]
        if months and spec.name != FUNDING_RATE.name:
            found += archive.fetch([day for month in months for day in daily_files(month)], self._watch)
        for held in filter(None, found):
            read.frames.append(_rows(spec, held))
            read.files.append((held.file.path, held.sha256))
            read.covered[held.file.symbol].update(held.file.days)
            if held.replaced:
                read.notes.append(f"{spec.name}: {held.file.name} was published again: checksum {held.sha256[:12]}, "
                                  f"before {held.replaced[:12]}")

    def _files(self, spec: TableSpec, code: str, days: Sequence[date], today: date) -> list[ArchiveFile]:
        if spec.name == FUNDING_RATE.name:
            return funding_files(code, days, today)
        return kline_files(_market(spec), code, days, today)

    def _read_interface(
        self, spec: TableSpec, days: Sequence[date], codes: Sequence[str], read: _Reading
    ) -> None:
        """The days that no file gave, in runs."""
        rest, today = self._interfaces.get(_market(spec)), self._today()
        for code in codes:
            left = [day for day in days if day not in read.covered[code] and day <= today]
            if rest is None:
                read.notes += [f"{spec.name} {code}: no file in the archive for {shown(left)}"] if left else []
                continue
            ask = rest.funding if spec.name == FUNDING_RATE.name else rest.klines
            for first, last in _runs(left):
                rows = ask(code, _midnight(first), _midnight(last + timedelta(days=1)))
                read.frames.append(rows)
                read.spans.append((code, str(first), str(last)))
                self._watch(f"{spec.name} {code}: {first}..{last}, {rows.height} rows")

    def _fetched(
        self, spec: TableSpec, days: Sequence[date], codes: Sequence[str], read: _Reading
    ) -> Fetched:
        rows, complete, notes = whole_days(spec, read.frames, days, codes, self._clock.now())
        return Fetched(rows, _describe(spec, days, codes, read), complete, (*read.notes, *notes))

    def _today(self) -> date:
        return self._clock.now().astimezone(UTC).date()


def whole_days(
    spec: TableSpec, frames: Sequence[pl.DataFrame], days: Sequence[date], codes: Sequence[str], now: datetime
) -> tuple[pl.DataFrame, tuple[date, ...], list[str]]:
    """Settled rows of the days, those of them that are over and have rows of every code, and what is missing."""
    inside = pl.concat([spec.empty(), *frames]).filter(spec.event_day().is_in(list(days)))
    rows = spec.settle(inside)
    spec.check(rows, today=now.astimezone(UTC).date())
    seen = rows.group_by(spec.event_day().alias("day")).agg(pl.col("symbol").n_unique())
    full = {day for day, symbols in seen.iter_rows() if symbols == len(set(codes))}
    over = spec.published(days, now)
    complete = tuple(day for day in over if day in full)
    short = [day for day in over if day not in full]
    notes = _gap_notes(spec, rows, complete)
    if short:
        notes.append(f"{spec.name}: not every symbol has rows on {shown(short)}")
    return rows, complete, notes


def _market(spec: TableSpec) -> str:
    return dict(spec.requests[0])["market"]


def _rows(spec: TableSpec, held: Held) -> pl.DataFrame:
    """A file's rows; candles must lie in the days that its name says."""
    file = held.file
    content = read_member(held.place, file.name)
    if spec.name == FUNDING_RATE.name:
        return funding_rows(csv_columns(content, FUNDING_FIELDS, file.name), file.symbol)
    rows = kline_rows(csv_columns(content, KLINE_FIELDS, file.name), file.symbol, spec)
    foreign = rows.filter(~spec.event_day().is_in(list(file.days)))
    if not foreign.is_empty():
        raise BrokenArchive(f"{file.name} holds candles of its own days", foreign.select(spec.key).row(0),
                            "fetch it again, or report it to the vendor")
    return rows


def _runs(days: Sequence[date]) -> Iterator[tuple[date, date]]:
    """First and last of each run of days without a break."""
    first = None
    for i, day in enumerate(days):
        first = first or day
        if i + 1 == len(days) or days[i + 1] != day + timedelta(days=1):
            yield first, day
            first = None


def _gap_notes(spec: TableSpec, rows: pl.DataFrame, days: Sequence[date]) -> list[str]:
    """One line a symbol whose minutes are not all there."""
    if spec.name == FUNDING_RATE.name or not days:
        return []
    gaps = pl.concat([
        minute_gaps(rows.filter(spec.event_day().is_between(first, last)), first, last) for first, last in _runs(days)
    ])
    return [
        f"{spec.name} {symbol}: {found['minutes'].sum()} minutes missing in {found.height} "
        f"gap{'s' if found.height > 1 else ''}, first {found['first_missing'][0]} to {found['last_missing'][0]}"
        for (symbol,), found in gaps.group_by("symbol", maintain_order=True)
    ]


def _describe(spec: TableSpec, days: Sequence[date], codes: Sequence[str], read: _Reading) -> str:
    """The request in words, with a hash over each file's checksum and each span asked for."""
    stretch = f" {days[0]}..{days[-1]}" if days else ""
    sent = hash_json([list(read.files), list(read.spans)])
    return (f"binance {spec.name}{stretch} {len(codes)} symbols {len(read.files)} files {len(read.spans)} spans "
            f"#{sent[:12]}")


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(0))
