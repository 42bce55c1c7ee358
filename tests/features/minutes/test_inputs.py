"""Bad frames: each is met by an error that names rule, observed value and remedy, or by missing values."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from pipeline.errors import BadInput, KeyViolation, SchemaError
from pipeline.features.minutes.compute import minute_features, sources_of
from pipeline.features.minutes.laws import MinuteInputs
from pipeline.features.minutes.quality import data_quality_flag
from pipeline.features.minutes.schema import ORDER, ORDER_FLOW, available_features
from tests.features.minutes.markets import SYMBOLS, inputs, minute

N, AT = 60, 30


@pytest.fixture(scope="module")
def small() -> MinuteInputs:
    """An hour of one symbol without faults."""
    return inputs(N, gap_at=None, faults=0.0).only(pl.Series(SYMBOLS[:1]))


def changed(frame: pl.DataFrame, **values: object) -> pl.DataFrame:
    """The frame with other values in minute `AT`."""
    here = pl.col("minute") == minute(AT)
    return frame.with_columns(
        pl.when(here).then(pl.lit(value, dtype=frame.schema[name])).otherwise(pl.col(name)).alias(name)
        for name, value in values.items()
    )


def book_with(small: MinuteInputs, **levels: tuple[int, float]) -> pl.DataFrame:
    """The books with one level of one side changed in minute `AT`."""
    columns = {}
    for name, (level, value) in levels.items():
        side = small.books[name].to_numpy().copy()
        side[AT, level] = value
        columns[name] = pl.Series(side, dtype=small.books.schema[name])
    return small.books.with_columns(**columns)


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"close": 0.0}, "INVALID_PRICE"), ({"close": None}, "INVALID_PRICE"), ({"open": np.nan}, "INVALID_PRICE"),
        ({"high": np.inf}, "INVALID_PRICE"), ({"high": 1.0}, "INVALID_PRICE"), ({"low": 1e9}, "INVALID_PRICE"),
        ({"volume": -1.0}, "INVALID_VOLUME"), ({"volume": np.inf}, "INVALID_VOLUME"),
        ({"taker_buy_volume": 1e9}, "INVALID_VOLUME"), ({"trades": None}, "INVALID_VOLUME"),
    ],
)  # fmt: skip
def test_a_broken_bar_is_refused_and_flagged_alike(values, flag, small):
    """Pins a bar that reaches the windows, or one that is refused though its flag lets it train."""
    bars = changed(small.bars, **values)
    with pytest.raises(BadInput, match=rf"1 bars, first {flag} of BTCUSDT at 2024-03-01 21:00.*data_quality_flag"):
        minute_features(bars)
    flags = data_quality_flag(bars, small.books, small.funding)
    assert flags.filter(pl.col("data_quality_flag") == flag)["minute"].to_list() == [minute(AT)]
    sound = flags.filter(pl.col("data_quality_flag") != flag)
    left = minute_features(bars.join(sound, on=["instrument", "minute"], how="semi"), names=["ret_1m_bps"])
    assert left.filter(pl.col("ret_1m_bps").is_null())["minute"].to_list() == [minute(0), minute(AT + 1)]


@pytest.mark.parametrize("what", ["bars", "books"])
def test_a_doubled_minute_is_refused(what, small):
    """Pins two rows of one minute, of which one would be taken at random."""
    frames = {"bars": small.bars, "books": small.books}
    frames[what] = pl.concat([frames[what], frames[what][AT : AT + 1]])
    for function in (minute_features, data_quality_flag):
        with pytest.raises(KeyViolation, match="unique"):
            function(frames["bars"], frames["books"])


def test_minutes_out_of_order_give_the_same_values(small):
    """Pins a window over rows as they arrive."""
    kept = [frame.reverse() for frame in (small.bars, small.books, small.funding)]
    assert minute_features(*kept).equals(minute_features(small.bars, small.books, small.funding))


def test_a_minute_that_is_no_whole_minute_is_refused(small):
    """Pins milliseconds read as microseconds: 1000 times too early, and no whole minutes."""
    early = small.bars.with_columns(pl.from_epoch(pl.col("minute").dt.epoch("ms"), "us").dt.replace_time_zone("UTC"))
    with pytest.raises(BadInput, match=r"whole minute.*another unit"):
        minute_features(early)
    with pytest.raises(SchemaError, match="Datetime"):
        minute_features(small.bars.with_columns(pl.col("minute").dt.cast_time_unit("ms")))


def test_missing_columns_and_odd_books_are_named(small):
    """Pins a polars error that does not say which table to mend."""
    with pytest.raises(SchemaError, match="taker_buy_volume"):
        minute_features(small.bars.drop("taker_buy_volume"))
    with pytest.raises(SchemaError, match=r"bid_size is an Array\(Float64, 20\)"):
        minute_features(small.bars, small.books.with_columns(pl.col("bid_size").arr.to_list()))


@pytest.mark.parametrize(
    "values", [{"rate": np.nan}, {"rate": None}, {"interval_hours": 0.0}, {"interval_hours": 24.0}]
)
def test_funding_without_rate_or_interval_is_refused(values, small):
    """Pins a funding that never ends, or NaN that hides in every minute until the next one."""
    funding = small.funding.with_columns(pl.lit(value, dtype=pl.Float64).alias(k) for k, value in values.items())
    with pytest.raises(BadInput, match="interval"):
        minute_features(small.bars, None, funding)


def test_funding_older_than_its_interval_is_missing(small):
    """Pins a rate that lives on after the feed broke off, and one known at the instant of its settlement."""
    funding = pl.DataFrame({
        "instrument": [SYMBOLS[0]], "funding_time": [minute(AT)], "rate": [2e-4], "interval_hours": [0.25],
    })  # fmt: skip
    values = minute_features(small.bars, None, funding, ["funding_rate_bps", "minutes_to_funding"])
    left = [None if not 1 <= t - AT + 1 <= 15 else 15.0 - (t - AT + 1) for t in range(N)]
    assert values["minutes_to_funding"].to_list() == left
    assert values["funding_rate_bps"].drop_nulls().to_list() == [2.0] * 15


@pytest.mark.parametrize(
    ("levels", "flag"),
    [
        ({"bid_price": (0, 1e6)}, "CROSSED_BOOK"), ({"ask_price": (7, 1.0)}, "UNSORTED_BOOK"),
        ({"bid_size": (3, -1.0)}, "INVALID_BOOK"), ({"ask_price": (19, np.inf)}, "INVALID_BOOK"),
        ({"ask_size": (0, np.nan)}, "PARTIAL_OPTIONAL"), ({"bid_size": (0, 0.0)}, "PARTIAL_OPTIONAL"),
    ],
)  # fmt: skip
def test_a_faulty_or_empty_snapshot_is_as_good_as_absent(levels, flag, small):
    """Pins a crossed, disordered, infinite or empty book that reaches a column."""
    books = book_with(small, **levels)
    flags = data_quality_flag(small.bars.with_columns(spread_bps=pl.lit(1.0)), books, small.funding)
    assert flags["data_quality_flag"].to_list() == ["OK"] * AT + [flag] + ["OK"] * (N - AT - 1)
    absent = small.books.filter(pl.col("minute") != minute(AT))
    assert minute_features(small.bars, books).equals(minute_features(small.bars, absent))


@pytest.mark.parametrize(("side", "value"), [("ask_price", np.nan), ("bid_size", 0.0)])
def test_a_missing_level_costs_only_what_reads_it(side, value, small):
    """Pins depth summed over 19 levels, and best-quote features lost with the last level."""
    values = minute_features(small.bars, book_with(small, **{side: (19, value)}))
    row = values.row(AT, named=True)
    assert row["ofi_l1_1m"] is not None
    assert row["mlofi_l5_5m"] is not None
    assert (row["mlofi_l20_1m"], row["mlofi_l20_5m"], row["depth_imbalance_l20"]) == (None, None, None)
    assert values["mlofi_l20_1m"].null_count() == 3  # the first minute, this one and the one after it


def test_bad_spreads_are_missing_and_flagged(small):
    """Pins a negative or infinite spread in a rank; a null one is only a missing option."""
    whole = small.bars.with_columns(spread_bps=pl.lit(1.0))
    for value, flag in ((-1.0, "INVALID_SPREAD"), (np.inf, "INVALID_SPREAD"), (None, "PARTIAL_OPTIONAL")):
        bars = changed(whole, spread_bps=value)
        assert minute_features(bars, names=["spread_bps"])["spread_bps"][AT] is None
        flags = data_quality_flag(bars, small.books, small.funding)["data_quality_flag"]
        assert flags.to_list() == ["OK"] * AT + [flag] + ["OK"] * (N - AT - 1)


def test_without_books_and_spread_the_features_left_are_the_same(small):
    """Pins a value that moves with an optional source; what is lost is absent, and null when asked for."""
    bare = small.bars.drop("spread_bps")
    assert sources_of(bare) == {"bars"}
    left = minute_features(bare)
    assert tuple(left.columns[3:]) == available_features({"bars"})
    whole = minute_features(small.bars, small.books, small.funding)
    assert left.equals(whole.select(left.columns))
    asked = minute_features(bare, names=ORDER)
    assert tuple(asked.columns[3:]) == ORDER
    assert all(asked[name].null_count() == N for name in (*ORDER_FLOW, "spread_bps", "funding_rate_bps"))
    assert set(data_quality_flag(bare)["data_quality_flag"]) == {"PARTIAL_OPTIONAL"}


def test_books_of_minutes_without_a_bar_are_left_out(small):
    """Pins snapshots laid against the wrong minute when the two frames differ."""
    bars = small.bars.filter(~pl.col("minute").is_between(minute(10), minute(12)))
    later = bars.filter(pl.col("minute") > minute(12))
    a, b = (minute_features(frame, small.books).filter(pl.col("minute") > minute(12)) for frame in (bars, later))
    assert a.equals(b)


def test_no_rows_give_no_rows(small):
    """Pins a crash on an empty month."""
    values = minute_features(small.bars.clear(), small.books, small.funding, ORDER)
    assert values.shape == (0, 73)
    assert data_quality_flag(small.bars.clear()).is_empty()


def test_the_session_is_the_utc_day_of_the_open(small):
    """Pins the minute 23:59, whose decision falls on the next day, in the wrong session."""
    moved = small.bars.with_columns(pl.col("minute") + timedelta(hours=3))
    values = minute_features(moved, names=["ret_1m_bps"])
    assert (values["session"] == values["minute"].dt.date()).all()
    assert values["session"].n_unique() == 2


def test_stored_values_are_finite_or_missing_and_have_one_zero():
    """Pins an infinity after the cast to float32, and -0.0 that hashes apart from 0.0."""
    from pipeline.features.minutes.windows import stored

    found = stored(np.array([1e300, -1e300, -0.0, np.nan, 1.5]))
    assert np.isnan(found[[0, 1, 3]]).all()
    assert not np.signbit(found[2])
    assert found[4] == 1.5
