"""Minute rows folded into one fixed array per instrument and session.

Bars are labelled by their end: 09:35..11:30 and 13:05..15:00 for 48 of them. A separate 09:30 auction row is
folded into the first bar. Not here: whether they add up to the day (reconciliation.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.asof.knowledge import Versions, Window
from pipeline.errors import BadInput

BAR_FIELDS = ("open", "high", "low", "close", "amount")
OPENING, LUNCH, RESUME, SESSION_MINUTES = 9 * 60 + 30, 11 * 60 + 30, 13 * 60, 240
BAR_COUNTS = tuple(n for n in range(2, SESSION_MINUTES + 1, 2) if SESSION_MINUTES % n == 0)
"""Numbers of equal bars a session of which none lies across the lunch break."""
SOLD_SHARE = 0.9
"""Share of rows that end at a count's bars when the vendor sells that count; of 48 bars 1/3 end at those of 16."""


@dataclass(frozen=True)
class Minutes:
    """One row per instrument and session that has any bar.

    Parameters
    ----------
    row : ndarray of int64
        Panel row, ascending.
    bars : ndarray of float64, shape [n, bars_per_session * 5]
        `BAR_FIELDS` per bar in time order, NaN where absent.
    volume : ndarray of float64
        Shares over the day.
    strays : DataFrame
        (ts_code, trade_time, ordinal) of rows at no bar's time.
    """

    row: np.ndarray
    bars: np.ndarray
    volume: np.ndarray
    strays: pl.DataFrame


def minutes(
    versions: Versions | None,
    cell_row: np.ndarray,
    window: Window,
    bars_per_session: int,
) -> Minutes:
    """Bars as known at their own session's decision.

    Parameters
    ----------
    versions : Versions or None
        `stk_mins`; None where the source has none.
    cell_row : ndarray of int64
        Panel row of each window cell, -1 where there is none.

    Raises
    ------
    BadInput
        Rows of another number of bars than the market has.
    """
    slots = bar_slots(bars_per_session)
    if versions is None:
        return Minutes(
            np.zeros(0, np.int64), np.zeros((0, bars_per_session * len(BAR_FIELDS))), np.zeros(0), _STRAYS
        )
    times = versions.rows["trade_time"]
    minute = (times.dt.hour().cast(pl.Int64) * 60 + times.dt.minute().cast(pl.Int64)).fill_null(0).to_numpy()
    cell = window.cells(versions.instrument, versions.ordinal)
    row = np.where(cell >= 0, cell_row[cell], -1)
    live = np.flatnonzero((row >= 0) & (versions.known == versions.ordinal))
    _require_sold(minute[live], bars_per_session)
    slot = slots[minute[live]]
    stray = versions.take(live[slot < 0])
    live, slot = live[slot >= 0], slot[slot >= 0]
    days = np.unique(row[live])
    newest = _newest(
        versions,
        live,
        np.searchsorted(days, row[live]) * (bars_per_session + 1) + slot,
        len(days) * (bars_per_session + 1),
    ).reshape(len(days), bars_per_session + 1)
    fields = {c: _field(versions.rows, c, newest) for c in (*BAR_FIELDS, "vol")}
    broken = ~np.logical_and.reduce([fields[c] > 0 for c in BAR_FIELDS[:4]])
    for values in fields.values():
        values[broken] = np.nan
    bars = _folded(fields)
    return Minutes(
        days,
        bars.reshape(len(days), -1),
        np.nansum(fields["vol"], axis=1),
        stray.rows.select("ts_code", "trade_time").with_columns(ordinal=pl.Series(stray.ordinal)),
    )


def bar_slots(bars_per_session: int) -> np.ndarray:
    """int64 position of the bar ending at each minute of the day; the 09:30 auction is last, -1 is no bar."""
    if bars_per_session not in BAR_COUNTS:
        raise BadInput(
            "bars must divide each half of a 240-minute session",
            bars_per_session,
            f"use one of {list(BAR_COUNTS)} bars a session",
        )
    step = SESSION_MINUTES // bars_per_session
    slots = np.full(24 * 60, -1, dtype=np.int64)
    half = bars_per_session // 2
    slots[OPENING + step : LUNCH + 1 : step] = np.arange(half)
    slots[RESUME + step : RESUME + SESSION_MINUTES // 2 + 1 : step] = np.arange(half, bars_per_session)
    slots[OPENING] = bars_per_session
    return slots


def _require_sold(minute: np.ndarray, bars_per_session: int) -> None:
    """Refuse bars of another length. Coarser ones would stand at their right places among missing ones, and add up to
    the day; of finer ones most would be strays. Rows that fill no count's bars are left to the quarantine."""
    rows = np.bincount(minute, minlength=24 * 60)
    rows[OPENING] = 0
    for count in BAR_COUNTS:
        held = rows[bar_slots(count) >= 0]
        whole = np.count_nonzero(held) == count and held.sum() >= SOLD_SHARE * rows.sum()
        if whole and count != bars_per_session:
            raise BadInput(
                f"the vendor sells the market's {bars_per_session} bars a session",
                f"{len(minute)} rows of {count} bars",
                f"set market.bars_per_session to {count}, or fetch the other bars",
            )
        if whole:
            return


def _newest(versions: Versions, live: np.ndarray, place: np.ndarray, n_places: int) -> np.ndarray:
    """int64 newest live row per place, -1 for none; only doubled places are sorted."""
    newest = np.full(n_places, -1, dtype=np.int64)
    newest[place] = live
    doubled = np.zeros(n_places, dtype=np.bool_)
    doubled[place[newest[place] != live]] = True
    if doubled.any():
        several = doubled[place]
        ordered = versions.in_knowledge_order(live[several])
        back = np.empty(int(live.max()) + 1, dtype=np.int64)
        back[live] = place
        newest[back[ordered]] = ordered
    return newest


def _field(rows: pl.DataFrame, column: str, newest: np.ndarray) -> np.ndarray:
    values = np.append(rows[column].cast(pl.Float64).fill_null(np.nan).to_numpy(), np.nan)
    return np.asarray(values[newest])


def _folded(fields: dict[str, np.ndarray]) -> np.ndarray:
    """[n, bars, 5] with the auction column folded into the first bar."""
    bars = np.stack([fields[c][:, :-1] for c in BAR_FIELDS], axis=-1)
    auction = np.stack([fields[c][:, -1] for c in BAR_FIELDS], axis=-1)
    rung = ~np.isnan(auction[:, 0])
    first, early = bars[rung, 0], auction[rung]
    first[:, 0] = early[:, 0]
    first[:, 1] = np.fmax(first[:, 1], early[:, 1])
    first[:, 2] = np.fmin(first[:, 2], early[:, 2])
    first[:, 3] = np.where(np.isnan(first[:, 3]), early[:, 3], first[:, 3])
    first[:, 4] = np.where(np.isnan(first[:, 4]), early[:, 4], first[:, 4] + np.nan_to_num(early[:, 4]))
    bars[rung, 0] = first
    return bars


_STRAYS = pl.DataFrame(schema={"ts_code": pl.String, "trade_time": pl.Datetime("us"), "ordinal": pl.Int32})
