"""How honest probabilities are: predicted against observed rates, ECE and Brier. Figures are elsewhere."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import BadInput

Floats = NDArray[np.float64]


def brier_score(pred: Floats, truth: Floats) -> float:
    """mean (p - y)^2, the binary form (half of the two-class sum)."""
    return float(np.mean((pred - truth) ** 2))


def expected_calibration_error(pred: Floats, truth: Floats, bins: int = 15) -> float:
    """sum_b (n_b / n) |mean p - rate| over bins of equal mass: equal width puts a rare head in one bin."""
    table = reliability(pred, truth, bins)
    gap = (table["mean_pred"] - table["rate"]).abs()
    return float((gap * table["rows"]).sum() / len(pred))


def reliability(pred: Floats, truth: Floats, bins: int = 15) -> pl.DataFrame:
    """Rows per bin of about equal mass; equal predictions share a bin, so there may be fewer bins.

    Parameters
    ----------
    pred, truth : float64 [n]
        Probabilities, and outcomes 0 or 1.

    Returns
    -------
    DataFrame
        `bin`, `low`, `high` (smallest and largest prediction), `rows`, `mean_pred`, `rate`.
    """
    if len(pred) != len(truth) or not len(pred) or bins < 1:
        observed = (len(pred), len(truth), bins)
        raise BadInput("there are as many predictions as outcomes, and bins", observed, "drop null truth")
    edges = np.unique(np.quantile(pred, np.arange(1, bins) / bins, method="lower"))
    order = np.argsort(pred, kind="stable")
    ordered, outcome = pred[order], truth[order].astype(np.float64)
    place = np.searchsorted(edges, ordered, side="left")
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    rows = np.diff(starts, append=len(pred))
    return pl.DataFrame(
        {
            "bin": np.arange(len(starts), dtype=np.int32),
            "low": ordered[starts],
            "high": ordered[starts + rows - 1],
            "rows": rows,
            "mean_pred": np.add.reduceat(ordered, starts) / rows,
            "rate": np.add.reduceat(outcome, starts) / rows,
        }
    )


def reliability_before_after(before: Floats, after: Floats, truth: Floats, bins: int = 15) -> pl.DataFrame:
    """Both tables under `stage` (`before`, `after`), with their `ece` and `brier` on every row."""
    return pl.concat(
        reliability(pred, truth, bins).select(
            pl.lit(stage).alias("stage"),
            pl.all(),
            pl.lit(expected_calibration_error(pred, truth, bins)).alias("ece"),
            pl.lit(brier_score(pred, truth)).alias("brier"),
        )
        for stage, pred in (("before", before), ("after", after))
    )
