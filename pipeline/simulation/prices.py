"""The walk of all prices through the sample, session by session: noise, limits, ex-rights, planted drift."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from pipeline.simulation import draws, limits
from pipeline.simulation.character import OVERNIGHT_SHARE, Character
from pipeline.simulation.minutes import BARS, fill_day
from pipeline.simulation.planting import INTRADAY, PLANTS, REGIME, confirmed_move, drift, plant, regimes
from pipeline.simulation.profiles import Profile
from pipeline.simulation.securities import Securities
from pipeline.simulation.walk import Walk, empty_walk

NOISE, PATH, NEWS, PACE = range(4)  # stream names
# With these, about 1.4% of opens and 4.5% of closes cannot be traded: near what A-share books meet.
NEWS_RATE, NEWS_SIZE = 0.035, 0.17
MAGNET = 0.035  # of the reference: a close that would end this near a limit is drawn to it for the day
VOLATILITY_MEMORY, VOLATILITY_SHOCK = 0.90, 0.06
DECLINE = 0.012  # a session, of names on their way out
TIDE = 0.5  # log volume that a full regime adds to every name's: the busiest sessions trade 2.7 times the quietest
FLOOR = 60.0  # ticks; no latent price falls below 0.60 CNY


class _Names(NamedTuple):
    """What the walk reads of every instrument; [instruments], [sessions, instruments], or [sessions] for the tide."""

    first: np.ndarray
    last: np.ndarray
    decline: np.ndarray
    suspended: np.ndarray
    bands: np.ndarray
    ex_yield: np.ndarray
    ex_ratio: np.ndarray
    industry: np.ndarray
    price: np.ndarray
    usual_lots: np.ndarray
    volatility: np.ndarray
    beta: np.ndarray
    factor: np.ndarray
    tide: np.ndarray
    rise: float


class _State(NamedTuple):
    """What the walk carries from session to session; `latent` is the price were there no limits."""

    latent: np.ndarray
    heat: np.ndarray
    activity: np.ndarray
    shares: np.ndarray
    scale: np.ndarray
    cash_due: np.ndarray
    ratio_due: np.ndarray
    confirmed: np.ndarray  # today's, for an intraday plant


def walk_prices(profile: Profile, securities: Securities, character: Character, strength: float) -> Walk:
    """All sessions in order; `strength` is the drift over three sessions per unit of the planted signal."""
    n, ordinals = len(securities), np.arange(profile.sessions)[:, None]
    moved = (securities.industry_moved >= 0) & (ordinals >= securities.industry_moved)
    industry = np.where(moved, securities.later_industry, securities.industry).astype(np.int16)
    walk, kind, tide = empty_walk((profile.sessions, n)), PLANTS.index(profile.plant), np.zeros(profile.sessions)
    if kind == REGIME:
        walk.regime[:] = regimes(profile.seed, PACE, profile.sessions)
        tide = TIDE * walk.regime
    names = _Names(
        securities.first, securities.last, securities.decline, securities.suspended, securities.bands,
        securities.ex_yield, securities.ex_ratio, industry, character.price,
        character.shares * character.float_share / 100.0 * character.turnover, character.volatility,
        character.beta, character.factor, tide, profile.rise,
    )  # fmt: skip
    state = _State(
        character.price.copy(),
        np.ones(n),
        np.zeros(n),
        np.ones(n),
        character.factor.copy(),
        np.zeros(n),
        np.zeros(n),
        np.full(n, np.nan),
    )
    _walk(profile.seed, kind, strength, names, character.common, state, walk)
    return walk


@numba.njit(cache=True)
def _walk(seed: int, kind: int, strength: float, names: _Names, common: np.ndarray, state: _State, walk: Walk) -> None:
    bars = np.empty((BARS, 6), dtype=np.int64)
    for t in range(walk.traded.shape[0]):
        for i in range(walk.traded.shape[1]):
            if t < names.first[i] or t > names.last[i]:
                continue
            night, day = _returns(seed, t, i, names, common, state)
            day += names.rise + drift(walk.signal, t, i, strength)
            before = int(names.price[i] + 0.5) if t == names.first[i] else walk.close[t - 1, i]
            state.cash_due[i] += names.ex_yield[t, i]
            state.ratio_due[i] = (1.0 + state.ratio_due[i]) * (1.0 + names.ex_ratio[t, i]) - 1.0
            if names.suspended[t, i]:
                state.latent[i] = max(state.latent[i] * np.exp(night + day), FLOOR)
                walk.close[t, i], walk.reference[t, i] = before, before
            else:
                anchor = _ex_right(i, before, state) if t > names.first[i] else before
                _trade(seed, t, i, night, day, anchor, names, state, walk, bars)
                if kind == INTRADAY:
                    state.confirmed[i] = confirmed_move(bars)
            walk.factor[t, i], walk.multiple[t, i] = state.scale[i], state.shares[i]
        plant(kind, t, names.first, state.confirmed, walk)


@numba.njit(cache=True)
def _returns(seed: int, t: int, i: int, names: _Names, common: np.ndarray, state: _State) -> tuple[float, float]:
    """Overnight and intraday log returns; the idiosyncratic variance follows a GARCH(1,1) kept in `heat`."""
    noise, shock = draws.stream(seed, NOISE, t, i), draws.stream(seed, NEWS, t, i)
    scale = names.volatility[i] * np.sqrt(state.heat[i])
    a = draws.heavy_tailed(noise + np.uint64(1))
    b = draws.heavy_tailed(noise + np.uint64(2))
    night = names.beta[i] * common[t, 0, 0] + scale * np.sqrt(OVERNIGHT_SHARE) * a
    day = names.beta[i] * common[t, 0, 1] + scale * np.sqrt(1.0 - OVERNIGHT_SHARE) * b
    k = names.industry[t, i]
    if k >= 0:
        night += common[t, 1 + k, 0]
        day += common[t, 1 + k, 1]
    squared = min(OVERNIGHT_SHARE * a * a + (1.0 - OVERNIGHT_SHARE) * b * b, 16.0)
    calm = 1.0 - VOLATILITY_MEMORY - VOLATILITY_SHOCK
    state.heat[i] = calm + VOLATILITY_MEMORY * state.heat[i] + VOLATILITY_SHOCK * squared
    if draws.uniform(shock) < NEWS_RATE:
        news = NEWS_SIZE * draws.rough_normal(draws.advance(shock))
        night += 0.4 * news
        day += 0.6 * news
    if 0 <= names.decline[i] <= t:
        day -= DECLINE
    if t == names.first[i] and t > 0:  # the first open above the issue price
        night += 0.5 + 0.3 * draws.rough_normal(shock)
    return night, day


@numba.njit(cache=True)
def _trade(
    seed: int, t: int, i: int, night: float, day: float, anchor: int,
    names: _Names, state: _State, walk: Walk, bars: np.ndarray,
) -> None:  # fmt: skip
    """One traded session: its path's ends, how much trades, and the day as the sum of its bars."""
    start = max(state.latent[i] * np.exp(night), FLOOR)
    state.latent[i] = max(start * np.exp(day), FLOOR)
    lower, upper = limits.limit_ticks(anchor, names.bands[t, i])
    spread = names.volatility[i] * np.sqrt(state.heat[i])
    quirk = draws.rough_normal(draws.advance(draws.stream(seed, NOISE, t, i)))
    state.activity[i] = 0.85 * state.activity[i] + 0.22 * quirk
    surge = np.exp(state.activity[i] + min(0.45 * abs(night + day) / spread, 1.8) - 0.45 + names.tide[t])
    path = walk.path[t, i]
    path[0], path[1] = start, _drawn_to_limit(state.latent[i], anchor, lower, upper)
    path[2], path[3] = 0.75 * spread * start, max(names.usual_lots[i] * state.shares[i] * surge, 60.0)
    fill_day(draws.stream(seed, PATH, t, i), path[0], path[1], path[2], path[3], lower, upper, bars)
    walk.traded[t, i], walk.reference[t, i] = True, anchor
    walk.open[t, i], walk.close[t, i] = bars[0, 0], bars[BARS - 1, 3]
    walk.high[t, i], walk.low[t, i] = bars[:, 1].max(), bars[:, 2].min()
    walk.lots[t, i], walk.amount[t, i] = bars[:, 4].sum(), bars[:, 5].sum()


@numba.njit(cache=True)
def _drawn_to_limit(end: float, anchor: int, lower: int, upper: int) -> float:
    """Where the session's path ends. The latent price stays: the next open gives back what this added."""
    if upper - MAGNET * anchor <= end < upper:
        return float(upper)
    if lower < end <= lower + MAGNET * anchor and lower > 1:
        return float(lower)
    return end


@numba.njit(cache=True)
def _ex_right(i: int, before: int, state: _State) -> int:
    """The reference price in ticks after the dividend and the new shares that are due, half up."""
    if state.cash_due[i] <= 0.0 and state.ratio_due[i] <= 0.0:
        return before
    cash = max(int(before * state.cash_due[i] + 0.5), 1)
    anchor = max(int((before - cash) / (1.0 + state.ratio_due[i]) + 0.5), 1)
    state.latent[i] *= anchor / before
    state.scale[i] = np.floor(state.scale[i] * before / anchor * 1e6 + 0.5) / 1e6
    state.shares[i] *= 1.0 + state.ratio_due[i]
    state.cash_due[i], state.ratio_due[i] = 0.0, 0.0
    return anchor
