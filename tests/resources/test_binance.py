"""Binance over REST and as a source: pages, weights, bans, the running candle; archive before interface."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from polars.testing import assert_frame_equal

from pipeline.clock import FixedClock
from pipeline.errors import (
    BadInput,
    BrokenArchive,
    MissingTable,
    PermanentVendorError,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    SchemaError,
    VendorUnavailable,
)
from pipeline.tables.binance import BOOK_1M, EXCHANGE_INFO, FUNDING_RATE, KLINES_1M, SPOT_KLINES_1M
from pipeline.tables.binance_rows import kline_json
from resources.binance import BinanceSource
from resources.binance_archive import ArchiveClient
from resources.binance_rest import BinanceRest
from resources.lake import Lake
from resources.retrying import ATTEMPTS
from tests.fake_binance import KLINES, UM_HEADER, FakeBinance, candles, contract, csv, day_path, ms, settlements

NOW = datetime(2024, 3, 5, 12, 30, 20, tzinfo=UTC)
DAYS = [date(2024, 3, day) for day in range(1, 6)]


class Setup:
    """A fake vendor, its clock, and clients that sleep by moving the clock."""

    def __init__(self, folder: Path, market: str = "um") -> None:
        self.clock = FixedClock(NOW)
        self.slept: list[float] = []
        self.vendor = FakeBinance(self.clock)
        self.rest = BinanceRest(market, transport=self.vendor, clock=self.clock, sleep=self.sleep)  # type: ignore[arg-type]
        self.archive = ArchiveClient(folder, transport=self.vendor, clock=self.clock, sleep=self.sleep)
        self.lines: list[str] = []
        self.source = BinanceSource(self.archive, {market: self.rest}, self.clock, self.lines.append)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.at += timedelta(seconds=seconds)


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def refused(status: int, code: int, message: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "msg": message}, headers=headers)


@pytest.mark.parametrize(("market", "cap", "pages"), [("um", 1500, 4), ("spot", 1000, 5)])
def test_pages_follow_on_without_loss_or_overlap(tmp_path: Path, market: str, cap: int, pages: int):
    """Both ends of a request are inclusive: a careless cursor doubles or skips the minute between pages."""
    setup = Setup(tmp_path, market)
    setup.vendor.candles["BTCUSDT"] = candles(datetime(2024, 3, 1), 3900)
    got = setup.rest.klines("BTCUSDT", datetime(2024, 3, 1), datetime(2024, 3, 4))
    spec = KLINES_1M if market == "um" else SPOT_KLINES_1M
    assert_frame_equal(got, kline_json(setup.vendor.candles["BTCUSDT"], "BTCUSDT", spec))
    asked = setup.vendor.asked("/klines")
    assert [a["limit"] for a in asked] == [str(cap)] * pages
    assert int(asked[1]["startTime"]) == ms(datetime(2024, 3, 1)) + cap * 60_000


def test_a_full_last_page_is_followed_by_one_more(setup: Setup):
    """A page at the cap says nothing about what follows."""
    setup.vendor.candles["X"] = candles(datetime(2024, 3, 1), 1500)
    assert setup.rest.klines("X", datetime(2024, 3, 1), datetime(2024, 3, 4)).height == 1500
    assert len(setup.vendor.asked("/klines")) == 2


def test_the_running_candle_is_dropped(setup: Setup):
    """At 12:30:20 the candle of 12:30 is sent and not final."""
    setup.vendor.candles["X"] = candles(datetime(2024, 3, 5), 800)
    got = setup.rest.klines("X", datetime(2024, 3, 5), datetime(2024, 3, 6))
    assert got["open_time"].max() == datetime(2024, 3, 5, 12, 29)


def test_a_429_waits_as_long_as_it_says(setup: Setup):
    """Whoever goes on asking is banned."""
    setup.vendor.next = [refused(429, -1003, "Too many requests", **{"Retry-After": "17"})]
    assert setup.rest.server_time() == int((NOW.timestamp() + 17) * 1000)
    assert setup.slept == [17.0]


def test_a_ban_without_header_waits_until_the_stamp_in_its_text(setup: Setup):
    """Futures answers may lack Retry-After; the text names the millisecond."""
    until = int(NOW.timestamp() * 1000) + 95_500
    text = f"Way too many requests; IP(1.2.3.4) banned until {until}. Please use the websocket."
    setup.vendor.next = [refused(418, -1003, text)]
    setup.rest.server_time()
    assert setup.slept == [95.5]


def test_a_long_ban_ends_the_run(setup: Setup):
    """Sleeping three days inside a run helps nobody."""
    setup.vendor.next = [refused(418, -1003, "banned", **{"Retry-After": "7200"})]
    with pytest.raises(QuotaExhausted, match="2024-03-05T14:30:20"):
        setup.rest.server_time()
    assert setup.slept == []


@pytest.mark.parametrize(("answer", "kind"), [
    (refused(400, -1121, "Invalid symbol."), RequestRejected),
    (refused(400, -1102, "Mandatory parameter"), RequestRejected),
    (httpx.Response(403, text="<html>WAF"), PermanentVendorError),
    (httpx.Response(451, json={"code": 0, "msg": "restricted location"}), PermanentVendorError),
])
def test_permanent_errors_are_not_tried_again(setup: Setup, answer: httpx.Response, kind: type[Exception]):
    """A wrong symbol asked six times is five steps towards a ban."""
    setup.vendor.next = [answer]
    with pytest.raises(kind):
        setup.rest.klines("NOPE", datetime(2024, 3, 1), datetime(2024, 3, 2))
    assert len(setup.vendor.requests) == 1


@pytest.mark.parametrize(("answer", "kind"), [
    (httpx.Response(503, text="Unknown"), VendorUnavailable),
    (httpx.Response(408), VendorUnavailable),
    (refused(400, -1001, "Internal error"), VendorUnavailable),
    (refused(429, -1003, "Too many"), RateLimited),
    (httpx.Response(200, text='[[17040'), VendorUnavailable),
    (httpx.ConnectTimeout("x"), VendorUnavailable),
])
def test_transient_errors_are_tried_until_the_last_time(setup: Setup, answer: httpx.Response, kind: type[Exception]):
    """Each passes by itself mostly; the last error is the one that a person sees."""
    setup.vendor.next = [answer] * ATTEMPTS
    with pytest.raises(kind):
        setup.rest.server_time()
    assert len(setup.vendor.requests) == ATTEMPTS
    setup.vendor.next = [answer]
    assert setup.rest.server_time() > 0


def test_the_vendors_own_count_of_weight_holds(setup: Setup):
    """Another program on the address uses the same budget: only the header knows."""
    setup.vendor.weight = 2155
    setup.rest.server_time()
    assert setup.rest.budget.used == 2156
    setup.vendor.candles["X"] = candles(datetime(2024, 3, 1), 1440)
    setup.rest.klines("X", datetime(2024, 3, 1), datetime(2024, 3, 2))
    # 2,157 after the clock's time, and a page weighs 10 of the 2,160 that we use: wait for the next minute.
    assert setup.slept == [40.0]


def test_the_limit_is_the_one_that_the_vendor_names(setup: Setup):
    """The documented 2,400 was lowered before, and is shared with other products."""
    setup.vendor.contracts = [contract("BTCUSDT")]
    got = setup.rest.exchange_info()
    assert setup.rest.budget.limit == 1200
    assert got["tick_size"].to_list() == [0.1]


def test_funding_pages_and_has_its_own_interval(setup: Setup):
    """1,000 rows a page; the first row's interval comes from the settlement before it."""
    setup.vendor.funding["X"] = settlements(datetime(2023, 1, 1), 1500, 4)
    setup.vendor.funding_hours["X"] = 4
    got = setup.rest.funding("X", datetime(2023, 1, 2), datetime(2024, 1, 1))
    assert got.height == 1494
    assert got["funding_interval_hours"].unique().to_list() == [4]
    assert got["calc_time"][0] == datetime(2023, 1, 2)
    assert len(setup.vendor.asked("/fundingRate")) == 3


