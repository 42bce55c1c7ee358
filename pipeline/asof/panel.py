"""The honest panel: one row per listed instrument and session, each with what its own decision knew.

The door of this room: `build_panel` and `summary`; `apply_patches`, `latest` and `dense` come from below.
Not here: any rule of its own; they live in the modules this one calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import polars as pl

from pipeline.asof.build import CONTEXT_SESSIONS, Build, prepare
from pipeline.asof.certificate import require_listed
from pipeline.asof.dense import Dense, dense
from pipeline.asof.identity import BOARDS
from pipeline.asof.intraday import BAR_FIELDS, Minutes, minutes
from pipeline.asof.knowledge import MEASURED, revised_sessions
from pipeline.asof.measures import MEASURES, Targets, measured
from pipeline.asof.patches import apply_patches, latest, patches_of
from pipeline.asof.reconciliation import Audited, limit_mismatch, quarantined
from pipeline.asof.spec import MarketSpec, UniverseSpec
from pipeline.asof.tradability import EXCLUSIONS, blocks, every_exclusion, exclusion_flags, first_exclusion
from pipeline.calendars import Calendar
from pipeline.frames import AsOf, as_of

__all__ = [
    "MEASURES",
    "PANEL_COLUMNS",
    "Dense",
    "PanelTables",
    "apply_patches",
    "build_panel",
    "dense",
    "latest",
    "revised_sessions",
    "summary",
]

PANEL_COLUMNS = (
    "session", "instrument", "decision_time", "code", "board", "industry", "listing_age", "is_st", "open",
    "high", "low", "close", "pre_close", "volume", "amount", "factor", "up_limit", "down_limit",
    "limit_mismatch", "suspended", "turnover", "turnover_free", "volume_ratio", "pe_ttm", "pb", "ps_ttm",
    "dividend_yield_pct", "total_mv", "circ_mv", "flow_small", "flow_medium", "flow_large",
    "flow_extra_large", "flow_gross", "open_block", "close_block", "eligible", "exclusion",
)


@dataclass(frozen=True)
class PanelTables:
    """The panel stage's tables, as `docs/architecture.md` describes them."""

    panel: AsOf
    patches: pl.DataFrame
    exclusions: pl.DataFrame
    quarantine: pl.DataFrame
    intraday: pl.DataFrame


def build_panel(
    raw: Mapping[str, pl.DataFrame],
    calendar: Calendar,
    sessions: Sequence[date],
    market: MarketSpec,
    universe: UniverseSpec,
) -> PanelTables:
    """Panel, patches, exclusions, quarantine and minutes of some sessions.

    Parameters
    ----------
    raw : mapping of table to DataFrame
        All versions with `known_at`, vendor units: rows of `sessions`, every row of the earlier sessions
        that `revised_sessions` names, the snapshot and interval tables whole. An absent table is absent. Rows
        of the five sessions before, where given, reconcile the first session and lend it a missing factor.
    sessions : sequence of date
        Consecutive open sessions to build; knowledge counts up to the last one's decision.

    Raises
    ------
    MissingTable
        Without `stock_basic`, `daily` or `adj_factor`.
    BadInput
        Sessions with gaps, or an earlier session of which only the revisions were handed in.
    LookAheadError
        The certificate found a row of a name that was not listed: a defect in the universe.
    """
    build = prepare(raw, calendar, sessions, market)
    audited = _audited(build)
    flagged = audited.frame.with_columns(*exclusion_flags(universe), *blocks())
    flagged = flagged.with_columns(exclusion=first_exclusion())
    panel = flagged.with_columns(eligible=pl.col("exclusion").is_null()).select(PANEL_COLUMNS)
    require_listed(panel, raw)
    cell_row = build.cell_rows(np.arange(build.first_row, len(build.listing.cells)))
    bars = minutes(build.versions.get("stk_mins"), cell_row, build.window, market.bars_per_session)
    return PanelTables(
        AsOf(panel),
        patches_of(build),
        every_exclusion(flagged),
        quarantined(audited, bars, build),
        _intraday(bars, flagged, market.bars_per_session),
    )


def summary(panel: AsOf) -> pl.DataFrame:
    """Per session: `listed`, `eligible`, and the rows that each of `EXCLUSIONS` was the first to exclude."""
    counts = [(pl.col("exclusion") == reason).sum().alias(reason) for reason in EXCLUSIONS]
    return (
        as_of(panel)
        .group_by("session")
        .agg(pl.len().alias("listed"), pl.col("eligible").sum(), *counts)
        .sort("session")
    )


def _audited(build: Build) -> Audited:
    """Every listing row being built, measured as of its own decision; bars of the sessions before as context."""
    picks = {
        table: build.versions[table].own_session(build.window)[build.listing.cells]
        for table in (*MEASURED, "stk_limit")
        if table in build.versions
    }
    near = build.ordinal >= build.sessions[0] - CONTEXT_SESSIONS
    first = build.first_row
    before = np.flatnonzero(near[:first] & (picks["daily"][:first] >= 0))
    row = np.concatenate([before, np.arange(first, len(near))])
    picks = {table: at[row] for table, at in picks.items()}
    targets = Targets(row, build.instrument[row], build.ordinal[row], build.ordinal[row])
    values = measured(picks, build.versions, targets, build.listing, build.status, build.window)
    frame, n = _described(build, targets).hstack(values), len(before)
    audited = Audited(frame[n:], frame[:n], {table: at[n:] for table, at in picks.items()}, build.versions)
    return replace(audited, frame=audited.frame.with_columns(limit_mismatch(audited)))


def _described(build: Build, targets: Targets) -> pl.DataFrame:
    """Key and status columns of the targets, with the audit columns `delisting`, `st_by_name` and `place`."""
    row, window = targets.row, build.window
    session = pl.Series("session", window.calendar.days[targets.ordinal])
    instrument = window.identity.names.gather(targets.instrument)
    return pl.DataFrame(
        {
            "session": session,
            "instrument": instrument,
            "decision_time": pl.Series(window.decisions[targets.ordinal]).cast(pl.Datetime("us", "UTC")),
            "code": window.identity.code_on(instrument, session),
            "board": pl.Series(BOARDS).gather(window.identity.boards[targets.instrument].astype(np.int64)),
            "industry": build.status.industry.gather(row),
            "listing_age": build.listing.age[row],
            "is_st": build.status.is_st[row],
            "delisting": build.status.delisting[row],
            "st_by_name": build.status.st_by_name.gather(row),
            "place": targets.instrument,
        }
    )


def _intraday(bars: Minutes, frame: pl.DataFrame, bars_per_session: int) -> pl.DataFrame:
    """(session, instrument, bars) in panel order; empty where the source has no minutes."""
    values = pl.Series("bars", bars.bars, dtype=pl.Array(pl.Float64, bars_per_session * len(BAR_FIELDS)))
    return frame.select("session", "instrument")[bars.row].with_columns(values)
