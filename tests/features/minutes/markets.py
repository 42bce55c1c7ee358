"""Made-up minutes of two perpetuals: a gap, quiet minutes, missing quotes and levels, faulty snapshots, funding."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from pipeline.features.minutes.laws import MinuteInputs

LEVELS = 20
FIRST = datetime(2024, 3, 1, 20, 30, tzinfo=UTC)
SYMBOLS = ("BTCUSDT", "ETHUSDT")


def minute(i: int) -> datetime:
    return FIRST + timedelta(minutes=i)


def inputs(n: int = 3_400, gap_at: int | None = 300, seed: int = 1, faults: float = 0.0004) -> MinuteInputs:
    """`n` minutes of each symbol, from an evening over midnight; the first loses 80 minutes at `gap_at`."""
    rng = np.random.default_rng(seed)
    parts = [_symbol(rng, symbol, n, gap_at if symbol == SYMBOLS[0] else None, faults) for symbol in SYMBOLS]
    bars, books, funding = (pl.concat(frames) for frames in zip(*parts, strict=True))
    return MinuteInputs(bars, books, funding)


def _symbol(
    rng: np.random.Generator, symbol: str, n: int, gap_at: int | None, faults: float
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    minutes = pl.datetime_range(FIRST, minute(n - 1), "1m", time_unit="us", time_zone="UTC", eager=True)
    close = np.round(60_000 * np.exp(np.cumsum(rng.standard_t(4, n) * 4e-4)), 1)
    open_ = np.round(np.concatenate([close[:1], close[:-1]]) + rng.normal(0, 2, n), 1)
    quiet = rng.random(n) < 0.01
    volume = np.where(quiet, 0.0, np.round(rng.gamma(1.5, 20, n), 3))
    spread = rng.integers(1, 12, n) / 10
    bars = pl.DataFrame({
        "instrument": [symbol] * n, "minute": minutes, "open": open_,
        "high": np.maximum(open_, close) + np.round(rng.exponential(9, n), 1),
        "low": np.minimum(open_, close) - np.round(rng.exponential(9, n), 1), "close": close, "volume": volume,
        "quote_volume": volume * (open_ + close) / 2, "trades": np.where(quiet, 0, rng.poisson(300, n)),
        "taker_buy_volume": volume * rng.beta(3, 3, n),
        "spread_bps": [None if lost else float(s) for lost, s in zip(rng.random(n) < 0.005, spread, strict=True)],
    })  # fmt: skip
    books = _books(rng, bars, close, faults).filter(pl.Series(rng.random(n) >= faults))
    funding = _funding(rng, symbol, n)
    if gap_at is not None:
        kept = ~pl.col("minute").is_between(minute(gap_at), minute(gap_at + 79))
        bars, books = bars.filter(kept), books.filter(kept)
    return bars, books, funding


def _funding(rng: np.random.Generator, symbol: str, n: int) -> pl.DataFrame:
    """Every four hours for the first symbol; every eight for the second, each other one 7 ms late."""
    hours = 4 if symbol == SYMBOLS[0] else 8
    times = pl.datetime_range(
        datetime(2024, 3, 1, 16, tzinfo=UTC), minute(n), f"{hours}h", time_unit="us", eager=True
    ).to_frame("funding_time")
    late = pl.int_range(pl.len()) % 2 * (7 if hours == 8 else 0)
    return times.select(
        instrument=pl.lit(symbol), funding_time=pl.col("funding_time") + pl.duration(milliseconds=late),
        rate=pl.Series(rng.normal(1e-4, 5e-5, len(times))), interval_hours=pl.lit(float(hours)),
    )  # fmt: skip


def _books(rng: np.random.Generator, bars: pl.DataFrame, close: np.ndarray, faults: float) -> pl.DataFrame:
    n = len(bars)
    steps = np.cumsum(rng.integers(1, 3, (2, n, LEVELS)) / 10, axis=2)
    sides = {
        "bid_price": np.round(close[:, None] - steps[0], 1), "bid_size": rng.integers(1, 40, (n, LEVELS)) / 8,
        "ask_price": np.round(close[:, None] + steps[1], 1), "ask_size": rng.integers(1, 40, (n, LEVELS)) / 8,
    }  # fmt: skip
    sides["bid_price"][rng.random(n) < faults, 12] = np.nan  # a level missing
    sides["ask_size"][rng.random(n) < faults, 3] = 0.0  # a level of size zero
    sides["ask_price"][rng.random(n) < faults, 0] -= 50.0  # crossed
    sides["bid_size"][rng.random(n) < faults, 0] = np.nan  # no best quote
    return bars.select("instrument", "minute").with_columns(
        pl.Series(name, values, dtype=pl.Array(pl.Float64, LEVELS)) for name, values in sides.items()
    )
