"""How much of a book could be placed at a given capital: participation and lots. Prices do not move here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from pipeline.backtests.market import Market
from pipeline.backtests.spec import ExecutionSpec
from pipeline.errors import BadInput
from pipeline.frames import ordered_sum

LOTS = {"main": (100, 100), "chinext": (100, 100), "star": (200, 1), "bse": (100, 1)}
"""Board -> smallest buy order and step, in shares (the exchanges' trading rules)."""


def capacity(trades: pl.DataFrame, market: Market, spec: ExecutionSpec, capitals: Sequence[float]) -> pl.DataFrame:
    """What share of the wanted buys could be placed, per book and capital.

    An order wants `net_stake x capital` CNY at the raw entry open. It may take `participation_cap` of the
    session's traded amount on the way in, and on the way out of what it grew to; the shares are then rounded
    down to the board's step, and an order below the board's smallest size is not placed.

    Parameters
    ----------
    trades : pl.DataFrame
        Trades of `engine.run_books`.
    market : Market
    spec : ExecutionSpec
    capitals : sequence of float
        CNY at the start of the book.

    Returns
    -------
    pl.DataFrame
        book, capital, `placed_share` (CNY placed over CNY wanted), `capped_rate` (orders cut by
        participation), `too_small_rate` (orders below the smallest lot), `full_capacity_cny` (largest
        starting capital at which participation cuts at most one order in twenty; the same for every row of a
        book).

    Raises
    ------
    BadInput
        A board without a lot rule.
    """
    entered = trades.filter(pl.col("entry_session").is_not_null())
    rows, entry = market.rows(entered["instrument"]), market.positions(entered["entry_session"])
    lots = _lots(market)[rows]
    price = market.open[rows, entry] / market.factor[rows, entry]
    stake = entered["net_stake"].to_numpy()
    room = spec.participation_cap * _tradable_amount(entered, market, rows, entry)
    parts = [
        _placed(entered["book"], stake * capital, room, price, lots).with_columns(capital=pl.lit(float(capital)))
        for capital in capitals
    ]
    with np.errstate(divide="ignore"):
        largest = pl.DataFrame({"book": entered["book"], "capital": np.where(stake > 0, room / stake, np.inf)})
    full = largest.group_by("book").agg(full_capacity_cny=pl.col("capital").quantile(0.05, "lower"))
    columns = ("book", "capital", "placed_share", "capped_rate", "too_small_rate", "full_capacity_cny")
    return pl.concat(parts).join(full, on="book").select(columns).sort("book", "capital")


def _lots(market: Market) -> np.ndarray:
    """[N, 2] smallest order and step of each instrument."""
    unknown = set(market.boards.tolist()) - set(LOTS)
    if unknown:
        raise BadInput("every board needs a lot rule", sorted(unknown), f"boards with one: {sorted(LOTS)}")
    return np.array([LOTS[board] for board in market.boards], dtype=np.float64)


def _tradable_amount(entered: pl.DataFrame, market: Market, rows: np.ndarray, entry: np.ndarray) -> np.ndarray:
    """CNY traded on the entry session, or on the exit session in entry money where that is less."""
    amount = np.nan_to_num(market.amount[rows, entry])
    left = entered["status"].is_in(["filled", "carried"]).to_numpy()
    exits = market.positions(entered["exit_session"].fill_null(entered["entry_session"]))
    growth = 1 + entered["gross_return"].fill_null(0.0).to_numpy()
    out = np.nan_to_num(market.amount[rows, exits]) / np.where(left, growth, 1.0)
    return np.where(left, np.minimum(amount, out), amount)


def _placed(
    books: pl.Series, wanted: np.ndarray, room: np.ndarray, price: np.ndarray, lots: np.ndarray
) -> pl.DataFrame:
    least, step = lots[:, 0], lots[:, 1]
    shares = np.floor(np.minimum(wanted, room) / price / step) * step
    too_small = shares < least
    placed = np.where(too_small, 0.0, shares * price)
    orders = pl.DataFrame(
        {"book": books, "wanted": wanted, "placed": placed, "capped": wanted > room, "too_small": too_small}
    )
    return orders.group_by("book", maintain_order=True).agg(
        placed_share=ordered_sum(pl.col("placed")) / ordered_sum(pl.col("wanted")),
        capped_rate=pl.col("capped").mean(),
        too_small_rate=pl.col("too_small").mean(),
    )
