"""Factor reports against slow obvious versions."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from pipeline.diagnostics.factor import QUANTILES, factor_report
from pipeline.errors import BadInput

DAYS = [date(2026, 1, 1) + timedelta(days=i) for i in range(30)]
NAMES = [f"{i:06d}.SZ" for i in range(12)]


@pytest.fixture(scope="module")
def tables() -> tuple[pl.DataFrame, pl.DataFrame]:
    """A slow factor with gaps, and returns that it half explains."""
    draw = np.random.default_rng(4)
    values = np.cumsum(draw.normal(0, 1, (len(DAYS), len(NAMES))), axis=0)
    keys = {"session": [day for day in DAYS for _ in NAMES], "instrument": NAMES * len(DAYS)}
    seen = np.where(draw.random(values.shape) < 0.1, np.nan, values).astype(np.float32)
    factor = pl.DataFrame({**keys, "factor": seen.ravel()}).with_columns(pl.col("factor").fill_nan(None))
    returns = pl.DataFrame({**keys, "ret": (values + 3 * draw.normal(0, 1, values.shape)).ravel(), "far": 0.0})
    return factor, returns


def correlation(a: pl.DataFrame, b: pl.DataFrame, left: str, right: str) -> float:
    both = a.join(b, on="instrument").drop_nulls([left, right])
    return float(spearmanr(both[left], both[right]).statistic)


def test_the_ic_is_the_mean_of_spearmans_over_sessions(tables):
    """Pins an IC over pooled rows, an interval that does not hold its mean, and a constant return that counts."""
    factor, returns = tables
    report = factor_report(factor, returns, {"ret": 4, "far": 4})
    slow = [correlation(factor.filter(session=d), returns.filter(session=d), "factor", "ret") for d in DAYS]
    row, constant = report.ic.iter_rows(named=True)
    assert row["mean"] == pytest.approx(np.mean(slow), abs=1e-12)
    assert row["sessions"] == len(DAYS)
    assert row["low"] < row["mean"] < row["high"]
    assert (constant["sessions"], constant["mean"], constant["low"]) == (0, None, None)


def test_too_few_sessions_for_two_blocks_have_no_interval(tables):
    """Pins an interval of overlapping returns that pretends to know: 30 sessions hold no two blocks of 16."""
    factor, returns = tables
    assert factor_report(factor, returns, {"ret": 16}).ic["low"].to_list() == [None]
    assert factor_report(factor, returns, {"ret": 15}).ic["low"][0] is not None


def test_turnover_is_the_correlation_with_later_sessions(tables):
    """Pins a lag that looks backwards, or counts rows instead of sessions."""
    factor, returns = tables
    report = factor_report(factor, returns, {"ret": 1})
    renamed = factor.rename({"factor": "later"})
    for lag, found in report.autocorrelation.items():
        pairs = zip(DAYS[:-lag], DAYS[lag:], strict=True)
        slow = [correlation(factor.filter(session=a), renamed.filter(session=b), "factor", "later") for a, b in pairs]
        assert found == pytest.approx(np.mean(slow), abs=1e-12)


def test_coverage_and_quantiles_count_every_row(tables):
    """Pins coverage over known rows only, which is always one, and quantiles that see nulls."""
    factor, returns = tables
    report = factor_report(factor, returns, {"ret": 1})
    known = factor["factor"].drop_nulls().to_numpy()
    assert report.coverage["share"].mean() == pytest.approx(len(known) / len(factor))
    assert report.quantiles == pytest.approx(np.quantile(known.astype(float), QUANTILES), abs=1e-6)
    empty = factor_report(factor.with_columns(factor=pl.lit(None, pl.Float32)), returns, {"ret": 1})
    assert (empty.quantiles, empty.autocorrelation) == (None, {1: None, 5: None})
    with pytest.raises(BadInput, match="at least one row"):
        factor_report(factor.clear(), returns, {"ret": 1})
