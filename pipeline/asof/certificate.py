"""The referee of a panel: that each row is of a name that was listed, on a board that had opened, on its day.

Reads the vendor's listing table and the dated rules by itself, and shares no code with `universe`, which decides it.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from pipeline.asof.rules import LIMIT_RULES
from pipeline.errors import LookAheadError


def require_listed(panel: pl.DataFrame, raw: Mapping[str, pl.DataFrame]) -> None:
    """An error for rows before a listing or a board's opening, or after a delisting that was known.

    Parameters
    ----------
    panel : pl.DataFrame
        session, instrument, decision_time, board.
    raw : mapping of table to DataFrame
        All versions of `stock_basic`, and of `bse_mapping` where there is one, with `known_at`.

    Raises
    ------
    LookAheadError
        With the rows by rule and the first of them.
    """
    listing = _by_instrument(raw)
    opened = pl.DataFrame(
        {"board": [rule.board for rule in LIMIT_RULES], "opening": [rule.start for rule in LIMIT_RULES]}
    ).group_by("board").agg(pl.col("opening").min())
    rows = panel.select("session", "instrument", "decision_time", "board").join(listing, on="instrument", how="left")
    rows = rows.join(opened, on="board", how="left")
    broken = {
        "of a name that was never listed": pl.col("list_date").is_null(),
        "before its listing": pl.col("session") < pl.col("list_date"),
        # the main board is older than its first limit rule
        "before its board opened": (pl.col("session") < pl.col("opening")) & (pl.col("board") != "main"),
        "after its delisting": (pl.col("session") >= pl.col("delist_date"))
        & (pl.col("delisting_known") <= pl.col("decision_time")),
    }
    for what, wrong in broken.items():
        found = rows.filter(wrong.fill_null(False))
        if len(found):
            raise LookAheadError(
                "a panel holds listed names only",
                f"{len(found)} of {len(rows)} rows {what}, first {found.row(0)[:2]}",
                "correct the listing table, or report this: the universe is wrong",
            )


def _by_instrument(raw: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """instrument, the earliest listing day, the newest delisting day and since when it was known."""
    basic = raw["stock_basic"]
    delisting = pl.col("delist_date") if "delist_date" in basic.columns else pl.lit(None, pl.Date)
    newest = basic.sort("known_at").with_columns(delist_date=delisting)
    if "bse_mapping" in raw:
        renames = dict(raw["bse_mapping"].select("n_code", "o_code").drop_nulls().iter_rows())
        newest = newest.with_columns(pl.col("ts_code").replace(renames))
    return newest.group_by(instrument=pl.col("ts_code")).agg(
        pl.col("list_date").min(),
        pl.col("delist_date").last(),
        delisting_known=pl.col("known_at").filter(pl.col("delist_date").is_not_null()).min(),
    )
