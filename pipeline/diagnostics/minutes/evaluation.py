"""Rows of a minute study on fit and evaluation blocks, and what every probe does with candidates measured on them.

Candidates are picked on E1 and confirmed on E2 and E3; a sealed block is refused. Not here: what a candidate is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from pipeline.diagnostics.finding import Finding
from pipeline.errors import BadInput, SchemaError
from pipeline.frames import MINUTE_ROW as KEY
from pipeline.frames import require_columns, require_unique
from pipeline.labels.plan_search import EVALUATION_BLOCKS
from pipeline.spec import Spec

FIT: Final = "fit_inner"
PICKING: Final = EVALUATION_BLOCKS[0]
BLOCKS: Final = (FIT, *EVALUATION_BLOCKS)
SIDES: Final = ("long", "short")
EDGE: Final = "actual_plan_net_edge_bps"
ACHIEVABLE: Final = "max_achievable_net_edge_bps"
MAE: Final = "mae_bps"
SKIPPED: Final = {"side": pl.String, "candidate": pl.String, "reason": pl.String}

Floats = NDArray[np.float64]


class ProbeSpec(Spec):
    """What all probes share.

    Parameters
    ----------
    purge_minutes : int
        Minutes from a block's last row to the next one's first, at least: the longest label horizon.
    """

    purge_minutes: int = Field(default=45, ge=1)


@dataclass(frozen=True)
class BlockRows:
    """Checked rows, block by block in time order.

    Parameters
    ----------
    features : tuple of str
    frames : mapping
        Block -> features and labels, finite Float64.
    """

    features: tuple[str, ...]
    frames: Mapping[str, pl.DataFrame]

    def values(self, block: str) -> Floats:
        """Features [n, F]."""
        return self.frames[block].select(self.features).to_numpy()

    def label(self, block: str, side: str, name: str) -> Floats:
        """One label of one side [n], bps."""
        return self.frames[block][f"{side}_{name}"].to_numpy()

    def edge(self, block: str, side: str) -> Floats:
        """Actual plan net edge [n], bps."""
        return self.label(block, side, EDGE)


def read_blocks(frame: pl.DataFrame, features: Sequence[str], labels: Sequence[str], spec: ProbeSpec) -> BlockRows:
    """The rows of a probe, checked.

    Parameters
    ----------
    frame : pl.DataFrame
        The key (session, instrument, minute), `block`, the features and `{long,short}_<label>`.
    labels : sequence of str
        Label names without their side.

    Raises
    ------
    SchemaError
        Missing or non-numeric columns; no feature, one twice, or a label among them.
    KeyViolation
        Null or doubled keys.
    BadInput
        A non-finite feature or label; a sealed, unknown, absent or unpurged block.
    """
    wide = [f"{side}_{name}" for side in SIDES for name in labels]
    _require_features(features)
    require_columns(frame, [*KEY, "block", *features, *wide], "a probe of minutes")
    require_unique(frame, KEY, "rows of a probe")
    _require_finite(frame, [*features, *wide])
    _require_blocks(frame, spec.purge_minutes)
    order = ["minute", "instrument"]
    plain = frame.sort(order).select("block", *(pl.col(c).cast(pl.Float64) for c in (*features, *wide)))
    return BlockRows(tuple(features), {block: plain.filter(pl.col("block") == block).drop("block") for block in BLOCKS})


def _require_features(features: Sequence[str]) -> None:
    if not features or len(set(features)) < len(features):
        raise SchemaError("a probe names at least one feature, each once", list(features), "correct the list")
    ends = (EDGE, ACHIEVABLE, MAE, "expected_net_edge_bps", "max_achievable_gross_edge_bps", "_target")
    labels = [name for name in features if name.endswith(ends)]
    if labels:
        raise SchemaError("a label is no feature: it reads the future", labels, "take it out of the features")


def _require_finite(frame: pl.DataFrame, columns: Sequence[str]) -> None:
    other = {c: str(frame.schema[c]) for c in columns if not frame.schema[c].is_numeric()}
    if other:
        raise SchemaError("features and labels are numbers", other, "cast or leave out")
    bad = frame.select((~pl.col(c).cast(pl.Float64).is_finite()).fill_null(True).sum() for c in columns).row(0)
    found = {name: count for name, count in zip(columns, bad, strict=True) if count}
    if found:
        raise BadInput("features and labels of a probe are finite", f"rows by column: {found}",
                       "drop rows with a missing value before, and say how many")


def _require_blocks(frame: pl.DataFrame, purge_minutes: int) -> None:
    names = set(frame["block"].to_list())
    unknown, absent = names - set(BLOCKS), set(BLOCKS) - names
    if unknown or absent:
        raise BadInput(f"probes read {list(BLOCKS)}: sealed rows are no input of a choice",
                       f"unknown {sorted(map(str, unknown))}, absent {sorted(absent)}",
                       "hand over fit_inner and the thirds of tune_inner alone")
    spans = {
        block: frame.filter(pl.col("block") == block).select(
            pl.col("minute").min().alias("first"), pl.col("minute").max().alias("last")).row(0)
        for block in BLOCKS
    }
    for earlier, later in pairwise(BLOCKS):
        apart = (spans[later][0] - spans[earlier][1]).total_seconds() / 60
        if apart < purge_minutes:
            raise BadInput(f"blocks follow each other in time and are purged by {purge_minutes} minutes",
                           f"{later} begins {apart:g} minutes after the last row of {earlier}",
                           "purge the blocks by the label horizon")


@dataclass
class Skipped:
    """Candidates that were not measured, each with its reason."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, side: str, candidate: str, reason: str) -> None:
        """One candidate of one side."""
        self.rows.append((side, candidate, reason))

    def table(self) -> pl.DataFrame:
        """Columns of `SKIPPED`."""
        return pl.DataFrame(self.rows, schema=SKIPPED, orient="row")


