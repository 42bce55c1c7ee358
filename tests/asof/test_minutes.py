"""The panel by the minute: what each close knew, against brute force over versions and a simulated perpetual."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.asof.minutes import (
    MINUTE_MEASURES,
    PANEL_COLUMNS,
    MinuteTables,
    apply_minute_patches,
    build_minute_panel,
    revised_minute_days,
)
from pipeline.errors import BadInput, FoldgateError, KeyViolation, MissingTable, SchemaError
from pipeline.features.minutes.compute import minute_features
from pipeline.features.minutes.quality import TRAINABLE, data_quality_flag
from pipeline.frames import AsOf, in_key_order
from pipeline.simulation.perpetual import PerpetualMarket, simulate_perpetual
from pipeline.simulation.perpetual_profiles import PERPETUALS
from pipeline.tables.binance import TABLES, level_names

BTC, ETH = "BTCUSDT", "ETHUSDT"
DAYS = [date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 3)]
KEY = ["session", "instrument", "minute"]
Rows = list[dict[str, Any]]


def at(day: int, hour: int = 0, minute: int = 0, second: int = 0) -> datetime:
    return datetime(2026, 3, day, hour, minute, second, tzinfo=UTC)


def candle(opened: datetime, close: float = 100.0, known: datetime | None = None, symbol: str = BTC) -> dict[str, Any]:
    return {
        "symbol": symbol, "open_time": opened.replace(tzinfo=None), "open": 100.0, "high": max(close, 100.0),
        "low": min(close, 100.0), "close": close, "volume": 2.0,
        "close_time": (opened + timedelta(seconds=59)).replace(tzinfo=None), "quote_volume": 200.0, "count": 3,
        "taker_buy_volume": 1.0, "taker_buy_quote_volume": 100.0,
        "known_at": known or opened + timedelta(minutes=1),
    }  # fmt: skip


def book(opened: datetime, bid: float = 99.0, known: datetime | None = None, symbol: str = BTC) -> dict[str, Any]:
    levels = {}
    for name in level_names():
        side, level, what = name.split("_")
        price = bid - int(level) if side == "bid" else 101.0 + int(level)
        levels[name] = price if what == "price" else 1.5
    return {
        "symbol": symbol, "minute": opened.replace(tzinfo=None),
        "origin_time": (opened + timedelta(seconds=10)).replace(tzinfo=None), **levels,
        "known_at": known or opened + timedelta(minutes=1),
    }  # fmt: skip


def settled(calc: datetime, rate: float = 1e-4, hours: int = 8, known: datetime | None = None) -> dict[str, Any]:
    return {
        "symbol": BTC, "calc_time": calc.replace(tzinfo=None), "funding_interval_hours": hours,
        "last_funding_rate": rate, "mark_price": None, "known_at": known or calc,
    }  # fmt: skip


def raw(candles: Rows, books: Rows | None = None, funding: Rows | None = None) -> dict[str, pl.DataFrame]:
    given = {"klines_1m": candles, "book_1m": books, "funding_rate": funding}
    known = {"known_at": pl.Datetime("us", "UTC")}
    return {
        name: pl.DataFrame(rows, schema=TABLES[name].schema | known) for name, rows in given.items() if rows is not None
    }


def build(
    tables: dict[str, pl.DataFrame], days: list[date] | None = None, symbols: tuple[str, ...] = (BTC,)
) -> MinuteTables:
    return build_minute_panel(tables, symbols, days or DAYS, data_quality_flag, TRAINABLE)


def frames(tables: MinuteTables) -> dict[str, pl.DataFrame]:
    return vars(tables) | {"panel": tables.panel.frame}


def random_versions(seed: int) -> tuple[Rows, Rows]:
    """Minutes of two symbols around midnight; none to three versions each, known at the close or up to days later."""
    rng = np.random.default_rng(seed)
    later = [timedelta(0), timedelta(milliseconds=500), timedelta(hours=1), timedelta(hours=25), timedelta(days=3)]
    candles, books = [], []
    for symbol in (BTC, ETH):
        for i in range(120):
            opened = at(1, 23) + timedelta(minutes=i)
            for step in rng.permutation(len(later))[: rng.integers(0, 4)]:
                known = opened + timedelta(minutes=1) + later[step]
                candles.append(candle(opened, float(rng.integers(98, 103)), known, symbol))
            for step in rng.permutation(len(later))[: rng.integers(0, 3)]:
                known = opened + timedelta(seconds=int(rng.integers(20, 61))) + later[step]
                books.append(book(opened, float(rng.integers(95, 101)), known, symbol))
    order = rng.permutation(len(candles))
    return [candles[i] for i in order], books


def known_then(rows: Rows, stamp: str, symbol: str, opened: datetime, until: datetime) -> dict[str, Any] | None:
    """The newest version of a minute known at an instant, by looking at each."""
    seen = [r for r in rows if r["symbol"] == symbol and r[stamp] == opened.replace(tzinfo=None)]
    seen = [r for r in seen if r["known_at"] <= until]
    return max(seen, key=lambda r: r["known_at"], default=None)


def measures_then(candles: Rows, books: Rows, symbol: str, opened: datetime, until: datetime) -> tuple[Any, ...] | None:
    bar, quotes = (known_then(rows, stamp, symbol, opened, until)
                   for rows, stamp in ((candles, "open_time"), (books, "minute")))
    if bar is None:
        return None
    spread = None
    if quotes is not None:
        bid, ask = quotes["bid_0_price"], quotes["ask_0_price"]
        spread = (ask - bid) / ((ask + bid) / 2) * 1e4
    return bar["close"], spread


@pytest.mark.parametrize("seed", range(4))
def test_every_minute_holds_the_version_that_its_own_close_knew(seed: int) -> None:
    """Pins a later correction, another symbol's row or another minute's book inside a panel row; brute force."""
    candles, books = random_versions(seed)
    made = build(raw(candles, books), symbols=(BTC, ETH))
    seen = {(r["instrument"], r["minute"]): (r["close"], r["spread_bps"]) for r in made.panel.frame.to_dicts()}
    late = {(r["instrument"], r["minute"]) for r in made.exclusions.to_dicts() if r["reason"] == "late"}
    for symbol in (BTC, ETH):
        for i in range(120):
            opened = at(1, 23) + timedelta(minutes=i)
            expected = measures_then(candles, books, symbol, opened, opened + timedelta(minutes=1))
            ever = measures_then(candles, books, symbol, opened, at(4) - timedelta(microseconds=1))
            assert seen.pop((symbol, opened), None) == (expected and pytest.approx(expected, abs=1e-9))
            assert ((symbol, opened) in late) == (expected is None and ever is not None)
    assert not seen
    assert late


@pytest.mark.parametrize("seed", range(4))
def test_patches_give_what_was_known_when_a_day_began(seed: int) -> None:
    """Pins a patch that comes a day early, is lost, or repeats what was known; brute force over versions."""
    candles, books = random_versions(seed)
    made = build(raw(candles, books), symbols=(BTC, ETH))
    compared = 0
    for day in (2, 3, 4):
        patched = apply_minute_patches(made.panel.frame, made.patches, before=date(2026, 3, day))
        for row in patched.to_dicts():
            own = row["minute"] + timedelta(minutes=1)
            until = max(own, at(day) - timedelta(microseconds=1))
            expected = measures_then(candles, books, row["instrument"], row["minute"], until)
            assert (row["close"], row["spread_bps"]) == pytest.approx(expected, abs=1e-9)
            compared += 1
    assert compared > 150
    assert made.patches.filter(pl.col("effective_session") > pl.col("session")).height > 20
    assert not made.patches.select("effective_session", *KEY).is_duplicated().any()


@pytest.mark.parametrize("seed", range(3))
def test_rows_do_not_depend_on_the_order_they_are_handed_in(seed: int) -> None:
    """Pins `last row wins`: a lake may hand files in any order."""
    tables = raw(*random_versions(seed))
    shuffled = {name: frame.sample(fraction=1.0, shuffle=True, seed=seed) for name, frame in tables.items()}
    for name, frame in frames(build(tables, symbols=(BTC, ETH))).items():
        assert_frame_equal(frame, frames(build(shuffled, symbols=(BTC, ETH)))[name], check_exact=True)


def test_days_built_apart_are_the_days_built_together() -> None:
    """Pins a month that changes with the months after it, and patches lost or doubled between partitions."""
    tables = raw(*random_versions(7))
    whole = frames(build(tables, symbols=(BTC, ETH)))
    parts = [frames(build(tables, [day], symbols=(BTC, ETH))) for day in DAYS]
    patches = pl.concat([part["patches"] for part in parts])
    assert_frame_equal(patches, whole["patches"], check_exact=True)
    panel = pl.concat([part["panel"] for part in parts])
    assert_frame_equal(panel, whole["panel"], check_exact=True)


def test_what_becomes_known_after_the_last_day_changes_nothing() -> None:
    """Pins a stored panel that is another one when it is built again next week."""
    candles, books = random_versions(3)
    before = frames(build(raw(candles, books), symbols=(BTC, ETH)))
    candles += [candle(at(1, 23), 50.0, at(4)), candle(at(3, 5), 50.0, at(9))]
    after = frames(build(raw(candles, [*books, book(at(1, 23), 90.0, at(5))]), symbols=(BTC, ETH)))
    for name in before:
        assert_frame_equal(before[name], after[name], check_exact=True)


def test_a_late_candle_is_excluded_with_its_reason_and_kept_as_a_patch() -> None:
    """Pins a candle that a decision could not see, and one that vanishes without a word."""
    made = build(raw([candle(at(1, 5)), candle(at(1, 5, 1), known=at(2, 9)), candle(at(1, 5, 2))]))
    assert made.panel.frame["minute"].to_list() == [at(1, 5), at(1, 5, 2)]
    assert made.exclusions.rows() == [(DAYS[0], BTC, at(1, 5, 1), "late")]
    assert made.patches.select("effective_session", "minute", "close").rows() == [(DAYS[1], at(1, 5, 1), 100.0)]
    assert made.summary.row(0) == (DAYS[0], 2, 2, 1438, 1, 0)
    assert made.summary.row(1) == (DAYS[1], 0, 0, 1440, 0, 0)


def test_a_correction_is_a_patch_of_the_day_it_came_and_never_rewrites() -> None:
    """Pins a corrected close inside the panel, and a patch whose flag or eligibility move with it."""
    made = build(raw([candle(at(1, 5)), candle(at(1, 5), 101.0, at(3, 1)), candle(at(1, 6))]))
    assert made.panel.frame["close"].to_list() == [100.0, 100.0]
    assert made.patches.select("effective_session", "session", "close").rows() == [(DAYS[2], DAYS[0], 101.0)]
    assert apply_minute_patches(made.panel.frame, made.patches, before=DAYS[2])["close"].to_list() == [100.0, 100.0]
    final = apply_minute_patches(made.panel.frame, made.patches)
    assert final["close"].to_list() == [101.0, 100.0]
    assert final.columns == list(PANEL_COLUMNS)
    assert made.summary["patched"].to_list() == [1, 0, 0]


def test_a_correction_of_an_earlier_month_is_a_patch_and_no_row_of_this_one() -> None:
    """Pins context rows that enter the panel, and a correction lost because its own month is closed."""
    made = build(raw([candle(at(1, 5)), candle(at(1, 5), 101.0, at(3, 1)), candle(at(3, 6))]), [DAYS[2]])
    assert made.panel.frame["minute"].to_list() == [at(3, 6)]
    assert made.summary.height == 1
    assert made.patches["minute"].to_list() == [at(1, 5)]
    assert made.exclusions.is_empty()


def test_the_days_to_hand_in_again_are_those_of_which_something_came_late() -> None:
    """Pins a build handed half a day's versions: 23:59 of the day before is known at midnight, and is no revision."""
    candles = [candle(at(1, 5)), candle(at(1, 23, 59)), candle(at(2, 5)), candle(at(2, 23, 59))]
    assert revised_minute_days(raw(candles), [DAYS[2]]) == []
    candles.append(candle(at(1, 5), 101.0, at(3, 1)))
    assert revised_minute_days(raw(candles), [DAYS[2]]) == [DAYS[0]]
    assert revised_minute_days(raw(candles), [DAYS[1]]) == []  # not known yet
    assert revised_minute_days(raw(candles, [book(at(2, 5), known=at(3, 2))]), [DAYS[2]]) == DAYS[:2]


