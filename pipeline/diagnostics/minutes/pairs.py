"""Condition pairs: whether two buckets of different features together earn where each alone may not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pipeline.diagnostics.finding import Finding
from pipeline.diagnostics.minutes.buckets import Buckets, BucketSpec, bucket_cells, bucket_codes, cells, scored_cells
from pipeline.diagnostics.minutes.evaluation import (
    EDGE,
    PICKING,
    SIDES,
    BlockRows,
    Skipped,
    concluded,
    read_blocks,
    with_lift,
)
from pipeline.labels.plan_search import EVALUATION_BLOCKS

KEY: Final = ("side", "feature_a", "bucket_a", "feature_b", "bucket_b")
PROMISING: Final = "PROMISING_CONDITION_PAIR"
NOTHING: Final = "NO_STABLE_CONDITION_PAIR"
_METRICS = {
    "side": pl.String, "feature_a": pl.String, "bucket_a": pl.Int64, "feature_b": pl.String, "bucket_b": pl.Int64,
    "block": pl.String, "rows": pl.Int64, "edge_bps": pl.Float64,
}  # fmt: skip


class PairsSpec(BucketSpec):
    """Which buckets are paired.

    Parameters
    ----------
    per_feature, per_side : int
        Buckets of a feature, and of a side, by edge lift on E1.
    min_pair_rows : int
        Rows of a pair, in each block.
    """

    per_feature: int = Field(default=2, ge=1)
    per_side: int = Field(default=32, ge=2)
    min_pair_rows: int = Field(default=150, ge=1)


def condition_pairs(frame: pl.DataFrame, features: Sequence[str], spec: PairsSpec | None = None) -> Finding:
    """Edge and lift of pairs of the best E1 buckets, each side by itself.

    Parameters
    ----------
    frame : pl.DataFrame
        The key, `block` (fit_inner, E1, E2, E3), features, `{long,short}_actual_plan_net_edge_bps`.

    Raises
    ------
    BadInput
        As `read_blocks`.
    """
    spec = spec or PairsSpec()
    rows, skipped = read_blocks(frame, features, (EDGE,), spec), Skipped()
    coded = bucket_codes(rows, spec, skipped)
    conditions = _conditions(bucket_cells(rows, coded), spec)
    with threadpool_limits(1):  # products of 32 columns: on a busy machine threads made 0.1 s into 15 s
        measured = [_pairs(rows, side, conditions.filter(pl.col("side") == side), coded) for side in SIDES]
    metrics = with_lift(pl.concat(measured), rows)
    name = pl.format("{} bucket {} and {} bucket {}", *KEY[1:])
    candidates, kept = scored_cells(metrics, KEY, name, spec.min_pair_rows, skipped)
    rule = (
        f"Of the buckets with {spec.min_bucket_rows} rows on E1 the best {spec.per_feature} of a feature and the best "
        f"{spec.per_side} of a side, by lift on E1, are paired with those of other features. A pair is usable with "
        f"positive actual plan edge, positive lift and {spec.min_pair_rows} rows in E1, E2 and E3. Score = min edge + "
        "0.25 x mean edge + 2 if the lift holds + 1 if the rows hold."
    )
    status = PROMISING if candidates["usable"].any() else NOTHING
    return concluded(rule, status, rows, candidates, kept, skipped, {"conditions": conditions})


def _conditions(metrics: pl.DataFrame, spec: PairsSpec) -> pl.DataFrame:
    """The buckets to pair, best lift on E1 first within a side."""
    large = metrics.filter((pl.col("block") == PICKING) & (pl.col("rows") >= spec.min_bucket_rows))
    best = large.sort("lift_bps", descending=True, maintain_order=True)
    per_feature = best.group_by("side", "feature", maintain_order=True).head(spec.per_feature)
    ordered = per_feature.sort("side", "lift_bps", descending=[False, True], maintain_order=True)
    return ordered.group_by("side", maintain_order=True).head(spec.per_side)


def _pairs(
    rows: BlockRows, side: str, conditions: pl.DataFrame, coded: Mapping[str, tuple[Buckets, dict[str, NDArray]]]
) -> pl.DataFrame:
    """Rows and edge of all pairs at once: with M [n, k] of who meets what, counts are M'M and sums M'diag(edge)M."""
    names, buckets = conditions["feature"].to_list(), conditions["bucket"].to_list()
    a, b = np.triu_indices(len(names), 1)
    other = np.array([names[i] != names[j] for i, j in zip(a, b, strict=True)], bool)
    a, b = a[other], b[other]
    frames = [pl.DataFrame(schema=_METRICS)]
    for block in EVALUATION_BLOCKS if len(a) else ():
        meets = np.column_stack([coded[name][1][block] == k for name, k in zip(names, buckets, strict=True)])
        meets = meets.astype(np.float64)
        count = (meets.T @ meets)[a, b]
        total = (meets.T @ (meets * rows.edge(block, side)[:, None]))[a, b]
        frames.append(pl.DataFrame({
            "side": side, "feature_a": [names[i] for i in a], "bucket_a": [buckets[i] for i in a],
            "feature_b": [names[i] for i in b], "bucket_b": [buckets[i] for i in b], "block": block,
            **cells(count, total),
        }))
    return pl.concat(frames)
