"""The position manager of minute decisions: predicted edges, gates, side, size, one position at a time.

The search over its thresholds is `manager_search`; what its trades amount to is `trades`. No prices are read
here: a trade's outcome comes ready from the labels.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from pipeline.errors import BadInput, KeyViolation
from pipeline.frames import require_columns, require_unique
from pipeline.positions.manager_kernels import accept
from pipeline.positions.manager_spec import ManagerConfig, PlanNumbers, Sizing, require_side
from pipeline.positions.trades import TRADE_SCHEMA

KEY = ["session", "instrument", "minute"]
MINUTE_MS = 60_000

PROBABILITIES = (
    "direction_long_prob",
    "direction_short_prob",
    "long_entry_prob",
    "short_entry_prob",
    "market_risk_prob",
)
"""What every row must know, each in [0, 1]."""

MODEL_EDGES = ("long_expected_net_edge_bps", "short_expected_net_edge_bps")
"""Regression heads of ENTRY: needed where the plan's entry target is an opportunity."""

OUTCOME_COLUMNS = (
    "gross_edge_bps",
    "time_to_exit_ms",
    "target_hit",
    "stop_hit",
    "timeout_hit",
    "actual_plan_net_edge_bps",
)
"""Truth per side, as `long_...` and `short_...`: the path outcome and the label's net edge of the plan."""

ROUNDING = 1e-6
"""A float32 head may leave [0, 1] by its last bits; labels may be stored as float32."""


def payoff_edge_bps(probability: pl.Expr, plan: PlanNumbers) -> pl.Expr:
    """Net edge expected of a bet on the target: p (target - cost) + (1 - p) (-stop - cost), p clipped to [0, 1]."""
    p = probability.clip(0.0, 1.0)
    return p * (plan.target_distance_bps - plan.cost_bps) + (1.0 - p) * -plan.loss_at_stop_bps


def _require_finite(frame: pl.DataFrame, columns: tuple[str, ...], low: float, high: float, rule: str) -> None:
    """An error naming the first row whose value is null, NaN or outside [low, high]."""
    known = pl.col(columns).cast(pl.Float64).is_between(low, high).fill_null(False)
    if all(frame.select(known.all()).row(0)):  # one query: a live minute has no time for one a column
        return
    for name in columns:
        wrong = frame.filter(~pl.col(name).cast(pl.Float64).is_between(low, high).fill_null(False))
        if not wrong.is_empty():
            raise BadInput(rule, f"{name} = {wrong[name][0]} in {wrong.height} rows, first {wrong.row(0)[:3]}",
                           "drop the rows whose features are missing, or repair the head")


def predicted_edges(predictions: pl.DataFrame, plan: PlanNumbers) -> pl.DataFrame:
    """Rows the manager can decide on: checked probabilities and both predicted edges per side.

    Parameters
    ----------
    predictions : pl.DataFrame
        Key (session, instrument, minute); `PROBABILITIES`, calibrated; `MODEL_EDGES` in bps, which may be absent
        where the plan's entry target is the plan's own outcome.
    plan : PlanNumbers

    Returns
    -------
    pl.DataFrame
        All columns, and `{long,short}_payoff_edge_bps`, `{long,short}_model_edge_bps` (null without a head),
        `{long,short}_predicted_edge_bps` (the one that decides), `edge_method`.

    Raises
    ------
    SchemaError, KeyViolation, BadInput
        A column is absent; a key is null or doubled; a probability is missing, NaN or outside [0, 1]; the
        predicted edge is not finite.
    """
    require_columns(predictions, [*KEY, *PROBABILITIES], "the position manager")
    require_unique(predictions, KEY, "the position manager")
    frame = predictions.select(*KEY, pl.exclude(KEY))
    _require_finite(frame, PROBABILITIES, -ROUNDING, 1.0 + ROUNDING, "a probability is known and lies in [0, 1]")
    by_model = plan.edge_method == "MODEL_ACTUAL_PLAN_EDGE"
    if by_model:
        require_columns(frame, MODEL_EDGES, "a plan whose entry target is an opportunity")
        _require_finite(frame, MODEL_EDGES, -1e9, 1e9, "a predicted net edge is known and finite")
    frame = frame.with_columns(pl.col(name).cast(pl.Float64).clip(0.0, 1.0) for name in PROBABILITIES)
    edges = []
    for side, head in zip(("long", "short"), MODEL_EDGES, strict=True):
        model = pl.col(head).cast(pl.Float64) if head in frame.columns else pl.lit(None, pl.Float64)
        payoff = payoff_edge_bps(pl.col(f"{side}_entry_prob"), plan)
        edges += [
            payoff.alias(f"{side}_payoff_edge_bps"),
            model.alias(f"{side}_model_edge_bps"),
            (model if by_model else payoff).alias(f"{side}_predicted_edge_bps"),
        ]
    return frame.with_columns(*edges, edge_method=pl.lit(plan.edge_method))


