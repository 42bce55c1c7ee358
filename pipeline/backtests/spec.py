"""How positions are executed and what it costs."""

from __future__ import annotations

from pydantic import Field

from pipeline.spec import Spec


class ExecutionSpec(Spec):
    """Overlapping sleeves: in at the next open, out at a later close.

    Parameters
    ----------
    sleeves : int
        Equal books that take turns, one decision each.
    exit_session : int
        Sessions after the decision at whose close a sleeve leaves.
    buy_cost_bps, sell_cost_bps : float
        Slippage, fees and stamp duty together.
    random_books : int
        Books of names drawn at random under the same protocol and costs.
    capital : float
        CNY, for lots and capacity.
    participation_cap : float
        Largest share of a session's traded amount one order may take.
    delisting_haircut : float
        Loss on the last tradable price when a held name stops trading for good.
    """

    sleeves: int = Field(default=3, ge=1)
    exit_session: int = Field(default=3, ge=1)
    buy_cost_bps: float = Field(default=12.6, ge=0)
    sell_cost_bps: float = Field(default=17.6, ge=0)
    random_books: int = Field(default=200, ge=1)
    capital: float = Field(default=10_000_000.0, gt=0)
    participation_cap: float = Field(default=0.05, gt=0, le=1)
    delisting_haircut: float = Field(default=0.5, ge=0, le=1)
    seed: int = 11
