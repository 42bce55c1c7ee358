"""What an instrument is on its decision day: board, age, ST, and which of its valuations are missing."""

from __future__ import annotations

import numpy as np
import polars as pl

from pipeline.features.history import History
from pipeline.features.kernels import ln
from pipeline.features.spec import Family, Feature

_BOARDS = ("main", "chinext", "star", "bse")
_YOUNG = (60, 250)
_MISSABLE = ("pe_ttm", "pb", "ps_ttm", "turnover", "flow_gross")


def _one(name: str, column: str, unit: str, meaning: str) -> Feature:
    return Feature(name, "context", (column,), 1, 0, "instrument", unit, meaning)


def _features() -> tuple[Feature, ...]:
    return (
        *(_one(f"board_{board}", "board", "flag", f"listed on {board}") for board in _BOARDS),
        _one("listing_age_log", "listing_age", "log", "ln(1 + sessions since listing)"),
        *(
            _one(f"listed_under_{n}", "listing_age", "flag", f"listed fewer than {n} sessions ago")
            for n in _YOUNG
        ),
        _one("is_st", "is_st", "flag", "ST or *ST"),
        *(_one(f"{column}_missing", column, "flag", f"{column} is absent") for column in _MISSABLE),
    )


def _compute(history: History) -> np.ndarray:
    rows = history.rows
    age = history.lagged("listing_age")
    columns = [
        *((rows["board"] == board).cast(pl.Float64).fill_null(float("nan")).to_numpy() for board in _BOARDS),
        ln(1.0 + age),
        *(np.where(np.isnan(age), np.nan, age < n) for n in _YOUNG),
        history.lagged("is_st"),
        *(np.isnan(history.lagged(column)) for column in _MISSABLE),
    ]
    return np.stack(columns).astype(np.float32)


FAMILY = Family("context", _features(), _compute)
