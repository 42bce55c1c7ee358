"""Orders + market -> equity and trades under the sleeve protocol. Scores and policies end before this file.

Protocol: the book is `sleeves` sleeves with equal cash, the sleeve of a decision is its session's distance
from the book's first decision modulo `sleeves`. A sleeve buys at the next open, each name for `weight` of the
sleeve's free cash (cost included); what cannot be bought stays cash. It sells at the close of session T +
`exit_session`; a blocked name is carried to its first later tradable close and its cash is missing from the
sleeve's next round. The gross and the net curve have the same fills and each its own cash.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.backtests import kernels
from pipeline.backtests.books import index_book
from pipeline.backtests.market import BLOCKS, Market
from pipeline.backtests.metrics import metrics
from pipeline.backtests.spec import ExecutionSpec
from pipeline.errors import BadInput, KeyViolation
from pipeline.frames import require_columns

STATUSES = ("filled", "entry_blocked", "carried", "delisted", "open", "pending")
"""Outcomes by the kernel's codes. `open`: still held at the market's end; `pending`: not entered yet."""

ORDER_COLUMNS = ("book", "session", "rank", "instrument", "weight")


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


@dataclass(frozen=True)
class _Orders:
    """Orders as arrays, sorted by (book, session, rank)."""

    frame: pl.DataFrame
    books: pl.Series
    starts: np.ndarray
    signal: np.ndarray
    instrument: np.ndarray
    weight: np.ndarray


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
    equity, trades = _run(_prepare(orders.with_columns(book=pl.lit("book")), market), market, spec)
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
    prepared = _prepare(orders, market)
    equity, trades = _run(prepared, market, spec)
    if index is not None and not equity.is_empty():
        held = index_book(index, equity["session"].min(), equity["session"].max())  # type: ignore[arg-type]
        equity = pl.concat([equity, held]).sort("book", "session")
    return BacktestTables(equity, trades, metrics(equity, trades, market, spec))


def _prepare(orders: pl.DataFrame, market: Market) -> _Orders:
    require_columns(orders, ORDER_COLUMNS, "orders")
    if orders.is_empty():
        raise BadInput("a book needs at least one order", 0, "a policy that selects nothing has no backtest")
    frame = orders.select(ORDER_COLUMNS).sort("book", "session", "rank")
    _refuse_bad_orders(frame)
    names = frame["book"]
    starts = np.flatnonzero(
        np.concatenate([[True], (names != names.shift(1)).fill_null(True).to_numpy()[1:]])
    )
    return _Orders(
        frame=frame,
        books=names.gather(starts),
        starts=np.append(starts, len(frame)).astype(np.int64),
        signal=market.positions(frame["session"]),
        instrument=market.rows(frame["instrument"]),
        weight=frame["weight"].cast(pl.Float64).to_numpy(),
    )


def _refuse_bad_orders(frame: pl.DataFrame) -> None:
    nulls = frame.filter(pl.any_horizontal(pl.all().is_null()))
    if not nulls.is_empty():
        raise KeyViolation("orders must hold no null", nulls.row(0), "drop the order")
    decision = ["book", "session"]
    checks = frame.group_by(decision).agg(
        orders=pl.len(),
        ranks=pl.col("rank").n_unique(),
        names=pl.col("instrument").n_unique(),
        total=pl.col("weight").sum(),
        least=pl.col("weight").min(),
    )
    doubled = checks.filter((pl.col("ranks") < pl.col("orders")) | (pl.col("names") < pl.col("orders")))
    if not doubled.is_empty():
        raise KeyViolation(
            "a decision names each rank and each instrument once",
            doubled.sort(decision).select(decision).row(0),
            "keep one order per name",
        )
    heavy = checks.filter(~((pl.col("least") > 0) & (pl.col("total") <= 1 + 1e-9)))
    if not heavy.is_empty():
        raise BadInput(
            "weights of a decision must be positive and add up to at most 1",
            heavy.sort(decision).select(*decision, "total", "least").row(0),
            "the protocol holds no leverage and no short positions",
        )


def _run(orders: _Orders, market: Market, spec: ExecutionSpec) -> tuple[pl.DataFrame, pl.DataFrame]:
    status, entry_price, exit_at, exit_price = kernels.resolve_fills(
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
    last_signal = orders.signal[orders.starts[1:] - 1]
    flat = np.maximum(np.maximum.reduceat(exit_at, orders.starts[:-1]), last_signal + spec.exit_session)
    costs = np.array([[0.0, 0.0], [spec.buy_cost_bps, spec.sell_cost_bps]]) / 1e4
    equity, stake = kernels.run_ledgers(
        orders.starts,
        orders.signal,
        orders.instrument,
        orders.weight,
        entry_price,
        exit_at,
        exit_price,
        market.close,
        np.minimum(flat, len(market.sessions) - 1).astype(np.int32),
        spec.sleeves,
        np.ascontiguousarray(costs[:, 0]),
        np.ascontiguousarray(costs[:, 1]),
    )
    trades = _trades(orders, market, spec, status, entry_price, exit_at, exit_price, stake)
    return _equity(orders, market, equity), trades


def _equity(orders: _Orders, market: Market, equity: np.ndarray) -> pl.DataFrame:
    book, day = np.nonzero(np.isfinite(equity[:, :, 0]))
    return pl.DataFrame(
        {
            "book": orders.books.gather(book),
            "session": pl.Series(market.sessions[day]).cast(pl.Date),
            "gross": equity[book, day, 0],
            "net": equity[book, day, 1],
        }
    )


def _sessions(market: Market, positions: np.ndarray) -> pl.Series:
    """Dates of positions; null for one outside the market."""
    inside = (positions >= 0) & (positions < len(market.sessions))
    days = market.sessions[np.where(inside, positions, 0)]
    return pl.Series(np.where(inside, days, np.datetime64("NaT"))).cast(pl.Date)


def _reasons(codes: np.ndarray, position: np.ndarray, rows: np.ndarray, asked: np.ndarray) -> pl.Series:
    """Block names at (row, position) where the question arises and the session is known; null elsewhere."""
    known = asked & (position < codes.shape[1])
    found = np.where(known, codes[rows, np.where(known, position, 0)], 0)
    return pl.Series([None, *BLOCKS[1:]]).gather(found.astype(np.int64))


def _trades(
    orders: _Orders,
    market: Market,
    spec: ExecutionSpec,
    status: np.ndarray,
    entry_price: np.ndarray,
    exit_at: np.ndarray,
    exit_price: np.ndarray,
    stake: np.ndarray,
) -> pl.DataFrame:
    entered = exit_at >= 0
    left = entered & (exit_at < len(market.sessions))
    target = orders.signal + spec.exit_session
    growth = exit_price / entry_price
    net = (1 - spec.sell_cost_bps / 1e4) / (1 + spec.buy_cost_bps / 1e4)
    return orders.frame.with_columns(
        status=pl.Series(STATUSES).gather(status.astype(np.int64)),
        entry_block=_reasons(market.open_block, orders.signal + 1, orders.instrument, ~entered),
        entry_session=_sessions(market, np.where(entered, orders.signal + 1, -1)),
        entry_price=pl.Series(entry_price).fill_nan(None),
        exit_block=_reasons(market.close_block, target, orders.instrument, entered),
        exit_session=_sessions(market, exit_at),
        exit_price=pl.Series(exit_price).fill_nan(None),
        exit_delay=pl.Series(np.maximum(exit_at - target, 0)).cast(pl.Int16).set(~pl.Series(left), None),
        gross_stake=pl.Series(stake[:, 0]),
        net_stake=pl.Series(stake[:, 1]),
        gross_return=pl.Series(growth - 1).fill_nan(None),
        net_return=pl.Series(growth * net - 1).fill_nan(None),
    )
