"""A folder of someone's own dumps as a source: what it holds, what it lacks, and its rows by session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl

from pipeline.calendars import Calendar
from pipeline.clock import Clock, SystemClock
from pipeline.errors import BadInput, MissingTable
from pipeline.tables.spec import TableSpec
from pipeline.tables.tushare import TABLES
from resources.dump import Dump, find
from resources.source import Fetched, shown

REPORT_SCHEMA = {
    "table": pl.String(), "present": pl.Boolean(), "files": pl.Int64(), "rows": pl.Int64(),
    "first": pl.Date(), "last": pl.Date(), "days": pl.Int64(), "days_off_calendar": pl.Int64(),
    "missing_columns": pl.List(pl.String), "extra_columns": pl.List(pl.String),
}


class FolderSource:
    """A folder of vendor tables.

    Parameters
    ----------
    folder : Path
    specs : mapping
        The tables to look for.
    clock : Clock, optional
        Rows after its day are refused.

    Raises
    ------
    BadInput
        No such folder, or a table in more than one place.
    MissingTable
        The folder holds none of the tables.
    """

    def __init__(
        self, folder: Path, specs: Mapping[str, TableSpec] = TABLES, clock: Clock | None = None
    ) -> None:
        self._folder, self._specs, self._clock = Path(folder), specs, clock or SystemClock()
        if not self._folder.is_dir():
            raise BadInput("an import needs a folder", str(folder), "give the folder that holds the dumps")
        self._dumps = {name: dump for name, spec in specs.items() if (dump := find(self._folder, spec))}
        if not self._dumps:
            raise MissingTable("the folder must hold at least one vendor table",
                               sorted(path.name for path in self._folder.iterdir())[:20],
                               f"name files after their tables: {', '.join(specs)}")

    def tables(self) -> frozenset[str]:
        """Names of the tables that the folder holds."""
        return frozenset(self._dumps)

    def span(self, table: str | None = None) -> tuple[date, date]:
        """First and last day of a table's rows; without a name, over all tables of sessions."""
        names = [table] if table else [n for n, dump in self._dumps.items() if dump.spec.event is not None]
        days = [self._dump(name).days["day"].drop_nulls() for name in names]
        ends = [(d[0], d[-1]) for d in days if len(d)]
        if not ends:
            raise MissingTable("a span needs a table with rows by session", names, "add daily bars")
        return min(first for first, _ in ends), max(last for _, last in ends)

    def fetch(self, spec: TableSpec, sessions: Sequence[date], codes: Sequence[str] = ()) -> Fetched:
        """Rows of the sessions (of the codes, if any are given); a snapshot whole.

        Raises
        ------
        MissingTable
            The folder lacks the table.
        BadInput
            Its rows break the table's spec.
        """
        dump = self._dump(spec.name)
        raw = dump.rows(None if spec.event is None else sessions)
        if codes:
            raw = raw.filter(pl.col("ts_code").is_in(list(codes)))
        rows = spec.settle(raw)
        spec.check(rows, today=self._clock.now().astimezone(ZoneInfo(spec.zone)).date())
        repeats = raw.height - rows.height
        notes = [f"{spec.name}: {repeats} repeated rows dropped"] if repeats else []
        if dump.missing:
            notes.append(f"{spec.name}: the dump has no {', '.join(dump.missing)}; null")
        complete, gaps = self._complete(spec, rows, sessions)
        request = f"import {spec.name} {len(sessions)} sessions" if spec.event else f"import {spec.name}"
        return Fetched(rows, request, complete, (*notes, *gaps))

    def report(self) -> pl.DataFrame:
        """One row a table of the vendor: present or not, files, rows, days, absent and unknown columns."""
        sessions = self._calendar()
        return pl.DataFrame([self._describe(spec, sessions) for spec in self._specs.values()],
                            schema=REPORT_SCHEMA, orient="row")

    def _dump(self, name: str) -> Dump:
        if name not in self._dumps:
            raise MissingTable(f"the folder must hold {name}", sorted(self._dumps),
                               f"add {name}.parquet or {name}.csv")
        return self._dumps[name]

    def _calendar(self) -> frozenset[date] | None:
        dump = self._dumps.get("trade_cal")
        return frozenset(Calendar.from_trade_cal(dump.rows(None)).sessions) if dump else None

    def _describe(self, spec: TableSpec, sessions: frozenset[date] | None) -> tuple[object, ...]:
        dump = self._dumps.get(spec.name)
        if dump is None:
            return spec.name, False, 0, 0, None, None, None, None, [], []
        if spec.event is None:
            rows = dump.collect(dump.scan.select(pl.len())).item()
            return spec.name, True, len(dump.files), rows, None, None, None, None, dump.missing, dump.extra
        days = dump.days["day"].drop_nulls()
        off = None if sessions is None else sum(day not in sessions for day in days)
        return (
            spec.name, True, len(dump.files), dump.days["rows"].sum(), days.min(), days.max(), len(days), off,
            dump.missing, dump.extra,
        )

    def _complete(
        self, spec: TableSpec, rows: pl.DataFrame, sessions: Sequence[date]
    ) -> tuple[tuple[date, ...], list[str]]:
        """Sessions with rows; where none are needed, sessions inside the folder's span."""
        if spec.event is None:
            return tuple(sessions), []
        sparse = spec.may_be_empty or spec.affected_only
        first, last = self.span(None if sparse else spec.name)
        inside = [day for day in sessions if first <= day <= last]
        found = set(rows.select(spec.event_day()).to_series())
        empty = [day for day in inside if day not in found and not sparse]
        outside = [day for day in sessions if not first <= day <= last]
        notes = [f"{spec.name}: no rows on the open {shown(empty)}"] if empty else []
        if outside:
            notes.append(f"{spec.name}: the dump's {first}..{last} does not reach {shown(outside)}")
        return tuple(day for day in inside if day not in set(empty)), notes
