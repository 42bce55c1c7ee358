"""The made-up trading calendar: weekends, and holidays where a real year has them."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np

from pipeline.calendars import Calendar
from pipeline.errors import BadInput

# Day one of the lunar year, which moves Spring Festival by up to a month.
LUNAR_NEW_YEAR = {
    2014: date(2014, 1, 31),
    2015: date(2015, 2, 19),
    2016: date(2016, 2, 8),
    2017: date(2017, 1, 28),
    2018: date(2018, 2, 16),
    2019: date(2019, 2, 5),
    2020: date(2020, 1, 25),
    2021: date(2021, 2, 12),
    2022: date(2022, 2, 1),
    2023: date(2023, 1, 22),
    2024: date(2024, 2, 10),
    2025: date(2025, 1, 29),
    2026: date(2026, 2, 17),
    2027: date(2027, 2, 6),
    2028: date(2028, 1, 26),
}


def holidays(year: int) -> set[date]:
    """Closed days of one year besides weekends: about 19 of them fall on weekdays."""
    if year not in LUNAR_NEW_YEAR:
        raise BadInput("the made-up calendar covers 2014..2028", year, "choose a last_session and length inside it")

    def stretch(first: date, days: int) -> set[date]:
        return {first + timedelta(days=i) for i in range(days)}

    def monday(near: date) -> date:
        return near - timedelta(days=near.weekday())

    return (
        {date(year, 1, 1)}
        | stretch(LUNAR_NEW_YEAR[year] - timedelta(days=1), 8)
        | stretch(date(year, 4, 4), 3)
        | stretch(date(year, 5, 1), 5)
        | {monday(date(year, 6, 18)), monday(date(year, 9, 23))}
        | stretch(date(year, 10, 1), 8)
    )


def open_days(first: date, last: date) -> list[date]:
    """Weekdays that are no holidays, both ends included."""
    closed = set().union(*(holidays(year) for year in range(first.year, last.year + 1)))
    days = (first + timedelta(days=i) for i in range((last - first).days + 1))
    return [day for day in days if day.weekday() < 5 and day not in closed]


def trading_calendar(last_session: date, sessions: int) -> tuple[Calendar, int]:
    """The calendar around a sample, and the ordinal of the sample's first session.

    It starts a year before the sample (so that listing ages can be counted) and ends with the year in which
    the 45th day after `last_session` lies.
    """
    if not open_days(last_session, last_session):
        raise BadInput("last_session must be open in the made-up calendar", last_session, "choose a session")
    start = last_session - timedelta(days=int(sessions * 1.7) + 40)
    before = open_days(start, last_session)
    first = before[-sessions]
    year_end = date((last_session + timedelta(days=45)).year, 12, 31)
    calendar = Calendar(tuple(open_days(date(first.year - 1, 1, 1), year_end)), year_end)
    return calendar, int(np.searchsorted(calendar.days, np.datetime64(first)))
