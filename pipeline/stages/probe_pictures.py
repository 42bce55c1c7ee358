"""Which picture a finding of minutes is shown with: bars by evaluation block, lines over buckets. `reports` draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import polars as pl

from pipeline.diagnostics.finding import Finding
from pipeline.labels.plan_search import EVALUATION_BLOCKS
from pipeline.reports.probe_figures import bins_figure, grouped_bars_figure

Pictures = dict[str, Callable[[], bytes]]
SHOWN = 12
"""Candidates in a picture: the best."""


def by_block(
    found: Finding, key: Sequence[str], column: str, axis: str, where: pl.Expr | None = None
) -> Pictures:
    """Bars of E1, E2 and E3 for the best candidates; without one, what all rows earned."""
    if found.tables["candidates"].is_empty():
        rows = found.tables["population"]
        return grouped(rows, ["side"], "block", "population_edge_bps", "no candidate: the edge of all rows", "bps")
    best = found.tables["candidates"].head(SHOWN).select(key).with_row_index("_place")
    metrics = found.tables["metrics"].filter(pl.col("block").is_in(EVALUATION_BLOCKS))
    metrics = metrics if where is None else metrics.filter(where)
    shown = best.join(metrics, on=list(key), how="inner", nulls_equal=True).sort("_place")
    return grouped(shown, key, "block", column, f"{column.removesuffix('_bps').replace('_', ' ')} by block", axis)


def grouped(table: pl.DataFrame, key: Sequence[str], group: str, column: str, title: str, axis: str) -> Pictures:
    """Bars of a column: one name per key in the order of the table, one bar per value of `group`."""
    if table.is_empty():
        return {}
    wide = table.with_columns(pl.col(group).cast(pl.String)).pivot(
        on=group, index=list(key), values=column, aggregate_function="first")
    groups = {name: wide[name].to_list() for name in wide.columns if name not in key}
    names = [", ".join(map(_word, row)) for row in wide.select(key).iter_rows()]
    return {title: partial(grouped_bars_figure, names, groups, axis)}


def buckets_of_best(found: Finding) -> Pictures:
    """Edge by bucket of the feature with the best candidate, one line a block."""
    if found.tables["candidates"].is_empty():
        return {}
    best = found.tables["candidates"].row(0, named=True)
    own = found.tables["metrics"].filter(pl.col("side") == best["side"], pl.col("feature") == best["feature"])
    last = int(own["bucket"].max())  # type: ignore[arg-type]
    lines = {
        block: [dict(part.select("bucket", "edge_bps").iter_rows()).get(k) for k in range(last + 1)]
        for block in EVALUATION_BLOCKS for part in (own.filter(pl.col("block") == block),)
    }
    title = f"edge by bucket of {best['feature']}, {best['side']}"
    return {title: partial(bins_figure, lines, "bucket, edges learned on fit rows", "mean actual plan edge, bps")}


def deciles(table: pl.DataFrame, column: str, title: str, axis: str) -> Pictures:
    """One line a side over deciles."""
    lines = {str(side): part[column].to_list() for (side,), part in
             table.sort("decile").partition_by("side", as_dict=True, maintain_order=True).items()}
    return {title: partial(bins_figure, lines, "decile, the lowest first", axis)}


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
