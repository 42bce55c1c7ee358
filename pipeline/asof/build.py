"""What one build works on: every vendor version placed in time, and who is listed in which state.

Not here: values (measures.py) and the tables that come out (panel.py, patches.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl

from pipeline.asof.identity import Identity
from pipeline.asof.knowledge import (
    MEASURED,
    Versions,
    Window,
    decision_times,
    microseconds,
    revised_sessions,
    session_ordinals,
)
from pipeline.asof.spec import MarketSpec
from pipeline.asof.universe import Listing, Status, listed, status
from pipeline.calendars import Calendar
from pipeline.errors import BadInput, MissingTable

CONTEXT_SESSIONS = 5
"""Sessions before the first one whose rows, where handed in, reconcile it and lend it a missing factor."""

REQUIRED = ("stock_basic", "daily", "adj_factor")
EVENTS = {**dict.fromkeys((*MEASURED, "stk_limit", "stock_st"), "trade_date"), "stk_mins": "trade_time"}
"""Session tables and the column that says when their fact happened."""


@dataclass(frozen=True)
class Build:
    """What one build works on: the cells, every table's versions, and who is listed in which state."""

    window: Window
    versions: Mapping[str, Versions]
    listing: Listing
    status: Status
    sessions: np.ndarray

    @property
    def ordinal(self) -> np.ndarray:
        """int32 session ordinal of each listing row."""
        return self.window.ordinals[self.listing.cells // self.window.n_instruments]

    @property
    def instrument(self) -> np.ndarray:
        """int32 instrument index of each listing row."""
        return (self.listing.cells % self.window.n_instruments).astype(np.int32)

    @property
    def first_row(self) -> int:
        """Number of listing rows before the sessions being built."""
        return int(np.searchsorted(self.ordinal, self.sessions[0]))

    def cell_rows(self, rows: np.ndarray) -> np.ndarray:
        """int64 position among `rows` (listing rows) of each window cell; -1 for every other cell."""
        found = np.full(self.window.n_cells, -1, dtype=np.int64)
        found[self.listing.cells[rows]] = np.arange(len(rows))
        return found


def prepare(
    raw: Mapping[str, pl.DataFrame], calendar: Calendar, sessions: Sequence[date], market: MarketSpec
) -> Build:
    """Place every version in time, then find who is listed on the sessions touched."""
    for table in REQUIRED:
        if table not in raw:
            raise MissingTable(
                f"a panel needs the table {table}", f"have {sorted(raw)}", f"fetch or import {table}"
            )
    ordinals = np.array([calendar.ordinal(day) for day in sessions], dtype=np.int32)
    if not len(ordinals) or (np.diff(ordinals) != 1).any():
        raise BadInput(
            "sessions must be consecutive sessions of the calendar, at least one",
            f"{len(sessions)} from {min(sessions, default=None)} to {max(sessions, default=None)}",
            "pass every open session of the stretch once, ascending",
        )
    decisions = microseconds(decision_times(calendar.sessions, market))
    identity = Identity.from_tables(raw["stock_basic"], raw.get("bse_mapping"))
    earlier = revised_sessions(raw, calendar, sessions, market)
    revised = session_ordinals(pl.Series(earlier, dtype=pl.Date), calendar)
    held = session_ordinals(raw["daily"]["trade_date"].unique(), calendar)
    context = held[(held >= ordinals[0] - CONTEXT_SESSIONS) & (held >= 0) & (held < ordinals[0])]
    touched = np.union1d(np.append(ordinals, context), revised).astype(np.int32)
    window = Window(calendar, decisions, identity, touched)
    versions = {
        table: Versions.of(raw[table], event, window) for table, event in EVENTS.items() if table in raw
    }
    if "suspend_d" in versions:
        versions["suspend_d"] = _whole_days(versions["suspend_d"])
    _require_whole(versions, window, revised)
    listing = listed(raw["stock_basic"], window)
    return Build(window, versions, listing, status(raw, listing, versions, window), ordinals)


def _require_whole(versions: Mapping[str, Versions], window: Window, revised: np.ndarray) -> None:
    """Refuse an earlier session of which only the revisions were handed in: half its patch would be null."""
    held = [np.isin(revised, v.ordinal[v.known == v.ordinal]) for t, v in versions.items() if t in MEASURED]
    partial = revised[~np.logical_or.reduce(held)]
    if len(partial):
        raise BadInput(
            "every version of a revised earlier session must be handed in, of all tables",
            f"only later versions of {window.calendar.session(int(partial[0]))}",
            "read the sessions that asof.panel.revised_sessions names in full",
        )


def _whole_days(suspensions: Versions) -> Versions:
    """Rows that suspend a whole session: type S without a time range."""
    timing = (
        pl.col("suspend_timing").is_null()
        | (pl.col("suspend_timing").cast(pl.String).str.strip_chars() == "")
        if "suspend_timing" in suspensions.rows.columns
        else pl.lit(True)
    )
    whole = suspensions.rows.select(((pl.col("suspend_type") == "S") & timing).fill_null(False)).to_series()
    return suspensions.take(whole.to_numpy())
