"""What a feature and a family of features declare. No arithmetic lives here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.errors import BadInput
from pipeline.features.history import History

Scope = Literal["instrument", "cross_section", "market"]


@dataclass(frozen=True)
class Feature:
    """One column of the `features` table.

    Parameters
    ----------
    name, family : str
        Column name, unique over all families, and the family that computes it.
    inputs : tuple of str
        Panel columns it reads; `bars` is the column of the `intraday` table.
    lookback : int
        Sessions its value may depend on, today included.
    min_bars : int
        Bars that the look-back must hold for a value to exist; 0 for a feature that needs none.
    scope : {"instrument", "cross_section", "market"}
        Depends on its own instrument; on the session's eligible names; is one number for the session.
    unit, meaning : str
        For people.
    """

    name: str
    family: str
    inputs: tuple[str, ...]
    lookback: int
    min_bars: int
    scope: Scope
    unit: str
    meaning: str

    def __post_init__(self) -> None:
        if self.lookback < 1 or not 0 <= self.min_bars <= self.lookback:
            raise BadInput(
                "a look-back counts today, and min_bars fits into it",
                f"{self.name}: lookback {self.lookback}, min_bars {self.min_bars}",
                "declare the sessions that the formula reads",
            )


@dataclass(frozen=True)
class Family:
    """Features that one pass computes together.

    `compute` maps a `History` to float32 `[len(features), n_rows]`, NaN where missing.
    """

    name: str
    features: tuple[Feature, ...]
    compute: Callable[[History], np.ndarray]
