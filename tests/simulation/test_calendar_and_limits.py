"""The made-up calendar and the exchange's own limits."""

from __future__ import annotations

from datetime import date
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import BadInput
from pipeline.simulation import limits
from pipeline.simulation.sessions import holidays, trading_calendar


def test_dated_rules_fall_on_open_sessions() -> None:
    """Pins a calendar in which a rule's first day is closed, so that the demo would never meet it."""
    calendar, first = trading_calendar(date(2026, 9, 30), 400)
    for day in (date(2025, 5, 6), date(2025, 10, 9), date(2026, 7, 6)):
        assert calendar.ordinal(day) >= first
    assert calendar.sessions[first + 399] == date(2026, 9, 30)
    assert calendar.known_until == date(2026, 12, 31)


def test_weekends_and_holidays_are_closed() -> None:
    """Pins a session on a weekend or a holiday, and a year with an unrealistic number of sessions."""
    calendar, _ = trading_calendar(date(2026, 9, 30), 400)
    assert all(day.weekday() < 5 and day not in holidays(day.year) for day in calendar.sessions)
    assert 238 <= sum(day.year == 2025 for day in calendar.sessions) <= 246


@pytest.mark.parametrize("day", [date(2026, 10, 1), date(2026, 9, 26), date(2031, 3, 3)])
def test_impossible_last_session_is_refused(day: date) -> None:
    """Pins a sample that silently ends on another day than the one asked for."""
    with pytest.raises(BadInput):
        trading_calendar(day, 100)


@pytest.mark.parametrize(
    ("reference", "bps", "lower", "upper"),
    [(535, 1000, 482, 589), (505, 1000, 455, 556), (510, 500, 485, 536), (95, 1000, 86, 105), (1365, 1000, 1229, 1502)],
)
def test_limits_round_half_up(reference: int, bps: int, lower: int, upper: int) -> None:
    """Pins banker's or binary rounding: these references have a tie that floats get wrong."""
    assert limits.limit_ticks(reference, bps) == (lower, upper)


@given(st.integers(50, 200_000), st.sampled_from([500, 1000, 2000, 3000]))
def test_limits_equal_decimal_arithmetic(reference: int, bps: int) -> None:
    """Pins any reference at which the integer formula leaves exact decimal half-up rounding."""
    exact = [
        int((Decimal(reference) * (10_000 + sign * bps) / 10_000).quantize(Decimal(1), ROUND_HALF_UP))
        for sign in (-1, 1)
    ]
    assert limits.limit_ticks(reference, bps) == (min(exact[0], reference - 1), max(exact[1], reference + 1))


@pytest.mark.parametrize(
    ("board", "day", "is_st", "bps"),
    [
        (limits.MAIN_SSE, date(2026, 7, 3), True, 500),
        (limits.MAIN_SZSE, date(2026, 7, 6), True, 1000),
        (limits.CHINEXT, date(2020, 8, 21), False, 1000),
        (limits.CHINEXT, date(2020, 8, 24), True, 2000),
        (limits.STAR, date(2024, 1, 2), True, 2000),
        (limits.BSE, date(2024, 1, 2), False, 3000),
    ],
)
def test_bands_follow_their_dates(board: int, day: date, is_st: bool, bps: int) -> None:
    """Pins a band that changes a session too early or too late."""
    assert limits.band(board, day, is_st) == bps


def test_first_sessions_without_limits() -> None:
    """Pins a newcomer that is limited although its board's rule leaves it free, or the other way round."""
    assert limits.first_sessions(limits.MAIN_SSE, date(2026, 1, 5)) == [limits.NO_LIMIT] * 5
    assert limits.first_sessions(limits.MAIN_SSE, date(2020, 1, 6)) == [limits.ISSUE_DAY]
    assert limits.first_sessions(limits.BSE, date(2026, 1, 5)) == [limits.NO_LIMIT]
    assert limits.limit_ticks(1_000, limits.ISSUE_DAY) == (640, 1440)


def test_a_panel_of_bands_equals_the_rule_row_by_row() -> None:
    """Pins the vectorised table against the rule it tabulates."""
    days = [date(2026, 7, 3), date(2026, 7, 6)]
    board = np.array([0, 1, 2, 3, 4])
    special = np.array([[True] * 5, [True] * 5])
    expected = [[limits.band(b, day, True) for b in range(5)] for day in days]
    assert limits.bands(board, days, special).tolist() == expected
