"""One instrument's trading day from its minute bars: daily summaries, and the channels that Path A reads.

Missing bars are skipped; a day without minutes has no values. The first and the last session of a day are an
eighth of its bars: half an hour of 48 five-minute bars.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from pipeline.features.history import History
from pipeline.features.spec import Family, Feature

_SUMMARIES = (
    ("minute_volatility", "log", "root of the summed squares of log returns of the bars"),
    ("first_return", "log", "ln(close / first open) of the first half hour"),
    ("first_amount_share", "share", "amount of the first half hour over the day's"),
    ("last_return", "log", "log return of the last half hour"),
    ("last_amount_share", "share", "amount of the last half hour over the day's"),
    (
        "late_reversal",
        "log",
        "last_return against the direction of the day before it; positive when it turned",
    ),
    ("day_close_location", "share", "close between the day's low and high; 0.5 when they are equal"),
    ("day_range", "log", "ln(high / low) of the day"),
    ("vwap_deviation", "fraction", "close over the amount-weighted mean bar price, minus 1"),
    ("amount_concentration", "share", "sum of squared amount shares of the bars (Herfindahl)"),
)

CHANNELS = (
    "bar_return",
    "amount_share",
    "volume_share",
    "high_low_range",
    "close_location",
    "realised_volatility",
    "first_session_pressure",
    "late_session_reversal",
)


def _features() -> tuple[Feature, ...]:
    return tuple(
        Feature(name, "intraday", ("bars",), 1, 0, "instrument", unit, meaning)
        for name, unit, meaning in _SUMMARIES
    )


@njit(cache=True, error_model="numpy")
def _log_ratio(new: float, old: float) -> float:
    return math.log(new / old) if new > 0 and old > 0 else np.nan


@njit(cache=True, error_model="numpy")
def _sign(x: float) -> float:
    return 1.0 if x > 0 else (-1.0 if x < 0 else 0.0)


@njit(cache=True, error_model="numpy")
def _location(close: float, low: float, high: float) -> float:
    return (close - low) / (high - low) if high > low else 0.5


@njit(cache=True, error_model="numpy")
def _typical(bar: np.ndarray) -> float:
    """Mean of open, high, low, close: the price at which a bar's amount is taken to have traded."""
    return (bar[0] + bar[1] + bar[2] + bar[3]) / 4.0


@njit(cache=True, error_model="numpy")
def _close_before(bars: np.ndarray, b: int) -> float:
    """The newest close before bar `b`, or the first open when there is none."""
    for i in range(b - 1, -1, -1):
        if not math.isnan(bars[i, 3]):
            return bars[i, 3]
    for i in range(b, len(bars)):
        if not math.isnan(bars[i, 0]):
            return bars[i, 0]
    return np.nan


@njit(cache=True, error_model="numpy")
def _present(bar: np.ndarray) -> bool:
    return bar[0] > 0 and bar[1] > 0 and bar[2] > 0 and bar[3] > 0 and bar[4] >= 0


@njit(cache=True, error_model="numpy")
def _summary(bars: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` `[10]` from `[n_bars, 5]`."""
    n = len(bars)
    edge = n // 8
    total = early = late = squares = concentration = volume = 0.0
    high, low, close, held = -np.inf, np.inf, np.nan, 0
    for b in range(n):
        if not _present(bars[b]):
            continue
        held += 1
        step = _log_ratio(bars[b, 3], _close_before(bars, b))
        squares += step * step
        total += bars[b, 4]
        early += bars[b, 4] if b < edge else 0.0
        late += bars[b, 4] if b >= n - edge else 0.0
        concentration += bars[b, 4] ** 2
        volume += bars[b, 4] / _typical(bars[b])
        high, low, close = max(high, bars[b, 1]), min(low, bars[b, 2]), bars[b, 3]
    if held == 0:
        out[:] = np.nan
        return
    opening, before_late = _close_before(bars, 0), _close_before(bars, n - edge)
    last = _log_ratio(close, before_late)
    out[0] = math.sqrt(squares)
    out[1] = _log_ratio(_close_before(bars, edge), opening)
    out[3] = last
    out[5] = -_sign(_log_ratio(before_late, opening)) * last
    out[6], out[7] = _location(close, low, high), _log_ratio(high, low)
    traded = total > 0
    out[2], out[4] = early / total if traded else np.nan, late / total if traded else np.nan
    out[8] = close * volume / total - 1.0 if traded else np.nan
    out[9] = concentration / (total * total) if traded else np.nan


@njit(cache=True, parallel=True, error_model="numpy")
def _summaries(bars: np.ndarray, out: np.ndarray) -> None:
    for r in prange(len(bars)):
        _summary(bars[r], out[:, r])


@njit(cache=True, parallel=True, error_model="numpy")
def channels(bars: np.ndarray) -> np.ndarray:
    """float32 `[n_rows, n_bars, len(CHANNELS)]` from `[n_rows, n_bars, 5]`; an absent bar is NaN.

    Log return of the bar; its share of the day's amount, and of amount over typical price (the bars carry
    no volume); ln(high / low); close between low and high; root mean square of the bar returns so far;
    signed amount share in the first half hour, else 0; return against the direction so far in the last half
    hour, else 0.
    """
    n_rows, n, _ = bars.shape
    out = np.full((n_rows, n, 8), np.nan, np.float32)
    edge = n // 8
    for r in prange(n_rows):
        total = volume = squares = 0.0
        held = 0
        for b in range(n):
            if _present(bars[r, b]):
                total += bars[r, b, 4]
                volume += bars[r, b, 4] / _typical(bars[r, b])
        opening = _close_before(bars[r], 0)
        before_late = _sign(_log_ratio(_close_before(bars[r], n - edge), opening))
        for b in range(n):
            if not _present(bars[r, b]):
                continue
            held += 1
            step = _log_ratio(bars[r, b, 3], _close_before(bars[r], b))
            squares += step * step
            share = bars[r, b, 4] / total if total > 0 else 0.0
            out[r, b, 0], out[r, b, 1] = step, share
            out[r, b, 2] = bars[r, b, 4] / _typical(bars[r, b]) / volume if volume > 0 else 0.0
            out[r, b, 3] = _log_ratio(bars[r, b, 1], bars[r, b, 2])
            out[r, b, 4] = _location(bars[r, b, 3], bars[r, b, 2], bars[r, b, 1])
            out[r, b, 5] = math.sqrt(squares / held)
            out[r, b, 6] = _sign(step) * share if b < edge else 0.0
            out[r, b, 7] = -before_late * step if b >= n - edge else 0.0
    return out


def _compute(history: History) -> np.ndarray:
    out = np.full((len(FAMILY.features), len(history.rows)), np.nan, np.float32)
    if history.bars.shape[1]:
        _summaries(history.bars, out)
    return out


FAMILY = Family("intraday", _features(), _compute)
