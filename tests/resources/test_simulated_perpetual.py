"""The simulated exchange through the real clients: what they read is the market's truth, and never from after now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.clock import FixedClock
from pipeline.errors import BadInput, MissingTable, RateLimited, RequestRejected
from pipeline.simulation.perpetual import PerpetualMarket
from pipeline.tables.binance import BOOK_1M, EXCHANGE_INFO, FUNDING_RATE, KLINES_1M
from resources.binance import BinanceSource
from resources.binance_archive import ArchiveClient
from resources.binance_rest import BinanceRest
from resources.simulated_perpetual import SimulatedExchange, simulated_perpetual, simulated_source
from resources.simulated_perpetual_files import SimulatedBooks

SYMBOLS = ("BTCUSDT", "ETHUSDT")
LATE = datetime(2026, 7, 6, 9, tzinfo=UTC)  # the first Monday after the sample, half an hour after the month's files
Setup = Callable[[datetime], tuple[FixedClock, BinanceSource]]


@pytest.fixture(scope="module")
def market() -> PerpetualMarket:
    """From 22 May to 30 June: a month that is whole and one that is not."""
    return simulated_perpetual("tiny", {"days": 40, "symbols": SYMBOLS, "signal": 0.0})


@pytest.fixture
def setup(market: PerpetualMarket, tmp_path: Path) -> Setup:
    def make(now: datetime) -> tuple[FixedClock, BinanceSource]:
        clock = FixedClock(now)
        return clock, simulated_source(market, clock, tmp_path)

    return make


def truth(market: PerpetualMarket, table: str, days: Sequence[date]) -> pl.DataFrame:
    """The market's own rows of some days, in key order."""
    rows = pl.concat([getattr(market, table)(symbol, days[0], days[-1]) for symbol in SYMBOLS])
    return rows.drop("published_at")


def faulty(market: PerpetualMarket, kind: str, symbol: str = "BTCUSDT") -> date:
    """The day of a symbol's fault."""
    rows = market.faults.filter((pl.col("symbol") == symbol) & (pl.col("kind") == kind))
    day: date = rows["day"][0]
    return day


def test_candles_come_back_as_they_are(market: PerpetualMarket, setup: Setup) -> None:
    """Pins any loss between market, CSV, ZIP, client and table: nothing may differ in a bit."""
    _, source = setup(LATE)
    got = source.fetch(KLINES_1M, market.days, SYMBOLS)
    assert_frame_equal(got.rows, truth(market, "klines", market.days), check_exact=True)
    assert got.complete == market.days
    # May in days, June in months, and no span asked.
    assert " 22 files 0 spans" in got.request
    gaps = [note for note in got.notes if "80 minutes missing in 1 gap" in note]
    assert len(gaps) == len(SYMBOLS) == len(got.notes)


def test_the_interface_tells_the_same_candles(market: PerpetualMarket) -> None:
    """Pins two vendors of one truth that differ, and pages that lose minutes at an outage."""
    clock = FixedClock(LATE)
    vendor = SimulatedExchange(market, clock)
    source = BinanceSource(None, {"um": BinanceRest("um", transport=vendor, clock=clock, sleep=vendor.wait)}, clock)
    got = source.fetch(KLINES_1M, market.days[:25], SYMBOLS)
    assert_frame_equal(got.rows, truth(market, "klines", market.days[:25]), check_exact=True)
    first = market.klines("BTCUSDT")["open_time"][0]
    rest = BinanceRest("um", transport=vendor, clock=clock)
    asked = rest.klines("BTCUSDT", first - timedelta(days=9), first + timedelta(minutes=3))
    assert asked["open_time"].to_list() == [first + timedelta(minutes=i) for i in range(3)]


@pytest.mark.parametrize("archived", [True, False])
def test_funding_comes_back_as_it_is(market: PerpetualMarket, setup: Setup, archived: bool) -> None:
    """Pins jitter that reaches the table, and the interval after the switch, from the archive and the interface."""
    clock, source = setup(LATE)
    if not archived:
        vendor = SimulatedExchange(market, clock)
        source = BinanceSource(None, {"um": BinanceRest("um", transport=vendor, clock=clock, sleep=vendor.wait)}, clock)
    got = source.fetch(FUNDING_RATE, market.days, SYMBOLS)
    expected = truth(market, "funding", market.days)
    assert_frame_equal(got.rows.drop("mark_price"), expected.drop("mark_price"), check_exact=True)
    assert set(got.rows["funding_interval_hours"]) == {4, 8}
    if archived:
        assert got.rows["mark_price"].null_count() == got.rows.height
    else:
        assert_frame_equal(got.rows, expected, check_exact=True)


def test_contracts_come_back_as_they_are(market: PerpetualMarket, setup: Setup) -> None:
    """Pins filters that name another grid than the prices lie on."""
    got = setup(LATE)[1].fetch(EXCHANGE_INFO, market.days[-1:])
    assert_frame_equal(got.rows, market.exchange_info().drop("published_at"), check_exact=True)


