"""What a vendor ships: a table's key, columns, units and time rules, and the checks that follow from them.

No vendor is named here (see `tushare.py`) and nothing is fetched: rows come in as JSON or as a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import pairwise
from typing import Any, Literal

import polars as pl

from pipeline.calendars import Calendar
from pipeline.errors import BadInput, CalendarError, KeyViolation, SchemaError
from pipeline.tables.conversion import convert, from_json
from pipeline.tables.known import KnownRule

Params = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Column:
    """One column as the vendor ships it.

    Parameters
    ----------
    name : str
        The vendor's name.
    dtype : polars data type
        Our type; the vendor's date text becomes Date, minute stamps a local naive Datetime.
    unit : str
        The vendor's unit; values are never rescaled here.
    nullable : bool
        False: a null is an error. A nullable key column counts null as a value of its own.
    default : bool
        False: the vendor sends it only when it is asked for by name.
    required : bool
        False: an imported dump may lack it; it becomes null and is reported.
    documented : bool
        False: only secondary sources name it, so even the vendor's own answer may lack it.
    known : KnownRule, optional
        When this column of the row could be known; None: with the row.
    """

    name: str
    dtype: pl.DataType
    unit: str = ""
    nullable: bool = True
    default: bool = True
    required: bool = True
    documented: bool = True
    known: KnownRule | None = None


@dataclass(frozen=True)
class TableSpec:
    """One vendor table.

    Parameters
    ----------
    vendor, name : str
        The asset key; `name` is also the vendor's interface.
    key : tuple of str
        Columns that identify a row; rows are stored in this order.
    columns : tuple of Column
        In declared order.
    known : KnownRule
        When a row could be known.
    event : str or None
        Date or Datetime column of the day a row belongs to; None for snapshots.
    layout : {"session", "snapshot"}
        Rows of a day, or one current state of everything.
    fetch_by : {"session", "snapshot", "instrument", "index"}
        What one request covers.
    row_cap : int
        Most rows the vendor puts in one answer.
    zone : str
        The vendor's wall clock.
    calls_per_minute : int, optional
        The table's own limit, where the vendor names one.
    summary : str
        What the table holds, in a line.
    requests : tuple of Params
        Fixed parameters; the answers to all of them together are the table. The first one must have rows.
    may_be_empty : bool
        An open session may have no rows.
    affected_only : bool
        Rows exist only for affected names, so a dump of part of the market may have none on a session.
    announces_future : bool
        Rows may lie after today.
    natural_days : str
        Date column that must have every natural day between its ends.
    session_known : KnownRule, optional
        When the last row of a day could be known, where rows become known through the day; None: as `known`.
    prefer : tuple of str
        Columns that choose between rows of one key (smallest, null last); empty: such rows are an error.
    """

    vendor: str
    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    known: KnownRule
    event: str | None
    layout: Literal["session", "snapshot"]
    fetch_by: Literal["session", "snapshot", "instrument", "index"]
    row_cap: int
    summary: str
    zone: str = "Asia/Shanghai"
    calls_per_minute: int | None = None
    requests: tuple[Params, ...] = ((),)
    may_be_empty: bool = False
    affected_only: bool = False
    announces_future: bool = False
    natural_days: str = ""
    session_known: KnownRule | None = None
    prefer: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in declared order: all of them, also those the vendor sends only when asked."""
        return tuple(column.name for column in self.columns)

    @property
    def schema(self) -> dict[str, pl.DataType]:
        return {column.name: column.dtype for column in self.columns}

    def empty(self) -> pl.DataFrame:
        """No rows, declared columns."""
        return pl.DataFrame(schema=self.schema)

    def event_day(self) -> pl.Expr:
        """The day of a row, as Date."""
        if self.event is None:
            raise BadInput(f"{self.name} must have an event column to be read by day", None, "read it whole")
        return pl.col(self.event).cast(pl.Date)

    def parse(self, fields: Sequence[str], items: Sequence[Sequence[Any]]) -> pl.DataFrame:
        """A JSON answer as a typed frame; column by column, in the server's order, never as row dicts.

        Parameters
        ----------
        fields : sequence of str
            The server's column names.
        items : sequence of rows
            Lists as long as `fields`.

        Raises
        ------
        SchemaError
            An unknown, doubled or missing column, a ragged row, or a value of another type; named.
        """
        if not fields and not items:
            return self.empty()
        missing = [c.name for c in self.columns if c.documented and c.name not in fields]
        self._refuse_columns(fields, missing)
        try:
            values = list(zip(*items, strict=True)) or [()] * len(fields)
        except (ValueError, TypeError) as error:
            raise SchemaError(f"{self.name}: every row must have {len(fields)} values", str(error),
                              "the answer was cut or altered on its way; fetch it again") from None
        if len(values) != len(fields):
            raise SchemaError(f"{self.name}: every row must have {len(fields)} values", len(values),
                              "the answer was cut or altered on its way; fetch it again")
        schema = self.schema
        raw = [from_json(name, column, schema[name]) for name, column in zip(fields, values, strict=True)]
        return self._assemble(convert(pl.DataFrame(raw), schema, self.zone))

    def typed(self, frame: pl.DataFrame) -> pl.DataFrame:
        """An imported frame in declared order and types; optional columns that it lacks are null.

        Raises
        ------
        SchemaError
            An unknown column, a missing required column, or a value of another type; named.
        """
        missing = [c.name for c in self.columns if c.required and c.name not in frame.columns]
        self._refuse_columns(frame.columns, missing)
        return self._assemble(convert(frame, self.schema, self.zone))

    def check(
        self, frame: pl.DataFrame, *, today: date | None = None, calendar: Calendar | None = None
    ) -> None:
        """Refuse rows that cannot be true of this table.

        Parameters
        ----------
        frame : DataFrame
            Typed rows.
        today : date, optional
            Day after which no row may lie, unless the vendor announces rows ahead.
        calendar : Calendar, optional
            Rows of session tables must lie on its sessions.

        Raises
        ------
        KeyViolation
            A null or doubled key.
        BadInput
            A null where none may be, or a day in the future.
        CalendarError
            A day that is no session, or a gap in a table of natural days.
        """
        self._check_nulls(frame)
        doubled = frame.select(self.key).is_duplicated()
        if doubled.any():
            raise KeyViolation(f"{self.name}: the key {list(self.key)} must be unique",
                               frame.filter(doubled).select(self.key).row(0), "keep one row per key")
        if self.event is not None and not frame.is_empty():
            days = frame.select(self.event_day()).to_series().unique().sort().to_list()
            self._check_days(days, today, calendar)
        if self.natural_days and not frame.is_empty():
            self._check_gaps(frame[self.natural_days].unique().sort().to_list())

    def settle(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Rows in key order without exact repeats; where the table has `prefer`, one row a key."""
        order = [*self.key, *self.prefer]
        rows = frame.unique(maintain_order=True).sort(order, nulls_last=True, maintain_order=True)
        return rows.unique(self.key, keep="first", maintain_order=True) if self.prefer else rows

    def known_at(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame with `known_at` (Datetime us UTC): when, by the table's rule, a row could be known."""
        return frame.with_columns(self.known.instant(self.zone).alias("known_at"))

    def published_at(self, day: date) -> datetime:
        """The instant, in UTC, from which the rows of a session can be asked for."""
        return self._instants([day])[0]

    def published(self, days: Sequence[date], now: datetime) -> list[date]:
        """Those of the days whose rows can be asked for at an aware instant; one pass, 400 days in 0.5 ms."""
        return [day for day, at in zip(days, self._instants(days), strict=True) if at <= now]

    def _instants(self, days: Sequence[date]) -> list[datetime]:
        if self.event is None:
            raise BadInput(f"{self.name} must have an event column to have sessions", None, "read it whole")
        rows = pl.DataFrame({self.event: pl.Series(days, dtype=pl.Date).cast(self.schema[self.event])})
        return rows.select((self.session_known or self.known).instant(self.zone)).to_series().to_list()

    def seen_at(self, frame: pl.DataFrame, instant: datetime) -> pl.DataFrame:
        """What a reader at an aware instant could see by rule: rows known by then, later columns null."""
        at = pl.lit(instant).cast(pl.Datetime("us", "UTC"))
        masks = [
            pl.when(column.known.instant(self.zone) <= at).then(pl.col(column.name)).alias(column.name)
            for column in self.columns if column.known is not None
        ]
        return frame.filter(self.known.instant(self.zone) <= at).with_columns(masks)

    def _refuse_columns(self, present: Sequence[str], missing: Sequence[str]) -> None:
        unknown = [name for name in present if name not in self.names]
        if unknown:
            raise SchemaError(f"{self.name} has only the columns {list(self.names)}", f"unknown {unknown}",
                              "declare the new column in the table's spec, or drop it from the dump")
        if len(set(present)) != len(present):
            raise SchemaError(f"{self.name}: column names must be unique", sorted(present), "drop the repeat")
        if missing:
            raise SchemaError(f"{self.name} needs the columns {list(self.names)}", f"missing {list(missing)}",
                              "the vendor dropped a column, or the dump was made without it")

    def _assemble(self, frame: pl.DataFrame) -> pl.DataFrame:
        present = set(frame.columns)
        return frame.select(
            c.name if c.name in present else pl.repeat(None, pl.len(), dtype=c.dtype).alias(c.name)
            for c in self.columns
        )

    def _check_nulls(self, frame: pl.DataFrame) -> None:
        for column in self.columns:
            if column.nullable or frame[column.name].null_count() == 0:
                continue
            row = frame.filter(pl.col(column.name).is_null()).select(self.key).row(0)
            kind = KeyViolation if column.name in self.key else BadInput
            raise kind(f"{self.name}: {column.name} must not be null", dict(zip(self.key, row, strict=True)),
                       "drop the row from the dump, or report it to the vendor")

    def _check_days(self, days: list[date], today: date | None, calendar: Calendar | None) -> None:
        if today is not None and days[-1] > today and not self.announces_future:
            raise BadInput(f"{self.name}: no row may lie after today ({today})", days[-1],
                           "check the machine's clock, or drop rows that are not history")
        if calendar is not None:
            calendar.ordinals(days)

    def _check_gaps(self, days: list[date]) -> None:
        for before, after in pairwise(days):
            if (after - before).days != 1:
                raise CalendarError(
                    f"{self.name}: every natural day from {days[0]} to {days[-1]} must have a row",
                    f"nothing between {before} and {after}", "fetch it again",
                )
