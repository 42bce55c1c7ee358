"""Low-MAE label: whether a target without a deep drawdown is easier to foresee, and what its best rows earn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, Final

import numpy as np
import polars as pl
from pydantic import Field

from pipeline.diagnostics.finding import Finding
from pipeline.diagnostics.minutes.evaluation import (
    ACHIEVABLE,
    EDGE,
    FIT,
    MAE,
    SIDES,
    BlockRows,
    Floats,
    ProbeSpec,
    Skipped,
    concluded,
    over_blocks,
    ranked,
    read_blocks,
    with_lift,
)
from pipeline.diagnostics.minutes.learners import (
    Flags,
    LearnerSpec,
    aucs,
    learner,
    one_class,
    top_edge,
    top_rows,
)
from pipeline.labels.plan_search import EVALUATION_BLOCKS

KEY: Final = ("side", "max_mae_bps", "min_achievable_bps")
MEASURES: Final = ("edge_bps", "lift_bps", "auc", "brier_ratio")
PROMISING: Final = "PROMISING_LOW_MAE_LABEL"
NOTHING: Final = "NO_STABLE_LOW_MAE_LABEL"
_METRICS = {
    "side": pl.String, "max_mae_bps": pl.Float64, "min_achievable_bps": pl.Float64, "block": pl.String,
    "rows": pl.Int64, "top_rows": pl.Int64, "positive_rate": pl.Float64, "fit_rate": pl.Float64,
    "edge_bps": pl.Float64, "auc": pl.Float64, "brier": pl.Float64, "brier_constant": pl.Float64,
    "brier_ratio": pl.Float64,
}  # fmt: skip


class LowMaeSpec(ProbeSpec):
    """Which labels are tried.

    Parameters
    ----------
    max_mae_bps, min_achievable_bps : tuple of float
        A row is positive with MAE at most the one and max achievable net edge at least the other.
    top_share : float
        Best rows by score whose edge counts.
    learner : LearnerSpec
    """

    max_mae_bps: tuple[float, ...] = (4.0, 6.0, 8.0, 12.0)
    min_achievable_bps: tuple[float, ...] = (6.0, 12.0, 20.0)
    top_share: float = Field(default=0.10, gt=0, le=1)
    learner: LearnerSpec = LearnerSpec()


def low_mae_labels(frame: pl.DataFrame, features: Sequence[str], spec: LowMaeSpec | None = None) -> Finding:
    """Fit every label on fit_inner, score E1, E2 and E3.

    Parameters
    ----------
    frame : pl.DataFrame
        The key, `block` (fit_inner, E1, E2, E3), features, and per side `actual_plan_net_edge_bps`,
        `max_achievable_net_edge_bps`, `mae_bps`.

    Raises
    ------
    BadInput
        As `read_blocks`.
    """
    spec = spec or LowMaeSpec()
    rows, skipped = read_blocks(frame, features, (EDGE, ACHIEVABLE, MAE), spec), Skipped()
    fit = learner(rows.values(FIT), spec.learner)
    values = {block: rows.values(block) for block in EVALUATION_BLOCKS}
    measured: list[dict[str, Any]] = []
    for side, mae, achievable in product(SIDES, spec.max_mae_bps, spec.min_achievable_bps):
        targets = _targets(rows, side, mae, achievable)
        reason = one_class(targets, spec.learner) or _no_top(values, spec.top_share)
        if reason:
            skipped.add(side, f"MAE <= {mae:g}, max achievable >= {achievable:g}", reason)
            continue
        predict, named = fit(targets[FIT]), {"side": side, "max_mae_bps": mae, "min_achievable_bps": achievable}
        rate = float(targets[FIT].mean())
        measured += [
            named | {"block": block, **_measure(predict(x), targets[block], rows.edge(block, side), rate, spec)}
            for block, x in values.items()
        ]
    holds = (pl.col("edge_bps") > 0) & (pl.col("lift_bps") > 0) & (pl.col("auc") > 0.5)
    metrics = with_lift(pl.DataFrame(measured, schema=_METRICS), rows).with_columns(holds=holds)
    score = pl.col("min_edge_bps") + 0.25 * pl.col("mean_edge_bps") + 2.0 * pl.col("min_auc")
    candidates = ranked(over_blocks(metrics, KEY, MEASURES), score + 1.0 * (pl.col("min_lift_bps") > 0))
    return concluded(
        _rule(spec), PROMISING if candidates["usable"].any() else NOTHING, rows, candidates, metrics, skipped)


def _targets(rows: BlockRows, side: str, mae: float, achievable: float) -> dict[str, Flags]:
    return {
        block: (rows.label(block, side, MAE) <= mae) & (rows.label(block, side, ACHIEVABLE) >= achievable)
        for block in rows.frames
    }


def _no_top(values: dict[str, Floats], share: float) -> str | None:
    small = [block for block, x in values.items() if top_rows(len(x), share) == 0]
    return f"no row in the top {100 * share:g} % of {small[0]}" if small else None


def _measure(score: Floats, target: Flags, edge: Floats, rate: float, spec: LowMaeSpec) -> dict[str, Any]:
    """One block: the constant predicts the rate of the fit rows."""
    brier, constant = float(np.mean((score - target) ** 2)), float(np.mean((rate - target) ** 2))
    return {
        "rows": len(edge), "top_rows": top_rows(len(edge), spec.top_share), "positive_rate": float(target.mean()),
        "fit_rate": rate, "edge_bps": top_edge(score, edge, spec.top_share),
        "auc": float(aucs(score[:, None], target)[0]), "brier": brier, "brier_constant": constant,
        "brier_ratio": brier / constant,
    }


def _rule(spec: LowMaeSpec) -> str:
    return (
        f"A {spec.learner.family} model of each label (MAE at most, max achievable net edge at least) is fitted on "
        f"fit_inner; edge is the mean actual plan edge of the top {100 * spec.top_share:g} % by its score. Score = min "
        "top edge + 0.25 x mean + 2 x min AUC + 1 if the lift holds; usable with positive edge, positive lift and AUC "
        "over 0.5 in E1, E2 and E3. Brier is of the probability at the fit rows' prevalence, beside their constant "
        "rate."
    )
