"""What the exchanges allow on a day, one security at a time: boards, listing days, daily price limits.

For the referee alone. Written from the published rules a second time, in decimals, and on purpose without a line of
`pipeline.asof`: a judge that shares the code it judges repeats its mistakes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal

Board = Literal["SSE", "SZSE", "CHINEXT", "STAR", "BSE"]

CENT = Decimal("0.01")
BSE_OPENED = date(2021, 11, 15)
CHINEXT_REFORM = date(2020, 8, 24)  # 20%, and five sessions without limits for new listings
REGISTRATION = date(2023, 4, 10)  # the main boards' new listings: five sessions without limits
ARRANGEMENT_REFORM = date(2020, 12, 31)  # a delisting arrangement begins with a session without limits
ST_WIDENED = date(2026, 7, 6)  # main-board ST: 5% before, 10% from here on
# Least distance of a limit from its reference: one tick, by exchange.
TICK_APART = {"SH": date(2023, 4, 10), "SZ": date(2011, 2, 28)}


@dataclass(frozen=True)
class Standing:
    """Where a security stands on a day.

    Parameters
    ----------
    listed : date
        The vendor's listing day.
    sessions_listed : int
        Open sessions since that day, 0 on it.
    special : bool
        Under special treatment (ST, *ST).
    leaving_since : date or None
        First day of its delisting arrangement, if it is in one.
    """

    listed: date
    sessions_listed: int
    special: bool
    leaving_since: date | None


def board_of(code: str) -> Board | None:
    """Board of a vendor code; None for what is no A share."""
    digits, _, suffix = code.partition(".")
    if suffix == "SH":
        return "STAR" if digits[:3] in ("688", "689") else "SSE" if digits[:3] in ("600", "601", "603", "605") else None
    if suffix == "SZ":
        return "CHINEXT" if digits[:3] in ("300", "301", "302") else "SZSE" if digits[:2] == "00" else None
    return "BSE" if suffix == "BJ" and digits[:2] in ("43", "83", "87", "88", "92") else None


def first_day(code: str, listed: date) -> date:
    """First day on which it could be traded here; the BSE's own history begins with its opening."""
    return max(listed, BSE_OPENED) if board_of(code) == "BSE" else listed


def percent(code: str, day: date, standing: Standing) -> int | None:
    """Daily limit in percent of the reference price; None where there is none, or where no rule tells it."""
    board = board_of(code)
    if standing.leaving_since is not None:
        return _leaving(board, code, day, standing.leaving_since)
    if standing.sessions_listed < _free_sessions(board, standing.listed):
        return None
    if board == "BSE":
        return 30
    if board == "STAR" or (board == "CHINEXT" and day >= CHINEXT_REFORM):
        return 20
    narrow = standing.special and (board == "CHINEXT" or day < ST_WIDENED)
    return 5 if narrow else 10


def _free_sessions(board: Board | None, listed: date) -> int:
    """Sessions from the listing on whose limit is none, or hangs on an issue price that no table holds."""
    five = board == "STAR" or listed >= (CHINEXT_REFORM if board == "CHINEXT" else REGISTRATION)
    return 5 if five and board != "BSE" else 1


def _leaving(board: Board | None, code: str, day: date, since: date) -> int | None:
    """Inside a delisting arrangement; ChiNext between its two rules and SZSE's first day after mid-2020 are unknown."""
    free_from = {"SH": ARRANGEMENT_REFORM, "SZ": CHINEXT_REFORM, "BJ": BSE_OPENED}[code[-2:]]
    if day == since and day >= free_from:
        return None
    if board == "CHINEXT":
        return 10 if day < CHINEXT_REFORM else 20 if day >= ARRANGEMENT_REFORM else None
    return {"BSE": 30, "STAR": 20}.get(str(board), 10)


def price_limits(code: str, day: date, reference: float, standing: Standing) -> tuple[float, float] | None:
    """Lower and upper limit in CNY: the reference plus or minus its percentage, half up to the cent."""
    width = percent(code, day, standing)
    if width is None:
        return None
    exact = Decimal(repr(reference))
    lower, upper = (
        (exact * (100 + sign * width) / 100).quantize(CENT, rounding=ROUND_HALF_UP) for sign in (-1, 1)
    )
    apart = TICK_APART.get(code[-2:])
    if apart is not None and day >= apart:
        lower, upper = min(lower, exact - CENT), max(upper, exact + CENT)
    return float(lower), float(upper)
