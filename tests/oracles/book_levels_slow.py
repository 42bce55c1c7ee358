"""Levels that are none made null by one polars expression a level: what the kernel of `books.py` must equal."""

from __future__ import annotations

import polars as pl

from pipeline.tables.binance import BOOK_LEVELS

SIDES = ("bid", "ask")


def valid_levels(books: pl.DataFrame) -> tuple[pl.DataFrame, int, int]:
    """Books of float64 levels without missing and disordered ones, and how many of each were made null."""
    whole, missing = _without_missing(books)
    ordered, disordered = _without_disordered(whole)
    return ordered, missing, disordered


def _positive(name: str) -> pl.Expr:
    """Finite and above zero; false for null and NaN."""
    return (pl.col(name).is_finite() & (pl.col(name) > 0)).fill_null(False)


def _without_missing(books: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Price and size of a level are there together or not at all."""
    there = {(side, i): _positive(f"{side}_{i}_price") & _positive(f"{side}_{i}_size")
             for side in SIDES for i in range(BOOK_LEVELS)}
    return _masked(books, there)


def _without_disordered(books: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Prices step away from the middle; a level that does not, and what lies behind it, is made missing."""
    there = {}
    for side in SIDES:
        better = pl.col(f"{side}_0_price")
        kept = pl.lit(True)
        for i in range(1, BOOK_LEVELS):
            price = pl.col(f"{side}_{i}_price")
            behind = price < better if side == "bid" else price > better
            kept = kept & (price.is_null() | behind)
            there[side, i] = kept | price.is_null()
            better = pl.coalesce(price, better)
    return _masked(books, there)


def _masked(books: pl.DataFrame, there: dict[tuple[str, int], pl.Expr]) -> tuple[pl.DataFrame, int]:
    """Levels that are not there as null, and how many these are."""
    gone = books.select((~mask).sum().alias(f"{side}_{i}") for (side, i), mask in there.items())
    masked = [
        pl.when(mask).then(pl.col(f"{side}_{i}_{what}")).alias(f"{side}_{i}_{what}")
        for (side, i), mask in there.items() for what in ("price", "size")
    ]
    return books.with_columns(masked), int(sum(gone.row(0)))
