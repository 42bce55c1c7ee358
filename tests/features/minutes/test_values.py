"""Values against the reference's worked figures and against slow oracles."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from pipeline.features.minutes import books, windows
from pipeline.features.minutes.compute import minute_features
from pipeline.features.minutes.history import SIDES
from pipeline.features.minutes.laws import MinuteInputs
from pipeline.features.minutes.schema import MARKET, ORDER_FLOW
from tests.features.minutes.markets import SYMBOLS, inputs, minute
from tests.oracles.minute_market_slow import slow_market
from tests.oracles.ofi_slow import basis, slow_order_flow

LEVELS = 20
BOOK = (
    "book_microprice_basis_bps", "depth_imbalance_l1", "depth_imbalance_l5", "depth_imbalance_l20",
    "book_pressure_taker_1m", "book_pressure_taker_5m", "depth_l20_zscore_60m",
)  # fmt: skip


@pytest.fixture(scope="module")
def market() -> MinuteInputs:
    return inputs()


@pytest.fixture(scope="module")
def found(market) -> pl.DataFrame:
    return minute_features(market.bars, market.books, market.funding)


def segments(frame: pl.DataFrame) -> list[pl.DataFrame]:
    """Runs of minutes without a gap, in order."""
    step = (pl.col("minute").diff() != pl.duration(minutes=1)).fill_null(True)
    run = frame.sort("instrument", "minute").with_columns(run=step.cum_sum().over("instrument"))
    return run.partition_by("instrument", "run", maintain_order=True)


def agree(expected: list[float | None], found: pl.Series) -> None:
    """Equal to float32, and missing in the same places."""
    a = np.array([np.nan if x is None else x for x in expected])
    np.testing.assert_allclose(found.fill_null(np.nan).to_numpy(), a, rtol=2e-6, atol=2e-6, err_msg=found.name)


@pytest.mark.parametrize(
    ("now", "before", "bid", "ask"),
    [
        ((101, 2, 102, 5), (100, 1.5, 102, 4), 202, -102),
        ((101, 3, 101.5, 6), (101, 2, 102, 5), 101, -609),
        ((100.5, 4, 102.5, 7), (101, 3, 101.5, 6), -303, 609),
    ],
)
def test_the_worked_parts(now, before, bid, ask):
    """Pins signs and prices of the three cases of each side, as the contract works them out."""
    assert books.bid_part(*map(float, now[:2]), *map(float, before[:2])) == bid
    assert books.ask_part(*map(float, now[2:]), *map(float, before[2:])) == ask


def ladder(quotes: list[tuple[float, ...]]) -> MinuteInputs:
    """Bars and books whose best levels are `quotes` (bid, size, ask, size); deeper levels stand a tick apart."""
    n, steps = len(quotes), np.arange(LEVELS)
    best = np.array(quotes, dtype=float)
    sides = {
        "bid_price": best[:, [0]] - steps, "bid_size": np.repeat(best[:, [1]], LEVELS, 1),
        "ask_price": best[:, [2]] + steps, "ask_size": np.repeat(best[:, [3]], LEVELS, 1),
    }  # fmt: skip
    market = inputs(n, gap_at=None, faults=0.0)
    bars = market.bars.filter(pl.col("instrument") == SYMBOLS[0])
    frame = bars.select("instrument", "minute").with_columns(
        pl.Series(name, values, dtype=pl.Array(pl.Float64, LEVELS)) for name, values in sides.items()
    )
    return MinuteInputs(bars, frame, market.funding)


def test_the_worked_minutes_reach_the_columns():
    """Pins the window arithmetic: sums of the worked events over mean depths, none for the first snapshot."""
    case = ladder([(100, 1.5, 102, 4), (101, 2, 102, 5), (101, 3, 101.5, 6), (100.5, 4, 102.5, 7)])
    values = minute_features(case.bars, case.books, None, ["ofi_l1_1m", "ofi_l1_3m"])
    depth = [101 * 2 + 102 * 5, 101 * 3 + 101.5 * 6, 100.5 * 4 + 102.5 * 7]
    agree([None, *(e / d for e, d in zip((100, -508, 306), depth, strict=True))], values["ofi_l1_1m"])
    agree([None, None, None, (100 - 508 + 306) / np.mean(depth)], values["ofi_l1_3m"])


def test_order_flow_equals_the_oracle(market, found):
    """Pins the sixteen columns over gaps, missing levels, faulty snapshots and quiet minutes, value by value."""
    sides = market.books.rename({name: f"level_{name}" for name in SIDES})
    for run in segments(found.join(sides, on=["instrument", "minute"], how="left")):
        snapshots = [
            None if row[0] is None else _usable(list(zip(*row, strict=True)))
            for row in run.select(f"level_{name}" for name in ("bid_price", "bid_size", "ask_price", "ask_size")).rows()
        ]
        taker, rank = (run[name].to_list() for name in ("taker_imbalance_5m", "spread_rank_24h_pct"))
        expected = slow_order_flow(snapshots, taker, rank)
        for name in ORDER_FLOW:
            agree(expected[name], run[name])
    assert all(found[name].count() > 1_000 for name in ORDER_FLOW)


def _usable(levels: list[tuple[float, ...]]) -> list[tuple[float, ...]] | None:
    bid, _, ask, _ = levels[0]
    return levels if all(x > 0 for x in levels[0]) and bid < ask else None


def test_market_features_equal_the_oracle(market, found):
    """Pins the formulas of all market features but the book's, sampled over every segment."""
    funding = {symbol: market.funding.filter(pl.col("instrument") == symbol).to_dicts() for symbol in SYMBOLS}
    for run in segments(found):
        own = market.bars.filter(pl.col("instrument") == run["instrument"][0])
        rows = run.select("minute").join(own, on="minute", how="left", maintain_order="left").to_dicts()
        at = sorted({*range(0, len(rows), 61), *range(55, min(66, len(rows))), len(rows) - 1})
        expected = [slow_market(rows[max(t - 1_500, 0) : t + 1], funding[run["instrument"][0]]) for t in at]
        assert set(MARKET) - set(expected[0]) == set(BOOK)
        for name in expected[0]:
            agree([row[name] for row in expected], run[name].gather(at))


