"""A folder of someone's own dumps: every form of it gives the same rows, and whatever it lacks is said."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.calendars import Calendar
from pipeline.clock import FixedClock
from pipeline.errors import BadInput, KeyViolation, MissingTable, SchemaError
from pipeline.tables.tushare import TABLES
from resources.imported import FolderSource

FACTOR = TABLES["adj_factor"]
DAYS = [date(2024, 1, 30), date(2024, 1, 31), date(2024, 2, 1)]
NOW = FixedClock(datetime(2024, 3, 1, tzinfo=UTC))


def factors(days: list[date] = DAYS) -> pl.DataFrame:
    """Unsorted, newest first."""
    rows = [(code, f"{d:%Y%m%d}", float(i)) for i, d in enumerate(days[::-1]) for code in ("B", "A")]
    return pl.DataFrame(rows, schema=["ts_code", "trade_date", "adj_factor"], orient="row")


def source(folder: Path) -> FolderSource:
    return FolderSource(folder, clock=NOW)


def save_parquet(folder: Path, rows: pl.DataFrame) -> None:
    rows.write_parquet(folder / "adj_factor.parquet")


def save_dates(folder: Path, rows: pl.DataFrame) -> None:
    rows.with_columns(pl.col("trade_date").str.to_date("%Y%m%d")).write_parquet(folder / "adj_factor.parquet")


def save_pandas_timestamps(folder: Path, rows: pl.DataFrame) -> None:
    stamped = rows.with_columns(pl.col("trade_date").str.to_datetime("%Y%m%d", time_unit="ns"))
    stamped.with_row_index("__index_level_0__").write_parquet(folder / "adj_factor.parquet")


def save_utc_instants(folder: Path, rows: pl.DataFrame) -> None:
    midnight = pl.col("trade_date").str.to_datetime("%Y%m%d").dt.replace_time_zone("Asia/Shanghai")
    rows.with_columns(midnight.dt.convert_time_zone("UTC")).write_parquet(folder / "adj_factor.parquet")


def save_numbers(folder: Path, rows: pl.DataFrame) -> None:
    rows.with_columns(pl.col("trade_date").cast(pl.Int64)).write_parquet(folder / "adj_factor.parquet")


def save_csv(folder: Path, rows: pl.DataFrame) -> None:
    rows.with_row_index("").write_csv(folder / "adj_factor.csv", include_bom=True)


def save_mixed_csv(folder: Path, rows: pl.DataFrame) -> None:
    dashed = pl.col("trade_date").str.replace(r"(\d{4})(\d{2})(\d{2})", "$1-$2-$3")
    march = pl.col("trade_date") > "20240131"
    rows.with_columns(pl.when(march).then(dashed).otherwise("trade_date").alias("trade_date")).write_csv(
        folder / "adj_factor.csv"
    )


def save_hive_days(folder: Path, rows: pl.DataFrame) -> None:
    for (day,), part in rows.partition_by("trade_date", as_dict=True).items():
        (folder / "adj_factor" / f"trade_date={day}").mkdir(parents=True)
        part.drop("trade_date").write_parquet(folder / "adj_factor" / f"trade_date={day}" / "0.parquet")


def save_hive_csv(folder: Path, rows: pl.DataFrame) -> None:
    for (day,), part in rows.partition_by("trade_date", as_dict=True).items():
        (folder / "table=adj_factor" / f"trade_date={day}").mkdir(parents=True)
        part.drop("trade_date").write_csv(folder / "table=adj_factor" / f"trade_date={day}" / "0.csv")


def save_hive_months(folder: Path, rows: pl.DataFrame) -> None:
    for (month,), part in rows.group_by(pl.col("trade_date").str.slice(0, 6)):
        (folder / "table=adj_factor" / f"month={month}").mkdir(parents=True)
        part.write_parquet(folder / "table=adj_factor" / f"month={month}" / "0.parquet")


FORMS = [save_parquet, save_dates, save_pandas_timestamps, save_utc_instants, save_numbers, save_csv,
         save_mixed_csv, save_hive_days, save_hive_csv, save_hive_months]


@pytest.mark.parametrize("save", FORMS, ids=lambda f: f.__name__)
def test_every_form_of_a_dump_gives_the_same_rows(save: Callable[[Path, pl.DataFrame], None], tmp_path: Path):
    """A day lost, shifted or counted twice because of how the dump writes its dates."""
    save(tmp_path, factors())
    fetched = source(tmp_path).fetch(FACTOR, DAYS[:2])
    expected = FACTOR.typed(factors(DAYS)).filter(pl.col("trade_date") < DAYS[2]).sort(FACTOR.key)
    assert_frame_equal(fetched.rows, expected)
    assert fetched.complete == (DAYS[0], DAYS[1])
    assert source(tmp_path).span() == (DAYS[0], DAYS[2])


def test_the_report_names_what_is_absent(tmp_path: Path):
    """A study that goes on without a table or a column must be able to say so."""
    factors().with_columns(update_flag=pl.lit(1)).write_parquet(tmp_path / "adj_factor.parquet")
    basic = {"ts_code": ["A"], "trade_date": ["20240130"], "pb": [1.0]}
    pl.DataFrame(basic).write_parquet(tmp_path / "daily_basic.parquet")
    days = pl.date_range(date(2024, 1, 29), date(2024, 1, 31), eager=True)
    cal = pl.DataFrame({"exchange": "SSE", "cal_date": days, "is_open": [1, 1, 0]})
    cal.write_parquet(tmp_path / "trade_cal.parquet")
    report = {row["table"]: row for row in source(tmp_path).report().iter_rows(named=True)}
    assert set(report) == set(TABLES)
    present = {name for name, row in report.items() if row["present"]}
    assert present == {"adj_factor", "daily_basic", "trade_cal"}
    factor = report["adj_factor"]
    assert (factor["rows"], factor["first"], factor["last"], factor["days"]) == (6, DAYS[0], DAYS[2], 3)
    assert factor["days_off_calendar"] == 2
    assert factor["extra_columns"] == ["update_flag"]
    assert "turnover_rate" in report["daily_basic"]["missing_columns"]
    fetched = source(tmp_path).fetch(TABLES["daily_basic"], DAYS[:1])
    assert fetched.rows["turnover_rate"].null_count() == 1
    assert "turnover_rate" in fetched.notes[0]


def test_an_absent_table_and_a_required_column_are_named(tmp_path: Path):
    """Null prices from a column that was never there would be trained on as suspensions."""
    with pytest.raises(BadInput, match="folder"):
        source(tmp_path / "nowhere")
    with pytest.raises(MissingTable, match="daily"):
        source(tmp_path)
    factors().drop("adj_factor").write_parquet(tmp_path / "adj_factor.parquet")
    with pytest.raises(SchemaError, match=r"missing \['adj_factor'\]"):
        source(tmp_path).fetch(FACTOR, DAYS)
    with pytest.raises(MissingTable, match=r"must hold daily.*daily\.parquet"):
        source(tmp_path).fetch(TABLES["daily"], DAYS)


@pytest.mark.parametrize("key", [("A", None), (None, "20240131")])
def test_null_keys_are_met_as_errors(key: tuple[str | None, str | None], tmp_path: Path):
    """A row without a day belongs to no session: a filter by session would lose it without a word."""
    bad = pl.DataFrame([(*key, 1.0)], schema=factors().schema, orient="row")
    pl.concat([factors(), bad]).write_parquet(tmp_path / "adj_factor.parquet")
    with pytest.raises(KeyViolation, match="null"):
        source(tmp_path).fetch(FACTOR, DAYS)


def test_doubled_rows_go_and_contradictions_do_not(tmp_path: Path):
    """Appending scripts repeat days; two prices for one day are another matter."""
    pl.concat([factors(), factors()]).write_parquet(tmp_path / "adj_factor.parquet")
    fetched = source(tmp_path).fetch(FACTOR, DAYS)
    assert fetched.rows.height == 6
    assert "6 repeated rows dropped" in fetched.notes[0]
    other = factors().with_columns(pl.col("adj_factor") + 1)
    pl.concat([factors(), other]).write_parquet(tmp_path / "adj_factor.parquet")
    with pytest.raises(KeyViolation, match="unique"):
        source(tmp_path).fetch(FACTOR, DAYS)


def test_rows_of_the_future_are_refused(tmp_path: Path):
    """A dump that reaches past today holds something else than history."""
    factors().write_parquet(tmp_path / "adj_factor.parquet")
    early = FolderSource(tmp_path, clock=FixedClock(datetime(2024, 1, 31, tzinfo=UTC)))
    with pytest.raises(BadInput, match="after today"):
        early.fetch(FACTOR, DAYS)


def test_sessions_without_rows_are_not_complete(tmp_path: Path):
    """A hole in a dump, or a session outside it, counted as fetched would never be noticed."""
    factors([DAYS[0], DAYS[2]]).write_parquet(tmp_path / "adj_factor.parquet")
    fetched = source(tmp_path).fetch(FACTOR, [date(2024, 1, 29), *DAYS])
    assert fetched.complete == (DAYS[0], DAYS[2])
    assert "no rows on the open 1 session (2024-01-31)" in fetched.notes[0]
    assert "does not reach 1 session (2024-01-29)" in fetched.notes[1]


def test_a_table_in_two_places_is_refused(tmp_path: Path):
    """Which one would be read decided by chance."""
    save_parquet(tmp_path, factors())
    save_csv(tmp_path, factors())
    with pytest.raises(BadInput, match=r"one place.*adj_factor\.csv"):
        source(tmp_path)


@pytest.mark.parametrize("content", [b"PAR1 this is no parquet", b""])
def test_an_unreadable_file_is_named(content: bytes, tmp_path: Path):
    """A cut download must be named, not reported as a polars stack trace."""
    (tmp_path / "adj_factor.parquet").write_bytes(content)
    with pytest.raises(SchemaError, match=r"adj_factor\.parquet"):
        source(tmp_path).fetch(FACTOR, DAYS)


def test_a_csv_in_another_encoding_is_named(tmp_path: Path):
    """Spreadsheets save Chinese names as GBK: read as UTF-8 they are an error with a remedy, not mojibake."""
    text = "ts_code,trade_date,type,name\nA,20240131,ST,退市甲\n"
    (tmp_path / "stock_st.csv").write_bytes(text.encode("gbk"))
    with pytest.raises(SchemaError, match="UTF-8"):
        source(tmp_path).fetch(TABLES["stock_st"], DAYS)


def test_codes_narrow_a_table(tmp_path: Path):
    """An index dump with many indices would enter whole when one is asked for."""
    factors().write_parquet(tmp_path / "adj_factor.parquet")
    assert source(tmp_path).fetch(FACTOR, DAYS, ["A"]).rows["ts_code"].unique().to_list() == ["A"]


REAL = Path(os.environ.get("FOLDGATE_REALDATA", Path(__file__).parents[3] / "shared" / "data"))

NO_DATA = "needs the folder named by FOLDGATE_REALDATA"


@pytest.mark.realdata
@pytest.mark.skipif(not (REAL / "tushare_csi300").is_dir(), reason=NO_DATA)
def test_a_real_dump_is_imported_whole():
    """What nobody here made: real codes, gaps and column sets must pass, row for row."""
    folder = FolderSource(REAL / "tushare_csi300")
    assert folder.span() == (date(2020, 1, 2), date(2023, 12, 29))
    cal = folder.fetch(TABLES["trade_cal"], ()).rows
    sessions = Calendar.from_trade_cal(cal).between(*folder.span())
    assert len(sessions) == 970
    report = folder.report().filter("present")
    for name, rows in report.select("table", "rows").iter_rows():
        fetched = folder.fetch(TABLES[name], sessions)
        assert fetched.rows.height == rows, name
    assert folder.fetch(TABLES["daily"], sessions).complete == tuple(sessions)
    assert report["days_off_calendar"].drop_nulls().sum() == 0
    assert set(TABLES) - folder.tables() == {
        "stk_limit", "namechange", "bse_mapping", "stk_mins", "moneyflow", "index_daily", "index_member_all",
    }


@pytest.mark.realdata
@pytest.mark.skipif(not (REAL / "tushare_samples").is_dir(), reason=NO_DATA)
def test_genuine_vendor_rows_fit_the_specs():
    """Specs written from documentation alone may not fit what the vendor really sends."""
    folder = FolderSource(REAL / "tushare_samples")
    assert folder.report().filter("present")["extra_columns"].to_list() == [[], []]
    for name in ("daily_basic", "moneyflow"):
        rows = folder.fetch(TABLES[name], pl.date_range(*folder.span(name), eager=True).to_list()).rows
        assert rows.height == pl.read_parquet(REAL / "tushare_samples" / f"{name}.parquet").height