def with_truth(rows: pl.DataFrame, outcomes: pl.DataFrame, plan: PlanNumbers) -> pl.DataFrame:
    """Rows with what would have come of each side.

    Parameters
    ----------
    rows : pl.DataFrame
        As `predicted_edges` returns them.
    outcomes : pl.DataFrame
        Key (session, instrument, minute) and, for each side, `{side}_` + `OUTCOME_COLUMNS`. Rows that are not
        decided on are ignored. A null `time_to_exit_ms` is an unknown exit: it counts as the maximum hold.

    Returns
    -------
    pl.DataFrame
        And per side `{side}_actual_edge_bps` = gross - cost, `{side}_label_actual_plan_edge_bps`, `{side}_held_ms`.

    Raises
    ------
    SchemaError, KeyViolation, BadInput
        A column is absent; a key is doubled; a row has no outcome; the label's edge is not the outcome's.
    """
    truth = [f"{side}_{name}" for side in ("long", "short") for name in OUTCOME_COLUMNS]
    require_columns(outcomes, [*KEY, *truth], "the truth of a trade")
    require_unique(outcomes, KEY, "the truth of a trade")
    joined = rows.drop(truth, strict=False).join(outcomes.select(*KEY, *truth), on=KEY, how="inner",
                                                 maintain_order="left")
    if joined.height != rows.height:
        raise KeyViolation("every row that is decided on has one outcome",
                           f"{rows.height} rows, {joined.height} joined",
                           "keep the rows whose window of outcomes is whole")
    for side in ("long", "short"):
        joined = _settled(joined, side, plan)
    return joined


def _settled(frame: pl.DataFrame, side: str, plan: PlanNumbers) -> pl.DataFrame:
    """The truth of one side, checked; an unknown exit holds for the plan's maximum."""
    gross, exit_ms = (pl.col(f"{side}_{name}").cast(pl.Float64) for name in ("gross_edge_bps", "time_to_exit_ms"))
    label = pl.col(f"{side}_actual_plan_net_edge_bps").cast(pl.Float64)
    frame = frame.with_columns(
        (gross - plan.cost_bps).alias(f"{side}_actual_edge_bps"),
        label.alias(f"{side}_label_actual_plan_edge_bps"),
        exit_ms.fill_nan(None).fill_null(plan.max_hold_minutes * MINUTE_MS).cast(pl.Int64).alias(f"{side}_held_ms"),
    )
    hits = [f"{side}_{name}" for name in ("target_hit", "stop_hit", "timeout_hit")]
    frame = frame.with_columns(pl.col(hits).cast(pl.Boolean))
    _require_finite(frame, (f"{side}_actual_edge_bps",), -1e9, 1e9, "an outcome's gross edge is known and finite")
    _require_finite(frame, tuple(hits), 0, 1, "an outcome says how it ended")
    _require_finite(frame, (f"{side}_held_ms",), 1, 1e15, "a time to exit is positive")
    actual = pl.col(f"{side}_actual_edge_bps")
    differs = ((actual - label).abs() <= ROUNDING * pl.max_horizontal(actual.abs(), 1.0)).fill_null(False).not_()
    wrong = frame.filter(differs)
    if not wrong.is_empty():
        seen = wrong.select(*KEY, f"{side}_actual_edge_bps", f"{side}_label_actual_plan_edge_bps").row(0)
        raise BadInput("the label's actual plan edge is the outcome's gross edge less the plan's cost",
                       f"{side}: {wrong.height} rows differ, first {seen}",
                       "make labels and outcomes from one price plan")
    return frame


