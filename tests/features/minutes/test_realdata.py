"""Real minutes and real snapshots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.features.minutes.compute import minute_features, sources_of
from pipeline.features.minutes.history import SIDES
from pipeline.features.minutes.quality import data_quality_flag
from pipeline.features.minutes.schema import ORDER_FLOW, lost_features
from tests.features.minutes.markets import inputs
from tests.oracles.ofi_slow import slow_order_flow

pytestmark = pytest.mark.realdata


def need(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        pytest.skip(f"no {name} among the real data")
    return path


def klines(folder: Path, symbol: str) -> pl.DataFrame:
    minute = pl.from_epoch("open_time", "ms").dt.cast_time_unit("us").dt.replace_time_zone("UTC")
    return pl.read_parquet(need(folder, f"binance/klines_1m/{symbol}.parquet")).select(
        pl.lit(symbol).alias("instrument"), minute.alias("minute"), "open", "high", "low", "close", "volume",
        "quote_volume", pl.col("count").alias("trades"), "taker_buy_volume",
    )  # fmt: skip


def test_a_year_of_real_minutes_without_books(realdata):
    """Pins real bars that the checks refuse, a window across the 80 minutes that were never traded, and lost columns
    that nobody names."""
    bars = klines(realdata, "BTCUSDT")
    values = minute_features(bars)
    assert values.height == bars.height == 525_520
    lost = lost_features(sources_of(bars))
    assert set(ORDER_FLOW) < set(lost)
    assert not set(values.columns) & set(lost)
    assert set(data_quality_flag(bars)["data_quality_flag"]) == {"PARTIAL_OPTIONAL"}
    for name, lookback in (("ret_60m_bps", 61), ("range_60m_bps", 60), ("breakout_up_240m_bps", 241)):
        assert values[name].null_count() == 2 * (lookback - 1), name  # the year's start and the one gap
    for name in ("sweep_high_240m_bps", "sweep_low_240m_bps", "breakout_up_240m_bps", "breakout_down_240m_bps"):
        assert 0 < (values[name] > 0).mean() < 0.05, name
    assert 3 < values["realized_vol_60m_bps"].median() < 5
    assert values["taker_imbalance_5m"].abs().max() <= 1


def test_two_real_symbols_do_not_touch(realdata):
    """Pins a window that runs from one symbol's last minute into the other's first."""
    both = [klines(realdata, symbol)[:3_000] for symbol in ("BTCUSDT", "ETHUSDT")]
    together = minute_features(pl.concat(both))
    for alone in both:
        kept = pl.col("instrument") == alone["instrument"][0]
        assert together.filter(kept).equals(minute_features(alone))


def test_real_snapshots_equal_the_oracle(realdata):
    """Pins order flow on a real book's shifting levels: 600 snapshots of it, taken as minutes."""
    raw = pl.read_parquet(need(realdata, "binance/l2_usdm_btcusdt/book20.parquet"))[::10][:600]
    columns = {"bid_price": "bid_px", "bid_size": "bid_sz", "ask_price": "ask_px", "ask_size": "ask_sz"}
    sides = {name: raw.select(f"{columns[name]}_{i}" for i in range(20)).to_numpy() for name in SIDES}
    market = inputs(len(raw), gap_at=None)
    bars = market.bars.filter(pl.col("instrument") == "BTCUSDT")
    books = bars.select("instrument", "minute").with_columns(
        pl.Series(name, np.ascontiguousarray(side), dtype=pl.Array(pl.Float64, 20)) for name, side in sides.items()
    )
    found = minute_features(bars, books)
    snapshots = [
        list(zip(*(side[t].tolist() for side in sides.values()), strict=True)) for t in range(len(raw))
    ]
    taker, rank = (found[name].to_list() for name in ("taker_imbalance_5m", "spread_rank_24h_pct"))
    for name, expected in slow_order_flow(snapshots, taker, rank).items():
        a = np.array([np.nan if x is None else x for x in expected])
        np.testing.assert_allclose(found[name].fill_null(np.nan).to_numpy(), a, rtol=2e-6, atol=2e-6, err_msg=name)
    assert found["mlofi_l20_5m_zscore_240m"].count() == 600 - 244
