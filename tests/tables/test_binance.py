"""Binance rows: units of time, headers, order, impossible candles, gaps, funding, contracts; minute books; feeds."""

from __future__ import annotations

import gzip
import zipfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipeline.errors import BadInput, KeyViolation, SchemaError
from pipeline.tables.binance import BOOK_1M, FUNDING_RATE, KLINES_1M, SPOT_KLINES_1M, TABLES
from pipeline.tables.binance_rows import (
    FUNDING_FIELDS,
    KLINE_FIELDS,
    closed_before,
    csv_columns,
    exchange_info_json,
    funding_json,
    funding_rows,
    kline_json,
    kline_rows,
    minute_gaps,
)
from tests.fake_binance import UM_HEADER, candles, contract, csv, settlements

DAY = datetime(2024, 12, 31)


def raw(rows: list[list], **changes: list) -> pl.DataFrame:
    """Rows as an archive's columns, some of them replaced."""
    frame = csv_columns(csv(rows), KLINE_FIELDS, "made up")
    return frame.with_columns(pl.Series(name, values) for name, values in changes.items())


def test_a_header_changes_nothing():
    """Old futures files have no header: a client that skips a line loses a minute, one that does not fails."""
    rows = candles(DAY, 5)
    assert_frame_equal(csv_columns(csv(rows), KLINE_FIELDS, "a"), csv_columns(csv(rows, UM_HEADER), KLINE_FIELDS, "a"))


def test_the_unit_of_time_is_told_by_each_value():
    """Spot files are in microseconds from 2025 on; read as milliseconds they lie in the year 56,970."""
    rows = candles(datetime(2024, 12, 31, 23, 58), 4)
    mixed = [r if i < 2 else [r[0] * 1000, *r[1:6], r[6] * 1000 + 999, *r[7:]] for i, r in enumerate(rows)]
    got = kline_rows(raw(mixed), "BTCUSDT", SPOT_KLINES_1M)
    assert got["open_time"].to_list() == [datetime(2024, 12, 31, 23, 58) + timedelta(minutes=i) for i in range(4)]


def test_the_interface_and_the_archive_give_equal_rows():
    """A day fetched one way and then the other must be no revision."""
    rows = candles(DAY, 30)
    assert_frame_equal(kline_json(rows, "BTCUSDT"), kline_rows(raw(rows), "BTCUSDT"))


def test_other_columns_are_refused_by_name():
    """A changed file must not be read by position."""
    with pytest.raises(SchemaError, match="turnover"):
        csv_columns(csv(candles(DAY, 2), UM_HEADER.replace("quote_volume,", "turnover,", 1)), KLINE_FIELDS, "x.zip")
    with pytest.raises(SchemaError, match=r"x\.zip must have the columns"):
        csv_columns(b"1,2,3\n", KLINE_FIELDS, "x.zip")
    with pytest.raises(SchemaError, match=r"x\.zip must hold numbers"):
        csv_columns(csv(candles(DAY, 2)).replace(b"100.00", b"none!"), KLINE_FIELDS, "x.zip")


def test_a_cut_line_is_refused():
    """polars fills a short last line with nulls in silence."""
    cut = csv(candles(DAY, 3))[:-60]
    with pytest.raises(BadInput, match="must not be null"):
        kline_rows(csv_columns(cut, KLINE_FIELDS, "x.zip"), "BTCUSDT")


def test_doubled_minutes_are_refused():
    """A repeat would double a return of zero."""
    rows = candles(DAY, 4)
    with pytest.raises(KeyViolation, match="must not repeat"):
        kline_rows(raw([*rows[:2], rows[1], *rows[2:]]), "BTCUSDT")


def test_minutes_out_of_order_are_refused():
    """Sorting in silence would hide a file that was put together wrongly."""
    rows = candles(DAY, 4)
    with pytest.raises(BadInput, match="must ascend"):
        kline_rows(raw([rows[0], rows[2], rows[1], rows[3]]), "BTCUSDT")


