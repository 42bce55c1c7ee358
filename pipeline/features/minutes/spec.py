"""What a minute feature and a family of them declare. No arithmetic lives here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from pipeline.errors import BadInput
from pipeline.features.minutes.history import MinuteHistory

Source = Literal["bars", "spread", "books", "funding"]
SOURCES: tuple[Source, ...] = ("bars", "spread", "books", "funding")


@dataclass(frozen=True)
class MinuteFeature:
    """One float32 column. Every feature is its own instrument's time series.

    Parameters
    ----------
    name, family : str
        Column name, unique over all families, and the family that computes it.
    meaning, unit : str
        For people.
    sources : tuple of str
        What must be there: `bars`; `spread`, the bars' `spread_bps`; `books`; `funding`.
    window : int
        Minutes that the formula spans, this one included.
    lookback : int
        Minutes that the value may depend on, this one included: the window and what its first minute reads.
    formula, method : str
        How it is computed, and the name under which that way is known (`WINDOW_V1`, `SNAPSHOT_DIFF_V1`).
    missing : str
        When the value is null.
    """

    name: str
    family: str
    meaning: str
    unit: str
    sources: tuple[Source, ...]
    window: int
    lookback: int
    formula: str
    method: str
    missing: str

    scope: ClassVar[Literal["series"]] = "series"

    def __post_init__(self) -> None:
        if not 1 <= self.window <= self.lookback:
            raise BadInput(
                "a window counts this minute, and the look-back holds the window",
                f"{self.name}: window {self.window}, lookback {self.lookback}",
                "declare the minutes that the formula reads",
            )


@dataclass(frozen=True)
class MinuteFamily:
    """Features that one pass computes together.

    `compute` maps a `MinuteHistory` to float64 arrays `[n_rows]`, NaN where missing, one per feature in order.
    """

    name: str
    features: tuple[MinuteFeature, ...]
    compute: Callable[[MinuteHistory], list[np.ndarray]]
