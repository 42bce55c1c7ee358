"""The protocol on real A-share quotes: gaps, suspensions and limits that nobody here made."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.backtests.engine import run_book, run_books
from pipeline.backtests.referee import impossible_fills
from pipeline.backtests.spec import ExecutionSpec
from pipeline.positions.policy import Policy, select
from tests.backtests.cases import market_of
from tests.oracles.sleeve_ledger import sleeve_ledger

FOLDER = (
    Path(os.environ.get("FOLDGATE_REALDATA", Path(__file__).parents[2].parent / "shared" / "data")) / "tushare_csi300"
)
SPEC = ExecutionSpec()

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not (FOLDER / "daily.parquet").exists(), reason=f"no real quotes in {FOLDER}"),
]


def day(column: str) -> pl.Expr:
    return pl.col(column).str.to_date("%Y%m%d")


def at_limit(side: str) -> pl.Expr:
    return (
        pl.when((pl.col(side) - pl.col("up_limit")).abs() < 0.005)
        .then(pl.lit("limit_up"))
        .when((pl.col(side) - pl.col("down_limit")).abs() < 0.005)
        .then(pl.lit("limit_down"))
    )


@pytest.fixture(scope="module")
def panel() -> pl.DataFrame:
    """2020: a row for every session from a stock's first to its last bar; limits are simply 10 and 20%."""
    key = ["instrument", "session"]
    bars = (
        pl.read_parquet(FOLDER / "daily.parquet")
        .join(pl.read_parquet(FOLDER / "adj_factor.parquet"), on=["ts_code", "trade_date"])
        .select(
            day("trade_date").alias("session"),
            "open",
            "close",
            "pre_close",
            instrument="ts_code",
            factor="adj_factor",
            amount=pl.col("amount") * 1000,
        )
        .filter(pl.col("session").dt.year() == 2020)
    )
    sessions = bars.select(pl.col("session").unique().sort())
    listed = bars.group_by("instrument").agg(first=pl.col("session").min(), last=pl.col("session").max())
    grid = listed.join(sessions, how="cross").filter(pl.col("session").is_between("first", "last"))
    wide = pl.col("instrument").str.contains("^(300|301|688)")
    band = (pl.col("pre_close") * pl.when(wide).then(0.2).otherwise(0.1)).fill_null(0)
    missing = pl.col("open").is_null()
    return (
        grid.select(key)
        .join(bars, on=key, how="left")
        .with_columns(
            board=pl.lit("main"),
            suspended=missing,
            up_limit=(pl.col("pre_close") + band).round(2),
            down_limit=(pl.col("pre_close") - band).round(2),
        )
        .with_columns(
            open_block=pl.when(missing).then(pl.lit("suspended")).otherwise(at_limit("open")),
            close_block=pl.when(missing).then(pl.lit("suspended")).otherwise(at_limit("close")),
        )
        .sort("session", "instrument")
    )


@pytest.fixture(scope="module")
def orders(panel: pl.DataFrame) -> pl.DataFrame:
    """The strongest names of the day: a policy that runs into limits on purpose."""
    strong = panel.filter(~pl.col("suspended")).select(
        "session", "instrument", rank_pred=pl.col("close") / pl.col("pre_close")
    )
    return select(strong, Policy(top_k=10, alpha="rank_pred"))


def test_real_quotes_agree_with_the_plain_ledger(panel: pl.DataFrame, orders: pl.DataFrame) -> None:
    """A gap, lock or ex-date of real data that made-up markets do not have."""
    days = panel["session"].unique().sort().to_list()
    result = run_book(orders, market_of(panel, days), SPEC)
    quotes = {(r["instrument"], r["session"]): r for r in panel.to_dicts()}
    curve, trades = sleeve_ledger(
        days, quotes, orders.to_dicts(), sleeves=3, exit_session=3, buy_bps=12.6, sell_bps=17.6, haircut=0.5
    )
    assert result.equity["session"].to_list() == [d for d, _ in curve]
    np.testing.assert_allclose(result.equity["net"], [nav for _, nav in curve], rtol=1e-12)
    for trade in result.trades.to_dicts():
        assert trade["status"] == trades[trade["session"], trade["rank"]]["status"]


def test_real_quotes_give_no_impossible_fill(panel: pl.DataFrame, orders: pl.DataFrame) -> None:
    """A fill on a locked or missing quote; the policy chases limit-ups, so both kinds of block must occur."""
    days = panel["session"].unique().sort().to_list()
    tables = run_books(orders.with_columns(book=pl.lit("b")), market_of(panel, days), SPEC)
    assert impossible_fills(tables.trades, panel).is_empty()
    values = dict(tables.metrics.select("name", "value").rows())
    assert 0.01 < values["entry_block_rate"] < 0.5
    assert 0.01 < values["exit_block_rate"] < 0.5