def population(rows: BlockRows) -> pl.DataFrame:
    """Rows and mean edge of every block and side: what each lift is measured against."""
    return pl.DataFrame([
        {"side": side, "block": block, "rows": len(edge), "population_edge_bps": float(edge.mean())}
        for side in SIDES for block in BLOCKS for edge in (rows.edge(block, side),)
    ])


def with_lift(metrics: pl.DataFrame, rows: BlockRows) -> pl.DataFrame:
    """With `lift_bps`: `edge_bps` less the mean edge of all rows of the same block and side."""
    means = population(rows).drop("rows")
    return metrics.join(means, on=["side", "block"], how="left", maintain_order="left").with_columns(
        lift_bps=pl.col("edge_bps") - pl.col("population_edge_bps")
    )


def over_blocks(metrics: pl.DataFrame, key: Sequence[str], measures: Sequence[str]) -> pl.DataFrame:
    """One row per candidate, first seen first.

    Parameters
    ----------
    metrics : pl.DataFrame
        One row per candidate and evaluation block: key, `block`, `rows`, measures, and `holds`.

    Returns
    -------
    pl.DataFrame
        Key, `min_rows`, `min_<measure>` and `mean_<measure>`; `picked`: holds on E1; `usable`: holds in all three.
    """
    return metrics.group_by(key, maintain_order=True).agg(
        pl.col("rows").min().alias("min_rows"),
        *(pl.col(name).min().alias(f"min_{name}") for name in measures),
        *(pl.col(name).mean().alias(f"mean_{name}") for name in measures),
        pl.col("holds").filter(pl.col("block") == PICKING).any().alias("picked"),
        pl.col("holds").all().alias("usable"),
    )


def ranked(candidates: pl.DataFrame, score: pl.Expr) -> pl.DataFrame:
    """With `score`, the best first, equal ones as they came."""
    return candidates.with_columns(score.alias("score")).sort("score", descending=True, maintain_order=True)


def concluded(
    rule: str, status: str, rows: BlockRows, candidates: pl.DataFrame, metrics: pl.DataFrame, skipped: Skipped,
    more: Mapping[str, pl.DataFrame] | None = None,
) -> Finding:
    """The finding of a probe: its rule in words, the counts, and the tables of candidates, metrics, skipped."""
    counts = ", ".join(f"{block} {frame.height:,}" for block, frame in rows.frames.items())
    picked, usable = int(candidates["picked"].sum()), int(candidates["usable"].sum())
    text = (
        f"Diagnostic only: nothing is trained for use, chosen or promoted by it. {rule} Lift is against all rows of "
        f"the same block and side. Rows: {counts}. {candidates.height:,} candidates measured, {picked:,} hold on E1, "
        f"{usable:,} of these also on E2 and E3; {len(skipped.rows):,} skipped, each with its reason."
    )
    tables = {"candidates": candidates, "population": population(rows), **(more or {}), "metrics": metrics,
              "skipped": skipped.table()}
    best = float(candidates["score"].max()) if candidates.height else None  # type: ignore[arg-type]
    measured = {"candidates": candidates.height, "picked": picked, "usable": usable, "skipped": len(skipped.rows)}
    return Finding(best, status, text, tables, rule=rule, counts=rows_of(rows.frames) | measured)


def rows_of(frames: Mapping[str, pl.DataFrame]) -> dict[str, int]:
    """`<block>_rows` of every block."""
    return {f"{block}_rows": frame.height for block, frame in frames.items()}
