"""A folder of someone's own minutes: every form gives the same rows, and what it lacks is said."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.clock import FixedClock
from pipeline.errors import BadInput, MissingTable, SchemaError
from pipeline.simulation.perpetual import PerpetualMarket
from pipeline.tables.binance import FUNDING_RATE, KLINES_1M
from resources.binance_folder import BinanceFolder
from resources.simulated_perpetual import simulated_perpetual
from resources.simulated_perpetual_files import SimulatedBooks

SYMBOL = "BTCUSDT"
NOW = FixedClock(datetime(2026, 7, 10, tzinfo=UTC))


@pytest.fixture(scope="module")
def market() -> PerpetualMarket:
    return simulated_perpetual("tiny", {"signal": 0.0, "symbols": ("BTCUSDT", "ETHUSDT")})


def candles(market: PerpetualMarket, symbol: str = SYMBOL) -> pl.DataFrame:
    return market.klines(symbol).drop("published_at")


def source(folder: Path, *symbols: str) -> BinanceFolder:
    return BinanceFolder(folder, symbols or (SYMBOL,), NOW)


def by_column(folder: Path, rows: pl.DataFrame) -> None:
    rows.write_parquet(folder / "klines_1m.parquet")


def by_file(folder: Path, rows: pl.DataFrame) -> None:
    (folder / "klines_1m").mkdir()
    stamped = rows.drop("symbol").with_columns(pl.col("open_time", "close_time").dt.epoch("ms"))
    stamped.write_parquet(folder / "klines_1m" / "BTCUSDT.parquet")


def by_file_and_day(folder: Path, rows: pl.DataFrame) -> None:
    """As the archive's files are called; the newer half in microseconds, as the vendor's own are."""
    (folder / "klines_1m").mkdir()
    for (day,), part in rows.drop("symbol").group_by(pl.col("open_time").dt.date()):
        unit = "us" if str(day) > "2026-06-27" else "ms"
        stamped = part.with_columns(pl.col("open_time", "close_time").dt.epoch(unit))  # type: ignore[arg-type]
        stamped.write_parquet(folder / "klines_1m" / f"BTCUSDT-1m-{day}.parquet")


def by_hive(folder: Path, rows: pl.DataFrame) -> None:
    (folder / "klines_1m" / "symbol=BTCUSDT").mkdir(parents=True)
    rows.drop("symbol").write_parquet(folder / "klines_1m" / "symbol=BTCUSDT" / "0.parquet")


def as_csv(folder: Path, rows: pl.DataFrame) -> None:
    (folder / "klines_1m").mkdir()
    stamped = rows.drop("symbol").with_columns(pl.col("open_time", "close_time").dt.epoch("ms"), ignore=pl.lit(0))
    stamped.write_csv(folder / "klines_1m" / "BTCUSDT.csv")


def as_csv_of_stamps(folder: Path, rows: pl.DataFrame) -> None:
    rows.write_csv(folder / "klines_1m.csv", datetime_format="%Y-%m-%d %H:%M:%S%.3f")


@pytest.mark.parametrize("save", [by_column, by_file, by_file_and_day, by_hive, as_csv, as_csv_of_stamps])
def test_every_form_gives_the_same_rows(
    save: Callable[[Path, pl.DataFrame], None], market: PerpetualMarket, tmp_path: Path
) -> None:
    """Pins a unit taken for another, a stamp in a local zone, and a symbol that is lost with its file's name."""
    save(tmp_path, candles(market))
    got = source(tmp_path).fetch(KLINES_1M, market.days, [SYMBOL])
    assert_frame_equal(got.rows, candles(market), check_exact=True)
    assert got.complete == market.days
    assert source(tmp_path).span() == (market.days[0], market.days[-1])
    assert any("80 minutes missing" in note for note in got.notes)


def test_only_the_days_asked_for(market: PerpetualMarket, tmp_path: Path) -> None:
    """Pins a month's fetch that hands over the year, and days that are not over or not there as complete."""
    by_file(tmp_path, candles(market))
    got = source(tmp_path).fetch(KLINES_1M, [market.days[1], date(2026, 7, 5), date(2026, 7, 20)], [SYMBOL])
    assert got.rows["open_time"].dt.date().unique().to_list() == [market.days[1]]
    assert got.complete == (market.days[1],)
    assert "2026-07-05" in got.notes[-1]


