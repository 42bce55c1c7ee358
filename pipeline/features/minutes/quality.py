"""`data_quality_flag`: whether a minute may train, and why not."""

from __future__ import annotations

import numpy as np
import polars as pl

from pipeline.features.minutes.books import CROSSED, INVALID, PARTIAL, UNSORTED, states
from pipeline.features.minutes.history import (
    BAR_COLUMNS,
    bar_fault,
    funding_state,
    require_minutes,
    snapshots,
    usable_spread,
)  # fmt: skip
from pipeline.frames import MINUTE_ROW as KEY
from pipeline.frames import require_columns

OK, PARTIAL_OPTIONAL = "OK", "PARTIAL_OPTIONAL"
TRAINABLE = (OK, PARTIAL_OPTIONAL)
REASONS = ("INVALID_PRICE", "INVALID_VOLUME", "INVALID_SPREAD", "INVALID_BOOK", "CROSSED_BOOK", "UNSORTED_BOOK")

_BOOK_REASONS = {INVALID: "INVALID_BOOK", CROSSED: "CROSSED_BOOK", UNSORTED: "UNSORTED_BOOK"}


def data_quality_flag(
    bars: pl.DataFrame, books: pl.DataFrame | None = None, funding: pl.DataFrame | None = None
) -> pl.DataFrame:
    """session, instrument, minute, data_quality_flag of every bar, in key order.

    The flag is the first reason of `REASONS` to reject the minute; else `PARTIAL_OPTIONAL` where spread, a whole
    snapshot or funding is missing; else `OK`. `INVALID_PRICE` and `INVALID_VOLUME` must be dropped before
    `minute_features`, the others only before training: their own features are missing already.

    Raises
    ------
    KeyViolation, BadInput
        A doubled, null or broken minute: which of two rows stands for it cannot be known.
    """
    require_columns(bars, BAR_COLUMNS, "data_quality_flag: bars")
    require_minutes(bars, "data_quality_flag: bars")
    ordered = bars.sort("instrument", "minute")
    rows = ordered.select(session=pl.col("minute").dt.date(), instrument="instrument", minute="minute")
    at, levels = snapshots(rows, books)
    state = states(at, *levels)
    spread = usable_spread(ordered)
    lost = np.isnan(spread) | (state >= PARTIAL) | np.isnan(funding_state(rows, funding)[0])
    book_reason = pl.Series(state).replace_strict(_BOOK_REASONS, default=None, return_dtype=pl.String)
    reason = ordered.select(
        pl.coalesce(
            bar_fault(),
            pl.when(_given(ordered) & pl.Series(np.isnan(spread))).then(pl.lit("INVALID_SPREAD")),
            book_reason,
        )
    ).to_series()
    optional = pl.Series(np.where(lost, PARTIAL_OPTIONAL, OK), dtype=pl.String)
    return rows.with_columns(data_quality_flag=reason.fill_null(optional)).sort(KEY)


def _given(bars: pl.DataFrame) -> pl.Series:
    """Whether a bar carries a spread at all: neither null nor NaN."""
    if "spread_bps" not in bars.columns:
        return pl.Series([False]).new_from_index(0, bars.height)
    return bars["spread_bps"].cast(pl.Float64).is_not_nan().fill_null(False)