def test_a_page_shorter_than_asked_is_not_the_last(setup: Setup, monkeypatch: pytest.MonkeyPatch):
    """A vendor that lowers its cap unannounced ended the series at the first page, and a note was all that told."""
    monkeypatch.setitem(KLINES, "/fapi/v1/klines", 400)
    setup.vendor.candles["X"] = candles(datetime(2024, 3, 1), 1440)
    assert setup.rest.klines("X", datetime(2024, 3, 1), datetime(2024, 3, 2)).height == 1440


def test_a_body_that_does_not_unpack_is_tried_again(setup: Setup):
    """httpx raises a damaged gzip as its own error, outside of its transport errors: it ended the run untyped."""
    damaged = httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"no gzip"))
    setup.vendor.next = [damaged]
    assert setup.rest.server_time() > 0


@pytest.mark.parametrize("body", [{}, [], {"serverTime": "soon"}])
def test_a_server_time_of_another_shape_is_named(setup: Setup, body: object):
    """Pins a KeyError in place of an error that says what the vendor sent."""
    setup.vendor.next = [httpx.Response(200, json=body)]
    with pytest.raises(SchemaError, match="serverTime"):
        setup.rest.server_time()


@pytest.mark.parametrize("rows", [[None], [7], [{}], [{"fundingTime": None}]])
def test_funding_rows_of_another_shape_are_named(setup: Setup, rows: list[object]):
    """Pins an AttributeError in place of an error that says what the vendor sent."""
    setup.vendor.next = [httpx.Response(200, json=rows)]
    with pytest.raises(SchemaError, match="fundingTime"):
        setup.rest.funding("X", datetime(2024, 3, 1), datetime(2024, 3, 2))


