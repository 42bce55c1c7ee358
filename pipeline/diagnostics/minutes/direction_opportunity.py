"""Direction-opportunity dataset: what Direction would train on if the side with the larger opportunity were the truth.

The labels are `minute_heads.direction_by_opportunity`; here they are counted at several thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import polars as pl

from pipeline.diagnostics.finding import Finding
from pipeline.diagnostics.minutes.evaluation import ACHIEVABLE, BLOCKS, SIDES, SKIPPED
from pipeline.errors import BadInput
from pipeline.frames import MINUTE_ROW as KEY
from pipeline.frames import require_columns
from pipeline.labels.minute_heads import DIRECTION, direction_by_opportunity, direction_report
from pipeline.labels.minute_spec import BY_OPPORTUNITY, MinuteLabelSpec
from pipeline.labels.price_plan import PricePlan

READY: Final = "DATASET_HAS_THREE_CLASSES"
NOTHING: Final = "NO_DATASET_WITH_THREE_CLASSES"
LEAST_CLASS_ROWS: Final = 200
"""Of each class in each block: what a one-vs-rest AUC needs."""


def direction_opportunity(
    labels: pl.DataFrame, plan: PricePlan, bounds: MinuteLabelSpec, thresholds_bps: Sequence[float]
) -> Finding:
    """Direction labels by opportunity at each threshold: counts, rates by block, the data's hash.

    Parameters
    ----------
    labels : pl.DataFrame
        The key, `block` (fit_inner, E1, E2, E3) and `{long,short}_max_achievable_net_edge_bps`.
    plan, bounds : PricePlan, MinuteLabelSpec
        Of the labels; the bounds give the lead over the other side.
    thresholds_bps : sequence of float
        Max achievable net edge of a winning side, at least.

    Returns
    -------
    Finding
        `DATASET_HAS_THREE_CLASSES` if a threshold leaves 200 rows of each class in every block, else
        `NO_DATASET_WITH_THREE_CLASSES`; `score` is the rate of the rarest class of the best one. Tables `candidates`,
        `metrics` (a row per threshold and block), `dataset` (of the best threshold), `skipped`.

    Raises
    ------
    SchemaError, BadInput
        A column is absent; no threshold; a sealed, unknown or absent block.
    """
    require_columns(labels, [*KEY, "block", *(f"{side}_{ACHIEVABLE}" for side in SIDES)], "the direction dataset")
    seen = set(labels["block"].to_list())
    if seen != set(BLOCKS) or not thresholds_bps:
        raise BadInput(f"the direction dataset has thresholds, and reads {list(BLOCKS)} and no sealed block",
                       f"{list(thresholds_bps)}, {sorted(map(str, seen))}",
                       "hand over fit_inner and the thirds of tune_inner")
    datasets, metrics, candidates = {}, [], []
    for threshold in thresholds_bps:
        spec = MinuteLabelSpec(**bounds.model_dump() | {"direction_method": BY_OPPORTUNITY,
                                                        "opportunity_threshold_bps": threshold})
        datasets[threshold] = direction_by_opportunity(labels, plan, spec)
        report = direction_report(datasets[threshold], labels.select(*KEY, split_id="block"))
        metrics += [{"threshold_bps": threshold} | _renamed(report["splits"][block]) for block in BLOCKS]
        candidates.append(_candidate(threshold, report))
    ordered = pl.DataFrame(candidates).sort("usable", "score", descending=True, maintain_order=True)
    best = ordered.row(0, named=True)
    rule = (
        "A side wins when its max achievable net edge reaches the threshold and leads the other by "
        f"{bounds.opportunity_lead_bps:g} bps; else neutral. A threshold gives a usable dataset with at least "
        f"{LEAST_CLASS_ROWS} rows of each class in {', '.join(BLOCKS)}. Score = rate of the rarest class in any block."
    )
    lacking = [("both", f"threshold {row['threshold_bps']:g}", f"{row['rarest_rows']} rows of {row['rarest']}, "
                f"{LEAST_CLASS_ROWS} needed") for row in candidates if not row["usable"]]
    text = (
        f"Diagnostic only: the study keeps its direction labels. {rule} Best threshold: {best['threshold_bps']:g} bps, "
        f"rarest {best['rarest']} with {best['rarest_rows']:,} rows. {len(lacking)} of {len(candidates)} thresholds "
        "leave a class with too few."
    )
    return Finding(
        best["score"], READY if best["usable"] else NOTHING, text,
        {"candidates": ordered, "metrics": pl.DataFrame(metrics), "dataset": datasets[best["threshold_bps"]],
         "skipped": pl.DataFrame(lacking, schema=SKIPPED, orient="row")},
        rule=rule,
        counts={"rows": labels.height, "thresholds": len(candidates), "usable": len(candidates) - len(lacking)},
    )


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    return {"block": row["split_id"]} | {name: value for name, value in row.items() if name != "split_id"}


def _candidate(threshold: float, report: dict[str, Any]) -> dict[str, Any]:
    """One threshold: its counts over all blocks, its rarest class, the hash of its labels."""
    cells = [(split[name], split[name] / split["rows"], f"{name.removesuffix('_target')} in {block}")
             for block, split in report["splits"].items() for name in DIRECTION]
    rows, _, rarest = min(cells)
    return {
        "threshold_bps": threshold, "rows": report["rows"], **report["counts"], "rarest": rarest, "rarest_rows": rows,
        "score": min(rate for _, rate, _ in cells), "usable": rows >= LEAST_CLASS_ROWS,
        "data_hash": report["data_hash"],
    }
