"""Books of a simulated perpetual: 20 levels as each minute ends, any stretch of minutes by itself.

Sizes lean with the pressure, and the side that the price came from fills up: so depth imbalance tells the pressure
now, and order-flow imbalance, which differences leave, tells it too.
"""

from __future__ import annotations

import numba
import numpy as np

from pipeline.simulation import draws
from pipeline.simulation.perpetual_profiles import Contract
from pipeline.simulation.perpetual_walk import PerpetualWalk, normal
from pipeline.tables.binance import BOOK_LEVELS

BOOK, LEVEL, STAMP = range(110, 113)  # stream names
# Recorded books of BTCUSDT: 3 ticks between levels, 3 BTC at the best quotes, a tenth of it behind.
GAP_TICKS = 2.4
BEST_SHARE, BEHIND_SHARE = 0.05, 0.012  # of a minute's median volume
SIZE_NOISE = 0.8
LEAN_PRESSURE, LEAN_SHOCK, LEAN_NOISE = 0.50, 0.80, 0.20
THIN = 0.35  # depth falls with volatility
STAMP_FROM, STAMP_WITHIN = 59_000_000, 999_000  # microseconds into the minute


def book_levels(seed: int, who: int, contract: Contract, walk: PerpetualWalk, minutes: np.ndarray) -> np.ndarray:
    """int64 [4, 20, minutes]: bid price (ticks), bid size (steps), ask price, ask size, best level first.

    The best quotes bracket the close; a minute's book depends on the walk at that minute alone.
    """
    out = np.empty((4, BOOK_LEVELS, len(minutes)), dtype=np.int64)
    _fill(seed, who, contract.turnover * contract.steps, walk, minutes, out)
    return out


def stamps(seed: int, who: int, minutes: np.ndarray) -> np.ndarray:
    """Microseconds into its minute at which each book was taken."""
    drawn = draws.uniforms(seed, STAMP, minutes, np.full(len(minutes), who))
    return STAMP_FROM + (drawn * STAMP_WITHIN).astype(np.int64)


@numba.njit(cache=True)
def _fill(seed: int, who: int, turnover: float, walk: PerpetualWalk, minutes: np.ndarray, out: np.ndarray) -> None:
    for k in range(len(minutes)):
        t = minutes[k]
        state = draws.stream(seed, BOOK, t, who)
        lean = LEAN_PRESSURE * walk.pressure[t] + LEAN_SHOCK * np.tanh(walk.shock[t]) + LEAN_NOISE * normal(state)
        depth = turnover * np.exp(-THIN * walk.heat[t] + 0.2 * normal(state + np.uint64(7)))
        # The last trade was at the bid or at the ask.
        bid = walk.close[t] - (walk.spread[t] if draws.uniform(state + np.uint64(14)) < 0.5 else 0)
        levels = draws.stream(seed, LEVEL, t, who)
        _side(levels, bid, -1, depth * np.exp(lean), out[0, :, k], out[1, :, k])
        _side(levels + np.uint64(1), bid + walk.spread[t], 1, depth * np.exp(-lean), out[2, :, k], out[3, :, k])


@numba.njit(cache=True)
def _side(state: np.uint64, best: int, step: int, depth: float, price: np.ndarray, size: np.ndarray) -> None:
    """One side from its best price outwards; exponential gaps, log-normal sizes, at least one step."""
    at = best
    for i in range(len(price)):
        state = draws.advance(state)
        if i > 0:
            at += step * (1 + int(-np.log(draws.uniform(state)) * GAP_TICKS))
            state = draws.advance(state)
        share = BEST_SHARE if i == 0 else BEHIND_SHARE
        price[i] = at
        size[i] = 1 + int(depth * share * np.exp(SIZE_NOISE * draws.rough_normal(state)))