def published(setup: Setup, days: list[date], header: str = UM_HEADER, symbol: str = "BTCUSDT") -> list[list]:
    """Days' files in the archive, and the same candles behind the interface up to now."""
    rows = candles(datetime.combine(DAYS[0], datetime.min.time()), 5 * 1440)
    setup.vendor.candles[symbol] = rows
    for day in days:
        begin = ms(datetime.combine(day, datetime.min.time()))
        inside = [row for row in rows if begin <= row[0] < begin + 86_400_000]
        setup.vendor.publish(day_path("um", symbol, day), csv(inside, header))
    return rows


def test_archive_first_then_the_interface(setup: Setup):
    """Days without a file come from REST, the running day up to its last final minute; each once."""
    rows = published(setup, DAYS[:3])
    got = setup.source.fetch(KLINES_1M, DAYS, ["BTCUSDT"])
    final = [row for row in rows if row[6] < NOW.timestamp() * 1000]
    assert_frame_equal(got.rows, kline_json(final, "BTCUSDT"))
    assert got.complete == tuple(DAYS[:4])
    asked = setup.vendor.asked("/klines")
    assert int(asked[0]["startTime"]) == ms(datetime(2024, 3, 4))
    assert any("files" in line for line in setup.lines)
    assert "3 files 1 spans" in got.request


def test_a_month_is_one_file_and_falls_back_to_its_days(setup: Setup):
    """A month's file is 29 requests less; where it is late, its days are there."""
    days = [date(2024, 1, 1) + timedelta(days=i) for i in range(31)]
    path = "data/futures/um/monthly/klines/X/1m/X-1m-2024-01.zip"
    rows = candles(datetime(2024, 1, 1), 31 * 1440)
    setup.vendor.publish(path, csv(rows))
    assert setup.source.fetch(KLINES_1M, days, ["X"]).complete == tuple(days)
    assert len(setup.vendor.requests) == 2
    del setup.vendor.files[path]
    for i, day in enumerate(days):
        setup.vendor.publish(day_path("um", "X", day), csv(rows[i * 1440:(i + 1) * 1440], UM_HEADER))
    again = setup.source.fetch(KLINES_1M, days, ["X"])
    assert again.rows.height == 31 * 1440
    assert not setup.vendor.asked("/klines")


def test_missing_minutes_are_told_and_do_not_hold_a_day_open(setup: Setup):
    """An outage of the exchange never fills: asked again for ever, it would hide what is really missing."""
    rows = candles(datetime(2024, 3, 1), 1440)
    setup.vendor.publish(day_path("um", "X", DAYS[0]), csv([*rows[:700], *rows[780:]], UM_HEADER))
    got = setup.source.fetch(KLINES_1M, DAYS[:1], ["X"])
    assert got.complete == (DAYS[0],)
    assert got.notes == (
        "klines_1m X: 80 minutes missing in 1 gap, first 2024-03-01 11:40:00 to 2024-03-01 12:59:00",
    )


def test_a_day_without_rows_of_every_symbol_is_not_complete(setup: Setup):
    """One symbol's rows must not close the day for another."""
    published(setup, DAYS[:1])
    got = setup.source.fetch(KLINES_1M, DAYS[:1], ["BTCUSDT", "ETHUSDT"])
    assert got.complete == ()
    assert any("not every symbol has rows" in note for note in got.notes)


def test_a_republished_file_is_a_new_revision(setup: Setup, tmp_path: Path):
    """A correction must be seen, named, and kept beside what was known before."""
    rows = published(setup, DAYS[:1])[:1440]
    lake = Lake(tmp_path / "lake")
    first = setup.source.fetch(KLINES_1M, DAYS[:1], ["BTCUSDT"])
    lake.append(KLINES_1M, first.rows, request=first.request, ingested_at=NOW, complete=first.complete,
                codes=["BTCUSDT"])
    rows[5] = [*rows[5][:5], "7.777", *rows[5][6:]]
    setup.vendor.publish(day_path("um", "BTCUSDT", DAYS[0]), csv(rows, UM_HEADER))
    second = setup.source.fetch(KLINES_1M, DAYS[:1], ["BTCUSDT"])
    assert "was published again" in second.notes[0]
    assert second.request != first.request
    report = lake.append(KLINES_1M, second.rows, request=second.request, ingested_at=NOW + timedelta(days=1),
                         complete=second.complete, codes=["BTCUSDT"])
    assert (report.revised, report.new, report.unchanged, report.observed) == (1, 0, 1439, 1)
    assert setup.source.fetch(KLINES_1M, DAYS[:1], ["BTCUSDT"]).notes == ()


