"""Made-up minutes with predictions and truth, coarse on purpose so that values meet thresholds exactly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from pipeline.positions.manager import predicted_edges, with_truth
from pipeline.positions.manager_spec import PlanNumbers

START = datetime(2024, 1, 1, 22, 0, tzinfo=UTC)

PLAN = PlanNumbers(
    price_plan_id="fixed_h45_t12_s8", price_plan_config_hash="ab" * 32, target_distance_bps=12.0,
    stop_distance_bps=8.0, max_hold_minutes=45, cost_bps=2.0, entry_target_method="PRICE_PLAN_OUTCOME_V1",
)
SLOW_PLAN = {"target": 12.0, "stop": 8.0, "cost": 2.0, "max_hold": 45,
             "entry_target_method": "PRICE_PLAN_OUTCOME_V1"}
SLOW_SIZING = {"base": 1.0, "minimum": 0.05, "single": 0.2, "total": 1.0, "liquidity": 1.0, "max_loss": 20.0,
               "min_edge": 3.0}


def predictions(**columns: list[Any]) -> pl.DataFrame:
    """Rows that open LONG under the default configuration, one a minute, with the given columns replaced."""
    n = len(next(iter(columns.values()))) if columns else 1
    plain = {"direction_long_prob": 0.8, "direction_short_prob": 0.1, "long_entry_prob": 0.75,
             "short_entry_prob": 0.75, "market_risk_prob": 0.2, "long_expected_net_edge_bps": 5.0,
             "short_expected_net_edge_bps": 5.0}
    values = {"instrument": ["BTCUSDT"] * n, "minute": [START + timedelta(minutes=i) for i in range(n)]}
    values |= {name: [value] * n for name, value in plain.items()}
    return pl.DataFrame(values | columns).with_columns(session=pl.col("minute").dt.date())


def outcomes(frame: pl.DataFrame, plan: PlanNumbers = PLAN, **columns: list[Any]) -> pl.DataFrame:
    """Truth of each row: by default both sides reach the target after ten minutes."""
    truth = frame.select("session", "instrument", "minute")
    for side in ("long", "short"):
        values = {"gross_edge_bps": [plan.target_distance_bps] * frame.height,
                  "time_to_exit_ms": [600_000] * frame.height}
        values |= {k.removeprefix(f"{side}_"): v for k, v in columns.items() if k.startswith(side)}
        gross = pl.Series(values["gross_edge_bps"], dtype=pl.Float64)
        truth = truth.with_columns(
            gross.alias(f"{side}_gross_edge_bps"),
            pl.Series(f"{side}_time_to_exit_ms", values["time_to_exit_ms"], dtype=pl.Int64),
            (gross == plan.target_distance_bps).alias(f"{side}_target_hit"),
            (gross == -plan.stop_distance_bps).alias(f"{side}_stop_hit"),
            gross.is_between(-plan.stop_distance_bps, plan.target_distance_bps, closed="none")
            .alias(f"{side}_timeout_hit"),
            (gross - plan.cost_bps).alias(f"{side}_actual_plan_net_edge_bps"),
        )
    return truth


def random_rows(seed: int, n: int, instruments: tuple[str, ...] = ("BTCUSDT", "ETHUSDT"),
                plan: PlanNumbers = PLAN) -> pl.DataFrame:
    """`n` minutes per instrument with holes; probabilities are multiples of 0.05, a tenth of exits unknown."""
    rng = np.random.default_rng(seed)
    parts = []
    for instrument in instruments:
        at = np.sort(rng.choice(2 * n, n, replace=False)).tolist()
        long = rng.integers(0, 21, n)
        short = rng.integers(0, 21 - long)
        draw = {name: np.round(rng.integers(0, 21, n) * 0.05, 2).tolist()
                for name in ("long_entry_prob", "short_entry_prob", "market_risk_prob")}
        frame = predictions(
            minute=[START + timedelta(minutes=int(i)) for i in at], instrument=[instrument] * n,
            direction_long_prob=np.round(long * 0.05, 2).tolist(),
            direction_short_prob=np.round(short * 0.05, 2).tolist(), **draw,
        )
        truth = {}
        for side in ("long", "short"):
            returns = rng.choice([12.0, -8.0, 2.0, 3.25, -1.5], n)
            truth[f"{side}_gross_edge_bps"] = returns.tolist()
            truth[f"{side}_time_to_exit_ms"] = [
                None if unknown else int(minutes) * 60_000
                for unknown, minutes in zip(rng.random(n) < 0.1, rng.integers(1, 46, n), strict=True)
            ]
        parts.append(with_truth(predicted_edges(frame, plan), outcomes(frame, plan, **truth), plan))
    return pl.concat(parts).with_columns(split_id=pl.lit("tune_inner"))
