"""Minute books: which snapshot stands, what is dropped, missing levels; books rebuilt from a feed of changes."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.errors import BadInput, SchemaError
from pipeline.tables.binance import level_names
from pipeline.tables.books import last_of_minutes, level_arrays, minute_books
from pipeline.tables.depth_feed import read_feed, rebuild
from tests.oracles import depth_slow
from tests.oracles.book_levels_slow import valid_levels

START = datetime(2024, 1, 2, 10, 0)


def snapshot(at: datetime | int | None, mid: float = 100.0, **changes: float | None) -> dict[str, Any]:
    """A book of 20 levels a side, a tick of 0.1 apart, sizes 1, 2, 3, …"""
    row: dict[str, Any] = {"origin_time": at}
    for i in range(20):
        row |= {f"bid_{i}_price": mid - 0.1 * (i + 1), f"bid_{i}_size": 1.0 + i,
                f"ask_{i}_price": mid + 0.1 * (i + 1), f"ask_{i}_size": 1.0 + i}
    return row | changes


def frame(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), infer_schema_length=None)


def test_the_last_snapshot_inside_a_minute_stands_for_it():
    """The next minute's first snapshot would be a look ahead; rows arrive out of the order of their time."""
    second = timedelta(seconds=1)
    rows, counts = minute_books(frame(
        snapshot(START + 59.9 * second, 101), snapshot(START + 5 * second, 102), snapshot(START + 60 * second, 103),
    ), "BTCUSDT")
    assert rows["minute"].to_list() == [START, START + 60 * second]
    assert rows["bid_0_price"].to_list() == [100.9, 102.9]
    assert (counts.minutes, counts.snapshots, counts.faultless) == (2, 3, True)


def test_of_equal_times_the_later_row_stands():
    """Two changes in one millisecond: the book after both is the minute's."""
    rows, _ = minute_books(frame(snapshot(START, 101), snapshot(START, 102)), "X")
    assert rows["ask_0_price"].item() == 102.1


@pytest.mark.parametrize(("bad", "cause"), [
    (snapshot(None, 999), "no_time"),
    (snapshot(datetime(1970, 1, 1), 999), "no_time"),
    (snapshot(START, 999, bid_0_price=None), "no_best_quotes"),
    (snapshot(START, 999, ask_0_size=float("nan")), "no_best_quotes"),
    (snapshot(START, 999, bid_0_size=0.0), "no_best_quotes"),
    (snapshot(START, 999, bid_0_price=999.1), "crossed"),
    (snapshot(START, 999, bid_0_price=1000.0), "crossed"),
], ids=["null time", "zero time", "no bid", "NaN ask size", "zero bid size", "locked", "crossed"])
def test_a_snapshot_that_is_no_book_goes_before_the_last_is_chosen(bad: dict[str, Any], cause: str):
    """Chosen first, it would take its minute's valid book away."""
    rows, counts = minute_books(frame(snapshot(START, 100), bad), "X")
    assert rows["bid_0_price"].to_list() == [99.9]
    assert getattr(counts, cause) == 1
    assert f"1 {cause}" in str(counts)


def test_a_minute_without_a_valid_book_has_no_row():
    """Nothing is carried over from the minute before."""
    rows, counts = minute_books(frame(snapshot(START, 100, bid_0_price=200.0)), "X")
    assert rows.is_empty()
    assert counts.crossed == 1


@pytest.mark.parametrize("missing", [{"bid_3_price": None}, {"bid_3_size": None}, {"bid_3_size": 0.0},
                                     {"bid_3_price": float("nan")}], ids=str)
def test_a_level_without_price_or_size_is_missing_in_both(missing: dict[str, float | None]):
    """A price without size enters depth as nothing and order flow as a fill."""
    rows, counts = minute_books(frame(snapshot(START, **missing)), "X")
    assert rows.select("bid_3_price", "bid_3_size", "bid_4_size", "ask_3_size").row(0) == (None, None, 5.0, 4.0)
    assert counts.missing_levels == 1


