"""How raw heads become probabilities, and members one prediction."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.spec import Spec


class CalibrationSpec(Spec):
    """Methods tried per probability head on a split's tune group, chosen by cross-fitted Brier score."""

    methods: tuple[str, ...] = ("identity", "platt", "isotonic", "temperature")
    min_positives: int = Field(default=50, ge=1)
    cross_fit_blocks: int = Field(default=4, ge=2)


class EnsembleSpec(Spec):
    """Which members predict together, what each weighs, and which fits of them a champion holds.

    Parameters
    ----------
    members : tuple of str
        Empty means all of the study's. The others are trained and scored alone, as baselines.
    weights : str
        `equal`, or proportional to the mean rank IC of the alpha's head on a split's tune rows.
    splits : str
        A champion holds every member refitted on all pinned history (`production`), or each split's fit (`all`).
    """

    members: tuple[str, ...] = ()
    weights: Literal["equal", "tune_rank_ic"] = "equal"
    splits: Literal["production", "all"] = "production"
