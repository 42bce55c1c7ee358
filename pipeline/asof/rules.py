"""Dated market rules of the exchanges: daily price limits, their rounding, and the days without any.

Intervals are half-open [start, end). Integer arithmetic on arrays; nothing is rounded as a float.
Not here: what a limit does to a trade (tradability.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np

from pipeline.asof.identity import BOARDS, EXCHANGES

TICK = 0.01
"""Price step of every A share, CNY."""

PRICE_SCALE = 10_000
"""Integer prices are 1/10,000 CNY: finer than the tick, so that off-tick references stay exact."""

FOREVER = date(9999, 12, 31)


@dataclass(frozen=True)
class LimitRule:
    """Daily limit of a board in percent of the reference price."""

    board: str
    is_st: bool
    start: date
    end: date
    percent: int


LIMIT_RULES = (
    LimitRule("main", False, date(1996, 12, 16), FOREVER, 10),
    LimitRule("main", True, date(1998, 4, 22), date(2026, 7, 6), 5),
    LimitRule("main", True, date(2026, 7, 6), FOREVER, 10),
    LimitRule("chinext", False, date(2009, 10, 30), date(2020, 8, 24), 10),
    LimitRule("chinext", True, date(2009, 10, 30), date(2020, 8, 24), 5),
    LimitRule("chinext", False, date(2020, 8, 24), FOREVER, 20),
    LimitRule("chinext", True, date(2020, 8, 24), FOREVER, 20),
    LimitRule("star", False, date(2019, 7, 22), FOREVER, 20),
    LimitRule("star", True, date(2019, 7, 22), FOREVER, 20),
    LimitRule("bse", False, date(2021, 11, 15), FOREVER, 30),
    LimitRule("bse", True, date(2021, 11, 15), FOREVER, 30),
)

DELISTING_RULES = (
    LimitRule("main", False, date(2012, 12, 17), FOREVER, 10),
    LimitRule("chinext", False, date(2012, 12, 17), date(2020, 8, 24), 10),
    LimitRule("chinext", False, date(2020, 12, 31), FOREVER, 20),
    LimitRule("star", False, date(2019, 7, 22), FOREVER, 20),
    LimitRule("bse", False, date(2021, 11, 15), FOREVER, 30),
)
"""Delisting arrangement. ChiNext between its intervals depends on the entry date: no limit is known."""

DELISTING_FIRST_DAY_FREE = {"SH": date(2020, 12, 31), "SZ": date(2020, 8, 24), "BJ": date(2021, 11, 15)}
"""First day of the arrangement: no known limit from here on (SZSE's rule has a gap until 2020-12-31)."""

MINIMUM_TICK = {"SZ": date(2011, 2, 28), "SH": date(2023, 4, 10)}
"""From here on a limit less than one tick away is moved to one tick away."""


@dataclass(frozen=True)
class ListingRule:
    """Sessions from the listing day on without a known limit, by the date of listing."""

    board: str
    start: date
    end: date
    sessions: int
    free: bool


LISTING_RULES = (
    # Not free but unknown: +44/-36 % of an issue price that no table of ours holds (no limit before 2013/14).
    ListingRule("main", date(1990, 1, 1), date(2023, 4, 10), 1, False),
    ListingRule("main", date(2023, 4, 10), FOREVER, 5, True),
    ListingRule("chinext", date(2009, 10, 30), date(2020, 8, 24), 1, False),
    ListingRule("chinext", date(2020, 8, 24), FOREVER, 5, True),
    ListingRule("star", date(2019, 7, 22), FOREVER, 5, True),
    ListingRule("bse", date(2021, 11, 15), FOREVER, 1, True),
)


def free_sessions(board: np.ndarray, list_day: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of sessions from the listing day on without a known limit (int8), and whether by rule (bool).

    Parameters
    ----------
    board : ndarray of int8
        Position in `BOARDS`.
    list_day : ndarray of datetime64[D]
    """
    sessions, free = np.zeros(len(board), dtype=np.int8), np.zeros(len(board), dtype=np.bool_)
    for rule in LISTING_RULES:
        held = (board == BOARDS.index(rule.board)) & _within(list_day, rule.start, rule.end)
        sessions[held], free[held] = rule.sessions, rule.free
    return sessions, free


def limit_percent(board: np.ndarray, is_st: np.ndarray, session: np.ndarray) -> np.ndarray:
    """int64 percent of the ordinary daily limit; 0 where no rule is dated there.

    Parameters
    ----------
    board : ndarray of int8
        Position in `BOARDS`.
    is_st : ndarray of bool
    session : ndarray of datetime64[D]
    """
    percent = np.zeros(len(board), dtype=np.int64)
    for rule in LIMIT_RULES:
        held = (
            (board == BOARDS.index(rule.board))
            & (is_st == rule.is_st)
            & _within(session, rule.start, rule.end)
        )
        percent[held] = rule.percent
    return percent


def delisting_percent(
    board: np.ndarray, exchange: np.ndarray, first_day: np.ndarray, session: np.ndarray
) -> np.ndarray:
    """int64 percent inside a delisting arrangement; 0 without a known limit. Arrays as `limit_percent`."""
    percent = np.zeros(len(board), dtype=np.int64)
    for rule in DELISTING_RULES:
        percent[(board == BOARDS.index(rule.board)) & _within(session, rule.start, rule.end)] = rule.percent
    for name, start in DELISTING_FIRST_DAY_FREE.items():
        percent[first_day & (exchange == EXCHANGES.index(name)) & (session >= np.datetime64(start))] = 0
    return percent


def widened(exchange: np.ndarray, session: np.ndarray) -> np.ndarray:
    """bool: the minimum-tick rule holds on that exchange and day."""
    held = np.zeros(len(exchange), dtype=np.bool_)
    for name, start in MINIMUM_TICK.items():
        held |= (exchange == EXCHANGES.index(name)) & (session >= np.datetime64(start))
    return held


def price_limits(
    pre_close: np.ndarray, percent: np.ndarray, one_tick: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower daily limit: `pre_close x (1 +- percent)`, half up to the tick, in integers.

    Parameters
    ----------
    pre_close : ndarray of float64
        Ex-right reference price, CNY; NaN where unknown.
    percent : ndarray of int64
        0 where there is no limit.
    one_tick : ndarray of bool
        Where a limit closer than one tick is moved to one tick away.

    Returns
    -------
    up, down : ndarray of float64
        CNY, the doubles nearest to the decimal prices; NaN where there is no limit.
    """
    limited = (percent > 0) & np.isfinite(pre_close) & (pre_close > 0)
    reference = np.rint(np.where(limited, pre_close, 1.0) * PRICE_SCALE).astype(np.int64)
    up = _half_up(reference * (100 + percent))
    down = _half_up(reference * (100 - percent))
    per_tick = PRICE_SCALE // 100
    up = np.where(one_tick & (up * per_tick - reference < per_tick), reference // per_tick + 1, up)
    down = np.where(one_tick & (reference - down * per_tick < per_tick), -(-reference // per_tick) - 1, down)
    return np.where(limited, up / 100, np.nan), np.where(limited, down / 100, np.nan)


def _half_up(hundredths_of_scaled: np.ndarray) -> np.ndarray:
    """Ticks, half up, of non-negative prices in units of 1 / (100 x PRICE_SCALE) CNY."""
    return np.asarray((hundredths_of_scaled + PRICE_SCALE // 2) // PRICE_SCALE)


def _within(day: np.ndarray, start: date, end: date) -> np.ndarray:
    return np.asarray((day >= np.datetime64(start)) & (day < np.datetime64(end)))
