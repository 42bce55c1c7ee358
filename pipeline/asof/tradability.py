"""What the market allows: why an open or a close could not be traded, and why a row may not be scored.

Not here: the limits themselves (rules.py) and whether an order of some size fills (backtests).
"""

from __future__ import annotations

import polars as pl

from pipeline.asof.rules import TICK
from pipeline.asof.spec import UniverseSpec

EXCLUSIONS = (
    "board", "delisting", "st", "seasoning", "suspended", "no_bar", "invalid_quote", "no_amount",
    "no_factor",
)
"""Reasons why a row may not be scored; the first that applies is the row's `exclusion`."""


def blocks() -> list[pl.Expr]:
    """`open_block` and `close_block` from the panel's own columns.

    A price within half a tick of either limit counts as locked, so neither a buy nor a sell is assumed there;
    a session without a valid bar is `invalid_quote` unless the security was suspended.
    """
    return [_block(price).alias(f"{price}_block") for price in ("open", "close")]


def _block(price: str) -> pl.Expr:
    return (
        pl.when(pl.col("suspended"))
        .then(pl.lit("suspended"))
        .when(pl.col(price).is_null())
        .then(pl.lit("invalid_quote"))
        .when(~(pl.col("amount") > 0).fill_null(False))
        .then(pl.lit("no_amount"))
        .when((pl.col(price) - pl.col("up_limit")).abs() < TICK / 2)
        .then(pl.lit("limit_up"))
        .when((pl.col(price) - pl.col("down_limit")).abs() < TICK / 2)
        .then(pl.lit("limit_down"))
    )


def exclusion_flags(universe: UniverseSpec) -> list[pl.Expr]:
    """One Boolean column per reason of `EXCLUSIONS`, in its order.

    Reads the panel columns and the audit columns `has_bar`, `valid_bar`, `delisting`.
    """
    held = {
        "board": ~pl.col("board").is_in(list(universe.boards)),
        "delisting": pl.col("delisting"),
        "st": pl.col("is_st") if universe.exclude_st else pl.lit(False),
        "seasoning": pl.col("listing_age") < universe.seasoning_sessions,
        "suspended": pl.col("suspended"),
        "no_bar": ~pl.col("has_bar") & ~pl.col("suspended"),
        "invalid_quote": pl.col("has_bar") & ~pl.col("valid_bar"),
        "no_amount": pl.col("valid_bar") & ~(pl.col("amount") > 0).fill_null(False),
        "no_factor": pl.col("factor").is_null(),
    }
    return [held[reason].alias(f"exclude_{reason}") for reason in EXCLUSIONS]


def first_exclusion() -> pl.Expr:
    """The first reason by priority; null where none applies."""
    return pl.coalesce(*(pl.when(f"exclude_{reason}").then(pl.lit(reason)) for reason in EXCLUSIONS))


def every_exclusion(flagged: pl.DataFrame) -> pl.DataFrame:
    """(session, instrument, reason), one row for each reason that applies."""
    held = [
        flagged.lazy().filter(f"exclude_{reason}").select("session", "instrument", reason=pl.lit(reason))
        for reason in EXCLUSIONS
    ]
    return pl.concat(held).sort("session", "instrument", "reason").collect()
