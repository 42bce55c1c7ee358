"""A small vendor table, one that is fetched by code, and a snapshot; and the instants around their rules."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import polars as pl

from pipeline.tables.known import Published
from pipeline.tables.spec import Column, TableSpec

MONDAY, TUESDAY, WEDNESDAY = date(2024, 1, 29), date(2024, 1, 30), date(2024, 2, 1)
RULE = time(17, 0)


def _spec(name: str, **changes) -> TableSpec:
    settings = {
        "vendor": "vendor", "name": name, "summary": "made up", "key": ("day", "code"), "event": "day",
        "layout": "session", "fetch_by": "session", "row_cap": 100, "zone": "UTC",
        "known": Published(RULE, ("day",)),
        "columns": (Column("day", pl.Date(), nullable=False), Column("code", pl.String(), nullable=False),
                    Column("value", pl.Float64())),
    }
    return TableSpec(**{**settings, **changes})


BARS = _spec("bars")
BY_CODE = _spec("by_code", fetch_by="instrument")
LISTINGS = _spec("listings", key=("code",), event=None, layout="snapshot", fetch_by="snapshot")
HALTS = _spec("halts", key=("day", "code", "timing"), columns=(
    Column("day", pl.Date(), nullable=False), Column("code", pl.String(), nullable=False),
    Column("timing", pl.String()), Column("value", pl.Float64())))
MINUTES = _spec(
    "minutes", key=("code", "at"), event="at", fetch_by="instrument", known=Published(RULE, ("at",)),
    columns=(Column("code", pl.String(), nullable=False), Column("at", pl.Datetime("us"), nullable=False),
             Column("value", pl.Float64())))


def due(day: date) -> datetime:
    """When a row of a day is known by rule."""
    return datetime.combine(day, RULE, UTC)


def after(day: date, hours: float = 1.0) -> datetime:
    """Hours after the rule's instant of a day; negative before it."""
    return due(day) + timedelta(hours=hours)


def bars(*rows: tuple[date, str, float | None], spec: TableSpec = BARS) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=spec.schema, orient="row")
