"""Path outcomes: worked values, cases by hand, and random markets with gaps against the slow oracle."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipeline.errors import BadInput, KeyViolation, SchemaError
from pipeline.frames import AsOf, Hindsight
from pipeline.labels.path_outcomes import COLUMNS, MinutePaths, future_spread_rank, look_ahead, of_side, path_outcomes
from pipeline.labels.price_plan import DYNAMIC, PricePlan
from tests.oracles.path_outcomes_slow import slow_outcomes

START = datetime(2024, 1, 1, 23, 50, tzinfo=UTC)  # ten minutes before midnight, which is no gap


def bars_of(
    high: Sequence[float], low: Sequence[float], close: Sequence[float], name: str = "BTCUSDT",
    spread: Sequence[float | None] | None = None, at: Sequence[int] | None = None,
) -> pl.DataFrame:
    """Bars at some minutes after START; one after the other by default."""
    offsets = range(len(close)) if at is None else at
    minutes = [START + timedelta(minutes=k) for k in offsets]
    return pl.DataFrame(
        {"session": [m.date() for m in minutes], "instrument": name, "minute": minutes, "high": high, "low": low,
         "close": close, "spread_bps": spread or [None] * len(close)},
        schema={"session": pl.Date, "instrument": pl.String, "minute": pl.Datetime("us", "UTC"), "high": pl.Float64,
                "low": pl.Float64, "close": pl.Float64, "spread_bps": pl.Float64},
    )


def first(bars: pl.DataFrame, side: str = "LONG", **plan: Any) -> dict[str, Any]:
    """The first minute's outcome of one side."""
    return of_side(path_outcomes(Hindsight(bars), PricePlan(**plan)), side).row(0, named=True)


def flat(n: int, **changes: dict[int, float]) -> pl.DataFrame:
    """Bars at 100 with some values changed: column -> {row: value}."""
    columns = {name: [changes.get(name, {}).get(k, 100.0) for k in range(n)] for name in ("high", "low", "close")}
    return bars_of(**columns)


def test_worked_value_not_hit() -> None:
    """Pins the reference's first worked value: nothing hit costs the cost, and 20 bps were there to be had."""
    bars = bars_of([100, 100.05, 100.19, 100.20], [100.0] * 4, [100.0] * 4)
    plan = {"target_distance_bps": 50, "stop_distance_bps": 50, "max_hold_minutes": 3}
    out = first(bars, **plan)
    assert (out["target_hit"], out["stop_hit"], out["timeout_hit"]) == (0, 0, 1)
    assert (out["time_to_target_ms"], out["time_to_stop_ms"], out["time_to_exit_ms"]) == (-1, -1, 180_000)
    cost = PricePlan().cost_bps
    assert (out["gross_edge_bps"] - cost, out["mfe_bps"] - cost) == (-6.5, pytest.approx(13.5, abs=1e-9))


def test_worked_value_target_before_fall() -> None:
    """Pins the second worked value: a target in minute 1 stands, whatever minute 2 does; MAE still sees minute 2."""
    bars = bars_of([100, 100.30, 100, 100], [100, 100, 99.80, 100], [100.0] * 4)
    out = first(bars, target_distance_bps=20, stop_distance_bps=8, max_hold_minutes=3)
    assert (out["target_hit"], out["time_to_target_ms"], out["gross_edge_bps"] - 6.5) == (1, 60_000, 13.5)
    assert out["mae_bps"] == pytest.approx((100 / 99.80 - 1) * 1e4, abs=1e-9)


def test_bar_that_touches_both_is_the_stop() -> None:
    """Pins the ambiguous bar: the pessimistic reading, marked; and touching exactly counts."""
    bars = flat(3, high={1: 100 * (1 + 12 / 1e4)}, low={1: 100 * (1 - 8 / 1e4)})
    out = first(bars, max_hold_minutes=2)
    assert (out["stop_hit"], out["ambiguous_hit"], out["target_hit"]) == (1, 1, 0)
    assert (out["gross_edge_bps"], out["time_to_stop_ms"], out["time_to_target_ms"]) == (-8.0, 60_000, -1)


