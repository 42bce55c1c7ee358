"""The referee of trades under a price plan: agrees with what was simulated, and finds every kind of fraud."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise

import polars as pl
import pytest

from pipeline.backtests.plan_referee import impossible_trades
from pipeline.errors import KeyViolation
from pipeline.frames import AsOf, Hindsight
from pipeline.labels.path_outcomes import of_side, path_outcomes
from pipeline.labels.price_plan import DYNAMIC, PricePlan
from tests.backtests.minute_books import bars_of, market, traded

PLANS = {
    "fixed": PricePlan(),
    "narrow": PricePlan(target_distance_bps=4, stop_distance_bps=4, max_hold_minutes=7, fee_bps=0, slippage_bps=0),
    "dynamic": PricePlan(entry_plan_method=DYNAMIC, fee_bps=1, slippage_bps=0),
    "taken": PricePlan(entry_plan_method=DYNAMIC, partial_take1_ratio=0.7, partial_take2_ratio=0.3, fee_bps=1,
                       slippage_bps=0, breakeven_after_first_target=False, trailing_stop_bps=4),
}  # fmt: skip
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def bars() -> pl.DataFrame:
    return market(seed=1)


@pytest.fixture(scope="module")
def trades(bars: pl.DataFrame) -> pl.DataFrame:
    """Honest trades of the narrow plan, with a cooldown of two minutes."""
    return traded(bars, PLANS["narrow"], seed=3, cooldown=2)[0]


def rules(trades: pl.DataFrame, bars: pl.DataFrame, name: str = "narrow", cooldown: int = 2) -> list[str]:
    found = impossible_trades(trades, Hindsight(bars), PLANS[name], cooldown)
    assert {"book", "session", "instrument", "minute", "side"} < set(found.columns)
    return found["rule"].unique().sort().to_list()


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("seed", [5, 6])
def test_every_outcome_of_a_market_is_possible(name: str, seed: int) -> None:
    """A referee that is wrong about a barrier, a tie, a take or a midnight, or that sees a gap where there is none."""
    minutes, plan = market(seed), PLANS[name]
    outcomes = path_outcomes(Hindsight(minutes), plan)
    made = pl.concat(every_trade(outcomes, side, plan) for side in ("LONG", "SHORT"))
    assert rules(made, minutes, name, cooldown=0) == []
    seen = [made[hit].any() for hit in ("target_hit", "stop_hit", "timeout_hit")]
    assert all(seen)
    assert (made["entry_at"].dt.date() < made["exit_at"].dt.date()).any()


def every_trade(outcomes: pl.DataFrame, side: str, plan: PricePlan) -> pl.DataFrame:
    """Each minute's outcome as a trade, each in a book of its own."""
    entry, net = pl.col("minute") + MINUTE, pl.col("gross_edge_bps") - plan.cost_bps
    return of_side(outcomes, side).select(
        "session", "instrument", "minute", "gross_edge_bps", pl.col("^(target|stop|timeout)_hit$").cast(pl.Boolean),
        side=pl.lit(side), entry_at=entry, exit_at=entry + pl.duration(milliseconds="time_to_exit_ms"),
        actual_edge_bps=net, planned_ratio=pl.lit(0.2), weighted_edge_bps=0.2 * net,
        minutes_to_exit=pl.col("time_to_exit_ms") / 60_000, price_plan_hash=pl.lit(plan.price_plan_hash),
    ).select(pl.format("{}{}", pl.lit(side), pl.int_range(pl.len())).alias("book"), pl.all())  # fmt: skip


@pytest.mark.parametrize("name", PLANS)
def test_trades_of_a_manager_are_possible(name: str, bars: pl.DataFrame) -> None:
    """Honest trades called overlapping, because another book or symbol holds one, or the cooldown just ended."""
    made, _ = traded(bars, PLANS[name], seed=3, cooldown=2)
    assert made.height > 40
    assert made["book"].n_unique() == made["instrument"].n_unique() == made["side"].n_unique() == 2
    assert rules(made, bars, name) == []


def forged(trades: pl.DataFrame, row: int, **values: pl.Expr) -> pl.DataFrame:
    """One trade with other values."""
    at = pl.int_range(pl.len()) == row
    return trades.with_columns(pl.when(at).then(value).otherwise(pl.col(name)).alias(name)
                               for name, value in values.items())


