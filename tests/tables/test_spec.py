"""Rows in, typed rows out: whatever a vendor or a dump may send ends up typed, or named and refused."""

from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipeline.calendars import Calendar
from pipeline.errors import BadInput, CalendarError, KeyViolation, SchemaError
from pipeline.tables.tushare import TABLES

FACTOR, CAL, BASIC, NAMES = (TABLES[n] for n in ("adj_factor", "trade_cal", "stock_basic", "namechange"))
SUSPEND, MEMBERS, MINUTES, DAILY = (TABLES[n] for n in ("suspend_d", "index_member_all", "stk_mins", "daily"))


def factors(*rows: tuple[str | None, object, object]) -> pl.DataFrame:
    return FACTOR.parse(["ts_code", "trade_date", "adj_factor"], rows)


def test_server_column_order_does_not_matter():
    """Values filed under the wrong name when the server orders its columns in its own way."""
    frame = FACTOR.parse(["adj_factor", "trade_date", "ts_code"], [[108.031, "20180809", "000001.SZ"]])
    assert frame.row(0) == ("000001.SZ", date(2018, 8, 9), 108.031)
    assert frame.columns == list(FACTOR.names)


@pytest.mark.parametrize("opened", [1, 1.0, "1"])
def test_json_types_are_not_trusted(opened: object):
    """is_open is documented as text, sampled as an integer, and integers have come as floats."""
    frame = CAL.parse(list(CAL.names), [["SSE", "20240102", opened, None]])
    assert frame.row(0) == ("SSE", date(2024, 1, 2), 1, None)
    assert frame.schema["is_open"] == pl.Int8


def test_a_column_of_mixed_numbers_keeps_every_value():
    """Integers, floats, numeric text, nulls and empty text: a silent null would hide a price."""
    values = [1, 2.5, "3.5", None, "", " NaN ", "NULL", float("nan")]
    frame = factors(*[("A", f"2024010{i + 1}", v) for i, v in enumerate(values)])
    assert frame["adj_factor"].to_list() == [1.0, 2.5, 3.5, *[None] * 5]


@pytest.mark.parametrize(
    ("field", "value"), [("adj_factor", "n/a"), ("trade_date", "2024-13-01"), ("trade_date", 2024)]
)
def test_a_value_of_another_type_is_named(field: str, value: object):
    """A value that cannot be converted must not become null."""
    row = {"ts_code": "A", "trade_date": "20240102", "adj_factor": 1.0, field: value}
    with pytest.raises(SchemaError, match=field) as caught:
        FACTOR.parse(list(row), [list(row.values())])
    assert f"observed: {value!r}" in str(caught.value)


def test_a_fraction_is_no_integer():
    """A fractional value in an integer column cut down without a word."""
    with pytest.raises(SchemaError, match="is_open"):
        CAL.parse(list(CAL.names), [["SSE", "20240102", 0.5, None]])


def test_unknown_and_missing_columns_are_named():
    """A renamed vendor column shows up as data of the wrong meaning, or as silent nulls."""
    with pytest.raises(SchemaError, match=r"unknown \['factor'\]"):
        FACTOR.parse(["ts_code", "trade_date", "factor"], [["A", "20240102", 1.0]])
    with pytest.raises(SchemaError, match=r"missing \['adj_factor'\]"):
        FACTOR.parse(["ts_code", "trade_date"], [["A", "20240102"]])
    with pytest.raises(SchemaError, match="unique"):
        FACTOR.parse(["ts_code", "trade_date", "adj_factor", "ts_code"], [["A", "20240102", 1.0, "A"]])


def test_a_vendor_answer_may_lack_only_undocumented_columns():
    """`ah_vol` is named by a secondary source only: its absence must not stop `daily`; `change`'s must."""
    sure = [c.name for c in DAILY.columns if c.documented]
    row = ["A", "20240102", *[1.0] * (len(sure) - 2)]
    assert DAILY.parse(sure, [row])["ah_vol"].null_count() == 1
    with pytest.raises(SchemaError, match="change"):
        DAILY.parse([n for n in sure if n != "change"], [row[1:]])


@pytest.mark.parametrize("items", [[["A", "20240102"]], [["A", "20240102", 1.0], ["B", "20240102"]], [None], [7]])
def test_a_ragged_row_is_refused(items: list[list[object]]):
    """Rows cut in transit shift values into their neighbours' columns."""
    with pytest.raises(SchemaError, match="3 values"):
        FACTOR.parse(["ts_code", "trade_date", "adj_factor"], items)


def test_an_empty_answer_is_an_empty_table():
    """A holiday answers with no items, sometimes with no fields either."""
    for fields in ([], ["ts_code", "trade_date", "adj_factor"]):
        assert_frame_equal(FACTOR.parse(fields, []), FACTOR.empty())


@pytest.mark.parametrize("days", [
    ["20240102", None], ["2024-01-02", None], ["2024/01/02", ""], [20240102, None],
    [20240102.0, float("nan")],
    [date(2024, 1, 2), None], [datetime(2024, 1, 2), None], [datetime(2024, 1, 1, 16, tzinfo=UTC), None],
])
def test_dumps_write_days_in_many_ways(days: list[object]):
    """Pandas turns a date column with gaps into floats, and midnight in Shanghai into the UTC day before."""
    frame = BASIC.typed(pl.DataFrame({
        "ts_code": ["A", "B"], "list_date": ["19910403", "19910403"],
        "delist_date": pl.Series(days, strict=False),
    }))
    assert frame["delist_date"].to_list() == [date(2024, 1, 2), None]


