"""Trading sessions of a market, and arithmetic in sessions instead of days."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import numpy as np
import polars as pl

from pipeline.errors import CalendarError


@dataclass(frozen=True)
class Calendar:
    """The open sessions of one market, ascending.

    Parameters
    ----------
    sessions : tuple of date
        Every open session the vendor's calendar knows, past and announced.
    known_until : date
        Last natural day the calendar covers; nothing is guessed beyond it.
    """

    sessions: tuple[date, ...]
    known_until: date

    def __post_init__(self) -> None:
        if not self.sessions:
            raise CalendarError("a calendar needs at least one open session", 0, "fetch trade_cal first")
        if any(b <= a for a, b in zip(self.sessions, self.sessions[1:], strict=False)):
            raise CalendarError("sessions must be strictly ascending", "unsorted or doubled days")

    @classmethod
    def from_trade_cal(cls, frame: pl.DataFrame) -> Calendar:
        """From rows of Tushare's `trade_cal` (typed: `cal_date` Date, `is_open` integer)."""
        rows = frame.sort("cal_date")
        opened = rows.filter(pl.col("is_open") == 1)["cal_date"].unique(maintain_order=True)
        if rows.is_empty():
            raise CalendarError("trade_cal must not be empty", 0, "fetch trade_cal first")
        return cls(tuple(opened.to_list()), rows["cal_date"].max())  # type: ignore[arg-type]

    @cached_property
    def _ordinals(self) -> dict[date, int]:
        return {day: i for i, day in enumerate(self.sessions)}

    @cached_property
    def days(self) -> np.ndarray:
        """`datetime64[D]` array of the sessions."""
        return np.array(self.sessions, dtype="datetime64[D]")

    def __contains__(self, day: object) -> bool:
        return day in self._ordinals

    def ordinal(self, day: date) -> int:
        """Position of an open session; an error for any other day."""
        try:
            return self._ordinals[day]
        except KeyError:
            raise CalendarError(
                "the day must be an open session of the calendar", day.isoformat(),
                f"sessions run {self.sessions[0]}..{self.sessions[-1]}, calendar known until {self.known_until}",
            ) from None

    def session(self, ordinal: int) -> date:
        """The session at an ordinal; an error past the known calendar."""
        if not 0 <= ordinal < len(self.sessions):
            raise CalendarError("the ordinal must lie inside the known calendar", ordinal,
                                "refresh trade_cal: holidays beyond it are not announced")
        return self.sessions[ordinal]

    def shift(self, day: date, steps: int) -> date:
        """The session `steps` sessions after (before, if negative) an open session."""
        return self.session(self.ordinal(day) + steps)

    def between(self, start: date, end: date) -> list[date]:
        """Open sessions with `start <= session <= end`."""
        lo, hi = np.searchsorted(self.days, [np.datetime64(start), np.datetime64(end)], side="left")
        hi = int(hi) + (int(hi) < len(self.days) and self.sessions[int(hi)] == end)
        return list(self.sessions[int(lo):hi])

    def latest(self, day: date) -> date:
        """The last open session at or before a natural day."""
        i = int(np.searchsorted(self.days, np.datetime64(day), side="right")) - 1
        return self.session(i)

    def ordinals(self, days: pl.Series | Sequence[date] | np.ndarray) -> np.ndarray:
        """int32 ordinals of many sessions; -1 for null; an error for a day that is no session."""
        values = np.asarray(days.to_numpy() if isinstance(days, pl.Series) else days, dtype="datetime64[D]")
        missing = np.isnat(values)
        found = np.searchsorted(self.days, np.where(missing, self.days[0], values))
        clipped = np.minimum(found, len(self.days) - 1)
        wrong = ~missing & (self.days[clipped] != values)
        if wrong.any():
            raise CalendarError("every day must be an open session of the calendar", str(values[wrong][0]),
                                "quarantine the row or refresh trade_cal")
        return np.where(missing, -1, clipped).astype(np.int32)
