"""The walk of a simulated perpetual, minute by minute: volatility, order-flow pressure, bars, taker flow, spreads.

Nothing here follows from the pressure but taker flow and, where a strength is planted, drift; books read it again.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numba
import numpy as np

from pipeline.simulation import draws
from pipeline.simulation.perpetual_profiles import MINUTES_A_DAY, Contract, PerpetualProfile

PRICE, VOLATILITY, PRESSURE, RANGE, FLOW, START = range(100, 106)  # stream names
WEEK = 7 * MINUTES_A_DAY

# Bps a minute, root mean square. BTCUSDT's spot minutes of 2023 have 5.9, futures in busier years more.
TYPICAL_VOLATILITY = 6.5
# Log volatility is season + a slow and a quick AR(1): deviations, and minutes until half is forgotten.
SLOW, SLOW_HALF_LIFE = 0.5, 3.0 * MINUTES_A_DAY
QUICK, QUICK_HALF_LIFE = 0.42, 50.0
LARGEST_SHOCK = 12.0
INSIDE = 0.7  # volatility of the path inside a minute, of the minute's own

PRESSURE_HALF_LIFE = 30.0
CALM = 2.0  # pressure below this pays nothing: one minute in 22 has more
# Taker imbalance is tanh of these times pressure, shock and noise: deviation 0.40, correlation 0.37 with the minute's
# return, as in real minutes. The shock is news to the minute itself, so that flow alone forecasts nothing.
FLOW_PRESSURE, FLOW_SHOCK, FLOW_NOISE = 0.19, 0.20, 0.40
MEMORY = 0.86  # of log volume beyond volatility's part


class PerpetualWalk(NamedTuple):
    """One value a minute of one symbol; prices in ticks, sizes in steps.

    `heat` is the log of volatility over its typical value, `shock` the return's noise in deviations, `pressure` the
    planted signal. `still` marks minutes without a trade.
    """

    open: np.ndarray
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray
    spread: np.ndarray
    volume: np.ndarray
    taker: np.ndarray
    trades: np.ndarray
    heat: np.ndarray
    shock: np.ndarray
    pressure: np.ndarray
    still: np.ndarray


def place(symbol: str) -> int:
    """The number under which a symbol draws: from its name, so that symbols beside it change nothing."""
    return zlib.crc32(symbol.encode())


def walk_minutes(profile: PerpetualProfile, symbol: str, contract: Contract, still: np.ndarray,
                 strength: float) -> PerpetualWalk:
    """All minutes of a symbol in order.

    Parameters
    ----------
    still : bool [minutes]
        Minutes without a trade.
    strength : float
        Bps that a unit of pressure beyond `CALM` pays over the next `horizon` minutes.
    """
    n = profile.days * MINUTES_A_DAY
    whole, real = np.empty((8, n), dtype=np.int32), np.empty((3, n))
    walk = PerpetualWalk._make([*whole, *real, still])
    monday = profile.first_day.weekday() * MINUTES_A_DAY
    grid = np.array([contract.price * contract.ticks, contract.turnover * contract.steps,
                     contract.trade * contract.steps])
    _walk(profile.seed, place(symbol), monday, grid, declining(profile.horizon), strength, walk)
    return walk


def declining(horizon: int) -> np.ndarray:
    """Share of the pay that falls into the 1st, 2nd, … minute after a pressure; cubic, nothing beyond `horizon`."""
    left = np.arange(horizon, 0, -1, dtype=np.float64) ** 3
    return left / left.sum()


def week_season() -> np.ndarray:
    """Log volatility by minute of the week from Monday on, mean square of its exponential 1: quiet nights and weekends,
    a peak as American markets open."""
    minute = np.arange(WEEK)
    hour = minute % MINUTES_A_DAY / 60.0
    day = 0.22 * np.cos((hour - 15.0) / 12.0 * np.pi) + 0.45 * np.exp(-(((hour - 14.4) / 1.1) ** 2))
    season = day - 0.4 * (minute >= 5 * MINUTES_A_DAY)
    return season - 0.5 * np.log(np.mean(np.exp(2.0 * season)))


SEASON = week_season()


@numba.njit(cache=True)
def paying(pressure: float) -> float:
    """The part of a pressure that pays: what lies beyond `CALM`."""
    return np.sign(pressure) * max(abs(pressure) - CALM, 0.0)


@numba.njit(cache=True, inline="always")
def normal(state: np.uint64) -> float:
    """Standard normal (Box and Muller) from the state and the one after it."""
    radius = np.sqrt(-2.0 * np.log(draws.uniform(state)))
    return radius * np.cos(2.0 * np.pi * draws.uniform(draws.advance(state)))


@numba.njit(cache=True)
def _walk(seed: int, who: int, monday: int, grid: np.ndarray, pay: np.ndarray, strength: float,
          walk: PerpetualWalk) -> None:
    begin = draws.stream(seed, START, 0, who)
    slow, quick = normal(begin), normal(begin + np.uint64(2))
    pressure, crowd = normal(begin + np.uint64(4)), 0.0
    price = grid[0] * np.exp(0.1 * normal(begin + np.uint64(6)))
    last = np.int64(price + 0.5)
    for t in range(len(walk.close)):
        slow = _remember(slow, SLOW_HALF_LIFE, normal(draws.stream(seed, VOLATILITY, t, who)))
        quick = _remember(quick, QUICK_HALF_LIFE, normal(draws.stream(seed, VOLATILITY, t, who) + np.uint64(7)))
        # The mean square of exp(heat) is 1 because that of a log-normal is taken off.
        heat = SEASON[(monday + t) % WEEK] + SLOW * slow + QUICK * quick - SLOW * SLOW - QUICK * QUICK
        pressure = _remember(pressure, PRESSURE_HALF_LIFE, normal(draws.stream(seed, PRESSURE, t, who)))
        shock = draws.heavy_tailed(draws.stream(seed, PRICE, t, who))
        shock = 0.0 if walk.still[t] else min(max(shock, -LARGEST_SHOCK), LARGEST_SHOCK)
        walk.heat[t], walk.shock[t], walk.pressure[t] = heat, shock, pressure
        move = TYPICAL_VOLATILITY * 1e-4 * np.exp(heat)
        if not walk.still[t]:
            price *= np.exp(move * shock + 1e-4 * _drift(walk.pressure, t, pay, strength))
        crowd = MEMORY * crowd + 0.25 * normal(draws.stream(seed, FLOW, t, who))
        last = _bar(draws.stream(seed, RANGE, t, who), last, price, move, t, walk)
        _flow(draws.stream(seed, FLOW, t, who) + np.uint64(7), crowd, grid, t, walk)


@numba.njit(cache=True, inline="always")
def _remember(value: float, half_life: float, news: float) -> float:
    """The next value of an AR(1) of unit variance."""
    kept = 0.5 ** (1.0 / half_life)
    return kept * value + np.sqrt(1.0 - kept * kept) * news


@numba.njit(cache=True)
def _drift(pressure: np.ndarray, t: int, pay: np.ndarray, strength: float) -> float:
    """Bps that the pressures before minute `t` pay inside it."""
    total = 0.0
    if strength != 0.0:
        for back in range(1, min(len(pay), t) + 1):
            total += pay[back - 1] * paying(pressure[t - back])
    return strength * total


@numba.njit(cache=True)
def _bar(state: np.uint64, last: int, price: float, move: float, t: int, walk: PerpetualWalk) -> int:
    """The minute's bar and its spread; returns the close. Extremes are those of a bridge between open and close."""
    wide = np.exp(0.5 * min(walk.heat[t], 2.0)) * -np.log(draws.uniform(state))
    spread = 1 + int(0.8 * wide)
    walk.spread[t] = spread
    if walk.still[t]:
        walk.open[t], walk.high[t], walk.low[t], walk.close[t] = last, last, last, last
        return last
    state = draws.advance(state)
    opened = last + int(np.floor((2.0 * draws.uniform(state) - 1.0) * spread + 0.5))
    close = np.int64(np.floor(price + 0.5))
    width, middle, apart = INSIDE * move * price, 0.5 * (opened + close), float(close - opened)
    state = draws.advance(state)
    above = 0.5 * np.sqrt(apart * apart - 2.0 * width * width * np.log(draws.uniform(state)))
    state = draws.advance(state)
    below = 0.5 * np.sqrt(apart * apart - 2.0 * width * width * np.log(draws.uniform(state)))
    walk.open[t], walk.close[t] = opened, close
    walk.high[t] = max(np.int64(middle + above), opened, close)
    walk.low[t] = min(np.int64(np.ceil(middle - below)), opened, close)
    return int(close)


@numba.njit(cache=True)
def _flow(state: np.uint64, crowd: float, grid: np.ndarray, t: int, walk: PerpetualWalk) -> None:
    """Volume, trades and what takers bought."""
    if walk.still[t]:
        walk.volume[t], walk.trades[t], walk.taker[t] = 0, 0, 0
        return
    busy = 0.9 * walk.heat[t] + 0.35 * min(abs(walk.shock[t]), 4.0) + crowd
    volume = max(min(int(grid[1] * np.exp(min(busy, 5.0))), 2_000_000_000), 1)
    size = grid[2] * np.exp(0.2 * busy + 0.15 * normal(state))
    lean = FLOW_PRESSURE * walk.pressure[t] + FLOW_SHOCK * min(max(walk.shock[t], -3.0), 3.0)
    imbalance = np.tanh(lean + FLOW_NOISE * normal(state + np.uint64(7)))
    walk.volume[t] = volume
    walk.trades[t] = min(max(int(volume / max(size, 1.0)), 1), volume)
    walk.taker[t] = min(int(0.5 * (1.0 + imbalance) * volume + 0.5), volume)
