"""Position states: worked values, the entry bar left out, time instead of rows, named errors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from pipeline.errors import BadInput, KeyViolation, SchemaError
from pipeline.features.minutes.position_state import (
    SIDED,
    STATE_ORDER,
    STATE_SCHEMA,
    Barriers,
    position_states,
    state_order_hash,
)
from pipeline.frames import AsOf, Hindsight
from tests.oracles.position_state_slow import slow_states

FIRST = datetime(2024, 1, 1, 23, 50, tzinfo=UTC)  # states lie beyond midnight
PLAN = Barriers(target_distance_bps=12.0, stop_distance_bps=8.0, cost_bps=6.5)
WORKED = {
    "LONG": [1, 5, 3.5, 20, 10, 1.001 / 0.9992 * 1e4 - 1e4, 1.0012 / 1.001 * 1e4 - 1e4, 4, 0.6, 3.5 / 31, 16.5, 13.5,
             20 / 11, 1, 2, 3, 4, 5, 6, 7, 0, 9999],
    "SHORT": [-1, 5, 1e4 / 1.001 - 1e4 - 6.5, 10, 20, 1.0008 / 1.001 * 1e4 - 1e4, 1.001 / 0.9988 * 1e4 - 1e4, 4, 0.6,
              (1e4 / 1.001 - 1e4 - 6.5) / 31, 10, 1e4 / 1.001 - 1e4 + 13.5, 10 / 21, -1, -2, -3, -4, -5, -6, -7, 0,
              9999],
}  # fmt: skip


def bars(n: int = 40, instrument: str = "BTCUSDT") -> pl.DataFrame:
    """Closes at 100 but 100.10 at minute 5; highs 100.20 at 2, lows 10 bps away at 3; a wild entry bar."""
    high, low, close = [100.0] * n, [100.0] * n, [100.0] * n
    high[0], low[0] = 150.0, 50.0
    high[2], low[3] = 100.2, 100.0 / 1.001
    close[5] = high[5] = 100.1
    return pl.DataFrame({"instrument": [instrument] * n, "minute": [FIRST + timedelta(minutes=i) for i in range(n)],
                         "high": high, "low": low, "close": close}).with_columns(
        pl.col("minute").cast(pl.Datetime("us", "UTC")), session=pl.col("minute").dt.date())


def features(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select("session", "instrument", "minute",
                        *(pl.lit(i + 1.0).alias(name) for i, name in enumerate(SIDED)))


def entries(*sides: str, at: int = 0) -> pl.DataFrame:
    row = bars().row(at, named=True)
    return pl.DataFrame([{k: row[k] for k in ("session", "instrument", "minute")} | {
        "side": side, "entry_predicted_edge_bps": 4.0, "entry_direction_prob": 0.6} for side in sides],
        schema_overrides={"minute": pl.Datetime("us", "UTC")})


def states(frame: pl.DataFrame, opened: pl.DataFrame, **more) -> pl.DataFrame:
    return position_states(AsOf(frame), AsOf(features(frame)), opened, PLAN, **more)


@pytest.mark.parametrize("side", ["LONG", "SHORT"])
def test_the_worked_states(side):
    """Pins every formula, sign and the order of the 22; the entry bar's 150 / 50 range must not show."""
    found = states(bars(), entries(side), ages=(5,))
    assert found.row(0)[4] == FIRST
    assert found.select(STATE_ORDER).row(0) == pytest.approx(WORKED[side], rel=1e-5, abs=1e-4)


def test_the_schema_is_the_ordered_22():
    """Pins a feature lost or moved: the order hash names the order that a model was fitted on."""
    assert len(STATE_SCHEMA) == len(set(STATE_ORDER)) == 22
    assert STATE_ORDER[:2] == ("position_side_sign", "time_in_position_minutes")
    assert STATE_ORDER[-3:] == ("side_book_pressure_taker_5m", "add_count", "minutes_since_last_add")
    assert len(state_order_hash()) == 64


def test_a_gap_gives_no_state_and_midnight_does():
    """Pins looking back by rows: past a hole five rows are six minutes."""
    assert states(bars(), entries("LONG"))["time_in_position_minutes"].to_list() == [5.0, 15.0, 30.0]
    holed = bars().filter(pl.col("minute") != FIRST + timedelta(minutes=10))
    assert states(holed, entries("LONG"))["time_in_position_minutes"].to_list() == [5.0]


