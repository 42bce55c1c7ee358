"""What one minute bar says, for the summaries of a day and for Path A's channels: numba, float64.

A bar is open, high, low, close, amount. It is *present* when it has prices and an amount.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit


@njit(cache=True, error_model="numpy")
def edge_bars(n_bars: int) -> int:
    """Bars of the first, and of the last, session of a day: the whole bars of half an hour, at least one.

    An eighth of four hours: 6 of 48 bars, 3 of 24, 2 of 16, 1 of 8.
    """
    return max(n_bars // 8, 1)


@njit(cache=True, error_model="numpy")
def log_ratio(new: float, old: float) -> float:
    """ln(new / old); NaN unless both are positive."""
    return math.log(new / old) if new > 0 and old > 0 else np.nan


@njit(cache=True, error_model="numpy")
def sign(x: float) -> float:
    """-1, 0 or 1; 0 for NaN."""
    return 1.0 if x > 0 else (-1.0 if x < 0 else 0.0)


@njit(cache=True, error_model="numpy")
def location(close: float, low: float, high: float) -> float:
    """Where `close` lies between low 0 and high 1; 0.5 when they are equal."""
    return (close - low) / (high - low) if high > low else 0.5


@njit(cache=True, error_model="numpy")
def typical(bar: np.ndarray) -> float:
    """Mean of open, high, low, close: the price at which a bar's amount is taken to have traded."""
    return (bar[0] + bar[1] + bar[2] + bar[3]) / 4.0


@njit(cache=True, error_model="numpy")
def close_before(bars: np.ndarray, b: int) -> float:
    """The newest close before bar `b`, or the first open when there is none."""
    for i in range(b - 1, -1, -1):
        if not math.isnan(bars[i, 3]):
            return bars[i, 3]
    for i in range(b, len(bars)):
        if not math.isnan(bars[i, 0]):
            return bars[i, 0]
    return np.nan


@njit(cache=True, error_model="numpy")
def present(bar: np.ndarray) -> bool:
    """Whether a bar has all four prices and an amount."""
    return bar[0] > 0 and bar[1] > 0 and bar[2] > 0 and bar[3] > 0 and bar[4] >= 0
