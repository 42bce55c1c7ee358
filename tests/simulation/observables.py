"""What anybody can compute from the vendor's daily tables alone, one row per session and first code."""

from __future__ import annotations

import polars as pl

from pipeline.simulation.market import SimulatedMarket

KEY = ["trade_date", "ts_code"]


def observables(market: SimulatedMarket) -> pl.DataFrame:
    """Simple features from vendor tables alone, per session and first code."""
    rename = {new: old for old, new in market.tables["bse_mapping"].select("o_code", "n_code").iter_rows()}
    rows = (
        market.tables["adj_factor"]
        .unique(KEY, keep="last")
        .join(market.tables["daily"].unique(KEY, keep="last"), on=KEY, how="left")
        .join(market.tables["daily_basic"].unique(KEY, keep="last"), on=KEY, how="left", suffix="_basic")
        .with_columns(pl.col("ts_code").replace(rename).alias("instrument"), pl.col("trade_date").alias("session"))
        .sort("instrument", "session")
    )
    price = (pl.col("close").forward_fill().over("instrument") * pl.col("adj_factor")).log()
    share = pl.col("vol").fill_null(0.0) / pl.col("total_share").forward_fill().over("instrument")
    rows = rows.with_columns(price.alias("price"), share.alias("share"))
    return rows.with_columns(
        (pl.col("price") - pl.col("price").shift(5)).over("instrument").alias("return_5"),
        (pl.col("price") - pl.col("price").shift(1)).over("instrument").alias("return_1"),
        (pl.col("price") - pl.col("price").shift(20)).over("instrument").alias("return_20"),
        (pl.col("share") / pl.col("share").rolling_mean(20)).log().over("instrument").alias("activity"),
        pl.col("total_mv").log().alias("size"),
        pl.col("pb"),
        pl.col("turnover_rate"),
        (pl.col("high") / pl.col("low")).log().alias("range"),
    )


def standardised(column: str) -> pl.Expr:
    """Cross-sectional z-scores, cut at 3."""
    value = pl.col(column)
    return ((value - value.mean()) / value.std(ddof=0)).clip(-3, 3).over("session")
