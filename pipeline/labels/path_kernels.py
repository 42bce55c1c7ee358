"""Loops over minute paths, in float64: extremes, quantile and volatility of the bars ahead, and where a plan exits.

Arrays in, arrays out. A *run* is `[first row, rows, place in the output]`: rows whose bars ahead all lie in one
segment. Every value depends on its own window only.

Prices are handed over *mirrored* for SHORT: `favourable` is high or -low, `adverse` low or -high, `sign` +1 or -1.
Negation is exact, so one loop serves both sides bit for bit.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

MINUTE_MS = 60_000
BPS = 1e4
TARGET, STOP, TIMEOUT, AMBIGUOUS = range(4)  # rows of `flags`
TO_TARGET, TO_STOP, TO_EXIT = range(3)  # rows of `times`
_EMPTY = 1e-12  # a position smaller than this is none: 1 - 0.7 - 0.3 leaves 5.6e-17
_BLOCK = 512  # rows whose accumulators stay in the first cache


@njit(cache=True, error_model="numpy")
def _gain(sign: float, entry: float, price: float) -> float:
    """The move from entry to price in bps, as a ratio seen from the side that gains."""
    return (price / entry - 1.0) * BPS if sign > 0 else (entry / price - 1.0) * BPS


@njit(cache=True, error_model="numpy")
def moves_ahead(
    high: np.ndarray, low: np.ndarray, close: np.ndarray, runs: np.ndarray, horizon: int,
    rise: np.ndarray, fall: np.ndarray, long_return: np.ndarray, short_return: np.ndarray, volatility: np.ndarray,
) -> None:
    """Moves of the next `horizon` bars in bps: to their highest and lowest price, to their last close, a minute's.

    `rise` is highest / entry - 1 and `fall` entry / lowest - 1, at least 0; `volatility` the root mean square of
    one-minute log returns. The loop over bars is outside, over rows inside: it vectorises, and each sum still runs
    from the first bar on.
    """
    squared = np.zeros(len(close))
    for i in range(1, len(close)):
        step = math.log(close[i] / close[i - 1])
        squared[i] = step * step
    top, bottom, total = np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK)
    for r in range(len(runs)):
        for at in range(0, runs[r, 1], _BLOCK):
            n, first, out = min(_BLOCK, runs[r, 1] - at), runs[r, 0] + at, runs[r, 2] + at
            top[:], bottom[:], total[:] = 0.0, np.inf, 0.0
            for k in range(1, horizon + 1):
                a = first + k
                highs, lows, squares = high[a : a + n], low[a : a + n], squared[a : a + n]
                for j in range(n):
                    top[j] = highs[j] if highs[j] > top[j] else top[j]
                    bottom[j] = lows[j] if lows[j] < bottom[j] else bottom[j]
                    total[j] += squares[j]
            for j in range(n):
                entry, last, o = close[first + j], close[first + j + horizon], out + j
                rise[o] = max(_gain(1.0, entry, top[j]), 0.0)
                fall[o] = max(_gain(-1.0, entry, bottom[j]), 0.0)
                long_return[o], short_return[o] = _gain(1.0, entry, last), _gain(-1.0, entry, last)
                volatility[o] = math.sqrt(total[j] / horizon) * BPS


@njit(cache=True)
def _ranks(ring: np.ndarray, rank: np.ndarray) -> None:
    """Rank of each value among all, the older first of two equal ones."""
    for a in range(len(ring)):
        rank[a] = 0
        for b in range(len(ring)):
            rank[a] += ring[b] < ring[a] or (ring[b] == ring[a] and b < a)


@njit(cache=True)
def _exchange(ring: np.ndarray, rank: np.ndarray, oldest: int, coming: float) -> None:
    """Put `coming` in the oldest value's place. Three times a sorted window's speed at 45: no branch to mispredict."""
    leaving, below = ring[oldest], -(ring[oldest] <= coming)
    for k in range(len(ring)):
        value = ring[k]
        rank[k] += np.int64(value > coming) - np.int64(value >= leaving)
        below += value <= coming
    ring[oldest], rank[oldest] = coming, below


@njit(cache=True)
def _holders(rank: np.ndarray, lower: int, upper: int) -> tuple[int, int]:
    """Where the values of two ranks lie."""
    at_lower, at_upper = 0, 0
    for k in range(len(rank)):
        at_lower |= k if rank[k] == lower else 0
        at_upper |= k if rank[k] == upper else 0
    return at_lower, at_upper


@njit(cache=True)
def quantile_ahead(values: np.ndarray, runs: np.ndarray, horizon: int, share: float, out: np.ndarray) -> None:
    """Linear quantile of those of the next `horizon` values that are present, as NumPy's to the bit; NaN for none."""
    known = np.where(np.isnan(values), np.inf, values)
    for r in range(len(runs)):
        first, rows, start = runs[r, 0], runs[r, 1], runs[r, 2]
        ring, rank = known[first + 1 : first + 1 + horizon].copy(), np.empty(horizon, np.int64)
        _ranks(ring, rank)
        absent = np.isinf(ring).sum()
        at_low, at_high = 0, 0
        for j in range(rows):
            if j > 0:
                oldest, coming = (j - 1) % horizon, known[first + j + horizon]
                absent += np.int64(np.isinf(coming)) - np.int64(np.isinf(ring[oldest]))
                _exchange(ring, rank, oldest, coming)
            if absent == horizon:
                out[start + j] = math.nan
                continue
            place = (horizon - absent - 1) * share
            under = np.int64(math.floor(place))
            part = place - under
            above = min(under + 1, horizon - absent - 1)
            if rank[at_low] != under or rank[at_high] != above:  # two rows in three keep both
                at_low, at_high = _holders(rank, under, above)
            low, high = ring[at_low], ring[at_high]
            out[start + j] = low + (high - low) * part if part < 0.5 else high - (high - low) * (1.0 - part)


