"""The market behind the tables: limits, suspensions, ex-rights, listings, statistics, minutes."""

from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl
import pytest

from pipeline.errors import BadInput
from pipeline.simulation.market import SimulatedMarket, simulate
from pipeline.simulation.profiles import PROFILES


def bars(market: SimulatedMarket) -> pl.DataFrame:
    """Newest daily bars beside their limits and factors."""
    key = ["trade_date", "ts_code"]
    daily, factor, limit = (
        market.tables[name].unique(key, keep="last", maintain_order=True).drop("published_at")
        for name in ("daily", "adj_factor", "stk_limit")
    )
    joined = daily.join(limit.drop("pre_close"), on=key, how="left").join(factor, on=key, how="left")
    return joined.sort("ts_code", "trade_date")


def test_same_profile_same_market_other_seed_other_market(tiny: SimulatedMarket) -> None:
    """Pins hidden state: a market must follow from its profile alone."""
    again = simulate(PROFILES["tiny"])
    other = simulate(PROFILES["tiny"].model_copy(update={"seed": 1}))
    assert all(tiny.tables[name].equals(again.tables[name]) for name in tiny.tables)
    assert not tiny.tables["daily"].equals(other.tables["daily"])


def test_prices_obey_limits_and_form_valid_bars(demo: SimulatedMarket) -> None:
    """Pins a bar outside its limits, an open or close outside its range, or a price off the tick."""
    rows = bars(demo)
    inside = (pl.col("high") <= pl.col("up_limit")) & (pl.col("low") >= pl.col("down_limit"))
    valid = (pl.col("low") <= pl.min_horizontal("open", "close")) & (
        pl.col("high") >= pl.max_horizontal("open", "close")
    )
    ticks = {name: (pl.col(name) * 100).round() for name in ("low", "high")}  # lots x ticks is CNY
    paid = (pl.col("amount") * 1000).round()
    fair = paid.is_between(ticks["low"] * pl.col("vol"), ticks["high"] * pl.col("vol"))
    assert rows.filter(~(inside & valid & fair & (pl.col("vol") > 0))).is_empty()
    close = rows["close"].to_numpy()
    assert (np.round(close * 100) / 100 == close).all()


def test_share_of_untradable_opens_and_closes(demo: SimulatedMarket) -> None:
    """Pins a market in which fills are never blocked, or blocked far more often than A-share books meet."""
    rows = bars(demo)
    at = [
        ((pl.col(c) >= pl.col("up_limit") - 0.001) | (pl.col(c) <= pl.col("down_limit") + 0.001)).mean().alias(c)
        for c in ("open", "close")
    ]
    shares = rows.select(at).row(0, named=True)
    assert 0.005 < shares["open"] < 0.025
    assert 0.03 < shares["close"] < 0.07
    locked = rows.filter((pl.col("low") == pl.col("high")) & (pl.col("high") == pl.col("up_limit")))
    assert locked.height > 50


def test_factor_jumps_exactly_where_the_reference_leaves_the_close(demo: SimulatedMarket) -> None:
    """Pins an ex-date whose factor and ex-right reference disagree: adjusted returns would jump."""
    rows = (
        bars(demo)
        .with_columns(
            pl.col("close").shift().over("ts_code").alias("before"),
            pl.col("adj_factor").shift().over("ts_code").alias("was"),
        )
        .drop_nulls(["before", "was"])
    )
    ex = rows.filter(pl.col("adj_factor") != pl.col("was"))
    assert ex.height > 50
    expected = rows["before"] * rows["was"] / rows["adj_factor"]
    faults = demo.faults.filter(pl.col("table") == "adj_factor").height
    assert ((expected - rows["pre_close"]).abs() > 0.006).sum() <= 2 * faults


def test_returns_have_fat_tails_clusters_and_a_common_factor(demo: SimulatedMarket) -> None:
    """Pins a market of independent Gaussian walks, on which purging and uncertainty are too easy."""
    wide = bars(demo).pivot("ts_code", index="trade_date", values="pct_chg").sort("trade_date").drop("trade_date")
    returns = wide.select(pl.all().fill_null(0.0)).to_numpy()
    single = (returns - returns.mean(axis=0)) / returns.std(axis=0)
    market = returns.mean(axis=1)
    assert np.median((single**4).mean(axis=0)) > 4.0
    size = np.minimum(np.abs(returns), 8.0)  # limit bands differ by name and would count as clusters
    clusters = [np.corrcoef(x[lag:], x[:-lag])[0, 1] for x in size.T for lag in range(1, 6)]
    assert np.mean(clusters) > 0.08
    assert np.median([np.corrcoef(market, column)[0, 1] for column in returns.T]) > 0.3


def test_volume_is_u_shaped(tiny: SimulatedMarket) -> None:
    """Pins flat intraday volume."""
    by_bar = tiny.minutes().group_by(pl.col("trade_time").dt.time().alias("at")).agg(pl.col("vol").sum()).sort("at")
    volume = by_bar["vol"].to_numpy()
    assert len(volume) == 48
    assert volume[0] > 2 * volume[20:28].mean()
    assert volume[-1] > 1.3 * volume[20:28].mean()


