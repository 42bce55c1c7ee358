"""The walk of all prices through the sample, one session after another: factors, noise, limits, ex-rights, planted drift."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from pipeline.simulation import draws, limits
from pipeline.simulation.minutes import BARS, fill_day
from pipeline.simulation.profiles import Profile
from pipeline.simulation.securities import Securities

NOISE, PATH, NEWS = range(3)  # stream names
HORIZON = 3  # sessions over which the planted drift is spread
OVERNIGHT_SHARE = 0.25  # of the idiosyncratic variance
NEWS_RATE, NEWS_SIZE = (
    0.035,
    0.17,
)  # a share of rows near the real one locks at a limit: see tests/simulation/test_prices.py
MAGNET = 0.035  # of the reference: a close that would end this near a limit is drawn to it for the day
VOLATILITY_MEMORY, VOLATILITY_SHOCK = 0.90, 0.06
FLOOR = 60.0  # ticks; no simulated price falls below 0.60 CNY


@dataclass(frozen=True)
class Character:
    """Slow traits of the instruments, and the common factors of the sessions."""

    price: np.ndarray  # ticks at the first session
    shares: np.ndarray  # total shares at the first session
    float_share: np.ndarray  # tradable share of the total
    free_share: np.ndarray  # freely traded share of the total
    turnover: np.ndarray  # typical daily volume over float
    volatility: np.ndarray  # idiosyncratic, per session
    beta: np.ndarray
    common: np.ndarray  # [sessions, 1 + industries, 2] market and industry returns, overnight and intraday
    factor: np.ndarray  # adjustment factor before the first session


@dataclass(frozen=True)
class Walk:
    """[sessions, instruments] arrays; prices in ticks of 0.01 CNY, volume in lots, amount in CNY; 0 where nothing traded."""

    traded: np.ndarray
    open: np.ndarray
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray
    reference: np.ndarray  # ex-right previous close; carried through suspensions
    lots: np.ndarray
    amount: np.ndarray
    factor: np.ndarray
    multiple: np.ndarray  # shares now per share at the first session
    signal: np.ndarray  # the planted signal, NaN where it has too little past
    path: np.ndarray  # [sessions, instruments, 4] what `fill_day` needs to make the same bars again


def draw_character(profile: Profile, securities: Securities, rng: np.random.Generator) -> Character:
    """Traits and factor returns with volatility clustering; about a third of a name's variance is common."""
    n, n_sessions = len(securities), profile.sessions
    price = np.exp(rng.normal(np.log(1_300.0), 0.7, n)).clip(350.0, 60_000.0)
    worth = np.exp(rng.normal(np.log(7e9), 0.9, n)).clip(8e8, 8e11)
    float_share = rng.uniform(0.45, 1.0, n)
    n_factors = 1 + int(securities.industry.max()) + 1
    common = np.zeros((n_sessions, n_factors, 2))
    for k in range(n_factors):
        common[:, k, :] = _clustered(n_sessions, 0.011 if k == 0 else 0.006, rng)
    return Character(
        price,
        np.round(worth / price * 100.0, -4),
        float_share,
        float_share * rng.uniform(0.4, 0.9, n),
        np.exp(rng.normal(np.log(0.018), 0.6, n)),
        rng.uniform(0.014, 0.026, n),
        rng.uniform(0.6, 1.4, n),
        common,
        np.round(np.where(securities.first > 0, 1.0, np.exp(rng.exponential(0.6, n))), 4),
    )


def _clustered(n_sessions: int, size: float, rng: np.random.Generator) -> np.ndarray:
    """[sessions, 2] overnight and intraday returns of one factor whose log volatility is an AR(1)."""
    log_volatility = np.zeros(n_sessions)
    shocks = rng.normal(0.0, 0.12, n_sessions)
    for t in range(1, n_sessions):
        log_volatility[t] = 0.95 * log_volatility[t - 1] + shocks[t]
    scale = size * np.exp(log_volatility - 0.07)
    noise = rng.standard_t(5, (n_sessions, 2)) * np.sqrt(0.6)
    return noise * scale[:, None] * np.sqrt([OVERNIGHT_SHARE, 1.0 - OVERNIGHT_SHARE])


