"""Trades of studies that decide by the minute, judged on the vendor's raw candles, and forged ones beside them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import islice, pairwise

import polars as pl

from pipeline.backtests.plan_referee import impossible_trades
from pipeline.frames import Hindsight
from pipeline.labels.price_plan import PricePlan
from pipeline.positions.manager import (
    KEY,
    MINUTE_MS,
    OUTCOME_COLUMNS,
    PROBABILITIES,
    predicted_edges,
    run,
    with_truth,
)
from pipeline.positions.manager_spec import ManagerConfig, PlanNumbers

CANDLES = "klines_1m"
MINUTE = timedelta(minutes=1)
SIDES = ("LONG", "SHORT")
# Nothing of a random book is asked but that it trades: every gate lets all pass.
OPEN_GATES = {"long": {"min_direction_prob": 0.0, "min_entry_prob": 0.0, "min_edge_bps": -1e6},
              "short": {"min_direction_prob": 0.0, "min_entry_prob": 0.0, "min_edge_bps": -1e6},
              "min_direction_margin": 0.0, "max_market_risk": 1.0}  # fmt: skip


def raw_candles(rows: pl.DataFrame) -> Hindsight:
    """Candles as the vendor sent them, the newest version of each: session, instrument, minute, high, low, close."""
    newest = rows.sort("known_at", maintain_order=True).unique(
        ["symbol", "open_time"], keep="last", maintain_order=True
    )
    opened = pl.col("open_time").dt.replace_time_zone("UTC")
    named = newest.select("high", "low", "close", session=opened.dt.date(), instrument="symbol", minute=opened)
    return Hindsight(named.sort(KEY))


def every_outcome(labels: pl.DataFrame, plan: PricePlan) -> pl.DataFrame:
    """Each labelled minute bought and sold short, each trade in a book of its own: all that could ever be traded."""
    return pl.concat(_outcomes(labels, side, plan) for side in SIDES)


def _outcomes(labels: pl.DataFrame, side: str, plan: PricePlan) -> pl.DataFrame:
    entry, net = pl.col("minute") + MINUTE, pl.col("gross_edge_bps") - plan.cost_bps
    prefix = f"{side.lower()}_"
    named = labels.select(*KEY, *(pl.col(prefix + name).alias(name) for name in OUTCOME_COLUMNS)).with_columns(
        pl.col("gross_edge_bps").cast(pl.Float64),
        pl.col("time_to_exit_ms").fill_null(plan.max_hold_minutes * MINUTE_MS).cast(pl.Int64),
        pl.col("target_hit", "stop_hit", "timeout_hit").cast(pl.Boolean),
    )
    return named.select(
        pl.format("{} {}", pl.lit(side), pl.int_range(pl.len())).alias("book"), *KEY, "gross_edge_bps", "target_hit",
        "stop_hit", "timeout_hit", side=pl.lit(side), entry_at=entry,
        exit_at=entry + pl.duration(milliseconds="time_to_exit_ms"), actual_edge_bps=net, planned_ratio=pl.lit(0.2),
        weighted_edge_bps=0.2 * net, minutes_to_exit=pl.col("time_to_exit_ms") / MINUTE_MS,
        price_plan_hash=pl.lit(plan.price_plan_hash),
    )  # fmt: skip


def random_trades(labels: pl.DataFrame, base: ManagerConfig, plan: PlanNumbers, books: int, seed: int) -> pl.DataFrame:
    """What the study's own manager makes of probabilities that are noise, one book a draw."""
    config = ManagerConfig.model_validate(base.model_dump() | {"open": OPEN_GATES})
    config = config.model_copy(update={"sizing": config.sizing.model_copy(update={"min_edge_bps": -1e6})})
    outcomes = labels.select(*KEY, *(f"{side.lower()}_{name}" for side in SIDES for name in OUTCOME_COLUMNS))
    made = []
    for book in range(books):
        noise = labels.select(KEY).with_columns(
            (pl.int_range(pl.len()).hash(seed + 1000 * book + k) % 10_001 / 10_000).alias(name)
            for k, name in enumerate(PROBABILITIES)
        )
        rows = with_truth(predicted_edges(noise, plan), outcomes, plan)
        made.append(run(rows, config, plan, "noise").select(pl.lit(f"random_{book:03d}").alias("book"), pl.all()))
    return pl.concat(made)


def broken_trades(trades: pl.DataFrame, candles: Hindsight, plan: PricePlan, cooldown: int) -> pl.DataFrame:
    """Broken rules, one a row; empty for no trades."""
    return impossible_trades(trades, candles, plan, cooldown)


