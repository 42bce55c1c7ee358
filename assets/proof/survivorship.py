"""What a universe of today's listed names earns on paper, and whether a universe by date is whole. No fills here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial

import polars as pl

from assets.proof.raw_referee import RawMarket
from pipeline.backtests.books import equal_weight_orders, random_orders
from pipeline.backtests.engine import run_books
from pipeline.backtests.market import Market
from pipeline.backtests.metrics import daily_returns
from pipeline.backtests.spec import ExecutionSpec

PAIR = ["session", "instrument"]
EVERY, CHOSEN = "every name, equal weights", "top-k drawn at random"


@dataclass(frozen=True)
class UniverseCheck:
    """The panel's universe beside the raw listing days.

    Parameters
    ----------
    pairs : int
        Security-days that were listed by the raw rows.
    missing, surplus : int
        Of them the panel lacks; the panel has beyond them.
    unseen : int
        Of them are of securities that are no longer listed today.
    """

    pairs: int
    missing: int
    surplus: int
    unseen: int


def listed_pairs(market: RawMarket, sessions: list[date]) -> pl.DataFrame:
    """session, instrument: every security that was listed on its day, by the raw rows alone."""
    pairs = [(day, code) for day in sessions for code in market.listing if market.listed(code, day)]
    return pl.DataFrame(pairs, schema={"session": pl.Date, "instrument": pl.String}, orient="row").sort(PAIR)


def check_universe(panel: pl.DataFrame, truth: pl.DataFrame, market: RawMarket) -> UniverseCheck:
    """Count what the panel has too little and too much; `panel` holds every row, scored or not."""
    missing, surplus = truth.join(panel, on=PAIR, how="anti"), panel.join(truth, on=PAIR, how="anti")
    return UniverseCheck(len(truth), len(missing), len(surplus), len(truth) - len(survivors(truth, market)))


def survivors(rows: pl.DataFrame, market: RawMarket) -> pl.DataFrame:
    """Rows of securities that the vendor lists today: what its default answer makes of the past."""
    today = [code for code, (_, gone) in market.listing.items() if gone is None or gone > market.last_day]
    return rows.filter(pl.col("instrument").is_in(today))


def survivor_gains(
    universe: pl.DataFrame, kept: pl.DataFrame, quotes: Market, spec: ExecutionSpec, top_k: int, books: int
) -> Mapping[str, pl.Series]:
    """Book -> daily net return of the kept names' book less the universe's, on the sessions of both.

    Parameters
    ----------
    universe, kept : pl.DataFrame
        session, instrument that each could buy.
    books : int
        Random books of either; the difference is that of their means.
    """
    made: dict[str, pl.DataFrame] = {}
    for name, draw in {EVERY: equal_weight_orders, CHOSEN: partial(random_orders, top_k=top_k, n_books=books,
                                                                   seed=spec.seed)}.items():  # fmt: skip
        honest, naive = (_mean_return(draw(rows), quotes, spec) for rows in (universe, kept))
        made[name] = honest.join(naive, on="session", suffix="_kept").sort("session")
    return {name: both["net_kept"] - both["net"] for name, both in made.items()}


def _mean_return(orders: pl.DataFrame, quotes: Market, spec: ExecutionSpec) -> pl.DataFrame:
    returns = daily_returns(run_books(orders, quotes, spec).equity)
    return returns.group_by("session", maintain_order=True).agg(pl.col("net").mean())