EXIT = "the exit is when the bars reach it"
FRAUDS: dict[str, tuple[dict[str, pl.Expr], set[str]]] = {
    "exit a minute later": ({"exit_at": pl.col("exit_at") + MINUTE}, {EXIT}),
    "exit a minute earlier": (
        {"exit_at": pl.col("exit_at") - MINUTE, "minutes_to_exit": pl.col("minutes_to_exit") - 1}, {EXIT}),
    "no exit": ({"exit_at": pl.lit(None)}, {EXIT}),
    "a better price": (
        {name: pl.col(name) + 1e-6 for name in ("gross_edge_bps", "actual_edge_bps")},
        {"gross_edge_bps is what the bars and the plan's cost give",
         "actual_edge_bps is what the bars and the plan's cost give",
         "weighted_edge_bps is the net edge times the planned ratio"}),
    "a forgotten cost": (
        {"actual_edge_bps": pl.col("gross_edge_bps"), "weighted_edge_bps":
         pl.col("gross_edge_bps") * pl.col("planned_ratio")},
        {"actual_edge_bps is what the bars and the plan's cost give"}),
    "an edge that is none": (
        {"weighted_edge_bps": pl.lit(float("nan"))}, {"weighted_edge_bps is the net edge times the planned ratio"}),
    "another ending": (
        {"target_hit": ~pl.col("target_hit"), "timeout_hit": pl.col("target_hit")}, {"a trade ends as the bars say"}),
    "entry before the close": (
        {"entry_at": pl.col("minute")}, {"the entry is at the close of the decision minute"}),
    "another day": (
        {"session": pl.col("session") - timedelta(days=1)}, {"the session is the UTC day of the decision minute"}),
    "another plan": ({"price_plan_hash": pl.lit("0" * 64)}, {"a trade was made under this plan"}),
    "no side": ({"side": pl.lit("BOTH")}, {"a side is LONG or SHORT"}),
    "a minute that was none": (
        {"minute": pl.col("minute").dt.offset_by("10y"), "entry_at": pl.col("entry_at").dt.offset_by("10y"),
         "exit_at": pl.col("exit_at").dt.offset_by("10y"),
         "session": pl.col("session").dt.offset_by("10y")}, {"the decision minute has a bar"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAUDS)
def test_a_forged_trade_is_found(name: str, trades: pl.DataFrame, bars: pl.DataFrame) -> None:
    """A trade that the bars do not allow, and that passes; or one fraud that makes honest trades look wrong."""
    values, expected = FRAUDS[name]
    last = trades.filter(book="path_00", instrument="BTCUSDT")["minute"].max()  # its exit stands in nobody's way
    row = trades.select(((pl.col("book") == "path_00") & (pl.col("instrument") == "BTCUSDT")
                         & (pl.col("minute") == last)).arg_max()).item()
    assert rules(trades, bars) == []
    assert set(rules(forged(trades, row, **values), bars)) == expected


def test_overlapping_entries_are_found(bars: pl.DataFrame) -> None:
    """Two positions of a symbol at once, or one inside the cooldown; other books and symbols do not count."""
    made, _ = traded(bars, PLANS["narrow"], seed=3, cooldown=0)
    assert rules(made, bars, cooldown=0) == []
    found = impossible_trades(made, Hindsight(bars), PLANS["narrow"], 3)
    assert found["rule"].unique().to_list() == ["a symbol holds one position at a time, with the cooldown between"]
    expected = []
    for (book, name), part in made.partition_by("book", "instrument", as_dict=True).items():
        for before, after in pairwise(part.sort("minute").iter_rows(named=True)):
            if after["entry_at"] - before["exit_at"] < 3 * MINUTE:
                expected.append((book, name, after["minute"]))
    assert sorted(found.select("book", "instrument", "minute").rows()) == sorted(expected)
    # A second honest trade of the same minutes, the other way round.
    truth = traded(bars, PLANS["narrow"], seed=4)[0].filter(book="path_00")
    both = pl.concat([made.filter(book="path_00"), truth.join(made, on=["instrument", "minute"], how="anti")])
    assert rules(both, bars, cooldown=0) == ["a symbol holds one position at a time, with the cooldown between"]


def test_a_trade_across_a_gap_is_found(trades: pl.DataFrame, bars: pl.DataFrame) -> None:
    """A position that was held while nobody knew the price; a bar after the exit may be missing."""
    trade = trades.filter(pl.col("minutes_to_exit") >= 3).head(1)
    entered, left, name = trade.select("entry_at", "exit_at", "instrument").row(0)
    inside = (pl.col("instrument") == name) & (pl.col("minute") == entered + MINUTE)
    assert rules(trade, bars.filter(~inside)) == ["no minute is missing from the entry to the exit"]
    unknown = bars.with_columns(pl.when(~inside).then("close").alias("close"))
    assert rules(trade, unknown) == ["no minute is missing from the entry to the exit"]
    assert rules(trade, bars.filter((pl.col("instrument") != name) | (pl.col("minute") != left))) == []


@pytest.mark.parametrize("side", ["LONG", "SHORT"])
def test_an_ambiguous_bar_counted_as_target_is_found(side: str) -> None:
    """The optimistic reading of a bar that touches both barriers."""
    plan, n = PricePlan(max_hold_minutes=3), 8
    minutes = bars_of([100.0, 100.2, *[100.0] * (n - 2)], [100.0, 99.8, *[100.0] * (n - 2)], [100.0] * n, "BTCUSDT",
                      list(range(n)))
    honest = trade_of(minutes, side, -8.0, plan, target_hit=False, stop_hit=True)
    assert impossible_trades(honest, Hindsight(minutes), plan, 0).is_empty()
    dreamt = trade_of(minutes, side, 12.0, plan, target_hit=True, stop_hit=False)
    found = impossible_trades(dreamt, Hindsight(minutes), plan, 0)
    assert found["rule"].to_list() == [
        "a trade ends as the bars say", "actual_edge_bps is what the bars and the plan's cost give",
        "gross_edge_bps is what the bars and the plan's cost give",
    ]  # fmt: skip


def trade_of(
    bars: pl.DataFrame, side: str, gross: float, plan: PricePlan, *, target_hit: bool, stop_hit: bool
) -> pl.DataFrame:
    """A trade of the first minute that ended with the next bar; without a book."""
    entry = pl.col("minute") + MINUTE
    net = gross - plan.cost_bps
    return bars.head(1).select(
        "session", "instrument", "minute", side=pl.lit(side), entry_at=entry, exit_at=entry + MINUTE,
        gross_edge_bps=pl.lit(gross), actual_edge_bps=pl.lit(net), planned_ratio=pl.lit(0.1),
        weighted_edge_bps=pl.lit(0.1 * net), target_hit=pl.lit(target_hit), stop_hit=pl.lit(stop_hit),
        timeout_hit=pl.lit(False), minutes_to_exit=pl.lit(1.0), price_plan_hash=pl.lit(plan.price_plan_hash),
    )  # fmt: skip


HEIGHTS: dict[str, Callable[[float], float]] = {
    "stop of a dynamic short": lambda entry: (entry / (entry * (1 + 8 / 1e4)) - 1) * 1e4,
    "stop of a fixed short": lambda entry: -8.0,
}


@pytest.mark.parametrize("name", HEIGHTS)
def test_a_short_stop_is_filled_at_its_price(name: str) -> None:
    """The reference's worked value: under the dynamic plan a SHORT stop of 8 costs 7.9936, under the fixed one 8."""
    method = DYNAMIC if "dynamic" in name else "FIXED_TARGET_STOP_V1"
    plan = PricePlan(entry_plan_method=method, max_hold_minutes=3)
    minutes = bars_of([100.0, 101.0, 100, 100, 100], [100.0] * 5, [100.0] * 5, "BTCUSDT", list(range(5)))
    due = HEIGHTS[name](100.0)
    assert due == pytest.approx(-7.9936 if "dynamic" in name else -8, abs=5e-5)
    for gross, broken in ((due, False), (due + 2e-8, True)):
        trade = trade_of(minutes, "SHORT", gross, plan, target_hit=False, stop_hit=True)
        assert impossible_trades(trade, Hindsight(minutes), plan, 0).is_empty() is not broken


def test_what_the_referee_does_not_read(trades: pl.DataFrame, bars: pl.DataFrame) -> None:
    """Bars as they were known, which may have been corrected; a trade that counts twice."""
    with pytest.raises(TypeError):
        impossible_trades(trades, AsOf(bars), PLANS["narrow"], 0)  # type: ignore[arg-type]
    with pytest.raises(KeyViolation, match="unique"):
        impossible_trades(trades.vstack(trades.head(1)), Hindsight(bars), PLANS["narrow"], 0)
    assert rules(trades.clear(), bars) == []
