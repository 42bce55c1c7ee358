"""Which price plan to trade: what each would have earned on evaluation blocks, a score, a robustness rule.

No sealed row can be ranked here: a block that is neither to be scored nor to be reported is refused. If no plan is
robust the result says so; the best score is then only what to study next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
import polars as pl

from pipeline.errors import BadInput
from pipeline.frames import MINUTE_ROW as KEY
from pipeline.frames import Hindsight, require_columns, require_unique
from pipeline.labels.path_kernels import AMBIGUOUS, MINUTE_MS, STOP, TARGET, TIMEOUT, TO_EXIT
from pipeline.labels.path_outcomes import SIDES, Ahead, MinutePaths, SideExits, look_ahead, side_exits
from pipeline.labels.price_plan import DYNAMIC, FIXED, PricePlan

EVALUATION_BLOCKS: Final = ("E1", "E2", "E3")
REPORTED_BLOCKS: Final = ("fit_inner",)
BOTH: Final = "BOTH"
LOWEST_POSITIVE_RATE, HIGHEST_POSITIVE_RATE = 0.03, 0.55
WORST_EDGE_BPS = -1.0
LOWEST_BREAK_EVEN_RATE = 0.45


@dataclass(frozen=True)
class PlanSearch:
    """What a search found.

    `metrics`: one row per plan, side and block. `candidates`: one row per plan (fixed: both sides together; dynamic:
    each side by itself) with `score`, `robust` and the rules it breaks. `chosen`: side -> the robust row with the
    best score, the first of equals. `next_to_study`: side -> the best score where none is robust.
    """

    metrics: pl.DataFrame
    candidates: pl.DataFrame
    chosen: Mapping[str, Mapping[str, Any]]
    next_to_study: Mapping[str, Mapping[str, Any]]
    conclusion: str

    @property
    def robust_candidate_found(self) -> bool:
        """Whether any plan passed every rule."""
        return bool(self.chosen)


def dynamic_grid(base: PricePlan) -> tuple[PricePlan, ...]:
    """81 trailing plans with the cost and label bounds of `base`: horizon, target, stop and trail; takes 0.5 / 0.25."""
    kept = base.model_dump(include={
        "fee_bps", "slippage_bps", "funding_cost_bps", "min_expected_net_edge_bps", "min_plan_net_edge_bps",
        "max_entry_mae_bps", "entry_target_method", "entry_label_method", "breakeven_after_first_target",
    })
    return tuple(
        PricePlan(entry_plan_method=DYNAMIC, max_hold_minutes=horizon, target_distance_bps=target,
                  stop_distance_bps=stop, trailing_stop_bps=trail, second_target_bps=2 * target,
                  partial_take1_ratio=0.5, partial_take2_ratio=0.25, **kept)
        for horizon, target, stop, trail in product((30, 45, 60), (8, 12, 16), (4, 6, 8), (4, 8, 12))
    )


def require_output_name(name: str) -> str:
    """A plain folder name, as given.

    Raises
    ------
    BadInput
        The name is empty, `.` or `..`, or holds `/` or `\\`.
    """
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise BadInput("an output name is a plain folder name", repr(name), "leave out dots alone, / and \\")
    return name


def search_plans(bars: Hindsight, plans: Sequence[PricePlan], blocks: pl.DataFrame) -> PlanSearch:
    """Score plans of one method on the evaluation blocks.

    Parameters
    ----------
    bars : Hindsight
        As `path_outcomes` reads them; they reach at least the longest horizon past each block.
    plans : sequence of PricePlan
        All fixed or all dynamic, with different names.
    blocks : pl.DataFrame
        The key and `block`: `E1`, `E2`, `E3` (scored) and perhaps `fit_inner` (reported, never scored).
        Consecutive blocks lie at least the longest horizon apart.

    Raises
    ------
    BadInput
        No plans, mixed methods, a name twice; an unknown or sealed block; blocks that are not purged; a block
        without a single outcome of a plan.
    """
    _check_plans(plans)
    _check_blocks(blocks, max(plan.max_hold_minutes for plan in plans))
    paths = MinutePaths.from_bars(bars)
    windows: dict[int, tuple[Ahead, dict[str, np.ndarray]]] = {}
    rows = []
    for plan in plans:
        if plan.max_hold_minutes not in windows:
            ahead = look_ahead(paths, plan.max_hold_minutes)
            windows[plan.max_hold_minutes] = ahead, _rows_of_blocks(paths, ahead, blocks)
        ahead, members = windows[plan.max_hold_minutes]
        for side in SIDES:
            exits = side_exits(paths, plan, ahead, side)
            rows += [_measure(plan, side, block, at, ahead, exits) for block, at in members.items()]
    metrics = pl.DataFrame(rows)
    sides = ((BOTH, SIDES),) if plans[0].entry_plan_method == FIXED else tuple((side, (side,)) for side in SIDES)
    scored = metrics.filter(pl.col("block").is_in(EVALUATION_BLOCKS)).partition_by("price_plan_id", as_dict=True)
    candidates = pl.DataFrame([
        _candidate(plan, name, scored[plan.price_plan_id,].filter(pl.col("side").is_in(of)))
        for plan in plans for name, of in sides
    ])
    return _verdict(metrics, candidates)


def _check_plans(plans: Sequence[PricePlan]) -> None:
    methods, names = {plan.entry_plan_method for plan in plans}, [plan.price_plan_id for plan in plans]
    if len(methods) != 1:
        raise BadInput("a search compares plans of one method: the scores of two mean different things",
                       sorted(methods) or "no plans", "search the methods one after the other")
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise BadInput("each plan of a search has its own price_plan_id", doubled, "rename the plans")


def _check_blocks(blocks: pl.DataFrame, horizon: int) -> None:
    """Known names, all to be scored present, consecutive and purged."""
    require_columns(blocks, [*KEY, "block"], "plan search")
    require_unique(blocks, KEY, "blocks")
    names = set(blocks["block"].to_list())
    unknown, absent = names - {*EVALUATION_BLOCKS, *REPORTED_BLOCKS}, set(EVALUATION_BLOCKS) - names
    if unknown or absent:
        raise BadInput(f"plans are ranked on {list(EVALUATION_BLOCKS)}, reported on {list(REPORTED_BLOCKS)}: "
                       "sealed rows are no input of a choice",
                       f"unknown {sorted(map(str, unknown))}, absent {sorted(absent)}",
                       "hand over the blocks of tune_inner alone")
    spans = blocks.group_by("block").agg(pl.col("minute").min().alias("first"), pl.col("minute").max().alias("last"))
    ordered = spans.sort("first")
    close = ordered.filter(pl.col("first").shift(-1) - pl.col("last") < pl.duration(minutes=horizon))
    if not close.is_empty():
        raise BadInput("consecutive blocks are purged by the longest horizon",
                       f"block {close['block'][0]} ends less than {horizon} minutes before the next",
                       "drop the rows of a block whose outcomes reach into the next one")
    scored = ordered.filter(pl.col("block").is_in(EVALUATION_BLOCKS))["block"].to_list()
    if scored != list(EVALUATION_BLOCKS):
        raise BadInput("E1, E2 and E3 follow each other in time", scored, "name the blocks in the order of time")


def _rows_of_blocks(paths: MinutePaths, ahead: Ahead, blocks: pl.DataFrame) -> dict[str, np.ndarray]:
    """Block -> its rows among the outcomes; `fit_inner` last."""
    keys = paths.keys_of(ahead.runs).join(blocks.select(*KEY, "block"), on=KEY, how="left", maintain_order="left")
    named = [name for name in (*EVALUATION_BLOCKS, *REPORTED_BLOCKS) if name in set(blocks["block"].to_list())]
    rows = {name: np.flatnonzero((keys["block"] == name).fill_null(False).to_numpy()) for name in named}
    empty = [name for name, at in rows.items() if not len(at)]
    if empty:
        raise BadInput("every block has rows whose bars ahead are known", f"none in {empty} at {ahead.horizon} minutes",
                       "use longer blocks or a shorter horizon")
    return rows


def _measure(
    plan: PricePlan, side: str, block: str, at: np.ndarray, ahead: Ahead, exits: SideExits
) -> dict[str, Any]:
    """One plan, side and block."""
    edge = exits.gross[at] - plan.cost_bps
    mfe, mae = (values[at].mean() for values in ahead.excursions(side))
    p10, median, p90 = np.quantile(edge, (0.1, 0.5, 0.9))
    hit = {name: exits.flags[flag][at].mean()
           for name, flag in (("target", TARGET), ("stop", STOP), ("timeout", TIMEOUT), ("ambiguous", AMBIGUOUS))}
    required = (plan.stop_distance_bps + plan.cost_bps) / (plan.target_distance_bps + plan.stop_distance_bps)
    return {
        "price_plan_id": plan.price_plan_id, "price_plan_hash": plan.price_plan_hash, "side": side, "block": block,
        "rows": len(at), "mean_edge_bps": edge.mean(), "median_edge_bps": median, "p10_edge_bps": p10,
        "p90_edge_bps": p90, "positive_rate": (edge >= plan.min_expected_net_edge_bps).mean(),
        "break_even_rate": (edge >= 0.0).mean(), **{f"{name}_rate": rate for name, rate in hit.items()},
        "mean_minutes_to_exit": exits.times[TO_EXIT][at].mean() / MINUTE_MS, "mean_mfe_bps": mfe, "mean_mae_bps": mae,
        "mean_max_achievable_edge_bps": mfe - plan.cost_bps, "margin": hit["target"] - required,
    }


def _candidate(plan: PricePlan, side: str, metrics: pl.DataFrame) -> dict[str, Any]:
    """Score and rules of one plan over the scored blocks of some sides."""
    seen = metrics.select(
        pl.col("mean_edge_bps").mean().alias("mean_edge_bps"), pl.col("mean_edge_bps").min().alias("worst_edge_bps"),
        pl.col("margin").min().alias("worst_margin"),
        pl.col("mean_max_achievable_edge_bps").mean().alias("mean_max_achievable_edge_bps"),
        pl.col("positive_rate").min().alias("lowest_positive_rate"),
        pl.col("positive_rate").max().alias("highest_positive_rate"),
        pl.col("break_even_rate").min().alias("lowest_break_even_rate"),
        pl.col("stop_rate").max().alias("highest_stop_rate"),
    ).row(0, named=True)
    fixed = plan.entry_plan_method == FIXED
    rules = _rules(seen) | (_fixed_rules(plan) if fixed else _dynamic_rules(seen))
    broken = [rule for rule, holds in rules.items() if not holds]
    return {
        "price_plan_id": plan.price_plan_id, "price_plan_hash": plan.price_plan_hash, "side": side, **seen,
        "score": fixed_score(plan, seen) if fixed else dynamic_score(seen), "robust": not broken,
        "broken_rules": "; ".join(broken),
    }


def fixed_score(plan: PricePlan, seen: Mapping[str, float]) -> float:
    """Score of a `FIXED_TARGET_STOP_V1` plan over both sides' evaluation blocks."""
    return (
        8 * seen["mean_edge_bps"] + 3 * seen["worst_edge_bps"] + 80 * seen["worst_margin"]
        + 0.05 * seen["mean_max_achievable_edge_bps"]
        + math.log(1 + max(plan.target_distance_bps - plan.stop_distance_bps, 0))
        - 120 * max(LOWEST_POSITIVE_RATE - seen["lowest_positive_rate"], 0)
        - 20 * max(seen["highest_positive_rate"] - HIGHEST_POSITIVE_RATE, 0)
    )


