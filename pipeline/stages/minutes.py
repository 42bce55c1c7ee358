"""Panel, features and labels of a study that decides at every minute's close. A session is one UTC day."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import partial

import polars as pl

from pipeline.asof.minutes import (
    FUNDING,
    MinuteTables,
    apply_minute_patches,
    build_minute_panel,
    revised_minute_days,
)
from pipeline.asof.spec import SymbolsSpec
from pipeline.features.minutes.compute import minute_features
from pipeline.features.minutes.plan import MinutePlan
from pipeline.features.minutes.quality import TRAINABLE, data_quality_flag
from pipeline.features.plan import plan
from pipeline.frames import MINUTE, Hindsight, joined
from pipeline.frames import MINUTE_ROW as KEY
from pipeline.labels.minute_heads import FEATURES as COMPARED
from pipeline.labels.minute_heads import minute_labels
from pipeline.labels.minute_spec import PlanLabelSpec
from pipeline.labels.path_outcomes import path_outcomes
from pipeline.positions.manager import OUTCOME_COLUMNS
from pipeline.reports.figures import exclusions_figure
from pipeline.stages.contract import Reader, StageResult, decided_sessions, months
from pipeline.study import Study

UNUSABLE = ("INVALID_PRICE", "INVALID_VOLUME")  # such a bar is a gap; any other flag only takes part of a row
DAY = timedelta(days=1)


def run_panel(study: Study, read: Reader, month: str) -> StageResult:
    """One month of minutes as known at their own closes, and the corrections that became known in it."""
    assert isinstance(study.universe, SymbolsSpec)
    days = decided_sessions(study, read, month)
    tables = build_minute_panel(_raw_for(study, read, days), study.universe.symbols, days, data_quality_flag, TRAINABLE)
    return StageResult(
        tables={
            "panel": tables.panel.frame,
            "books": tables.books.with_columns(session=pl.col(MINUTE).dt.date()).select(*KEY, pl.exclude(*KEY)),
            "funding": tables.funding.with_columns(session=pl.col("funding_time").dt.date()).filter(
                pl.col("session").is_in(days)  # the day before is the month's before
            ),
            "patches": tables.patches,
            "exclusions": tables.exclusions,
            "quarantine": tables.quarantine,
            "summary": tables.summary,
        },
        keys={
            "panel": KEY,
            "books": KEY,
            "funding": ("session", "instrument", "funding_time"),
            "patches": ("effective_session", *KEY),
            "exclusions": (*KEY, "reason"),
            "quarantine": (*KEY, "table", "rule"),
            "summary": ("session",),
        },
        metadata=_panel_metadata(study, tables),
        figures={
            "minutes: eligible, not eligible, missing": partial(exclusions_figure, _shares(tables.summary), "minutes")
        },
    )


def _raw_for(study: Study, read: Reader, days: Sequence[date]) -> dict[str, pl.DataFrame]:
    """Versions of the days' rows, funding also of the day before, and every version of a day corrected within them."""
    begin = datetime.combine(days[0], time(), UTC)
    until = datetime.combine(days[-1] + DAY, time(), UTC)
    raw: dict[str, pl.DataFrame] = {}
    for table in study.table_names:
        first = days[0] - DAY if table == FUNDING else days[0]
        own = read.raw(table, start=first, end=days[-1], known_until=until)
        if own is None:
            continue
        late = None if table == FUNDING else read.raw(table, end=days[0] - DAY, known_after=begin, known_until=until)
        raw[table] = joined(own, late)
    for day in revised_minute_days(raw, days):
        for table in raw:
            if table != FUNDING:
                raw[table] = joined(raw[table], read.raw(table, start=day, end=day, known_until=until))
    return raw


def _panel_metadata(study: Study, tables: MinuteTables) -> dict[str, object]:
    frame = tables.panel.frame
    counted = tables.summary.select(pl.sum("minutes", "eligible", "missing", "late", "patched")).row(0, named=True)
    return {
        **counted,
        "flags": frame.group_by("data_quality_flag").len("minutes").sort("data_quality_flag").to_dicts(),
        "late_or_revised_rows": len(tables.patches),
        "quarantined_rows": len(tables.quarantine),
        "tables_that_may_be_absent": {use.table: use.loses for use in study.tables if not use.required},
    }


def _shares(summary: pl.DataFrame) -> pl.DataFrame:
    return summary.select(
        "session", "eligible", (pl.col("minutes") - pl.col("eligible")).alias("not eligible"), "missing"
    )


def minute_plan(study: Study) -> MinutePlan:
    """The feature plan of a study that decides by the minute."""
    made = plan(study.features)
    assert isinstance(made, MinutePlan)
    return made


