"""The planted signal: what it reads from the past, and the drift by which it pays."""

from __future__ import annotations

import numba
import numpy as np

from pipeline.simulation.walk import Walk

HORIZON = 3  # sessions after the signal, in whose trading hours its drift falls
REVERSAL_SESSIONS, VOLUME_SESSIONS = 5, 20
VOLUME_WEIGHT = 0.7


@numba.njit(cache=True)
def drift(signal: np.ndarray, t: int, i: int, strength: float) -> float:
    """Each of the last `HORIZON` signals pays an equal part of its strength inside today's session."""
    total = 0.0
    for back in range(1, min(HORIZON, t) + 1):
        value = signal[t - back, i]
        if not np.isnan(value):
            total += value
    return strength * total / HORIZON


@numba.njit(cache=True)
def plant(t: int, first: np.ndarray, walk: Walk) -> None:
    """signal[t] = z(-z(5-session return) - 0.7 z(log volume over its 20-session mean)), cross-sectional."""
    if t < VOLUME_SESSIONS:
        return
    n, past = walk.traded.shape[1], t - REVERSAL_SESSIONS
    reversal, quiet = np.full(n, np.nan), np.full(n, np.nan)
    for i in range(n):
        if not walk.traded[t, i] or t - first[i] < VOLUME_SESSIONS:
            continue
        total = 0.0
        for back in range(VOLUME_SESSIONS):
            total += walk.lots[t - back, i] / walk.multiple[t - back, i]
        now, then = walk.close[t, i] * walk.factor[t, i], walk.close[past, i] * walk.factor[past, i]
        reversal[i] = -np.log(now / then)
        quiet[i] = -np.log(walk.lots[t, i] / walk.multiple[t, i] * VOLUME_SESSIONS / total)
    walk.signal[t] = _standardised(_standardised(reversal) + VOLUME_WEIGHT * _standardised(quiet))


@numba.njit(cache=True)
def _standardised(values: np.ndarray) -> np.ndarray:
    """Cross-sectional z-scores cut at 3; NaN stays."""
    count, total, square = 0, 0.0, 0.0
    for value in values:
        if not np.isnan(value):
            count += 1
            total += value
            square += value * value
    if count < 5:
        return np.full(len(values), np.nan)
    mean = total / count
    deviation = np.sqrt(max(square / count - mean * mean, 1e-18))
    out = np.empty(len(values))
    for i in range(len(values)):
        z = (values[i] - mean) / deviation
        out[i] = z if np.isnan(z) else min(max(z, -3.0), 3.0)
    return out