def test_minutes_add_up_exactly_to_the_day(tiny: SimulatedMarket) -> None:
    """Pins minutes that are only about the day: every measure is compared without tolerance."""
    first = tiny.tables["daily"].sort("published_at").unique(["trade_date", "ts_code"], keep="last")
    names = (
        tiny.minutes()
        .group_by("ts_code", pl.col("trade_time").dt.date().alias("trade_date"), maintain_order=True)
        .agg(
            pl.col("open").first(),
            pl.col("high").max(),
            pl.col("low").min(),
            pl.col("close").last(),
            pl.col("vol").sum(),
            pl.col("amount").sum(),
            pl.len(),
        )
    )
    code = {new: old for old, new in tiny.tables["bse_mapping"].select("o_code", "n_code").iter_rows()}
    shares, cny = (first["vol"] * 100).round(), (first["amount"] * 1000).round()
    day = first.with_columns(pl.col("ts_code").replace(code), shares, cny).sort("trade_date", "ts_code")
    measures = ["ts_code", "trade_date", "open", "high", "low", "close", "vol", "amount"]
    assert (names["len"] == 48).all()
    assert names.sort("trade_date", "ts_code").select(measures).equals(day.select(measures))


def test_minutes_do_not_depend_on_what_else_is_asked(demo: SimulatedMarket) -> None:
    """Pins bars drawn from a shared stream: alone, in a batch, and under either BSE code they are the same."""
    old, new = demo.tables["bse_mapping"].select("o_code", "n_code").row(0)
    start, end = demo.sessions[100], demo.sessions[110]
    alone = demo.minutes([old], start, end).drop("ts_code")
    batch = demo.minutes([demo.tables["stock_basic"]["ts_code"][0], old, new], demo.sessions[90], demo.sessions[120])
    inside = pl.col("trade_time").dt.date().is_between(start, end)
    for code in (old, new):
        assert batch.filter((pl.col("ts_code") == code) & inside).drop("ts_code").equals(alone)
    assert demo.minutes(["999999.SH"], start, end).is_empty()


def test_too_many_minutes_at_once_are_refused(demo: SimulatedMarket) -> None:
    """Pins an innocent call that would fill the memory."""
    codes = demo.tables["stock_basic"]["ts_code"].to_list() * 20
    with pytest.raises(BadInput, match="600,000"):
        demo.minutes(codes)


def test_suspended_names_have_no_bar_but_a_row(demo: SimulatedMarket) -> None:
    """Pins bars on suspended days, a suspension without its row, and a resumption that nobody announces."""
    key = ["trade_date", "ts_code"]
    halted = demo.tables["suspend_d"].filter(pl.col("suspend_timing").is_null())
    stopped = halted.filter(pl.col("suspend_type") == "S")
    resumed = halted.filter(pl.col("suspend_type") == "R")
    assert stopped.height > 100
    assert stopped.join(demo.tables["daily"], on=key, how="semi").is_empty()
    assert resumed.join(demo.tables["daily"], on=key, how="anti").is_empty()
    missing = demo.tables["stk_limit"].join(demo.tables["daily"], on=key, how="anti")
    assert missing.join(stopped, on=key, how="anti").is_empty()


@pytest.mark.parametrize("name", ["tiny", "demo"])
def test_every_profile_holds_every_situation(name: str, request: pytest.FixtureRequest) -> None:
    """Pins a profile too small to meet a board, a listing, a delisting, an ST change or an industry change."""
    market: SimulatedMarket = request.getfixturevalue(name)
    basic = market.tables["stock_basic"].unique("ts_code", keep="last", maintain_order=True)
    assert set(basic["market"]) == {"主板", "创业板", "科创板", "北交所"}
    assert basic.filter(pl.col("list_date") > market.sessions[0]).height >= 2
    gone = basic.filter(pl.col("list_status") == "D")
    assert gone.height >= 2
    assert gone.filter(pl.col("name").str.contains("退")).height >= 1
    assert market.tables["index_member_all"].filter(pl.col("is_new") == "N").height >= 1
    assert market.tables["stock_st"]["trade_date"].n_unique() == len(market.sessions)
    assert market.tables["daily_basic"]["pe_ttm"].null_count() > 0
    assert market.tables["bse_mapping"].height >= 1
    st = market.tables["stock_st"].join(market.tables["stk_limit"], on=["trade_date", "ts_code"])
    across = st.filter(pl.col("ts_code").str.contains(r"^(60|00)")).join(
        market.tables["daily"].select("trade_date", "ts_code", reference="pre_close"), on=["trade_date", "ts_code"]
    )
    width = across.with_columns((pl.col("up_limit") / pl.col("reference") - 1).round(2).alias("width"))
    changed = pl.col("trade_date") >= date(2026, 7, 6)
    assert width.filter(~changed)["width"].median() == pytest.approx(0.05)
    assert width.filter(changed & (pl.col("width") < 1))["width"].median() == pytest.approx(0.10)


def test_delisted_names_fall_under_st_before_they_go(demo: SimulatedMarket) -> None:
    """Pins a delisting out of the blue: the price must have fallen, under ST, and no row may follow."""
    gone = demo.tables["stock_basic"].filter(pl.col("list_status") == "D")
    for code, day in gone.select("ts_code", "delist_date").iter_rows():
        rows = demo.tables["daily"].filter(pl.col("ts_code") == code).sort("trade_date")
        assert rows["trade_date"].max() < day
        assert rows["close"][-1] < rows["close"][-50]
        assert demo.tables["stock_st"].filter(pl.col("ts_code") == code).height >= 40
