"""Valuation columns: share counts, and earnings, book value and sales that move once a quarter."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from pipeline.simulation.world import World

VOLUME_RATIO_SESSIONS = 5
_FUNDAMENTALS = 7_919  # joined to the seed: these draws follow no other


@lru_cache(maxsize=4)
def _per_share(world: World) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Quarter of each session; [quarters, instruments] earnings, book, sales, dividend per share."""
    quarter = np.array([day.year * 4 + (day.month - 1) // 3 for day in world.days])
    quarter -= quarter[0]
    n, n_quarters = len(world.securities), int(quarter[-1]) + 1
    rng = np.random.default_rng([world.profile.seed, _FUNDAMENTALS])
    price = world.character.price / 100.0
    pe = np.exp(rng.normal(np.log(28.0), 0.6, n)) * np.where(rng.random(n) < 0.15, -1.0, 1.0)
    book = price / np.exp(rng.normal(np.log(2.4), 0.5, n)) * np.where(rng.random(n) < 0.01, -1.0, 1.0)
    sales = price / np.exp(rng.normal(np.log(3.5), 0.8, n))
    dividend = price * np.where(rng.random(n) < 0.3, np.nan, rng.uniform(0.002, 0.04, n))
    growth = np.cumsum(rng.normal(0.01, 0.08, (n_quarters, n)), axis=0)
    surprise = rng.normal(0.0, 0.2, (n_quarters, n)) * np.abs(price / pe)
    return (
        quarter,
        price / pe * np.exp(growth) + np.cumsum(surprise, axis=0) * 0.5,
        book * np.exp(0.2 * growth),
        sales * np.exp(0.5 * growth),
        np.broadcast_to(dividend, (n_quarters, n)),
    )


def valuation(world: World, t: np.ndarray, i: np.ndarray) -> dict[str, object]:
    """`daily_basic` columns in the vendor's units for (session, instrument) pairs; NaN for null."""
    walk, character = world.walk, world.character
    quarter, earnings, book, sales, dividend = _per_share(world)
    close, multiple, q = walk.close[t, i] / 100.0, walk.multiple[t, i].astype(np.float64), quarter[t]
    shares = character.shares[i] * multiple
    volume = walk.lots[t, i] * 100.0
    total, tradable = np.round(shares / 1e4, 4), np.round(shares * character.float_share[i] / 1e4, 4)
    free = np.round(shares * character.free_share[i] / 1e4, 4)

    def ratio(per_share: np.ndarray) -> np.ndarray:
        value = per_share[q, i] / multiple
        return np.where(value > 0, np.round(close / np.where(value > 0, value, 1.0), 4), np.nan)

    trailing = ratio(earnings)
    yields = np.round(100.0 * dividend[q, i] / multiple / close, 4)
    return {
        "close": close,
        "turnover_rate": np.round(volume / tradable / 100.0, 4),
        "turnover_rate_f": np.round(volume / free / 100.0, 4),
        "volume_ratio": _volume_ratio(world, t, i),
        "pe": np.round(trailing * 1.03, 4),
        "pe_ttm": trailing,
        "pb": ratio(book),
        "ps": np.round(ratio(sales) * 1.02, 4),
        "ps_ttm": ratio(sales),
        "dv_ratio": yields,
        "dv_ttm": yields,
        "total_share": total,
        "float_share": tradable,
        "free_share": free,
        "total_mv": np.round(close * total, 4),
        "circ_mv": np.round(close * tradable, 4),
    }


def _volume_ratio(world: World, t: np.ndarray, i: np.ndarray) -> np.ndarray:
    """Volume over its mean of five sessions before, traded ones only; NaN with fewer than three."""
    walk = world.walk
    total, count = np.zeros(len(t)), np.zeros(len(t))
    for back in range(1, VOLUME_RATIO_SESSIONS + 1):
        source = np.maximum(t - back, 0)
        usable = walk.traded[source, i] & (t >= back)
        total += np.where(usable, walk.lots[source, i], 0)
        count += usable
    return np.where(count >= 3, np.round(walk.lots[t, i] * count / np.maximum(total, 1), 2), np.nan)
