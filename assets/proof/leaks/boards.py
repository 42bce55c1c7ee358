"""Raw rows around the opening of the Beijing exchange, whose names carry older listing days of their former layer."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import polars as pl

from pipeline.asof.spec import MarketSpec, UniverseSpec
from pipeline.calendars import Calendar
from pipeline.study import Study

CODES = ("830799.BJ", "600000.SH")
FIRST, LAST = date(2021, 11, 8), date(2021, 11, 19)
SELECT_LAYER = date(2020, 7, 27)

Market = tuple[dict[str, pl.DataFrame], Calendar, list[date], MarketSpec, UniverseSpec]


def old_bse_market(study: Study) -> Market:
    """What `build_panel` reads: two weeks of bars of two names, one of them on the board that opens in between."""
    assert isinstance(study.universe, UniverseSpec)
    days = [day for i in range(60) if (day := FIRST - timedelta(days=30) + timedelta(days=i)).weekday() < 5]
    sessions = [day for day in days if FIRST <= day <= LAST]
    rows = [(code, day) for code in CODES for day in sessions]
    prices = dict.fromkeys(("open", "high", "low", "close", "pre_close"), 10.0) | {"vol": 100.0, "amount": 1000.0}
    bars = pl.DataFrame(rows, schema={"ts_code": pl.String, "trade_date": pl.Date}, orient="row").with_columns(
        known_at=_utc(pl.col("trade_date"), time(9, 0)), knowledge=pl.lit("rule")
    )
    basic = pl.DataFrame({"ts_code": CODES, "list_date": [SELECT_LAYER] * 2}).with_columns(
        delist_date=pl.lit(None, pl.Date),
        known_at=pl.lit(datetime(2020, 7, 27, tzinfo=UTC)).cast(pl.Datetime("us", "UTC")),
        knowledge=pl.lit("rule"),
    )
    raw = {
        "stock_basic": basic,
        "daily": bars.with_columns(pl.lit(value).alias(name) for name, value in prices.items()),
        "adj_factor": bars.with_columns(adj_factor=pl.lit(1.0)),
    }
    return raw, Calendar(tuple(days), days[-1]), sessions, study.market, study.universe


def _utc(day: pl.Expr, at: time) -> pl.Expr:
    return day.dt.combine(at, "us").dt.replace_time_zone("UTC")
