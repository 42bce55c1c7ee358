"""The door of this room: minute bars, snapshots and funding to the features of every minute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from pipeline.features.minutes.history import MinuteHistory, build
from pipeline.features.minutes.schema import FAMILIES, available_features, select
from pipeline.features.minutes.spec import Source
from pipeline.features.minutes.windows import stored
from pipeline.frames import MINUTE_ROW as KEY
from pipeline.frames import in_key_order


def sources_of(
    bars: pl.DataFrame, books: pl.DataFrame | None = None, funding: pl.DataFrame | None = None
) -> frozenset[Source]:
    """The sources that these frames hold; a spread column without any value is none.

    It depends on the rows at hand: a stage that stores month by month settles its names once and hands them over.
    """
    spread = "spread_bps" in bars.columns and bars["spread_bps"].cast(pl.Float64).fill_nan(None).count() > 0
    held: dict[Source, bool] = {
        "bars": True,
        "spread": spread,
        "books": books is not None and not books.is_empty(),
        "funding": funding is not None and not funding.is_empty(),
    }
    return frozenset(source for source, there in held.items() if there)


def minute_features(
    bars: pl.DataFrame,
    books: pl.DataFrame | None = None,
    funding: pl.DataFrame | None = None,
    names: Sequence[str] | None = None,
) -> pl.DataFrame:
    """The features of every bar, known one minute after its open.

    Parameters
    ----------
    bars : polars.DataFrame
        instrument, minute (the open, UTC), open, high, low, close, volume (base), quote_volume, trades,
        taker_buy_volume (base), and `spread_bps`, which may be null or absent. Any order.
    books : polars.DataFrame, optional
        instrument, minute, bid_price, bid_size, ask_price, ask_size as Array(Float64, 20), best level first,
        NaN where a level is missing. A snapshot that is empty, crossed, out of order or holds a negative or
        infinite number counts as absent.
    funding : polars.DataFrame, optional
        instrument, funding_time, rate (fraction), interval_hours; known after funding_time.
    names : sequence of str, optional
        Features wanted. By default those that the given sources can make; a named one that they cannot
        make is null throughout.

    Returns
    -------
    polars.DataFrame
        session (UTC day of the open), instrument, minute, then float32 columns in schema order, null where
        missing; one row per bar, in key order.

    Raises
    ------
    BadInput
        A doubled, null or broken minute; a bar that `data_quality_flag` would reject as `INVALID_PRICE` or
        `INVALID_VOLUME`; absent columns; funding without a finite rate or interval; an unknown name.
    """
    wanted = select(available_features(sources_of(bars, books, funding)) if names is None else names)
    history = build(bars, books, funding)
    columns = _columns(history, {feature.name for feature in wanted})
    values = pl.DataFrame(columns).with_columns(pl.all().fill_nan(None))
    frame = pl.concat([history.rows, values], how="horizontal")
    return frame if in_key_order(frame, KEY) else frame.sort(KEY)


def _columns(history: MinuteHistory, wanted: set[str]) -> dict[str, np.ndarray]:
    """Stored float32 columns in schema order; a family that nobody asked for is not computed."""
    columns: dict[str, np.ndarray] = {}
    for family in FAMILIES:
        names = [feature.name for feature in family.features]
        if wanted.isdisjoint(names):
            continue
        for name, values in zip(names, family.compute(history), strict=True):
            if name in wanted:
                columns[name] = stored(values)
    return columns