@given(st.lists(st.tuples(st.dates(date(1990, 12, 19), date(2035, 1, 1)), st.floats(1e-6, 1e6)), max_size=20))
def test_every_form_of_the_same_rows_is_the_same_frame(rows: list[tuple[date, float]]):
    """The vendor's answer, a CSV dump and a Parquet dump of one table must be one table."""
    codes = [f"{i:06d}.SZ" for i in range(len(rows))]
    days, values = [d for d, _ in rows], [v for _, v in rows]
    items = [[code, f"{day:%Y%m%d}", value] for code, day, value in zip(codes, days, values, strict=True)]
    answer = FACTOR.parse(list(FACTOR.names), items)
    text = {"ts_code": codes, "trade_date": [str(d) for d in days], "adj_factor": [repr(v) for v in values]}
    native = {"adj_factor": values, "trade_date": days, "ts_code": codes}
    assert_frame_equal(FACTOR.typed(pl.DataFrame(text, schema=dict.fromkeys(text, pl.String))), answer)
    schema = {"adj_factor": pl.Float64, "trade_date": pl.Date, "ts_code": pl.Categorical}
    assert_frame_equal(FACTOR.typed(pl.DataFrame(native, schema=schema)), answer)


def test_minutes_are_local_times():
    """A tz-aware dump of minute bars moves every bar by eight hours."""
    bars = {c: [1.0] for c in ("open", "close", "high", "low", "vol", "amount")}
    end = datetime(2024, 1, 2, 9, 35)
    for stamp in ("2024-01-02 09:35:00", end, datetime(2024, 1, 2, 1, 35, tzinfo=UTC)):
        frame = MINUTES.typed(pl.DataFrame({"ts_code": ["A"], "trade_time": [stamp], **bars}))
        assert frame["trade_time"].to_list() == [end]
    assert MINUTES.published_at(date(2024, 1, 2)) == datetime(2024, 1, 2, 12, tzinfo=UTC)


def test_null_and_doubled_keys_are_named():
    """A doubled row counts twice in a cross-section; a row without a code belongs to nobody."""
    with pytest.raises(KeyViolation, match=r"ts_code must not be null.*2024, 1, 3"):
        FACTOR.check(factors(("A", "20240102", 1.0), (None, "20240103", 1.0)))
    with pytest.raises(KeyViolation, match="'A'"):
        FACTOR.check(factors(("A", "20240102", 1.0), ("A", "20240102", 2.0)))


def test_a_null_timing_is_a_value_of_the_key():
    """A whole-day suspension has no timing; it is neither an error nor two different rows when sent twice."""
    fields = ["ts_code", "trade_date", "suspend_timing", "suspend_type"]
    rows = [["A", "20240102", None, "S"], ["A", "20240102", "09:30-10:00", "S"]]
    SUSPEND.check(SUSPEND.parse(fields, rows))
    with pytest.raises(KeyViolation):
        SUSPEND.check(SUSPEND.parse(fields, [rows[0], rows[0]]))


def test_dates_in_the_future_and_outside_the_calendar_are_refused():
    """A wrong clock, or Sunday's rows, enter as history."""
    frame = factors(("A", "20240102", 1.0), ("A", "20240107", 1.0))
    with pytest.raises(BadInput, match=r"after today.*2024-01-07"):
        FACTOR.check(frame, today=date(2024, 1, 6))
    calendar = Calendar((date(2024, 1, 2), date(2024, 1, 8)), date(2024, 1, 9))
    with pytest.raises(CalendarError, match="2024-01-07"):
        FACTOR.check(frame, calendar=calendar)
    announced = SUSPEND.parse(list(SUSPEND.names), [["A", "20240109", None, "S"]])
    SUSPEND.check(announced, today=date(2024, 1, 2))


def test_a_gap_in_the_calendar_is_refused():
    """A cut trade_cal loses a session, and every label span that crosses it is a day short."""
    days = [["SSE", d, 1, None] for d in ("20240102", "20240103", "20240105")]
    with pytest.raises(CalendarError, match="between 2024-01-03 and 2024-01-05"):
        CAL.check(CAL.parse(list(CAL.names), days))


def test_repeated_rows_settle_and_differing_ones_do_not():
    """Offset paging repeats rows: repeats go, contradictions must stay visible to the key check."""
    rows = factors(("B", "20240102", 1.0), ("A", "20240103", 1.0), ("B", "20240102", 1.0))
    assert FACTOR.settle(rows)["ts_code"].to_list() == ["B", "A"]
    with pytest.raises(KeyViolation):
        FACTOR.check(FACTOR.settle(factors(("A", "20240102", 1.0), ("A", "20240102", 2.0))))


def test_a_name_announced_twice_was_known_at_the_first():
    """namechange repeats an interval under a later announcement; keeping that one would admit ST names."""
    fields = ["ts_code", "name", "start_date", "end_date", "ann_date", "change_reason"]
    rows = [
        ["A", "ST甲", "20240105", None, None, "ST"], ["A", "ST甲", "20240105", None, "20240110", "ST"],
        ["A", "ST甲", "20240105", "20240301", "20240104", "ST"],
    ]
    kept = NAMES.settle(NAMES.parse(fields, rows))
    assert kept["ann_date"].to_list() == [date(2024, 1, 4)]
    assert kept["end_date"].to_list() == [date(2024, 3, 1)]
