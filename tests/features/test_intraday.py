"""Summaries of the trading day and the channels of Path A, against plain NumPy on whole days."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from pipeline.errors import SchemaError
from pipeline.features.compute import CHANNELS, compute, path_channels
from pipeline.features.plan import plan
from tests.features.panels import N_BARS, Market, market

PLAN = plan(["intraday"])


@pytest.fixture(scope="module")
def m() -> Market:
    return market(n_instruments=5, n_sessions=30)


def first_whole_day(m: Market) -> tuple[pl.DataFrame, np.ndarray]:
    """The first row of minutes without a missing bar, and its bars `[48, 5]`."""
    bars = m.intraday["bars"].to_numpy()
    row = int(np.flatnonzero(~np.isnan(bars).any(axis=1))[0])
    return m.intraday[row : row + 1], bars[row].reshape(N_BARS, 5)


def with_day(m: Market, row: pl.DataFrame, bars: np.ndarray) -> pl.DataFrame:
    """The minutes with one day's bars replaced."""
    flat = pl.Series("bars", bars.reshape(1, -1), dtype=pl.Array(pl.Float64, N_BARS * 5))
    day = row.select("session", "instrument").with_columns(flat)
    return pl.concat([m.intraday.join(day, on=["session", "instrument"], how="anti"), day])


def summary(m: Market, row: pl.DataFrame, bars: np.ndarray) -> dict:
    found = compute(m.as_of, m.patches, with_day(m, row, bars), PLAN, row["session"].to_list())
    return found.join(row, on=["session", "instrument"]).row(0, named=True)


def channels_of(m: Market, row: pl.DataFrame, bars: np.ndarray) -> np.ndarray:
    found = path_channels(with_day(m, row, bars), m.as_of, row["session"].to_list())
    return found.join(row, on=["session", "instrument"])["channels"].to_numpy().reshape(N_BARS, len(CHANNELS))


def test_summaries_of_a_whole_day(m):
    """Pins each summary: first and last half hour are six bars, volatility is not demeaned, vwap weighs by
    volume."""
    row, bars = first_whole_day(m)
    o, h, low, c, amount = bars.T
    step = np.log(c / np.concatenate([[o[0]], c[:-1]]))
    late, day_before = np.log(c[-1] / c[41]), np.log(c[41] / o[0])
    expected = {
        "minute_volatility": np.sqrt((step**2).sum()),
        "first_return": np.log(c[5] / o[0]),
        "first_amount_share": amount[:6].sum() / amount.sum(),
        "last_return": late,
        "last_amount_share": amount[-6:].sum() / amount.sum(),
        "late_reversal": -np.sign(day_before) * late,
        "day_close_location": (c[-1] - low.min()) / (h.max() - low.min()),
        "day_range": np.log(h.max() / low.min()),
        "vwap_deviation": c[-1] / (amount.sum() / (amount / ((o + h + low + c) / 4)).sum()) - 1,
        "amount_concentration": ((amount / amount.sum()) ** 2).sum(),
    }
    found = summary(m, row, bars)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_channels_of_a_whole_day(m):
    """Pins each channel and their order in the flat array."""
    row, bars = first_whole_day(m)
    o, h, low, c, amount = bars.T
    step = np.log(c / np.concatenate([[o[0]], c[:-1]]))
    share, volume = amount / amount.sum(), amount / ((o + h + low + c) / 4)
    at = np.arange(N_BARS)
    expected = {
        "bar_return": step,
        "amount_share": share,
        "volume_share": volume / volume.sum(),
        "high_low_range": np.log(h / low),
        "close_location": (c - low) / (h - low),
        "realised_volatility": np.sqrt(np.cumsum(step**2) / (at + 1)),
        "first_session_pressure": np.where(at < 6, np.sign(step) * share, 0),
        "late_session_reversal": np.where(at >= 42, -np.sign(c[41] / o[0] - 1) * step, 0),
    }
    assert tuple(expected) == CHANNELS
    np.testing.assert_allclose(
        channels_of(m, row, bars), np.stack(list(expected.values()), axis=1), rtol=1e-5, atol=1e-8
    )


def test_a_missing_bar_is_skipped_and_stays_missing(m):
    """Pins a gap read as a price of zero: the next return spans it, the shares leave it out, its channels
    are NaN."""
    row, bars = first_whole_day(m)
    bars = bars.copy()
    bars[10] = np.nan
    found = channels_of(m, row, bars)
    assert np.isnan(found[10]).all()
    assert not np.isnan(np.delete(found, 10, axis=0)).any()
    assert found[11, 0] == pytest.approx(np.log(bars[11, 3] / bars[9, 3]), rel=1e-5)
    assert np.nansum(found[:, 1]) == pytest.approx(1.0, rel=1e-6)


def test_a_day_at_one_price_is_finite(m):
    """Pins 0/0 on a locked day: location 0.5, range and reversal 0; without any amount, shares are null."""
    row, _ = first_whole_day(m)
    locked = np.tile([10.0, 10.0, 10.0, 10.0, 1e6], (N_BARS, 1))
    found = summary(m, row, locked)
    assert (found["day_close_location"], found["day_range"], found["late_reversal"]) == (0.5, 0.0, 0.0)
    assert np.isfinite(channels_of(m, row, locked)).all()
    locked[:, 4] = 0.0
    assert summary(m, row, locked)["first_amount_share"] is None


def test_path_rows_are_the_panel_rows_with_minutes(m):
    """Pins invented days: sessions asked for only, names of the panel only, none at all without minutes."""
    days = m.sessions[3:6]
    stranger = m.intraday[:1].with_columns(instrument=pl.lit("999999.SZ"), session=pl.lit(days[0]))
    found = path_channels(pl.concat([stranger, m.intraday[::-1]]), m.as_of, days)
    expected = m.intraday.filter(pl.col("session").is_in(days)).select("session", "instrument")
    assert found.select("session", "instrument").equals(expected)
    assert found.schema["channels"] == pl.Array(pl.Float32, N_BARS * len(CHANNELS))
    assert path_channels(m.intraday.clear(), m.as_of, days).is_empty()
    with pytest.raises(SchemaError, match="bars"):
        path_channels(m.intraday.drop("bars"), m.as_of, days)
