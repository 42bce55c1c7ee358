"""Where a simulated perpetual is imperfect: outages, minutes without a trade, days whose files are wrong or missing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from pipeline.simulation.perpetual_profiles import MINUTES_A_DAY, PerpetualProfile
from pipeline.simulation.perpetual_walk import place

FAULTS = 200  # joined to the seed: these draws follow no other


@dataclass(frozen=True, eq=False)
class FaultPlaces:
    """One symbol's faults.

    Parameters
    ----------
    sold : bool [minutes]
        False inside outages: no candle, no book.
    still : bool [minutes]
        Nothing was traded.
    republished : dict of date to (int, int)
        Day -> first minute of the day that its first archive file lacks, and the one after the last.
    bookless : frozenset of date
        Days without a file of snapshots.
    """

    sold: np.ndarray
    still: np.ndarray
    republished: dict[date, tuple[int, int]]
    bookless: frozenset[date]


def draw_faults(profile: PerpetualProfile, symbol: str) -> FaultPlaces:
    """Each fault on a day of its own; the first day and the last two have none but minutes without a trade."""
    faults, n = profile.faults, profile.days * MINUTES_A_DAY
    rng = np.random.default_rng([profile.seed, FAULTS, place(symbol)])
    days = rng.permutation(np.arange(1, profile.days - 2)).tolist()
    starts = rng.integers(0, MINUTES_A_DAY - faults.outage_minutes + 1, len(days)).tolist()
    sold, still = np.ones(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
    for day, start in zip(days[: faults.outages], starts, strict=False):
        first = day * MINUTES_A_DAY + start
        sold[first : first + faults.outage_minutes] = False
    wrong = slice(faults.outages, faults.outages + faults.republished)
    republished = {
        _day(profile, day): (start, start + faults.outage_minutes)
        for day, start in zip(days[wrong], starts[wrong], strict=True)
    }
    bookless = frozenset(_day(profile, day) for day in days[wrong.stop :][: faults.missing_book_days])
    still[rng.choice(n, min(faults.flat_minutes, n), replace=False)] = True
    return FaultPlaces(sold, still, republished, bookless)


def _day(profile: PerpetualProfile, ordinal: int) -> date:
    return profile.first_day + timedelta(days=ordinal)
