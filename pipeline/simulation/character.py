"""Slow traits of the instruments and the common factors of the sessions, drawn before any price."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.simulation.profiles import Profile
from pipeline.simulation.securities import Securities

OVERNIGHT_SHARE = 0.25  # of every return's variance


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


def draw_character(profile: Profile, securities: Securities, rng: np.random.Generator) -> Character:
    """Traits, and factor returns with volatility clustering: names correlate with the market at about 0.4."""
    n, n_sessions = len(securities), profile.sessions
    price = np.exp(rng.normal(np.log(1_300.0), 0.7, n)).clip(350.0, 60_000.0)
    worth = np.exp(rng.normal(np.log(7e9), 0.9, n)).clip(8e8, 8e11)
    float_share = rng.uniform(0.45, 1.0, n)
    n_factors = 1 + int(securities.industry.max()) + 1
    common = np.zeros((n_sessions, n_factors, 2))
    for k in range(n_factors):
        common[:, k, :] = _clustered(n_sessions, 0.013 if k == 0 else 0.006, rng)
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
    shocks = rng.normal(0.0, 0.16, n_sessions)
    for t in range(1, n_sessions):
        log_volatility[t] = 0.95 * log_volatility[t - 1] + shocks[t]
    scale = size * np.exp(log_volatility - 0.13)
    noise = rng.standard_t(5, (n_sessions, 2)) * np.sqrt(0.6)
    return noise * scale[:, None] * np.sqrt([OVERNIGHT_SHARE, 1.0 - OVERNIGHT_SHARE])