@pytest.mark.parametrize(("column", "value", "rule"), [
    ("open_time", 1735603200500, "whole minutes"),
    ("close_time", 1735603300000, "close inside the minute"),
    ("open", 0.0, "finite and above zero"),
    ("close", float("inf"), "finite and above zero"),
    ("high", 1.0, "enclose"),
    ("volume", -1.0, "not below zero"),
    ("taker_buy_volume", 1e9, "takers do not buy more"),
])
def test_impossible_candles_are_refused(column: str, value: float, rule: str):
    """Each would pass as data and become a return, a spike or an imbalance."""
    frame = raw(candles(DAY, 3)).with_columns(
        pl.when(pl.int_range(pl.len()) == 0).then(pl.lit(value)).otherwise(pl.col(column))
        .cast(pl.Int64 if column.endswith("time") else pl.Float64).alias(column)
    )
    with pytest.raises(BadInput, match=rule):
        kline_rows(frame, "BTCUSDT")


@given(st.sets(st.integers(0, 2879), max_size=40))
@settings(max_examples=40, deadline=None)
def test_gaps_are_all_missing_minutes_and_no_other(missing: set[int]):
    """A gap that is not reported becomes a window that spans it."""
    start = datetime(2024, 1, 1)
    held = [start + timedelta(minutes=i) for i in range(2880) if i not in missing]
    rows = pl.DataFrame({"symbol": ["A"] * len(held), "open_time": pl.Series(held, dtype=pl.Datetime("us"))})
    gaps = minute_gaps(rows, date(2024, 1, 1), date(2024, 1, 2))
    found = {
        int((first - start).total_seconds()) // 60 + i
        for _, first, _, minutes in gaps.iter_rows() for i in range(minutes)
    }
    assert found == missing
    assert all(last - first == timedelta(minutes=n - 1) for _, first, last, n in gaps.iter_rows())


def test_gaps_stay_inside_their_symbol_and_midnight_is_none():
    """The end of one symbol and the start of the next are no hole."""
    rows = pl.concat([kline_rows(raw(candles(datetime(2024, 1, 1, 23, 50), 20)), s) for s in ("A", "B")])
    assert minute_gaps(rows).is_empty()


def test_only_final_candles_are_kept():
    """The running minute's candle changes until it closes; a close at the server's very time is not over."""
    rows = kline_json(candles(DAY, 3), "BTCUSDT")
    last_close = 1735603200000 + 3 * 60_000 - 1
    assert closed_before(rows, last_close).height == 2
    assert closed_before(rows, last_close + 1).height == 3


def test_a_minute_is_known_when_it_closes_and_a_day_when_it_is_over():
    """Known at its open, a candle would show a decision its own close; asked at its first minute, a day is cut."""
    rows = KLINES_1M.known_at(kline_json(candles(DAY, 1), "BTCUSDT"))
    assert rows["known_at"].item() == datetime(2024, 12, 31, 0, 1, tzinfo=UTC)
    over = datetime(2025, 1, 1, tzinfo=UTC)
    for spec in (KLINES_1M, SPOT_KLINES_1M, BOOK_1M, FUNDING_RATE):
        assert spec.published_at(DAY.date()) == over


def test_every_table_declares_what_the_lake_needs():
    """A table without symbol in its key would mix instruments."""
    for spec in TABLES.values():
        assert spec.key[0] == "symbol"
        assert spec.zone == "UTC"
        assert set(spec.key) <= set(spec.names)


def test_funding_is_kept_to_the_second_with_its_own_interval():
    """Jitter would make two settlements of one; an assumed 8 hours would halve a 4-hour symbol's cost."""
    rows = funding_json(settlements(datetime(2024, 1, 1), 4, 4), "X", hours=8)
    assert rows["calc_time"].to_list() == [datetime(2024, 1, 1, 4 * i) for i in range(4)]
    assert rows["funding_interval_hours"].to_list() == [8, 4, 4, 4]
    assert rows["mark_price"].to_list() == [None, 42300.0, 42300.0, 42300.0]


def test_a_hole_between_settlements_is_no_interval():
    """16 hours between two rows of an 8-hour symbol are a missing row."""
    rows = settlements(datetime(2024, 1, 1), 5, 8)
    assert funding_json([*rows[:2], *rows[3:]], "X", hours=8)["funding_interval_hours"].to_list() == [8, 8, 8, 8]


