"""What a result must show before it may serve."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.spec import Spec


class GateSpec(Spec):
    """One gate: a registered check and its bound.

    Parameters
    ----------
    name : str
        Name in the registry of `gates.evaluate`.
    bound : float
        What the value (or the end of its interval that the check names) must reach.
    optional : bool
        `not_applicable` counts as passed only here.
    """

    name: str
    bound: float
    optional: bool = False
    applies_to: Literal["evaluation", "candidate"] = "evaluation"


class PromotionSpec(Spec):
    """Gates, the age at which verdicts go stale, and the confidence of every interval."""

    gates: tuple[GateSpec, ...]
    max_age_days: int = Field(default=30, ge=1)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    bootstrap_samples: int = Field(default=1000, ge=100)
    bootstrap_block: int = Field(default=10, ge=1)
