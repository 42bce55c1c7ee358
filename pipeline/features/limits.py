"""Crowding at the limit price and interrupted trading: how often one instrument met its daily limits."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from pipeline.features.history import History
from pipeline.features.spec import Family, Feature

_LENGTHS = np.array([1, 5, 20])
_STREAK = 10
_CROWD = 20
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
        *(
            Feature(
                f"limit_{side}_one_price_20",
                "limits",
                ("high", "low", "close", f"{side}_limit"),
                20,
                1,
                "instrument",
                "sessions",
                f"sessions traded at the {name} limit alone (high = low), of the last 20",
            )
            for side, name in (("up", "upper"), ("down", "lower"))
        ),
        Feature(
            "limit_up_opened_below_20",
            "limits",
            ("open", "close", "pre_close", "up_limit"),
            20,
            2,
            "instrument",
            "share",
            "closes at the upper limit whose next bar opened below them, of those within 20 sessions",
        ),
        Feature(
            "limit_position",
            "limits",
            ("close", "up_limit", "down_limit"),
            1,
            1,
            "instrument",
            "share",
            "close between the lower limit (0) and the upper limit (1)",
        ),
    )


@njit(cache=True, parallel=True, error_model="numpy")
def _limits(
    open_: np.ndarray,
    high: np.ndarray,
    low: np.ndarray,
    close: np.ndarray,
    pre_close: np.ndarray,
    up: np.ndarray,
    down: np.ndarray,
    suspended: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    first: int,
    out: np.ndarray,
) -> None:
    """Fill `out` float32 `[20, n_histories, n_sessions - first]`; no limit that day counts as not met."""
    for h in prange(len(start)):
        for t in range(start[h], stop[h]):
            column = out[:, h, t - first]
            column[13] = _sum(suspended[h], t, 20)
            column[14] = _sum(suspended[h], t, 60)
            column[15] = _present(close[h], t, 60)
            if math.isnan(close[h, t]):
                column[:13] = np.nan
                column[16:] = np.nan
            else:
                _walk(high[h], low[h], close[h], up[h], down[h], t, column)
                crowded = column[2] > 0
                column[18] = _opened_below(open_[h], close[h], pre_close[h], up[h], t) if crowded else np.nan
                column[19] = _position(close[h, t], down[h, t], up[h, t])


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
    up_closes = down_closes = up_touches = down_touches = streak = up_one_price = down_one_price = 0
    k = 0
    for w in range(len(_LENGTHS)):
        while k < _LENGTHS[w] and k <= t:
            j = t - k
            locked, fallen = abs(close[j] - up[j]) < _HALF_TICK, abs(close[j] - down[j]) < _HALF_TICK
            up_closes += locked
            down_closes += fallen
            up_one_price += locked and high[j] - low[j] < _HALF_TICK
            down_one_price += fallen and high[j] - low[j] < _HALF_TICK
            up_touches += abs(high[j] - up[j]) < _HALF_TICK
            down_touches += abs(low[j] - down[j]) < _HALF_TICK
            if locked and streak == k and k < _STREAK:
                streak += 1
            k += 1
        out[w], out[3 + w], out[6 + w], out[9 + w] = up_closes, down_closes, up_touches, down_touches
    out[12], out[16], out[17] = streak, up_one_price, down_one_price


@njit(cache=True, error_model="numpy")
def _opened_below(open_: np.ndarray, close: np.ndarray, pre_close: np.ndarray, up: np.ndarray, t: int) -> float:
    """`pre_close` is the reference after an ex-date, so that a dividend is not an open below the limit."""
    locked = below = 0
    opened = followed = False
    for j in range(t, max(t - _CROWD, -1), -1):
        if math.isnan(close[j]):
            continue
        if followed and abs(close[j] - up[j]) < _HALF_TICK:
            locked += 1
            below += opened
        opened, followed = open_[j] < pre_close[j] - _HALF_TICK, True
    return below / locked if locked > 0 else np.nan


@njit(cache=True, error_model="numpy")
def _position(close: float, down: float, up: float) -> float:
    return (close - down) / (up - down) if up > down else np.nan


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
        v["open"],
        v["high"],
        v["low"],
        v["close"],
        v["pre_close"],
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
