"""Path A's channels: what is declared of them, the slow oracle at any bar count, and what is refused."""

from __future__ import annotations

import math
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from assets.feature_check import resolve
from pipeline.errors import BadInput
from pipeline.features.bar import edge_bars
from pipeline.features.channels import CHANNEL_FEATURES, CHANNELS, channel_family, channels
from pipeline.features.compute import compute, path_channels
from pipeline.features.plan import FAMILIES, Plan
from pipeline.frames import AsOf
from tests.features.panels import market
from tests.oracles.channels_slow import slow_channels

DAY = date(2025, 3, 3)


def days(n_days: int, n_bars: int, seed: int) -> np.ndarray:
    """Random days `[n_days, n_bars, 5]`: absent bars, flat bars, bars without amount, a day without any amount."""
    rng = np.random.default_rng(seed)
    close = 10 * np.exp(np.cumsum(rng.normal(0, 0.004, (n_days, n_bars)), axis=1))
    open_ = close * np.exp(rng.normal(0, 0.002, close.shape))
    high = np.maximum(open_, close) * (1 + rng.exponential(0.001, close.shape))
    low = np.minimum(open_, close) * (1 - rng.exponential(0.001, close.shape))
    bars = np.stack([open_, high, low, close, rng.lognormal(12, 1, close.shape)], axis=2)
    flat = rng.random(close.shape) < 0.1
    bars[flat, :4] = bars[flat, 3:4]
    bars[rng.random(close.shape) < 0.05, 4] = 0.0
    bars[rng.random(close.shape) < 0.15] = np.nan
    bars[0, :, 4] = 0.0
    bars[1] = np.nan
    bars[2, : n_bars - edge_bars(n_bars)] = np.nan  # only the last session traded
    return bars


def stored(bars: np.ndarray) -> tuple[pl.DataFrame, AsOf]:
    """The days as the minutes of one session, and the panel rows they belong to."""
    keys = {"session": [DAY] * len(bars), "instrument": [f"{600000 + i}.SH" for i in range(len(bars))]}
    flat = pl.Series("bars", bars.reshape(len(bars), -1), dtype=pl.Array(pl.Float64, bars.shape[1] * 5))
    return pl.DataFrame(keys).with_columns(flat), AsOf(pl.DataFrame(keys))


@pytest.mark.parametrize("n_bars", [2, 8, 16, 24, 30, 48, 240])
def test_channels_equal_the_slow_oracle_at_any_bar_count(n_bars):
    """Pins a kernel that only knows 48 bars: shares, edges and gaps of every bar, missing ones NaN."""
    bars = days(40, n_bars, seed=n_bars)
    found = channels(bars)
    expected = np.full(found.shape, np.nan)
    for r in range(len(bars)):
        for b, values in enumerate(slow_channels(bars[r].tolist())):
            if values is not None:
                expected[r, b] = [values[name] for name in CHANNELS]
    assert np.isnan(expected).any()
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize(("n_bars", "edge"), [(2, 1), (4, 1), (8, 1), (10, 1), (16, 2), (24, 3), (48, 6), (240, 30)])
def test_the_first_and_last_half_hour_hold_a_bar(n_bars, edge):
    """Pins n // 8 at few bars: below eight a day had no first session, and its channels were 0 for every name."""
    assert edge_bars(n_bars) == edge
    rise = np.tile([10.0, 10.2, 9.9, 10.1, 1e6], (1, n_bars, 1))
    rise[0, :, :4] *= 1.01 ** np.arange(n_bars)[:, None]
    found = channels(rise)[0]
    assert np.flatnonzero(found[:, CHANNELS.index("first_session_pressure")]).tolist() == list(range(edge))
    assert np.flatnonzero(found[:, CHANNELS.index("late_session_reversal")]).tolist() == list(
        range(n_bars - edge, n_bars)
    )


def test_every_channel_is_declared_like_a_feature():
    """Pins a channel without a declaration: names of their own, one session of minutes, no other instrument."""
    features = {f.name for family in FAMILIES.values() for f in family.features}
    assert tuple(channel.name for channel in CHANNEL_FEATURES) == CHANNELS
    assert len(set(CHANNELS)) == len(CHANNELS) == channels(days(3, 8, 0)).shape[2]
    assert not set(CHANNELS) & features
    for channel in CHANNEL_FEATURES:
        assert (channel.inputs, channel.lookback, channel.scope) == (("bars",), 1, "instrument")
        assert channel.unit
        assert channel.meaning


