"""Daily price limits as the simulated exchange applies them.

A copy of the dated rules of its own, on purpose: the panel checks the vendor's limits against its rules, and
a check against the code that made the numbers would see nothing.
"""

from __future__ import annotations

from datetime import date

import numba
import numpy as np

MAIN_SSE, MAIN_SZSE, CHINEXT, STAR, BSE = range(5)
NO_LIMIT = 0
ISSUE_DAY = 4_400  # +44% / -36% of the issue price, the one asymmetric band

CHINEXT_REFORM = date(2020, 8, 24)
REGISTRATION = date(2023, 4, 10)  # main board: five sessions without limits from here on
ARRANGEMENT_REFORM = date(2020, 12, 31)  # a delisting arrangement begins without limits
ST_TEN_PERCENT = date(2026, 7, 6)


def band(board: int, day: date, is_st: bool) -> int:
    """Width of the daily limit in basis points of the reference price."""
    if board == BSE:
        return 3_000
    if board == STAR or (board == CHINEXT and day >= CHINEXT_REFORM):
        return 2_000
    return 500 if is_st and (board == CHINEXT or day < ST_TEN_PERCENT) else 1_000


def first_sessions(board: int, listed: date) -> list[int]:
    """Bands of the first sessions after listing that differ from the ordinary one."""
    if board == BSE:
        return [NO_LIMIT]
    if board == STAR or (board == CHINEXT and listed >= CHINEXT_REFORM) or listed >= REGISTRATION:
        return [NO_LIMIT] * 5
    return [ISSUE_DAY]


def bands(board: np.ndarray, days: list[date], st: np.ndarray) -> np.ndarray:
    """int16 [sessions, instruments] widths in basis points, first sessions not yet considered."""
    plain = np.array([[band(b, day, False) for b in range(5)] for day in days], dtype=np.int16)
    special = np.array([[band(b, day, True) for b in range(5)] for day in days], dtype=np.int16)
    return np.where(st, special[:, board], plain[:, board])


@numba.njit(cache=True)
def limit_ticks(reference: int, bps: int) -> tuple[int, int]:
    """Lower and upper limit in ticks of 0.01 CNY, half up in integers; (1, 10_000_000) without one."""
    if bps == NO_LIMIT:
        return 1, 10_000_000
    below = 3_600 if bps == ISSUE_DAY else bps
    upper = (2 * reference * (10_000 + bps) + 10_000) // 20_000
    lower = (2 * reference * (10_000 - below) + 10_000) // 20_000
    return min(lower, reference - 1), max(upper, reference + 1)


@numba.njit(cache=True)
def limit_arrays(reference: np.ndarray, bps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`limit_ticks` of many rows: int64 lower and upper."""
    lower, upper = np.empty(len(reference), np.int64), np.empty(len(reference), np.int64)
    for k in range(len(reference)):
        lower[k], upper[k] = limit_ticks(np.int64(reference[k]), np.int64(bps[k]))
    return lower, upper