@njit(cache=True)
def rank_in_past(
    values: np.ndarray, segments: np.ndarray, window: int, least: int, asked: np.ndarray, out: np.ndarray
) -> None:
    """Place of `asked` among the last `window` values, the row's own included, in [0, 1]; ties count half.

    `values`, `asked`, `out` float64 [n]; `segments` int64 [k, 2], first row and rows. NaN where the segment is younger
    than the window, fewer than `least` values of it are present, or `asked` is missing.
    """
    for s in range(len(segments)):
        first = segments[s, 0]
        for i in range(first, first + segments[s, 1]):
            out[i] = math.nan
            if i - first + 1 < window or math.isnan(asked[i]):
                continue
            past, wanted = values[i - window + 1 : i + 1], asked[i]
            below, up_to, present = 0, 0, 0
            for k in range(window):
                below += past[k] < wanted
                up_to += past[k] <= wanted
                present += past[k] == past[k]
            if present >= least:
                out[i] = 0.5 * (below + up_to) / present


@njit(cache=True)
def fixed_exits(
    close: np.ndarray, favourable: np.ndarray, adverse: np.ndarray, runs: np.ndarray, horizon: int, sign: float,
    target: float, stop: float, at_horizon: np.ndarray, flags: np.ndarray, times: np.ndarray, gross: np.ndarray,
) -> None:
    """First barrier wins, touching counts, a bar that touches both is the stop. Distances in bps.

    Fills `flags` int8 [4, n] (zero before), `times` int64 [3, n] in ms and `gross` float64 [n] in bps.
    """
    for r in range(len(runs)):
        first, rows, place = runs[r, 0], runs[r, 1], runs[r, 2]
        for j in range(rows):
            i, o = first + j, place + j
            top = sign * close[i] * (1.0 + sign * (target / BPS))
            bottom = sign * close[i] * (1.0 - sign * (stop / BPS))
            k = 1
            while k <= horizon and adverse[i + k] > bottom and favourable[i + k] < top:
                k += 1
            times[TO_TARGET, o], times[TO_STOP, o] = -1, -1
            if k > horizon:
                flags[TIMEOUT, o] = 1
                times[TO_EXIT, o] = horizon * MINUTE_MS
                gross[o] = at_horizon[o]
                continue
            times[TO_EXIT, o] = k * MINUTE_MS
            if adverse[i + k] <= bottom:
                flags[STOP, o] = 1
                flags[AMBIGUOUS, o] = favourable[i + k] >= top
                times[TO_STOP, o] = k * MINUTE_MS
                gross[o] = -stop
            else:
                flags[TARGET, o] = 1
                times[TO_TARGET, o] = k * MINUTE_MS
                gross[o] = target


@njit(cache=True)
def _trailed(
    favourable: np.ndarray, adverse: np.ndarray, i: int, horizon: int, sign: float, entry: float, at_horizon: float,
    target: float, stop: float, second: float, trail: float, take1: float, take2: float, breakeven: bool,
) -> tuple[int, int, int, float]:
    """Bars to take 1 and to a stop (-1: never), bars to the exit, gross bps of one trade."""
    start = sign * entry
    first_level, second_level = start * (1.0 + sign * (target / BPS)), start * (1.0 + sign * (second / BPS))
    level, best = start * (1.0 - sign * (stop / BPS)), start
    left, earned, taken, second_taken = 1.0, 0.0, -1, False
    for k in range(1, horizon + 1):
        if taken > 0:
            level = best * (1.0 - sign * (trail / BPS))
            if breakeven and level < start:
                level = start
        if adverse[i + k] <= level:
            return taken, k, k, earned + left * _gain(sign, entry, sign * level)
        if taken < 0 and favourable[i + k] >= first_level:
            taken = k
            earned += take1 * target
            left -= take1
        if taken > 0 and not second_taken and favourable[i + k] >= second_level:
            second_taken = True
            part = min(take2, left)
            earned += part * second
            left -= part
        if left <= _EMPTY:
            return taken, -1, k, earned
        best = max(best, favourable[i + k])
    return taken, -1, horizon + 1, earned + left * at_horizon


@njit(cache=True)
def dynamic_exits(
    close: np.ndarray, favourable: np.ndarray, adverse: np.ndarray, runs: np.ndarray, horizon: int, sign: float,
    target: float, stop: float, second: float, trail: float, take1: float, take2: float, breakeven: bool,
    at_horizon: np.ndarray, flags: np.ndarray, times: np.ndarray, gross: np.ndarray,
) -> None:
    """Two takes and a trailing stop; fills the same arrays as `fixed_exits`."""
    for r in range(len(runs)):
        first, rows, place = runs[r, 0], runs[r, 1], runs[r, 2]
        for j in range(rows):
            o = place + j
            taken, stopped, left_at, gross[o] = _trailed(
                favourable, adverse, first + j, horizon, sign, close[first + j], at_horizon[o],
                target, stop, second, trail, take1, take2, breakeven,
            )
            flags[TARGET, o] = taken > 0
            flags[STOP, o] = stopped > 0 and taken < 0
            times[TO_TARGET, o] = taken * MINUTE_MS if taken > 0 else -1
            times[TO_STOP, o] = stopped * MINUTE_MS if stopped > 0 else -1
            flags[TIMEOUT, o] = left_at > horizon
            times[TO_EXIT, o] = min(left_at, horizon) * MINUTE_MS
