"""All that is true of one simulated market, before any vendor tells it: who, when, at what price."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cached_property, lru_cache

import numpy as np
import polars as pl

from pipeline.calendars import Calendar
from pipeline.clock import instant
from pipeline.simulation import limits
from pipeline.simulation.character import Character, draw_character
from pipeline.simulation.prices import walk_prices
from pipeline.simulation.profiles import Profile
from pipeline.simulation.securities import Securities, make_securities
from pipeline.simulation.sessions import trading_calendar
from pipeline.simulation.walk import Walk


@dataclass(frozen=True, eq=False)
class World:
    """A market's truth, compared by identity; arrays are [sessions of the sample, instruments]."""

    profile: Profile
    calendar: Calendar
    offset: int  # calendar ordinal of the sample's first session
    securities: Securities
    character: Character
    walk: Walk
    strength: float

    @cached_property
    def days(self) -> list[date]:
        return list(self.calendar.sessions[self.offset : self.offset + self.profile.sessions])

    @cached_property
    def day_series(self) -> pl.Series:
        return pl.Series("trade_date", self.days, dtype=pl.Date)

    @cached_property
    def listed(self) -> np.ndarray:
        """bool: between listing and delisting, traded or suspended."""
        t = np.arange(self.profile.sessions)[:, None]
        return (t >= self.securities.first) & (t <= self.securities.last)

    @cached_property
    def switched(self) -> np.ndarray:
        """Ordinal from which the later code is valid; `sessions` or more where it never is."""
        days = np.array(self.days, dtype="datetime64[D]")
        never = np.isnat(self.securities.switched)
        at = np.searchsorted(days, np.where(never, days[-1] + 1, self.securities.switched))
        return np.where(never, self.profile.sessions, at)

    @cached_property
    def _codes(self) -> pl.Series:
        return pl.Series("ts_code", [*self.securities.code.tolist(), *self.securities.later_code.tolist()])

    def codes(self, t: np.ndarray, i: np.ndarray) -> pl.Series:
        """The code valid on the session for each (session, instrument) pair."""
        return self._codes.gather(i + len(self.securities) * (t >= self.switched[i]))

    def dates(self, t: np.ndarray) -> pl.Series:
        return self.day_series.gather(t)

    def published(self, t: np.ndarray, at: time, sessions_later: int = 0) -> pl.Series:
        """The UTC instant of a wall time on (or some sessions after) each session ordinal."""
        return _instants(self, at, sessions_later).gather(t)

    def limits(self, t: np.ndarray, i: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper limit in ticks for each (session, instrument) pair."""
        return limits.limit_arrays(self.walk.reference[t, i], self.securities.bands[t, i])


@lru_cache(maxsize=64)
def _instants(world: World, at: time, sessions_later: int) -> pl.Series:
    days = world.calendar.sessions[world.offset + sessions_later :][: world.profile.sessions]
    return pl.Series("published_at", [utc(day, at) for day in days], dtype=pl.Datetime("us", "UTC"))


def utc(day: date, at: time) -> datetime:
    """The UTC instant of a Shanghai wall time."""
    return instant(day, at)


def make_world(profile: Profile, strength: float) -> World:
    """The world of a profile; `strength` is the drift over three sessions per unit of the planted signal."""
    calendar, offset = trading_calendar(profile.last_session, profile.sessions)
    days = list(calendar.sessions[offset : offset + profile.sessions])
    rng = np.random.default_rng(profile.seed)
    securities = make_securities(profile, days, calendar.days, rng)
    character = draw_character(profile, securities, rng)
    walk = walk_prices(profile, securities, character, strength)
    return World(profile, calendar, offset, securities, character, walk, strength)


def day_before(day: date) -> date:
    return day - timedelta(days=1)
