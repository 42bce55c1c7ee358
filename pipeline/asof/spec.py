"""What a study says about its market and its universe."""

from __future__ import annotations

from datetime import time

from pydantic import Field

from pipeline.spec import Spec


class MarketSpec(Spec):
    """A market: its vendor, calendar, zone and the daily decision time."""

    vendor: str
    exchange: str
    zone: str
    decision_time: time
    bars_per_session: int = Field(gt=0)
    benchmark: str
    sessions_per_year: int = 252


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
