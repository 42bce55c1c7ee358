"""Validation statistics of Sharpe ratios and of searches.

Formulas: Bailey and Lopez de Prado 2012 and 2014; Bailey, Borwein, Lopez de Prado and Zhu 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import e, nan, sqrt
from statistics import NormalDist

import numpy as np

from pipeline.errors import BadInput

EULER_GAMMA = 0.5772156649015329
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Moments:
    """Per-observation moments of a return series; `kurtosis` is raw (normal = 3)."""

    n: int
    sharpe: float
    skew: float
    kurtosis: float


def moments(returns: np.ndarray) -> Moments:
    """Moments of one return series, shape [n]. A constant series has Sharpe 0."""
    values = np.asarray(returns, dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        raise BadInput("moments need at least two finite returns", f"{len(values)} returns", "check the equity curve")
    deviation = values - values.mean()
    sigma = values.std(ddof=1)
    if values.min() == values.max():  # 250 times 1/3 has a deviation of 6e-17, a Sharpe ratio of 6e15
        return Moments(len(values), 0.0, 0.0, 3.0)
    z = deviation / values.std(ddof=0)
    return Moments(len(values), float(values.mean() / sigma), float((z**3).mean()), float((z**4).mean()))


def _spread(m: Moments) -> float:
    """Variance factor of the Sharpe estimate: 1 - g3 SR + (g4 - 1)/4 SR^2; 0 only for two-valued series."""
    spread = 1.0 - m.skew * m.sharpe + (m.kurtosis - 1.0) / 4.0 * m.sharpe**2
    if not spread > 0.0:
        raise BadInput("the Sharpe estimate has a positive variance", spread, "use a longer return series")
    return spread


def probabilistic_sharpe(m: Moments, benchmark: float = 0.0) -> float:
    """PSR: probability that the true per-observation Sharpe ratio exceeds `benchmark`."""
    return _NORMAL.cdf((m.sharpe - benchmark) * sqrt(m.n - 1) / sqrt(_spread(m)))


def expected_maximum(trials: float) -> float:
    """Expected largest of N independent standard normals (False Strategy theorem); 0 for one trial.

    The approximation falls below 0 for an effective N under about 1.35, where it would *lower* the benchmark.
    """
    if trials <= 1.0:
        return 0.0
    low, high = _NORMAL.inv_cdf(1 - 1 / trials), _NORMAL.inv_cdf(1 - 1 / (trials * e))
    return max(0.0, (1 - EULER_GAMMA) * low + EULER_GAMMA * high)


def deflated_sharpe(m: Moments, trials: float, trial_deviation: float) -> tuple[float, float]:
    """DSR and its benchmark SR0, for N effective trials whose Sharpe ratios have the given standard deviation."""
    benchmark = trial_deviation * expected_maximum(trials)
    return probabilistic_sharpe(m, benchmark), benchmark


def minimum_track_record(m: Moments, benchmark: float = 0.0, confidence: float = 0.95) -> float:
    """MinTRL in observations; NaN when the Sharpe ratio does not exceed the benchmark."""
    if m.sharpe <= benchmark:
        return nan
    return 1.0 + _spread(m) * (_NORMAL.inv_cdf(confidence) / (m.sharpe - benchmark)) ** 2


def minimum_backtest_years(trials: int, annual_sharpe: float) -> float:
    """MinBTL: years below which the best of N worthless trials is expected to reach `annual_sharpe`."""
    return (expected_maximum(trials) / annual_sharpe) ** 2


def effective_trials(returns: np.ndarray) -> float:
    """N effective = rho + (1 - rho) M for M series, shape [n, M], with mean pairwise correlation rho >= 0."""
    columns = returns.shape[1]
    if columns <= 1:
        return float(columns)
    matrix = np.corrcoef(returns, rowvar=False)
    upper = matrix[np.triu_indices(columns, 1)]
    rho = min(max(float(np.nanmean(upper)) if np.isfinite(upper).any() else 0.0, 0.0), 1.0)
    return rho + (1.0 - rho) * columns


@dataclass(frozen=True)
class Overfitting:
    """PBO by CSCV: share of combinations whose best in-sample configuration is below the median out of sample."""

    probability: float
    logits: np.ndarray
    slope: float
    loss_share: float


def backtest_overfitting(returns: np.ndarray, blocks: int = 16) -> Overfitting:
    """PBO of N configurations, returns of shape [T, N], by S even contiguous blocks (16 -> 12,870 combinations).

    The metric is the Sharpe ratio. Block sums make every combination a sum of S/2 rows instead of a pass over T.
    """
    if blocks % 2 or blocks < 2:
        raise BadInput("CSCV needs an even number of blocks", blocks)
    periods, configurations = returns.shape
    if configurations < 2 or periods < 2 * blocks:
        raise BadInput(
            "PBO needs two configurations and two periods a block",
            f"{configurations} x {periods}",
            "report it as not applicable",
        )
    usable = returns[: periods - periods % blocks].reshape(blocks, -1, configurations)
    size = usable.shape[1] * blocks // 2
    sums, squares = usable.sum(axis=1), (usable**2).sum(axis=1)
    chosen = np.array(list(combinations(range(blocks), blocks // 2)))
    masks = np.zeros((len(chosen), blocks))
    np.put_along_axis(masks, chosen, 1.0, axis=1)

    def sharpes(weights: np.ndarray) -> np.ndarray:
        mean = weights @ sums / size
        variance = np.maximum(weights @ squares / size - mean**2, 0.0) * size / (size - 1)
        return np.divide(mean, np.sqrt(variance), out=np.zeros_like(mean), where=variance > 1e-300)

    inside, outside = sharpes(masks), sharpes(1.0 - masks)
    best = inside.argmax(axis=1)
    row = np.arange(len(best))
    rank = (outside < outside[row, best][:, None]).sum(axis=1) + 1.0
    tied = (outside == outside[row, best][:, None]).sum(axis=1) - 1.0
    omega = (rank + tied / 2.0) / (configurations + 1.0)
    logits = np.log(omega / (1.0 - omega))
    spread = inside[row, best]
    slope = float(np.polyfit(spread, outside[row, best], 1)[0]) if np.ptp(spread) > 0 else nan
    return Overfitting(float((logits <= 0.0).mean()), logits, slope, float((outside[row, best] < 0).mean()))


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation of two series of one length, ties at their average rank; NaN when either is constant."""
    if len(a) != len(b) or len(a) < 2:
        raise BadInput(
            "a rank correlation needs two series of one length, two or more values",
            (len(a), len(b)),
            "join them on their keys first",
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise BadInput("ranked values are finite", "NaN or infinity", "drop the rows without a value")
    x, y = (ranks - ranks.mean() for ranks in (_average_ranks(a), _average_ranks(b)))
    scale = sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale else nan


def _average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2.0)[place]
