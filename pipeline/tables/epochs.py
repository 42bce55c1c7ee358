"""Vendor instants as numbers: the unit is told by the value, because one series changes it in its middle."""

from __future__ import annotations

import polars as pl

# 2001-09-09 in microseconds and in nanoseconds: the same numbers of a finer unit lie 30,000 years ahead.
MICROSECONDS, NANOSECONDS = 10**15, 10**18


def instant(column: str) -> pl.Expr:
    """A column of milliseconds, microseconds or nanoseconds since 1970, as naive UTC in microseconds.

    Binance's spot archive went from milliseconds to microseconds with 2025-01, so each value is looked at.
    """
    value = pl.col(column)
    coarse = pl.when(value >= MICROSECONDS).then(value).otherwise(value * 1000)
    micro = pl.when(value >= NANOSECONDS).then(value // 1000).otherwise(coarse)
    return micro.cast(pl.Datetime("us")).alias(column)