def test_the_next_symbol_is_not_the_future_of_this_one():
    """Pins a leak across symbols where one's bars end."""
    later = bars(instrument="ETHUSDT").with_columns(pl.col("minute") + pl.duration(minutes=12)).with_columns(
        session=pl.col("minute").dt.date())
    both = pl.concat([bars(12), later])
    assert states(both, entries("LONG"))["time_in_position_minutes"].to_list() == [5.0]


def test_nothing_after_the_state_is_read():
    """Pins look-ahead: bars after the current minute change nothing."""
    found = states(bars(), entries("LONG", "SHORT"), ages=(5,))
    assert states(bars(6), entries("LONG", "SHORT"), ages=(5,)).equals(found)


def test_states_equal_the_oracle():
    """Pins the kernel on random paths of two symbols with holes, both sides, against one position at a time."""
    rng = np.random.default_rng(2)
    parts = []
    for name in ("BTCUSDT", "ETHUSDT"):
        close = 100 * np.exp(np.cumsum(rng.normal(size=300) * 5e-4))
        frame = bars(300, name).with_columns(close=pl.Series(close))
        wide = frame.with_columns(high=pl.col("close") * (1 + rng.random() * 1e-3), low=pl.col("close") * 0.9995)
        parts.append(wide.filter(pl.Series(rng.random(300) > 0.01)))
    frame = pl.concat(parts)
    opened = pl.concat([frame.select("session", "instrument", "minute", pl.lit(side).alias("side"),
                                     pl.lit(4.0).alias("entry_predicted_edge_bps"),
                                     pl.lit(0.6).alias("entry_direction_prob")) for side in ("LONG", "SHORT")])
    found = states(frame.sample(fraction=1.0, shuffle=True, seed=1), opened)
    expected = slow_states(frame.to_dicts(), opened.to_dicts(), 12.0, 8.0, 6.5, (5, 15, 30))
    assert found.height == len(expected) > 1_500
    names = [name for name in STATE_ORDER[2:13] if not name.startswith("entry_")]
    for row in found.iter_rows(named=True):
        key = (row["instrument"], row["side"], row["entry_minute"], int(row["time_in_position_minutes"]))
        assert [row[name] for name in names] == pytest.approx(expected[key], rel=1e-5, abs=2e-5)


def test_a_state_without_market_features_has_nulls():
    """Pins filling a missing market feature with a number."""
    found = position_states(AsOf(bars()), AsOf(features(bars().head(3))), entries("LONG"), PLAN)
    assert found["side_ret_1m_bps"].null_count() == found.height == 3


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"side": "long"}, BadInput, "a side is one of"),
        ({"entry_direction_prob": float("nan")}, BadInput, "entry_direction_prob is known"),
        ({"instrument": "ETHUSDT"}, BadInput, "an entry has a bar"),
        ({"minute": None}, KeyViolation, "must not be null"),
    ],
)
def test_broken_entries_are_named(change, error, says):
    """Pins silent answers on entries that no model made."""
    broken = entries("LONG").with_columns(pl.lit(v).cast(entries("LONG").schema[k]).alias(k)
                                          for k, v in change.items())
    with pytest.raises(error, match=says):
        states(bars(), broken)


def test_broken_bars_ages_and_licences_are_named():
    """Pins a zero low, an age in the past, a missing column, distances of no plan, a frame that knows the future."""
    with pytest.raises(BadInput, match="low <= close"):
        states(bars().with_columns(low=pl.lit(0.0)), entries("LONG"))
    with pytest.raises(BadInput, match="each age once"):
        states(bars(), entries("LONG"), ages=(0,))
    with pytest.raises(SchemaError, match="missing"):
        states(bars(), entries("LONG").drop("side"))
    with pytest.raises(BadInput, match="target and stop"):
        Barriers(target_distance_bps=12.0, stop_distance_bps=0.0, cost_bps=0.0)
    with pytest.raises(TypeError, match="AsOf"):
        position_states(Hindsight(bars()), AsOf(features(bars())), entries("LONG"), PLAN)