def walk_prices(profile: Profile, securities: Securities, character: Character, strength: float) -> Walk:
    """All sessions in order. `strength` is the drift over the next `HORIZON` sessions per unit of the planted signal."""
    shape = (profile.sessions, len(securities))
    industry = np.where(
        (securities.industry_moved >= 0) & (np.arange(shape[0])[:, None] >= securities.industry_moved),
        securities.later_industry,
        securities.industry,
    ).astype(np.int16)
    walk = _empty_walk(shape)
    _walk(
        profile.seed,
        strength,
        securities.first,
        securities.last,
        securities.decline,
        securities.suspended,
        securities.bands,
        securities.ex_yield,
        securities.ex_ratio,
        industry,
        character.price,
        character.shares * character.float_share / 100.0,
        character.turnover,
        character.volatility,
        character.beta,
        character.common,
        character.factor,
        walk.traded,
        walk.open,
        walk.high,
        walk.low,
        walk.close,
        walk.reference,
        walk.lots,
        walk.amount,
        walk.factor,
        walk.multiple,
        walk.signal,
        walk.path,
    )
    return walk


def _empty_walk(shape: tuple[int, int]) -> Walk:
    def ticks() -> np.ndarray:
        return np.zeros(shape, dtype=np.int32)

    return Walk(
        traded=np.zeros(shape, dtype=np.bool_),
        open=ticks(),
        high=ticks(),
        low=ticks(),
        close=ticks(),
        reference=ticks(),
        lots=ticks(),
        amount=np.zeros(shape, dtype=np.int64),
        factor=np.zeros(shape),
        multiple=np.zeros(shape, dtype=np.float32),
        signal=np.full(shape, np.nan, dtype=np.float32),
        path=np.zeros((*shape, 4), dtype=np.float32),
    )


@numba.njit(cache=True)
def _walk(
    seed: int,
    strength: float,
    first: np.ndarray,
    last: np.ndarray,
    decline: np.ndarray,
    suspended: np.ndarray,
    bands: np.ndarray,
    ex_yield: np.ndarray,
    ex_ratio: np.ndarray,
    industry: np.ndarray,
    price: np.ndarray,
    float_lots: np.ndarray,
    turnover: np.ndarray,
    volatility: np.ndarray,
    beta: np.ndarray,
    common: np.ndarray,
    base_factor: np.ndarray,
    traded: np.ndarray,
    opened: np.ndarray,
    high: np.ndarray,
    low: np.ndarray,
    close: np.ndarray,
    reference: np.ndarray,
    lots: np.ndarray,
    amount: np.ndarray,
    factor: np.ndarray,
    multiple: np.ndarray,
    signal: np.ndarray,
    path: np.ndarray,
) -> None:
    """The recursion of `walk_prices`; `latent` is the price that would be paid were there no limits."""
    n_sessions, n = traded.shape
    latent, heat, activity = price.copy(), np.ones(n), np.zeros(n)
    shares, scale = np.ones(n), base_factor.copy()
    cash_due, ratio_due = np.zeros(n), np.zeros(n)
    bars = np.empty((BARS, 6), dtype=np.int64)
    for t in range(n_sessions):
        for i in range(n):
            if t < first[i] or t > last[i]:
                continue
            state = draws.stream(seed, NOISE, t, i)
            night, day = _innovations(state, t, i, heat, volatility, beta, common, industry)
            shock = draws.stream(seed, NEWS, t, i)
            if draws.uniform(shock) < NEWS_RATE:
                news = NEWS_SIZE * draws.rough_normal(draws.advance(shock))
                night += 0.4 * news
                day += 0.6 * news
            if decline[i] >= 0 and t >= decline[i]:
                day -= 0.012
            if t == first[i] and t > 0:
                night += 0.5 + 0.3 * draws.rough_normal(shock)
            day += _drift(signal, t, i, strength)
            cash_due[i] += ex_yield[t, i]
            ratio_due[i] = (1.0 + ratio_due[i]) * (1.0 + ex_ratio[t, i]) - 1.0
            before = int(price[i] + 0.5) if t == first[i] else close[t - 1, i]
            if suspended[t, i]:
                latent[i] = max(latent[i] * np.exp(night + day), FLOOR)
                close[t, i], reference[t, i], factor[t, i] = before, before, scale[i]
                multiple[t, i] = shares[i]
                continue
            anchor = before
            if t > first[i] and (cash_due[i] > 0.0 or ratio_due[i] > 0.0):
                anchor = _ex_right(before, cash_due[i], ratio_due[i])
                latent[i] *= anchor / before
                scale[i] = np.floor(scale[i] * before / anchor * 1e6 + 0.5) / 1e6
                shares[i] *= 1.0 + ratio_due[i]
            cash_due[i], ratio_due[i] = 0.0, 0.0
            start = max(latent[i] * np.exp(night), FLOOR)
            latent[i] = max(start * np.exp(day), FLOOR)
            activity[i] = 0.85 * activity[i] + 0.22 * draws.rough_normal(draws.advance(state))
            spread = volatility[i] * np.sqrt(heat[i])
            expected = (
                float_lots[i]
                * shares[i]
                * turnover[i]
                * np.exp(activity[i] + min(0.45 * abs(night + day) / spread, 1.8) - 0.45)
            )
            lower, upper = limits.limit_ticks(anchor, bands[t, i])
            path[t, i, 0], path[t, i, 1] = start, _drawn_to_limit(latent[i], anchor, lower, upper)
            path[t, i, 2], path[t, i, 3] = 0.75 * spread * start, max(expected, 60.0)
            fill_day(
                draws.stream(seed, PATH, t, i),
                path[t, i, 0],
                path[t, i, 1],
                path[t, i, 2],
                path[t, i, 3],
                lower,
                upper,
                bars,
            )
            traded[t, i] = True
            opened[t, i], close[t, i] = bars[0, 0], bars[BARS - 1, 3]
            high[t, i], low[t, i] = bars[:, 1].max(), bars[:, 2].min()
            lots[t, i], amount[t, i] = bars[:, 4].sum(), bars[:, 5].sum()
            reference[t, i], factor[t, i], multiple[t, i] = anchor, scale[i], shares[i]
        _plant(t, first, traded, close, factor, lots, multiple, signal)


