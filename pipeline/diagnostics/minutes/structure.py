"""Good-trade structure: whether anything known at the decision sets the minutes of good trades apart.

Single features, each with the direction it has on E1, and trees over all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import polars as pl
from pydantic import Field

from pipeline.diagnostics.finding import Finding
from pipeline.diagnostics.minutes.evaluation import (
    BLOCKS,
    EDGE,
    FIT,
    PICKING,
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
from pipeline.diagnostics.minutes.learners import Flags, LearnerSpec, aucs, learner, one_class, top_edge, top_rows
from pipeline.labels.plan_search import EVALUATION_BLOCKS

KEY: Final = ("side", "feature", "direction")
PROMISING: Final = "PROMISING_TREE_STRUCTURE"
NOTHING: Final = "NO_STABLE_TREE_STRUCTURE"
NO_MODEL_ROWS: Final = "NO_MODEL_ROWS"
NO_TOP_ROWS: Final = "NO_TOP10_ROWS"
TREES: Final = "trees of all features"
_METRICS = {
    "side": pl.String, "feature": pl.String, "direction": pl.Int64, "block": pl.String, "rows": pl.Int64,
    "auc": pl.Float64, "top_share": pl.Float64, "edge_bps": pl.Float64,
}  # fmt: skip
_TREES = {
    "side": pl.String, "block": pl.String, "rows": pl.Int64, "auc": pl.Float64, "edge_bps": pl.Float64,
}  # fmt: skip


class StructureSpec(ProbeSpec):
    """What is a good trade, and when structure is stable.

    Parameters
    ----------
    good_bps, break_even_bps, bad_bps : float
        Actual plan edge: good and break-even at least, bad at most.
    min_rows : int
        Of E1 for a feature, of fit_inner for the trees.
    stable_auc, promising_auc : float
        Of a feature, and of the trees, in every block, at least.
    top_shares : tuple of float
        Best rows by feature; the first one scores.
    tree_share : float
        Best rows by the trees.
    learner : LearnerSpec
    """

    good_bps: float = 3.0
    break_even_bps: float = 0.0
    bad_bps: float = -3.0
    min_rows: int = Field(default=1_000, ge=2)
    stable_auc: float = Field(default=0.53, ge=0.5, le=1)
    promising_auc: float = Field(default=0.56, ge=0.5, le=1)
    top_shares: tuple[float, ...] = Field(default=(0.01, 0.05, 0.10), min_length=1)
    tree_share: float = Field(default=0.10, gt=0, le=1)
    learner: LearnerSpec = LearnerSpec(family="balanced_trees")


def good_trade_structure(
    frame: pl.DataFrame, features: Sequence[str], spec: StructureSpec | None = None
) -> Finding:
    """AUC of good trades against all others and the edge of the top rows, by feature and by trees.

    Parameters
    ----------
    frame : pl.DataFrame
        The key, `block` (fit_inner, E1, E2, E3), features, `{long,short}_actual_plan_net_edge_bps`.

    Raises
    ------
    BadInput
        As `read_blocks`.
    """
    spec = spec or StructureSpec()
    rows, skipped = read_blocks(frame, features, (EDGE,), spec), Skipped()
    metrics = _by_feature(rows, spec, skipped)
    trees = _by_trees(rows, spec, skipped)
    rule = (
        f"Good is an actual plan edge of at least {spec.good_bps:g} bps, against all other rows. A feature's AUC on E1 "
        f"fixes its direction; it is stable with AUC >= {spec.stable_auc:g} and usable with a positive edge of the top "
        f"{100 * spec.top_shares[0]:g} % too, in E1, E2 and E3. Score = 10 x min AUC + 0.1 x min top edge + 2 if "
        f"stable + 3 if the top edge is positive in all. {spec.learner.family} are fitted on fit_inner; they are "
        f"promising when for a side all edges of the top {100 * spec.tree_share:g} % are positive and all AUC >= "
        f"{spec.promising_auc:g}."
    )
    more = {"classes": _classes(rows, spec), "trees": trees}
    candidates = _candidates(metrics, spec)
    return concluded(rule, _status(trees, spec), rows, candidates, metrics, skipped, more)


def _good(rows: BlockRows, side: str, spec: StructureSpec) -> dict[str, Flags]:
    return {block: rows.edge(block, side) >= spec.good_bps for block in BLOCKS}


def _classes(rows: BlockRows, spec: StructureSpec) -> pl.DataFrame:
    """Rates of good, break-even and bad trades, per side and block."""
    return pl.DataFrame([
        {"side": side, "block": block, "rows": len(edge), "good_rate": float((edge >= spec.good_bps).mean()),
         "break_even_rate": float((edge >= spec.break_even_bps).mean()),
         "bad_rate": float((edge <= spec.bad_bps).mean())}
        for side in SIDES for block in BLOCKS for edge in (rows.edge(block, side),)
    ])


def _by_feature(rows: BlockRows, spec: StructureSpec, skipped: Skipped) -> pl.DataFrame:
    """Side, feature, direction, block, rows, auc, top_share, edge_bps, lift_bps."""
    measured: list[dict[str, Any]] = []
    values = {block: rows.values(block) for block in EVALUATION_BLOCKS}
    for side in SIDES:
        good = _good(rows, side, spec)
        reason = _unmeasurable(values, good, spec)
        if reason:
            for feature in rows.features:
                skipped.add(side, feature, reason)
            continue
        order = {block: aucs(x, good[block]) for block, x in values.items()}
        direction = np.where(order[PICKING] >= 0.5, 1, -1)
        for block, x in values.items():
            directed = np.where(direction > 0, order[block], 1.0 - order[block])
            measured += _tops(rows, side, block, np.asfortranarray(x * direction), directed, direction, spec)
    return with_lift(pl.DataFrame(measured, schema=_METRICS), rows)


def _tops(
    rows: BlockRows, side: str, block: str, directed: Floats, order: Floats, direction: np.ndarray, spec: StructureSpec
) -> list[dict[str, Any]]:
    """All features and shares of one side and block."""
    edge = rows.edge(block, side)
    return [
        {"side": side, "feature": feature, "direction": int(direction[i]), "block": block, "rows": len(edge),
         "auc": float(order[i]), "top_share": share, "edge_bps": top_edge(directed[:, i], edge, share)}
        for i, feature in enumerate(rows.features) for share in spec.top_shares
    ]


def _unmeasurable(values: dict[str, Floats], good: dict[str, Flags], spec: StructureSpec) -> str | None:
    """Why the features of a side have no AUC or no top row."""
    if len(values[PICKING]) < spec.min_rows:
        return f"{len(values[PICKING])} rows in {PICKING}, {spec.min_rows} needed"
    for block, x in values.items():
        positives = int(good[block].sum())
        if positives in (0, len(x)):
            return f"one class in {block}: {positives} of {len(x)} rows good"
        if top_rows(len(x), spec.top_shares[0]) == 0:
            return f"no row in the top {100 * spec.top_shares[0]:g} % of {block}"
    return None


def _candidates(metrics: pl.DataFrame, spec: StructureSpec) -> pl.DataFrame:
    first = metrics.filter(pl.col("top_share") == spec.top_shares[0]).with_columns(
        holds=(pl.col("auc") >= spec.stable_auc) & (pl.col("edge_bps") > 0))
    found = over_blocks(first, KEY, ("auc", "edge_bps", "lift_bps"))
    found = found.with_columns(stable=pl.col("min_auc") >= spec.stable_auc)
    score = 10.0 * pl.col("min_auc") + 0.1 * pl.col("min_edge_bps")
    return ranked(found, score + 2.0 * pl.col("stable") + 3.0 * (pl.col("min_edge_bps") > 0))


def _by_trees(rows: BlockRows, spec: StructureSpec, skipped: Skipped) -> pl.DataFrame:
    """Side, block, rows, auc, edge_bps (null without a top row), lift_bps; no rows for a side without a model."""
    measured: list[dict[str, Any]] = []
    x = rows.values(FIT)
    fit = learner(x, spec.learner) if len(x) >= spec.min_rows else None
    for side in SIDES:
        good = _good(rows, side, spec)
        reason = one_class(good, spec.learner)
        if fit is None:
            reason = f"{len(x)} rows in {FIT}, {spec.min_rows} needed"
        if fit is None or reason:
            skipped.add(side, TREES, reason or "")
            continue
        predict = fit(good[FIT])
        for block in EVALUATION_BLOCKS:
            score, edge = predict(rows.values(block)), rows.edge(block, side)
            measured.append({
                "side": side, "block": block, "rows": len(edge), "auc": float(aucs(score[:, None], good[block])[0]),
                "edge_bps": top_edge(score, edge, spec.tree_share),
            })
    return with_lift(pl.DataFrame(measured, schema=_TREES), rows)


def _status(trees: pl.DataFrame, spec: StructureSpec) -> str:
    if trees.is_empty():
        return NO_MODEL_ROWS
    if trees["edge_bps"].has_nulls():
        return NO_TOP_ROWS
    holds = (pl.col("edge_bps") > 0) & (pl.col("auc") >= spec.promising_auc)
    sides = trees.group_by("side").agg(holds.all().alias("holds"))
    return PROMISING if sides["holds"].any() else NOTHING
