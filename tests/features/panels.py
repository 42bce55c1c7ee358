"""A small made-up panel for this room: gaps, suspensions, listings, locked limits, ex-dates, patches and
minutes."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl

from pipeline.features.laws import FeatureInputs as Market

N_BARS = 48
_FLOWS = ("flow_small", "flow_medium", "flow_large", "flow_extra_large")
MEASURES = (
    "open", "high", "low", "close", "pre_close", "volume", "amount", "factor", "up_limit", "down_limit",
    "suspended",
    "turnover", "pe_ttm", "pb", "ps_ttm", "dividend_yield_pct", "total_mv", "circ_mv", *_FLOWS, "flow_gross",
)  # fmt: skip


def weekdays(n: int, first: date = date(2025, 1, 2)) -> list[date]:
    """The first `n` weekdays from a day on."""
    days = [first + timedelta(days=i) for i in range(2 * n)]
    return [d for d in days if d.weekday() < 5][:n]


def market(
    n_instruments: int = 14,
    n_sessions: int = 140,
    seed: int = 3,
    gaps: float = 0.06,
    patch_share: float = 0.01,
) -> Market:
    """Deterministic from its arguments."""
    rng = np.random.default_rng(seed)
    panel = _panel(rng, n_instruments, weekdays(n_sessions), gaps)
    return Market(panel, _patches(rng, panel, patch_share), _intraday(rng, panel))


def _panel(rng: np.random.Generator, n: int, days: list[date], gaps: float) -> pl.DataFrame:
    return pl.concat(_instrument(rng, i, days, gaps) for i in range(n)).sort("session", "instrument")


def _instrument(rng: np.random.Generator, i: int, days: list[date], gaps: float) -> pl.DataFrame:
    listed = 0 if i % 4 else int(rng.integers(0, len(days) // 2))
    t = len(days) - listed
    move = rng.standard_t(4, t) * 0.02
    move[30:60] = np.abs(move[30:60]) if i % 6 == 4 else move[30:60]  # runs of rises
    close = np.round(10 * (i + 1) * np.exp(np.cumsum(np.clip(move, -0.095, 0.095))), 2)
    pre_close = np.concatenate([close[:1], close[:-1]])
    up, down = np.round(pre_close * 1.1, 2), np.round(pre_close * 0.9, 2)
    locked, fallen = rng.random(t) < 0.04, rng.random(t) < 0.04
    locked[20 : 34 if i % 6 == 5 else 20] = True  # a run at the limit
    close = np.where(locked, up, np.where(fallen, down, close))
    open_ = np.round(pre_close * np.exp(rng.normal(0, 0.01, t)), 2)
    open_ = np.where((locked | fallen) & (np.arange(t) % 2 == 0), close, open_)
    one_price = open_ == close
    high = np.round(np.maximum(open_, close) * (1 + rng.exponential(0.004, t) * ~(locked | one_price)), 2)
    low = np.round(np.minimum(open_, close) * (1 - rng.exponential(0.004, t) * ~(fallen | one_price)), 2)
    volume = np.round(np.exp(rng.normal(13, 0.6, t))) * 100
    factor = np.round(np.cumprod(1 + (rng.random(t) < 0.02) * rng.random(t)), 4)
    frame = pl.DataFrame({
        "session": days[listed:], "instrument": f"{600000 + i:06d}.SH", "industry": f"industry {i % 3}",
        "board": ("main", "chinext", "star", "bse")[i % 4],
        "listing_age": np.arange(t, dtype=np.int32) + (0 if listed else 300),
        "is_st": rng.random(t) < 0.05,
        "open": open_, "high": high, "low": low, "close": close, "pre_close": pre_close, "volume": volume,
        "amount": volume * (open_ + close) / 2, "factor": factor, "up_limit": up, "down_limit": down,
        "turnover": volume / 1e9, "pe_ttm": rng.lognormal(3, 1, t), "pb": rng.lognormal(1, 1, t),
        "ps_ttm": rng.lognormal(1, 1, t), "dividend_yield_pct": rng.random(t) * 5,
        "total_mv": close * 1e8 * (i + 1), "circ_mv": close * 7e7 * (i + 1),
        **{name: rng.normal(0, 1e6, t) for name in _FLOWS}, "flow_gross": rng.lognormal(16, 1, t),
    })  # fmt: skip
    gone = pl.Series(_runs(rng, t, gaps))
    frame = frame.with_columns(suspended=gone, eligible=~gone & pl.Series(rng.random(t) < 0.9))
    bar = ["open", "high", "low", "close", "volume", "amount", "turnover", *_FLOWS, "flow_gross"]
    return frame.with_columns(
        pl.when("suspended").then(None).otherwise(pl.col(bar)).name.keep(),
        pe_ttm=pl.when(pl.Series(rng.random(t) < 0.2)).then(None).otherwise("pe_ttm"),
    )


def _runs(rng: np.random.Generator, t: int, gaps: float) -> np.ndarray:
    """Suspensions of one to nine sessions."""
    gone = np.zeros(t, bool)
    for start in np.flatnonzero(rng.random(t) < gaps / 3):
        gone[start : start + int(rng.integers(1, 10))] = True
    return gone


def _patches(rng: np.random.Generator, panel: pl.DataFrame, share: float) -> pl.DataFrame:
    """Late and corrected rows, some corrected twice; all but a few become effective within 25 sessions."""
    days = panel["session"].unique().sort().to_list()
    source = panel.filter(pl.Series(rng.random(len(panel)) < share))
    source = pl.concat([source, source.head(len(source) // 3)])
    later = [min(days.index(s) + int(rng.integers(1, 26)), len(days) - 1) for s in source["session"]]
    scale = pl.Series(1 + rng.normal(0, 0.02, len(source)))
    bar = {"open": 10.0, "high": 10.4, "low": 9.8, "close": 10.1, "volume": 2e6, "amount": 2e7}
    source = source.with_columns(pl.col(name).fill_null(value) for name, value in bar.items())  # late rows
    patches = source.select(
        pl.Series("effective_session", [days[i] for i in later]), "session", "instrument", *MEASURES
    ).with_columns(
        pl.col("close") * scale,
        pl.col("high") * 1.05,
        pl.col("volume") * (1 + scale),
        pl.col("circ_mv") * scale,
    )
    return (
        patches.filter(pl.col("effective_session") > pl.col("session"))
        .unique(["effective_session", "session", "instrument"], keep="last", maintain_order=True)
        .sort("effective_session", "session", "instrument")
    )


def _intraday(rng: np.random.Generator, panel: pl.DataFrame) -> pl.DataFrame:
    """Minutes for two thirds of the rows with a bar; some bars absent."""
    rows = panel.filter(pl.col("close").is_not_null() & pl.Series(rng.random(len(panel)) < 0.67))
    n = len(rows)
    close = rows["close"].to_numpy()[:, None] * np.exp(np.cumsum(rng.normal(0, 0.002, (n, N_BARS)), axis=1))
    open_ = np.concatenate([close[:, :1], close[:, :-1]], axis=1)
    high, low = np.maximum(open_, close) * 1.0005, np.minimum(open_, close) * 0.9995
    bars = np.stack([open_, high, low, close, rng.lognormal(12, 1, (n, N_BARS))], axis=2)
    bars[rng.random((n, N_BARS)) < 0.02] = np.nan
    flat = pl.Series("bars", bars.reshape(n, -1), dtype=pl.Array(pl.Float64, N_BARS * 5))
    return rows.select("session", "instrument").with_columns(flat)
