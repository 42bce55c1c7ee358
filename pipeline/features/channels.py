"""The channels of Path A: what each minute bar of a day shows, declared as features and computed in one pass.

A channel is a feature with one value per bar: `CHANNEL_FEATURES` declares it once, `channel_family` makes
each of its bars a column, so that the laws judge it like any other. Not here: the table `paths` (`compute`),
and how a model scales and clips channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numba import njit, prange

from pipeline.errors import BadInput
from pipeline.features.bar import close_before, edge_bars, location, log_ratio, present, sign, typical
from pipeline.features.history import History
from pipeline.features.spec import Family, Feature

_DECLARED = (
    ("bar_return", "log", "ln(close / close of the bar before), of the first bar ln(close / open)"),
    ("amount_share", "share", "amount over the day's"),
    ("volume_share", "share", "amount over typical price, over the day's sum of it: the bars carry no volume"),
    ("high_low_range", "log", "ln(high / low)"),
    ("close_location", "share", "close between low and high; 0.5 when they are equal"),
    ("realised_volatility", "log", "root mean square of the bar returns so far"),
    ("first_session_pressure", "share", "amount_share with the sign of bar_return in the first half hour, else 0"),
    ("late_session_reversal", "log", "bar_return against the day's direction until then in the last half hour, else 0"),
)
CHANNEL_FEATURES: tuple[Feature, ...] = tuple(
    Feature(name, "paths", ("bars",), 1, 0, "instrument", unit, meaning) for name, unit, meaning in _DECLARED
)
"""Every channel in stored order; `family` is the table that holds it."""
CHANNELS: tuple[str, ...] = tuple(channel.name for channel in CHANNEL_FEATURES)


def channel_family(n_bars: int, names: Sequence[str] = CHANNELS) -> Family:
    """Each bar of each named channel as a feature of its own: `bar_return_00`, `bar_return_01`, ….

    Parameters
    ----------
    n_bars : int
        Bars a session.
    names : sequence of str
        Channels, in the order of the columns.

    Raises
    ------
    BadInput
        A name that is no channel.
    """
    unknown = [name for name in names if name not in CHANNELS]
    if unknown or not names:
        raise BadInput("a channel of Path A is registered", unknown or "no channel", f"one of {list(CHANNELS)}")
    chosen = [CHANNELS.index(name) for name in names]
    features = tuple(
        replace(channel, name=f"{channel.name}_{bar:02d}", meaning=f"{channel.meaning}; bar {bar}")
        for channel in (CHANNEL_FEATURES[c] for c in chosen)
        for bar in range(n_bars)
    )

    def compute(history: History) -> np.ndarray:
        if history.bars.shape[1] == 0:
            return np.full((len(features), len(history.rows)), np.nan, np.float32)
        values = channels(history.bars)[:, :, chosen]
        return np.ascontiguousarray(values.transpose(2, 1, 0)).reshape(len(features), -1)

    return Family("paths", features, compute)


@njit(cache=True, parallel=True, error_model="numpy")
def channels(bars: np.ndarray) -> np.ndarray:
    """float32 `[n_rows, n_bars, len(CHANNELS)]` from `[n_rows, n_bars, 5]`; an absent bar is NaN.

    Any number of bars; without any amount a bar's shares are 0.
    """
    n_rows, n, _ = bars.shape
    out = np.full((n_rows, n, len(CHANNELS)), np.nan, np.float32)
    for r in prange(n_rows):
        _day(bars[r], out[r])
    return out


@njit(cache=True, error_model="numpy")
def _day(bars: np.ndarray, out: np.ndarray) -> None:
    """Fill `out` `[n_bars, len(CHANNELS)]` of one instrument's day."""
    n = len(bars)
    edge = edge_bars(n)
    total = volume = squares = 0.0
    for b in range(n):
        if present(bars[b]):
            total += bars[b, 4]
            volume += bars[b, 4] / typical(bars[b])
    before_late = sign(log_ratio(close_before(bars, n - edge), close_before(bars, 0)))
    held = 0
    for b in range(n):
        if not present(bars[b]):
            continue
        held += 1
        step = log_ratio(bars[b, 3], close_before(bars, b))
        squares += step * step
        share = bars[b, 4] / total if total > 0 else 0.0
        out[b, 0], out[b, 1] = step, share
        out[b, 2] = bars[b, 4] / typical(bars[b]) / volume if volume > 0 else 0.0
        out[b, 3] = log_ratio(bars[b, 1], bars[b, 2])
        out[b, 4] = location(bars[b, 3], bars[b, 2], bars[b, 1])
        out[b, 5] = math.sqrt(squares / held)
        out[b, 6] = sign(step) * share if b < edge else 0.0
        out[b, 7] = -before_late * step if b >= n - edge else 0.0
