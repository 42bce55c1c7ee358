"""How raw probability heads become probabilities."""

from __future__ import annotations

from pydantic import Field

from pipeline.spec import Spec


class CalibrationSpec(Spec):
    """Methods tried per probability head on a split's tune group, chosen by cross-fitted Brier score."""

    methods: tuple[str, ...] = ("identity", "platt", "isotonic", "temperature")
    min_positives: int = Field(default=50, ge=1)
    cross_fit_blocks: int = Field(default=4, ge=2)
