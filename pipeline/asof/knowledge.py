"""Which version of a vendor row a decision could see. Here: decision times, versions, and picking among them.

Not here: what the values mean (measures.py) and who is listed (universe.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl

from pipeline.asof.identity import Identity
from pipeline.asof.spec import MarketSpec
from pipeline.calendars import Calendar
from pipeline.frames import require_columns

MEASURED = ("daily", "adj_factor", "daily_basic", "moneyflow", "suspend_d")
"""Session tables whose later versions become patches."""


def decision_times(sessions: Sequence[date] | np.ndarray, market: MarketSpec) -> pl.Series:
    """`Datetime(us, UTC)` of each session's decision: the market's wall time in its own zone."""
    local = pl.Series("decision_time", sessions, dtype=pl.Date).dt.combine(market.decision_time, "us")
    return local.dt.replace_time_zone(market.zone).dt.convert_time_zone("UTC")


@dataclass(frozen=True)
class Window:
    """The cells of one build: instruments x the sessions it touches, in panel order.

    Parameters
    ----------
    calendar : Calendar
    decisions : ndarray of int64
        Decision time of every calendar session, microseconds UTC.
    identity : Identity
    ordinals : ndarray of int32
        Calendar ordinals of the touched sessions, ascending. Cell = column x instruments + instrument.
    """

    calendar: Calendar
    decisions: np.ndarray
    identity: Identity
    ordinals: np.ndarray

    @property
    def n_instruments(self) -> int:
        return len(self.identity.instruments)

    @property
    def n_cells(self) -> int:
        return len(self.ordinals) * self.n_instruments

    def cells(self, instrument: np.ndarray, ordinal: np.ndarray) -> np.ndarray:
        """int64 cell of each (instrument index, session ordinal); -1 outside the window."""
        column = np.full(len(self.decisions) + 1, -1, dtype=np.int64)
        column[self.ordinals] = np.arange(len(self.ordinals))
        at = column[ordinal]
        return np.where((at >= 0) & (instrument >= 0), at * self.n_instruments + instrument, -1)

    def known_ordinals(self, known_at: pl.Series) -> np.ndarray:
        """int32 ordinal of the first session whose decision could know it; past the calendar without one."""
        stamps = microseconds(known_at)
        return np.searchsorted(self.decisions, stamps, side="left").astype(np.int32)

    def day_ordinals(self, days: pl.Series) -> np.ndarray:
        """int32 ordinal of the first session at or after each natural day; a null is past the calendar."""
        values = days.cast(pl.Date).to_numpy().astype("datetime64[D]")
        found = np.searchsorted(self.calendar.days, values, side="left").astype(np.int32)
        return np.where(np.isnat(values), np.int32(len(self.decisions)), found)


@dataclass(frozen=True)
class Versions:
    """Rows of one session table, with their place in time.

    Parameters
    ----------
    rows : DataFrame
        As handed in, all versions.
    instrument, ordinal : ndarray of int32
        Instrument index and session ordinal of the event; -1 outside.
    known : ndarray of int32
        First session ordinal whose decision could know the row; never before the row's own session.
    """

    rows: pl.DataFrame
    instrument: np.ndarray
    ordinal: np.ndarray
    known: np.ndarray

    @classmethod
    def of(cls, rows: pl.DataFrame, event: str, window: Window) -> Versions:
        """Place the rows of a session table; `event` names its Date or local Datetime column."""
        require_columns(rows, ["ts_code", event, "known_at"], "a vendor table of the panel")
        ordinal = session_ordinals(rows[event], window.calendar)
        stamps = microseconds(rows["known_at"])
        known = ordinal.copy()
        late = np.flatnonzero((ordinal < 0) | (stamps > window.decisions[ordinal]))
        known[late] = np.searchsorted(window.decisions, stamps[late], side="left")
        return cls(rows, window.identity.index(rows["ts_code"]), ordinal, known)

    def take(self, keep: np.ndarray) -> Versions:
        """The versions under a boolean mask or at positions."""
        at = np.flatnonzero(keep) if keep.dtype == np.bool_ else keep
        return Versions(self.rows[at], self.instrument[at], self.ordinal[at], self.known[at])

    def in_knowledge_order(self, at: np.ndarray) -> np.ndarray:
        """Row positions `at`, oldest knowledge first.

        Ties at one instant: later fetch, then observed over ruled, then the newer code, then the values
        themselves, so that the answer never depends on the order in which rows were handed in.
        """
        rows = self.rows[at]
        first = [
            pl.col("known_at"),
            *([pl.col("ingested_at")] if "ingested_at" in rows.columns else []),
            pl.col("knowledge") == "observed" if "knowledge" in rows.columns else pl.lit(0),
            pl.col("ts_code"),
        ]
        rest = [
            pl.col(c)
            for c in sorted(rows.columns)
            if c not in ("known_at", "ingested_at", "knowledge", "ts_code", "request")
        ]
        order = rows.select(pl.arg_sort_by(*first, *rest, nulls_last=False)).to_series().to_numpy()
        return at[order]

    def own_session(self, window: Window) -> np.ndarray:
        """int64 row position of the newest version known at each cell's own decision; -1 where there is none.

        One pass over the table: single versions are scattered as they stand, and only keys with several
        (about 3 % of a revised market) are sorted.
        """
        cell = window.cells(self.instrument, self.ordinal)
        live = np.flatnonzero((cell >= 0) & (self.known == self.ordinal))
        cell = cell[live]
        newest = np.full(window.n_cells, -1, dtype=np.int64)
        newest[cell] = live
        several = newest[cell] != live
        if several.any():
            doubled = np.zeros(window.n_cells, dtype=np.bool_)
            doubled[cell[several]] = True
            ordered = self.in_knowledge_order(live[doubled[cell]])
            newest[window.cells(self.instrument[ordered], self.ordinal[ordered])] = ordered
        return newest

    def as_known(self, instrument: np.ndarray, ordinal: np.ndarray, as_of: np.ndarray) -> np.ndarray:
        """int64 position of the newest version of each target known at session `as_of`; -1 without one."""
        newest = np.full(len(instrument), -1, dtype=np.int64)
        targets = pl.DataFrame({"instrument": instrument, "ordinal": ordinal, "as_of": as_of}).with_row_index(
            "target"
        )
        wanted = np.isin(self.instrument, instrument) & np.isin(self.ordinal, ordinal)
        at = self.in_knowledge_order(np.flatnonzero(wanted))
        offered = pl.DataFrame(
            {
                "instrument": self.instrument[at],
                "ordinal": self.ordinal[at],
                "known": self.known[at],
                "row": at,
            }
        ).with_row_index("rank")
        best = (
            targets.join(offered, on=["instrument", "ordinal"], how="inner")
            .filter(pl.col("known") <= pl.col("as_of"))
            .group_by("target")
            .agg(pl.col("row").sort_by("rank").last())
        )
        newest[best["target"].to_numpy()] = best["row"].to_numpy()
        return newest


def newest_state(window: Window, instrument: np.ndarray, effective: np.ndarray) -> np.ndarray:
    """int64 position of the state in force at each cell; -1 before the first.

    The rows must be in ascending rank (the highest-ranked row in force wins); row `i` is in force from
    session ordinal `effective[i]` on. A running maximum along the sessions, no join.
    """
    states = np.full((len(window.ordinals), window.n_instruments), -1, dtype=np.int64)
    column = np.searchsorted(window.ordinals, effective, side="left")
    usable = np.flatnonzero((column < len(window.ordinals)) & (instrument >= 0))
    np.maximum.at(states, (column[usable], instrument[usable]), usable)
    return np.asarray(np.maximum.accumulate(states, axis=0).ravel())


def revised_sessions(
    raw: Mapping[str, pl.DataFrame], calendar: Calendar, sessions: Sequence[date], market: MarketSpec
) -> list[date]:
    """Sessions before `sessions[0]` of which some measured row became known inside the decision windows.

    A caller that feeds `build_panel` must hand in *every* version of these sessions' rows, of all tables:
    a patch holds full rows, and the tables that were not revised supply the rest of it.
    """
    first = calendar.ordinal(sessions[0])
    since, until = decision_times([calendar.session(max(first - 1, 0)), sessions[-1]], market)
    found: set[date] = set()
    for table in MEASURED:
        if table in raw:
            late = raw[table].filter(
                (pl.col("trade_date") < sessions[0])
                & (pl.col("known_at") > since)
                & (pl.col("known_at") <= until)
            )
            found |= set(late["trade_date"].drop_nulls().to_list())
    return sorted(day for day in found if day in calendar)


def session_ordinals(event: pl.Series, calendar: Calendar) -> np.ndarray:
    """int32 ordinal of each event's day; -1 for null and for a day that is no session."""
    days = event.cast(pl.Date).to_physical().fill_null(-1).to_numpy()
    known = calendar.days.astype(np.int64)
    lookup = np.full(int(known[-1] - known[0]) + 2, -1, dtype=np.int32)
    lookup[known - known[0]] = np.arange(len(known), dtype=np.int32)
    offset = days.astype(np.int64) - known[0]
    return lookup[np.where((offset < 0) | (offset >= len(lookup)), len(lookup) - 1, offset)]


def microseconds(instants: pl.Series) -> np.ndarray:
    """int64 microseconds; a null instant is never known."""
    return instants.dt.cast_time_unit("us").to_physical().fill_null(np.iinfo(np.int64).max).to_numpy()
