"""Buckets of a feature with edges learned on the fit rows, and what the rows of each earned on every block.

Not here: which buckets count (`screens`), and pairs of them (`pairs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from pipeline.diagnostics.minutes.evaluation import (
    FIT,
    PICKING,
    SIDES,
    BlockRows,
    Floats,
    ProbeSpec,
    Skipped,
    over_blocks,
    ranked,
    with_lift,
)
from pipeline.labels.plan_search import EVALUATION_BLOCKS

CELL: Final = ("edge_bps", "lift_bps")


class BucketSpec(ProbeSpec):
    """How a feature is cut.

    Parameters
    ----------
    buckets, event_buckets : int
        Equal-count buckets of all fit values, or of the non-zero ones of an event feature.
    min_edges : int
        Distinct inner edges below which a feature is taken for an event feature.
    min_events : int
        Non-zero fit values that an event feature needs.
    min_bucket_rows : int
        Rows of a bucket, in each block.
    """

    buckets: int = Field(default=10, ge=2)
    event_buckets: int = Field(default=5, ge=1)
    min_edges: int = Field(default=3, ge=1)
    min_events: int = Field(default=300, ge=1)
    min_bucket_rows: int = Field(default=300, ge=1)


@dataclass(frozen=True)
class Buckets:
    """Half-open intervals `[lower, upper)` of one feature.

    Parameters
    ----------
    kind : {"decile", "event"}
        Of an event feature bucket 0 holds the zeros, and the intervals cut the rest.
    edges : float64 [k]
        Inner edges, strictly ascending.
    """

    kind: Literal["decile", "event"]
    edges: Floats

    @property
    def count(self) -> int:
        return len(self.edges) + 1 + (self.kind == "event")

    def codes(self, values: Floats) -> NDArray[np.int64]:
        """Bucket of each value, from 0."""
        place = np.searchsorted(self.edges, values, side="right")
        return np.asarray(np.where(values == 0.0, 0, place + 1) if self.kind == "event" else place, np.int64)

    def bounds(self) -> tuple[list[float], list[float]]:
        """Lower and upper bound per bucket."""
        cuts = [-np.inf, *self.edges.tolist(), np.inf]
        zero = [0.0] if self.kind == "event" else []
        return zero + cuts[:-1], zero + cuts[1:]


def learn_buckets(values: Floats, spec: BucketSpec) -> Buckets | str:
    """Buckets from fit values, or the reason why there are none."""
    edges = _inner_edges(values, spec.buckets)
    if len(edges) >= spec.min_edges:
        return Buckets("decile", edges)
    events = values[values != 0.0]
    if len(events) < spec.min_events:
        return f"{len(edges)} distinct edges and {len(events)} non-zero fit values, {spec.min_events} needed"
    found = Buckets("event", _inner_edges(events, spec.event_buckets))
    if len(np.unique(found.codes(values))) < 2:
        return "one value on all fit rows"
    return found


def _inner_edges(values: Floats, buckets: int) -> Floats:
    """Distinct inner quantiles above the least value: an edge on it would cut an empty bucket off."""
    edges = np.unique(np.quantile(values, np.arange(1, buckets) / buckets))
    return edges[edges > values.min()]


def bucket_codes(rows: BlockRows, spec: BucketSpec, skipped: Skipped) -> dict[str, tuple[Buckets, dict[str, NDArray]]]:
    """Feature -> its buckets, and the bucket of every row of each evaluation block."""
    found: dict[str, tuple[Buckets, dict[str, NDArray]]] = {}
    for feature in rows.features:
        buckets = learn_buckets(rows.frames[FIT][feature].to_numpy(), spec)
        if isinstance(buckets, str):
            for side in SIDES:
                skipped.add(side, feature, buckets)
            continue
        codes = {block: buckets.codes(rows.frames[block][feature].to_numpy()) for block in EVALUATION_BLOCKS}
        found[feature] = buckets, codes
    return found


def bucket_cells(rows: BlockRows, coded: dict[str, tuple[Buckets, dict[str, NDArray]]]) -> pl.DataFrame:
    """Side, feature, bucket, kind, lower, upper, block, rows, edge_bps (null without rows), lift_bps."""
    frames = []
    for feature, (buckets, codes) in coded.items():
        lower, upper = buckets.bounds()
        for side in SIDES:
            for block in EVALUATION_BLOCKS:
                count = np.bincount(codes[block], minlength=buckets.count)
                total = np.bincount(codes[block], rows.edge(block, side), minlength=buckets.count)
                frames.append(pl.DataFrame({
                    "side": side, "feature": feature, "bucket": np.arange(buckets.count), "kind": buckets.kind,
                    "lower": lower, "upper": upper, "block": block, **cells(count, total),
                }))
    return with_lift(pl.concat(frames), rows) if frames else pl.DataFrame(schema=_CELLS)


_CELLS = {
    "side": pl.String, "feature": pl.String, "bucket": pl.Int64, "kind": pl.String, "lower": pl.Float64,
    "upper": pl.Float64, "block": pl.String, "rows": pl.Int64, "edge_bps": pl.Float64,
    "population_edge_bps": pl.Float64, "lift_bps": pl.Float64,
}  # fmt: skip


def cells(count: NDArray[Any], total: NDArray[Any]) -> dict[str, pl.Series]:
    """`rows` and `edge_bps` of cells: their mean, null for an empty one."""
    with np.errstate(invalid="ignore", divide="ignore"):
        edge = pl.Series(total / count, dtype=pl.Float64).fill_nan(None)
    return {"rows": pl.Series(count.astype(np.int64)), "edge_bps": edge}


def scored_cells(
    metrics: pl.DataFrame, key: Sequence[str], name: pl.Expr, least: int, skipped: Skipped
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Candidates and metrics of cells that have enough rows on E1 and any on E2 and E3; the others are skipped.

    Usable: edge > 0, lift > 0 and `least` rows in all blocks. Score = min edge + 0.25 x mean edge + 2 if the lift is
    positive in all + 1 if all have the rows.

    Parameters
    ----------
    metrics : pl.DataFrame
        Key, `block`, `rows`, `edge_bps`, `lift_bps`.
    name : pl.Expr
        How a skipped cell is called.
    """
    lacking = metrics.filter(
        (pl.col("rows") == 0) | ((pl.col("block") == PICKING) & (pl.col("rows") < least))
    ).unique(key, keep="first", maintain_order=True)
    reason = pl.format("{} has {} rows, {} needed", "block", "rows",
                       pl.when(pl.col("block") == PICKING).then(least).otherwise(1))
    skipped.rows += lacking.select("side", name.alias("candidate"), reason.alias("reason")).rows()
    holds = (pl.col("edge_bps") > 0) & (pl.col("lift_bps") > 0) & (pl.col("rows") >= least)
    kept = metrics.join(lacking, on=key, how="anti", maintain_order="left").with_columns(holds=holds)
    score = pl.col("min_edge_bps") + 0.25 * pl.col("mean_edge_bps")
    score += 2.0 * (pl.col("min_lift_bps") > 0) + 1.0 * (pl.col("min_rows") >= least)
    return ranked(over_blocks(kept, key, CELL), score), kept
