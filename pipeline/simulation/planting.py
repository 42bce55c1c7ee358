"""The planted signals: what each reads from the past, and the drift by which it pays.

Daily: a 5-session reversal on quiet volume, linear in daily features. Intraday: moves inside one session that volume
confirms, a product of two columns within the bars that no daily column shows. Regime: the daily signal times a state
between -1 and 1 that shows in everybody's volume, so that over all sessions together no feature predicts.
"""

from __future__ import annotations

import numba
import numpy as np

from pipeline.simulation import draws
from pipeline.simulation.minutes import BARS, SHAPE
from pipeline.simulation.walk import Walk

PLANTS = ("daily", "intraday", "regime")
DAILY, INTRADAY, REGIME = range(len(PLANTS))
HORIZON = 3  # sessions after the signal, in whose trading hours its drift falls
REVERSAL_SESSIONS, VOLUME_SESSIONS = 5, 20
VOLUME_WEIGHT = 0.7
REGIME_SESSIONS = 50  # from one busy stretch to the next, on average


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
def plant(kind: int, t: int, first: np.ndarray, confirmed: np.ndarray, walk: Walk) -> None:
    """Fill `walk.signal[t]` for names traded today and listed for `VOLUME_SESSIONS` sessions.

    Parameters
    ----------
    kind : int
        Position in `PLANTS`.
    first : int [instruments]
        Ordinal of the first session.
    confirmed : float [instruments]
        Today's `confirmed_move`; read by an intraday plant alone.
    """
    if t < VOLUME_SESSIONS:
        return
    ready = walk.traded[t] & (t - first >= VOLUME_SESSIONS)
    if kind == INTRADAY:
        walk.signal[t] = _standardised(np.where(ready, confirmed, np.nan))
    else:
        walk.signal[t] = walk.regime[t] * _quiet_reversal(t, ready, walk)


@numba.njit(cache=True)
def confirmed_move(bars: np.ndarray) -> float:
    """sum_k r_k (v_k / V * S / s_k - 1): returns of a session's bars, weighted by their volume in excess of the usual.

    r_k is the bar's close over its open less 1, v_k its volume, s_k its usual share of a day's volume, V and S their
    sums. Weighted by s_k the excesses add up to 0, so that neither the day's return nor its volume shows. Only bars
    whose high is above their low count: little trades while a limit locks the price, which would lend every other bar
    of that day an excess in the direction of the limit (a rank correlation of 0.09 with closes at the limit).

    Parameters
    ----------
    bars : int64 [48, 6]
        As `minutes.fill_day` makes them.
    """
    volume, usual = 0.0, 0.0
    for k in range(BARS):
        if bars[k, 1] > bars[k, 2]:
            volume += bars[k, 4]
            usual += SHAPE[k]
    total = 0.0
    for k in range(BARS):
        if bars[k, 1] > bars[k, 2]:
            total += (bars[k, 3] / bars[k, 0] - 1.0) * (bars[k, 4] * usual / (volume * SHAPE[k]) - 1.0)
    return total


def regimes(seed: int, name: int, n_sessions: int) -> np.ndarray:
    """float64 [sessions] in [-1, 1]: a sine whose pace is drawn anew each session; both signs are equally frequent.

    Parameters
    ----------
    name : int
        Stream of the draws.
    """
    ordinals = np.arange(n_sessions + 1)
    drawn = draws.uniforms(seed, name, ordinals, np.zeros_like(ordinals))
    return np.sin(2.0 * np.pi * (drawn[0] + np.cumsum(0.5 + drawn[1:]) / REGIME_SESSIONS))


@numba.njit(cache=True)
def _quiet_reversal(t: int, ready: np.ndarray, walk: Walk) -> np.ndarray:
    """z(-z(5-session return) - 0.7 z(log volume over its 20-session mean)), cross-sectional."""
    n, past = len(ready), t - REVERSAL_SESSIONS
    reversal, quiet = np.full(n, np.nan), np.full(n, np.nan)
    for i in range(n):
        if not ready[i]:
            continue
        total = 0.0
        for back in range(VOLUME_SESSIONS):
            total += walk.lots[t - back, i] / walk.multiple[t - back, i]
        now, then = walk.close[t, i] * walk.factor[t, i], walk.close[past, i] * walk.factor[past, i]
        reversal[i] = -np.log(now / then)
        quiet[i] = -np.log(walk.lots[t, i] / walk.multiple[t, i] * VOLUME_SESSIONS / total)
    return _standardised(_standardised(reversal) + VOLUME_WEIGHT * _standardised(quiet))


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
