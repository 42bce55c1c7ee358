"""What the trades of a minute study amount to: metrics, exits, the verdict of a backtest. No decisions, no prices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import polars as pl
from pydantic import field_serializer

from pipeline.errors import BadInput
from pipeline.frames import require_columns
from pipeline.positions.manager_kernels import NO_TRADE_SCORE, STATISTICS, statistics
from pipeline.positions.manager_spec import SIDES, ManagerConfig, PlanNumbers
from pipeline.spec import Spec

TRADE_SCHEMA: dict[str, pl.DataType] = {
    "session": pl.Date(),
    "instrument": pl.String(),
    "minute": pl.Datetime("us", "UTC"),
    "eval_split": pl.String(),
    "side": pl.String(),
    "entry_at": pl.Datetime("us", "UTC"),
    "exit_at": pl.Datetime("us", "UTC"),
    "direction_prob": pl.Float64(),
    "direction_margin": pl.Float64(),
    "entry_prob": pl.Float64(),
    "market_risk_prob": pl.Float64(),
    "edge_method": pl.String(),
    "predicted_edge_bps": pl.Float64(),
    "payoff_edge_bps": pl.Float64(),
    "model_edge_bps": pl.Float64(),
    "planned_ratio": pl.Float64(),
    "gross_edge_bps": pl.Float64(),
    "actual_edge_bps": pl.Float64(),
    "label_actual_plan_edge_bps": pl.Float64(),
    "weighted_edge_bps": pl.Float64(),
    "target_hit": pl.Boolean(),
    "stop_hit": pl.Boolean(),
    "timeout_hit": pl.Boolean(),
    "minutes_to_exit": pl.Float64(),
    "price_plan_id": pl.String(),
    "price_plan_hash": pl.String(),
    "manager_config_hash": pl.String(),
    "threshold_hash": pl.String(),
}
"""Key (instrument, minute, side), in order of entry: minute, then instrument. Edges in bps, ratios of capital."""

MIN_INITIAL_BOUND = 0.050001
"""A largest ratio up to here means that every size collapsed to the least initial one (0.05)."""

MOST_CONSECUTIVE_LOSSES = 8
LEAST_STRESS_TRADES = 20
LEAST_VALIDATION_TRADES = 40


class TradeMetrics(Spec):
    """Metrics of one set of trades; all zero (and the score -1,000,000) where there are none.

    Parameters
    ----------
    trade_count : int
    win_rate : float
        Share with a net edge above 0.
    mean_actual_edge_bps, mean_weighted_edge_bps, total_weighted_edge_bps : float
        Net edge per trade; the same times the planned ratio.
    max_drawdown_bps : float
        Deepest fall of the cumulated weighted edge from its running peak, which starts at 0.
    profit_factor : float
        Gains over losses, both weighted; infinite without a loss (`"Infinity"` in JSON).
    longest_losing_run : int
        Most consecutive trades with a net edge below 0.
    planned_ratio_mean, planned_ratio_min, planned_ratio_median, planned_ratio_max : float
        Shares of capital.
    score : float
        Objective of the search.
    """

    trade_count: int = 0
    win_rate: float = 0.0
    mean_actual_edge_bps: float = 0.0
    mean_weighted_edge_bps: float = 0.0
    total_weighted_edge_bps: float = 0.0
    max_drawdown_bps: float = 0.0
    profit_factor: float = 0.0
    longest_losing_run: int = 0
    planned_ratio_mean: float = 0.0
    planned_ratio_min: float = 0.0
    planned_ratio_median: float = 0.0
    planned_ratio_max: float = 0.0
    score: float = NO_TRADE_SCORE

    @field_serializer("profit_factor", when_used="json")
    def _plain(self, value: float) -> float | str:
        return "Infinity" if math.isinf(value) else value


class SideExits(Spec):
    """How one side's trades ended; `timeout_exit_rate` is neither target nor stop (a trailing exit too)."""

    trade_count: int
    target_hit_rate: float
    stop_hit_rate: float
    timeout_exit_rate: float
    mean_minutes_to_exit: float
    median_minutes_to_exit: float


class BacktestVerdict(Spec):
    """Result of a backtest: what was judged, its figures, why it fails."""

    price_plan_id: str
    price_plan_hash: str
    manager_config_hash: str
    metrics: dict[str, TradeMetrics]
    exits: dict[str, dict[str, SideExits]]
    reasons: tuple[str, ...]
    status: Literal["ACCEPTED", "REJECTED"]


def _in_entry_order(trades: pl.DataFrame) -> pl.DataFrame:
    require_columns(trades, ["minute", "instrument", "side", "planned_ratio", "actual_edge_bps", "weighted_edge_bps"],
                    "trade metrics")
    unknown = trades.filter(~pl.col("side").is_in(SIDES) | pl.col("side").is_null())
    if not unknown.is_empty():
        raise BadInput(f"a trade's side is one of {list(SIDES)}", unknown["side"].unique().to_list(),
                       "build trades with the position manager")
    return trades.sort("minute", "instrument", "side")


