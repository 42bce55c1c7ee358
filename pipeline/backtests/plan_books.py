"""Books of trades under a price plan: returns per session, excess over random minutes, reported numbers.

A trade comes with its outcome. Whether that outcome happened is judged by `plan_referee`; what the figures of a set of
trades mean is `positions.trades`.
"""

from __future__ import annotations

import math
from typing import Final

import polars as pl

from pipeline.backtests.metrics import CURVES
from pipeline.errors import BadInput
from pipeline.frames import MINUTE_ROW as MINUTE_KEY
from pipeline.frames import ordered_mean, ordered_sum, require_columns, require_unique
from pipeline.positions.manager_spec import SIDES
from pipeline.positions.trades import exit_mix, trade_metrics

BOOK_SESSION: Final = ("book", "session")
EDGE: Final = "actual_plan_net_edge_bps"
BPS = 1e4


def session_returns(trades: pl.DataFrame, sessions: pl.DataFrame) -> pl.DataFrame:
    """Simple return of each session of each book: planned ratio x edge, summed over the trades decided in it.

    Parameters
    ----------
    trades : pl.DataFrame
        `book` and `positions.trades.TRADE_SCHEMA`; edges in bps.
    sessions : pl.DataFrame
        book, session: every session of each book's stretch, also those without trades.

    Returns
    -------
    pl.DataFrame
        book, session, gross, net as fractions of capital, in key order; 0 without trades.

    Raises
    ------
    KeyViolation, BadInput
        A session twice; a trade outside its book's sessions; an edge or a ratio that is missing or not finite.
    """
    _check(trades, sessions)
    ratio = pl.col("planned_ratio") / BPS
    return _per_session(trades, sessions, gross=ratio * pl.col("gross_edge_bps"), net=ratio * pl.col("actual_edge_bps"))


def plan_equity(returns: pl.DataFrame) -> pl.DataFrame:
    """Net asset value at the end of each session, the cash before the first one being 1.

    Parameters
    ----------
    returns : pl.DataFrame
        As `session_returns` gives them. Ratios are shares of the capital at hand, so returns compound.

    Returns
    -------
    pl.DataFrame
        book, session, gross, net.
    """
    ordered = returns.sort(BOOK_SESSION)
    return ordered.select(*BOOK_SESSION, *((1.0 + pl.col(c)).cum_prod().over("book").alias(c) for c in CURVES))


def excess_over_random_minutes(trades: pl.DataFrame, truth: pl.DataFrame, sessions: pl.DataFrame) -> pl.DataFrame:
    """Net return of each session less what random entries of the same book, symbol, side and size earn on average.

    Nothing is drawn: the mean net edge over all rows of the book's sessions is the expectation itself. Not over the
    rows of the trade's own day: these hold the path that led to the entry, so that whoever buys after a fall would
    beat them on a random walk.

    Parameters
    ----------
    trades, sessions : pl.DataFrame
        As for `session_returns`.
    truth : pl.DataFrame
        Key (session, instrument, minute) and `{long,short}_actual_plan_net_edge_bps` of every row that was decided
        on, whether or not it was traded.

    Returns
    -------
    pl.DataFrame
        book, session, excess as a fraction of capital, in key order; 0 without trades.

    Raises
    ------
    KeyViolation, BadInput
        As for `session_returns`; a doubled or null key; an edge that is not finite; a trade whose minute is not among
        the rows.
    """
    _check(trades, sessions)
    edges = [f"{side.lower()}_{EDGE}" for side in SIDES]
    require_columns(truth, [*MINUTE_KEY, *edges], "excess over random minutes")
    require_unique(truth, MINUTE_KEY, "rows that were decided on")
    _require_finite(truth, edges, "net edges of rows are known and finite")
    strange = trades.join(truth, on=MINUTE_KEY, how="anti")
    if not strange.is_empty():
        raise BadInput("a trade is made at a row that was decided on",
                       f"{strange.height} are not, first {strange.select('book', *MINUTE_KEY).row(0)}",
                       "hand over every row of the book's predictions")
    series = ["book", "instrument"]
    means = (
        sessions.select(BOOK_SESSION).unique().join(truth, on="session").sort("book", *MINUTE_KEY)
        .group_by(series, maintain_order=True)
        .agg(
            ordered_mean(pl.col(name).cast(pl.Float64)).alias(side) for name, side in zip(edges, SIDES, strict=True)
        )
        .unpivot(SIDES, index=series, variable_name="side", value_name="random_edge_bps")
    )
    beside = trades.join(means, on=[*series, "side"], how="left", maintain_order="left")
    over = pl.col("actual_edge_bps") - pl.col("random_edge_bps")
    return _per_session(beside, sessions, excess=pl.col("planned_ratio") * over / BPS)


def plan_metrics(trades: pl.DataFrame, sessions: pl.DataFrame, sessions_per_year: int = 365) -> pl.DataFrame:
    """Every reported number of every book.

    Parameters
    ----------
    trades, sessions : pl.DataFrame
        As for `session_returns`.
    sessions_per_year : int

    Returns
    -------
    pl.DataFrame
        book, name, value in key order; null where a number is not defined. The fields of `TradeMetrics`, those of
        `SideExits` after `long_` or `short_`, and what `_curves` and `_sizes` define. Rates are fractions, days are
        `yyyymmdd`.
    """
    curves = _curves(session_returns(trades, sessions), sessions_per_year)
    wide = curves.join(_sizes(trades, sessions), on="book", how="left")
    named = [{"book": book} | _of_trades(trades.filter(pl.col("book") == book)) for book in wide["book"]]
    wide = wide.join(pl.DataFrame(named), on="book", how="left")
    values = pl.all().exclude("book").cast(pl.Float64)
    return (
        wide.with_columns(pl.when(values.is_finite()).then(values))
        .unpivot(index="book", variable_name="name", value_name="value")
        .sort("book", "name")
    )