def test_the_archives_funding_reads_alike():
    """The archive has the interval and no mark price."""
    content = b"calc_time,funding_interval_hours,last_funding_rate\n1704067200007,8,0.0001\n1704096000000,8,-0.0002\n"
    rows = funding_rows(csv_columns(content, FUNDING_FIELDS, "x"), "X")
    assert rows["calc_time"].to_list() == [datetime(2024, 1, 1), datetime(2024, 1, 1, 8)]
    assert rows["last_funding_rate"].to_list() == [0.0001, -0.0002]
    with pytest.raises(BadInput, match="interval 1 to 24"):
        funding_rows(csv_columns(content.replace(b",8,0.0001", b",0,0.0001"), FUNDING_FIELDS, "x"), "X")


def test_contracts_are_rows_and_unknown_fields_pass():
    """The vendor adds fields without notice; precision is not the tick."""
    got = exchange_info_json({"symbols": [contract("ETHUSDT"), contract("BTCUSDT", status="SETTLING")]})
    row = got.row(0, named=True)
    assert got["symbol"].to_list() == ["BTCUSDT", "ETHUSDT"]
    assert (row["status"], row["tick_size"], row["step_size"], row["min_notional"]) == ("SETTLING", 0.1, 0.001, 100.0)
    assert row["market_step_size"] is None
    assert row["onboard_date"] == datetime(2019, 9, 25, 8)
    with pytest.raises(SchemaError, match="lists symbols"):
        exchange_info_json({"symbols": []})


@pytest.mark.realdata
def test_a_real_year_of_minutes_has_one_hole(realdata: Path):
    """525,520 rows, and the 80 minutes of the outage of 2023-03-24 as one gap."""
    for symbol in ("BTCUSDT", "ETHUSDT"):
        rows = kline_rows(pl.read_parquet(realdata / f"binance/klines_1m/{symbol}.parquet"), symbol, SPOT_KLINES_1M)
        assert rows.height == 525_520
        gap = (symbol, datetime(2023, 3, 24, 12, 40), datetime(2023, 3, 24, 13, 59), 80)
        assert minute_gaps(rows, date(2023, 1, 1), date(2023, 12, 31)).rows() == [gap]


@pytest.mark.realdata
def test_real_archive_files_parse(realdata: Path):
    """Headerless spot and headed futures files as published; the spot days equal the same days of the year's file."""
    year = pl.read_parquet(realdata / "binance/klines_1m/BTCUSDT.parquet")
    for day in (23, 24, 25):
        name = f"BTCUSDT-1m-2023-03-{day}"
        with zipfile.ZipFile(realdata / f"binance/archive/spot_klines_headerless/{name}.zip") as z:
            got = kline_rows(csv_columns(z.read(f"{name}.csv"), KLINE_FIELDS, name), "BTCUSDT", SPOT_KLINES_1M)
        assert got.height == (1360 if day == 24 else 1440)
        same = kline_rows(year, "BTCUSDT", SPOT_KLINES_1M).filter(pl.col("open_time").dt.date() == date(2023, 3, day))
        assert_frame_equal(got, same)
    headed = realdata / "binance/archive/um_klines_with_header/NEARUSDT-1m-2023-02.csv.gz"
    text = gzip.decompress(headed.read_bytes())
    assert kline_rows(csv_columns(text, KLINE_FIELDS, headed.name), "NEARUSDT").height == 40_320


@pytest.mark.realdata
def test_real_funding_stamps_are_settlements(realdata: Path):
    """Jittered stamps fall on whole hours once rounded, and stay unique."""
    frame = pl.read_parquet(realdata / "binance/funding_rate.parquet")
    for (symbol,), rows in frame.group_by("symbol"):
        answer = [
            {"fundingTime": t, "fundingRate": r} for t, r in
            rows.sort("calc_time").select(pl.col("calc_time").dt.epoch("ms"), pl.col("last_funding_rate")).iter_rows()
        ]
        got = funding_json(answer, str(symbol))
        assert got.height == rows.height
        assert (got["calc_time"].dt.truncate("1h") == got["calc_time"]).all()
