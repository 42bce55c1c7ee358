"""How positions are executed and what it costs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.spec import Spec


class ExecutionSpec(Spec):
    """Overlapping sleeves: in at the next open, out at a later close.

    Parameters
    ----------
    sleeves : int
        Equal books that take turns, one decision each; at least `exit_session`, so that a sleeve is free at
        its turn.
    exit_session : int
        Sessions after the decision at whose close a sleeve leaves; at least 2, since entry is at session 1
        and what was bought may be sold from the next session only (T+1 settlement).
    buy_cost_bps, sell_cost_bps : float
        Slippage, fees and stamp duty together.
    random_books : int
        Books of names drawn at random under the same protocol and costs.
    capital : float
        CNY, for lots and capacity.
    participation_cap : float
        Largest share of a session's traded amount one order may take.
    delisting_haircut : float
        Loss on the last known price when a held name stops trading for good.
    """

    family: Literal["sleeves"] = "sleeves"
    sleeves: int = Field(default=3, ge=1)
    exit_session: int = Field(default=3, ge=2)
    buy_cost_bps: float = Field(default=12.6, ge=0)
    sell_cost_bps: float = Field(default=17.6, ge=0, lt=10_000)
    random_books: int = Field(default=200, ge=1)
    capital: float = Field(default=10_000_000.0, gt=0)
    participation_cap: float = Field(default=0.05, gt=0, le=1)
    delisting_haircut: float = Field(default=0.5, ge=0, le=1)
    seed: int = 11

    @model_validator(mode="after")
    def _turns(self) -> ExecutionSpec:
        if self.sleeves < self.exit_session:
            raise ValueError(
                f"a sleeve must be free at its turn: sleeves >= exit_session; "
                f"got {self.sleeves} and {self.exit_session}"
            )
        return self


class PlanExecutionSpec(Spec):
    """One position at a time under the price plan of the labels, which also says what a trade costs."""

    family: Literal["price_plan"] = "price_plan"
