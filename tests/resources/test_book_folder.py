"""A folder of book snapshots as a source: days, missing ones, names of symbols, damaged files."""

from __future__ import annotations

import gzip
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from pipeline.clock import FixedClock
from pipeline.errors import BadInput, MissingTable, SchemaError
from pipeline.tables.binance import BOOK_1M
from pipeline.tables.books import minute_books
from resources.book_folder import BookFolder, read_recorded_feed
from tests.tables.test_books import START, damaged, frame, random_feed, snapshot

DAYS = [date(2024, 1, day) for day in (1, 2, 3)]
CLOCK = FixedClock(datetime(2024, 2, 1, tzinfo=UTC))


def write(
    root: Path, day: date, rows: pl.DataFrame, symbol: str = "BTC-USDT-PERP", row_group: int | None = None
) -> Path:
    folder = root / f"table=book/exchange=BINANCE_FUTURES/symbol={symbol}/dt={day}"
    folder.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(folder / "data.parquet", row_group_size=row_group)
    return folder / "data.parquet"


def a_day(day: date, minutes: int = 3) -> pl.DataFrame:
    """Two snapshots a minute."""
    start = datetime.combine(day, datetime.min.time())
    return frame(*(snapshot(start + timedelta(seconds=30 * i), 100 + i) for i in range(2 * minutes)))


def test_minutes_are_the_same_as_those_of_the_frame(tmp_path: Path):
    """The file is read in two steps; both give one answer, under the exchange's own name of the symbol."""
    write(tmp_path, DAYS[0], a_day(DAYS[0]))
    got = BookFolder(tmp_path, clock=CLOCK).fetch(BOOK_1M, DAYS[:1], ["BTCUSDT"])
    assert got.rows.equals(minute_books(a_day(DAYS[0]), "BTCUSDT")[0])
    assert got.rows["bid_0_price"].to_list() == pytest.approx([100.9, 102.9, 104.9])
    assert (got.complete, got.notes) == ((DAYS[0],), ())


@pytest.mark.parametrize("row_group", [None, 100])
def test_columns_read_apart_belong_to_one_snapshot(tmp_path: Path, row_group: int | None):
    """The chosen rows are gathered from every group of columns, of a file whose rows are out of order and damaged."""
    books = damaged(3, 900)
    write(tmp_path, START.date(), books.select(reversed(books.columns)), row_group=row_group)
    got = BookFolder(tmp_path, clock=CLOCK).fetch(BOOK_1M, [START.date()], ["BTCUSDT"])
    rows, counts = minute_books(books, "BTCUSDT")
    assert got.rows.equals(rows)
    assert rows.height > 200
    assert str(counts) in got.notes[0]


def test_a_missing_day_is_named_and_not_complete(tmp_path: Path):
    """Its features are missing, and the reader must know which day it is."""
    for day in (DAYS[0], DAYS[2]):
        write(tmp_path, day, a_day(day))
    folder = BookFolder(tmp_path, clock=CLOCK)
    got = folder.fetch(BOOK_1M, DAYS, ["BTCUSDT"])
    assert got.complete == (DAYS[0], DAYS[2])
    assert got.notes == ("book_1m BTCUSDT: no file for 2024-01-02",)
    assert folder.days("BTCUSDT") == (DAYS[0], DAYS[2])


def test_no_day_at_all_is_an_error(tmp_path: Path):
    """A run whose books are all missing was pointed at the wrong folder."""
    write(tmp_path, DAYS[0], a_day(DAYS[0]))
    folder = BookFolder(tmp_path, clock=CLOCK)
    with pytest.raises(MissingTable, match="at least one day"):
        folder.fetch(BOOK_1M, DAYS[1:], ["BTCUSDT"])
    with pytest.raises(MissingTable, match="books of ETHUSDT"):
        folder.fetch(BOOK_1M, DAYS, ["ETHUSDT"])


