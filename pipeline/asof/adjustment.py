"""Adjustment factors as known, and adjusted prices from them.

The panel stores the factor; only ratios mean anything, since the vendor may re-base a whole history.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from pipeline.asof.knowledge import Versions

ADJUSTED_PRICES = ("open", "high", "low", "close", "up_limit", "down_limit")


def adjusted(frame: pl.DataFrame) -> pl.DataFrame:
    """Panel rows with prices x factor and volume / factor; comparable inside one instrument only.

    Amounts stay, and so does `pre_close`: it already is the ex-right reference of its own day.
    """
    prices = [pl.col(c) * pl.col("factor") for c in ADJUSTED_PRICES if c in frame.columns]
    volume = [pl.col("volume") / pl.col("factor")] if "volume" in frame.columns else []
    return frame.with_columns(*prices, *volume)


def carried_factor(
    factors: Versions, instrument: np.ndarray, ordinal: np.ndarray, as_of: np.ndarray
) -> np.ndarray:
    """float64 newest factor of an earlier session known at `as_of`, for keys without their own; else NaN.

    Looks only at what was handed in: nothing before the first session of the build is guessed.
    """
    carried = np.full(len(instrument), np.nan)
    wanted = np.isin(factors.instrument, instrument) & (factors.ordinal >= 0)
    at = factors.in_knowledge_order(np.flatnonzero(wanted))
    offered = (
        pl.DataFrame(
            {
                "instrument": factors.instrument[at],
                "ordinal_of_row": factors.ordinal[at],
                "known": factors.known[at],
                "factor": factors.rows["adj_factor"].to_numpy()[at],
            }
        )
        .with_row_index("rank")
        .filter(pl.col("factor") > 0)
    )
    targets = pl.DataFrame({"instrument": instrument, "ordinal": ordinal, "as_of": as_of}).with_row_index(
        "target"
    )
    best = (
        targets.join(offered, on="instrument", how="inner")
        .filter((pl.col("ordinal_of_row") < pl.col("ordinal")) & (pl.col("known") <= pl.col("as_of")))
        .sort("target", "ordinal_of_row", "rank")
        .group_by("target", maintain_order=True)
        .agg(pl.col("factor").last())
    )
    carried[best["target"].to_numpy()] = best["factor"].to_numpy()
    return carried