def test_the_funding_interval_is_told_by_the_settlement_before(market: PerpetualMarket, tmp_path: Path) -> None:
    """Pins 8 hours assumed: the simulated symbol goes from 8 to 4; and milliseconds of jitter kept as they are."""
    by_file(tmp_path, candles(market))
    truth = market.funding(SYMBOL)
    stamp = pl.col("published_at").dt.cast_time_unit("ms").alias("calc_time")
    dump = truth.select("symbol", stamp, "last_funding_rate")
    dump.reverse().write_parquet(tmp_path / "funding_rate.parquet")
    got = source(tmp_path).fetch(FUNDING_RATE, market.days, [SYMBOL]).rows
    inside = truth.filter(pl.col("calc_time").dt.date() >= market.days[0])
    for name in ("calc_time", "funding_interval_hours", "last_funding_rate"):
        assert got[name].to_list() == inside[name].to_list()
    assert {4, 8} == set(got["funding_interval_hours"])


def test_a_symbol_without_candles_is_an_error(market: PerpetualMarket, tmp_path: Path) -> None:
    """Pins a study that runs without one of its symbols."""
    by_file(tmp_path, candles(market))
    with pytest.raises(BadInput, match=r"no ETHUSDT.*add klines_1m/ETHUSDT.parquet"):
        source(tmp_path, SYMBOL, "ETHUSDT")


def test_funding_of_other_symbols_is_no_funding(market: PerpetualMarket, tmp_path: Path) -> None:
    """Pins a table that counts as present and has no row of the study's symbol."""
    by_file(tmp_path, candles(market))
    other = market.funding("ETHUSDT").drop("published_at")
    other.write_parquet(tmp_path / "funding_rate.parquet")
    assert source(tmp_path).tables() == {"klines_1m"}
    with pytest.raises(MissingTable, match="funding_rate"):
        source(tmp_path).fetch(FUNDING_RATE, market.days, [SYMBOL])


def test_books_beside_the_candles_are_found(market: PerpetualMarket, tmp_path: Path) -> None:
    """Pins a folder with books whose study loses them all the same."""
    by_file(tmp_path, candles(market))
    books = SimulatedBooks(market, NOW, tmp_path / "made")
    books.write(SYMBOL, market.days[0])
    (books.folder / "table=book").rename(tmp_path / "table=book")
    assert source(tmp_path).tables() == {"klines_1m", "book_1m"}


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda rows: rows.reverse(), BadInput, "must ascend"),
        (lambda rows: pl.concat([rows, rows.tail(1)]), Exception, "must not repeat"),
        (lambda rows: rows.with_columns(high=pl.col("low") / 2), BadInput, "high and low enclose"),
        (lambda rows: rows.drop("taker_buy_volume"), SchemaError, "taker_buy_volume"),
        (lambda rows: rows.with_columns(close_time=pl.lit(None, dtype=pl.Int64)), BadInput, "close_time"),
    ],
)
def test_minutes_that_cannot_be_are_refused(
    change: Callable[[pl.DataFrame], pl.DataFrame], error: type[Exception], told: str, market: PerpetualMarket,
    tmp_path: Path,
) -> None:
    """Pins a dump that is believed more than the vendor's own files."""
    by_column(tmp_path, change(candles(market)))
    with pytest.raises(error, match=told):
        source(tmp_path).fetch(KLINES_1M, market.days, [SYMBOL])


def test_a_folder_without_candles_says_what_it_holds(tmp_path: Path) -> None:
    """Pins an import of the wrong folder that fails an hour later."""
    (tmp_path / "klines_1h.parquet").touch()
    with pytest.raises(MissingTable, match=r"klines_1h.*add klines_1m.parquet"):
        source(tmp_path)
    with pytest.raises(BadInput, match="give the folder"):
        source(tmp_path / "nowhere")


@pytest.mark.realdata
def test_real_minutes_with_their_outage(realdata: Path) -> None:
    """Pins real files: no symbol column, milliseconds, an outage of 80 minutes, funding without its interval."""
    folder = BinanceFolder(realdata / "binance", (SYMBOL,))
    assert folder.tables() == {"klines_1m", "funding_rate"}
    assert folder.span() == (date(2023, 1, 1), date(2023, 12, 31))
    march = [date(2023, 3, 1) + timedelta(days=i) for i in range(31)]
    got = folder.fetch(KLINES_1M, march, [SYMBOL])
    assert got.rows.height == 31 * 1440 - 80
    assert list(got.complete) == march
    assert "80 minutes missing in 1 gap, first 2023-03-24 12:40:00" in got.notes[0]
    funding = folder.fetch(FUNDING_RATE, march, [SYMBOL]).rows
    assert funding["funding_interval_hours"].unique().to_list() == [8]
    assert funding.height == 93
