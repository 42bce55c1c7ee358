"""The state of the market: one number a session, over the names eligible that day, the same for every row."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from pipeline.features.history import History
from pipeline.features.kernels import percentiles, session_moments
from pipeline.features.spec import Family, Feature

_CLOSE = ("close", "factor")
_WINDOWS = (1, 5, 20, 60)
_SPREAD = (1, 5, 20)
_BREADTH = (1, 5)
_TAIL = 0.3  # share of names at either end of the size sort
_VOLATILITY = 20
_HALF_TICK = 0.005


def _features() -> tuple[Feature, ...]:
    def one(name: str, inputs: tuple[str, ...], lookback: int, unit: str, meaning: str) -> Feature:
        return Feature(name, "regime", inputs, lookback, 0, "market", unit, meaning)

    return (
        *(one(f"market_return_{n}", _CLOSE, n + 1, "fraction", f"mean {n}-session return") for n in _WINDOWS),
        one(
            "market_volatility_20",
            _CLOSE,
            _VOLATILITY + 1,
            "fraction",
            "standard deviation of the mean return over 20 sessions, today's names",
        ),
        *(
            one(f"breadth_{n}", _CLOSE, n + 1, "share", f"names with a positive {n}-session return")
            for n in _BREADTH
        ),
        *(
            one(f"dispersion_{n}", _CLOSE, n + 1, "fraction", f"standard deviation of {n}-session returns")
            for n in _BREADTH
        ),
        *(
            one(
                f"style_size_{n}",
                (*_CLOSE, "circ_mv"),
                n + 1,
                "fraction",
                f"{n}-session return of the smallest 30% minus the largest 30%, sorted before it",
            )
            for n in _SPREAD
        ),
        one("market_turnover", ("turnover",), 1, "fraction", "mean turnover"),
        one("limit_up_share", ("close", "up_limit"), 1, "share", "names that closed at the upper limit"),
        one("limit_down_share", ("close", "down_limit"), 1, "share", "names that closed at the lower limit"),
        one(
            "risk_appetite",
            ("close", "up_limit", "down_limit"),
            1,
            "share",
            "limit_up_share minus limit_down_share",
        ),
    )


@njit(cache=True, parallel=True, error_model="numpy")
def _market_volatility(
    daily: np.ndarray, use: np.ndarray, history: np.ndarray, position: np.ndarray, starts: np.ndarray
) -> np.ndarray:
    """Standard deviation (ddof 1) over 20 sessions of the mean `daily` return of each session's used rows."""
    out = np.full(len(starts) - 1, np.nan)
    for s in prange(len(starts) - 1):
        means = np.empty(_VOLATILITY)
        n = 0
        for lag in range(_VOLATILITY):
            total, count = 0.0, 0
            for r in range(starts[s], starts[s + 1]):
                if use[r] and position[r] >= lag and not math.isnan(daily[history[r], position[r] - lag]):
                    total += daily[history[r], position[r] - lag]
                    count += 1
            if count > 0:
                means[n] = total / count
                n += 1
        if n < (_VOLATILITY + 1) // 2:
            continue
        centre, squares = 0.0, 0.0
        for i in range(n):
            centre += means[i] / n
        for i in range(n):
            squares += (means[i] - centre) ** 2
        out[s] = math.sqrt(squares / (n - 1))
    return out


def _daily(history: History) -> np.ndarray:
    """`[n_histories, n_sessions]` one-session returns."""
    close = history.adjusted("close")
    daily = np.full(close.shape, np.nan)
    daily[:, 1:] = close[:, 1:] / close[:, :-1] - 1.0
    return daily


def _flag(hit: np.ndarray, of: np.ndarray) -> np.ndarray:
    """1.0 where hit, 0.0 where not, NaN where `of` is absent."""
    return np.where(np.isnan(of), np.nan, hit.astype(np.float64))


def _compute(history: History) -> np.ndarray:
    use, starts = history.eligible, history.row_starts

    def mean(values: np.ndarray, also: np.ndarray = use) -> np.ndarray:
        return session_moments(values, use & also, starts)[0]

    def spread(n: int, size: np.ndarray) -> np.ndarray:
        return mean(changes[n], size <= _TAIL) - mean(changes[n], size > 1.0 - _TAIL)

    changes = {n: history.change(n) for n in _WINDOWS}
    sizes = percentiles(np.stack([history.lagged("circ_mv", n) for n in _SPREAD]), use, starts)
    close = history.lagged("close")
    up = mean(_flag(np.abs(close - history.lagged("up_limit")) < _HALF_TICK, close))
    down = mean(_flag(np.abs(close - history.lagged("down_limit")) < _HALF_TICK, close))
    columns = [
        *(mean(changes[n]) for n in _WINDOWS),
        _market_volatility(_daily(history), use, history.row_history, history.row_position, starts),
        *(mean(_flag(changes[n] > 0, changes[n])) for n in _BREADTH),
        *(session_moments(changes[n], use, starts)[1] for n in _BREADTH),
        *(spread(n, size) for n, size in zip(_SPREAD, sizes, strict=True)),
        mean(history.lagged("turnover")),
        up,
        down,
        up - down,
    ]
    return np.stack([history.per_session(column) for column in columns]).astype(np.float32)


FAMILY = Family("regime", _features(), _compute)
