"""Minutes on a coarse tick, so that barriers are touched exactly, and what a manager would have traded on them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from pipeline.frames import Hindsight
from pipeline.labels.path_outcomes import path_outcomes
from pipeline.labels.price_plan import PricePlan, price_plan_context
from pipeline.positions.manager import predicted_edges, run, with_truth
from pipeline.positions.manager_spec import ManagerConfig, PlanNumbers
from tests.positions.minutes import predictions

START = datetime(2024, 1, 1, 20, 0, tzinfo=UTC)
STAMP = pl.Datetime("us", "UTC")


def bars_of(high: list[float], low: list[float], close: list[float], name: str, at: list[int]) -> pl.DataFrame:
    """Bars at some minutes after START."""
    minutes = [START + timedelta(minutes=k) for k in at]
    values = {"minute": minutes, "high": high, "low": low, "close": close}
    schema = {"minute": STAMP, "high": pl.Float64, "low": pl.Float64, "close": pl.Float64}
    return pl.DataFrame(values, schema=schema).select(
        session=pl.col("minute").dt.date(), instrument=pl.lit(name), minute="minute", high="high", low="low",
        close="close", spread_bps=pl.lit(None, pl.Float64),
    )  # fmt: skip


def market(seed: int, n: int = 600, names: tuple[str, ...] = ("BTCUSDT", "ETHUSDT")) -> pl.DataFrame:
    """A walk per symbol over two midnights at least, with gaps."""
    rng, parts = np.random.default_rng(seed), []
    for name in names:
        close = 200 + 0.02 * np.cumsum(rng.integers(-4, 5, n))
        high, low = close + 0.02 * rng.integers(0, 5, n), close - 0.02 * rng.integers(0, 5, n)
        at = np.cumsum(np.where(rng.random(n) < 0.004, rng.integers(2, 5, n), 1)).tolist()
        parts.append(bars_of(high.round(2).tolist(), low.round(2).tolist(), close.round(2).tolist(), name, at))
    return pl.concat(parts)


def traded(bars: pl.DataFrame, plan: PricePlan, seed: int, cooldown: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Trades of the books `path_00` and `locked` under random predictions, and the rows that were decided on."""
    truth = path_outcomes(Hindsight(bars), plan).with_columns(
        (pl.col(f"{side}_gross_edge_bps") - plan.cost_bps).alias(f"{side}_actual_plan_net_edge_bps")
        for side in ("long", "short")
    )
    numbers = PlanNumbers.from_context(price_plan_context(plan))
    config = ManagerConfig().model_copy(update={"add": ManagerConfig().add.model_copy(
        update={"cooldown_minutes": cooldown})})
    rng, books = np.random.default_rng(seed), []
    for book in ("path_00", "locked"):
        n = truth.height
        long = rng.random(n)
        drawn = predictions(
            minute=truth["minute"].to_list(), instrument=truth["instrument"].to_list(),
            direction_long_prob=long.tolist(), direction_short_prob=(1 - long).tolist(),
            long_entry_prob=rng.uniform(0.7, 1, n).tolist(), short_entry_prob=rng.uniform(0.7, 1, n).tolist(),
            market_risk_prob=rng.uniform(0, 0.3, n).tolist(),
        )  # fmt: skip
        rows = with_truth(predicted_edges(drawn, numbers), truth, numbers)
        books.append(run(rows, config, numbers, book).select(pl.lit(book).alias("book"), pl.all()))
    return pl.concat(books), truth