def test_a_correction_undone_on_its_own_day_or_equal_to_what_was_known_is_no_patch() -> None:
    """Pins patches of a history that is served again."""
    same = [candle(at(1, 5)), candle(at(1, 5), 101.0, at(2, 1)), candle(at(1, 5), 100.0, at(2, 2)),
            candle(at(1, 5), 100.0, at(3, 2))]  # fmt: skip
    assert build(raw(same)).patches.is_empty()


def test_the_last_minute_of_a_day_is_known_at_midnight_and_in_time() -> None:
    """Pins 23:59 taken for a row of the next day's knowledge: late, or patched."""
    made = build(raw([candle(at(1, 23, 59))], [book(at(1, 23, 59))]), [DAYS[0]])
    assert made.panel.frame["session"].to_list() == [DAYS[0]]
    assert made.panel.frame["spread_bps"].null_count() == 0
    assert made.patches.is_empty()
    assert made.exclusions.is_empty()


def test_a_spread_is_that_of_the_best_quotes_and_null_without_a_market() -> None:
    """Pins a spread of zero or below from a crossed book, which would pass for a quote."""
    crossed, late = book(at(1, 5, 1), 101.5), book(at(1, 5, 2), known=at(1, 6))
    made = build(raw([candle(at(1, 5, i)) for i in range(4)], [book(at(1, 5)), crossed, late]))
    assert made.panel.frame["spread_bps"].to_list() == [pytest.approx(200.0), None, None, None]
    flags = made.panel.frame["data_quality_flag"].to_list()
    assert flags == ["PARTIAL_OPTIONAL", "CROSSED_BOOK", "PARTIAL_OPTIONAL", "PARTIAL_OPTIONAL"]
    assert made.exclusions.select("minute", "reason").rows() == [(at(1, 5, 1), "CROSSED_BOOK")]
    assert made.books["minute"].to_list() == [at(1, 5), at(1, 5, 1)]
    assert made.quarantine.select("minute", "table", "rule").rows() == [
        (at(1, 5, 2), "book_1m", "a row is known by the decision of its minute")]
    # The late snapshot is known to the days after.
    assert made.patches.select("minute", "spread_bps").rows() == [(at(1, 5, 2), pytest.approx(200.0))]


