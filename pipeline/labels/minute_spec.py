"""The bounds of the labels of a minute's decision. Barriers and cost are the price plan's."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import field_validator, model_validator

from pipeline.errors import BadInput
from pipeline.labels.price_plan import PricePlan
from pipeline.labels.spec import HeadSpec
from pipeline.spec import Spec

DirectionMethod = Literal["DIRECTION_FUTURE_RETURN_V1", "DIRECTION_OPPORTUNITY_FROM_ENTRY_MFE_V1"]

BY_RETURN: DirectionMethod = "DIRECTION_FUTURE_RETURN_V1"
MINUTES_A_DAY = 1440
BY_OPPORTUNITY: DirectionMethod = "DIRECTION_OPPORTUNITY_FROM_ENTRY_MFE_V1"


class MinuteLabelSpec(Spec):
    """Five families of labels at one minute; distances in bps, every bound inclusive unless said.

    Parameters
    ----------
    version : str
        `label_version` of every row.
    horizon_minutes : int
        Minutes that direction by return, continue, exit and risk look at.
    direction_return_bps : float
        A return above it is LONG, below its negative SHORT (strict).
    opportunity_threshold_bps : float, optional
        Least max achievable net edge of a winning side; required by `DIRECTION_OPPORTUNITY_FROM_ENTRY_MFE_V1`.
    opportunity_lead_bps : float
        How far the winning side must lead the other.
    continue_edge_bps : float
        Least net edge worth staying for.
    exit_adverse_bps, exit_stagnation_bps : float
        MAE from which holding hurts; |return| up to which it is idle.
    market_drawdown_bps, market_spike_bps, volatility_expansion, volatility_floor_bps : float
        Path risk, largest move, and future over present volatility from which the market is risky.
    position_mae_bps, position_drawdown_bps : float
        A side's own MAE, and path risk, from which a position is at risk.
    liquidity_rank : float
        Rank of the spread ahead among the last day's from which liquidity deteriorates.
    """

    version: str = "v1"
    horizon_minutes: int = 45
    direction_method: DirectionMethod = BY_RETURN
    direction_return_bps: float = 5.0
    opportunity_threshold_bps: float | None = None
    opportunity_lead_bps: float = 5.0
    continue_edge_bps: float = 5.0
    exit_adverse_bps: float = 20.0
    exit_stagnation_bps: float = 5.0
    market_drawdown_bps: float = 60.0
    market_spike_bps: float = 80.0
    volatility_expansion: float = 1.8
    volatility_floor_bps: float = 1.0
    position_mae_bps: float = 35.0
    position_drawdown_bps: float = 35.0
    liquidity_rank: float = 0.90

    @field_validator("horizon_minutes")
    @classmethod
    def _horizon(cls, value: int) -> int:
        if value < 1:
            raise BadInput("a label looks at one or more minutes", value, "give a positive horizon_minutes")
        return value

    @model_validator(mode="after")
    def _threshold_given(self) -> Self:
        if self.direction_method == BY_OPPORTUNITY and self.opportunity_threshold_bps is None:
            raise BadInput(f"{BY_OPPORTUNITY} needs opportunity_threshold_bps: it has no default", "none",
                           "choose the max achievable net edge, in bps, that makes a side win")
        return self


class PlanLabelSpec(Spec):
    """What a study of minutes predicts: heads over the outcomes of one price plan.

    Parameters
    ----------
    heads : tuple of HeadSpec
        Columns of `minute_heads.minute_labels`.
    plan : PricePlan
        Barriers, hold and cost: labels, the position manager and every trade read this one.
    bounds : MinuteLabelSpec
    """

    family: Literal["price_plan"] = "price_plan"
    heads: tuple[HeadSpec, ...]
    plan: PricePlan = PricePlan()
    bounds: MinuteLabelSpec = MinuteLabelSpec()

    @property
    def reach(self) -> int:
        """Sessions after its own that a label may look into: the horizons lie within a day."""
        return 1

    @model_validator(mode="after")
    def _within_a_day(self) -> Self:
        longest = max(self.plan.max_hold_minutes, self.bounds.horizon_minutes)
        if longest > MINUTES_A_DAY:
            raise BadInput("a label of a minute looks ahead within a day", f"{longest} minutes", "shorten the hold")
        return self
