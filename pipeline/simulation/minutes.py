"""Five-minute bars of one session: a bridge from open to close, U-shaped in volume. The day is their sum."""

from __future__ import annotations

import numba
import numpy as np

from pipeline.simulation import draws

BARS = 48
LOCKED_VOLUME = 0.15  # share of the usual volume that trades while a bar is locked at a limit


def _u_shape() -> np.ndarray:
    """Share of the day's volume per bar: high after the open, lowest before lunch, rising into the close."""
    x = np.linspace(-1.0, 1.0, BARS)
    shape = 0.55 + 0.9 * x**4 + 0.35 * np.exp(-(np.arange(BARS)) / 3.0)
    return shape / shape.sum()


SHAPE = _u_shape()
ELAPSED = np.cumsum(SHAPE)
ROOT = np.sqrt(SHAPE)
# Labels are bar ends in minutes after midnight: 09:35..11:30 and 13:05..15:00.
BAR_ENDS = np.concatenate([np.arange(9 * 60 + 35, 11 * 60 + 31, 5), np.arange(13 * 60 + 5, 15 * 60 + 1, 5)])


@numba.njit(cache=True)
def fill_day(
    state: np.uint64,
    start: float,
    end: float,
    width: float,
    lots: float,
    lower: int,
    upper: int,
    out: np.ndarray,
) -> None:
    """The bars of one instrument's session.

    Parameters
    ----------
    state : uint64
        First state of the day's stream.
    start, end, width : float
        Latent price at the open and the close, deviation of the free path, in ticks; limits cut them.
    lots : float
        Volume to expect, in lots of 100 shares; each bar trades at least one.
    lower, upper : int
        Daily limits in ticks.
    out : int64 [48, 6]
        Open, high, low, close in ticks, lots, and amount in CNY: lots x ticks is CNY, so that sums are exact.
    """
    walk = 0.0
    for k in range(BARS):
        state = draws.advance(state)
        walk += draws.rough_normal(state) * ROOT[k]
        out[k, 3] = np.int64(walk * 1_048_576.0)  # parked as fixed point until the bridge's end is known
    close = min(max(int(np.floor(start + 0.5)), lower), upper)
    for k in range(BARS):
        free = (out[k, 3] / 1_048_576.0) - ELAPSED[k] * walk
        price = start + (end - start) * ELAPSED[k] + width * free
        opened = close
        close = min(max(int(np.floor(price + 0.5)), lower), upper)
        state = draws.advance(state)
        reach = width * ROOT[k] * 1.2
        above = int(draws.uniform(state) * reach + 0.5)
        state = draws.advance(state)
        below = int(draws.uniform(state) * reach + 0.5)
        high = min(max(opened, close) + above, upper)
        low = max(min(opened, close) - below, lower)
        if price > upper and opened == upper:
            low = upper
        elif price < lower and opened == lower:
            high = lower
        state = draws.advance(state)
        traded = lots * SHAPE[k] * (0.5 + draws.uniform(state))
        if low == high and low in (upper, lower):
            traded *= LOCKED_VOLUME
        volume = 1 + int(traded)
        out[k, 0], out[k, 1], out[k, 2], out[k, 3], out[k, 4] = opened, high, low, close, volume
        out[k, 5] = (volume * (opened + high + low + close) + 2) // 4
