"""Alpha158 against an independent pandas version, column by column."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.features.compute import compute
from pipeline.features.plan import plan
from pipeline.frames import AsOf
from tests.features.panels import market, weekdays
from tests.oracles.alpha158_pandas import alpha158

PLAN = plan(["alpha158"])
REALDATA = Path(os.environ.get("FOLDGATE_REALDATA", Path(__file__).parents[3] / "shared" / "data"))
NO_PATCHES = market(1, 5).patches.clear()
NO_MINUTES = market(1, 5).intraday.clear()

# Columns that are differences of near-equal numbers: compared on the scale of what is subtracted.
CANCELLING = ("RESI", "SUMD", "VSUMD", "CNTD", "KMID", "KSFT", "BETA", "CORR", "CORD", "IMXD")


def assert_equal(found: pl.DataFrame, expected: pd.DataFrame, relative: float = 1e-6) -> None:
    """Every column within float32 of the oracle, and missing exactly where the oracle is missing."""
    for name in expected.columns:
        x, y = found[name].cast(pl.Float64).fill_null(float("nan")).to_numpy(), expected[name].to_numpy()
        absolute = 2e-7 if name.startswith(CANCELLING) else 1e-9
        np.testing.assert_allclose(x, y, rtol=relative, atol=absolute, err_msg=name)


def features_of(bars: pd.DataFrame) -> pl.DataFrame:
    panel = pl.from_pandas(bars).with_columns(
        pl.Series("session", weekdays(len(bars))), instrument=pl.lit("a"), eligible=pl.lit(True)
    )
    return compute(AsOf(panel), NO_PATCHES, NO_MINUTES, PLAN, panel["session"].to_list())


def bars_of(panel: pl.DataFrame, instrument: str) -> pd.DataFrame:
    return panel.filter(pl.col("instrument") == instrument).sort("session").to_pandas()


def test_names_and_order_are_qlibs():
    """Pins a renamed or reordered column: 9 + 4 + 29 x 5 in the order of qlib's loader."""
    assert len(PLAN.schema) == 158
    assert PLAN.schema[:13] == (
        "KMID", "KLEN", "KMID2", "KUP", "KUP2", "KLOW", "KLOW2", "KSFT", "KSFT2", "OPEN0", "HIGH0", "LOW0",
        "VWAP0"
    )  # fmt: skip
    assert PLAN.schema[13:18] == ("ROC5", "ROC10", "ROC20", "ROC30", "ROC60")
    assert [name[:-1] for name in PLAN.schema[13::5]] == [
        "ROC", "MA", "STD", "BETA", "RSQR", "RESI", "MAX", "MIN", "QTLU", "QTLD", "RANK", "RSV", "IMAX",
        "IMIN",
        "IMXD", "CORR", "CORD", "CNTP", "CNTN", "CNTD", "SUMP", "SUMN", "SUMD", "VMA", "VSTD", "WVMA",
        "VSUMP",
        "VSUMN", "VSUMD",
    ]  # fmt: skip
    assert PLAN.lookback == 61


@pytest.mark.parametrize("gaps", [0.0, 0.06, 0.3])
def test_every_column_equals_the_oracle(gaps):
    """Pins a wrong formula, window edge or gap rule in any of the 158 columns, on 5 instruments."""
    m = market(n_instruments=5, n_sessions=110, gaps=gaps, seed=int(gaps * 100))
    found = compute(m.as_of, NO_PATCHES, NO_MINUTES, PLAN, m.sessions)
    for instrument in m.panel["instrument"].unique():
        assert_equal(found.filter(pl.col("instrument") == instrument), alpha158(bars_of(m.panel, instrument)))


def test_without_gaps_the_numbers_are_qlibs():
    """Pins a drift from qlib where there is nothing to treat differently: warm-up, ties, first bars
    included."""
    m = market(n_instruments=4, n_sessions=90, gaps=0.0, seed=8)
    found = compute(m.as_of, NO_PATCHES, NO_MINUTES, PLAN, m.sessions)
    for instrument in m.panel["instrument"].unique():
        expected = alpha158(bars_of(m.panel, instrument), skip_missing=False)
        assert_equal(found.filter(pl.col("instrument") == instrument), expected)