@numba.njit(cache=True)
def _innovations(
    state: np.uint64,
    t: int,
    i: int,
    heat: np.ndarray,
    volatility: np.ndarray,
    beta: np.ndarray,
    common: np.ndarray,
    industry: np.ndarray,
) -> tuple[float, float]:
    """Overnight and intraday log returns; the idiosyncratic variance follows a GARCH(1,1) kept in `heat`."""
    scale = volatility[i] * np.sqrt(heat[i])
    a = draws.heavy_tailed(state + np.uint64(1))
    b = draws.heavy_tailed(state + np.uint64(2))
    night = beta[i] * common[t, 0, 0] + scale * np.sqrt(OVERNIGHT_SHARE) * a
    day = beta[i] * common[t, 0, 1] + scale * np.sqrt(1.0 - OVERNIGHT_SHARE) * b
    k = industry[t, i]
    if k >= 0:
        night += common[t, 1 + k, 0]
        day += common[t, 1 + k, 1]
    squared = min(OVERNIGHT_SHARE * a * a + (1.0 - OVERNIGHT_SHARE) * b * b, 16.0)
    heat[i] = (
        1.0 - VOLATILITY_MEMORY - VOLATILITY_SHOCK + VOLATILITY_MEMORY * heat[i] + VOLATILITY_SHOCK * squared
    )
    return night, day


@numba.njit(cache=True)
def _drift(signal: np.ndarray, t: int, i: int, strength: float) -> float:
    """Each of the last `HORIZON` signals pays an equal part of its strength inside today's session."""
    total = 0.0
    for back in range(1, min(HORIZON, t) + 1):
        value = signal[t - back, i]
        if not np.isnan(value):
            total += value
    return strength * total / HORIZON


@numba.njit(cache=True)
def _drawn_to_limit(end: float, anchor: int, lower: int, upper: int) -> float:
    """Where the session's path ends. The latent price stays, so the next open gives back what the magnet added."""
    if upper - MAGNET * anchor <= end < upper:
        return float(upper)
    if lower < end <= lower + MAGNET * anchor and lower > 1:
        return float(lower)
    return end


@numba.njit(cache=True)
def _ex_right(before: int, cash_yield: float, ratio: float) -> int:
    """Reference price in ticks after a cash dividend (whole ticks, at least one) and new shares, rounded half up."""
    cash = max(int(before * cash_yield + 0.5), 1)
    return max(int((before - cash) / (1.0 + ratio) + 0.5), 1)


@numba.njit(cache=True)
def _plant(
    t: int,
    first: np.ndarray,
    traded: np.ndarray,
    close: np.ndarray,
    factor: np.ndarray,
    lots: np.ndarray,
    multiple: np.ndarray,
    signal: np.ndarray,
) -> None:
    """signal[t] = z(-z(5-session adjusted return) - z(log volume over its 20-session mean)), all cross-sectional."""
    if t < 20:
        return
    n = traded.shape[1]
    reversal, activity = np.full(n, np.nan), np.full(n, np.nan)
    for i in range(n):
        if not traded[t, i] or t - first[i] < 20:
            continue
        total = 0.0
        for back in range(20):
            total += lots[t - back, i] / multiple[t - back, i]
        reversal[i] = -np.log(close[t, i] * factor[t, i] / (close[t - 5, i] * factor[t - 5, i]))
        activity[i] = -np.log(lots[t, i] / multiple[t, i] * 20.0 / total)
    combined = _standardised(_standardised(reversal) + 0.7 * _standardised(activity))
    for i in range(n):
        signal[t, i] = combined[i]


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
