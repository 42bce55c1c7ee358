"""A vendor's raw values -> a column's declared type: JSON, CSV text and foreign Parquet end up the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from pipeline.errors import SchemaError

DATE_FORMATS = ("%Y%m%d", "%Y-%m-%d", "%Y/%m/%d")
TIME_FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y%m%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y%m%d%H%M%S")


def from_json(name: str, values: Sequence[Any], dtype: pl.DataType, zone: str) -> pl.Series:
    """A column of JSON values; their types are no promise (ints for strings, floats for ints)."""
    physical = pl.String() if dtype.is_temporal() else dtype
    try:
        raw = pl.Series(name, values, dtype=physical)
    except (TypeError, OverflowError):
        raw = pl.Series(name, values, strict=False)
    return convert(raw, dtype, zone)


def convert(raw: pl.Series, dtype: pl.DataType, zone: str) -> pl.Series:
    """The column in its declared type; empty text and NaN become null.

    Raises
    ------
    SchemaError
        A value that is not of the type, named.
    """
    if raw.dtype == pl.Null:
        return raw.cast(dtype)
    if raw.dtype in (pl.Categorical, pl.Enum):
        raw = raw.cast(pl.String)
    if raw.dtype == pl.String:
        raw = raw.to_frame().select(
            pl.when(pl.first().str.strip_chars() != "").then(pl.first()).alias(raw.name)
        ).to_series()
    if raw.dtype.is_float():
        raw = raw.fill_nan(None)
    converted = _temporal(raw, dtype, zone) if dtype.is_temporal() else _plain(raw, dtype)
    lost = converted.is_null() & raw.is_not_null()
    if lost.any():
        raise SchemaError(
            f"column {raw.name} must hold {dtype}", repr(raw.filter(lost)[0]),
            "the vendor changed the column, or the dump holds something else under this name",
        )
    return converted


def _plain(raw: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Numbers and text; a float under an integer column must be whole."""
    if raw.dtype == dtype:
        return raw
    if dtype == pl.String:
        whole = _whole(raw) if raw.dtype.is_float() else raw
        return whole.cast(pl.String)
    if dtype.is_integer() and raw.dtype in (pl.String, pl.Float32, pl.Float64):
        return _whole(raw.cast(pl.Float64, strict=False)).cast(dtype, strict=False)
    return raw.cast(dtype, strict=False).fill_nan(None) if dtype.is_float() else raw.cast(dtype, strict=False)


def _whole(raw: pl.Series) -> pl.Series:
    """Floats that are whole numbers as Int64; null for others."""
    frame = raw.to_frame()
    return frame.select(pl.when(pl.first() == pl.first().floor()).then(pl.first()).cast(pl.Int64)).to_series()


def _temporal(raw: pl.Series, dtype: pl.DataType, zone: str) -> pl.Series:
    """Dates and local date-times, from text, numbers such as 20240102, or temporal types of another unit."""
    if isinstance(raw.dtype, pl.Datetime) and raw.dtype.time_zone is not None:
        raw = raw.dt.convert_time_zone(zone).dt.replace_time_zone(None)
    if raw.dtype.is_temporal():
        return raw.cast(dtype, strict=False)
    text = (_whole(raw) if raw.dtype.is_float() else raw).cast(pl.String).str.strip_chars()
    formats = DATE_FORMATS + TIME_FORMATS if dtype == pl.Date else TIME_FORMATS
    parsed = pl.Series(raw.name, [None] * len(text), dtype=dtype)
    for form in formats:
        if parsed.null_count() == text.null_count():
            break
        parsed = parsed.fill_null(_parse(text, dtype, form))
    return parsed


def _parse(text: pl.Series, dtype: pl.DataType, form: str) -> pl.Series:
    if form in TIME_FORMATS:
        return text.str.to_datetime(form, time_unit="us", strict=False).cast(dtype)
    return text.str.to_date(form, strict=False)
