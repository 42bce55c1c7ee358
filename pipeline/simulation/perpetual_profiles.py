"""Sizes and knobs of a simulated perpetual, and its contracts. Profiles change sizes, never logic."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Self

from pydantic import Field, field_validator, model_validator

from pipeline.errors import BadInput
from pipeline.spec import Spec

MINUTES_A_DAY = 1440


@dataclass(frozen=True)
class Contract:
    """A symbol's grid and scale.

    Parameters
    ----------
    ticks, steps : int
        Price ticks a unit of quote, size steps a unit of base: powers of ten.
    price : float
        Typical price at the sample's first minute, quote.
    turnover : float
        Median base volume of a minute.
    trade : float
        Median base size of a trade.
    """

    ticks: int
    steps: int
    price: float
    turnover: float
    trade: float


CONTRACTS = {
    "BTCUSDT": Contract(ticks=10, steps=1_000, price=60_000.0, turnover=60.0, trade=0.06),
    "ETHUSDT": Contract(ticks=100, steps=1_000, price=3_000.0, turnover=900.0, trade=0.8),
}
OTHER = Contract(ticks=1_000, steps=10, price=20.0, turnover=20_000.0, trade=50.0)


def contract_of(symbol: str) -> Contract:
    """The grid of a symbol; any name that is not listed trades like a middling coin."""
    return CONTRACTS.get(symbol, OTHER)


class PerpetualFaults(Spec):
    """Named imperfections of the exchange and of its vendors; places are drawn from the profile's seed and the symbol.

    Parameters
    ----------
    outages, outage_minutes : int
        Stretches without candles and books, while prices move on, and the length of each.
    flat_minutes : int
        Minutes without a trade, which are there as flat rows.
    republished : int
        Days whose archive file first lacks `outage_minutes` minutes and is published whole four days later.
    missing_book_days : int
        Days without a file of book snapshots.
    funding_jitter_ms : int
        Settlement stamps come up to so many milliseconds late.
    """

    outages: int = Field(default=1, ge=0)
    outage_minutes: int = Field(default=80, ge=1, le=MINUTES_A_DAY // 2)
    flat_minutes: int = Field(default=20, ge=0)
    republished: int = Field(default=1, ge=0)
    missing_book_days: int = Field(default=1, ge=0)
    funding_jitter_ms: int = Field(default=7, ge=0, lt=500)


class PerpetualProfile(Spec):
    """What a simulated perpetual is made from.

    Parameters
    ----------
    symbols : tuple of str
        A symbol's minutes depend on its name and the fields below, never on the other symbols.
    days : int
        UTC days of minutes.
    last_day : date
        The last of them.
    seed : int
        Everything follows from it, whatever the machine or the order of requests.
    signal : float
        Rank correlation over minutes between the planted order-flow pressure, known at the minute's close, and the
        return over the next `horizon` minutes; 0 plants nothing.
    horizon : int
        Minutes over which the pressure pays.
    """

    name: str
    symbols: tuple[str, ...] = Field(default=("BTCUSDT",), min_length=1)
    days: int = Field(ge=4)
    last_day: date = date(2026, 6, 30)
    seed: int = Field(default=20_260_630, ge=0)
    signal: float = Field(default=0.0, ge=0, le=0.6)
    horizon: int = Field(default=45, ge=1, le=MINUTES_A_DAY)
    faults: PerpetualFaults = PerpetualFaults()

    @field_validator("symbols")
    @classmethod
    def _named(cls, symbols: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [name for name in symbols if not (name.isascii() and name.isalnum() and name.endswith("USDT"))]
        if wrong or len(set(symbols)) < len(symbols):
            raise BadInput("symbols are distinct and end with USDT", list(symbols), "write them like BTCUSDT")
        return symbols

    @model_validator(mode="after")
    def _room(self) -> Self:
        broken = self.faults.republished + self.faults.missing_book_days + self.faults.outages
        if broken > self.days - 3:
            raise BadInput("each fault has a day of its own, and three days have none", f"{broken} of {self.days} days",
                           "lower the faults or raise the days")
        return self

    @property
    def first_day(self) -> date:
        return self.last_day - timedelta(days=self.days - 1)


PERPETUALS: dict[str, PerpetualProfile] = {
    "tiny": PerpetualProfile(name="tiny", days=6, signal=0.2),
    "demo": PerpetualProfile(name="demo", days=183, signal=0.25),
    "long": PerpetualProfile(name="long", days=730, signal=0.25, faults=PerpetualFaults(
        outages=4, flat_minutes=80, republished=2, missing_book_days=3)),
}
