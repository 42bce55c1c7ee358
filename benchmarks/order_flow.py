"""Order flow over 20 levels: 1 M minute snapshots to the 16 features, beside the pandas formulation of the same rules.

Both start from the arrays; theirs is the usual one, columns of differences and `rolling`, whose running sums move the
last bits: values must agree to 1e-6, missing ones exactly. Times are processor time.
Then all 70 features of half a year of minutes are timed.

    pip install pandas
    python -m benchmarks.order_flow
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import polars as pl

from pipeline.features.minutes import order_flow
from pipeline.features.minutes.compute import minute_features
from pipeline.features.minutes.history import MinuteHistory, build
from pipeline.features.minutes.schema import ORDER_FLOW

N_SNAPSHOTS, HALF_YEAR, LEVELS = 1_000_000, 262_800, 20


def market(n: int, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Bars, books and funding of one perpetual; one gap, and one snapshot in a thousand lacks its last level."""
    rng = np.random.default_rng(seed)
    minute = np.datetime64("2024-01-01T00:00", "us") + np.arange(n) * np.timedelta64(60_000_000, "us")
    minute[n // 2 :] += np.timedelta64(80 * 60_000_000, "us")
    close = np.round(60_000 * np.exp(np.cumsum(rng.normal(0, 5e-4, n))), 1)
    before = np.concatenate([close[:1], close[:-1]])
    volume = np.round(rng.gamma(2, 20, n), 3)
    bars = pl.DataFrame({
        "instrument": np.full(n, "BTCUSDT"), "minute": minute, "open": before,
        "high": np.maximum(before, close) + 3, "low": np.minimum(before, close) - 3, "close": close,
        "volume": volume, "quote_volume": volume * close, "trades": rng.poisson(900, n),
        "taker_buy_volume": volume * rng.beta(9, 9, n), "spread_bps": rng.integers(1, 9, n) / 10,
    }).with_columns(pl.col("minute").dt.replace_time_zone("UTC"))  # fmt: skip
    steps = 0.1 * np.arange(LEVELS)
    sides = {
        "bid_price": close[:, None] - 0.1 - steps, "bid_size": rng.integers(1, 9, (n, LEVELS)) / 4,
        "ask_price": close[:, None] + 0.1 + steps, "ask_size": rng.integers(1, 9, (n, LEVELS)) / 4,
    }  # fmt: skip
    sides["ask_size"][rng.random(n) < 0.001, -1] = np.nan
    books = bars.select("instrument", "minute").with_columns(
        pl.Series(name, values, dtype=pl.Array(pl.Float64, LEVELS)) for name, values in sides.items()
    )
    hours = pl.datetime_range(datetime(2024, 1, 1, tzinfo=UTC), bars["minute"][-1], "8h", time_unit="us", eager=True)
    funding = pl.DataFrame({"funding_time": hours}).with_columns(
        instrument=pl.lit("BTCUSDT"), rate=pl.lit(1e-4), interval_hours=pl.lit(8.0)
    )
    return bars, books, funding


def fastest(work: Callable[[], object], times: int) -> float:
    """Best of several runs, seconds of processor time: on a busy machine the clock measures the neighbours."""
    took = []
    for _ in range(times):
        begin = time.process_time()
        work()
        took.append(time.process_time() - begin)
    return min(took)


def ours(history: MinuteHistory) -> list[np.ndarray]:
    """The sixteen, from arrays, without what an earlier call has worked out."""
    fresh = MinuteHistory(
        history.rows, history.values, history.held, history.at, history.levels, history.funding_rate,
        history.minutes_to_funding,
    )  # fmt: skip
    return order_flow.FAMILY.compute(fresh)


def theirs(history: MinuteHistory) -> list[np.ndarray]:
    """Differences of columns and `rolling` per segment."""
    bid, bid_size, ask, ask_size = history.levels
    previous = [np.vstack([np.full(LEVELS, np.nan), side[:-1]]) for side in history.levels]
    gained = _part(bid, bid_size, previous[0], previous[1], 1.0)
    lost = _part(ask, ask_size, previous[2], previous[3], -1.0)
    segment = np.cumsum(history.held == 1)
    flow, notional = gained + lost, bid * bid_size + ask * ask_size
    flow[history.held == 1] = np.nan
    series = {}
    for name, levels, lengths in (("l1", 1, (1, 3, 5, 15)), ("l5", 5, (1, 5)), ("l20", 20, (1, 5))):
        event, depth = (_by(x[:, :levels].sum(axis=1), segment) for x in (flow, notional))
        for n in lengths:
            series[name, n] = _rolled(event, n).sum() / np.maximum(_rolled(depth, n).mean(), 1e-12)
    p, q, v, w = bid[:, 0], ask[:, 0], bid_size[:, 0], ask_size[:, 0]
    basis = pd.Series((((q * v + p * w) / np.maximum(v + w, 1e-12)) / ((p + q) / 2) - 1) * 1e4)
    by_segment = basis.groupby(segment)
    zscores = []
    for key in (("l1", 5), ("l20", 5)):
        window = _rolled(_by(series[key].to_numpy(), segment), 240)
        zscores.append((series[key] - window.mean()) / window.std())
    clipped = series["l1", 5].clip(-5, 5)
    bought, volume = (
        _rolled(_by(history.values[name], segment), 5).sum() for name in ("taker_buy_volume", "volume")
    )
    rank = _rolled(_by(history.values["spread_bps"], segment), 1440).rank(pct=True)
    return [
        *(x.to_numpy() for x in series.values()), (series["l5", 1] - series["l20", 1]).to_numpy(),
        *((basis - by_segment.shift(n)).to_numpy() for n in (1, 5)), *(z.to_numpy() for z in zscores),
        clipped.to_numpy(), (clipped * (2 * bought - volume) / volume).to_numpy(), (clipped * rank).to_numpy(),
    ]  # fmt: skip


def _by(values: np.ndarray, segment: np.ndarray) -> pd.core.groupby.SeriesGroupBy:
    return pd.Series(values).groupby(segment)


def _rolled(groups: pd.core.groupby.SeriesGroupBy, n: int) -> _Rolled:
    return _Rolled(groups, n)


class _Rolled:
    """`rolling` inside segments, its result in row order."""

    def __init__(self, groups: pd.core.groupby.SeriesGroupBy, n: int) -> None:
        self.window = groups.rolling(n, min_periods=n)

    def __getattr__(self, name: str) -> Callable[..., pd.Series]:
        return lambda **options: getattr(self.window, name)(**options).droplevel(0).sort_index()


def _part(price: np.ndarray, size: np.ndarray, before: np.ndarray, size_before: np.ndarray, sign: float) -> np.ndarray:
    """Bid part (sign 1) or ask part (sign -1) of the event order-flow imbalance, `[n, 20]`."""
    better, worse = sign * price > sign * before, sign * price < sign * before
    part = np.where(better, size * price, np.where(worse, -size_before * before, (size - size_before) * price))
    return sign * np.where(np.isnan(price * size * before * size_before), np.nan, part)


def check(history: MinuteHistory) -> None:
    """Both formulations must give the same values and miss the same rows."""
    for name, a, b in zip(ORDER_FLOW, ours(history), theirs(history), strict=True):
        if not np.allclose(a, b, rtol=1e-6, atol=1e-6, equal_nan=True):
            sys.exit(f"{name}: values differ")
    print(f"all {len(ORDER_FLOW)} columns agree to 1e-6 on {len(history.rows):,} snapshots")


def main() -> None:
    bars, books, funding = market(N_SNAPSHOTS)
    small = market(20_000)
    minute_features(*small)  # compiles the kernels
    history = build(bars, books, None)
    check(history)
    took = fastest(lambda: ours(history), 3)
    print(f"ours: {took:.2f} s for {N_SNAPSHOTS:,} snapshots of {LEVELS} levels")
    peer = fastest(lambda: theirs(history), 1)
    print(f"pandas: {peer:.2f} s; ratio {peer / took:.0f}")
    half = bars[:HALF_YEAR], books[:HALF_YEAR], funding
    took = fastest(lambda: minute_features(*half), 2)
    print(f"all features of {HALF_YEAR:,} minutes: {took:.2f} s")


if __name__ == "__main__":
    main()