def direction_margin() -> pl.Expr:
    """|long - short| direction probability."""
    return (pl.col("direction_long_prob") - pl.col("direction_short_prob")).abs()


def gates(side: str, config: ManagerConfig) -> dict[str, pl.Expr]:
    """Gate -> what a row must satisfy to open `side`, in the order in which a funnel counts them; all strict.

    Raises
    ------
    BadInput
        The side is neither LONG nor SHORT.
    """
    prefix, bounds = require_side(side), config.open.side(side)
    return {
        "direction": pl.col(f"direction_{prefix}_prob") > bounds.min_direction_prob,
        "margin": direction_margin() > config.open.min_direction_margin,
        "entry": pl.col(f"{prefix}_entry_prob") > bounds.min_entry_prob,
        "risk": pl.col("market_risk_prob") < config.open.max_market_risk,
        "edge": pl.col(f"{prefix}_predicted_edge_bps") > bounds.min_edge_bps,
    }


def _confidence(prefix: str) -> pl.Expr:
    return (
        pl.col(f"direction_{prefix}_prob") * pl.col(f"{prefix}_entry_prob") * (1.0 - pl.col("market_risk_prob"))
    )


def side_value(side: str) -> pl.Expr:
    """What a side is worth when both pass: max(edge, 0) x direction x entry x (1 - risk); LONG wins a tie."""
    prefix = require_side(side)
    return pl.col(f"{prefix}_predicted_edge_bps").clip(lower_bound=0.0) * _confidence(prefix)


def planned_ratio(side: str, sizing: Sizing, plan: PlanNumbers) -> pl.Expr:
    """Share of capital of a first position; 0 where the cap is under the minimum or the edge under `min_edge_bps`."""
    prefix, cap = require_side(side), sizing.cap(plan.loss_at_stop_bps)
    edge = pl.col(f"{prefix}_predicted_edge_bps")
    # One division, here: polars turns a column's division by a number into a product with its reciprocal.
    raw = sizing.base_ratio / max(plan.loss_at_stop_bps, 1.0) * edge * _confidence(prefix)
    none = (edge < sizing.min_edge_bps) | pl.lit(cap < sizing.min_initial_ratio)
    return pl.when(none).then(0.0).otherwise(raw.clip(sizing.min_initial_ratio, max(cap, sizing.min_initial_ratio)))


def decide(rows: pl.DataFrame, config: ManagerConfig, plan: PlanNumbers) -> pl.DataFrame:
    """What the manager would open at every row, were it flat.

    Parameters
    ----------
    rows : pl.DataFrame
        As `predicted_edges` returns them.
    config : ManagerConfig
    plan : PlanNumbers

    Returns
    -------
    pl.DataFrame
        And `side` (LONG, SHORT or null) and `planned_ratio` (0 without a side; 0 with one is no trade either).
    """
    long, short = (pl.all_horizontal(gates(side, config).values()) for side in ("LONG", "SHORT"))
    side = (
        pl.when(long & (~short | (side_value("LONG") >= side_value("SHORT")))).then(pl.lit("LONG"))
        .when(short).then(pl.lit("SHORT"))
    )
    ratio = (
        pl.when(pl.col("side") == "LONG").then(planned_ratio("LONG", config.sizing, plan))
        .when(pl.col("side") == "SHORT").then(planned_ratio("SHORT", config.sizing, plan))
        .otherwise(0.0)
    )
    return rows.with_columns(side=side).with_columns(planned_ratio=ratio)