def test_dynamic_short_stop_costs_less_than_its_distance() -> None:
    """Pins the fill at the stop price: a SHORT stopped at +8 bps loses 7.9936 bps of a ratio."""
    out = first(flat(3, high={1: 101.0}), "SHORT", entry_plan_method=DYNAMIC, max_hold_minutes=2)
    assert (out["stop_hit"], out["timeout_hit"]) == (1, 0)
    assert out["gross_edge_bps"] == pytest.approx(-7.9936, abs=5e-5)


def test_dynamic_takes_then_trails_from_the_bar_before() -> None:
    """Pins the order inside a bar: both takes in one bar, then the stop trails the best price seen before the bar."""
    bars = flat(5, high={1: 100.25, 2: 100.40, 3: 100.40}, low={1: 100.2, 2: 100.2, 3: 100.25},
                close={1: 100.2, 2: 100.35, 3: 100.3})
    out = first(bars, entry_plan_method=DYNAMIC, max_hold_minutes=4, trailing_stop_bps=10)
    stop = (100.40 * (1 - 10 / 1e4) / 100 - 1) * 1e4  # bar 2's own high does not lift the stop of bar 2
    assert (out["target_hit"], out["stop_hit"], out["timeout_hit"], out["ambiguous_hit"]) == (1, 0, 0, 0)
    assert (out["time_to_target_ms"], out["time_to_stop_ms"], out["time_to_exit_ms"]) == (60_000, 180_000, 180_000)
    assert out["gross_edge_bps"] == pytest.approx(0.5 * 12 + 0.25 * 24 + 0.25 * stop, abs=1e-9)


def test_dynamic_trade_ends_when_the_takes_leave_nothing() -> None:
    """Pins the difference from the source: an empty position is not held to the horizon, also at 0.7 + 0.3."""
    bars = flat(5, high={2: 100.30})
    out = first(bars, entry_plan_method=DYNAMIC, max_hold_minutes=4, partial_take1_ratio=0.7, partial_take2_ratio=0.3)
    assert (out["time_to_exit_ms"], out["timeout_hit"], out["time_to_stop_ms"]) == (120_000, 0, -1)
    assert out["gross_edge_bps"] == pytest.approx(0.7 * 12 + 0.3 * 24, abs=1e-9)


def test_dynamic_breakeven_off_may_give_back_the_entry() -> None:
    """Pins the floor: only `breakeven_after_first_target` keeps the trailing stop at entry or better."""
    bars = flat(5, high={1: 100.12, 2: 100.1}, low={2: 99.5, 3: 99.5}, close={2: 99.9})
    plan = {"entry_plan_method": DYNAMIC, "max_hold_minutes": 3, "trailing_stop_bps": 30}
    assert first(bars, **plan)["gross_edge_bps"] == 6.0
    loose = first(bars, **plan, breakeven_after_first_target=False)["gross_edge_bps"]
    assert loose == pytest.approx(6 + 0.5 * (100.12 * 0.997 / 100 - 1) * 1e4, abs=1e-9)


@pytest.mark.parametrize("n", [0, 1, 45])
def test_series_no_longer_than_the_horizon_is_empty(n: int) -> None:
    """Pins that an unfinished window is no outcome: an empty frame with all columns and types."""
    out = path_outcomes(Hindsight(flat(n)), PricePlan())
    assert out.height == 0
    assert out.schema == path_outcomes(Hindsight(flat(46)), PricePlan()).schema