def test_a_channel_family_holds_the_stored_values():
    """Pins two answers: the columns that the laws and the check command judge are the bits of `paths`."""
    m = market(n_instruments=5, n_sessions=12)
    paths = path_channels(m.intraday, m.as_of, m.sessions)
    n_bars = paths.schema["channels"].size // len(CHANNELS)  # type: ignore[attr-defined]
    values = compute(m.as_of, m.patches, m.intraday, Plan((channel_family(n_bars),)), m.sessions)
    traded = values.join(paths, on=["session", "instrument"], how="semi")
    columns = traded.drop("session", "instrument").fill_null(math.nan).to_numpy()
    stored_bars = paths["channels"].to_numpy().reshape(len(paths), n_bars, len(CHANNELS))
    np.testing.assert_array_equal(columns, stored_bars.transpose(0, 2, 1).reshape(columns.shape))
    rest = values.join(paths, on=["session", "instrument"], how="anti").drop("session", "instrument")
    assert len(rest)
    assert rest.select(pl.all_horizontal(pl.all().is_null()).all()).item()
    one = compute(m.as_of, m.patches, m.intraday, Plan((channel_family(n_bars, ("close_location",)),)), m.sessions)
    assert one.equals(values.select("session", "instrument", "^close_location_.*$"))


def test_an_unknown_channel_is_named_with_the_known_ones():
    """Pins a typing error: it says what was asked and what exists."""
    with pytest.raises(BadInput, match=r"bar_retrun.*amount_share"):
        channel_family(48, ("bar_retrun",))


def test_the_check_command_takes_a_channel():
    """Pins a channel that no one can check by name: its bars are judged, as many as the study's sessions have."""
    plan, features = resolve("close_location", 16)
    assert plan.schema == tuple(f.name for f in features) == tuple(f"close_location_{b:02d}" for b in range(16))
    with pytest.raises(BadInput, match="close_location"):
        resolve("close_locatoin", 16)


def test_an_infinite_channel_names_itself_its_instrument_and_its_session():
    """Pins an infinity that reaches a net: an infinite high is refused by name, the day without it is not."""
    bars = days(6, 16, seed=5)
    bars[4] = [10.0, 10.2, 9.9, 10.1, 1e6]
    assert len(path_channels(*stored(bars), [DAY])) == 6
    bars[4, 7, 1] = math.inf
    with pytest.raises(BadInput, match=r"high_low_range of 600004\.SH on 2025-03-03, bar 7, is inf"):
        path_channels(*stored(bars), [DAY])


def test_the_contract_lists_every_channel():
    """Pins a channel that readers of the contract do not know of."""
    text = (Path(__file__).resolve().parents[2] / "docs/architecture.md").read_text(encoding="utf-8")
    assert not [name for name in CHANNELS if f"`{name}`" not in text]


@pytest.mark.realdata
def test_real_quarter_hours_equal_the_oracle(realdata):
    """Pins what made-up bars never show, at 16 bars a session: ticks, halts, bars without a trade; and that amount over
    typical price stands in for the volume that bars do not carry."""
    fields = ["open", "high", "low", "close", "amount"]
    rows = pl.read_parquet(realdata / "ashare_15m" / "bars.parquet").sort("symbol", "datetime")
    by_day = rows.group_by("symbol", pl.col("datetime").dt.date(), maintain_order=True).agg(*fields, "volume")
    sample = by_day.filter(pl.col("open").list.len() == 16)[::80]
    bars = np.stack([np.array(sample[field].to_list()) for field in fields], axis=2)
    found = channels(bars)
    expected = [[[bar[name] for name in CHANNELS] for bar in slow_channels(day)] for day in bars.tolist()]
    np.testing.assert_allclose(found, np.array(expected), rtol=2e-6, atol=1e-9)
    volume = np.array(sample["volume"].to_list())
    true_share = volume / volume.sum(axis=1, keepdims=True)
    away = np.abs(found[:, :, CHANNELS.index("volume_share")] - true_share)
    assert np.quantile(away, 0.999) < 0.005  # 0.003 over all 59,954 traded days; six of them contradict themselves
