"""The panel on data that nobody here made: plumbing, sane counts, rules that real prices obey."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from pipeline.asof.panel import PanelTables, build_panel, dense, summary
from pipeline.asof.rules import TICK
from pipeline.calendars import Calendar
from pipeline.tables.tushare import TABLES
from tests.asof.markets import MARKET, UNIVERSE

ROOT = Path(os.environ.get("FOLDGATE_REALDATA", Path(__file__).parents[2] / "../shared/data"))
pytestmark = pytest.mark.realdata


def folder(name: str) -> Path:
    if not (ROOT / name).exists():
        pytest.skip(f"no real data: {ROOT / name} is missing (set FOLDGATE_REALDATA)")
    return ROOT / name


@pytest.fixture(scope="module")
def market() -> tuple[dict[str, pl.DataFrame], Calendar]:
    files = folder("tushare_csi300")
    raw = {path.stem: TABLES[path.stem].typed(pl.read_parquet(path)) for path in files.glob("*.parquet")}
    known = {
        name: TABLES[name].known_at(rows).with_columns(knowledge=pl.lit("rule")) for name, rows in raw.items()
    }
    return known, Calendar.from_trade_cal(raw["trade_cal"])


def month(market: tuple[dict[str, pl.DataFrame], Calendar], first: date, last: date) -> PanelTables:
    raw, calendar = market
    days = calendar.between(first, last)
    own = {
        name: rows.filter(pl.col("trade_date").is_between(days[0], days[-1]))
        if "trade_date" in rows.columns
        else rows
        for name, rows in raw.items()
    }
    return build_panel(own, calendar, days, MARKET, UNIVERSE.model_copy(update={"seasoning_sessions": 60}))


@pytest.mark.parametrize(
    ("first", "last", "listed"),
    [
        (date(2020, 1, 1), date(2020, 1, 31), 266),
        (date(2021, 6, 1), date(2021, 6, 30), 283),
        (date(2023, 12, 1), date(2023, 12, 31), 298),
    ],
)
def test_months_build_with_sane_counts(market, first, last, listed):
    """Pins: a real dump with absent tables that breaks the build, or empties the universe."""
    tables = month(market, first, last)
    counts = summary(tables.panel)
    assert counts["listed"][-1] == listed
    assert counts["eligible"].min() > 0.95 * listed
    assert tables.patches.is_empty()
    assert set(tables.quarantine["rule"]) <= {"unknown_code"}  # 688472.SH trades and is not in stock_basic
    assert dense(tables.panel.frame, ["close"]).values["close"].shape == (
        tables.panel.frame["instrument"].n_unique(),
        len(counts),
    )


def test_four_years_of_real_prices_stay_inside_the_dated_limits(market):
    """Pins: a percentage, a date, a rounding or a free day that real trading contradicts."""
    panel = month(market, date(2020, 1, 1), date(2023, 12, 31)).panel.frame.filter(
        pl.col("up_limit").is_not_null()
    )
    outside = panel.filter(
        (pl.col("high") > pl.col("up_limit") + TICK / 2) | (pl.col("low") < pl.col("down_limit") - TICK / 2)
    )
    assert len(panel) > 275_000
    # 000792.SZ returns from a suspended listing: a day without limit that no table here announces.
    assert outside.select("session", "instrument").rows() == [(date(2021, 8, 10), "000792.SZ")]
    assert (panel["high"] - panel["up_limit"]).abs().lt(TICK / 2).sum() > 3_000


def test_dirty_prices_are_quarantined_by_name_and_never_eligible():
    """Pins: a negative adjusted price that reaches training."""
    rows = pl.read_parquet(folder("dirty") / "daily_negative_prices.parquet")
    suffix = pl.when(pl.col("code").str.starts_with("6")).then(pl.lit(".SH")).otherwise(pl.lit(".SZ"))
    daily = rows.select(
        ts_code=pl.col("code") + suffix,
        trade_date="date",
        open="open",
        high="high",
        low="low",
        close="close",
        pre_close=pl.lit(None, pl.Float64),
        vol=pl.col("volume"),
        amount=pl.col("amount") / 1000,
    )
    daily = TABLES["daily"].known_at(daily)
    days = daily["trade_date"].unique().sort().to_list()
    names = (
        daily.select("ts_code")
        .unique()
        .with_columns(list_date=pl.lit(date(1995, 1, 4)), known_at=pl.lit(daily["known_at"].min()))
    )
    factors = daily.select("ts_code", "trade_date", "known_at", adj_factor=pl.lit(1.0))
    raw = {"daily": daily, "stock_basic": names, "adj_factor": factors}
    tables = build_panel(raw, Calendar(tuple(days), days[-1]), days, MARKET, UNIVERSE)
    bad = daily.filter(pl.min_horizontal("open", "high", "low", "close") <= 0).select(
        session="trade_date", instrument="ts_code"
    )
    named = tables.quarantine.filter(pl.col("rule") == "invalid_quote").select("session", "instrument")
    assert bad["instrument"].n_unique() == 12  # eleven by the close, one more by open and low
    assert bad.join(named, on=["session", "instrument"], how="anti").is_empty()
    held = tables.panel.frame.join(bad, on=["session", "instrument"])
    assert len(held) == len(bad)
    assert not held["eligible"].any()
    assert held.select("open", "close", "volume").null_count().row(0) == (len(bad),) * 3
    assert tables.panel.frame.select(pl.col("open", "high", "low", "close").min()).row(0) > (0.0,) * 4