def test_a_file_is_wrong_until_it_is_published_again(market: PerpetualMarket, setup: Setup) -> None:
    """Pins a correction that the client does not notice."""
    day = faulty(market, "republished", "ETHUSDT")
    clock, source = setup(datetime.combine(day + timedelta(days=1), time(9), UTC))
    first = source.fetch(KLINES_1M, [day], ["ETHUSDT"])
    assert first.rows.height == 1360
    assert any("80 minutes missing" in note for note in first.notes)
    clock.at += timedelta(days=4)
    second = source.fetch(KLINES_1M, [day], ["ETHUSDT"])
    assert_frame_equal(second.rows, market.klines("ETHUSDT", day, day).drop("published_at"), check_exact=True)
    assert any("published again" in note for note in second.notes)
    assert second.request != first.request


@pytest.mark.parametrize(("now", "files", "spans"), [
    (datetime(2026, 7, 6, 8, 29, tzinfo=UTC), 30, 0),  # a minute before the month's file
    (datetime(2026, 7, 1, 8, 29, tzinfo=UTC), 29, 1),  # before the last day's file
    (LATE, 1, 0),
])
def test_files_exist_from_their_publication(
    market: PerpetualMarket, setup: Setup, now: datetime, files: int, spans: int
) -> None:
    """Pins a file served before anybody could have had it; the same rows come another way."""
    june = [day for day in market.days if day.month == 6]
    got = setup(now)[1].fetch(KLINES_1M, june, ["BTCUSDT"])
    assert f" {files} files {spans} spans" in got.request
    assert faulty(market, "republished") < date(2026, 6, 20)
    assert_frame_equal(got.rows, market.klines("BTCUSDT", june[0], june[-1]).drop("published_at"), check_exact=True)


def test_nothing_is_served_from_after_now(market: PerpetualMarket) -> None:
    """Pins look-ahead through the vendor: the running candle may tell its open and nothing else."""
    now = datetime(2026, 6, 15, 12, 30, 20, tzinfo=UTC)
    clock = FixedClock(now)
    http = httpx.Client(transport=SimulatedExchange(market, clock), base_url="http://vendor/fapi/v1")
    answer = http.get("/klines", params={"symbol": "BTCUSDT", "interval": "1m", "limit": 3}).json()
    minute = int(now.replace(second=0).timestamp() * 1000)
    assert [row[0] for row in answer] == [minute - 120_000, minute - 60_000, minute]
    running = answer[-1]
    assert running[1] == running[2] == running[3] == running[4]
    assert float(running[5]) == 0 == running[8]
    assert running[6] > now.timestamp() * 1000
    settled = http.get("/fundingRate", params={"symbol": "BTCUSDT", "limit": 1}).json()
    assert datetime.fromtimestamp(settled[0]["fundingTime"] / 1000, UTC) <= now
    rest = BinanceRest("um", transport=SimulatedExchange(market, clock), clock=clock)
    rows = rest.klines("BTCUSDT", datetime(2026, 6, 15), datetime(2026, 6, 16))
    assert rows["open_time"].max() == datetime(2026, 6, 15, 12, 29)


@pytest.mark.parametrize(("path", "params", "status", "code"), [
    ("/klines", {"symbol": "LUNAUSDT", "interval": "1m"}, 400, -1121),
    ("/klines", {"symbol": "BTCUSDT", "interval": "2m"}, 400, -1120),
    ("/klines", {"interval": "1m"}, 400, -1102),
    ("/klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": "many"}, 400, -1100),
    ("/depth", {"symbol": "BTCUSDT"}, 404, -5000),
])
def test_errors_are_the_vendors(
    market: PerpetualMarket, path: str, params: dict[str, Any], status: int, code: int
) -> None:
    """Pins errors that the client could not tell apart; and it takes none of them for data."""
    vendor = SimulatedExchange(market, FixedClock(LATE))
    answer = httpx.Client(transport=vendor, base_url="http://vendor/fapi/v1").get(path, params=params)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    with pytest.raises(RequestRejected):
        BinanceRest("um", transport=vendor, clock=FixedClock(LATE)).get(path, params, 1)


