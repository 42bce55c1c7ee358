"""Returns, volatility, range, breakouts and sweeps of one instrument's minute bars."""

from __future__ import annotations

import numpy as np

from pipeline.features.minutes import windows
from pipeline.features.minutes.history import MinuteHistory
from pipeline.features.minutes.spec import MinuteFamily, MinuteFeature

_RETURNS = (1, 3, 5, 15, 30, 60)
_VOLATILITIES = (5, 15, 60)
_RANGES = (1, 15, 60)
_LEVELS = (60, 240)
_SHORT = "fewer minutes than the look-back in the segment"


def _one(
    name: str, meaning: str, unit: str, window: int, lookback: int, formula: str, missing: str = _SHORT
) -> MinuteFeature:
    return MinuteFeature(name, "price", meaning, unit, ("bars",), window, lookback, formula, "WINDOW_V1", missing)


def _event(name: str, n: int, meaning: str, formula: str) -> MinuteFeature:
    return _one(name, f"{meaning} of the {n} minutes before; 0 on most minutes", "bps", n + 1, n + 1, formula)


def _features() -> tuple[MinuteFeature, ...]:
    return (
        *(
            _one(f"ret_{n}m_bps", f"return over {n} minutes", "bps", n, n + 1, f"(close / close[-{n}] - 1) * 1e4")
            for n in _RETURNS
        ),
        *(
            _one(
                f"realized_vol_{n}m_bps",
                f"one-minute volatility over {n} minutes",
                "bps per minute",
                n,
                n + 1,
                f"sqrt(mean over {n} of ln(close / close[-1])^2) * 1e4",
            )
            for n in _VOLATILITIES
        ),
        _one(
            "vol_ratio_5m_60m",
            "volatility now against the hour's",
            "ratio",
            60,
            61,
            "realized_vol_5m_bps / realized_vol_60m_bps",
            f"{_SHORT}, or a flat hour",
        ),
        *(
            _one(
                f"range_{n}m_bps",
                f"range of {n} minutes",
                "bps",
                n,
                n,
                f"(max high - min low over {n}) / close * 1e4",
            )
            for n in _RANGES
        ),
        *(
            _one(
                f"close_location_{n}m",
                f"close in the range of {n} minutes, 0.5 when it is empty",
                "fraction",
                n,
                n,
                f"(close - min low) / (max high - min low) over {n}",
            )
            for n in _RANGES
        ),
        _one("upper_wick_1m_bps", "bar above its body", "bps", 1, 1, "(high - max(open, close)) / close * 1e4"),
        _one("lower_wick_1m_bps", "bar below its body", "bps", 1, 1, "(min(open, close) - low) / close * 1e4"),
        *(feature for n in _LEVELS for feature in _level_features(n)),
    )


def _level_features(n: int) -> tuple[MinuteFeature, ...]:
    up, down = f"H = max high over {n} before", f"L = min low over {n} before"
    return (
        _event(f"breakout_up_{n}m_bps", n, "close above the high", f"max(close / H - 1, 0) * 1e4, {up}"),
        _event(f"breakout_down_{n}m_bps", n, "close below the low", f"max(L / close - 1, 0) * 1e4, {down}"),
        _event(
            f"sweep_high_{n}m_bps",
            n,
            "high above, close back under the high",
            f"(high / H - 1) * 1e4 if high > H and close <= H else 0, {up}",
        ),
        _event(
            f"sweep_low_{n}m_bps",
            n,
            "low below, close back over the low",
            f"(L / low - 1) * 1e4 if low < L and close >= L else 0, {down}",
        ),
    )


def _compute(history: MinuteHistory) -> list[np.ndarray]:
    v, held = history.values, history.held
    close = v["close"]
    moves = windows.log_returns(close, held)
    returns = [(close / windows.lagged(close, held, n) - 1.0) * 1e4 for n in _RETURNS]
    # The first move of a segment is missing, so n full moves need n + 1 rows.
    volatility = [windows.root_mean_squares(moves, held, n) for n in _VOLATILITIES]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(volatility[-1] > 0, volatility[0] / volatility[-1], np.nan)
    spans = [windows.extremes(v["high"], v["low"], held, n, 0) for n in _RANGES]
    body_top, body_bottom = np.maximum(v["open"], close), np.minimum(v["open"], close)
    return [
        *returns,
        *volatility,
        ratio,
        *((top - bottom) / close * 1e4 for top, bottom in spans),
        *(_location(close, top, bottom) for top, bottom in spans),
        (v["high"] - body_top) / close * 1e4,
        (body_bottom - v["low"]) / close * 1e4,
        *(event for n in _LEVELS for event in _level_events(history, n)),
    ]


def _location(close: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(top == bottom, 0.5, (close - bottom) / (top - bottom))


def _level_events(history: MinuteHistory, n: int) -> tuple[np.ndarray, ...]:
    """Breakouts up and down, sweeps of the high and of the low, against the extremes of the `n` rows before."""
    v = history.values
    high, low, close = v["high"], v["low"], v["close"]
    top, bottom = windows.extremes(high, low, history.held, n, 1)
    return (
        np.maximum(close / top - 1.0, 0.0) * 1e4,
        np.maximum(bottom / close - 1.0, 0.0) * 1e4,
        np.where((high > top) & (close <= top), high / top - 1.0, top * 0.0) * 1e4,
        np.where((low < bottom) & (close >= bottom), bottom / low - 1.0, bottom * 0.0) * 1e4,
    )


FAMILY = MinuteFamily("price", _features(), _compute)