def without_overlap(entries: pl.DataFrame, cooldown_minutes: int) -> pl.DataFrame:
    """The entries that a symbol can take one after another.

    Parameters
    ----------
    entries : pl.DataFrame
        `minute`, `instrument`, `side`, `predicted_edge_bps`, `held_ms` (known or the maximum hold).
    cooldown_minutes : int
        Wait after an exit; an entry exactly at its end is taken.

    Returns
    -------
    pl.DataFrame
        By minute, higher predicted edge first at the same minute (then instrument, then LONG).
    """
    ordered = entries.sort("minute", "predicted_edge_bps", "instrument", "side",
                           descending=[False, True, False, False])
    instants = ordered.select(
        pl.col("minute").dt.epoch("ms"),
        pl.col("instrument").rank("dense").cast(pl.Int64) - 1,
        pl.col("held_ms") + cooldown_minutes * MINUTE_MS,
    )
    # Copies: a read-only view of a frame would compile the kernel once more.
    decided, symbol, busy = (np.array(column.to_numpy()) for column in instants.iter_columns())
    return ordered.filter(pl.Series(accept(decided, symbol, busy, ordered["instrument"].n_unique())))


def run(rows: pl.DataFrame, config: ManagerConfig, plan: PlanNumbers, eval_split: str) -> pl.DataFrame:
    """Trades of one configuration.

    Parameters
    ----------
    rows : pl.DataFrame
        As `with_truth` returns them.
    config : ManagerConfig
    plan : PlanNumbers
    eval_split : str
        Written into every trade.

    Returns
    -------
    pl.DataFrame
        `TRADE_SCHEMA`, in order of entry. The entry is at the close of the decision minute.
    """
    require_columns(rows, ["long_held_ms", "short_held_ms"], "a run on past minutes")
    opened = decide(rows, config, plan).filter(pl.col("side").is_not_null(), pl.col("planned_ratio") > 0)
    named = ("predicted_edge_bps", "payoff_edge_bps", "model_edge_bps", "entry_prob", "gross_edge_bps",
             "actual_edge_bps", "label_actual_plan_edge_bps", "target_hit", "stop_hit", "timeout_hit", "held_ms")
    long = pl.col("side") == "LONG"
    entries = opened.with_columns(
        pl.when(long).then(pl.col(f"long_{name}")).otherwise(pl.col(f"short_{name}")).alias(name) for name in named
    )
    taken = without_overlap(entries, config.add.cooldown_minutes).sort("minute", "instrument")
    entry_at = pl.col("minute") + pl.duration(minutes=1)
    return taken.select(
        *(name for name in TRADE_SCHEMA if name in taken.columns and name != "eval_split"),
        eval_split=pl.lit(eval_split),
        entry_at=entry_at,
        exit_at=entry_at + pl.duration(milliseconds=pl.col("held_ms")),
        direction_prob=pl.when(long).then("direction_long_prob").otherwise("direction_short_prob"),
        direction_margin=direction_margin(),
        weighted_edge_bps=pl.col("actual_edge_bps") * pl.col("planned_ratio"),
        minutes_to_exit=pl.col("held_ms") / MINUTE_MS,
        price_plan_id=pl.lit(plan.price_plan_id),
        price_plan_hash=pl.lit(plan.price_plan_config_hash),
        manager_config_hash=pl.lit(config.config_hash()),
        threshold_hash=pl.lit(config.threshold_hash()),
    ).select(*TRADE_SCHEMA).cast(TRADE_SCHEMA)  # type: ignore[arg-type]
