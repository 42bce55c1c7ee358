"""Who is listed on a day and in which state: listing age, ST, delisting arrangement, industry.

Everything is what the day's own decision could know; today's names and industries are never read.
Not here: prices (measures.py) and what excludes a row (tradability.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl

from pipeline.asof.identity import BOARDS
from pipeline.asof.knowledge import Versions, Window, newest_state
from pipeline.frames import require_columns

BSE_OPENING = date(2021, 11, 15)
"""Before it there is no BSE listing, whatever Select-layer date the vendor's `list_date` carries."""

SW2021_PUBLISHED = date(2021, 7, 30)
"""Industry memberships before this day are back-mapped by the vendor and get a bucket of their own."""

UNMAPPED, UNMAPPED_BSE, UNMAPPED_EARLY = "unmapped", "BSE unmapped", "unmapped (before SW2021)"

ST_NAME = r"^S?\*?ST"
DELISTING_NAME = "退"


@dataclass(frozen=True)
class Listing:
    """One entry per listed instrument and session, in panel order.

    Parameters
    ----------
    cells : ndarray of int64
        Cell of the window, ascending.
    list_day : ndarray of datetime64[D]
        The vendor's listing day as known.
    age : ndarray of int32
        Open sessions since the listing day on this market (0 on it).
    age_from_list_day : ndarray of int32
        The same from the vendor's own listing day, which for the BSE may be a Select-layer date.
    """

    cells: np.ndarray
    list_day: np.ndarray
    age: np.ndarray
    age_from_list_day: np.ndarray


@dataclass(frozen=True)
class Status:
    """States of the listing rows, in their order.

    `st_by_name` is what the name says where `stock_st` speaks too, else null: a second opinion for audit.
    """

    is_st: np.ndarray
    st_by_name: pl.Series
    delisting: np.ndarray
    delisting_first_day: np.ndarray
    industry: pl.Series


def listed(stock_basic: pl.DataFrame, window: Window) -> Listing:
    """Listing rows from `stock_basic`: from `list_date` on, until `delist_date`, both as known.

    A version without `delist_date` leaves the name listed; the BSE begins on 2021-11-15.
    """
    require_columns(stock_basic, ["ts_code", "list_date", "known_at"], "stock_basic")
    rows = _ranked(stock_basic, window, [])
    state = newest_state(
        window, window.identity.index(rows["ts_code"]), window.known_ordinals(rows["known_at"])
    )
    day = np.repeat(window.calendar.days[window.ordinals], window.n_instruments)
    list_day, delist_day = _days(rows, "list_date")[state], _days(rows, "delist_date")[state]
    board = np.tile(window.identity.boards, len(window.ordinals))
    opening = np.datetime64(BSE_OPENING)
    start = np.where((board == BOARDS.index("bse")) & (list_day < opening), opening, list_day)
    # NaT compares False, so a null list_date never lists and a null delist_date never ends.
    cells = np.flatnonzero((state >= 0) & (start <= day) & ~(delist_day <= day))
    start, list_day, day = start[cells], list_day[cells], day[cells]
    age, moved = _age(start, day, window), np.flatnonzero(start != list_day)
    from_list_day = age.copy()
    from_list_day[moved] = _age(list_day[moved], day[moved], window)
    return Listing(cells, list_day, age, from_list_day)


