"""What a book held: size, board and industry of its stock-days. Returns are in `metrics`."""

from __future__ import annotations

import polars as pl

from pipeline.frames import ordered_mean, require_columns

CAP_BUCKETS = (("micro", 0.3), ("small", 0.6), ("mid", 0.9), ("large", 1.0))
"""Upper end of each bucket as a percentile of the session's market caps: 30, 30, 30, 10% of the names."""


def selected_profile(orders: pl.DataFrame, panel: pl.DataFrame, top_industries: int = 5) -> pl.DataFrame:
    """Profile of the selected stock-days of each book.

    Parameters
    ----------
    orders : pl.DataFrame
        book, session, instrument (orders or trades); a stock-day is one row.
    panel : pl.DataFrame
        session, instrument, total_mv (CNY), board, industry: all listed rows of the sessions, because a
        name's percentile is its place among them.
    top_industries : int

    Returns
    -------
    pl.DataFrame
        book, section, name, value. Sections: `stock_days` (count), `market_cap_cny` (median, mean),
        `cap_bucket` (share of stock-days in each of `CAP_BUCKETS`, and `unknown`), `board` and `industry`
        (shares; the largest `top_industries`), each in falling order.
    """
    require_columns(orders, ["book", "session", "instrument"], "selected_profile")
    require_columns(panel, ["session", "instrument", "total_mv", "board", "industry"], "selected_profile")
    cap = pl.col("total_mv").fill_nan(None)
    percentile = (cap.rank("average") - 0.5).over("session") / cap.count().over("session")
    cuts = [end for _, end in CAP_BUCKETS[:-1]]
    bucket = percentile.cut(cuts, labels=[name for name, _ in CAP_BUCKETS]).cast(pl.String)
    described = panel.filter(pl.col("session").is_in(orders["session"].unique().to_list())).select(
        "session", "instrument", "board", "industry", market_cap=cap, cap_bucket=bucket
    )
    days = orders.select("book", "session", "instrument").join(
        described, on=["session", "instrument"], how="left", maintain_order="left"
    )
    sizes = [
        _rows("stock_days", "count", pl.len().cast(pl.Float64)),
        _rows("market_cap_cny", "median", pl.col("market_cap").median()),
        _rows("market_cap_cny", "mean", ordered_mean(pl.col("market_cap"))),
    ]
    shares = [
        _shares(days, "cap_bucket", len(CAP_BUCKETS) + 1),
        _shares(days, "board", days["board"].n_unique()),
        _shares(days, "industry", top_industries),
    ]
    return pl.concat(
        [*(days.group_by("book", maintain_order=True).agg(row).unnest("row") for row in sizes), *shares]
    ).sort("book", maintain_order=True)


def _rows(section: str, name: str, value: pl.Expr) -> pl.Expr:
    return pl.struct(section=pl.lit(section), name=pl.lit(name), value=value).alias("row")


def _shares(days: pl.DataFrame, column: str, largest: int) -> pl.DataFrame:
    """Share of each value among a book's stock-days, largest first, ties by name."""
    return (
        days.group_by("book", pl.col(column).fill_null("unknown").alias("name"))
        .agg(days=pl.len())
        .with_columns(value=pl.col("days") / pl.col("days").sum().over("book"), section=pl.lit(column))
        .sort("book", "value", "name", descending=[False, True, False])
        .group_by("book", maintain_order=True)
        .head(largest)
        .select("book", "section", "name", "value")
    )
