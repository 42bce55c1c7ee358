"""Crowding at the limit price and interrupted trading: how often one instrument met its daily limits."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from pipeline.features.history import History
from pipeline.features.spec import Family, Feature

_LENGTHS = np.array([1, 5, 20])
_STREAK = 10
_HALF_TICK = 0.005  # CNY; prices and limits are multiples of 0.01
_UP, _DOWN = ("close", "high", "up_limit"), ("close", "low", "down_limit")
_COUNTS = (
    ("limit_up_closes", _UP, "closes at the upper limit"),
    ("limit_down_closes", _DOWN, "closes at the lower limit"),
    ("limit_up_touches", _UP, "sessions whose high was the upper limit"),
    ("limit_down_touches", _DOWN, "sessions whose low was the lower limit"),
)


def _features() -> tuple[Feature, ...]:
    counts = [
        Feature(
            f"{name}_{n}", "limits", inputs, n, 1, "instrument", "sessions", f"{meaning}, of the last {n}"
        )
        for name, inputs, meaning in _COUNTS
        for n in _LENGTHS.tolist()
    ]
    return (
        *counts,
        Feature(
            "limit_up_streak_10",
            "limits",
            _UP,
            _STREAK,
            1,
            "instrument",
            "sessions",
            "closes at the upper limit in a row up to today, at most 10",
        ),
        Feature(
            "suspended_sessions_20",
            "limits",
            ("suspended",),
            20,
            0,
            "instrument",
            "sessions",
            "suspended, of the last 20",
        ),
        Feature(
            "suspended_sessions_60",
            "limits",
            ("suspended",),
            60,
            0,
            "instrument",
            "sessions",
            "suspended, of the last 60",
        ),
        Feature(
            "bars_60",
            "limits",
            ("close",),
            60,
            0,
            "instrument",
            "sessions",
            "sessions with a bar, of the last 60",
        ),
    )


@njit(cache=True, parallel=True, error_model="numpy")
def _limits(
    high: np.ndarray,
    low: np.ndarray,
    close: np.ndarray,
    up: np.ndarray,
    down: np.ndarray,
    suspended: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    first: int,
    out: np.ndarray,
) -> None:
    """Fill `out` float32 `[16, n_histories, n_sessions - first]`; no limit that day counts as not met."""
    for h in prange(len(start)):
        for t in range(start[h], stop[h]):
            column = out[:, h, t - first]
            _walk(high[h], low[h], close[h], up[h], down[h], t, column)
            column[13] = _sum(suspended[h], t, 20)
            column[14] = _sum(suspended[h], t, 60)
            column[15] = _present(close[h], t, 60)


@njit(cache=True, error_model="numpy")
def _walk(
    high: np.ndarray,
    low: np.ndarray,
    close: np.ndarray,
    up: np.ndarray,
    down: np.ndarray,
    t: int,
    out: np.ndarray,
) -> None:
    if math.isnan(close[t]):
        out[:13] = np.nan
        return
    up_closes = down_closes = up_touches = down_touches = streak = 0
    k = 0
    for w in range(len(_LENGTHS)):
        while k < _LENGTHS[w] and k <= t:
            j = t - k
            locked = abs(close[j] - up[j]) < _HALF_TICK
            up_closes += locked
            down_closes += abs(close[j] - down[j]) < _HALF_TICK
            up_touches += abs(high[j] - up[j]) < _HALF_TICK
            down_touches += abs(low[j] - down[j]) < _HALF_TICK
            if locked and streak == k and k < _STREAK:
                streak += 1
            k += 1
        out[w], out[3 + w], out[6 + w], out[9 + w] = up_closes, down_closes, up_touches, down_touches
    out[12] = streak


@njit(cache=True, error_model="numpy")
def _sum(flags: np.ndarray, t: int, length: int) -> float:
    total = 0.0
    for j in range(max(t - length + 1, 0), t + 1):
        if flags[j] > 0:
            total += 1.0
    return total


@njit(cache=True, error_model="numpy")
def _present(values: np.ndarray, t: int, length: int) -> float:
    total = 0.0
    for j in range(max(t - length + 1, 0), t + 1):
        if not math.isnan(values[j]):
            total += 1.0
    return total


def _compute(history: History) -> np.ndarray:
    v = history.values
    out = history.empty(len(FAMILY.features))
    _limits(
        v["high"],
        v["low"],
        v["close"],
        v["up_limit"],
        v["down_limit"],
        v["suspended"],
        history.start,
        history.stop,
        history.first,
        out,
    )
    return history.at_rows(out)


FAMILY = Family("limits", _features(), _compute)