def test_only_named_symbols_with_a_trainable_flag_are_eligible() -> None:
    """Pins a symbol that is there for context being traded, and a broken candle that trains."""
    broken = candle(at(1, 5, 1)) | {"taker_buy_volume": 9.0}
    made = build(raw([candle(at(1, 5)), candle(at(1, 5), symbol=ETH), broken]))
    assert made.panel.frame.select("instrument", "minute", "eligible").rows() == [
        (BTC, at(1, 5), True), (BTC, at(1, 5, 1), False), (ETH, at(1, 5), False)]
    assert made.exclusions.rows() == [
        (DAYS[0], BTC, at(1, 5, 1), "INVALID_VOLUME"), (DAYS[0], ETH, at(1, 5), "not_named")]
    assert made.summary.row(0) == (DAYS[0], 2, 1, 1438, 0, 0)


def test_funding_is_named_by_the_instant_it_was_known() -> None:
    """Pins a rate read before it was known, one hours late that no decision of its minute saw, and a broken one."""
    stamp = at(1, 8)
    made = build(raw([candle(at(1, 8))], funding=[
        settled(at(1)), settled(stamp, 2e-4, known=stamp + timedelta(milliseconds=7)),
        settled(at(1, 16), 3e-4, known=at(1, 18)), settled(at(2), float("nan")), settled(at(2, 8), hours=24)]))
    assert made.funding.rows() == [(BTC, at(1), 1e-4, 8.0), (BTC, stamp + timedelta(milliseconds=7), 2e-4, 8.0)]
    assert made.quarantine["rule"].to_list() == [
        "a row is known by the decision of its minute", "a funding rate is finite",
        "a funding interval lies in (0, 8] hours"]
    assert "interval_hours 24" in made.quarantine["observed"][2]


