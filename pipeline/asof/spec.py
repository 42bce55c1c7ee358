"""What a study says about its market and its universe."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import Field

from pipeline.clock import instant
from pipeline.spec import Spec


class MarketSpec(Spec):
    """A market: its vendor, calendar, zone and decision time.

    Parameters
    ----------
    decides : str
        How often a decision falls: once a session, or at every minute's close. A session of minutes is one UTC day.
    decision_time : time
        Local time at which a session's inputs are frozen; of minutes, when the whole day is at hand.
    decision_days_later : int
        Natural days after the session at which that time falls.
    benchmark : str
        Code of an index; empty where there is none.
    """

    vendor: str
    exchange: str
    zone: str
    decides: Literal["session", "minute"] = "session"
    decision_time: time
    decision_days_later: int = Field(default=0, ge=0)
    bars_per_session: int = Field(gt=0)
    benchmark: str = ""
    sessions_per_year: int = 252

    def decided_at(self, session: date) -> datetime:
        """The UTC instant at which a session's inputs are frozen."""
        day = session + timedelta(days=self.decision_days_later)
        return instant(day, self.decision_time, ZoneInfo(self.zone))


class TableUse(Spec):
    """A vendor table a study reads; `loses` says what goes when an optional one is absent."""

    table: str
    required: bool = True
    loses: str = ""


class UniverseSpec(Spec):
    """Who may be scored. Every exclusion is a row with its reason."""

    boards: tuple[str, ...]
    seasoning_sessions: int = Field(default=60, ge=0)
    exclude_st: bool = True


class SymbolsSpec(Spec):
    """Who may be scored: the named symbols."""

    symbols: tuple[str, ...] = Field(min_length=1)