def test_what_lies_behind_a_disordered_level_is_missing():
    """A price better than the level before shows a damaged book from there on."""
    rows, counts = minute_books(frame(snapshot(START, ask_5_price=100.2)), "X")
    assert rows["ask_4_price"].item() == 100.5
    assert [rows[f"ask_{i}_price"].item() for i in (5, 6, 19)] == [None, None, None]
    assert rows["bid_19_price"].item() == pytest.approx(98.0)
    assert counts.disordered_levels == 15


def damaged(seed: int, rows: int, dtype: pl.DataType | type[pl.DataType] = pl.Float64) -> pl.DataFrame:
    """Whole prices three apart, some moved to or past their neighbours; of the values one in 50 is none. 3 a minute."""
    rng = np.random.default_rng(seed)
    away = 3 * np.arange(1, 21) + rng.choice([0, 0, 0, 0, -3, -4, 4], (rows, 2, 20), p=[0.24] * 4 + [0.01, 0.01, 0.02])
    prices = 1000.0 + np.array([[-1], [1]]) * away
    values = np.stack([prices, rng.integers(1, 50, prices.shape)], axis=-1).reshape(rows, 80)
    nothing = rng.choice([np.nan, 0.0, -0.0, -1.0, np.inf, -np.inf], values.shape)
    books = pl.DataFrame(np.where(rng.random(values.shape) < 0.01, nothing, values), schema=list(level_names()))
    null = pl.DataFrame(rng.random(values.shape) < 0.01, schema=list(level_names()))
    stamps = [START + timedelta(seconds=20 * int(i)) for i in rng.permutation(rows)]
    return books.cast(dtype, strict=False).with_columns(
        pl.Series("origin_time", stamps), *(pl.when(~null[name]).then(name).alias(name) for name in level_names()),
    )