def dynamic_score(seen: Mapping[str, float]) -> float:
    """Score of a `DYNAMIC_TRAILING_V1` plan over one side's evaluation blocks."""
    return (
        8 * seen["mean_edge_bps"] + 4 * seen["worst_edge_bps"] + 20 * seen["lowest_break_even_rate"]
        + 20 * seen["lowest_positive_rate"] - 8 * seen["highest_stop_rate"]
    )


def _rules(seen: Mapping[str, float]) -> dict[str, bool]:
    return {
        f"lowest positive rate >= {LOWEST_POSITIVE_RATE}": seen["lowest_positive_rate"] >= LOWEST_POSITIVE_RATE,
        f"highest positive rate <= {HIGHEST_POSITIVE_RATE}": seen["highest_positive_rate"] <= HIGHEST_POSITIVE_RATE,
        "mean edge > 0": seen["mean_edge_bps"] > 0,
        f"worst edge > {WORST_EDGE_BPS:g}": seen["worst_edge_bps"] > WORST_EDGE_BPS,
    }


def _fixed_rules(plan: PricePlan) -> dict[str, bool]:
    return {"target > stop": plan.target_distance_bps > plan.stop_distance_bps}


def _dynamic_rules(seen: Mapping[str, float]) -> dict[str, bool]:
    lowest = seen["lowest_break_even_rate"]
    return {f"lowest break-even rate >= {LOWEST_BREAK_EVEN_RATE}": lowest >= LOWEST_BREAK_EVEN_RATE}


def _verdict(metrics: pl.DataFrame, candidates: pl.DataFrame) -> PlanSearch:
    """The best robust plan of each side, or in words that there is none."""
    chosen: dict[str, dict[str, Any]] = {}
    study: dict[str, dict[str, Any]] = {}
    for (side,), rows in candidates.partition_by("side", as_dict=True, maintain_order=True).items():
        robust = rows.filter("robust")
        best = (rows if robust.is_empty() else robust).sort("score", descending=True, maintain_order=True)
        (study if robust.is_empty() else chosen)[str(side)] = best.row(0, named=True)
    said = [f"{side}: {row['price_plan_id']} is robust, score {row['score']:.2f}" for side, row in chosen.items()]
    said += [
        f"{side}: no plan is robust; {row['price_plan_id']} has the best score, {row['score']:.2f}, and is only the "
        f"next thing to study: it breaks {row['broken_rules']}"
        for side, row in study.items()
    ]
    return PlanSearch(metrics, candidates, chosen, study, ". ".join(said))
