"""Orders as arrays, checked: what no book may hold is refused here, before anything is filled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.backtests.market import Market
from pipeline.errors import BadInput, KeyViolation
from pipeline.frames import require_columns

ORDER_COLUMNS = ("book", "session", "rank", "instrument", "weight")


@dataclass(frozen=True)
class Orders:
    """Orders of many books, sorted by (book, session, rank).

    Parameters
    ----------
    frame : pl.DataFrame
        `ORDER_COLUMNS`, one row an order (O rows).
    starts : ndarray of int64, shape [B + 1]
        Orders of book b are rows `starts[b]:starts[b + 1]`.
    signal, instrument : ndarray of int32, shape [O]
        Decision session and market row.
    weight : ndarray of float64, shape [O]
    """

    frame: pl.DataFrame
    starts: np.ndarray
    signal: np.ndarray
    instrument: np.ndarray
    weight: np.ndarray


def prepare_orders(orders: pl.DataFrame, market: Market) -> Orders:
    """Sort, check and index orders.

    Raises
    ------
    SchemaError, KeyViolation, BadInput
        Missing columns or no orders; an instrument or rank twice in a decision; unknown names or sessions;
        weights that are not positive or add up to more than 1.
    """
    require_columns(orders, ORDER_COLUMNS, "orders")
    if orders.is_empty():
        raise BadInput("a book needs at least one order", 0, "a policy that selects nothing has no backtest")
    frame = orders.select(ORDER_COLUMNS).sort("book", "session", "rank")
    _refuse_bad_orders(frame)
    sizes = frame.group_by("book", maintain_order=True).len()["len"].to_numpy()
    return Orders(
        frame=frame,
        starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        signal=market.positions(frame["session"]),
        instrument=market.rows(frame["instrument"]),
        weight=frame["weight"].cast(pl.Float64).to_numpy(),
    )


def _refuse_bad_orders(frame: pl.DataFrame) -> None:
    if sum(series.null_count() for series in frame):
        nulls = frame.filter(pl.any_horizontal(pl.all().is_null()))
        raise KeyViolation("orders must hold no null", nulls.row(0), "drop the order")
    doubled = (pl.col("rank").n_unique() < pl.len()) | (pl.col("instrument").n_unique() < pl.len())
    sound = (pl.col("weight").min() > 0) & (pl.col("weight").sum() <= 1 + 1e-9)
    decisions = frame.group_by("book", "session").agg(
        doubled=doubled, sound=sound, total=pl.col("weight").sum(), least=pl.col("weight").min()
    )
    bad = decisions.filter(pl.col("doubled") | ~pl.col("sound")).sort("book", "session")
    if bad.is_empty():
        return
    first = bad.row(0, named=True)
    if first["doubled"]:
        raise KeyViolation(
            "a decision names each rank and each instrument once",
            (first["book"], first["session"]),
            "keep one order per name",
        )
    raise BadInput(
        "weights of a decision must be positive and add up to at most 1",
        {name: first[name] for name in ("book", "session", "total", "least")},
        "the protocol holds no leverage and no short positions",
    )
