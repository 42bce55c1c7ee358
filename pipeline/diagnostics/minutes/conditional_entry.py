"""Conditional entry: what Entry could earn if one knew which minutes hold an opportunity at all.

An oracle: its filter reads the future in fitting and in evaluation. It bounds what a better filter could bring, and
can never be traded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Final

import polars as pl
from pydantic import Field

from pipeline.diagnostics.finding import Finding
from pipeline.diagnostics.minutes.evaluation import (
    ACHIEVABLE,
    BLOCKS,
    EDGE,
    FIT,
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

KEY: Final = ("side", "min_achievable_bps", "target_edge_bps", "top_share", "reads_future")
PROMISING: Final = "PROMISING_WITH_HINDSIGHT_ONLY"
NOTHING: Final = "NO_STABLE_CONDITIONAL_ENTRY"
_METRICS = {
    "side": pl.String, "min_achievable_bps": pl.Float64, "target_edge_bps": pl.Float64, "top_share": pl.Float64,
    "reads_future": pl.Boolean, "block": pl.String, "rows": pl.Int64, "top_rows": pl.Int64, "auc": pl.Float64,
    "filtered_edge_bps": pl.Float64, "edge_bps": pl.Float64,
}  # fmt: skip


class ConditionalEntrySpec(ProbeSpec):
    """Which filters and targets are tried.

    Parameters
    ----------
    min_achievable_bps : tuple of float
        The filter: max achievable net edge of the side, at least.
    target_edge_bps : tuple of float
        The target: actual plan edge, at least.
    top_shares : tuple of float
        Best filtered rows by score whose edge counts.
    min_fit_rows, min_evaluation_rows : int
        Of the filtered rows; the latter of each block.
    learner : LearnerSpec
    """

    min_achievable_bps: tuple[float, ...] = (6.0, 12.0, 20.0, 40.0, 60.0)
    target_edge_bps: tuple[float, ...] = (0.0, 3.0)
    top_shares: tuple[float, ...] = (0.01, 0.02, 0.05, 0.10)
    min_fit_rows: int = Field(default=1_000, ge=2)
    min_evaluation_rows: int = Field(default=500, ge=2)
    learner: LearnerSpec = LearnerSpec()


def conditional_entry(
    frame: pl.DataFrame, features: Sequence[str], spec: ConditionalEntrySpec | None = None
) -> Finding:
    """Fit Entry on the filtered rows of fit_inner, score the filtered rows of E1, E2 and E3.

    Parameters
    ----------
    frame : pl.DataFrame
        The key, `block` (fit_inner, E1, E2, E3), features, and per side `actual_plan_net_edge_bps`,
        `max_achievable_net_edge_bps`.

    Raises
    ------
    BadInput
        As `read_blocks`.
    """
    spec = spec or ConditionalEntrySpec()
    rows, skipped = read_blocks(frame, features, (EDGE, ACHIEVABLE), spec), Skipped()
    measured: list[dict[str, Any]] = []
    for side, achievable in product(SIDES, spec.min_achievable_bps):
        inside = {block: rows.label(block, side, ACHIEVABLE) >= achievable for block in BLOCKS}
        few = _too_few(inside, spec)
        if few:
            skipped.add(side, f"max achievable >= {achievable:g}", few)
            continue
        measured += _filtered(rows, side, achievable, inside, spec, skipped)
    metrics = with_lift(pl.DataFrame(measured, schema=_METRICS), rows).with_columns(holds=pl.col("edge_bps") > 0)
    score = pl.col("min_edge_bps") + 0.25 * pl.col("mean_edge_bps") + 2.0 * (pl.col("min_edge_bps") > 0)
    candidates = ranked(over_blocks(metrics, KEY, ("edge_bps", "lift_bps", "filtered_edge_bps", "auc")), score)
    rule = (
        "NEVER LIVE: the filter (max achievable net edge at least) reads the future, in fitting and in evaluation. A "
        f"{spec.learner.family} model of 'actual plan edge at least' is fitted on the filtered rows of fit_inner; edge "
        "is the mean actual plan edge of the top share by its score among the filtered rows, filtered edge that of all "
        f"of them. Fewer than {spec.min_fit_rows:,} fit or {spec.min_evaluation_rows:,} evaluation rows are skipped. "
        "Score = min top edge + 0.25 x mean + 2 if positive in E1, E2 and E3, which is what usable means here."
    )
    status = PROMISING if candidates["usable"].any() else NOTHING
    return concluded(rule, status, rows, candidates, metrics, skipped)


def _too_few(inside: Mapping[str, Flags], spec: ConditionalEntrySpec) -> str | None:
    for block in BLOCKS:
        least = spec.min_fit_rows if block == FIT else spec.min_evaluation_rows
        found = int(inside[block].sum())
        if found < least:
            return f"{found} rows in {block}, {least} needed"
    return None


def _filtered(
    rows: BlockRows, side: str, achievable: float, inside: Mapping[str, Flags], spec: ConditionalEntrySpec,
    skipped: Skipped,
) -> list[dict[str, Any]]:
    """All targets and shares of one filter."""
    x = {block: rows.values(block)[inside[block]] for block in BLOCKS}
    edges = {block: rows.edge(block, side)[inside[block]] for block in BLOCKS}
    fit, measured = learner(x[FIT], spec.learner), []
    for bound in spec.target_edge_bps:
        targets = {block: edges[block] >= bound for block in BLOCKS}
        reason, name = one_class(targets, spec.learner), f"max achievable >= {achievable:g}, edge >= {bound:g}"
        if reason:
            skipped.add(side, name, reason)
            continue
        predict = fit(targets[FIT])
        scores = {block: predict(x[block]) for block in EVALUATION_BLOCKS}
        order = {block: float(aucs(scores[block][:, None], targets[block])[0]) for block in EVALUATION_BLOCKS}
        named = {"side": side, "min_achievable_bps": achievable, "target_edge_bps": bound, "reads_future": True}
        for share in spec.top_shares:
            small = [block for block in EVALUATION_BLOCKS if top_rows(len(edges[block]), share) == 0]
            if small:
                top = f"top {100 * share:g} %"
                skipped.add(side, f"{name}, {top}", f"no row in the {top} of {small[0]}")
                continue
            measured += [
                named | {"top_share": share, "block": block, "auc": order[block],
                         **_top(scores[block], edges[block], share)}
                for block in EVALUATION_BLOCKS
            ]
    return measured


def _top(score: Floats, edge: Floats, share: float) -> dict[str, Any]:
    return {
        "rows": len(edge), "top_rows": top_rows(len(edge), share), "filtered_edge_bps": float(edge.mean()),
        "edge_bps": top_edge(score, edge, share),
    }