def test_weights_are_counted_and_the_limit_is_kept(market: PerpetualMarket) -> None:
    """Pins a vendor that a careless client could overload, and a wait that moves the simulated now."""
    clock = FixedClock(LATE)
    vendor = SimulatedExchange(market, clock, weight_limit=30)
    http = httpx.Client(transport=vendor, base_url="http://vendor/fapi/v1")
    used = [http.get("/klines", params={"symbol": "BTCUSDT", "interval": "1m", "limit": limit}) for limit in (99, 1500)]
    assert [answer.headers["X-MBX-USED-WEIGHT-1M"] for answer in used] == ["1", "11"]
    for _ in range(2):
        late = http.get("/klines", params={"symbol": "BTCUSDT", "interval": "1m", "limit": 1500})
    assert (late.status_code, late.json()["code"], late.headers["Retry-After"]) == (429, -1003, "60")
    rest = BinanceRest("um", transport=vendor, clock=clock, sleep=vendor.wait)
    assert rest.klines("BTCUSDT", datetime(2026, 6, 1), datetime(2026, 6, 8)).height > 8_000
    assert clock.at == LATE
    hurried = BinanceRest("um", transport=vendor, clock=clock, sleep=lambda seconds: None)
    with pytest.raises(RateLimited):
        hurried.klines("BTCUSDT", datetime(2026, 6, 1), datetime(2026, 6, 8))


def test_a_cut_download_goes_on(market: PerpetualMarket, tmp_path: Path) -> None:
    """Pins ranges: the rest of a file, and none beyond its end."""
    clock = FixedClock(LATE)
    vendor = SimulatedExchange(market, clock)
    http = httpx.Client(transport=vendor, base_url="http://archive")
    path = "data/futures/um/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2026-06-03.zip"
    whole = http.get(path).content
    assert http.get(path, headers={"Range": "bytes=100-"}).content == whole[100:]
    assert http.get(path, headers={"Range": f"bytes={len(whole)}-"}).status_code == 416
    part = tmp_path / f"{path}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(whole[:777])
    source = BinanceSource(ArchiveClient(tmp_path, transport=vendor, clock=clock), {}, clock)
    got = source.fetch(KLINES_1M, [date(2026, 6, 3)], ["BTCUSDT"])
    assert got.rows.height == market.klines("BTCUSDT", date(2026, 6, 3), date(2026, 6, 3)).height


@pytest.mark.parametrize("path", [
    "data/futures/um/daily/klines/LUNAUSDT/1m/LUNAUSDT-1m-2026-06-03.zip",
    "data/futures/um/daily/klines/BTCUSDT/1m/ETHUSDT-1m-2026-06-03.zip",
    "data/futures/um/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2026-05-03.zip",
    "data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2026-06-03.zip",
])
def test_files_that_were_never_published_are_404(market: PerpetualMarket, path: str) -> None:
    """Pins an error page that a client could take for a file."""
    http = httpx.Client(transport=SimulatedExchange(market, FixedClock(LATE)), base_url="http://archive")
    assert {http.get(path).status_code, http.get(f"{path}.CHECKSUM").status_code} == {404}


def test_books_come_back_as_they_are(market: PerpetualMarket, tmp_path: Path) -> None:
    """Pins snapshots that the folder's reader would drop or round, and a missing day that is not told."""
    books = SimulatedBooks(market, FixedClock(LATE), tmp_path)
    bookless = {symbol: faulty(market, "bookless", symbol) for symbol in SYMBOLS}
    days = sorted({*market.days[:2], *bookless.values()})
    got = books.fetch(BOOK_1M, days, SYMBOLS)
    expected = truth(market, "books", market.days).filter(pl.col("minute").dt.date().is_in(days))
    assert_frame_equal(got.rows, expected, check_exact=True)
    assert set(days) - set(got.complete) == set(bookless.values())
    assert sorted(got.notes) == [f"book_1m {symbol}: no file for {day}" for symbol, day in bookless.items()]


def test_books_are_written_on_demand_once_and_never_early(market: PerpetualMarket, tmp_path: Path) -> None:
    """Pins a folder that holds days nobody asked for, or a day before its end; and two markets in one folder."""
    day = market.days[3]
    clock = FixedClock(datetime.combine(day, time(23, 59, 59), UTC))
    books = SimulatedBooks(market, clock, tmp_path)
    assert books.write("BTCUSDT", day) is None
    with pytest.raises(MissingTable):
        books.fetch(BOOK_1M, [day], ["BTCUSDT"])
    clock.at += timedelta(seconds=1)
    assert books.fetch(BOOK_1M, [day], ["BTCUSDT"]).complete == (day,)
    files = list(tmp_path.rglob("data.parquet"))
    assert len(files) == 1
    assert files[0].parts[-4:-1] == ("exchange=BINANCE_FUTURES", "symbol=BTC-USDT-PERP", f"dt={day}")
    before = files[0].stat()
    books.fetch(BOOK_1M, [day], ["BTCUSDT"])
    assert files[0].stat().st_mtime_ns == before.st_mtime_ns
    other = PerpetualMarket(market.profile.model_copy(update={"seed": 4}), 0.0)
    assert SimulatedBooks(other, clock, tmp_path).folder != books.folder


def test_an_unknown_profile_is_told() -> None:
    """Pins a default in place of what was asked."""
    with pytest.raises(BadInput, match="profile"):
        simulated_perpetual("huge")
