"""Orders + market -> equity and trades under the sleeve protocol. Scores and policies end before this file.

Protocol: the book is `sleeves` sleeves with equal cash, the sleeve of a decision is its session's distance
from the book's first decision modulo `sleeves`. A sleeve buys at the next open, each name for `weight` of the
sleeve's free cash (cost included); what cannot be bought stays cash. It sells at the close of session T +
`exit_session`; a blocked name is carried to its first later tradable close and its cash is missing from the
sleeve's next round. The gross and the net curve have the same fills and each its own cash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from pipeline.backtests import kernels
from pipeline.backtests.books import index_book
from pipeline.backtests.market import BLOCKS, Market
from pipeline.backtests.metrics import metrics
from pipeline.backtests.orders import Orders, prepare_orders
from pipeline.backtests.spec import ExecutionSpec

STATUSES = ("filled", "entry_blocked", "carried", "delisted", "open", "pending")
"""Outcomes by the kernel's codes. `open`: still held at the market's end; `pending`: not entered yet."""


@dataclass(frozen=True)
class BookResult:
    """One book: `equity` (session, gross, net) and `trades` (one row an order)."""

    equity: pl.DataFrame
    trades: pl.DataFrame


@dataclass(frozen=True)
class BacktestTables:
    """Many books: `equity`, `trades` and `metrics`, each with a leading `book` column, in key order."""

    equity: pl.DataFrame
    trades: pl.DataFrame
    metrics: pl.DataFrame


def run_book(orders: pl.DataFrame, market: Market, spec: ExecutionSpec) -> BookResult:
    """Backtest of one book.

    Parameters
    ----------
    orders : pl.DataFrame
        session, rank, instrument, weight (share of the sleeve's free cash).
    market : Market
        Must cover every decision session; what lies beyond its end is `pending` or `open`.
    spec : ExecutionSpec

    Returns
    -------
    BookResult
        `equity` from the first entry session to the one in which the last sleeve is flat (1.0 is the starting
        cash); `trades` as in `run_books`, without `book`.
    """
    equity, trades = _run(prepare_orders(orders.with_columns(book=pl.lit("book")), market), market, spec)
    return BookResult(equity.drop("book"), trades.drop("book"))


def run_books(
    orders: pl.DataFrame, market: Market, spec: ExecutionSpec, index: pl.DataFrame | None = None
) -> BacktestTables:
    """Backtests of many books in one call.

    Parameters
    ----------
    orders : pl.DataFrame
        book, session, rank, instrument, weight.
    market : Market
    spec : ExecutionSpec
    index : pl.DataFrame, optional
        session, open, close of the benchmark; adds the book `index`, bought once and held without costs over
        the longest window of the other books.

    Returns
    -------
    BacktestTables
        `equity`: book, session, gross, net. `trades`: book, session, rank, instrument, weight, status
        (`STATUSES`), entry_block, entry_session, entry_price, exit_block (why the target exit was not
        possible), exit_session, exit_price (adjusted CNY), exit_delay (sessions after the target),
        gross_stake, net_stake (cash paid, the book's starting cash = 1), gross_return, net_return. `metrics`:
        book, name, value.

    Raises
    ------
    SchemaError, KeyViolation, BadInput
        Missing columns or no orders; an instrument or rank twice in a decision; unknown names or sessions;
        weights that are not positive or add up to more than 1.
    """
    prepared = prepare_orders(orders, market)
    equity, trades = _run(prepared, market, spec)
    if index is not None and not equity.is_empty():
        held = index_book(index, equity["session"].min(), equity["session"].max())  # type: ignore[arg-type]
        equity = pl.concat([equity, held]).sort("book", "session")
    return BacktestTables(equity, trades, metrics(equity, trades, market, spec))


class _Fills(NamedTuple):
    """What `kernels.resolve_fills` returns."""

    status: np.ndarray
    entry_price: np.ndarray
    exit_at: np.ndarray
    exit_price: np.ndarray


def _run(orders: Orders, market: Market, spec: ExecutionSpec) -> tuple[pl.DataFrame, pl.DataFrame]:
    fills = _Fills(
        *kernels.resolve_fills(
            orders.signal,
            orders.instrument,
            market.open,
            market.close,
            market.open_block,
            market.close_block,
            market.last_listed,
            spec.exit_session,
            spec.delisting_haircut,
        )
    )
    last_signal = orders.signal[orders.starts[1:] - 1]
    flat = np.maximum(np.maximum.reduceat(fills.exit_at, orders.starts[:-1]), last_signal + spec.exit_session)
    equity, stake = kernels.run_ledgers(
        orders.starts,
        orders.signal,
        orders.instrument,
        orders.weight,
        fills.entry_price,
        fills.exit_at,
        fills.exit_price,
        market.close,
        np.minimum(flat, len(market.sessions) - 1).astype(np.int32),
        spec.sleeves,
        np.array([0.0, spec.buy_cost_bps]) / 1e4,
        np.array([0.0, spec.sell_cost_bps]) / 1e4,
    )
    return _equity(orders, market, equity), _trades(orders, market, spec, fills, stake)


def _equity(orders: Orders, market: Market, equity: np.ndarray) -> pl.DataFrame:
    book, day = np.nonzero(np.isfinite(equity[:, :, 0]))
    return pl.DataFrame(
        {
            "book": orders.frame["book"].gather(orders.starts[book]),
            "session": market.sessions[day],
            "gross": equity[book, day, 0],
            "net": equity[book, day, 1],
        }
    )


def _days(market: Market, positions: np.ndarray) -> np.ndarray:
    """Dates of positions; NaT for one outside the market."""
    inside = (positions >= 0) & (positions < len(market.sessions))
    return np.where(inside, market.sessions[np.where(inside, positions, 0)], np.datetime64("NaT"))


def _blocks(codes: np.ndarray, position: np.ndarray, rows: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Block codes at (row, position) where the question arises and the session is known; 0 elsewhere."""
    known = asked & (position < codes.shape[1])
    return np.where(known, codes[rows, np.where(known, position, 0)], 0)


def _trades(orders: Orders, market: Market, spec: ExecutionSpec, fills: _Fills, stake: np.ndarray) -> pl.DataFrame:
    entered, target = fills.exit_at >= 0, orders.signal + spec.exit_session
    left = entered & (fills.exit_at < len(market.sessions))
    growth = fills.exit_price / fills.entry_price
    kept = (1 - spec.sell_cost_bps / 1e4) / (1 + spec.buy_cost_bps / 1e4)
    raw = pl.DataFrame(
        {
            "status": fills.status,
            "entry_block": _blocks(market.open_block, orders.signal + 1, orders.instrument, ~entered),
            "entry_session": _days(market, np.where(entered, orders.signal + 1, -1)),
            "entry_price": fills.entry_price,
            "exit_block": _blocks(market.close_block, target, orders.instrument, entered),
            "exit_session": _days(market, fills.exit_at),
            "exit_price": fills.exit_price,
            "exit_delay": np.where(left, np.maximum(fills.exit_at - target, 0), -1),
            "gross_stake": stake[:, 0],
            "net_stake": stake[:, 1],
            "gross_return": growth - 1,
            "net_return": growth * kept - 1,
        }
    )
    reasons = pl.lit(pl.Series([None, *BLOCKS[1:]], dtype=pl.String))
    return orders.frame.hstack(
        raw.with_columns(
            pl.col(pl.Float64).fill_nan(None),
            status=pl.lit(pl.Series(STATUSES)).gather(pl.col("status")),
            entry_block=reasons.gather(pl.col("entry_block")),
            exit_block=reasons.gather(pl.col("exit_block")),
            exit_delay=pl.when(pl.col("exit_delay") >= 0).then(pl.col("exit_delay").cast(pl.Int16)),
        )
    )
