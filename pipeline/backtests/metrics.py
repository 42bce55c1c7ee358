"""What a backtest reports, as numbers per book. Intervals are in `bootstrap`, holdings in `profile`."""

from __future__ import annotations

import math

import polars as pl

from pipeline.backtests.capacity import capacity
from pipeline.backtests.market import Market
from pipeline.backtests.spec import ExecutionSpec
from pipeline.errors import BadInput
from pipeline.frames import ordered_mean, ordered_sum

SESSIONS_PER_YEAR = 252
"""Reproduces the published pair: NAV 4.3536 and 2.9628 over 442 sessions are 131.8% and 86.0% a year."""

CURVES = ("gross", "net")


def daily_returns(equity: pl.DataFrame) -> pl.DataFrame:
    """Close-to-close returns of each curve: book, session, gross, net; one row less than the curve has."""
    change = [(pl.col(c) / pl.col(c).shift(1).over("book") - 1).alias(c) for c in CURVES]
    first = pl.col("session") == pl.col("session").first().over("book")
    return equity.sort("book", "session").with_columns(change).filter(~first)


def execution_objective(equity: pl.DataFrame, sessions_per_year: int = SESSIONS_PER_YEAR) -> float:
    """`0.5 * annualised return + 0.5 * Sharpe` of the net curve; what epochs and policies are chosen by.

    Parameters
    ----------
    equity : pl.DataFrame
        session, gross, net of one book.

    Raises
    ------
    BadInput
        The curve has fewer than three sessions, so it has no Sharpe ratio.
    """
    if equity.height < 3:
        raise BadInput("an objective needs at least three curve sessions", equity.height, "score more sessions")
    row = _curves(equity.with_columns(book=pl.lit("book")), sessions_per_year).row(0, named=True)
    return 0.5 * float(row["annualised_return_net"]) + 0.5 * float(row["sharpe_net"])


def metrics(
    equity: pl.DataFrame,
    trades: pl.DataFrame,
    market: Market,
    spec: ExecutionSpec,
    sessions_per_year: int = SESSIONS_PER_YEAR,
) -> pl.DataFrame:
    """Every reported number of every book.

    Parameters
    ----------
    equity, trades : pl.DataFrame
        As `engine.run_books` returns them; a book without trades (the index) has curve numbers only.
    market : Market
    spec : ExecutionSpec
    sessions_per_year : int

    Returns
    -------
    pl.DataFrame
        book, name, value in key order; null where a number is not defined. Rates are fractions, days are
        `yyyymmdd`. `_curves`, `_fills`, `_turnover` and `capacity.capacity` define each name.
    """
    curves = _curves(equity, sessions_per_year)
    round_trip = spec.buy_cost_bps + spec.sell_cost_bps
    log_gross, log_net = pl.col("final_nav_gross").log(), pl.col("final_nav_net").log()
    # Log NAV falls almost linearly with the cost per round trip, so the two curves give the zero.
    curves = curves.with_columns(
        annualised_cost=pl.col("annualised_return_gross") - pl.col("annualised_return_net"),
        break_even_round_trip_bps=round_trip * log_gross / (log_gross - log_net),
    )
    placed = capacity(trades, market, spec, (spec.capital,)).drop("capital")
    wide = curves.join(_fills(trades), on="book", how="left")
    wide = wide.join(_turnover(equity, trades, spec), on="book", how="left").join(placed, on="book", how="left")
    values = pl.all().exclude("book").cast(pl.Float64)
    return (
        wide.with_columns(pl.when(values.is_finite()).then(values))
        .unpivot(index="book", variable_name="name", value_name="value")
        .sort("book", "name")
    )


def _day(expr: pl.Expr) -> pl.Expr:
    return expr.dt.strftime("%Y%m%d").cast(pl.Float64)


def _curves(equity: pl.DataFrame, sessions_per_year: int) -> pl.DataFrame:
    """The numbers of a curve alone.

    Final NAV; annualised return `NAV^(252 / (days - 1)) - 1`; Sharpe (mean / sample deviation x sqrt(252) of
    close-to-close returns; 0 for a flat curve); drawdown from the highest NAV so far (the starting cash
    counts); share of positive returns.
    """
    columns: list[pl.Expr] = []
    for c in CURVES:
        nav, ret = pl.col(c), pl.col(c) / pl.col(c).shift(1) - 1
        spread = ret.std(ddof=1)
        mean = ordered_mean(ret)
        sharpe = pl.when((spread == 0) & (mean == 0)).then(0.0)
        peak = pl.max_horizontal(nav.cum_max(), pl.lit(1.0))
        columns += [
            nav.last().alias(f"final_nav_{c}"),
            (nav.last() ** (sessions_per_year / (pl.len() - 1)) - 1).alias(f"annualised_return_{c}"),
            sharpe.otherwise(mean / spread * math.sqrt(sessions_per_year)).alias(f"sharpe_{c}"),
            (nav / peak - 1).min().alias(f"max_drawdown_{c}"),
            (ret > 0).mean().alias(f"positive_days_{c}"),
        ]
    session = pl.col("session")
    return (
        equity.sort("book", "session")
        .group_by("book", maintain_order=True)
        .agg(
            *columns,
            curve_sessions=pl.len(),
            curve_start_yyyymmdd=_day(session.first()),
            curve_end_yyyymmdd=_day(session.last()),
        )
    )


def _fills(trades: pl.DataFrame) -> pl.DataFrame:
    """Counts and rates of a book's trades.

    Blocked entries of those attempted, blocked target exits of those attempted, mean delay in sessions of the
    exits that came late.
    """
    status, session = pl.col("status"), pl.col("session")
    asked = (status == "filled") | pl.col("exit_block").is_not_null()
    return trades.group_by("book").agg(
        decisions=session.n_unique(),
        first_signal_yyyymmdd=_day(session.min()),
        last_signal_yyyymmdd=_day(session.max()),
        orders=pl.len(),
        instruments=pl.col("instrument").n_unique(),
        entry_block_rate=(status == "entry_blocked").filter(status != "pending").mean(),
        exit_block_rate=pl.col("exit_block").is_not_null().filter(asked).mean(),
        delayed_exit_sessions=pl.col("exit_delay").filter(status == "carried").mean(),
        delisted_trades=(status == "delisted").sum(),
        open_trades=(status == "open").sum(),
    )


def _turnover(equity: pl.DataFrame, trades: pl.DataFrame, spec: ExecutionSpec) -> pl.DataFrame:
    """Mean over curve sessions of half the traded value (bought plus sold) over the net NAV at that close."""
    stake = pl.col("net_stake")
    bought = trades.select("book", session="entry_session", value=stake / (1 + spec.buy_cost_bps / 1e4))
    proceeds = stake * (1 + pl.col("net_return")) / (1 - spec.sell_cost_bps / 1e4)
    sold = trades.select("book", session="exit_session", value=proceeds)
    flows = pl.concat([bought, sold]).drop_nulls()
    traded = flows.group_by("book", "session", maintain_order=True).agg(ordered_sum(pl.col("value")))
    return (
        equity.join(traded, on=["book", "session"], how="left", maintain_order="left")
        .group_by("book", maintain_order=True)
        .agg(turnover=ordered_mean(pl.col("value").fill_null(0.0) / 2 / pl.col("net")))
    )