def _check(trades: pl.DataFrame, sessions: pl.DataFrame) -> None:
    numbers = ["planned_ratio", "gross_edge_bps", "actual_edge_bps"]
    require_columns(trades, ["book", *MINUTE_KEY, "side", *numbers], "books of a price plan")
    require_columns(sessions, BOOK_SESSION, "sessions of books")
    require_unique(sessions, BOOK_SESSION, "sessions of books")
    _require_finite(trades, numbers, "edges and ratios of trades are known and finite")
    outside = trades.join(sessions, on=BOOK_SESSION, how="anti")
    if not outside.is_empty():
        raise BadInput("a trade falls into a session of its book",
                       f"{outside.height} do not, first {outside.select('book', *MINUTE_KEY).row(0)}",
                       "hand over every session that the book decides in")


def _require_finite(frame: pl.DataFrame, columns: list[str], rule: str) -> None:
    bad = pl.any_horizontal(~pl.col(c).cast(pl.Float64).is_finite().fill_null(False) for c in columns)
    broken = frame.filter(bad)
    if not broken.is_empty():
        raise BadInput(rule, f"{broken.height} rows are not, first {broken.select(*MINUTE_KEY, *columns).row(0)}",
                       "drop the rows without an outcome before the manager runs")


def _per_session(trades: pl.DataFrame, sessions: pl.DataFrame, **values: pl.Expr) -> pl.DataFrame:
    """Sums over each session's trades, added in order of entry so that the last bit is always the same."""
    sums = (
        trades.sort(*BOOK_SESSION, "minute", "instrument", "side")
        .group_by(BOOK_SESSION, maintain_order=True)
        .agg(ordered_sum(value).alias(name) for name, value in values.items())
    )
    every = sessions.select(BOOK_SESSION).sort(BOOK_SESSION)
    return every.join(sums, on=BOOK_SESSION, how="left", maintain_order="left").with_columns(
        pl.col(list(values)).fill_null(0.0)
    )


def _curves(returns: pl.DataFrame, sessions_per_year: int) -> pl.DataFrame:
    """The numbers of a curve, as `metrics` names them; the first session is a return like the others.

    Final NAV; annualised return `NAV^(sessions_per_year / sessions) - 1`; Sharpe (mean / sample deviation x
    sqrt(sessions_per_year); 0 for a flat curve); drawdown from the highest NAV so far (the starting cash counts);
    share of positive returns.
    """
    columns: list[pl.Expr] = []
    for c in CURVES:
        ret = pl.col(c)
        nav, spread = (1.0 + ret).cum_prod(), ret.std(ddof=1)
        mean = ordered_mean(ret)
        sharpe = pl.when((spread == 0) & (mean == 0)).then(0.0)
        columns += [
            nav.last().alias(f"final_nav_{c}"),
            (nav.last() ** (sessions_per_year / pl.len()) - 1).alias(f"annualised_return_{c}"),
            sharpe.otherwise(mean / spread * math.sqrt(sessions_per_year)).alias(f"sharpe_{c}"),
            (nav / pl.max_horizontal(nav.cum_max(), pl.lit(1.0)) - 1).min().alias(f"max_drawdown_{c}"),
            (ret > 0).mean().alias(f"positive_days_{c}"),
        ]
    day = pl.col("session").dt.strftime("%Y%m%d").cast(pl.Float64)
    curves = returns.group_by("book", maintain_order=True).agg(
        *columns, curve_sessions=pl.len(), curve_start_yyyymmdd=day.first(), curve_end_yyyymmdd=day.last()
    )
    return curves.with_columns(
        annualised_cost=pl.col("annualised_return_gross") - pl.col("annualised_return_net")
    )


def _sizes(trades: pl.DataFrame, sessions: pl.DataFrame) -> pl.DataFrame:
    """Cost per trade at which the ratio-weighted gross edges add up to nothing; mean traded ratio of a session.

    Half of what is bought and sold in a session over the capital is the sum of its planned ratios.
    """
    ratio = pl.col("planned_ratio")
    totals = trades.sort("book", "minute", "instrument", "side").group_by("book", maintain_order=True).agg(
        traded=ordered_sum(ratio),
        earned=ordered_sum(ratio * pl.col("gross_edge_bps")),
        traded_sessions=pl.col("session").n_unique(),
    )
    counted = sessions.group_by("book").len("sessions").join(totals, on="book", how="left")
    return counted.select(
        "book",
        pl.col("traded_sessions").fill_null(0),
        break_even_round_trip_bps=pl.col("earned") / pl.col("traded"),
        turnover=pl.col("traded").fill_null(0.0) / pl.col("sessions"),
    )


def _of_trades(trades: pl.DataFrame) -> dict[str, float]:
    """Fields of the trades' metrics and of both sides' exits, flat."""
    exits = {
        f"{side.lower()}_{name}": float(value)
        for side, mix in exit_mix(trades).items() for name, value in mix.model_dump().items()
    }
    return {name: float(value) for name, value in trade_metrics(trades).model_dump().items()} | exits
