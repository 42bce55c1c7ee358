"""When a vendor's row could be known: publication rules as expressions over the row, free of any vendor."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, time
from typing import Protocol

import polars as pl


class KnownRule(Protocol):
    """Something that gives the UTC instant at which a row, or one of its columns, could be known."""

    def instant(self, zone: str) -> pl.Expr: ...


@dataclass(frozen=True)
class Published:
    """Known from a wall time on a day that the row itself carries.

    Parameters
    ----------
    at : time
        Wall time in the vendor's zone; the late end of the documented range.
    day : tuple of str
        Date or Datetime columns; the first one that is not null counts.
    days : int
        Natural days added to that day.
    truncate : str
        Polars interval the day is cut to first: `1y` with `days=-1` is the last day of the year before.
    not_before : date, optional
        First day on which the vendor published the table at all; earlier rows were mapped back.
    """

    at: time
    day: tuple[str, ...]
    days: int = 0
    truncate: str = "1d"
    not_before: date | None = None

    def instant(self, zone: str) -> pl.Expr:
        day = pl.coalesce([pl.col(c).cast(pl.Date) for c in self.day]).dt.truncate(self.truncate)
        if self.not_before is not None:
            day = pl.when(day < self.not_before).then(pl.lit(self.not_before)).otherwise(day)
        local = day.cast(pl.Datetime("us")) + pl.duration(
            days=self.days, hours=self.at.hour, minutes=self.at.minute, seconds=self.at.second
        )
        # An hour that daylight saving repeats is taken at its later end: never too early.
        return local.dt.replace_time_zone(zone, ambiguous="latest").dt.convert_time_zone("UTC")


@dataclass(frozen=True)
class Elapsed:
    """Known a fixed time after an instant that the row itself carries.

    Parameters
    ----------
    column : str
        Datetime column, local to the vendor's zone.
    seconds : int
    """

    column: str
    seconds: int = 0

    def instant(self, zone: str) -> pl.Expr:
        local = pl.col(self.column).cast(pl.Datetime("us")) + pl.duration(seconds=self.seconds)
        return local.dt.replace_time_zone(zone, ambiguous="latest").dt.convert_time_zone("UTC")


@dataclass(frozen=True)
class Never:
    """Never known as of a day: the vendor overwrites the value and keeps no history of it."""

    def instant(self, zone: str) -> pl.Expr:
        return pl.lit(None, dtype=pl.Datetime("us", "UTC"))


NEVER = Never()
