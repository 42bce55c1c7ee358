"""The report's parts on positions under a price plan: plan, trades, chosen thresholds, sealed verdict."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from assets.report_stored import Stored
from pipeline.folds.named import SEALED_SPLITS
from pipeline.folds.spec import LOCKED
from pipeline.labels.minute_spec import PlanLabelSpec
from pipeline.labels.price_plan import DYNAMIC, PricePlan, price_plan_context
from pipeline.positions.manager_spec import SIDE_OFF, SIDES
from pipeline.reports.html import Section
from pipeline.reports.trade_figures import excess_figure, exits_figure
from pipeline.stages.position_manager import VERDICT_FILE

FIGURES = (
    "trade_count", "win_rate", "mean_actual_edge_bps", "mean_weighted_edge_bps", "total_weighted_edge_bps",
    "profit_factor", "longest_losing_run", "max_drawdown_bps", "planned_ratio_mean", "planned_ratio_max",
    "break_even_round_trip_bps",
)  # fmt: skip
EXITS = (
    "trade_count", "target_hit_rate", "stop_hit_rate", "timeout_exit_rate", "mean_minutes_to_exit",
    "median_minutes_to_exit",
)  # fmt: skip
THRESHOLDS = ("long_direction", "short_direction", "margin", "entry", "market_risk", "edge")
ON_TUNE = ("trade_count", "win_rate", "mean_actual_edge_bps", "score")


def plan_section(stored: Stored) -> Section | None:
    """What a trade is, in words and as the numbers travel; None where labels follow no price plan."""
    if not isinstance(stored.study.labels, PlanLabelSpec):
        return None
    plan = stored.study.labels.plan
    context = price_plan_context(plan)
    table = pl.DataFrame({"name": list(context), "value": [str(value) for value in context.values()]})
    return Section("Price plan", _in_words(plan), folded={"the plan as it travels": table})


def _in_words(plan: PricePlan) -> str:
    target, stop, cost = plan.target_distance_bps, plan.stop_distance_bps, plan.cost_bps
    words = (
        f"{plan.price_plan_id}: a position is entered at the close of the decision minute and held for at most "
        f"{plan.max_hold_minutes} minutes. The target lies {target:g} bps away, the stop {stop:g} bps; a minute that "
        "touches both counts as stopped. "
    )
    if plan.entry_plan_method == DYNAMIC:
        words += (
            f"At the target {100 * plan.partial_take1_ratio:g} % are taken, at {plan.second_target_bps:g} bps another "
            f"{100 * plan.partial_take2_ratio:g} %; the rest trails {plan.trailing_stop_bps:g} bps behind the best "
            f"price{', never worse than entry' if plan.breakeven_after_first_target else ''}. "
        )
    words += (
        f"A round trip costs {cost:g} bps (fee {plan.fee_bps:g}, slippage {plan.slippage_bps:g}, funding "
        f"{plan.funding_cost_bps:g}). "
    )
    if plan.entry_plan_method != DYNAMIC:
        words += (
            f"With these distances a trade breaks even when {(stop + cost) / (target + stop):.1%} of the decided ones "
            "hit the target."
        )
    return words


def positions_section(stored: Stored) -> Section | None:
    """Trades of every book, beside a random minute of the same book; None where no position manager traded."""
    metrics, optimism = stored.table("backtest", "metrics"), stored.table("backtest", "optimism")
    excess = stored.table("backtest", "excess")
    if metrics is None or optimism is None or excess is None:
        return None
    wide = metrics.filter(pl.col("name").is_in(FIGURES)).pivot(
        on="book", index="name", values="value", sort_columns=True
    )
    order = pl.DataFrame({"name": FIGURES})
    mix = _mix(metrics)
    tables = {
        "trades by book": order.join(wide, on="name", how="inner", maintain_order="left"),
        "net edge beyond a random minute of the same book and side, bps of capital": _beyond(excess),
        "what one choice on all tested rows would have earned beyond the nested choices (optimism gap)": optimism,
    }
    return Section(
        "Positions",
        "One position at a time a symbol, under the thresholds that each split chose on its own tune rows. A random "
        "minute is the mean over all decided minutes of the same book, symbol and side, at the trade's size: the "
        "expectation itself, not a draw.",
        pictures={
            "net edge beyond a random minute of the same book": excess_figure(excess),
            "how trades ended (trades in brackets)": exits_figure(mix),
        },
        tables=tables,
        folded={"exits by book and side": mix},
    )


def _mix(metrics: pl.DataFrame) -> pl.DataFrame:
    """How the trades of each book and side ended; sides without trades are left out."""
    values = {(book, name): value for book, name, value in metrics.iter_rows()}
    rows = []
    for book in metrics["book"].unique().sort():
        for side in SIDES:
            told = {name: values.get((book, f"{side.lower()}_{name}"), 0.0) for name in EXITS}
            rows.append({
                "name": f"{book} {side}", "trades": int(told["trade_count"] or 0), "target": told["target_hit_rate"],
                "stop": told["stop_hit_rate"], "time or trail": told["timeout_exit_rate"],
                "mean_minutes": told["mean_minutes_to_exit"], "median_minutes": told["median_minutes_to_exit"],
            })  # fmt: skip
    return pl.DataFrame(rows).filter(pl.col("trades") > 0)


def _beyond(excess: pl.DataFrame) -> pl.DataFrame:
    value = 1e4 * pl.col("excess")
    return (
        excess.group_by("book")
        .agg(days=pl.len(), mean_a_day=value.mean(), worst_day=value.min(), best_day=value.max(), total=value.sum(),
             positive_days=(value > 0).mean())
        .sort("book")
    )  # fmt: skip


def thresholds_section(stored: Stored) -> Section | None:
    """What every split's search chose; None where no thresholds are searched."""
    parts = stored.by_partition("positions", "search")
    if not parts or "long_direction" not in next(iter(parts.values())).columns:
        return None
    chosen = [
        part.filter("chosen").select(pl.lit(split).alias("split"), *THRESHOLDS, *ON_TUNE, "adopted")
        for split, part in parts.items()
    ]
    size = len(next(iter(parts.values())))
    return Section(
        "Chosen thresholds",
        f"The first best of {size:,} candidates on each split's tune rows; the sealed stretches see the choice of the "
        f"split {LOCKED} only. A direction threshold of {SIDE_OFF:g} switches a side off; trades, win rate, edge and "
        "score are those of the tune rows.",
        tables={"by split": pl.concat(chosen).sort("split")},
    )


