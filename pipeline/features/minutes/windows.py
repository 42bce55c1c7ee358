"""numba kernels over the last `length` rows of a segment; no feature is defined here.

Every sum is computed from its own window alone, oldest to newest: nothing runs on from one row to the next, so
a value's bits cannot depend on what precedes its window. `held[r]` is the rows of row r's segment up to and with r;
a window that is longer gives NaN, and so does a NaN inside it. One thread: with more, the features of
one live minute took 19 ms instead of 7.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True, error_model="numpy")
def _sum(values: np.ndarray, first: int, last: int, anchor: float) -> float:
    """Sum of `values[first:last] - anchor` in four fixed lanes, which the compiler can hold in one register."""
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    whole = first + (last - first) // 4 * 4
    for i in range(first, whole, 4):
        a += values[i] - anchor
        b += values[i + 1] - anchor
        c += values[i + 2] - anchor
        d += values[i + 3] - anchor
    for i in range(whole, last):
        a += values[i] - anchor
    return (a + b) + (c + d)


@njit(cache=True, error_model="numpy")
def _squares(values: np.ndarray, first: int, last: int, anchor: float) -> float:
    """Sum of `(values[first:last] - anchor) ** 2` in four fixed lanes."""
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    whole = first + (last - first) // 4 * 4
    for i in range(first, whole, 4):
        a += (values[i] - anchor) ** 2
        b += (values[i + 1] - anchor) ** 2
        c += (values[i + 2] - anchor) ** 2
        d += (values[i + 3] - anchor) ** 2
    for i in range(whole, last):
        a += (values[i] - anchor) ** 2
    return (a + b) + (c + d)


@njit(cache=True, error_model="numpy")
def sums(values: np.ndarray, held: np.ndarray, length: int) -> np.ndarray:
    """Sum of the last `length` values; float64 `[n_rows]`."""
    out = np.full(len(values), np.nan)
    for r in range(len(values)):
        if held[r] >= length:
            out[r] = _sum(values, r - length + 1, r + 1, 0.0)
    return out


@njit(cache=True, error_model="numpy")
def root_mean_squares(values: np.ndarray, held: np.ndarray, length: int) -> np.ndarray:
    """Root of the mean square of the last `length` values."""
    out = np.full(len(values), np.nan)
    for r in range(len(values)):
        if held[r] >= length:
            out[r] = math.sqrt(_squares(values, r - length + 1, r + 1, 0.0) / length)
    return out


@njit(cache=True, error_model="numpy")
def zscores(values: np.ndarray, held: np.ndarray, length: int) -> np.ndarray:
    """(value - mean) / sample deviation over the last `length` values; NaN where the deviation is zero.

    Anchored at the newest value, so that a constant window has a deviation of exactly zero.
    """
    out = np.full(len(values), np.nan)
    for r in range(len(values)):
        if held[r] >= length:
            first = r - length + 1
            shift = _sum(values, first, r + 1, values[r]) / length
            squares = _squares(values, first, r + 1, values[r] + shift)
            if squares > 0.0:
                out[r] = -shift / math.sqrt(squares / (length - 1))
    return out


@njit(cache=True, error_model="numpy")
def ranks(values: np.ndarray, held: np.ndarray, length: int, least: int) -> np.ndarray:
    """Average-tie rank of the newest value over the count of present ones, in (0, 1].

    NaN are left out; the last `length` rows must hold `least` values and the newest one. Every row counts its own
    window: a sorted one that slides was 1.4 times as fast over 1440 rows, for twice the code.
    """
    out = np.full(len(values), np.nan)
    for r in range(len(values)):
        if held[r] >= length and not math.isnan(values[r]):
            newest, below, upto, present = values[r], 0, 0, 0
            for i in range(r - length + 1, r + 1):
                below += values[i] < newest
                upto += values[i] <= newest
                present += values[i] == values[i]
            if present >= least:
                out[r] = 0.5 * (below + upto + 1) / present
    return out


@njit(cache=True, error_model="numpy")
def extremes(
    high: np.ndarray, low: np.ndarray, held: np.ndarray, length: int, skip: int
) -> tuple[np.ndarray, np.ndarray]:
    """Highest `high` and lowest `low` of the `length` rows that end `skip` rows ago."""
    top, bottom = np.full(len(high), np.nan), np.full(len(high), np.nan)
    for r in range(len(high)):
        if held[r] >= length + skip:
            up, down = -np.inf, np.inf
            for i in range(r - skip - length + 1, r - skip + 1):
                up, down = max(up, high[i]), min(down, low[i])
            top[r], bottom[r] = up, down
    return top, bottom


@njit(cache=True, error_model="numpy")
def lagged(values: np.ndarray, held: np.ndarray, length: int) -> np.ndarray:
    """The value `length` rows earlier."""
    out = np.full(len(values), np.nan)
    for r in range(len(values)):
        if held[r] > length:
            out[r] = values[r - length]
    return out


@njit(cache=True, error_model="numpy")
def log_returns(close: np.ndarray, held: np.ndarray) -> np.ndarray:
    """ln(close / close before) in bps; numba's logarithm, which no instruction set changes."""
    out = np.full(len(close), np.nan)
    for r in range(len(close)):
        if held[r] > 1:
            out[r] = math.log(close[r] / close[r - 1]) * 1e4
    return out


@njit(cache=True, error_model="numpy")
def cycle(place: np.ndarray, period: int) -> tuple[np.ndarray, np.ndarray]:
    """Sine and cosine of `place` int64 on a circle of `period` steps."""
    sine, cosine = np.empty(len(place)), np.empty(len(place))
    for r in range(len(place)):
        angle = 2.0 * math.pi * place[r] / period
        sine[r], cosine[r] = math.sin(angle), math.cos(angle)
    return sine, cosine


@njit(cache=True, error_model="numpy")
def stored(values: np.ndarray) -> np.ndarray:
    """The float32 that is kept: an infinity is missing, -0.0 is 0.0."""
    out = np.empty(len(values), np.float32)
    for r in range(len(values)):
        value = np.float32(values[r]) + np.float32(0.0)
        out[r] = np.float32(np.nan) if math.isinf(value) else value
    return out