def test_gap_drops_exactly_the_windows_that_cross_it() -> None:
    """Pins segments: with minutes 10 and 11 missing, decisions 5..9 have no outcome over five minutes."""
    kept = [*range(10), *range(12, 20)]
    out = path_outcomes(Hindsight(bars_of([100.0] * 18, [100.0] * 18, [100.0] * 18, at=kept)),
                        PricePlan(max_hold_minutes=5))
    assert [(m - START).seconds // 60 for m in out["minute"]] == [0, 1, 2, 3, 4, 12, 13, 14]


def _market(draw: st.DrawFn, name: str) -> pl.DataFrame:
    """A walk on a coarse tick, so that barriers are touched exactly; with gaps and missing spreads."""
    n = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    close = 100 + 0.04 * np.cumsum(rng.integers(-3, 4, n))
    high, low = close + 0.04 * rng.integers(0, 4, n), close - 0.04 * rng.integers(0, 4, n)
    spread = [None if rng.random() < 0.2 else float(rng.integers(0, 4)) / 4 for _ in range(n)]
    at = np.cumsum(np.where(rng.random(n) < 0.05, rng.integers(2, 5, n), 1)).tolist()
    return bars_of(high.round(2).tolist(), low.round(2).tolist(), close.round(2).tolist(), name, spread, at)


@st.composite
def _cases(draw: st.DrawFn) -> tuple[pl.DataFrame, PricePlan]:
    bars = pl.concat([_market(draw, name) for name in ("AAA", "BBB")[: draw(st.integers(1, 2))]])
    distance = st.sampled_from([4.0, 8.0, 12.0, 16.0, 30.0])
    plan = PricePlan(
        entry_plan_method=draw(st.sampled_from(["FIXED_TARGET_STOP_V1", DYNAMIC])), max_hold_minutes=draw(
            st.integers(1, 12)), target_distance_bps=draw(distance), stop_distance_bps=draw(distance),
        second_target_bps=draw(distance), trailing_stop_bps=draw(distance), partial_take1_ratio=draw(
            st.sampled_from([0.0, 0.5, 0.7, 1.0])), partial_take2_ratio=draw(st.sampled_from([0.0, 0.25, 0.3, 1.0])),
        breakeven_after_first_target=draw(st.booleans()),
    )
    return bars.sort("session", "instrument", "minute"), plan


@given(_cases())
@settings(max_examples=200, deadline=None)
def test_equal_to_the_oracle(case: tuple[pl.DataFrame, PricePlan]) -> None:
    """Pins both kernels on both sides, gaps and several instruments: exact but for the volatility's logarithm."""
    bars, plan = case
    ours, slow = path_outcomes(Hindsight(bars), plan), slow_outcomes(bars, plan)
    assert ours.columns == list(COLUMNS)
    vol = "future_realized_vol_bps"
    assert_frame_equal(ours.drop(vol), slow.cast(ours.schema).drop(vol), check_exact=True)
    assert_frame_equal(ours.select(vol), slow.cast(ours.schema).select(vol), check_exact=False, rel_tol=1e-12)


@pytest.fixture(scope="module")
def walk() -> pl.DataFrame:
    """3,000 minutes of two instruments."""
    rng = np.random.default_rng(3)

    def one(name: str) -> pl.DataFrame:
        close = 100 * np.exp(np.cumsum(rng.normal(0, 5e-4, 3_000)))
        reach = np.exp(np.abs(rng.normal(0, 3e-4, (2, 3_000))))
        spread = [None if x < 0.1 else float(x) for x in rng.random(3_000)]
        return bars_of((close * reach[0]).tolist(), (close / reach[1]).tolist(), close.tolist(), name, spread)

    return pl.concat([one("AAA"), one("BBB")]).sort("session", "instrument", "minute")


@pytest.mark.parametrize("method", ["FIXED_TARGET_STOP_V1", DYNAMIC])
def test_outcome_depends_on_its_window_alone(walk: pl.DataFrame, method: str) -> None:
    """Pins window-locality to the bit: cut the past, the future and the other instrument, nothing moves."""
    plan = PricePlan(entry_plan_method=method)
    whole = path_outcomes(Hindsight(walk), plan).filter(pl.col("instrument") == "BBB")
    part = walk.filter(pl.col("instrument") == "BBB").slice(700, 1_234)
    alone = path_outcomes(Hindsight(part), plan)
    assert alone.height == 1_234 - 45
    assert_frame_equal(alone, whole.slice(700, alone.height), check_exact=True)


def test_spread_rank_counts_the_last_day(walk: pl.DataFrame) -> None:
    """Pins the ruler of the spread ahead: mid-rank among the last 1440 minutes' spreads, null before a full day."""
    bars = walk.filter(pl.col("instrument") == "AAA")
    paths = MinutePaths.from_bars(Hindsight(bars))
    ahead = look_ahead(paths, 45)
    got = future_spread_rank(paths, ahead)["future_spread_rank_24h_pct"].to_list()
    assert got[:1439] == [None] * 1439
    spreads = bars["spread_bps"].to_list()
    for i in (1439, 2000, 2900):
        past = [s for s in spreads[i - 1439 : i + 1] if s is not None]
        asked = float(np.quantile([s for s in spreads[i + 1 : i + 46] if s is not None], 0.8))
        below, ties = sum(s < asked for s in past), sum(s == asked for s in past)
        if len(past) >= 1296:
            assert got[i] == (below + 0.5 * ties) / len(past)
        else:
            assert got[i] is None
    assert any(rank is not None for rank in got)


def _with(column: str, value: Any, row: int = 2) -> pl.DataFrame:
    bars = flat(5)
    return bars.with_columns(
        pl.when(pl.int_range(pl.len()) == row).then(pl.lit(value, bars.schema[column])).otherwise(column).alias(column))


@pytest.mark.parametrize(("bars", "error", "says"), [
    (_with("close", float("nan")), BadInput, "prices are positive and finite"),
    (_with("low", 0.0), BadInput, "prices are positive and finite"),
    (_with("high", None), BadInput, "prices are positive and finite"),
    (_with("close", 101.0), BadInput, "low <= close <= high"),
    (_with("spread_bps", -0.1), BadInput, "a spread is null"),
    (_with("spread_bps", float("inf")), BadInput, "a spread is null"),
    (_with("session", date(2023, 12, 31)), BadInput, "UTC day"),
    (_with("minute", START + timedelta(minutes=2, seconds=1)), BadInput, "whole minute"),
    (_with("minute", START + timedelta(minutes=1)), KeyViolation, "one bar"),
    (_with("minute", START), BadInput, "ascend"),
    (_with("instrument", None), KeyViolation, "must not be null"),
    (flat(5).with_columns(pl.col("minute").dt.replace_time_zone(None)), SchemaError, "minute Datetime"),
    (flat(5).drop("spread_bps"), SchemaError, "spread_bps"),
])
def test_bad_bars_are_named(bars: pl.DataFrame, error: type[Exception], says: str) -> None:
    """Pins that no bad bar passes in silence, and that its error says the rule."""
    with pytest.raises(error, match=says):
        path_outcomes(Hindsight(bars), PricePlan(max_hold_minutes=2))


def test_only_hindsight_a_known_side_and_a_positive_horizon() -> None:
    """Pins the licence to look ahead, and two arguments that must be refused."""
    with pytest.raises(TypeError):
        path_outcomes(AsOf(flat(5)), PricePlan())  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="LONG or SHORT"):
        of_side(path_outcomes(Hindsight(flat(5)), PricePlan(max_hold_minutes=2)), "FLAT")
    with pytest.raises(BadInput, match="at least one minute"):
        path_outcomes(Hindsight(flat(5)), PricePlan(), 0)


