"""Summaries of one instrument's trading day from its minute bars. The arithmetic of one bar is in `bar`.

Missing bars are skipped; a day without minutes has no values.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from pipeline.features.bar import close_before, edge_bars, location, log_ratio, present, sign, typical
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

def _features() -> tuple[Feature, ...]:
    return tuple(
        Feature(name, "intraday", ("bars",), 1, 0, "instrument", unit, meaning)
        for name, unit, meaning in _SUMMARIES
    )


@njit(cache=True, error_model="numpy")
def _summary(bars: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` `[10]` from `[n_bars, 5]`."""
    n = len(bars)
    edge = edge_bars(n)
    total = early = late = squares = concentration = volume = 0.0
    high, low, close, held = -np.inf, np.inf, np.nan, 0
    for b in range(n):
        if not present(bars[b]):
            continue
        held += 1
        step = log_ratio(bars[b, 3], close_before(bars, b))
        squares += step * step
        total += bars[b, 4]
        early += bars[b, 4] if b < edge else 0.0
        late += bars[b, 4] if b >= n - edge else 0.0
        concentration += bars[b, 4] ** 2
        volume += bars[b, 4] / typical(bars[b])
        high, low, close = max(high, bars[b, 1]), min(low, bars[b, 2]), bars[b, 3]
    if held == 0:
        out[:] = np.nan
        return
    opening, before_late = close_before(bars, 0), close_before(bars, n - edge)
    last = log_ratio(close, before_late)
    out[0] = math.sqrt(squares)
    out[1] = log_ratio(close_before(bars, edge), opening)
    out[3] = last
    out[5] = -sign(log_ratio(before_late, opening)) * last
    out[6], out[7] = location(close, low, high), log_ratio(high, low)
    traded = total > 0
    out[2], out[4] = early / total if traded else np.nan, late / total if traded else np.nan
    out[8] = close * volume / total - 1.0 if traded else np.nan
    out[9] = concentration / (total * total) if traded else np.nan


@njit(cache=True, parallel=True, error_model="numpy")
def _summaries(bars: np.ndarray, out: np.ndarray) -> None:
    for r in prange(len(bars)):
        _summary(bars[r], out[:, r])


def _compute(history: History) -> np.ndarray:
    out = np.full((len(FAMILY.features), len(history.rows)), np.nan, np.float32)
    if history.bars.shape[1]:
        _summaries(history.bars, out)
    return out


FAMILY = Family("intraday", _features(), _compute)
