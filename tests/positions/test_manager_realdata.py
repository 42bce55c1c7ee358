"""The manager on real minutes, from bars through path outcomes and labels to trades."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.frames import Hindsight
from pipeline.labels.minute_heads import entry_labels
from pipeline.labels.minute_spec import MinuteLabelSpec
from pipeline.labels.path_outcomes import path_outcomes
from pipeline.labels.price_plan import PricePlan, price_plan_context
from pipeline.positions.manager import KEY, predicted_edges, run, with_truth
from pipeline.positions.manager_search import search
from pipeline.positions.manager_spec import EXPANDED_GRID, PlanNumbers
from pipeline.positions.trades import exit_mix, trade_metrics


def _minutes(file: Path) -> pl.DataFrame:
    minute = pl.from_epoch("open_time", "ms").cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("minute")
    return pl.read_parquet(file).tail(40_000).select(
        minute, minute.dt.date().alias("session"), pl.lit("BTCUSDT").alias("instrument"), "high", "low", "close",
        pl.lit(None, pl.Float64).alias("spread_bps"))


def _guesses(keys: pl.DataFrame) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    direction = rng.dirichlet([2.0, 2.0, 2.0], keys.height)
    return keys.with_columns(
        direction_long_prob=direction[:, 0], direction_short_prob=direction[:, 1],
        long_entry_prob=rng.random(keys.height), short_entry_prob=rng.random(keys.height),
        market_risk_prob=rng.random(keys.height), split_id=pl.lit("tune_inner"),
    )


@pytest.mark.realdata
def test_guesses_on_real_minutes_cost_money(realdata: Path) -> None:
    """Labels, outcomes and manager that do not fit together; a search that earns where nothing was predicted."""
    file = realdata / "binance" / "klines_1m" / "BTCUSDT.parquet"
    if not file.exists():
        pytest.skip(f"no {file.name} in the folder of real data")
    plan = PricePlan()
    outcomes = path_outcomes(Hindsight(_minutes(file)), plan)
    labels = entry_labels(outcomes, plan, MinuteLabelSpec())
    truth = outcomes.join(labels.select(*KEY, "long_actual_plan_net_edge_bps", "short_actual_plan_net_edge_bps"),
                          on=KEY, validate="1:1")
    numbers = PlanNumbers.from_context(price_plan_context(plan))
    rows = with_truth(predicted_edges(_guesses(outcomes.select(KEY)), numbers), truth, numbers)
    found = search(rows, numbers, EXPANDED_GRID)
    trades = run(rows, found.config, numbers, "tune_inner")
    assert trade_metrics(trades) == found.metrics
    wait = timedelta(minutes=found.config.add.cooldown_minutes)
    spans = trades.select("entry_at", "exit_at").rows()
    assert all(after >= exit_at + wait for (_, exit_at), (after, _) in pairwise(spans))
    busy = found.table.filter(pl.col("trade_count") >= 80)
    assert busy.height > 1_000
    assert busy["mean_actual_edge_bps"].median() == pytest.approx(-plan.cost_bps, abs=2.0)
    assert sum(side.trade_count for side in exit_mix(trades).values()) == trades.height > 0
