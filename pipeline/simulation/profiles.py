"""Sizes and knobs of a simulated market. Profiles change sizes, never logic."""

from __future__ import annotations

from datetime import date
from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline.spec import Spec


class Faults(Spec):
    """Named imperfections of the vendor, drawn per row from the profile's seed.

    Parameters
    ----------
    late_rate : float
        Share of rows that the vendor begins to serve only the next morning.
    revision_rate : float
        Share of rows first served wrong and corrected the next morning.
    missing_sessions : int
        Sessions whose `moneyflow` table stays empty until the evening of the next session.
    duplicate_rows : bool
        A page that follows another repeats that page's last row.
    stretch : int
        Faults fall into the last `stretch` sessions; 0 spreads them over the whole sample.
    """

    late_rate: float = Field(default=0.001, ge=0, le=1)
    revision_rate: float = Field(default=0.001, ge=0, le=1)
    missing_sessions: int = Field(default=0, ge=0)
    duplicate_rows: bool = False
    stretch: int = Field(default=30, ge=0)


class Profile(Spec):
    """What a market is made from.

    Parameters
    ----------
    instruments, sessions : int
        Securities ever listed inside the sample; traded sessions.
    last_session : date
        Last session of the sample; must be open in the made-up calendar.
    seed : int
        Everything follows from it, whatever the machine or the order of requests.
    signal : float
        Mean cross-sectional rank IC that the planted signal has with the executable return
        (T+1 open to T+3 close); 0 plants nothing.
    plant : "daily", "intraday" or "regime"
        What the signal is read from: five sessions of daily bars; the five-minute bars of one session; or daily
        bars with a sign that follows the market's regime, which shows in everybody's volume. See `planting`.
    minutes : bool
        Whether the vendor sells five-minute bars.
    rise : float
        Log return that every name gains inside each session, all the same: a market that goes up, or down, and in
        which nothing tells one name from another. 0.002 is 63% a year.
    """

    name: str
    instruments: int = Field(ge=30)
    sessions: int = Field(ge=100)
    last_session: date = date(2026, 9, 30)
    seed: int = Field(default=20_260_930, ge=0)
    signal: float = Field(default=0.0, ge=0, le=0.6)
    plant: Literal["daily", "intraday", "regime"] = "daily"
    minutes: bool = True
    rise: float = Field(default=0.0, ge=-0.005, le=0.005)
    faults: Faults = Faults()

    @model_validator(mode="after")
    def _sold(self) -> Self:
        if self.plant == "intraday" and not self.minutes:
            raise ValueError("an intraday plant needs minutes that are sold; set minutes, or plant another signal")
        return self


PROFILES: dict[str, Profile] = {
    "tiny": Profile(
        name="tiny",
        instruments=40,
        sessions=160,
        signal=0.3,
        faults=Faults(late_rate=0.003, revision_rate=0.003),
    ),
    "demo": Profile(name="demo", instruments=200, sessions=400, signal=0.15),
    "market": Profile(
        name="market",
        instruments=5_400,
        sessions=2_500,
        signal=0.05,
        minutes=True,
        faults=Faults(late_rate=0.0001, revision_rate=0.0001),
    ),
}
