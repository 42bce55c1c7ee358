"""Which orders make up each out-of-sample path: every block from its own split's predictions and policy."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from pipeline.errors import BadInput
from pipeline.folds.paths import recombine
from pipeline.frames import require_columns
from pipeline.positions.policy import Policy, select


def path_orders(
    predictions: pl.DataFrame,
    policies: Mapping[str, Policy],
    paths: pl.DataFrame,
    split_sessions: pl.DataFrame,
) -> pl.DataFrame:
    """Orders of every path, and of the locked stretch.

    Parameters
    ----------
    predictions : pl.DataFrame
        split, session, instrument, `<head>_pred`; test rows.
    policies : mapping
        Split -> the policy chosen on that split's tune group.
    paths, split_sessions : pl.DataFrame
        (path, group, split) and (split, session, group, role), as `folds` makes them.

    Returns
    -------
    pl.DataFrame
        book (the path's name), session, rank, instrument, weight, score, in key order.

    Raises
    ------
    BadInput
        A split of a path has no policy, no predictions, or its policy selects nothing at all.
    """
    require_columns(predictions, ["split", "session", "instrument"], "predictions")
    needed = set(paths["split"])
    absent = sorted(needed - set(policies))
    if absent:
        raise BadInput("every split of a path needs its own policy", f"none for {absent}", "materialise its positions")
    chosen = {
        str(split): select(rows.drop("split"), policies[str(split)])
        for (split,), rows in predictions.filter(pl.col("split").is_in(needed))
        .partition_by("split", as_dict=True)
        .items()
    }
    empty = sorted(split for split, orders in chosen.items() if orders.is_empty())
    if empty:
        raise BadInput(
            "the policy of a split must select something on its test rows",
            f"nothing on {empty}",
            "loosen the filter grid",
        )
    orders = pl.concat(part.with_columns(split=pl.lit(split)) for split, part in sorted(chosen.items()))
    books = recombine(paths, split_sessions, orders)
    return (
        books.rename({"path": "book"})
        .select("book", "session", "rank", "instrument", "weight", "score")
        .sort("book", "session", "rank")
    )
