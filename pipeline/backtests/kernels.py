"""Compiled loops of the sleeve protocol. Plain arrays in and out; the meaning of each is in `engine`."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

FILLED, ENTRY_BLOCKED, CARRIED, DELISTED, OPEN, PENDING = range(6)


@njit(cache=True)
def resolve_fills(
    signal: np.ndarray,
    instrument: np.ndarray,
    opens: np.ndarray,
    closes: np.ndarray,
    open_block: np.ndarray,
    close_block: np.ndarray,
    last_listed: np.ndarray,
    exit_session: int,
    haircut: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """When and at what price each order gets in and out; cash plays no part in it.

    Parameters
    ----------
    signal, instrument : ndarray of int32, shape [O]
        Decision session and market row of each order.
    opens, closes, open_block, close_block : ndarray, shape [N, S]
    last_listed : ndarray of int32, shape [N]
    exit_session : int
        Sessions from the decision to the target exit.
    haircut : float
        Loss on the last known price of a delisted name.

    Returns
    -------
    status : int8, entry_price : float64, exit_at : int32, exit_price : float64, each shape [O]
        `exit_at` is S for a position that is still open at the market's end, -1 for one never entered.
    """
    n, last = len(signal), opens.shape[1] - 1
    status = np.empty(n, np.int8)
    entry_price = np.full(n, np.nan)
    exit_at = np.full(n, -1, np.int32)
    exit_price = np.full(n, np.nan)
    for i in range(n):
        row, entry, target = instrument[i], signal[i] + 1, signal[i] + exit_session
        if entry > last:
            status[i] = PENDING
            continue
        if open_block[row, entry] != 0:
            status[i] = ENTRY_BLOCKED
            continue
        entry_price[i] = opens[row, entry]
        day = target
        while day <= last_listed[row] and close_block[row, day] != 0:
            day += 1
        if day <= last_listed[row]:
            status[i] = FILLED if day == target else CARRIED
            exit_at[i], exit_price[i] = day, closes[row, day]
        elif last_listed[row] < last:
            price = entry_price[i]
            for known in range(last_listed[row], entry - 1, -1):
                if closes[row, known] > 0:
                    price = closes[row, known]
                    break
            status[i] = DELISTED
            exit_at[i], exit_price[i] = last_listed[row] + 1, price * (1.0 - haircut)
        else:
            status[i] = OPEN
            exit_at[i] = last + 1
    return status, entry_price, exit_at, exit_price


def run_ledgers(
    starts: np.ndarray,
    signal: np.ndarray,
    instrument: np.ndarray,
    weight: np.ndarray,
    entry_price: np.ndarray,
    exit_at: np.ndarray,
    exit_price: np.ndarray,
    closes: np.ndarray,
    curve_end: np.ndarray,
    sleeves: int,
    buy_cost: np.ndarray,
    sell_cost: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The cash of every book, session by session, once per cost curve.

    Parameters
    ----------
    starts : ndarray of int64, shape [B + 1]
        Orders of book b are `starts[b]:starts[b + 1]`, by signal.
    signal, instrument, weight, entry_price, exit_at, exit_price : ndarray, shape [O]
    closes : ndarray of float64, shape [N, S]
        Marks; the newest known one holds on a session without.
    curve_end : ndarray of int32, shape [B]
        Last session of each curve.
    sleeves : int
    buy_cost, sell_cost : ndarray of float64, shape [C]
        Fractions of the traded value; each of the C curves has its own cash.

    Returns
    -------
    equity : float64, shape [B, S, C]
        1.0 is the starting cash; NaN outside the curve.
    stake : float64, shape [O, C]
        Cash paid for each order, costs included; 0 where it was not entered.
    """
    equity = np.full((len(starts) - 1, closes.shape[1], len(buy_cost)), np.nan)
    stake = np.zeros((len(signal), len(buy_cost)))
    # Waking the threads costs more than a few books do (5 to 50 ms on a busy machine against 1 ms a book).
    walk = _walk_in_parallel if len(starts) > 16 else _walk_in_turn
    orders = (signal, instrument, weight, entry_price, exit_at, exit_price, stake)
    walk(starts, curve_end, equity, *orders, closes, sleeves, buy_cost, sell_cost)
    return equity, stake


@njit(cache=True)
def _walk_book(
    low: int,
    high: int,
    curve_end: int,
    equity: np.ndarray,
    signal: np.ndarray,
    instrument: np.ndarray,
    weight: np.ndarray,
    entry_price: np.ndarray,
    exit_at: np.ndarray,
    exit_price: np.ndarray,
    stake: np.ndarray,
    closes: np.ndarray,
    sleeves: int,
    buy_cost: np.ndarray,
    sell_cost: np.ndarray,
) -> None:
    """Writes one book's `equity` [S, C] and its rows of `stake`: buy at the open, sell at the close, mark."""
    n_curves, origin = len(buy_cost), signal[low]
    cash = np.full((sleeves, n_curves), 1.0 / sleeves)
    free, value = np.empty(n_curves), np.empty(n_curves)
    held = np.empty(high - low, np.int64)
    mark = entry_price[low:high].copy()
    n_held, cursor = 0, low
    for day in range(origin + 1, curve_end + 1):
        sleeve = (day - 1 - origin) % sleeves
        free[:] = cash[sleeve]
        while cursor < high and signal[cursor] == day - 1:
            if exit_at[cursor] >= 0:
                for c in range(n_curves):
                    stake[cursor, c] = weight[cursor] * free[c]
                    cash[sleeve, c] -= stake[cursor, c]
                held[n_held] = cursor
                n_held += 1
            cursor += 1
        kept = 0
        value[:] = 0.0
        for h in range(n_held):
            order = held[h]
            leaves = exit_at[order] == day
            price = exit_price[order] if leaves else closes[instrument[order], day]
            if price > 0.0 or leaves:
                mark[order - low] = price
            growth = mark[order - low] / entry_price[order]
            for c in range(n_curves):
                worth = stake[order, c] / (1.0 + buy_cost[c]) * growth
                if leaves:
                    cash[(signal[order] - origin) % sleeves, c] += worth * (1.0 - sell_cost[c])
                else:
                    value[c] += worth
            if not leaves:
                held[kept] = order
                kept += 1
        n_held = kept
        for c in range(n_curves):
            equity[day, c] = value[c] + cash[:, c].sum()


@njit(cache=True)
def _walk_in_turn(starts: np.ndarray, curve_end: np.ndarray, equity: np.ndarray, *book: np.ndarray | int) -> None:
    for b in range(len(starts) - 1):
        _walk_book(starts[b], starts[b + 1], curve_end[b], equity[b], *book)


@njit(parallel=True, cache=True)
def _walk_in_parallel(starts: np.ndarray, curve_end: np.ndarray, equity: np.ndarray, *book: np.ndarray | int) -> None:
    for b in prange(len(starts) - 1):
        _walk_book(starts[b], starts[b + 1], curve_end[b], equity[b], *book)
