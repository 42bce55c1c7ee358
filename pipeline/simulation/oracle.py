"""What only the maker of the market knows: the planted signal, what it pays, how strongly to plant it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import polars as pl

from pipeline.errors import BadInput
from pipeline.simulation.planting import HORIZON
from pipeline.simulation.profiles import Profile
from pipeline.simulation.world import World, make_world

CALIBRATION_INSTRUMENTS, CALIBRATION_SESSIONS = 300, 400


def executable_return(world: World) -> np.ndarray:
    """float64 [sessions, instruments]: T+1 open to T+3 close, adjusted; NaN where a trade was blocked.

    Blocked: suspended, an ST name at T, or the price at a daily limit.
    """
    walk, shape = world.walk, world.walk.traded.shape
    t, i = np.nonzero(walk.traded)
    lower, upper = world.limits(t, i)
    bought, sold = np.full(shape, np.nan), np.full(shape, np.nan)
    opened, closed, factor = walk.open[t, i], walk.close[t, i], walk.factor[t, i]
    bought[t, i] = np.where((opened > lower) & (opened < upper), opened * factor, np.nan)
    sold[t, i] = np.where((closed > lower) & (closed < upper), closed * factor, np.nan)
    out = np.full(shape, np.nan)
    out[:-HORIZON] = sold[HORIZON:] / bought[1 : 1 - HORIZON] - 1.0
    out[world.securities.st] = np.nan
    return out


def oracle_frame(world: World) -> pl.DataFrame:
    """session, instrument, signal, ret: rows that have a signal; `ret` is null where blocked."""
    t, i = np.nonzero(np.isfinite(world.walk.signal))
    ret = executable_return(world)[t, i]
    return pl.DataFrame(
        {
            "session": world.dates(t),
            "instrument": pl.Series(world.securities.code.tolist()).gather(i),
            "signal": world.walk.signal[t, i].astype(np.float64),
            "ret": pl.Series(ret, nan_to_null=True),
        }
    )


def mean_rank_ic(frame: pl.DataFrame, feature: str) -> float:
    """Mean over sessions of the Spearman correlation between `feature` and `ret`, complete rows only."""
    ranks = frame.drop_nulls([feature, "ret"]).select(
        "session",
        pl.col(feature).rank().over("session").alias("x"),
        pl.col("ret").rank().over("session").alias("y"),
    )
    by_session = ranks.group_by("session").agg(pl.corr("x", "y").alias("ic"), pl.len().alias("n")).sort("session")
    return float(by_session.filter((pl.col("n") >= 10) & pl.col("ic").is_finite())["ic"].mean() or 0.0)  # type: ignore[arg-type]


@lru_cache(maxsize=32)
def calibrated_strength(profile: Profile) -> float:
    """Drift per unit of signal at which the market's oracle rank IC is the profile's target.

    At most four secant steps; large profiles are calibrated on 300 names x 400 sessions of the same making. What such
    a sample's signal has without paying anything is the sample's luck, 0.004 to one deviation, and not the market's:
    it is left out. A smaller market is calibrated on itself, and its luck is its own.
    """
    if profile.signal == 0.0:
        return 0.0
    sample = profile.model_copy(
        update={
            "instruments": min(profile.instruments, CALIBRATION_INSTRUMENTS),
            "sessions": min(profile.sessions, CALIBRATION_SESSIONS),
        }
    )
    lucky = _oracle_ic(sample, 0.0)
    target = profile.signal + (lucky if sample != profile else 0.0)
    last, last_miss = 0.0, lucky - target
    strength = 0.022 * profile.signal
    for _ in range(4):
        miss = _oracle_ic(sample, strength) - target
        if abs(miss) < 0.002 or miss == last_miss:
            break
        step = miss * (strength - last) / (miss - last_miss)
        last, last_miss, strength = strength, miss, strength - step
    if not 0.0 < strength < 0.2:
        raise BadInput("the planted rank IC must be reachable", profile.signal, "lower the profile's signal")
    return strength


def _oracle_ic(profile: Profile, strength: float) -> float:
    return mean_rank_ic(oracle_frame(make_world(profile, strength)), "signal")
