"""The only module that may read the wall clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Protocol
from zoneinfo import ZoneInfo

SHANGHAI = ZoneInfo("Asia/Shanghai")


class Clock(Protocol):
    """Something that tells an aware UTC time."""

    def now(self) -> datetime: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


@dataclass
class FixedClock:
    """A clock that stands still until it is moved; for simulations and tests."""

    at: datetime

    def now(self) -> datetime:
        return self.at


def instant(day: date, at: time, zone: ZoneInfo = SHANGHAI) -> datetime:
    """The UTC instant of a local wall time."""
    return datetime.combine(day, at, zone).astimezone(UTC)
