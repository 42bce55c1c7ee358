"""What a factor looks like before any model: coverage, distribution, rank IC with its interval, turnover.

Probes for people. Nothing here feeds a model or a gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from pipeline.backtests.bootstrap import block_bootstrap
from pipeline.backtests.ic import ic_summary, information_coefficients, rank_ic
from pipeline.errors import BadInput

KEY = ("session", "instrument")
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
LAGS = (1, 5)
SAMPLES, CONFIDENCE, SEED = 1000, 0.95, 7


@dataclass(frozen=True)
class FactorReport:
    """One factor on some sessions.

    Parameters
    ----------
    coverage : DataFrame
        session, share of rows with a value.
    quantiles : tuple of float or None
        Of all values, at `QUANTILES`; None without any value.
    ic : DataFrame
        horizon, sessions, mean, std, icir, positive, low, high: rank IC per session, its mean with a
        stationary-bootstrap interval; null where there are fewer than two blocks of sessions.
    autocorrelation : dict
        Lag in sessions -> mean rank correlation of the factor with itself that many sessions later; 1 never
        trades, 0 turns the whole book over. None where no session has both.
    """

    coverage: pl.DataFrame
    quantiles: tuple[float, ...] | None
    ic: pl.DataFrame
    autocorrelation: dict[int, float | None]


def factor_report(factor: pl.DataFrame, returns: pl.DataFrame, spans: Mapping[str, int]) -> FactorReport:
    """Describe a factor.

    Parameters
    ----------
    factor : DataFrame
        session, instrument, factor; a row for every name that could have been scored, null where missing.
    returns : DataFrame
        session, instrument, and one column of forward returns per horizon.
    spans : mapping
        Horizon -> sessions that one return covers: overlapping returns make block lengths of at least that.

    Raises
    ------
    BadInput
        No rows.
    """
    if factor.is_empty():
        raise BadInput("a factor is described on at least one row", 0, "materialise the panel of more months")
    known = factor.drop_nulls("factor")["factor"]
    ic = information_coefficients(factor, returns.select(*KEY, *spans)).ic
    return FactorReport(
        coverage=factor.group_by("session").agg(share=pl.col("factor").is_not_null().mean()).sort("session"),
        quantiles=tuple(float(known.quantile(q, "linear") or 0.0) for q in QUANTILES) if len(known) else None,
        ic=_with_intervals(ic, spans),
        autocorrelation={lag: _autocorrelation(factor, lag) for lag in LAGS},
    )


def _with_intervals(ic: pl.DataFrame, spans: Mapping[str, int]) -> pl.DataFrame:
    summary = {row["horizon"]: row for row in ic_summary(ic, by=["horizon"]).iter_rows(named=True)}
    rows = []
    for horizon, span in spans.items():
        series = ic.filter(pl.col("horizon") == horizon).sort("session")["rank_ic"].drop_nulls()
        enough = len(series) >= max(2, 2 * span)
        low, high = block_bootstrap(series, SAMPLES, span, CONFIDENCE, SEED) if enough else (None, None)
        rows.append({**summary[horizon], "low": low, "high": high})
    return pl.DataFrame(rows, infer_schema_length=None)


def _autocorrelation(factor: pl.DataFrame, lag: int) -> float | None:
    """Mean over sessions of the rank correlation with the factor `lag` sessions later."""
    days = factor["session"].unique().sort()
    if len(days) <= lag:
        return None
    earlier = pl.DataFrame({"session": days[lag:], "before": days[:-lag]})
    later = factor.join(earlier, on="session").select("instrument", session="before", later="factor")
    return _mean(rank_ic(factor, later.select(*KEY, "later"), score="factor", truth="later")["rank_ic"])


def _mean(series: pl.Series) -> float | None:
    known = series.drop_nulls()
    return float(known.mean()) if len(known) else None  # type: ignore[arg-type]
