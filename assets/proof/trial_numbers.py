"""The statistics of the overfitting gates beside published numbers and the papers' procedures, word by word."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import polars as pl

from pipeline.gates.statistics import (
    Moments,
    backtest_overfitting,
    deflated_sharpe,
    effective_trials,
    expected_maximum,
    minimum_backtest_years,
    minimum_track_record,
    probabilistic_sharpe,
)

SKEWED, NORMAL = Moments(252, 0.1, -0.5, 5.0), Moments(252, 0.1, 0.0, 3.0)


def golden() -> pl.DataFrame:
    """One row a number: what it is due to be, what it is, and within half a unit of which digit they must agree."""
    value, benchmark = deflated_sharpe(Moments(1250, 0.1, -0.5, 5.0), 100, 0.05)
    rows: list[tuple[str, float, float, float]] = [
        *((f"expected maximum of {n} trials", due, expected_maximum(n), 5e-5)
          for n, due in ((10, 1.5746), (45, 2.2356), (50, 2.2763), (100, 2.5306), (1000, 3.2551))),
        ("MinBTL in years, 45 trials, Sharpe 1", 4.998, minimum_backtest_years(45, 1.0), 5e-4),
        ("MinBTL in years, 100 trials, Sharpe 1", 6.404, minimum_backtest_years(100, 1.0), 5e-4),
        ("PSR, skew -0.5, kurtosis 5", 0.93807, probabilistic_sharpe(SKEWED), 5e-6),
        ("PSR, normal", 0.94299, probabilistic_sharpe(NORMAL), 5e-6),
        ("MinTRL in observations at 5 %", 287.79, minimum_track_record(SKEWED), 5e-3),
        ("DSR, its benchmark", 0.12653, benchmark, 5e-6),
        ("DSR", 0.18123, value, 5e-6),
        ("effective trials, 20 copies", 1.0, _effective(copies=True), 1e-9),
        ("effective trials, 2 opposites", 2.0, _effective(copies=False), 1e-9),
    ]  # fmt: skip
    for seed, blocks, configurations in ((1, 4, 3), (2, 6, 7), (3, 8, 20)):
        returns = np.random.default_rng(seed).standard_normal((blocks * 15, configurations))
        name = f"PBO, {configurations} configurations, {blocks} blocks, by the paper's procedure"
        found = backtest_overfitting(returns, blocks).probability
        rows.append((name, _slow_overfitting(returns, blocks), found, 1e-12))
    table = pl.DataFrame(rows, schema=["number", "due", "found", "within"], orient="row")
    return table.with_columns(agrees=(pl.col("due") - pl.col("found")).abs() <= pl.col("within"))


def _effective(*, copies: bool) -> float:
    one = np.random.default_rng(4).standard_normal((500, 1))
    return effective_trials(np.repeat(one, 20, axis=1) if copies else np.hstack([one, -one]))


def _slow_overfitting(returns: np.ndarray, blocks: int) -> float:
    """Every combination of half the blocks, every Sharpe ratio from its rows, the rank of the best outside."""
    parts, below = np.split(returns, blocks), []
    for chosen in combinations(range(blocks), blocks // 2):
        inside, outside = (
            _sharpes(np.vstack([parts[i] for i in range(blocks) if (i in chosen) == kept])) for kept in (True, False)
        )
        rank = 1 + int((outside < outside[inside.argmax()]).sum())
        omega = rank / (returns.shape[1] + 1)
        below.append(np.log(omega / (1 - omega)) <= 0)
    return float(np.mean(below))


def _sharpes(rows: np.ndarray) -> np.ndarray:
    return rows.mean(axis=0) / rows.std(axis=0, ddof=1)