def test_where_bars_are_missing_ours_differs_from_qlib_as_documented():
    """Pins the documented difference itself: counts over present bars, extremes at present bars, no stale
    rows."""
    bars = bars_of(market(n_instruments=2, n_sessions=12, gaps=0.0).panel, "600001.SH")
    bars.loc[7:8, ["open", "high", "low", "close", "volume", "amount"]] = np.nan
    ours, qlib = features_of(bars), alpha158(bars, skip_missing=False)
    rises = (bars["close"] * bars["factor"]).diff() > 0
    assert ours["CNTP5"][10] == pytest.approx(rises[[6, 9, 10]].sum() / 3)
    assert qlib["CNTP5"][10] == pytest.approx(rises[[6, 9, 10]].sum() / 5)
    assert qlib["IMAX5"][10] * 5 == 2  # the first missing bar of the window
    assert ours["IMAX5"][10] * 5 == pytest.approx(np.nanargmax((bars["high"] * bars["factor"])[6:11]) + 1)
    assert ours["SUMP5"][8] is None
    assert not np.isnan(qlib["SUMP5"][8])


def test_a_small_price_keeps_its_correlation():
    """Pins qlib's absolute guard: at prices near 0.0001 it calls every move flat; ours does not depend on
    scale."""
    bars = bars_of(market(n_instruments=2, n_sessions=70, gaps=0.0).panel, "600001.SH")
    prices = ["open", "high", "low", "close"]
    small = bars.copy()
    small[prices] = bars[prices] * 2.0**-20
    assert np.isnan(alpha158(small, skip_missing=False)["CORR10"][40])
    assert features_of(small)["CORR10"][40] == features_of(bars)["CORR10"][40]


def test_a_locked_price_has_no_regression_or_correlation():
    """Pins 0/0 noise: a window of equal closes gives RSQR and CORR null, STD and RESI zero."""
    bars = bars_of(market(n_instruments=2, n_sessions=20, gaps=0.0).panel, "600001.SH")
    bars[["open", "high", "low", "close"]] = 10.3
    bars["factor"] = 1.37
    row = features_of(bars).row(15, named=True)
    assert row["RSQR5"] is None
    assert row["CORR10"] is None
    assert (row["STD10"], row["RESI10"], row["BETA10"]) == (0.0, 0.0, 0.0)


@settings(max_examples=25, deadline=None)
@given(
    closes=st.lists(st.one_of(st.none(), st.integers(1, 30)), min_size=1, max_size=75),
    seed=st.integers(0, 2**16),
    exes=st.sets(st.integers(0, 74), max_size=4),
)
def test_ties_gaps_and_ex_dates_equal_the_oracle(closes, seed, exes):
    """Pins ties, runs of missing bars and factor jumps, on prices of a few ticks found by search."""
    rng = np.random.default_rng(seed)
    close = np.array([np.nan if c is None else c for c in closes], dtype=float)
    absent = np.isnan(close)
    bars = pd.DataFrame({
        "open": close + rng.integers(0, 2, len(close)), "close": close, "high": close + 1,
        "low": close - 0.5, "volume": np.where(absent, np.nan, rng.integers(1, 4, len(close)) * 100.0),
    })  # fmt: skip
    bars["amount"] = bars["volume"] * bars["close"]
    bars["factor"] = np.cumprod([2.0 if i in exes else 1.0 for i in range(len(close))])
    assert_equal(features_of(bars), alpha158(bars), relative=2e-6)


@pytest.mark.realdata
def test_real_bars_equal_the_oracle():
    """Pins what made-up prices never show: real ex-dates, suspensions, ticks and volumes of five names."""
    folder = REALDATA / "tushare_csi300"
    if not folder.exists():
        pytest.skip(f"real data not found under {folder}; set FOLDGATE_REALDATA")
    daily = pl.read_parquet(folder / "daily.parquet")
    factor = pl.read_parquet(folder / "adj_factor.parquet")
    names = daily["ts_code"].unique().sort().gather([0, 60, 120, 180, 240])
    bars = factor.filter(pl.col("ts_code").is_in(names.implode())).join(
        daily, on=["ts_code", "trade_date"], how="left"
    )
    panel = bars.select(
        "open", "high", "low", "close",
        session=pl.col("trade_date").str.to_date("%Y%m%d"), instrument="ts_code",
        volume=pl.col("vol") * 100, amount=pl.col("amount") * 1000,
        factor="adj_factor", eligible=pl.lit(True),
    ).sort("session", "instrument")  # fmt: skip
    found = compute(AsOf(panel), NO_PATCHES, NO_MINUTES, PLAN, panel["session"].unique().to_list())
    calendar = panel.select("session").unique()
    for name in names:
        own = calendar.join(panel.filter(pl.col("instrument") == name), on="session", how="left").sort(
            "session"
        )
        expected = alpha158(own.to_pandas())[own["instrument"].is_not_null().to_numpy()]
        assert_equal(found.filter(pl.col("instrument") == name), expected)
