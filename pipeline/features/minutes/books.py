"""numba kernels over 20-level book snapshots: what one says, and what changed since the one before.

A level is present when price and size are positive numbers; NaN or zero is a missing level. No windows here.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

LEVELS = 20
DEPTHS = (1, 5, 20)
TINY = 1e-12

# What a snapshot is fit for. From EMPTY on it is as good as absent.
COMPLETE, PARTIAL, ABSENT, EMPTY, CROSSED, UNSORTED, INVALID = range(7)


@njit(cache=True, error_model="numpy")
def _present(price: float, size: float) -> bool:
    return price > 0.0 and size > 0.0


@njit(cache=True, error_model="numpy")
def _side_state(price: np.ndarray, size: np.ndarray, sign: float) -> int:
    """State of one side; `sign` 1 where prices must rise with the level (asks), -1 where they must fall."""
    state, before = COMPLETE, -np.inf
    for i in range(len(price)):
        if price[i] < 0.0 or size[i] < 0.0 or math.isinf(price[i]) or math.isinf(size[i]):
            return INVALID
        if not _present(price[i], size[i]):
            state = max(state, EMPTY if i == 0 else PARTIAL)
        elif sign * price[i] <= before:
            state = max(state, UNSORTED)
        else:
            before = sign * price[i]
    return state


@njit(cache=True, error_model="numpy")
def states(at: np.ndarray, bid: np.ndarray, bid_size: np.ndarray, ask: np.ndarray, ask_size: np.ndarray) -> np.ndarray:
    """State of each row's snapshot, int8 `[n_rows]`.

    `at` int64 `[n_rows]` is the snapshot's place in the float64 `[n_books, 20]` arrays, -1 where there is none.
    """
    out = np.empty(len(at), np.int8)
    for r in range(len(at)):
        b = at[r]
        if b < 0:
            out[r] = ABSENT
            continue
        state = max(_side_state(bid[b], bid_size[b], -1.0), _side_state(ask[b], ask_size[b], 1.0))
        out[r] = CROSSED if (state < EMPTY or state == UNSORTED) and bid[b, 0] >= ask[b, 0] else state
    return out


@njit(cache=True, error_model="numpy")
def depths(
    at: np.ndarray, state: np.ndarray, bid: np.ndarray, bid_size: np.ndarray, ask: np.ndarray, ask_size: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Notional over levels 0..n-1 for n in `DEPTHS`: of both sides, and bids less asks; float64 `[3, n_rows]`."""
    both, net = np.full((3, len(at)), np.nan), np.full((3, len(at)), np.nan)
    for r in range(len(at)):
        if state[r] > PARTIAL:
            continue
        b = at[r]
        bids, asks, n = 0.0, 0.0, 0
        for i in range(LEVELS):
            if not (_present(bid[b, i], bid_size[b, i]) and _present(ask[b, i], ask_size[b, i])):
                break
            bids += bid[b, i] * bid_size[b, i]
            asks += ask[b, i] * ask_size[b, i]
            if i + 1 == DEPTHS[n]:
                both[n, r], net[n, r] = bids + asks, bids - asks
                n += 1
    return both, net


@njit(cache=True, error_model="numpy")
def microprice_basis(
    at: np.ndarray, state: np.ndarray, bid: np.ndarray, bid_size: np.ndarray, ask: np.ndarray, ask_size: np.ndarray
) -> np.ndarray:
    """(size-weighted mid / mid - 1) * 1e4: each side's size pulls to the other side's price; not Stoikov's."""
    out = np.full(len(at), np.nan)
    for r in range(len(at)):
        if state[r] <= PARTIAL:
            b = at[r]
            p, q, v, w = bid[b, 0], ask[b, 0], bid_size[b, 0], ask_size[b, 0]
            out[r] = (((q * v + p * w) / max(v + w, TINY)) / (0.5 * (p + q)) - 1.0) * 1e4
    return out


@njit(cache=True, error_model="numpy")
def bid_part(price: float, size: float, price_before: float, size_before: float) -> float:
    """Quote notional that the bids gained at one level between two snapshots."""
    if price > price_before:
        return size * price
    if price == price_before:
        return (size - size_before) * price
    return -size_before * price_before


@njit(cache=True, error_model="numpy")
def ask_part(price: float, size: float, price_before: float, size_before: float) -> float:
    """Quote notional that the asks lost at one level between two snapshots."""
    if price < price_before:
        return -size * price
    if price == price_before:
        return -(size - size_before) * price
    return size_before * price_before


@njit(cache=True, error_model="numpy")
def events(
    at: np.ndarray, held: np.ndarray, bid: np.ndarray, bid_size: np.ndarray, ask: np.ndarray, ask_size: np.ndarray
) -> np.ndarray:
    """Event order-flow imbalance summed over levels 0..n-1 for n in `DEPTHS`; float64 `[3, n_rows]`.

    `held` counts usable snapshots minute after minute up to each row; the first of them has no event.
    """
    out = np.full((3, len(at)), np.nan)
    for r in range(len(at)):
        if held[r] < 2:
            continue
        b, p = at[r], at[r - 1]
        total, n = 0.0, 0
        for i in range(LEVELS):
            if not (
                _present(bid[b, i], bid_size[b, i])
                and _present(ask[b, i], ask_size[b, i])
                and _present(bid[p, i], bid_size[p, i])
                and _present(ask[p, i], ask_size[p, i])
            ):
                break
            total += bid_part(bid[b, i], bid_size[b, i], bid[p, i], bid_size[p, i])
            total += ask_part(ask[b, i], ask_size[b, i], ask[p, i], ask_size[p, i])
            if i + 1 == DEPTHS[n]:
                out[n, r] = total
                n += 1
    return out


@njit(cache=True, error_model="numpy")
def usable_run(state: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Usable snapshots minute after minute up to each row, within its segment; 0 where there is none."""
    out = np.zeros(len(state), np.int64)
    for r in range(len(state)):
        if state[r] <= PARTIAL:
            out[r] = out[r - 1] + 1 if held[r] > 1 else 1
    return out