@pytest.mark.parametrize(
    ("tables", "table", "rule"),
    [
        (raw([candle(at(1, 5), known=at(1, 5) + timedelta(seconds=59))]), "klines_1m", "no earlier than its close"),
        (raw([candle(at(1, 5, 0, 30))]), "klines_1m", "whole minute"),
        (raw([], [book(at(1, 5)) | {"origin_time": datetime(2026, 3, 1, 5, 1)}]), "book_1m", "inside its minute"),
        (raw([], [book(at(1, 5), known=at(1, 5))]), "book_1m", "no earlier than taken"),
        (raw([], None, [settled(at(1, 8), known=at(1, 7))]), "funding_rate", "no earlier than settled"),
    ],
)
def test_rows_that_break_a_rule_are_named_and_not_used(tables: dict[str, pl.DataFrame], table: str, rule: str) -> None:
    """Pins a running candle taken for a closed one, and snapshots or rates from before they were made."""
    made = build(tables)
    assert made.panel.frame.is_empty()
    assert made.books.is_empty()
    assert made.funding.is_empty()
    row = made.quarantine.row(0, named=True)
    assert made.quarantine.height == 1
    assert row["table"] == table
    assert rule in row["rule"]
    assert row["observed"]


@pytest.mark.parametrize(
    ("tables", "days", "symbols", "error", "words"),
    [
        ({}, DAYS, (BTC,), MissingTable, "klines_1m"),
        (raw([candle(at(1))]), [], (BTC,), BadInput, "at least one"),
        (raw([candle(at(1))]), DAYS[::2], (BTC,), BadInput, "consecutive"),
        (raw([candle(at(1))]), DAYS, (), BadInput, "names its symbols"),
        (raw([candle(at(1)), candle(at(1), 101.0)]), DAYS, (BTC,), KeyViolation, "must be unique"),
        ({"klines_1m": raw([])["klines_1m"].drop("volume")}, DAYS, (BTC,), SchemaError, "volume"),
    ],
)
def test_unusable_input_is_refused(
    tables: dict[str, pl.DataFrame], days: list[date], symbols: tuple[str, ...], error: type[FoldgateError], words: str
) -> None:
    """Pins panels of nothing, of days with holes, or of two rows between which nothing decides."""
    with pytest.raises(error, match=words):
        build_minute_panel(tables, symbols, days, data_quality_flag, TRAINABLE)