def run_features(study: Study, read: Reader, month: str) -> StageResult:
    """The complete rows of one month: a minute of which any feature is missing is dropped and counted."""
    made = minute_plan(study)
    days = read.table("panel", "summary", partitions=[month])["session"].to_list()
    every = pl.concat(part for part in _computed(read, made, days))
    kept = every.drop_nulls(list(made.schema))
    missing = {
        name: n for name, n in every.select(pl.col(list(made.schema)).null_count()).row(0, named=True).items() if n
    }
    return StageResult(
        tables={"features": kept, "paths": kept.clear().select(KEY)},
        keys={"features": KEY, "paths": KEY},
        metadata={
            "columns": len(made.schema),
            "schema_hash": made.schema_hash,
            "lookback": made.lookback,
            "minutes": len(every),
            "complete": len(kept),
            "incomplete": len(every) - len(kept),
            "missing_most": [
                {"feature": name, "minutes": n} for name, n in sorted(missing.items(), key=lambda item: -item[1])[:10]
            ],
        },
    )


def _computed(read: Reader, made: MinutePlan, days: Sequence[date]) -> Iterator[pl.DataFrame]:
    """Features of all bars of the days: at once where no correction reaches a day, else that day by itself."""
    first = days[0] - (made.lookback - 1) * DAY
    history = months([first + i * DAY for i in range((days[-1] - first).days + 1)])
    recent = pl.col("session") >= first
    panel = read.table("panel", "panel", partitions=history).filter(recent)
    patches = read.table("panel", "patches", partitions=history).filter(recent)
    books = read.table("panel", "books", partitions=history).filter(recent).drop("session")
    funding = read.table("panel", "funding", partitions=history).drop("session")
    corrected = [day for day in days if not _reaching(patches, day, made.lookback).is_empty()]
    plain = [day for day in days if day not in corrected]
    groups = [(plain, panel)] if plain else []
    groups += [([day], apply_minute_patches(panel, patches, before=day)) for day in corrected]
    for wanted, rows in groups:
        inside = pl.col("session").is_between(wanted[0] - (made.lookback - 1) * DAY, wanted[-1])
        bars = rows.filter(inside, ~pl.col("data_quality_flag").is_in(UNUSABLE))
        computed = minute_features(bars, books, funding, made.schema)
        yield computed.filter(pl.col("session").is_in(wanted))


def _reaching(patches: pl.DataFrame, day: date, lookback: int) -> pl.DataFrame:
    """Corrections that were known when a day began, of minutes that its features look at."""
    seen = pl.col("session").is_between(day - (lookback - 1) * DAY, day, closed="left")
    return patches.filter(seen, pl.col("effective_session") < day)


def run_labels(study: Study, read: Reader, month: str) -> StageResult:
    """All heads of every minute of one month whose bars ahead are known, in final truth, with the plan's outcomes."""
    assert isinstance(study.labels, PlanLabelSpec)
    days = read.table("panel", "summary", partitions=[month])["session"].to_list()
    bars = bars_in_truth(read, days)
    past = minute_features(bars.frame, names=COMPARED)
    labels = minute_labels(bars, past, study.labels.plan, study.labels.bounds)
    outcomes = path_outcomes(bars, study.labels.plan)
    sides = [f"{side}_{name}" for side in ("long", "short") for name in OUTCOME_COLUMNS]
    more = [name for name in sides if name not in labels.columns]
    truth = outcomes.select(*KEY, *more, ret=pl.col("long_future_return_bps") / 1e4)
    wide = labels.join(truth, on=list(KEY), how="inner", validate="1:1", maintain_order="left")
    own = wide.filter(pl.col("session").is_in(days))
    rates = {head.label: own[head.label].mean() for head in study.labels.heads if head.kind == "probability"}
    return StageResult(
        tables={"labels": own},
        keys={"labels": KEY},
        metadata={
            "minutes": len(own),
            "price_plan": study.labels.plan.price_plan_id,
            "rates": [{"label": name, "rate": rate} for name, rate in rates.items()],
        },
    )


def bars_in_truth(read: Reader, days: Sequence[date]) -> Hindsight:
    """Bars from the day before the first (yesterday's spreads rank today's) to the day after the last (what comes)."""
    first, last = days[0] - DAY, days[-1] + DAY
    known = read.versions("panel")
    part = [month for month in known if f"{first:%Y-%m}" <= month <= f"{last:%Y-%m}"]
    panel = read.table("panel", "panel", partitions=part)
    patches = read.table("panel", "patches", partitions=[name for name in known if name >= part[0]])
    rows = apply_minute_patches(panel, patches).filter(
        pl.col("session").is_between(first, last), ~pl.col("data_quality_flag").is_in(UNUSABLE)
    )
    return Hindsight(rows)
