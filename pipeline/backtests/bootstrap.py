"""Intervals that respect serial dependence, and a book against random ones. Verdicts are made in `gates`."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import polars as pl

from pipeline.backtests.metrics import SESSIONS_PER_YEAR, daily_returns
from pipeline.errors import BadInput
from pipeline.frames import ordered_sum

Statistic = Callable[[np.ndarray], np.ndarray]
"""[samples, n] resampled series -> [samples] values."""


def mean(resampled: np.ndarray) -> np.ndarray:
    """Mean of each resampled series."""
    return resampled.mean(axis=1)


def annualised_return(resampled: np.ndarray) -> np.ndarray:
    """Compounded return a year of each series of daily simple returns."""
    with np.errstate(divide="ignore"):
        return np.expm1(np.log1p(resampled).mean(axis=1) * SESSIONS_PER_YEAR)


def sharpe(resampled: np.ndarray) -> np.ndarray:
    """Annualised Sharpe ratio of each series; 0 where it never moves."""
    spread = resampled.std(axis=1, ddof=1)
    ratio = np.divide(resampled.mean(axis=1), spread, out=np.zeros(len(resampled)), where=spread > 0)
    return ratio * math.sqrt(SESSIONS_PER_YEAR)


def information_ratio(resampled: np.ndarray) -> np.ndarray:
    """Mean over sample deviation of each series (of rank ICs: the ICIR); 0 where it never moves."""
    return sharpe(resampled) / math.sqrt(SESSIONS_PER_YEAR)


def block_bootstrap(
    series: pl.Series | np.ndarray,
    samples: int,
    block: int,
    confidence: float,
    seed: int,
    statistic: Statistic = mean,
) -> tuple[float, float]:
    """Percentile interval of a statistic by the stationary bootstrap (Politis and Romano 1994).

    Parameters
    ----------
    series : Series or ndarray, shape [n]
        In time order; nulls and NaN are dropped.
    samples : int
        Resampled series.
    block : int
        Mean block length in sessions (block lengths are geometric, the series wraps around). Use at least the
        holding period, else overlapping positions make the interval too narrow.
    confidence : float
        Share between the two ends, such as 0.95.
    seed : int
    statistic : callable

    Returns
    -------
    (low, high) : tuple of float

    Raises
    ------
    BadInput
        Fewer than two values, or fewer than two blocks.
    """
    values = pl.Series(series).cast(pl.Float64).fill_nan(None).drop_nulls().to_numpy()
    if len(values) < max(2, 2 * block):
        raise BadInput(
            "a block bootstrap needs at least two blocks of values",
            f"{len(values)} values, block {block}",
            "lengthen the series or shorten the block",
        )
    resampled = values[_stationary_rows(len(values), samples, block, np.random.default_rng(seed))]
    tail = (1 - confidence) / 2
    low, high = np.quantile(statistic(resampled), [tail, 1 - tail])
    return float(low), float(high)


def _stationary_rows(n: int, samples: int, block: int, rng: np.random.Generator) -> np.ndarray:
    """[samples, n] positions: each continues the one before, or with probability 1 / block starts anew."""
    new = rng.random((samples, n)) < 1.0 / block
    new[:, 0] = True
    starts = rng.integers(0, n, (samples, n))
    steps = np.arange(n)
    origin = np.maximum.accumulate(np.where(new, steps, 0), axis=1)
    return (np.take_along_axis(starts, origin, axis=1) + steps - origin) % n


def excess_over_random(equity: pl.DataFrame, book: str) -> pl.DataFrame:
    """Daily net return of a book minus the mean of the random books', on the book's sessions.

    Parameters
    ----------
    equity : pl.DataFrame
        book, session, gross, net; holds `book` and at least one `random_...`.
    book : str

    Returns
    -------
    pl.DataFrame
        session, excess. A random book that ended earlier counts as cash.

    Raises
    ------
    BadInput
        The book or the random books are missing.
    """
    returns = daily_returns(equity.filter((pl.col("book") == book) | pl.col("book").str.starts_with("random_")))
    own = returns.filter(pl.col("book") == book)
    drawn = returns.filter(pl.col("book") != book)
    n_books = drawn["book"].n_unique()
    if own.is_empty() or not n_books:
        raise BadInput(
            "an excess needs the book and random books",
            f"{own.height} returns, {n_books} random books",
            "run both under the same market and costs",
        )
    average = drawn.group_by("session", maintain_order=True).agg(random=ordered_sum(pl.col("net")) / n_books)
    return (
        own.join(average, on="session", how="left")
        .sort("session")
        .select("session", excess=pl.col("net") - pl.col("random").fill_null(0.0))
    )


def share_of_random_beaten(equity: pl.DataFrame, book: str) -> float:
    """Share of random books that grew less than the book, net, over the sessions of the book's returns."""
    returns = daily_returns(equity.filter((pl.col("book") == book) | pl.col("book").str.starts_with("random_")))
    own = returns.filter(pl.col("book") == book)
    grown = (
        returns.filter(pl.col("session").is_in(own["session"].implode()))
        .group_by("book", maintain_order=True)
        .agg(growth=(1 + pl.col("net")).product())
    )
    drawn = grown.filter(pl.col("book") != book)["growth"]
    if own.is_empty() or drawn.is_empty():
        raise BadInput(
            "a rank needs the book and random books",
            f"{own.height} returns, {len(drawn)} random books",
            "run both under the same market and costs",
        )
    return float((drawn < grown.filter(pl.col("book") == book)["growth"][0]).mean())  # type: ignore[arg-type]