def forged_trades(
    trades: pl.DataFrame, candles: Hindsight, plan: PricePlan, most: int
) -> dict[str, tuple[pl.DataFrame, int]]:
    """Kind -> forged trades, one in each book (two where they overlap), and the cooldown to judge them under."""
    alone = trades.sample(fraction=1.0, shuffle=True, seed=0).with_columns(
        book=pl.format("forged {}", pl.int_range(pl.len()))
    )
    made = {kind: (forge(alone).head(most), 0) for kind, forge in _FORGERIES.items()}
    made["held across a gap"] = _across_gaps(alone, candles, plan, most), 0
    made["two positions at once"] = _overlapping(trades, most), 0
    return made


def _with(**values: pl.Expr) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda trades: trades.with_columns(**values)


def _paid(trades: pl.DataFrame, gross: pl.Expr, cost: pl.Expr) -> pl.DataFrame:
    """With another gross edge, and net and weighted edges that go with it."""
    return trades.with_columns(gross_edge_bps=gross).with_columns(
        actual_edge_bps=pl.col("gross_edge_bps") - cost
    ).with_columns(weighted_edge_bps=pl.col("actual_edge_bps") * pl.col("planned_ratio"))  # fmt: skip


_COST = pl.col("gross_edge_bps") - pl.col("actual_edge_bps")


def _stop_missed(trades: pl.DataFrame) -> pl.DataFrame:
    """A stopped trade that ends flat when its time is over."""
    stopped = trades.filter("stop_hit").with_columns(stop_hit=pl.lit(False), timeout_hit=pl.lit(True), cost=_COST)
    return _paid(stopped, pl.lit(0.0), pl.col("cost")).drop("cost")


def _target_first(trades: pl.DataFrame) -> pl.DataFrame:
    """A stopped trade of which the target is said to have come first."""
    stopped = trades.filter("stop_hit").with_columns(stop_hit=pl.lit(False), target_hit=pl.lit(True), cost=_COST)
    return _paid(stopped, -pl.col("gross_edge_bps"), pl.col("cost")).drop("cost")


_FORGERIES: dict[str, Callable[[pl.DataFrame], pl.DataFrame]] = {
    "entered a minute before its decision": _with(entry_at=pl.col("minute")),
    "left a minute early": _with(
        exit_at=pl.col("exit_at") - MINUTE, minutes_to_exit=pl.col("minutes_to_exit") - 1.0),
    "left a minute late": _with(
        exit_at=pl.col("exit_at") + MINUTE, minutes_to_exit=pl.col("minutes_to_exit") + 1.0),
    "a hundredth of a bp better": lambda trades: _paid(
        trades.with_columns(cost=_COST), pl.col("gross_edge_bps") + 0.01, pl.col("cost")).drop("cost"),
    "costs forgotten": lambda trades: _paid(trades, pl.col("gross_edge_bps"), pl.lit(0.0)),
    "a stop not taken": _stop_missed,
    "a target before a stop that came first": _target_first,
    "decided in a minute without a candle": _with(**{name: pl.col(name).dt.offset_by("-10y") for name in
                                                     ("session", "minute", "entry_at", "exit_at")}),
}  # fmt: skip


def _across_gaps(trades: pl.DataFrame, candles: Hindsight, plan: PricePlan, most: int) -> pl.DataFrame:
    """Trades that wait for their time to be over while minutes are missing."""
    rows: list[pl.DataFrame] = []
    for (name,), part in candles.frame.partition_by("instrument", as_dict=True).items():
        for before, after in pairwise(part["minute"].to_list()):
            if after - before > MINUTE:
                like = trades.filter(instrument=name).head(1)
                hold = plan.max_hold_minutes
                rows.append(like.with_columns(
                    book=pl.lit(f"gap {before}"), session=pl.lit(before.date()), minute=pl.lit(before),
                    entry_at=pl.lit(before + MINUTE), exit_at=pl.lit(before + MINUTE * (1 + hold)),
                    target_hit=pl.lit(False), stop_hit=pl.lit(False), timeout_hit=pl.lit(True),
                    minutes_to_exit=pl.lit(float(hold))).select(trades.columns))  # fmt: skip
    return pl.concat(rows[:most]).cast(trades.schema) if rows else trades.clear()  # type: ignore[arg-type]


def _overlapping(trades: pl.DataFrame, most: int) -> pl.DataFrame:
    """Honest trades of two books in one: the second is entered while the first is held."""
    ordered = trades.sort("instrument", "minute", "side").unique(["instrument", "minute", "side"], maintain_order=True)
    pairs = (
        (first, second)
        for first, second in pairwise(ordered.iter_rows(named=True))
        if first["instrument"] == second["instrument"] and first["entry_at"] <= second["entry_at"] < first["exit_at"]
    )
    rows = [trade | {"book": f"both {i}"} for i, pair in enumerate(islice(pairs, most)) for trade in pair]
    return pl.DataFrame(rows, schema=trades.schema) if rows else trades.clear()
