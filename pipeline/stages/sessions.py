"""Panel, features and labels of a study that decides once a session."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import partial

import polars as pl

from pipeline.asof.knowledge import revised_sessions
from pipeline.asof.panel import PanelTables, build_panel, summary
from pipeline.asof.patches import latest
from pipeline.asof.spec import UniverseSpec
from pipeline.calendars import Calendar
from pipeline.errors import BadInput
from pipeline.features.compute import compute, path_channels
from pipeline.features.plan import Plan, plan
from pipeline.frames import ROW, AsOf, joined
from pipeline.labels.executable import executable_labels
from pipeline.labels.spec import LabelSpec
from pipeline.reports.figures import exclusions_figure
from pipeline.stages.contract import Reader, StageResult, decided_sessions, months
from pipeline.study import Study

CONTEXT_SESSIONS = 5  # earlier rows that reconcile the first session of a month
FAST_TABLES = ("stk_mins",)  # event is an instant; only the month's own rows are read


def run_panel(study: Study, read: Reader, month: str) -> StageResult:
    """One month of the honest panel, and the corrections that became known in it."""
    assert isinstance(study.universe, UniverseSpec)
    wanted = decided_sessions(study, read, month)
    tables = build_panel(_raw_for(study, read, wanted), read.calendar, wanted, study.market, study.universe)
    per_session = summary(tables.panel)
    return StageResult(
        tables={
            "panel": tables.panel.frame,
            "patches": tables.patches,
            "exclusions": tables.exclusions,
            "quarantine": tables.quarantine,
            "intraday": tables.intraday,
            "summary": per_session,
        },
        keys={
            "panel": ROW,
            "patches": ("effective_session", *ROW),
            "exclusions": (*ROW, "reason"),
            "quarantine": (*ROW, "table", "rule"),
            "intraday": ROW,
            "summary": ("session",),
        },
        metadata=_panel_metadata(study, tables),
        figures={"listed, eligible and excluded names": partial(exclusions_figure, per_session)},
    )


def _raw_for(study: Study, read: Reader, sessions: Sequence[date]) -> dict[str, pl.DataFrame]:
    """Rows of the sessions as known by their last decision, every row of earlier sessions that were revised inside
    them, and a few sessions before, which reconcile the first one. Snapshots and interval tables come whole."""
    first, last = sessions[0], sessions[-1]
    context = _earlier(read.calendar, first, CONTEXT_SESSIONS)
    until = study.market.decided_at(last)
    since = study.market.decided_at(_earlier(read.calendar, first, 1))
    raw: dict[str, pl.DataFrame] = {}
    for table in study.table_names:
        own = read.raw(table, start=first if table in FAST_TABLES else context, end=last, known_until=until)
        if own is not None:
            late = None if table in FAST_TABLES else read.raw(table, end=context, known_after=since, known_until=until)
            raw[table] = joined(own, late)
    for day in revised_sessions(raw, read.calendar, sessions, study.market):
        if day >= context:
            continue
        for table in raw:
            if table not in FAST_TABLES:
                raw[table] = joined(raw[table], read.raw(table, start=day, end=day, known_until=until))
    return raw


def _earlier(calendar: Calendar, session: date, steps: int) -> date:
    """`steps` sessions before, or the calendar's first."""
    return calendar.session(max(calendar.ordinal(session) - steps, 0))


def _panel_metadata(study: Study, tables: PanelTables) -> dict[str, object]:
    frame = tables.panel.frame
    absent = {use.table: use.loses for use in study.tables if not use.required}
    return {
        "names": frame["instrument"].n_unique(),
        "eligible_share": float(frame["eligible"].mean() or 0.0),  # type: ignore[arg-type]
        "late_or_revised_rows": len(tables.patches),
        "quarantined_rows": len(tables.quarantine),
        "tables_that_may_be_absent": absent,
    }


def study_plan(study: Study) -> Plan:
    """The feature plan of a study that decides by the session: schema, look-back, inputs."""
    made = plan(study.features)
    if not isinstance(made, Plan):
        raise BadInput("this stage reads families of sessions", list(study.features), "name families of sessions")
    return made


def _history(read: Reader, sessions: Sequence[date], lookback: int) -> list[str]:
    """Month partitions that hold the sessions and `lookback - 1` sessions before them."""
    first = _earlier(read.calendar, sessions[0], lookback - 1)
    return months(read.calendar.between(first, sessions[-1]))


def run_features(study: Study, read: Reader, month: str) -> StageResult:
    """Float32 features of one month, read from the panel months its look-back reaches."""
    the_plan = study_plan(study)
    sessions = read.table("panel", "summary", partitions=[month])["session"].to_list()
    history = _history(read, sessions, the_plan.lookback)
    panel = AsOf(read.table("panel", "panel", partitions=history))
    patches = read.table("panel", "patches", partitions=history)
    intraday = read.table("panel", "intraday", partitions=history)
    features = compute(panel, patches, intraday, the_plan, sessions)
    channels = path_channels(intraday.filter(pl.col("session").is_in(sessions)), panel, sessions)
    missing = (
        features.select(pl.col(list(the_plan.schema)).is_nan().mean()).mean_horizontal().item()
        if len(features)
        else None
    )
    return StageResult(
        tables={"features": features, "paths": channels},
        keys={"features": ROW, "paths": ROW},
        metadata={
            "columns": len(the_plan.schema),
            "schema_hash": the_plan.schema_hash,
            "lookback": the_plan.lookback,
            "missing_share": missing,
        },
    )


def run_labels(study: Study, read: Reader, month: str) -> StageResult:
    """Labels of one month in final truth, with their realised spans."""
    sessions = read.table("panel", "summary", partitions=[month])["session"].to_list()
    assert isinstance(study.labels, LabelSpec)
    reach = study.labels.reach + 1
    last = min(read.calendar.ordinal(sessions[-1]) + reach, len(read.calendar.sessions) - 1)
    ahead = months(read.calendar.between(sessions[0], read.calendar.session(last)))
    panel = AsOf(read.table("panel", "panel", partitions=ahead))
    patches = read.table("panel", "patches", partitions=[p for p in read.versions("panel") if p >= ahead[0]])
    labels = executable_labels(latest(panel, patches), read.calendar, sessions, study.labels)
    counts = labels.group_by("status").len().sort("status")
    return StageResult(
        tables={"labels": labels},
        keys={"labels": ROW},
        metadata={"status": counts.to_dicts()},
    )