@pytest.mark.parametrize("dtype", [pl.Float64, pl.Float32, pl.Int64], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_one_pass_over_numbers_drops_the_levels_that_the_expressions_drop(seed: int, dtype: pl.DataType):
    """Nulls, NaN, infinities, zeros of either sign, equal and overtaking prices in one book: values, nulls, counts."""
    books = damaged(seed, 600, dtype)
    chosen = books[last_of_minutes(books)[0]]
    expected, missing, disordered = valid_levels(chosen.with_columns(pl.col(level_names()).cast(pl.Float64)))
    rows, counts = minute_books(books, "X")
    assert_frame_equal(rows.select(level_names()), expected.select(level_names()), check_exact=True)
    assert (counts.missing_levels, counts.disordered_levels) == (missing, disordered)
    assert min(missing, disordered) > 50


def test_the_snapshots_handed_in_stay_as_they_are():
    """Levels are blanked in place, and a column's memory may be shared with the caller's frame."""
    books = frame(snapshot(START, ask_5_price=100.2))
    before = books.clone().to_dict(as_series=False)
    minute_books(books, "X")
    assert books.to_dict(as_series=False) == before


def test_a_level_that_no_book_has_is_missing_in_all():
    """Such a column comes without a type."""
    books = frame(snapshot(START), snapshot(START + timedelta(minutes=1))).with_columns(
        pl.lit(None).alias("bid_19_price"))
    rows, counts = minute_books(books, "X")
    assert rows["bid_19_size"].null_count() == counts.missing_levels == 2


@pytest.mark.parametrize("factor", [1, 1000, 1_000_000], ids=["ms", "us", "ns"])
def test_integer_times_of_any_unit(factor: int):
    """The unit is told by the value."""
    at = int(START.replace(tzinfo=UTC).timestamp() * 1000) * factor
    rows, _ = minute_books(frame(snapshot(at), snapshot(0)), "X")
    assert rows["origin_time"].to_list() == [START]


def test_a_file_of_another_form_is_refused_by_name():
    """A missing column must not become a missing level."""
    with pytest.raises(SchemaError, match="bid_19_size"):
        minute_books(frame(snapshot(START)).drop("bid_19_size"), "X")
    with pytest.raises(SchemaError, match="origin_time holds instants"):
        minute_books(frame(snapshot(START)).with_columns(origin_time=pl.lit("10:00")), "X")


def test_arrays_have_nan_for_missing_levels():
    """Feature code reads a side as one array in the order of levels."""
    got = level_arrays(minute_books(frame(snapshot(START, ask_2_size=0.0)), "X")[0])
    assert got.schema["ask_size"] == pl.Array(pl.Float64, 20)
    assert got["ask_size"][0].to_list()[:2] == [1.0, 2.0]
    assert np.isnan(got["ask_price"][0].to_list()[2])
    assert got.row(0)[:2] == ("X", START.replace(tzinfo=UTC))


def change(u: int, first: int, previous: int, bids: list, asks: list, symbol: str = "BTCUSDT", at: int = 1) -> str:
    data = {"e": "depthUpdate", "E": 1_700_000_000_000 + u, "T": 1_700_000_000_000 + u, "s": symbol, "U": first,
            "u": u, "pu": previous, "b": bids, "a": asks, "st": 1}
    return f"{at} {json.dumps({'stream': 's@depth', 'data': data})}\n"


def whole(update_id: int, bids: list, asks: list) -> str:
    return f"1 {json.dumps({'lastUpdateId': update_id, 'bids': bids, 'asks': asks})}\n"


def random_feed(seed: int, changes: int = 300) -> list[str]:
    """A snapshot that arrives in the middle of its changes; the book runs dry and is filled again."""
    rng = np.random.default_rng(seed)
    held: dict[str, dict[str, str]] = {"b": {}, "a": {}}
    lines, last, snapshots = [], 10, []
    for _ in range(changes):
        sides: dict[str, list] = {"b": [], "a": []}
        for side, low in (("b", 80), ("a", 100)):
            for price in rng.choice(20, rng.integers(0, 6), replace=False) + low:
                gone = f"{price}.00" in held[side] and rng.random() < 0.5
                sides[side].append([f"{price}.00", "0.000" if gone else f"{rng.integers(1, 999)}.500"])
                held[side].pop(f"{price}.00", None)
                if not gone:
                    held[side][f"{price}.00"] = sides[side][-1][1]
        first, previous, last = last + 2, last, last + int(rng.integers(3, 9))
        lines.append(change(last, first, previous, sides["b"], sides["a"]))
        snapshots.append(whole(last, *([list(x) for x in held[s].items()] for s in ("b", "a"))))
    # Of the state after change 40, seen after change 45.
    return [*lines[:46], snapshots[40], *lines[46:]]


@pytest.mark.parametrize("seed", range(5))
def test_a_feed_rebuilds_as_the_slow_book_does(seed: int):
    """The sorted arrays of the kernel against a dict; books shorter than the levels told included."""
    lines = random_feed(seed)
    got = rebuild(read_feed(lines, "BTCUSDT"))
    assert got.notes == ()
    expected = depth_slow.books(lines, 20)
    assert got.books["sequence_number"].to_list() == [u for u, _, _ in expected]
    assert len(expected) == 254
    for row, (_, bids, asks) in zip(got.books.select(level_names()).rows(), expected, strict=True):
        flat = [x for side in (bids, asks) for i in range(20) for x in (side[i] if i < len(side) else (None, None))]
        assert list(row) == flat


def test_nothing_is_told_before_the_snapshot_came():
    """Changes that arrived earlier complete the snapshot, but nobody knew the book then."""
    lines = random_feed(0)
    first = rebuild(read_feed(lines, "BTCUSDT")).books["sequence_number"][0]
    assert first == json.loads(lines[47].partition(" ")[2])["data"]["u"]


def test_a_break_ends_the_book_until_the_next_snapshot():
    """A lost change leaves levels that nobody holds."""
    lines = [
        whole(10, [["99", "1"]], [["101", "1"]]), change(12, 9, 8, [["99", "2"]], []),
        change(20, 16, 15, [["99", "3"]], []), change(22, 21, 20, [["99", "4"]], []),
        whole(22, [["99", "4"], ["98", "9"]], [["101", "1"]]), change(24, 23, 22, [["98", "8"]], []),
    ]
    got = rebuild(read_feed(lines, "BTCUSDT"))
    told = got.books.select("sequence_number", "bid_0_price", "bid_0_size", "bid_1_size")
    assert told.rows() == [(12, 99.0, 2.0, None), (24, 99.0, 4.0, 8.0)]
    assert len(got.notes) == 1
    assert "the change 20 follows 15, not 12" in got.notes[0]


def test_a_snapshot_that_no_change_joins_gives_no_book():
    """Older than the first change: what lies between is unknown."""
    got = rebuild(read_feed([whole(5, [["99", "1"]], [["101", "1"]]), change(12, 9, 8, [["99", "2"]], [])], "BTCUSDT"))
    assert got.books.is_empty()
    assert "no change joins the snapshot 5" in got.notes[0]


def test_spot_changes_follow_on_without_naming_the_one_before():
    """On spot each change's first id is the one after the last of the change before."""
    def spot(u: int, first: int, size: str) -> str:
        data = {"e": "depthUpdate", "E": 1_700_000_000_000, "s": "BTCUSDT", "U": first, "u": u, "b": [["99", size]],
                "a": []}
        return f"1 {json.dumps(data)}\n"

    lines = [whole(10, [["99", "1"]], [["101", "1"]]), spot(12, 11, "2"), spot(14, 13, "3"), spot(20, 16, "4")]
    got = rebuild(read_feed(lines, "BTCUSDT"))
    assert got.books["bid_0_size"].to_list() == [2.0, 3.0]
    assert len(got.notes) == 1


def test_other_symbols_and_streams_are_passed_by():
    """A recorder may hold several streams."""
    others = [change(5, 4, 3, [["1", "1"]], [], symbol="ETHUSDT"), '1 {"stream":"x","data":{"e":"trade"}}\n']
    lines = [*random_feed(1), *others]
    assert_frame_equal(rebuild(read_feed(lines, "BTCUSDT")).books, rebuild(read_feed(random_feed(1), "BTCUSDT")).books)


@pytest.mark.parametrize("line", ['1 {"e":"depthUpdate"', '1 {"e":"depthUpdate","s":"BTCUSDT"}',
                                  change(12, 9, 8, [["99", "-1"]], []), change(12, 9, 8, [["99"]], [])],
                         ids=["cut", "no ids", "negative size", "no size"])
def test_a_damaged_line_is_named(line: str):
    """A line passed by in silence is a break that nobody sees."""
    with pytest.raises(BadInput, match="of a depth feed"):
        read_feed([whole(10, [["99", "1"]], [["101", "1"]]), line], "BTCUSDT")


def test_a_feed_without_snapshot_is_refused():
    """Changes alone give no book."""
    with pytest.raises(SchemaError, match="at least one snapshot"):
        rebuild(read_feed([change(12, 9, 8, [], [])], "BTCUSDT"))


@pytest.mark.realdata
def test_a_real_feed_rebuilds_exactly(realdata: Path):
    """All 6,545 books of 20 levels bit for bit, and best quotes equal to bookTicker at every shared update id."""
    with gzip.open(realdata / "binance/ws_capture/usdm_btcusdt_20240808.gz", "rt") as lines:
        rebuilt = rebuild(read_feed(lines, "BTCUSDT"))
    assert rebuilt.notes == ()
    levels = {
        f"{side}_{i}_{ours}": f"{side}_{theirs}_{i}"
        for side in ("bid", "ask") for i in range(20) for ours, theirs in (("price", "px"), ("size", "sz"))
    }
    got = rebuilt.books.rename(levels).select(
        pl.col("received_time").dt.epoch("ns").alias("local_ts"),
        pl.col("origin_time").dt.epoch("ms").alias("event_ms"),
        pl.col("transaction_time").dt.epoch("ms").alias("trans_ms"),
        pl.col("sequence_number").alias("u"), *levels.values(),
    )
    stored = pl.read_parquet(realdata / "binance/l2_usdm_btcusdt/book20.parquet")
    assert stored.height == 6545
    assert_frame_equal(got, stored.select(got.columns), check_exact=True)
    shared = got.join(pl.read_parquet(realdata / "binance/l2_usdm_btcusdt/bookticker.parquet"), on="u")
    assert shared.height == 629
    best = (("bid_px_0", "bid_px"), ("bid_sz_0", "bid_sz"), ("ask_px_0", "ask_px"), ("ask_sz_0", "ask_sz"))
    assert all((shared[ours] == shared[theirs]).all() for ours, theirs in best)
    minutes, counts = minute_books(rebuilt.books, "BTCUSDT")
    assert (minutes.height, counts.faultless) == (7, True)