def trade_metrics(trades: pl.DataFrame) -> TradeMetrics:
    """Metrics of trades in order of entry (minute, then instrument), whatever the row order.

    Parameters
    ----------
    trades : pl.DataFrame
        Columns of `TRADE_SCHEMA`; edges in bps.

    Raises
    ------
    SchemaError, BadInput
        A needed column is absent; a side is unknown; an edge or a ratio is missing or not finite.
    """
    ordered = _in_entry_order(trades)
    columns = [ordered[name].cast(pl.Float64).fill_null(math.nan).to_numpy()
               for name in ("actual_edge_bps", "weighted_edge_bps", "planned_ratio")]
    broken = sum(int((~np.isfinite(column)).sum()) for column in columns)
    if broken:
        raise BadInput("edges and ratios of trades are finite", f"{broken} values are not",
                       "drop rows without an outcome before the manager runs")
    out = np.empty(len(STATISTICS))
    statistics(*(np.array(column) for column in columns), out)  # copies: a read-only view would compile again
    return TradeMetrics.model_validate(dict(zip(STATISTICS, out.tolist(), strict=True)))


def exit_mix(trades: pl.DataFrame) -> dict[str, SideExits]:
    """Exits of LONG and SHORT trades; a side without trades has zeros.

    Raises
    ------
    SchemaError, BadInput
        A needed column is absent; a side is unknown.
    """
    require_columns(trades, ["target_hit", "stop_hit", "minutes_to_exit"], "exit mix")
    ordered = _in_entry_order(trades)
    mix = {}
    for side in SIDES:
        figures = ordered.filter(pl.col("side") == side).select(
            trade_count=pl.len(),
            target_hit_rate=pl.col("target_hit").mean(),
            stop_hit_rate=pl.col("stop_hit").mean(),
            timeout_exit_rate=(~(pl.col("target_hit") | pl.col("stop_hit"))).mean(),
            mean_minutes_to_exit=pl.col("minutes_to_exit").mean(),
            median_minutes_to_exit=pl.col("minutes_to_exit").median(),
        )
        mix[side] = SideExits(**figures.fill_null(0.0).row(0, named=True))
    return mix


def verdict_reasons(validation: TradeMetrics, stress: TradeMetrics) -> tuple[str, ...]:
    """Why the sealed pair refuses a manager; empty when it does not.

    Parameters
    ----------
    validation, stress : TradeMetrics
        Of `validation_locked` and `latest_stress`. "avg trade edge" is the mean actual edge. Sizes can only
        have collapsed where there are trades; their absence has a reason of its own.
    """
    collapsed = validation.trade_count > 0 and validation.planned_ratio_max <= MIN_INITIAL_BOUND
    rules = {
        "validation_locked_avg_trade_edge_not_positive": validation.mean_actual_edge_bps <= 0,
        "validation_locked_max_consecutive_losses_above_8": validation.longest_losing_run > MOST_CONSECUTIVE_LOSSES,
        "validation_locked_sizing_collapsed_to_min_initial": collapsed,
        "validation_locked_trade_count_below_40": validation.trade_count < LEAST_VALIDATION_TRADES,
        "latest_stress_trade_count_below_20": stress.trade_count < LEAST_STRESS_TRADES,
        "latest_stress_profit_factor_below_1": stress.profit_factor < 1.0,
    }
    return tuple(reason for reason, broken in rules.items() if broken)


def judge(trades: Mapping[str, pl.DataFrame], config: ManagerConfig, plan: PlanNumbers) -> BacktestVerdict:
    """The verdict on one manager from its trades per split.

    Parameters
    ----------
    trades : mapping of split -> pl.DataFrame
        `validation_locked` and `latest_stress` must be there; other splits are reported, not judged. A split
        without trades is an empty frame.
    config : ManagerConfig
    plan : PlanNumbers

    Raises
    ------
    BadInput
        A sealed split is missing; a trade was made under another plan or configuration.
    """
    missing = {"validation_locked", "latest_stress"} - set(trades)
    if missing:
        raise BadInput("a verdict needs validation_locked and latest_stress", f"missing {sorted(missing)}",
                       "run the chosen configuration once on the sealed pair")
    identity = {
        "price_plan_id": plan.price_plan_id,
        "price_plan_hash": plan.price_plan_config_hash,
        "manager_config_hash": config.config_hash(),
    }
    for split, part in trades.items():
        others = part.select(*identity).unique().rows()
        if others not in ([], [tuple(identity.values())]):
            raise BadInput("trades are judged under their own plan and configuration", f"{split}: {others}",
                           "run this configuration on this split again")
    metrics = {split: trade_metrics(part) for split, part in trades.items()}
    reasons = verdict_reasons(metrics["validation_locked"], metrics["latest_stress"])
    return BacktestVerdict(
        **identity,
        metrics=metrics,
        exits={split: exit_mix(part) for split, part in trades.items()},
        reasons=reasons,
        status="REJECTED" if reasons else "ACCEPTED",
    )