def test_book_features_from_their_definitions(market, found):
    """Pins the microprice that leans to the wrong side, and depth that leaves out price or a level."""
    joined = market.books.join(found, on=["instrument", "minute"]).filter(pl.col("depth_imbalance_l20").is_not_null())
    bid, bid_size, ask, ask_size = (joined[name].to_numpy() for name in SIDES)
    for n in (1, 5, 20):
        bids, asks = ((p * s)[:, :n].sum(axis=1) for p, s in ((bid, bid_size), (ask, ask_size)))
        agree(list((bids - asks) / (bids + asks)), joined[f"depth_imbalance_l{n}"])
    levels = zip(bid[:, 0], bid_size[:, 0], ask[:, 0], ask_size[:, 0], strict=True)
    expected = [basis([level]) for level in levels]
    agree(expected, joined["book_microprice_basis_bps"])
    heavy_bid = bid_size[:, 0] > 2 * ask_size[:, 0]
    assert (joined["book_microprice_basis_bps"].to_numpy()[heavy_bid] > 0).all()
    for n in (1, 5):
        taker = joined[f"taker_imbalance_{n}m"]
        agree([None if t is None else t * e for t, e in zip(taker, expected, strict=True)],
              joined[f"book_pressure_taker_{n}m"])  # fmt: skip


def test_depth_zscore_over_the_hour(market, found):
    """Pins a z-score that goes on over a minute without a snapshot."""
    run = segments(found.filter(pl.col("instrument") == SYMBOLS[1]))[0]
    sides = run.select("instrument", "minute").join(market.books, on=["instrument", "minute"], how="left")
    bid, bid_size, ask, ask_size = (sides[name].to_numpy() for name in SIDES)
    depth = np.where(run["depth_imbalance_l20"].is_null(), np.nan, (bid * bid_size + ask * ask_size).sum(axis=1))
    spans = np.lib.stride_tricks.sliding_window_view(depth, 60)
    expected = (depth[59:] - spans.mean(axis=1)) / spans.std(axis=1, ddof=1)
    agree([None] * 59 + list(expected), run["depth_l20_zscore_60m"])
    assert np.isnan(expected).any()


def test_a_gap_starts_a_new_segment_and_midnight_does_not(found):
    """Pins a return, an order flow or a window across the 80 missing minutes, and one that stops at midnight."""
    own = found.filter(pl.col("instrument") == SYMBOLS[0])
    after = own.filter(pl.col("minute") >= minute(380))
    for name, lost in (("ret_1m_bps", 1), ("ret_15m_bps", 15), ("volume_zscore_60m", 59), ("ofi_l1_1m", 1),
                       ("ofi_l1_15m", 15), ("microprice_basis_change_5m_bps", 5)):  # fmt: skip
        assert after[name].head(lost).null_count() == lost, name
        assert after[name][lost] is not None, name
    midnight = own.filter(pl.col("minute").is_between(minute(210), minute(215)))
    assert midnight["session"].n_unique() == 1
    assert midnight["ret_60m_bps"].null_count() == 0


def test_a_constant_window_has_no_zscore():
    """Pins noise over noise: the mean of 60 equal volumes is not always that volume, their deviation must be zero."""
    values, held = np.full(100, 0.1), np.arange(1, 101)
    assert np.isnan(windows.zscores(values, held, 60)).all()
    values[-1] = 0.2
    assert windows.zscores(values, held, 60)[-1] == pytest.approx(59 / 60**0.5, rel=1e-12)


def test_a_rank_counts_ties_at_their_average_and_needs_most_of_a_day():
    """Pins a rank of equal spreads that is 1, and one from the few quotes after an outage."""
    held = np.arange(1, 11)
    assert windows.ranks(np.ones(10), held, 10, 9)[-1] == 0.55
    values = np.array([3.0, np.nan, 1, 2, 5, 4, 2, 8, 9, 2])
    assert windows.ranks(values, held, 10, 9)[-1] == 3 / 9
    assert np.isnan(windows.ranks(values, held, 10, 10)).all()
    assert windows.ranks(values, held, 4, 1)[5] == 3 / 4