def test_a_days_books_do_not_depend_on_which_other_days_are_read(tmp_path: Path):
    """Files are cut by arrival: a row of the evening before lies in the next day's file."""
    late = frame(snapshot(datetime(2024, 1, 1, 23, 59, 59, 900_000), 500))
    write(tmp_path, DAYS[0], a_day(DAYS[0]))
    write(tmp_path, DAYS[1], pl.concat([late, a_day(DAYS[1])]))
    folder = BookFolder(tmp_path, clock=CLOCK)
    both = folder.fetch(BOOK_1M, DAYS[:2], ["BTCUSDT"])
    alone = pl.concat([folder.fetch(BOOK_1M, [day], ["BTCUSDT"]).rows for day in DAYS[:2]])
    assert both.rows.equals(alone)
    assert "1 minutes of other days" in both.notes[0]


def test_faults_are_counted_in_a_note(tmp_path: Path):
    """Crossed and empty snapshots are dropped, zero sizes made missing: never in silence."""
    at = datetime(2024, 1, 1)
    rows = frame(snapshot(at, bid_0_price=None), snapshot(at, bid_0_price=300.0), snapshot(at, ask_7_size=0.0))
    write(tmp_path, DAYS[0], rows)
    got = BookFolder(tmp_path, clock=CLOCK).fetch(BOOK_1M, DAYS[:1], ["BTCUSDT"])
    assert got.notes == (
        "book_1m BTCUSDT 2024-01-01: 1 minutes of 3 snapshots, 1 no_best_quotes, 1 crossed, 1 missing_levels, "
        "0 minutes of other days",
    )


def test_a_day_of_invalid_books_is_not_complete(tmp_path: Path):
    """A file is no book yet."""
    write(tmp_path, DAYS[0], frame(snapshot(datetime(2024, 1, 1), bid_0_price=300.0)))
    got = BookFolder(tmp_path, clock=CLOCK).fetch(BOOK_1M, DAYS[:1], ["BTCUSDT"])
    assert got.rows.is_empty()
    assert got.complete == ()


def test_a_cut_file_and_a_file_without_levels_are_refused_by_name(tmp_path: Path):
    """Which of hundreds of files it is must be said."""
    path = write(tmp_path, DAYS[0], a_day(DAYS[0]))
    path.write_bytes(path.read_bytes()[:500])
    folder = BookFolder(tmp_path, clock=CLOCK)
    with pytest.raises(BadInput, match=r"dt=2024-01-01/data\.parquet"):
        folder.fetch(BOOK_1M, DAYS[:1], ["BTCUSDT"])
    write(tmp_path, DAYS[0], a_day(DAYS[0]).drop("ask_19_size"))
    with pytest.raises(SchemaError, match="ask_19_size"):
        folder.fetch(BOOK_1M, DAYS[:1], ["BTCUSDT"])


def test_two_folders_of_one_symbol_are_refused(tmp_path: Path):
    """Which of them would be read is not ours to guess."""
    for symbol in ("BTC-USDT-PERP", "BTCUSDT"):
        write(tmp_path, DAYS[0], a_day(DAYS[0]), symbol)
    with pytest.raises(BadInput, match="one folder holds the books of BTCUSDT"):
        BookFolder(tmp_path)
    with pytest.raises(BadInput, match="table=book"):
        BookFolder(tmp_path / "elsewhere")


def test_a_recording_is_read_plain_or_zipped_and_a_cut_one_refused(tmp_path: Path):
    """A gzip that ends early gives lines until it does."""
    lines = "".join(random_feed(0))
    (tmp_path / "feed").write_text(lines)
    (tmp_path / "feed.gz").write_bytes(gzip.compress(lines.encode()))
    plain, zipped = (read_recorded_feed(tmp_path / name, "BTCUSDT") for name in ("feed", "feed.gz"))
    assert plain.changes.equals(zipped.changes)
    assert plain.changes.height == 300
    (tmp_path / "cut.gz").write_bytes(gzip.compress(lines.encode())[:-2000])
    with pytest.raises(BadInput, match="whole file"):
        read_recorded_feed(tmp_path / "cut.gz", "BTCUSDT")