@pytest.mark.realdata
def test_real_minutes_and_their_gap(realdata: Path) -> None:
    """Pins real bars without a book: the 80-minute hole costs its 45 crossing windows, and no spread means null."""
    file = realdata / "binance" / "klines_1m" / "BTCUSDT.parquet"
    if not file.exists():
        pytest.skip(f"no {file.name} in the folder of real data")
    minute = pl.from_epoch("open_time", "ms").cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("minute")
    bars = pl.read_parquet(file).select(
        minute, minute.dt.date().alias("session"), pl.lit("BTCUSDT").alias("instrument"), "high", "low", "close",
        pl.lit(None, pl.Float64).alias("spread_bps"))
    steps = bars["minute"].diff().dt.total_minutes().drop_nulls()
    assert steps.filter(steps != 1).to_list() == [81]
    out = path_outcomes(Hindsight(bars), PricePlan())
    assert out.height == bars.height - 2 * 45
    assert out["future_spread_p80"].null_count() == out.height
    hits = out.select(pl.sum_horizontal(f"long_{name}" for name in ("target_hit", "stop_hit", "timeout_hit")))
    assert hits.to_series().unique().to_list() == [1]
    some = bars.slice(100_000, 400)
    assert_frame_equal(path_outcomes(Hindsight(some), PricePlan()).drop("future_realized_vol_bps"),
                       slow_outcomes(some, PricePlan()).cast(out.schema).drop("future_realized_vol_bps"),
                       check_exact=True)
