"""Small markets for backtest tests: quotes of every kind, and the flags that follow from them."""

from __future__ import annotations

from datetime import date, timedelta

import polars as pl

from pipeline.backtests.market import Market
from pipeline.calendars import Calendar
from pipeline.frames import Hindsight

SCHEMA = {
    "session": pl.Date,
    "instrument": pl.String,
    "board": pl.String,
    "industry": pl.String,
    "open": pl.Float64,
    "close": pl.Float64,
    "factor": pl.Float64,
    "amount": pl.Float64,
    "up_limit": pl.Float64,
    "down_limit": pl.Float64,
    "suspended": pl.Boolean,
    "total_mv": pl.Float64,
    "open_block": pl.String,
    "close_block": pl.String,
}


def weekdays(n: int, start: date = date(2024, 1, 1)) -> list[date]:
    """The first `n` weekdays from a day on."""
    found, day = [], start
    while len(found) < n:
        if day.weekday() < 5:
            found.append(day)
        day += timedelta(1)
    return found


def calendar_of(days: list[date]) -> Calendar:
    return Calendar(tuple(days), days[-1])


def row(
    day: date,
    instrument: str,
    kind: str = "normal",
    open: float = 10.0,
    close: float = 10.0,
    factor: float = 1.0,
    **more: object,
) -> dict:
    """One panel row; `kind` makes it untradable at the open, the close or all day, quotes to match."""
    block = {"suspended": "suspended", "no_amount": "no_amount", "invalid": "invalid_quote"}.get(kind)
    sides = {"open": open, "close": close}
    limits = {"up_limit": max(open, close) + 5, "down_limit": min(open, close) - min(open, close) / 2}
    if kind in ("open_up", "close_up"):
        limits["up_limit"] = sides[kind.split("_")[0]]
    if kind in ("open_down", "close_down"):
        limits["down_limit"] = sides[kind.split("_")[0]]

    def at_limit(price: float) -> str | None:
        sides_hit = [side for side in ("up", "down") if abs(price - limits[f"{side}_limit"]) < 0.005]
        return f"limit_{sides_hit[0]}" if sides_hit else None

    unknown = kind in ("suspended", "invalid")
    return (
        dict(
            session=day,
            instrument=instrument,
            board="main",
            industry="Banks",
            open=None if unknown else open,
            close=None if unknown else close,
            factor=factor,
            amount=0.0 if kind in ("suspended", "no_amount") else 1e8,
            suspended=kind == "suspended",
            total_mv=1e10,
            **limits,
            open_block=block or at_limit(open),
            close_block=block or at_limit(close),
        )
        | more
    )


def panel_of(rows: list[dict]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA).sort("session", "instrument")


def flat_panel(days: list[date], names: list[str], **kinds: dict) -> pl.DataFrame:
    """Every name at 10.0 on every day, except where `special[(name, place)]` differs (None: no row)."""
    special = kinds.get("special", {})
    rows = []
    for place, day in enumerate(days):
        for name in names:
            what = special.get((name, place), {})
            if what is not None:
                rows.append(row(day, name, **what))
    return panel_of(rows)


def market_of(panel: pl.DataFrame, days: list[date]) -> Market:
    return Market.from_hindsight(Hindsight(panel), calendar_of(days))


def orders_of(chosen: dict[date, list[str]], top_k: int) -> pl.DataFrame:
    """Decision day -> names in rank order, each of weight 1 / top_k."""
    rows = [
        (day, rank, name, 1.0 / top_k) for day, names in sorted(chosen.items()) for rank, name in enumerate(names, 1)
    ]
    schema = {"session": pl.Date, "rank": pl.Int32, "instrument": pl.String, "weight": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")
