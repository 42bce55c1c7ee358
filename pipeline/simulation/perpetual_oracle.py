"""What only the maker of a simulated perpetual knows: the planted pressure, what it pays, how strongly to plant it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from pipeline.errors import BadInput
from pipeline.simulation.perpetual_faults import FaultPlaces, draw_faults
from pipeline.simulation.perpetual_profiles import PerpetualProfile, contract_of
from pipeline.simulation.perpetual_walk import PerpetualWalk, walk_minutes

CLOSE_ENOUGH = 0.001
CALIBRATION_DAYS = 183
SECANT_STEPS, LARGEST_STRENGTH = 8, 100.0


def make_walks(profile: PerpetualProfile, strength: float) -> dict[str, tuple[PerpetualWalk, FaultPlaces]]:
    """Every symbol's minutes and faults."""
    made = {}
    for symbol in profile.symbols:
        faults = draw_faults(profile, symbol)
        made[symbol] = walk_minutes(profile, symbol, contract_of(symbol), faults.still, strength), faults
    return made


def forward_return(close: np.ndarray, sold: np.ndarray, horizon: int) -> np.ndarray:
    """Return in bps from a minute's close to the close `horizon` minutes later; NaN where any of them is missing."""
    out = np.full(len(close), np.nan)
    if len(close) <= horizon:
        return out
    out[:-horizon] = (close[horizon:] / close[:-horizon] - 1.0) * 1e4
    held = np.concatenate([[0], np.cumsum(sold)])
    whole = held[horizon + 1 :] - held[: -horizon - 1] == horizon + 1
    out[:-horizon][~whole] = np.nan
    return out


def rank_correlation(signal: np.ndarray, gained: np.ndarray) -> float:
    """Spearman's, over pairs in which `gained` is no NaN; ties at their average."""
    there = np.isfinite(gained)
    if there.sum() < 2:
        return 0.0
    return float(np.corrcoef(_ranks(signal[there]), _ranks(gained[there]))[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Average ranks."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - 0.5 * (counts - 1))[where]


@lru_cache(maxsize=32)
def planted_strength(profile: PerpetualProfile) -> float:
    """Bps a unit of paying pressure earns over the horizon, so that the market's own rank correlation is the target.

    A shorter market than half a year is planted as half a year of the same making would be. The luck of the rank
    correlation is 0.06 with 6 days and 0.010 with half a year (one deviation over seeds); a strength that made up for
    the former would be anything between a third and six times this one.

    Raises
    ------
    BadInput
        The target is out of reach for `SECANT_STEPS` steps below `LARGEST_STRENGTH`.
    """
    if profile.signal == 0.0:
        return 0.0
    sample = profile.model_copy(update={"days": max(profile.days, CALIBRATION_DAYS)})
    last, last_miss = 0.0, _mean_rank_ic(sample, 0.0) - profile.signal
    strength = 45.0 * profile.signal
    for _ in range(SECANT_STEPS):
        miss = _mean_rank_ic(sample, strength) - profile.signal
        if abs(miss) < CLOSE_ENOUGH:
            return strength
        slope = (miss - last_miss) / (strength - last)
        last, last_miss, strength = strength, miss, strength - miss / slope if slope > 0 else 0.0
        if not 0.0 < strength < LARGEST_STRENGTH:
            break
    raise BadInput("the planted rank correlation must be reachable", profile.signal, "lower the profile's signal")


def _mean_rank_ic(profile: PerpetualProfile, strength: float) -> float:
    return mean_rank_ic(make_walks(profile, strength), profile.horizon)


def mean_rank_ic(made: dict[str, tuple[PerpetualWalk, FaultPlaces]], horizon: int) -> float:
    """Mean over symbols of the rank correlation between pressure and what followed, over minutes that were sold."""
    found = [
        rank_correlation(walk.pressure, forward_return(walk.close, faults.sold, horizon))
        for walk, faults in made.values()
    ]
    return float(np.mean(found))
