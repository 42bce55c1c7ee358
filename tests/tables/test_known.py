"""Publication times: what a row may be used for is decided here, so every rule is pinned to an instant."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import BadInput
from pipeline.tables.known import Published
from pipeline.tables.tushare import TABLES

SHANGHAI = ZoneInfo("Asia/Shanghai")


def local(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=SHANGHAI).astimezone(UTC)


def known(table: str, **values: object) -> datetime:
    spec = TABLES[table]
    return spec.known_at(spec.empty().clear(1).with_columns(
        pl.lit(v).cast(spec.schema[c]).alias(c) for c, v in values.items()
    ))["known_at"].item()


@pytest.mark.parametrize(("table", "at"), [
    ("stk_limit", "08:40"), ("stock_st", "09:20"), ("adj_factor", "09:30"), ("daily", "17:00"),
    ("index_daily", "17:00"), ("daily_basic", "19:00"), ("moneyflow", "19:00"), ("suspend_d", "20:00"),
])
def test_session_tables_are_known_at_the_late_end_of_their_documented_hours(table: str, at: str):
    """An hour too early lets an afternoon decision read an evening table."""
    assert known(table, trade_date=date(2024, 1, 2)) == local(f"2024-01-02T{at}")
    assert TABLES[table].published_at(date(2024, 1, 2)) == local(f"2024-01-02T{at}")


def test_minutes_are_known_in_the_evening_of_their_day():
    """A 09:35 bar is no news at 09:36: the vendor ships minutes in the evening."""
    assert known("stk_mins", trade_time=datetime(2024, 1, 2, 9, 35)) == local("2024-01-02T20:00")


def test_a_year_of_the_calendar_is_known_before_it_begins():
    """Known day by day, a backtest could not name the session after the decision."""
    assert known("trade_cal", cal_date=date(2024, 10, 8)) == local("2023-12-31T23:59")


def test_names_are_known_when_announced():
    """With the start of validity alone, a name announced late would be known too early."""
    start, announced = date(2024, 1, 5), date(2024, 1, 4)
    assert known("namechange", start_date=start, ann_date=announced) == local("2024-01-04T20:00")
    assert known("namechange", start_date=start) == local("2024-01-05T20:00")


def test_memberships_are_not_known_before_their_classification_was_published():
    """SW2021 was mapped back to 2014 and before: nobody could read it there."""
    assert known("index_member_all", in_date=date(2015, 1, 5)) == local("2021-07-30T20:00")
    assert known("index_member_all", in_date=date(2022, 1, 5)) == local("2022-01-05T20:00")


def test_a_snapshot_shows_each_column_only_from_its_own_day():
    """Survivorship: today's download tells who will be delisted, and what everyone is called today."""
    spec = TABLES["stock_basic"]
    row = spec.typed(pl.DataFrame({
        "ts_code": ["A", "B"], "name": ["退市甲", "乙"], "industry": ["银行", "银行"],
        "list_status": ["D", "L"], "list_date": ["20200106", "20230103"], "delist_date": ["20220505", None],
    }))
    assert spec.seen_at(row, local("2020-01-05T23:59")).is_empty()
    before = spec.seen_at(row, local("2022-05-04T23:59"))
    assert before["ts_code"].to_list() == ["A"]
    assert before.select("delist_date", "name", "industry", "list_status").row(0) == (None, None, None, None)
    after = spec.seen_at(row, local("2023-06-01T12:00"))
    assert after["delist_date"].to_list() == [date(2022, 5, 5), None]
    assert after["name"].null_count() == 2


def test_every_row_that_passes_the_check_has_an_instant():
    """A row without `known_at` is never read, or always: every table needs a day that may not be null."""
    for spec in TABLES.values():
        days = [c.name for c in spec.columns if c.dtype.is_temporal() and not c.nullable]
        assert set(days) & set(spec.known.day), spec.name


def test_snapshots_have_no_sessions():
    """A month's scan that filtered snapshots by event would lose the ST history before it."""
    for spec in TABLES.values():
        assert (spec.event is None) == (spec.layout == "snapshot"), spec.name
    with pytest.raises(BadInput, match="event column"):
        TABLES["namechange"].published_at(date(2024, 1, 2))


@given(
    day=st.dates(date(1950, 1, 1), date(2035, 12, 31)), days=st.integers(-3, 3),
    at=st.sampled_from([time(0), time(8, 40), time(17), time(20), time(23, 59)]),
)
def test_wall_times_equal_the_standard_librarys(day: date, at: time, days: int):
    """Shanghai had daylight saving from 1986 to 1991: a fixed offset of eight hours is wrong there."""
    rule = Published(at, ("day",), days=days)
    got = pl.DataFrame({"day": [day]}).select(rule.instant("Asia/Shanghai")).item()
    wall = datetime.combine(date.fromordinal(day.toordinal() + days), at)
    expected = {wall.replace(tzinfo=SHANGHAI, fold=fold).astimezone(UTC) for fold in (0, 1)}
    assert got == max(expected)
