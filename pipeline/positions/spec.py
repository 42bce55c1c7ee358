"""How calibrated scores become positions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from pipeline.spec import Spec


class PolicySpec(Spec):
    """Top-k with risk filters; the grid is searched on each split's tune group.

    Parameters
    ----------
    top_k : int
        Names per decision, equally weighted.
    alpha : str
        Served column that ranks.
    max_buy_block, max_downlock, max_fragility_rank : tuple of float
        Grid values of each filter in (0, 1]; 1.0 switches a filter off. Put the value that filters least
        first: among equally good policies the first one wins.
    """

    family: Literal["top_k"] = "top_k"
    top_k: int = Field(default=10, ge=1)
    alpha: str = "rank_pred"
    max_buy_block: tuple[float, ...] = (1.0, 0.2)
    max_downlock: tuple[float, ...] = (1.0, 0.1)
    max_fragility_rank: tuple[float, ...] = (1.0, 0.9)

    @property
    def fewest(self) -> int:
        """Rows of a session below which their order says nothing."""
        return self.top_k

    @field_validator("max_buy_block", "max_downlock", "max_fragility_rank")
    @classmethod
    def _grid(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not values or len(set(values)) != len(values) or not all(0 < v <= 1 for v in values):
            raise ValueError(f"a filter's grid needs one or more different values in (0, 1]; got {values}")
        return values