def sealed_section(stored: Stored) -> Section | None:
    """The verdict on the sealed pair; None where none was made."""
    held = stored.environment.artifacts.current(stored.study.name, "backtest")
    if not held or VERDICT_FILE not in held[""].files:
        return None
    verdict = json.loads(stored.environment.artifacts.file(stored.study.name, "backtest", VERDICT_FILE))
    reasons = [reason.replace("_", " ") for reason in verdict["reasons"]]
    words = "accepted: no reason against it" if not reasons else f"rejected: {'; '.join(reasons)}"
    return Section(
        "Sealed verdict",
        f"The two stretches that were opened once, for this verdict. Under the plan {verdict['price_plan_id']} the "
        f"position manager is {words}.",
        tables={
            "by stretch": pl.DataFrame([_stretch(name, verdict["metrics"][name]) for name in SEALED_SPLITS]),
            "exits by side": pl.DataFrame([
                {"stretch": name, "side": side} | {key: verdict["exits"][name][side][key] for key in EXITS}
                for name in SEALED_SPLITS for side in SIDES
            ]),
        },
    )  # fmt: skip


def _stretch(name: str, told: dict[str, Any]) -> dict[str, Any]:
    factor = told["profit_factor"]
    shown = {key: told[key] for key in FIGURES if key in told} | {"profit_factor": float(factor)}
    return {"stretch": name} | shown