def status(
    raw: Mapping[str, pl.DataFrame], listing: Listing, versions: Mapping[str, Versions], window: Window
) -> Status:
    """ST by `stock_st` where the session has it, else by the name in force; the rest by interval."""
    day = window.calendar.days[window.ordinals][listing.cells // window.n_instruments]
    named, by_name, delisting, since = _names(raw.get("namechange"), listing, day, window)
    by_table, covered = _st_table(versions.get("stock_st"), listing, window)
    first = np.searchsorted(window.calendar.days, since) == np.searchsorted(window.calendar.days, day)
    return Status(
        is_st=np.where(covered, by_table, by_name),
        st_by_name=pl.Series(by_name).set(pl.Series(~(covered & named & ~delisting)), None),
        delisting=delisting,
        delisting_first_day=delisting & first,
        industry=_industry(raw.get("index_member_all"), listing, day, window),
    )


def _names(
    namechange: pl.DataFrame | None, listing: Listing, day: np.ndarray, window: Window
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Per listing row: a name is in force, it is an ST name, a delisting name, and its first day.

    The name in force is the known one with the latest start at or before the day. Its end is inclusive, as in
    the vendor's sample (..20061008, then 20061009..).
    """
    none = np.zeros(len(day), dtype=np.bool_)
    if namechange is None or namechange.is_empty():
        return none, none, none, np.full(len(day), np.datetime64("NaT"), dtype="datetime64[D]")
    rows = _ranked(namechange, window, ["start_date"])
    name = rows["name"].str.normalize("NFKC").str.replace_all(r"\s", "")
    is_st = name.str.contains(ST_NAME).fill_null(False).to_numpy()
    leaving = name.str.contains(DELISTING_NAME, literal=True).fill_null(False).to_numpy()
    effective = np.maximum(window.day_ordinals(rows["start_date"]), window.known_ordinals(rows["known_at"]))
    state = newest_state(window, window.identity.index(rows["ts_code"]), effective)[listing.cells]
    start, end = _days(rows, "start_date")[state], _days(rows, "end_date")[state]
    named = (state >= 0) & ~(end < day)
    return named, named & np.append(is_st, False)[state], named & np.append(leaving, False)[state], start


def _st_table(stock_st: Versions | None, listing: Listing, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Per listing row: on the day's `stock_st` list, and whether the table has that session at all."""
    if stock_st is None:
        none = np.zeros(len(listing.cells), dtype=np.bool_)
        return none, none
    held = np.zeros(window.n_cells, dtype=np.bool_)
    live = stock_st.known == stock_st.ordinal
    cell = window.cells(stock_st.instrument[live], stock_st.ordinal[live])
    held[cell[cell >= 0]] = True
    covered = np.isin(window.ordinals, stock_st.ordinal[live])
    return held[listing.cells], covered[listing.cells // window.n_instruments]


def _industry(members: pl.DataFrame | None, listing: Listing, day: np.ndarray, window: Window) -> pl.Series:
    """SW level-1 name in force (`in_date <= day < out_date`, as known), or the bucket that says why not."""
    bse = window.identity.boards[listing.cells % window.n_instruments] == BOARDS.index("bse")
    early = day < np.datetime64(SW2021_PUBLISHED)
    position = np.where(early, 2, np.where(bse, 1, 0))
    buckets = pl.Series("industry", [UNMAPPED, UNMAPPED_BSE, UNMAPPED_EARLY])
    if members is None or members.is_empty():
        return buckets.gather(position)
    rows = _ranked(members, window, ["in_date"])
    effective = np.maximum(window.day_ordinals(rows["in_date"]), window.known_ordinals(rows["known_at"]))
    state = newest_state(window, window.identity.index(rows["ts_code"]), effective)[listing.cells]
    out = _days(rows, "out_date")[state]
    mapped = (state >= 0) & ~(out <= day) & ~early & ~rows["l1_name"].is_null().to_numpy()[state]
    names = pl.concat([buckets, rows["l1_name"].cast(pl.String).alias("industry")])
    return names.gather(np.where(mapped, state + len(buckets), position))


def _ranked(rows: pl.DataFrame, window: Window, by: list[str]) -> pl.DataFrame:
    """Rows of an interval table in ascending rank: by its start, then by knowledge, whatever their order."""
    n = len(rows)
    order = Versions(
        rows, np.zeros(n, np.int32), np.zeros(n, np.int32), np.zeros(n, np.int32)
    ).in_knowledge_order(np.arange(n))
    ranked = rows[order]
    return ranked.sort(by, maintain_order=True) if by else ranked


def _days(rows: pl.DataFrame, column: str) -> np.ndarray:
    """`datetime64[D]` of a date column, NaT where null or absent; one NaT appended for state -1."""
    values = (
        rows[column].cast(pl.Date).to_numpy()
        if column in rows.columns
        else np.full(len(rows), np.datetime64("NaT"))
    )
    return np.append(values.astype("datetime64[D]"), np.datetime64("NaT", "D"))


def _age(start: np.ndarray, day: np.ndarray, window: Window) -> np.ndarray:
    """int32 open sessions from `start` to `day`; weekdays stand in for sessions before the calendar."""
    days = window.calendar.days
    counted = np.searchsorted(days, day) - np.searchsorted(days, start)
    before = start < days[0]
    earlier = np.busday_count(np.where(before, start, days[0]), days[0])
    return (counted + earlier).astype(np.int32)
