"""Labels and folds of 300 real stocks over four years, against a pandas reading of the same protocol."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.calendars import Calendar
from pipeline.folds.spec import FoldSpec
from pipeline.folds.splits import make_folds
from pipeline.frames import Hindsight
from pipeline.labels.executable import executable_labels
from pipeline.labels.spec import HeadSpec, LabelSpec

ROOT = (
    Path(os.environ.get("FOLDGATE_REALDATA", Path(__file__).parents[2] / "../shared/data")) / "tushare_csi300"
)
SPEC = LabelSpec(family="executable", heads=(HeadSpec(name="rank", kind="rank"),))

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not ROOT.exists(), reason="needs the folder named by FOLDGATE_REALDATA"),
]


def _day(name: str) -> pl.Expr:
    return pl.col(name).str.to_date("%Y%m%d")


@pytest.fixture(scope="module")
def calendar() -> Calendar:
    cal = pl.read_parquet(ROOT / "trade_cal.parquet").with_columns(_day("cal_date"))
    return Calendar.from_trade_cal(cal)


@pytest.fixture(scope="module")
def market() -> pl.DataFrame:
    """Every stock from its first bar on; a session without a bar is a suspension (no limit prices here)."""
    bars = pl.read_parquet(ROOT / "daily.parquet").join(
        pl.read_parquet(ROOT / "adj_factor.parquet"), on=["ts_code", "trade_date"], how="left"
    )
    bars = bars.select(
        _day("trade_date").alias("session"),
        pl.col("ts_code").alias("instrument"),
        "open",
        "low",
        "close",
        pl.col("adj_factor").alias("factor"),
    )
    first = bars.group_by("instrument").agg(pl.col("session").min().alias("first"))
    grid = (
        bars.select(pl.col("session").unique())
        .join(first, how="cross")
        .filter(pl.col("session") >= pl.col("first"))
    )
    blocked = pl.when(pl.col("close").is_null()).then(pl.lit("suspended"))
    return (
        grid.select("session", "instrument")
        .join(bars, on=["session", "instrument"], how="left")
        .with_columns(
            blocked.alias("open_block"), blocked.alias("close_block"), eligible=pl.col("close").is_not_null()
        )
    )


def test_returns_of_real_stocks_agree_with_shifted_pandas_columns(
    market: pl.DataFrame, calendar: Calendar
) -> None:
    """A shift by a session, or an adjustment mistake, that made-up prices would not show."""
    sessions = market["session"].unique().sort().to_list()
    labels = executable_labels(Hindsight(market), calendar, sessions, SPEC)
    adjusted = market.select("session", "instrument", pl.col("open", "close") * pl.col("factor")).to_pandas()
    wide = adjusted.pivot(index="session", columns="instrument")
    ret = wide["close"].bfill(limit=10).shift(-3) / wide["open"].shift(-1) - 1
    expected = pl.from_pandas(ret.stack().rename("expected").reset_index()).with_columns(
        pl.col("session").cast(pl.Date)
    )
    settled = labels.filter(pl.col("session") <= sessions[-15]).join(
        expected, on=["session", "instrument"], how="left"
    )
    filled = settled["status"] == "filled"
    assert filled.sum() > 250_000
    assert (settled["expected"].is_not_null() == filled).all()
    np.testing.assert_allclose(
        settled.filter(filled)["ret"], settled.filter(filled)["expected"], rtol=0, atol=1e-12
    )
    assert (settled["status"] != "open").all()


def test_folds_of_real_labels_have_no_overlap(market: pl.DataFrame, calendar: Calendar) -> None:
    """Realised spans of real suspensions that slip through the purge."""
    sessions = market["session"].unique().sort().to_list()
    labels = executable_labels(Hindsight(market), calendar, sessions, SPEC)
    folds = make_folds(labels, calendar, FoldSpec(embargo_sessions=2))
    assert folds.certificate["overlap_rows"].to_list() == [0] * 16
    assert folds.certificate["tested_min"].to_list() == folds.certificate["tested_expected"].to_list()
    carried = labels.filter(pl.col("exit_delay") > 0).height
    assert carried > 100
