"""The nonlinear probe in all its variants: what the trees replace, and whose rows the entry trees fit on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, Final, get_args

import polars as pl

from pipeline.diagnostics.finding import Finding
from pipeline.diagnostics.minutes.evaluation import SKIPPED
from pipeline.diagnostics.minutes.nonlinear_probe import (
    NOT_STABLE,
    PROMISING,
    RULE,
    NonlinearProbeSpec,
    nonlinear_probe,
)
from pipeline.diagnostics.minutes.probe_heads import NotFittable
from pipeline.labels.plan_search import EVALUATION_BLOCKS
from pipeline.models.spec import TreeHeadsSpec
from pipeline.positions.manager_spec import EXPANDED_GRID, ManagerConfig, PlanNumbers, SearchGrid

DEFAULT_TREES: Final = TreeHeadsSpec(rounds=150)
PICKED: Final = "The variant with the best score on E1 counts; the others are shown."


def nonlinear_variants(
    rows: pl.DataFrame,
    features: Sequence[str],
    plan: PlanNumbers,
    base: ManagerConfig | None = None,
    trees: TreeHeadsSpec = DEFAULT_TREES,
    grid: SearchGrid = EXPANDED_GRID,
) -> Finding:
    """Every combination of what is replaced and of the entry rows; one that cannot be fitted is skipped by name.

    Parameters
    ----------
    rows, features, plan, base, grid
        As `nonlinear_probe`.

    Returns
    -------
    Finding
        Status and score of the variant that is best on E1. Tables `variants` and those of the probe, each with
        `variant` in front; `skipped`.
    """
    found: dict[str, Finding] = {}
    skipped: list[tuple[str, str, str]] = []
    axes = (get_args(NonlinearProbeSpec.model_fields[name].annotation) for name in ("replaces", "entry_population"))
    for replaces, population in product(*axes):
        spec = NonlinearProbeSpec(replaces=replaces, entry_population=population, trees=trees)
        name = f"{replaces.replace('_', ' ')}, {population.replace('_', ' ')}"
        try:
            found[name] = nonlinear_probe(rows, features, plan, spec, base, grid)
        except NotFittable as error:
            skipped.append(("both", name, str(error)))
    reasons = pl.DataFrame(skipped, schema=SKIPPED, orient="row")
    if not found:
        return Finding(None, NOT_STABLE, f"Diagnostic only. No variant could be fitted: {skipped[0][2]}.",
                       {"skipped": reasons}, rule=f"{RULE} {PICKED}")
    scores = {name: float("-inf") if own.score is None else own.score for name, own in found.items()}
    best = max(scores, key=scores.__getitem__)
    tables = {"variants": pl.DataFrame([_summary(name, own, name == best) for name, own in found.items()])}
    tables |= {
        table: pl.concat([own.tables[table].select(pl.lit(name).alias("variant"), pl.all())
                          for name, own in found.items()], how="vertical_relaxed")
        for table in found[best].tables
    }
    text = (
        f"{found[best].text} {PICKED} {len(found)} variants were run, {len(skipped)} skipped; "
        f"{sum(own.status == PROMISING for own in found.values())} of them promising by themselves."
    )
    return Finding(found[best].score, found[best].status, text, tables | {"skipped": reasons},
                   rule=f"{RULE} {PICKED}", counts=dict(found[best].counts) | {"variants": len(found)})


def _summary(name: str, found: Finding, picked: bool) -> dict[str, Any]:
    metrics = {row["block"]: row for row in found.tables["metrics"].iter_rows(named=True)}
    figures = {f"{block}_{short}": metrics[block][column] for block in EVALUATION_BLOCKS
               for short, column in (("trades", "trade_count"), ("edge_bps", "mean_weighted_edge_bps"))}
    return {"variant": name, "picked": picked, "status": found.status, "score": found.score} | figures