def as_of_lake(market: PerpetualMarket, symbol: str) -> dict[str, pl.DataFrame]:
    """The market's tables as a lake holds them: `known_at` by each table's rule."""
    vendor = {"klines_1m": market.klines, "book_1m": market.books, "funding_rate": market.funding}
    return {name: TABLES[name].known_at(ask(symbol).drop("published_at")) for name, ask in vendor.items()}


@pytest.fixture(scope="module")
def tiny() -> PerpetualMarket:
    return simulate_perpetual(PERPETUALS["tiny"])


def test_a_simulated_perpetual_comes_through_whole(tiny: PerpetualMarket) -> None:
    """Pins a value lost or moved between vendor and panel; gaps and bookless days are what the market says."""
    made = build_minute_panel(as_of_lake(tiny, BTC), [BTC], tiny.days, data_quality_flag, TRAINABLE)
    panel, sold = made.panel.frame, tiny.klines(BTC)
    assert isinstance(made.panel, AsOf)
    assert panel.columns == list(PANEL_COLUMNS)
    assert in_key_order(panel, KEY)
    truth = {"open": "open", "high": "high", "low": "low", "close": "close", "volume": "volume", "trades": "count",
             "quote_volume": "quote_volume", "taker_buy_volume": "taker_buy_volume",
             "taker_buy_quote": "taker_buy_quote_volume"}  # fmt: skip
    for ours, theirs in truth.items():
        assert panel[ours].to_list() == sold[theirs].to_list(), ours
    assert panel.select(KEY).rows() == tiny.oracle.select(KEY).rows()
    lost = dict(tiny.faults.group_by("kind").agg(pl.col("minutes").sum()).iter_rows())
    assert made.summary["missing"].sum() == lost["outage"]
    assert made.summary["late"].sum() == 0
    assert panel["spread_bps"].null_count() == lost["bookless"] == (panel["data_quality_flag"] != "OK").sum()
    assert panel["eligible"].all()
    assert made.quarantine.is_empty()
    assert made.patches.is_empty()
    assert panel["sample_id"].n_unique() == panel.height


