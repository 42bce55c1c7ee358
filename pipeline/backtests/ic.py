"""Information coefficients and quantile returns of scores and factors. No orders, no costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numba import njit, prange

from pipeline.backtests.market import Market
from pipeline.errors import BadInput
from pipeline.frames import require_columns, require_unique


@dataclass(frozen=True)
class InformationCoefficients:
    """Per-session results.

    Parameters
    ----------
    ic : pl.DataFrame
        session, horizon, pairs, rank_ic (Spearman, ties averaged; null under two pairs or for a constant
        side).
    quantiles : pl.DataFrame
        session, horizon, quantile (1 holds the lowest factors), count, mean_return (null for an empty
        quantile).
    """

    ic: pl.DataFrame
    quantiles: pl.DataFrame


def information_coefficients(
    factor: pl.DataFrame, returns: pl.DataFrame, quantiles: int = 5
) -> InformationCoefficients:
    """Rank IC and quantile mean returns of a factor at every horizon.

    Parameters
    ----------
    factor : pl.DataFrame
        session, instrument, factor.
    returns : pl.DataFrame
        session, instrument, and one column of forward returns per horizon (any names).
    quantiles : int
        Bins of equal count per session, cut as `pandas.qcut` does; equal cuts leave a bin empty.

    Notes
    -----
    A row counts at a horizon when its factor and that horizon's return are both finite; bins are cut over the
    session's finite factors, whatever their returns.
    """
    key = ["session", "instrument"]
    require_columns(factor, [*key, "factor"], "information_coefficients")
    require_unique(factor, key, "factor")
    require_unique(returns, key, "returns")
    horizons = [c for c in returns.columns if c not in key]
    if not horizons or quantiles < 2:
        raise BadInput(
            "at least one horizon and two quantiles", f"{horizons}, {quantiles}", "add a return column"
        )
    rows = factor.select(*key, "factor").join(returns, on=key, how="left").sort(key)
    days, starts = _groups(rows, ["session"])
    values = np.ascontiguousarray(rows.select(pl.col(horizons).cast(pl.Float64)).to_numpy().T)
