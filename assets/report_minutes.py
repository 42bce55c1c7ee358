"""The report's part on minutes: how many are usable, and why not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from assets.report_stored import Stored
from pipeline.reports import figures
from pipeline.reports.html import Section


def minutes_section(stored: Stored, summary: pl.DataFrame, rows: pl.DataFrame) -> Section:
    """Minutes of the panel: eligible or not and why, gaps, corrections; rows whose features are whole."""
    quarantine = stored.table("panel", "quarantine")
    totals = summary.select(pl.exclude("session").sum())
    unfit = (pl.col("minutes") - pl.col("eligible")).alias("not eligible")
    shares = summary.select("session", "eligible", unfit, "missing")
    tables = {
        "minutes": totals.transpose(include_header=True, header_name="what", column_names=["minutes"]),
        "data quality": _summed(stored.metadata("panel").values(), "flags", "data_quality_flag"),
    }
    if len(rows):
        tables["excluded by reason"] = rows.group_by("reason").len("minutes").sort("minutes", descending=True)
    if quarantine is not None and len(quarantine):
        tables["quarantine by rule"] = quarantine.group_by("table", "rule").len("rows").sort("rows", descending=True)
    made = stored.metadata("features").values()
    incomplete, every = (sum(each.get(name, 0) for each in made) for name in ("incomplete", "minutes"))
    lost = _summed(made, "missing_most", "feature")
    if len(lost):
        tables["features that were missing most often"] = lost.head(10)
    return Section(
        "Minutes",
        "A day has 1,440 minutes a symbol. Missing ones have no candle that was known at its close: a gap, which no "
        "window and no trade reaches over; late ones came after it; patched ones were corrected later. "
        f"{incomplete:,} of {every:,} minutes lack some feature (a window behind a gap, a day without a book) and are "
        "not scored.",
        pictures={
            "minutes a day: eligible, not eligible, missing": figures.exclusions_figure(shares, "minutes")
        },
        tables=tables,
    )


def _summed(made: Iterable[Mapping[str, Any]], name: str, key: str) -> pl.DataFrame:
    """Counts of minutes that a stage noted partition by partition, largest first."""
    rows = [row for each in made for row in each.get(name, [])]
    counts = pl.DataFrame(rows, schema={key: pl.String, "minutes": pl.Int64})
    return counts.group_by(key).agg(pl.col("minutes").sum()).sort("minutes", key, descending=[True, False])
