"""Returns, their split into night and day, volatility, drawdown and liquidity of one instrument."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from pipeline.features.history import History
from pipeline.features.spec import Family, Feature

_CLOSE = ("close", "factor")
_SPLIT = ("open", "close", "factor")
_AMOUNT = (*_CLOSE, "amount")
_TURNOVER = (*_CLOSE, "turnover")
_LENGTHS = np.array([1, 5, 20, 60])
_DRAWDOWN = 20


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
    )


@njit(cache=True, error_model="numpy")
def _mean(total: float, n: int, needed: int) -> float:
    return total / n if n >= needed else np.nan


@njit(cache=True, parallel=True, error_model="numpy")
def _returns(
    open_: np.ndarray,
    close: np.ndarray,
    factor: np.ndarray,
    amount: np.ndarray,
    turnover: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    first: int,
    out: np.ndarray,
) -> None:
    """Fill `out` float32 `[18, n_histories, n_sessions - first]`; a session without a close has no values."""
    for h in prange(len(start)):
        adjusted = close[h] * factor[h]
        for t in range(start[h], stop[h]):
            if math.isnan(adjusted[t]):
                out[:, h, t - first] = np.nan
            else:
                _walk(
                    open_[h], close[h], factor[h], adjusted, amount[h], turnover[h], t, out[:, h, t - first]
                )


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
    lowest, drawdown = np.inf, 0.0
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
                drawdown = min(drawdown, lowest / adjusted[j] - 1.0)
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


def _compute(history: History) -> np.ndarray:
    v = history.values
    out = history.empty(len(FAMILY.features))
    _returns(
        v["open"],
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