def test_funding_months_from_the_archive_and_the_running_one_from_the_interface(setup: Setup):
    """The archive has whole months only; both stamps are settlements to the second."""
    feb = b"calc_time,funding_interval_hours,last_funding_rate\n" + b"".join(
        b"%d,8,0.0001\n" % (ms(datetime(2024, 2, 1)) + i * 28_800_000 + i % 5) for i in range(87)
    )
    setup.vendor.publish("data/futures/um/monthly/fundingRate/X/X-fundingRate-2024-02.zip", feb)
    setup.vendor.funding["X"] = settlements(datetime(2024, 2, 28), 30, 8)
    days = [date(2024, 2, 28), date(2024, 2, 29), date(2024, 3, 1), date(2024, 3, 2)]
    got = setup.source.fetch(FUNDING_RATE, days, ["X"])
    assert got.rows["calc_time"].to_list() == [datetime(2024, 2, 28) + timedelta(hours=8 * i) for i in range(12)]
    assert got.complete == tuple(days)
    assert got.rows["mark_price"].null_count() == 6


def test_without_an_interface_what_is_not_published_is_told(setup: Setup):
    """A day that nobody can give is no error and no silence."""
    published(setup, DAYS[:2])
    source = BinanceSource(setup.archive, {}, setup.clock)
    got = source.fetch(KLINES_1M, DAYS[:3], ["BTCUSDT"])
    assert got.complete == tuple(DAYS[:2])
    assert any("no file in the archive for 1 session (2024-03-03)" in note for note in got.notes)
    assert source.tables() == {"klines_1m", "spot_klines_1m", "funding_rate"}
    with pytest.raises(MissingTable, match="exchange_info"):
        source.fetch(EXCHANGE_INFO, [], [])


def test_contracts_are_read_whole(setup: Setup):
    """The snapshot's sessions are repeated as complete; the table is as of now."""
    setup.vendor.contracts = [contract("BTCUSDT"), contract("ETHUSDT")]
    got = setup.source.fetch(EXCHANGE_INFO, DAYS[:1])
    assert (got.rows.height, got.complete) == (2, (DAYS[0],))


def test_a_file_of_other_days_is_refused(setup: Setup):
    """Its rows would be taken as another day's, or hide that a day is missing."""
    setup.vendor.publish(day_path("um", "X", DAYS[1]), csv(candles(datetime(2024, 3, 1), 1440), UM_HEADER))
    with pytest.raises(BrokenArchive, match="candles of its own days"):
        setup.source.fetch(KLINES_1M, [DAYS[1]], ["X"])


@pytest.mark.parametrize(("codes", "match"), [([], "asked for by symbol"), (["../X"], "letters, digits")])
def test_symbols_are_wanted_and_plain(setup: Setup, codes: list[str], match: str):
    """Symbols become paths."""
    with pytest.raises(BadInput, match=match):
        setup.source.fetch(KLINES_1M, DAYS[:1], codes)


def test_books_are_not_asked_from_the_vendor(setup: Setup):
    """Nobody publishes past books for free; the error says what there is."""
    with pytest.raises(MissingTable, match="book_1m"):
        setup.source.fetch(BOOK_1M, DAYS[:1], ["X"])


def test_rows_are_what_the_lake_stores(setup: Setup, tmp_path: Path):
    """Known by rule one minute after the open; the lake then asks for no such day again."""
    published(setup, DAYS[:2])
    lake = Lake(tmp_path / "lake")
    got = setup.source.fetch(KLINES_1M, DAYS[:2], ["BTCUSDT"])
    lake.append(KLINES_1M, got.rows, request=got.request, ingested_at=NOW, complete=got.complete, codes=["BTCUSDT"])
    assert lake.missing("klines_1m", DAYS[:3], codes=["BTCUSDT"]) == [DAYS[2]]
    stored = lake.latest("klines_1m")
    assert stored.select(KLINES_1M.names).equals(got.rows)
    closes = stored["open_time"].dt.replace_time_zone("UTC") + timedelta(minutes=1)
    assert (stored["known_at"] == closes).all()
