"""Run diagnosis: where in a run the trades were lost, from labels and scores through the gates to the stored trades.

Labels, scores and gates are measured on fit and tune rows; of the sealed pair the trades alone are read that the
backtest already made. Nothing is scored or chosen here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import polars as pl

from pipeline.diagnostics.finding import Finding
from pipeline.diagnostics.minutes.learners import top_rows
from pipeline.frames import require_columns
from pipeline.labels.spec import HeadSpec
from pipeline.positions.manager import gates, run
from pipeline.positions.manager_search import SEALED_SPLITS
from pipeline.positions.manager_spec import SIDES, ManagerConfig, OpenThresholds, PlanNumbers, SideThresholds
from pipeline.positions.trades import TradeMetrics, trade_metrics

VALIDATION, STRESS = SEALED_SPLITS
NO_TRADE: Final = "NO_VALIDATION_TRADE"
NOT_TRADABLE: Final = "PRICE_PLAN_OR_ENTRY_NOT_TRADABLE"
REVIEW: Final = "NEEDS_MANUAL_REVIEW"
NEXT: Final = {
    NO_TRADE: "Next step: see in the funnel which gate lets nothing through, and in the variants whether a looser one "
              "would; if none does, the scores do not spread.",
    NOT_TRADABLE: "Next step: search another price plan or another entry target; looser or tighter gates cannot repair "
                  "entries that lose on both sealed splits.",
    REVIEW: "Next step: a person reads trades, exits and deciles before anything is promoted; the gates decide that.",
}  # fmt: skip
RULE: Final = (
    f"{NO_TRADE} without a trade on {VALIDATION}; {NOT_TRADABLE} where the mean weighted edge is not positive on "
    f"{VALIDATION} and {STRESS}; else {REVIEW}."
)
QUANTILES: Final = {"q0": 0.0, "q5": 0.05, "q50": 0.5, "q95": 0.95, "q100": 1.0}
TOP_SHARES: Final = (0.01, 0.02, 0.05, 0.10)
DECILES: Final = 10
_NO_EDGE: Final = -1e9  # an edge threshold that every row passes


def run_diagnosis(
    labels: pl.DataFrame,
    decided: pl.DataFrame,
    trades: pl.DataFrame,
    grid: pl.DataFrame,
    heads: Sequence[HeadSpec],
    config: ManagerConfig,
    plan: PlanNumbers,
) -> Finding:
    """Everything between the labels and the stored trades, in the order of a run.

    Parameters
    ----------
    labels : pl.DataFrame
        `split_id` (fit_inner, tune_inner) and the heads' label columns of the rows that trained.
    decided : pl.DataFrame
        Tune rows as `manager.with_truth` returns them, with `{long,short}_entry_target`.
    trades : pl.DataFrame
        The locked book's stored trades: `TRADE_SCHEMA`.
    grid : pl.DataFrame
        The stored search: `trade_count`, `mean_weighted_edge_bps` of every candidate.
    heads, config, plan
        Of the study; the chosen thresholds; the plan's numbers.

    Returns
    -------
    Finding
        One of the three conclusions; `score` is the mean weighted edge on validation_locked, None without a trade.
    """
    names = [head.label for head in heads]
    require_columns(labels, ["split_id", *names], "the run diagnosis")
    split_of = {name: trades.filter(pl.col("eval_split") == name) for name in
                dict.fromkeys([*trades["eval_split"].to_list(), VALIDATION, STRESS])}
    metrics = {name: trade_metrics(part) for name, part in split_of.items()}
    status = conclusion(metrics)
    counted = _grid(grid)
    funnel = gate_funnel(decided, config)
    tables = {
        "trades": pl.DataFrame([{"split": name} | own.model_dump() for name, own in metrics.items()]),
        "funnel": funnel,
        "variants": _variants(decided, config, plan),
        "grid": counted,
        "entry_deciles": _entry_deciles(decided),
        "top_direction": _top_direction(decided),
        "score_quantiles": _quantiles(decided.select(pl.selectors.ends_with("_prob", "_predicted_edge_bps"))),
        "label_rates": _label_rates(labels, heads),
        "label_quantiles": _label_quantiles(labels, heads),
    }
    validation = metrics[VALIDATION]
    return Finding(
        validation.mean_weighted_edge_bps if validation.trade_count else None, status,
        _text(status, metrics, counted.row(0, named=True), decided.height), tables, rule=RULE,
        counts={"fit_rows": labels.filter(pl.col("split_id") == "fit_inner").height, "tune_rows": decided.height,
                "candidates": grid.height, f"{VALIDATION}_trades": validation.trade_count,
                f"{STRESS}_trades": metrics[STRESS].trade_count},
    )


def conclusion(metrics: Mapping[str, TradeMetrics]) -> str:
    """The status that the stored trades of the sealed pair give."""
    if not metrics[VALIDATION].trade_count:
        return NO_TRADE
    lost = all(metrics[split].mean_weighted_edge_bps <= 0 for split in SEALED_SPLITS)
    return NOT_TRADABLE if lost else REVIEW


def gate_funnel(decided: pl.DataFrame, config: ManagerConfig) -> pl.DataFrame:
    """Side, gate, rows: `alone` passes it, `cumulative` passes it and all before it, and both as shares."""
    rows = []
    for side in SIDES:
        passed = decided.select(**gates(side, config))
        through = np.ones(decided.height, bool)
        for gate in passed.columns:
            alone = passed[gate].to_numpy()
            through = through & alone
            counts = {"alone": int(alone.sum()), "cumulative": int(through.sum())}
            shares = {f"{name}_share": count / max(decided.height, 1) for name, count in counts.items()}
            rows.append({"side": side, "gate": gate, "rows": decided.height} | counts | shares)
    return pl.DataFrame(rows)


def _variants(decided: pl.DataFrame, config: ManagerConfig, plan: PlanNumbers) -> pl.DataFrame:
    """What the chosen and the relaxed thresholds would have opened and traded on the tune rows."""
    tried = {"chosen": config} | {
        f"entry {entry:.2f}": _relaxed(config, 0.50, entry, 0.65, 3.0) for entry in (0.30, 0.50, 0.70)
    }
    tried["direction only"] = _relaxed(config, 0.54, 0.0, 1.0, _NO_EDGE)
    rows = []
    for name, own in tried.items():
        opens = [pl.all_horizontal(gates(side, own).values()) for side in SIDES]
        made = trade_metrics(run(decided, own, plan, name))
        rows.append({"variant": name, "rows_open": int(decided.select(pl.any_horizontal(opens).sum()).item())}
                    | made.model_dump(include={"trade_count", "win_rate", "mean_actual_edge_bps",
                                               "mean_weighted_edge_bps", "total_weighted_edge_bps", "score"}))
    return pl.DataFrame(rows)


def _relaxed(config: ManagerConfig, direction: float, entry: float, risk: float, edge: float) -> ManagerConfig:
    side = SideThresholds(min_direction_prob=direction, min_entry_prob=entry, min_edge_bps=edge)
    gate = OpenThresholds(long=side, short=side, min_direction_margin=0.02, max_market_risk=risk)
    return config.model_copy(update={"open": gate, "sizing": config.sizing.model_copy(update={"min_edge_bps": edge})})


def _grid(grid: pl.DataFrame) -> pl.DataFrame:
    trades, positive = pl.col("trade_count") > 0, pl.col("mean_weighted_edge_bps") > 0
    return grid.select(candidates=pl.len(), trading=trades.sum(), positive=(trades & positive).sum())


def _top_direction(decided: pl.DataFrame) -> pl.DataFrame:
    """Actual edge of the rows with the highest direction probability of a side, beside all rows."""
    rows: list[dict[str, Any]] = []
    for side in ("long", "short"):
        ranked = decided.sort(f"direction_{side}_prob", descending=True, maintain_order=True)
        edge = ranked[f"{side}_actual_edge_bps"].to_numpy()
        for share in TOP_SHARES:
            top = edge[: top_rows(len(edge), share)]
            rows.append({"side": side, "top_share": share, "rows": len(top),
                         "edge_bps": float(top.mean()) if len(top) else None, "population_edge_bps": edge.mean()})
    return pl.DataFrame(rows, schema_overrides={"edge_bps": pl.Float64})


def _entry_deciles(decided: pl.DataFrame) -> pl.DataFrame:
    """By side and tenth of the entry probability, the lowest first: mean probability, target rate, actual edge."""
    parts = []
    for side in ("long", "short"):
        ranked = decided.sort(f"{side}_entry_prob", maintain_order=True)
        tenth = (pl.int_range(pl.len()) * DECILES // pl.len()).cast(pl.Int64)
        parts.append(ranked.group_by(decile=tenth, maintain_order=True).agg(
            pl.len().alias("rows"), pl.col(f"{side}_entry_prob").mean().alias("entry_prob"),
            pl.col(f"{side}_entry_target").cast(pl.Float64).mean().alias("target_rate"),
            pl.col(f"{side}_actual_edge_bps").mean().alias("edge_bps"),
        ).select(pl.lit(side).alias("side"), pl.all()))
    return pl.concat(parts)


def _label_rates(labels: pl.DataFrame, heads: Sequence[HeadSpec]) -> pl.DataFrame:
    """Of each probability head: rows with a label and its rate, on fit and on tune rows."""
    names = list(dict.fromkeys(head.label for head in heads if head.kind == "probability"))
    return _by_split(labels, names, lambda name: {"rate": pl.col(name).cast(pl.Float64).mean()})


def _label_quantiles(labels: pl.DataFrame, heads: Sequence[HeadSpec]) -> pl.DataFrame:
    names = list(dict.fromkeys(head.label for head in heads if head.kind == "regression"))
    return _by_split(labels, names, lambda name: _quantile_of(pl.col(name).cast(pl.Float64)))


def _by_split(labels: pl.DataFrame, names: Sequence[str], measure: Any) -> pl.DataFrame:
    parts = [
        labels.group_by("split_id").agg(rows=pl.col(name).count(), **measure(name)).sort("split_id")
        .select(pl.lit(name).alias("label"), pl.all())
        for name in names
    ]
    return pl.concat(parts)


def _quantiles(scores: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([
        scores.select(pl.lit(name).alias("score"), **_quantile_of(pl.col(name).cast(pl.Float64)))
        for name in scores.columns
    ])


def _quantile_of(column: pl.Expr) -> dict[str, pl.Expr]:
    return {name: column.quantile(share, "linear") for name, share in QUANTILES.items()}


def _text(status: str, metrics: Mapping[str, TradeMetrics], grid: Mapping[str, int], rows: int) -> str:
    said = [f"{split}: {own.trade_count} trades, mean weighted edge {own.mean_weighted_edge_bps:.3g} bps"
            for split, own in metrics.items()]
    return (
        f"Diagnostic only. {RULE} Stored trades of the locked book, {'; '.join(said)}. {grid['trading']:,} of "
        f"{grid['candidates']:,} candidates of the grid trade at all on tune rows, {grid['positive']:,} with a "
        f"positive mean. Funnel, variants, deciles and scores are those of the {rows:,} tune rows, on which "
        f"calibrators and thresholds were also fitted: they flatter. {NEXT[status]}"
    )
