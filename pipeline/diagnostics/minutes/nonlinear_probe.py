"""Whether trees in place of the linear heads give the position manager trades that pay.

Diagnostic only: nothing is exported. Thresholds are chosen on E1 and run once on E2 and E3; the sealed pair is no
input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import polars as pl
from pydantic import Field

from pipeline.diagnostics.finding import Finding
from pipeline.diagnostics.minutes.evaluation import BLOCKS, FIT, rows_of
from pipeline.diagnostics.minutes.probe_heads import (
    Head,
    direction_class,
    grow,
    matrix,
    probe_rows,
    require_classes,
    spans_of,
    values,
)
from pipeline.frames import MINUTE_ROW as KEY
from pipeline.labels.minute_models import Side, entry_rows
from pipeline.labels.path_outcomes import SIDES
from pipeline.labels.plan_search import EVALUATION_BLOCKS
from pipeline.models.heads.populations import MIN_POPULATION_ROWS
from pipeline.models.spec import TrainingSpec, TreeHeadsSpec
from pipeline.positions.manager import MODEL_EDGES, OUTCOME_COLUMNS, PROBABILITIES, predicted_edges, run, with_truth
from pipeline.positions.manager_search import SearchResult, search
from pipeline.positions.manager_spec import EXPANDED_GRID, ManagerConfig, PlanNumbers, SearchGrid
from pipeline.positions.trades import TradeMetrics, exit_mix, trade_metrics
from pipeline.spec import Spec

PROMISING = "PROMISING_DIAGNOSTIC_ONLY"
NOT_STABLE = "NO_STABLE_NONLINEAR_PM_EDGE"
LEAST_TRADES = {"E1": 80, "E2": 40, "E3": 10}
EDGE_ABOVE = {"E1": 0.0, "E2": 0.0, "E3": -1.0}
PLACE = (*KEY, "block", "label_start", "label_end")
_TUNE = "tune_inner"  # E1, E2, E3 are thirds of it
RULE = (
    "Thresholds were chosen on E1 by the manager's score and run once on E2 and E3. Promising with at least 80 / 40 / "
    "10 trades and a mean weighted edge above 0 / 0 / -1 bps on E1 / E2 / E3."
)


class NonlinearProbeSpec(Spec):
    """What the trees replace, and the rows of the entry trees.

    Parameters
    ----------
    replaces : str
    entry_population : str
        Rows whose direction label is the side's, or whose max achievable net edge reaches `least_bps`.
    """

    replaces: Literal["direction_and_entry", "entry"] = "direction_and_entry"
    entry_population: Literal["direction_label", "side_opportunity"] = "side_opportunity"
    least_bps: float = Field(default=40.0, allow_inf_nan=False)
    trees: TreeHeadsSpec = TreeHeadsSpec(rounds=150)
    training: TrainingSpec = TrainingSpec()


class _Fitted(NamedTuple):
    """Predicted columns of the evaluation rows, and what each head trained on."""

    columns: dict[str, np.ndarray]
    heads: list[dict[str, Any]]


def nonlinear_probe(
    rows: pl.DataFrame,
    features: Sequence[str],
    plan: PlanNumbers,
    spec: NonlinearProbeSpec | None = None,
    base: ManagerConfig | None = None,
    grid: SearchGrid = EXPANDED_GRID,
) -> Finding:
    """Trees in, one search of the manager on E1, its choice run on all three blocks.

    Parameters
    ----------
    rows : pl.DataFrame
        The key, `block` (fit_inner, E1, E2, E3), `label_start`, `label_end`, `features`, the labels of direction and
        entry, and on evaluation rows the study's `PROBABILITIES` (those that stay) and the outcomes per side.
    features : sequence of str
    plan : PlanNumbers
    spec, base, grid
        Trees; what the grid does not set; the expanded grid.

    Returns
    -------
    Finding
        `PROMISING_DIAGNOSTIC_ONLY` with 80 / 40 / 10 trades and a mean weighted edge above 0 / 0 / -1 bps on E1 / E2 /
        E3, else `NO_STABLE_NONLINEAR_PM_EDGE`; `score` is the manager's on E1, None without a trade. Tables `metrics`,
        `checks`, `exits`, `heads`, `search`, `candidates`, `trades`.

    Raises
    ------
    SchemaError, KeyViolation, BadInput
        As `probe_rows`; under 1,000 rows of a population or one class to fit on; a label is missing.
    """
    spec = spec or NonlinearProbeSpec()
    columns = _columns(spec)
    checked = probe_rows(rows, features, columns, "the nonlinear probe").select(*PLACE, *features, *columns)
    scored = checked.filter(pl.col("block") != FIT)
    fitted = _fit(checked.filter(pl.col("block") == FIT), matrix(scored, features), features, spec)
    predicted = scored.with_columns(pl.Series(name, column) for name, column in fitted.columns.items())
    judged = with_truth(predicted_edges(predicted, plan), scored, plan).with_columns(split_id=pl.lit(_TUNE))
    blocks = {block: judged.filter(pl.col("block") == block) for block in EVALUATION_BLOCKS}
    found = search(blocks["E1"], plan, grid, base)
    trades = {block: run(part, found.config, plan, block) for block, part in blocks.items()}
    metrics = {block: trade_metrics(part) for block, part in trades.items()}
    checks = probe_checks(metrics)
    status = PROMISING if checks["passed"].all() else NOT_STABLE
    return Finding(found.metrics.score if found.trading_candidates else None, status,
                   _text(spec, found, checks), _tables(checked, fitted, found, trades, metrics, checks), rule=RULE,
                   counts=rows_of({block: checked.filter(pl.col("block") == block) for block in BLOCKS}))


def probe_checks(metrics: Mapping[str, TradeMetrics]) -> pl.DataFrame:
    """The status rule, one row per block and check: `value`, `bound`, `passed`."""
    rows = []
    for block in EVALUATION_BLOCKS:
        trades, edge = metrics[block].trade_count, metrics[block].mean_weighted_edge_bps
        least, above = LEAST_TRADES[block], EDGE_ABOVE[block]
        rows += [
            {"block": block, "check": "trade_count_at_least", "value": float(trades), "bound": float(least),
             "passed": trades >= least},
            {"block": block, "check": "mean_weighted_edge_bps_above", "value": edge, "bound": above,
             "passed": edge > above},
        ]
    return pl.DataFrame(rows)


def _columns(spec: NonlinearProbeSpec) -> list[str]:
    """What is read of a row, beside its features."""
    names = [f"{way}_target" for way in ("long", "short", "neutral")]
    names += [f"{side.lower()}_{name}" for side in SIDES for name in ("entry_target", *OUTCOME_COLUMNS)]
    if spec.entry_population == "side_opportunity":
        names += [f"{side.lower()}_max_achievable_net_edge_bps" for side in SIDES]
    kept = [name for name in PROBABILITIES if "entry" not in name]
    return names + (kept if spec.replaces == "entry" else ["market_risk_prob"])


def _fit(fit: pl.DataFrame, seen: np.ndarray, features: Sequence[str], spec: NonlinearProbeSpec) -> _Fitted:
    columns: dict[str, np.ndarray] = {}
    heads: list[dict[str, Any]] = []

    def learn(part: pl.DataFrame, y: np.ndarray, classes: int, name: str, fit_filter: str) -> np.ndarray:
        require_classes(y, MIN_POPULATION_ROWS, f"{name} under {fit_filter}", max(classes, 1))
        head = grow(spec.trees, spec.training, matrix(part, features), y, spans_of(part), classes)
        heads.append(_card(head, name, fit_filter, part.height, fit.height))
        return head.predict(seen)

    if spec.replaces == "direction_and_entry":
        ways = learn(fit, direction_class(fit), 3, "direction", "ALL_FIT_ROWS")
        columns |= {f"direction_{way}_prob": ways[:, i] for i, way in enumerate(("long", "short"))}
    sides: tuple[Side, ...] = get_args(Side)
    for side, edge_head in zip(sides, MODEL_EDGES, strict=True):
        population = entry_rows(spec.entry_population, side, spec.least_bps)
        assert population is not None  # both methods of the spec name one
        least = 1.0 if population.method == "direction_label" else population.least_bps
        part = fit.filter(pl.col(population.column).cast(pl.Float64).fill_nan(None) >= least)
        name, own = f"{side.lower()}_entry", population.fit_filter
        columns[f"{name}_prob"] = learn(part, values(part, f"{name}_target"), 2, f"{name}_prob", own)
        truth = values(part, f"{side.lower()}_actual_plan_net_edge_bps")
        columns[edge_head] = learn(part, truth, 0, edge_head, own)
    return _Fitted(columns, heads)


def _card(head: Head, name: str, fit_filter: str, rows: int, total: int) -> dict[str, Any]:
    return {"head": name, "fit_filter": fit_filter, "fit_rows": rows, "fit_total_rows": total,
            "fit_row_ratio": rows / total, "rounds": head.rounds}


def _tables(
    checked: pl.DataFrame,
    fitted: _Fitted,
    found: SearchResult,
    trades: Mapping[str, pl.DataFrame],
    metrics: Mapping[str, TradeMetrics],
    checks: pl.DataFrame,
) -> dict[str, pl.DataFrame]:
    rows = {block: checked.filter(pl.col("block") == block).height for block in BLOCKS}
    positive = pl.col("mean_weighted_edge_bps") > 0
    counts = found.table.select(
        candidates=pl.len(),
        trading=(pl.col("trade_count") > 0).sum(),
        positive=positive.sum(),
        positive_with_80_trades=(positive & (pl.col("trade_count") >= LEAST_TRADES["E1"])).sum(),
    ).with_columns(fit_rows=pl.lit(rows[FIT]), config_hash=pl.lit(found.config.config_hash()))
    exits = [
        {"block": block, "side": side} | mix.model_dump()
        for block, part in trades.items() for side, mix in exit_mix(part).items()
    ]
    return {
        "metrics": pl.DataFrame([{"block": block, "rows": rows[block]} | own.model_dump()
                                 for block, own in metrics.items()]),
        "checks": checks,
        "exits": pl.DataFrame(exits),
        "heads": pl.DataFrame(fitted.heads),
        "search": counts,
        "candidates": found.table,
        "trades": pl.concat(list(trades.values())).sort(*KEY),
    }


def _text(spec: NonlinearProbeSpec, found: SearchResult, checks: pl.DataFrame) -> str:
    failed = [f"{row['block']} {row['check']} {row['bound']:g}: {row['value']:.4g}"
              for row in checks.filter(~pl.col("passed")).iter_rows(named=True)]
    what, rows = spec.replaces.replace("_", " "), spec.entry_population.replace("_", " ")
    return (
        f"Diagnostic only. Trees replace {what}; entry rows by {rows}. {RULE} E1's own figures are those of the best "
        f"of {found.table.height} candidates and flatter. Not met: {'; '.join(failed) or 'nothing'}."
    )
