"""Returns, their split into night and day, volatility, drawdown, streaks and liquidity of one instrument."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from pipeline.features.bar import sign
from pipeline.features.history import History
from pipeline.features.spec import Family, Feature

_CLOSE = ("close", "factor")
_SPLIT = ("open", "close", "factor")
_AMOUNT = (*_CLOSE, "amount")
_TURNOVER = (*_CLOSE, "turnover")
_SHADOW = ("open", "high", "low", "close", "amount")
_LENGTHS = np.array([1, 5, 20, 60])
_DRAWDOWN = 20
_STREAK = 10
_SHADOWS = 5


def enough(length: int) -> int:
    """Observations a window of `length` must hold: half of it, rounded up."""
    return (length + 1) // 2


def _one(
    name: str, inputs: tuple[str, ...], lookback: int, min_bars: int, unit: str, meaning: str
) -> Feature:
    return Feature(name, "returns", inputs, lookback, min_bars, "instrument", unit, meaning)


def _features() -> tuple[Feature, ...]:
    return (
        *(
            _one(
                f"return_{n}",
                _CLOSE,
                n + 1,
                2,
                "fraction",
                f"adjusted close over that {n} sessions ago, minus 1",
            )
            for n in (1, 5, 20, 60)
        ),
        *(
            _one(
                f"overnight_return_{n}",
                _SPLIT,
                n + 1,
                enough(n) + 1,
                "log",
                f"sum of ln(open / previous close), {n} sessions",
            )
            for n in (1, 5, 20)
        ),
        *(
            _one(
                f"intraday_return_{n}", _SPLIT, n, enough(n), "log", f"sum of ln(close / open), {n} sessions"
            )
            for n in (1, 5, 20)
        ),
        *(
            _one(
                f"realised_volatility_{n}",
                _CLOSE,
                n + 1,
                enough(n) + 1,
                "log",
                f"root mean square of log returns, {n} sessions",
            )
            for n in (5, 20, 60)
        ),
        _one(
            "max_drawdown_20",
            _CLOSE,
            _DRAWDOWN,
            enough(_DRAWDOWN),
            "fraction",
            "deepest fall of the close below an earlier close, 20 sessions; at most 0",
        ),
        _one(
            "amihud_20",
            _AMOUNT,
            21,
            enough(20) + 1,
            "1/million CNY",
            "mean of |return| over traded amount, 20 sessions (Amihud 2002)",
        ),
        _one(
            "amount_expansion_5",
            _AMOUNT,
            20,
            enough(20),
            "ratio",
            "mean amount of 5 sessions over that of 20",
        ),
        _one("turnover_5", _TURNOVER, 5, enough(5), "fraction", "mean turnover, 5 sessions"),
        _one("turnover_20", _TURNOVER, 20, enough(20), "fraction", "mean turnover, 20 sessions"),
        _one(
            "drawdown_recovery_20",
            _CLOSE,
            _DRAWDOWN,
            enough(_DRAWDOWN),
            "share",
            "of the fall of max_drawdown_20, how much the close has regained, at most 1; 1 when there was none",
        ),
        _one(
            "close_streak_10",
            _CLOSE,
            _STREAK + 1,
            2,
            "sessions",
            "closes in one direction in a row up to today, at most 10; negative when they fell, 0 when unchanged",
        ),
        _one(
            "upper_shadow_5",
            _SHADOW,
            _SHADOWS,
            enough(_SHADOWS),
            "share",
            "amount-weighted mean of upper shadow over (high - low), 5 sessions",
        ),
    )


@njit(cache=True, error_model="numpy")
def _mean(total: float, n: int, needed: int) -> float:
    return total / n if n >= needed else np.nan


@njit(cache=True, parallel=True, error_model="numpy")
def _returns(
    open_: np.ndarray,
    high: np.ndarray,
    low: np.ndarray,
    close: np.ndarray,
    factor: np.ndarray,
    amount: np.ndarray,
    turnover: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    first: int,
    out: np.ndarray,
) -> None:
    """Fill `out` float32 `[21, n_histories, n_sessions - first]`; a session without a close has no values."""
    for h in prange(len(start)):
        adjusted = close[h] * factor[h]
        for t in range(start[h], stop[h]):
            if math.isnan(adjusted[t]):
                out[:, h, t - first] = np.nan
            else:
                column = out[:, h, t - first]
                _walk(open_[h], close[h], factor[h], adjusted, amount[h], turnover[h], t, column)
                column[19] = _streak(adjusted, t)
                column[20] = _upper_shadow(open_[h], high[h], low[h], close[h], amount[h], t)


@njit(cache=True, error_model="numpy")
def _walk(
    open_: np.ndarray,
    close: np.ndarray,
    factor: np.ndarray,
    adjusted: np.ndarray,
    amount: np.ndarray,
    turnover: np.ndarray,
    t: int,
    out: np.ndarray,
) -> None:
    """From bar `t` back through 60 sessions, harvesting the windows of 1, 5 and 20 on the way."""
    bars = pairs = nights = priced = amounts = turnovers = 0
    night = day = squares = illiquidity = total_amount = total_turnover = mean_amount = 0.0
    lowest, drawdown, peak, trough = np.inf, 0.0, np.nan, np.nan
    k = 0
    for w in range(len(_LENGTHS)):
        length = _LENGTHS[w]
        needed = (length + 1) // 2
        while k < length and k <= t:
            j = t - k
            k += 1
            if not math.isnan(turnover[j]):
                turnovers += 1
                total_turnover += turnover[j]
            if amount[j] > 0:
                amounts += 1
                total_amount += amount[j]
            if math.isnan(adjusted[j]):
                continue
            if not math.isnan(open_[j]):
                bars += 1
                day += math.log(close[j] / open_[j])
            if k <= _DRAWDOWN:
                lowest = min(lowest, adjusted[j])
                fall = lowest / adjusted[j] - 1.0
                if fall < drawdown:
                    drawdown, peak, trough = fall, adjusted[j], lowest
            if j == 0 or math.isnan(adjusted[j - 1]):
                continue
            step = math.log(adjusted[j] / adjusted[j - 1])
            pairs += 1
            squares += step * step
            if not math.isnan(open_[j]):
                nights += 1
                night += math.log(open_[j] * factor[j] / adjusted[j - 1])
            if amount[j] > 0:
                priced += 1
                illiquidity += abs(adjusted[j] / adjusted[j - 1] - 1.0) / amount[j]
        out[w] = adjusted[t] / adjusted[t - length] - 1.0 if t >= length else np.nan
        if w < 3:
            out[4 + w] = night if nights >= needed else np.nan
            out[7 + w] = day if bars >= needed else np.nan
        if w > 0:
            out[9 + w] = math.sqrt(_mean(squares, pairs, needed))
        if w == 1:
            mean_amount = _mean(total_amount, amounts, needed)
            out[16] = _mean(total_turnover, turnovers, needed)
        if w == 2:
            out[13] = drawdown if bars >= needed else np.nan
            out[14] = 1e6 * _mean(illiquidity, priced, needed)
            out[15] = mean_amount / _mean(total_amount, amounts, needed)
            out[17] = _mean(total_turnover, turnovers, needed)
            regained = min((adjusted[t] - trough) / (peak - trough), 1.0) if drawdown < 0.0 else 1.0
            out[18] = regained if bars >= needed else np.nan


@njit(cache=True, error_model="numpy")
def _streak(adjusted: np.ndarray, t: int) -> float:
    """NaN without a close today and one the session before; a missing bar ends the run."""
    if t == 0 or math.isnan(adjusted[t - 1]):
        return np.nan
    direction = sign(adjusted[t] - adjusted[t - 1])
    run = 0
    while run < min(_STREAK, t) and direction * (adjusted[t - run] - adjusted[t - run - 1]) > 0:
        run += 1
    return direction * run


@njit(cache=True, error_model="numpy")
def _upper_shadow(
    open_: np.ndarray, high: np.ndarray, low: np.ndarray, close: np.ndarray, amount: np.ndarray, t: int
) -> float:
    """A bar at one price has no shadow."""
    bars, total, shadow = 0, 0.0, 0.0
    for j in range(max(t - _SHADOWS + 1, 0), t + 1):
        body = max(open_[j], close[j])
        if amount[j] > 0 and low[j] <= body <= high[j]:
            bars += 1
            total += amount[j]
            if high[j] > low[j]:
                shadow += amount[j] * (high[j] - body) / (high[j] - low[j])
    return shadow / total if bars >= (_SHADOWS + 1) // 2 else np.nan


def _compute(history: History) -> np.ndarray:
    v = history.values
    out = history.empty(len(FAMILY.features))
    _returns(
        v["open"],
        v["high"],
        v["low"],
        v["close"],
        v["factor"],
        v["amount"],
        v["turnover"],
        history.start,
        history.stop,
        history.first,
        out,
    )
    return history.at_rows(out)


FAMILY = Family("returns", _features(), _compute)
