"""The outcome of one hypothetical trade per panel row: a kernel over dense prices. No ranks, no dates."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

STATUSES = ("filled", "entry_blocked", "censored", "open")
FILLED, ENTRY_BLOCKED, CENSORED, OPEN = range(4)
BLOCKS = ("", "other", "limit_down", "suspended")
FREE, OTHER, LIMIT_DOWN, SUSPENDED = range(4)


class Outcomes(NamedTuple):
    """Arrays of one value per row; columns of the market are -1, floats NaN, where there is none.

    `status` codes into `STATUSES`; `entry`, `exit`, `end` are columns of the market arrays (`end` excluded);
    `delay` counts sessions past the target exit; prices are adjusted; `downlock` is 0, 1 or NaN; `adverse` is
    the loss at the worst low; `intraday` the return from open to close of the entry session.
    """

    status: np.ndarray
    entry: np.ndarray
    exit: np.ndarray
    end: np.ndarray
    delay: np.ndarray
    entry_price: np.ndarray
    exit_price: np.ndarray
    downlock: np.ndarray
    adverse: np.ndarray
    intraday: np.ndarray


@numba.njit(cache=True)
def _exit(close: np.ndarray, block: np.ndarray, i: int, target: int, last: int) -> int:
    """First column from `target` on with a close that can be sold at; `last + 1` if there is none."""
    x = target
    while x <= last and not (block[i, x] == FREE and close[i, x] > 0):
        x += 1
    return x


@numba.njit(cache=True)
def _downlock(
    close: np.ndarray, block: np.ndarray, i: int, entry: int, target: int, last: int, price: float,
    filled: bool,
) -> float:
    """1 if a loss could not be sold, 0 if it could, NaN if a suspension hides the answer."""
    before = price
    for s in range(entry, last + 1):
        if block[i, s] == LIMIT_DOWN:
            return 1.0
        if s < target and block[i, s] == FREE and close[i, s] > 0:
            before = close[i, s]
    if filled:
        return 1.0 if block[i, target] == SUSPENDED and close[i, last] < before else 0.0
    for s in range(target, last + 1):
        if block[i, s] == SUSPENDED:
            return np.nan
    return 0.0


@numba.njit(cache=True)
def trade_outcomes(
    row_instrument: np.ndarray, row_column: np.ndarray, open_: np.ndarray, low: np.ndarray, close: np.ndarray,
    open_block: np.ndarray, close_block: np.ndarray, exit_session: int, max_exit_delay: int,
) -> Outcomes:
    """Buy at the next open, sell at the close of `exit_session` or at the first later one that trades.

    Parameters
    ----------
    row_instrument, row_column : int array [n]
        Row and column of each decision in the market arrays.
    open_, low, close : float64 array [instruments, sessions]
        Adjusted CNY, NaN where absent; consecutive sessions up to the last known one.
    open_block, close_block : uint8 array [instruments, sessions]
        Codes into `BLOCKS`.
    exit_session, max_exit_delay : int
        Sessions from decision to target exit, and how many more an exit may wait.
    """
    n, n_sessions = len(row_instrument), open_.shape[1]
    status = np.full(n, OPEN, np.int8)
    entry, exit_, end, delay = np.full((4, n), -1, np.int32)
    entry_price, exit_price, downlock, adverse, intraday = np.full((5, n), np.nan)
    for r in range(n):
        i, buy = row_instrument[r], row_column[r] + 1
        if buy >= n_sessions:
            continue
        price = open_[i, buy]
        if open_block[i, buy] != FREE or not price > 0:
            status[r] = ENTRY_BLOCKED if open_block[i, buy] != FREE else CENSORED
            end[r] = buy + 1
            continue
        entry[r], entry_price[r], intraday[r] = buy, price, close[i, buy] / price - 1
        target = row_column[r] + exit_session
        latest = target + max_exit_delay
        sell = _exit(close, close_block, i, target, min(latest, n_sessions - 1))
        if sell >= n_sessions and latest >= n_sessions:
            continue
        filled = sell <= latest
        last = sell if filled else latest
        status[r], end[r] = (FILLED if filled else CENSORED), last + 1
        downlock[r] = _downlock(close, close_block, i, buy, target, last, price, filled)
        if filled:
            exit_[r], exit_price[r], delay[r] = sell, close[i, sell], sell - target
            worst = price
            for s in range(buy, sell + 1):
                if low[i, s] < worst:
                    worst = low[i, s]
            adverse[r] = 1 - worst / price
    return Outcomes(status, entry, exit_, end, delay, entry_price, exit_price, downlock, adverse, intraday)
