"""How calibrated scores become positions."""

from __future__ import annotations

from pydantic import Field

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
        Grid values of each filter; 1.0 switches a filter off.
    """

    top_k: int = Field(default=10, ge=1)
    alpha: str = "rank_pred"
    max_buy_block: tuple[float, ...] = (1.0, 0.2)
    max_downlock: tuple[float, ...] = (1.0, 0.1)
    max_fragility_rank: tuple[float, ...] = (1.0, 0.9)
