"""Compiled loops of the position manager: waiting times, trade statistics, the search. Plain arrays in and out."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

STATISTICS = (
    "trade_count",
    "win_rate",
    "mean_actual_edge_bps",
    "mean_weighted_edge_bps",
    "total_weighted_edge_bps",
    "max_drawdown_bps",
    "profit_factor",
    "longest_losing_run",
    "planned_ratio_mean",
    "planned_ratio_min",
    "planned_ratio_median",
    "planned_ratio_max",
    "score",
)
"""What `statistics` writes, in this order."""

NO_TRADE_SCORE = -1_000_000.0
ENOUGH_TRADES = 80
_BUCKETS = 256


@njit(cache=True)
def accept(decided_ms: np.ndarray, symbol: np.ndarray, busy_ms: np.ndarray, n_symbols: int) -> np.ndarray:
    """Which entries open when a symbol holds one position at a time.

    Parameters
    ----------
    decided_ms : ndarray of int64, shape [T]
        Decision instants, ascending; equal instants in order of preference.
    symbol : ndarray of int64, shape [T]
    busy_ms : ndarray of int64, shape [T]
        Time from the decision to the earliest next entry. An entry exactly then is accepted.

    Returns
    -------
    ndarray of bool, shape [T]
    """
    free = np.full(n_symbols, np.iinfo(np.int64).min)
    taken = np.zeros(len(decided_ms), np.bool_)
    for i in range(len(decided_ms)):
        s = symbol[i]
        if decided_ms[i] >= free[s]:
            taken[i] = True
            free[s] = decided_ms[i] + busy_ms[i]
    return taken


@njit(cache=True)
def score(count: float, mean_weighted: float, total_weighted: float, drawdown: float) -> float:
    """Objective of the search: reward, depth of the worst stretch, too few trades."""
    if count == 0:
        return NO_TRADE_SCORE
    return (
        mean_weighted * math.sqrt(count)
        + 0.03 * total_weighted
        - 0.20 * drawdown
        - 2.0 * max(0.0, ENOUGH_TRADES - count)
    )


@njit(cache=True)
def _ranked(values: np.ndarray, low: float, high: float, k: int) -> float:
    """The k-th smallest value, exactly: values fall into buckets, and only the one that holds it is parted.

    A third of the cost of parting all, which was the dearest step of the search.
    """
    scale = (_BUCKETS - 1) / (high - low) if high - low > 1e-9 else 0.0
    counts = np.zeros(_BUCKETS, np.int64)
    for value in values:
        counts[int((value - low) * scale)] += 1
    bucket, before = 0, 0
    while before + counts[bucket] <= k:
        before += counts[bucket]
        bucket += 1
    held, n = np.empty(counts[bucket]), 0
    for value in values:
        if int((value - low) * scale) == bucket:
            held[n] = value
            n += 1
    return np.partition(held, k - before)[k - before]


@njit(cache=True)
def statistics(actual: np.ndarray, weighted: np.ndarray, ratio: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` with `STATISTICS` of trades in order of entry; all zero without trades, but for the score.

    Parameters
    ----------
    actual, weighted, ratio : ndarray of float64, shape [T]
        Net edge in bps, the same times the ratio, planned share of capital. A win is above 0, a loss below.
    out : ndarray of float64, shape [len(STATISTICS)]
    """
    n = len(actual)
    out[:] = 0.0
    out[12] = NO_TRADE_SCORE
    if n == 0:
        return
    wins, run, longest = 0, 0, 0
    edges, total, gain, loss, peak, drawdown, ratios = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    smallest, largest = math.inf, -math.inf
    for i in range(n):
        edges += actual[i]
        total += weighted[i]
        ratios += ratio[i]
        smallest, largest = min(smallest, ratio[i]), max(largest, ratio[i])
        # Without branches: wins and losses alternate at random, and a wrong guess costs more than the sums.
        wins += weighted[i] > 0.0
        gain += max(weighted[i], 0.0)
        loss -= min(weighted[i], 0.0)
        run = (run + 1) * (weighted[i] < 0.0)
        longest = max(longest, run)
        peak = max(peak, total)
        drawdown = max(drawdown, peak - total)
    middle = _ranked(ratio, smallest, largest, n // 2)
    if n % 2 == 0:
        middle = (_ranked(ratio, smallest, largest, n // 2 - 1) + middle) / 2.0
    out[0], out[1], out[2], out[3], out[4] = n, wins / n, edges / n, total / n, total
    out[5], out[6], out[7] = drawdown, gain / loss if loss > 0.0 else math.inf, longest
    out[8], out[9], out[10], out[11] = ratios / n, smallest, middle, largest
    out[12] = score(n, total / n, total, drawdown)


@njit(cache=True)
def _survivors(
    passed: np.ndarray,
    long_leads: np.ndarray,
    after: np.ndarray,
    place: np.ndarray,
    need: int,
    any_long: int,
    any_short: int,
    listed: np.ndarray,
    position: np.ndarray,
) -> int:
    """List the rows on which a side passes the common gates; returns their number.

    `listed` [M, 6] holds all that a candidate asks of a row, side by side in memory: direction bits of LONG, of
    SHORT (0 where the side fails), whether LONG leads, the next listed row after a LONG, after a SHORT, the place.
    `position` [N + 1] is scratch: the first listed row at or after each row.
    """
    n = 0
    for i in range(len(passed)):
        position[i] = n
        long, short = passed[i, 0], passed[i, 1]
        long = long & any_long if long & need == need else 0
        short = short & any_short if short & need == need else 0
        if long | short:
            listed[n, 0], listed[n, 1], listed[n, 2] = long, short, long_leads[i]
            listed[n, 3], listed[n, 4], listed[n, 5] = after[i, 0], after[i, 1], place[i]
            n += 1
    position[len(passed)] = n
    for j in range(n):
        listed[j, 3], listed[j, 4] = position[listed[j, 3]], position[listed[j, 4]]
    return n


@njit(cache=True)
def _replay(listed: np.ndarray, long_bit: int, short_bit: int, taken: np.ndarray) -> int:
    """One candidate's trades into `taken`, as 2 x place + side; returns their number. Held rows are jumped over."""
    j, n = 0, 0
    while j < len(listed):
        long, short = listed[j, 0] & long_bit, listed[j, 1] & short_bit
        if not long | short:
            j += 1
            continue
        side = 0 if long and (not short or listed[j, 2]) else 1
        taken[n] = 2 * listed[j, 5] + side
        n += 1
        j = listed[j, 3 + side]
    return n


@njit(cache=True, parallel=True)
def search(
    passed: np.ndarray,
    long_leads: np.ndarray,
    after: np.ndarray,
    place: np.ndarray,
    sorting: bool,
    edge: np.ndarray,
    common: np.ndarray,
    long_bits: np.ndarray,
    short_bits: np.ndarray,
) -> np.ndarray:
    """`STATISTICS` of every candidate of a grid.

    Per combination of the common gates the surviving rows are listed once; the direction pairs then run on
    that list. Candidates are independent, so the number of threads does not change a bit.

    Parameters
    ----------
    passed : ndarray of int64, shape [N, 2]
        Rows symbol by symbol, each in time order; for LONG and SHORT one bit per threshold that the row passes.
    long_leads : ndarray of bool, shape [N]
        Whether LONG wins when both sides pass.
    after : ndarray of int64, shape [N, 2]
        First row that may be entered after an entry here, per side; N when there is none.
    place : ndarray of int64, shape [N]
        Place of the row in order of entry over all symbols.
    sorting : bool
        Whether trades come out of that order (more than one symbol).
    edge : ndarray of float64, shape [2 N, 3]
        At 2 x place + side: actual edge, weighted edge, planned ratio.
    common, long_bits, short_bits : ndarray of int64, shapes [G], [L], [S]
        Bits a candidate needs: of the common gates together, of each direction threshold.

    Returns
    -------
    ndarray of float64, shape [L, S, G, len(STATISTICS)]
    """
    n_rows, n_long, n_short = len(passed), len(long_bits), len(short_bits)
    out = np.empty((n_long, n_short, len(common), len(STATISTICS)))
    any_long, any_short = long_bits.sum(), short_bits.sum()
    for g in prange(len(common)):
        listed, position = np.empty((n_rows, 6), np.int64), np.empty(n_rows + 1, np.int64)
        m = _survivors(passed, long_leads, after, place, common[g], any_long, any_short, listed, position)
        taken, trades = np.empty(m, np.int64), np.empty((3, m))
        for a in range(n_long):
            for b in range(n_short):
                n = _replay(listed[:m], long_bits[a], short_bits[b], taken)
                if sorting:
                    taken[:n].sort()
                for t in range(n):
                    for k in range(3):
                        trades[k, t] = edge[taken[t], k]
                statistics(trades[0, :n], trades[1, :n], trades[2, :n], out[a, b, g])
    return out