def test_minutes_published_days_later_are_late_and_whole_again_afterwards(tiny: PerpetualMarket) -> None:
    """Pins the look-ahead of a re-published file: its minutes may count from the day it came, not before."""
    row = tiny.faults.filter(pl.col("kind") == "republished").row(0, named=True)
    lo, hi = tiny.first_publication(BTC, row["day"], datetime.combine(row["day"], datetime.min.time(), UTC))
    first = datetime.combine(row["day"], datetime.min.time(), UTC)
    tables = as_of_lake(tiny, BTC)
    came = first + timedelta(days=1, hours=9)
    absent = pl.col("open_time").is_between(*(pl.lit((first + timedelta(minutes=m)).replace(tzinfo=None))
                                              for m in (lo, hi - 1)))
    tables["klines_1m"] = tables["klines_1m"].with_columns(
        known_at=pl.when(absent).then(pl.lit(came)).otherwise("known_at"))
    made = build_minute_panel(tables, [BTC], tiny.days, data_quality_flag, TRAINABLE)
    assert made.exclusions["reason"].to_list() == ["late"] * (hi - lo)
    assert made.patches.height == hi - lo
    assert made.patches["effective_session"].unique().to_list() == [came.date()]
    again = pl.concat([made.panel.frame.select(*KEY, *MINUTE_MEASURES), made.patches.drop("effective_session")])
    whole = build_minute_panel(as_of_lake(tiny, BTC), [BTC], tiny.days, data_quality_flag, TRAINABLE)
    assert_frame_equal(again.sort(KEY), whole.panel.frame.select(*KEY, *MINUTE_MEASURES), check_exact=True)


def test_the_feature_room_reads_what_comes_out(tiny: PerpetualMarket) -> None:
    """Pins columns or types between this room and the next; without books and funding it goes on."""
    tables = as_of_lake(tiny, BTC)
    made = build_minute_panel(tables, [BTC], tiny.days[:2], data_quality_flag, TRAINABLE)
    features = minute_features(made.panel.frame, made.books, made.funding)
    assert features.select(KEY).rows() == made.panel.frame.select(KEY).rows()
    assert features.width == 3 + 70
    assert features["ofi_l1_1m"].count()
    assert features["funding_rate_bps"].count()
    bare = build_minute_panel(
        {"klines_1m": tables["klines_1m"]}, [BTC], tiny.days[:2], data_quality_flag, TRAINABLE
    )
    assert set(bare.panel.frame["data_quality_flag"]) == {"PARTIAL_OPTIONAL"}
    assert bare.panel.frame["eligible"].all()
    assert minute_features(bare.panel.frame, bare.books, bare.funding).width < features.width


@pytest.mark.realdata
def test_a_month_of_real_minutes_of_two_symbols(realdata: Path) -> None:
    """Pins real candles that a rule sets aside, and the 80 minutes of 2023-03-24 that were never traded."""
    parts = []
    for symbol in (BTC, ETH):
        file = realdata / f"binance/klines_1m/{symbol}.parquet"
        if not file.is_file():
            pytest.skip(f"no minutes of {symbol} among the real data")
        stamps = [pl.from_epoch(name, "ms").dt.cast_time_unit("us") for name in ("open_time", "close_time")]
        march = pl.col("open_time").is_between(datetime(2023, 3, 1), datetime(2023, 3, 31, 23, 59))
        parts.append(pl.read_parquet(file).with_columns(*stamps, symbol=pl.lit(symbol)).filter(march))
    rows = TABLES["klines_1m"].known_at(TABLES["klines_1m"].typed(pl.concat(parts)))
    days = [date(2023, 3, 1) + timedelta(days=i) for i in range(31)]
    made = build_minute_panel({"klines_1m": rows}, [BTC, ETH], days, data_quality_flag, TRAINABLE)
    assert made.quarantine.is_empty()
    assert made.exclusions.is_empty()
    lost = made.summary.filter(pl.col("missing") > 0).select("session", "missing")
    assert lost.rows() == [(date(2023, 3, 24), 2 * 80)]
    assert set(made.panel.frame["data_quality_flag"]) == {"PARTIAL_OPTIONAL"}
    assert made.summary["eligible"].sum() == made.panel.frame.height == rows.height
