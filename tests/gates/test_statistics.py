"""Sharpe statistics, PBO and rank correlation against published figures, SciPy and first principles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.errors import BadInput
from pipeline.gates.statistics import (
    Moments,
    backtest_overfitting,
    deflated_sharpe,
    effective_trials,
    expected_maximum,
    minimum_backtest_years,
    minimum_track_record,
    moments,
    probabilistic_sharpe,
    spearman,
)

SKEWED = Moments(n=252, sharpe=0.1, skew=-0.5, kurtosis=5.0)


@pytest.mark.parametrize(
    ("trials", "expected"), [(10, 1.5746), (45, 2.2356), (50, 2.2763), (100, 2.5306), (1000, 3.2551)]
)
def test_expected_maximum_golden(trials: int, expected: float) -> None:
    """Pins the False Strategy theorem to its published values."""
    assert expected_maximum(trials) == pytest.approx(expected, abs=5e-5)


def test_expected_maximum_follows_simulation() -> None:
    """Pins the formula to what it stands for; it is asymptotic, and 0.03 above the truth at 50 trials."""
    draws = np.random.default_rng(1).standard_normal((20_000, 50)).max(axis=1)
    assert 0.02 < expected_maximum(50) - draws.mean() < 0.04


@given(st.floats(1.0, 5.0))
def test_more_trials_never_lower_the_benchmark(trials: float) -> None:
    """Pins an effective N of 1.2 whose negative 'maximum' made the deflated ratio milder than the plain one."""
    assert expected_maximum(trials) >= 0.0
    assert expected_maximum(trials + 0.5) >= expected_maximum(trials)


@pytest.mark.parametrize(("trials", "years"), [(45, 4.998), (100, 6.404)])
def test_minimum_backtest_years_golden(trials: int, years: float) -> None:
    """Pins MinBTL at an annual Sharpe ratio of 1."""
    assert minimum_backtest_years(trials, 1.0) == pytest.approx(years, abs=5e-4)


def test_probabilistic_sharpe_golden() -> None:
    """Pins raw kurtosis (normal = 3) and the sign of the skew term."""
    assert probabilistic_sharpe(SKEWED) == pytest.approx(0.93807, abs=5e-6)
    assert probabilistic_sharpe(Moments(252, 0.1, 0.0, 3.0)) == pytest.approx(0.94299, abs=5e-6)


def test_minimum_track_record_golden() -> None:
    """Pins MinTRL at 5%, and that a ratio below the benchmark never has a long enough record."""
    assert minimum_track_record(SKEWED) == pytest.approx(287.79, abs=5e-3)
    assert np.isnan(minimum_track_record(SKEWED, benchmark=0.1))


def test_track_record_and_probability_are_one_statement() -> None:
    """Pins MinTRL and PSR to each other: with exactly MinTRL observations the probability is the confidence."""
    needed = minimum_track_record(SKEWED, 0.02, 0.9)
    at = Moments(n=needed, sharpe=0.1, skew=-0.5, kurtosis=5.0)  # type: ignore[arg-type]
    assert probabilistic_sharpe(at, 0.02) == pytest.approx(0.9, abs=1e-12)


def test_deflated_sharpe_golden() -> None:
    """Pins DSR and its benchmark to the worked example."""
    value, benchmark = deflated_sharpe(Moments(1250, 0.1, -0.5, 5.0), 100, 0.05)
    assert benchmark == pytest.approx(0.12653, abs=5e-6)
    assert value == pytest.approx(0.18123, abs=5e-6)


def test_one_trial_is_not_deflated() -> None:
    """Pins the case of no search at all."""
    assert deflated_sharpe(SKEWED, 1, 0.05) == (probabilistic_sharpe(SKEWED), 0.0)


def test_moments_are_scipys() -> None:
    """Pins the conventions: sample deviation in the ratio, biased skew and raw kurtosis."""
    values = np.random.default_rng(2).standard_t(4, 500) * 0.01 + 0.001
    m = moments(values)
    assert m.sharpe == pytest.approx(values.mean() / values.std(ddof=1))
    assert m.skew == pytest.approx(stats.skew(values))
    assert m.kurtosis == pytest.approx(stats.kurtosis(values, fisher=False))


@pytest.mark.parametrize("level", [0.0, 0.1, 1 / 3, -1e-4])
def test_a_constant_series_has_no_sharpe(level: float) -> None:
    """Pins 250 returns of 1/3: rounding gave them a deviation of 6e-17 and a Sharpe ratio of 6e15."""
    assert moments(np.full(250, level)) == Moments(250, 0.0, 0.0, 3.0)


@pytest.mark.parametrize("values", [[0.1], [], [0.1, np.nan], [0.1, np.inf]])
def test_moments_refuse_what_has_none(values: list[float]) -> None:
    """Pins NaN that would pass silently through every later comparison."""
    with pytest.raises(BadInput, match="two finite returns"):
        moments(np.array(values))


def test_impossible_moments_are_refused() -> None:
    """Pins a math domain error where moments cannot belong to one series."""
    with pytest.raises(BadInput, match="positive variance"):
        probabilistic_sharpe(Moments(100, 2.0, 2.0, 1.0))


def test_effective_trials() -> None:
    """Pins N_eff between its ends: copies count once, independent series count all, and half in between."""
    draw = np.random.default_rng(3)
    one, many = draw.standard_normal((4000, 1)), draw.standard_normal((4000, 20))
    assert effective_trials(np.repeat(one, 20, axis=1)) == pytest.approx(1.0)
    assert effective_trials(many) == pytest.approx(20.0, abs=0.3)
    assert effective_trials(one + many) == pytest.approx(0.5 + 0.5 * 20, abs=0.5)
    assert effective_trials(one) == 1.0


def test_opposite_configurations_are_not_fewer_trials() -> None:
    """Pins a negative mean correlation, which must not count as more than all or less than one."""
    one = np.random.default_rng(4).standard_normal((500, 1))
    assert effective_trials(np.hstack([one, -one])) == 2.0


def slow_overfitting(returns: np.ndarray, blocks: int) -> float:
    """PBO as the paper words it: every combination, every Sharpe ratio from its rows."""
    from itertools import combinations

    parts = np.split(returns, blocks)
    below = []
    for chosen in combinations(range(blocks), blocks // 2):
        inside = np.vstack([parts[i] for i in chosen])
        outside = np.vstack([parts[i] for i in range(blocks) if i not in chosen])
        best = (inside.mean(axis=0) / inside.std(axis=0, ddof=1)).argmax()
        rank = stats.rankdata(outside.mean(axis=0) / outside.std(axis=0, ddof=1))[best]
        omega = rank / (returns.shape[1] + 1)
        below.append(np.log(omega / (1 - omega)) <= 0)
    return float(np.mean(below))


@given(st.integers(0, 10_000), st.sampled_from([4, 6]), st.integers(2, 7), st.booleans())
@settings(max_examples=30, deadline=None)
def test_overfitting_is_the_papers_procedure(seed: int, blocks: int, configurations: int, twins: bool) -> None:
    """Pins the block sums, masks and ranks of the fast form; equal configurations share their ranks."""
    returns = np.random.default_rng(seed).standard_normal((blocks * 15, configurations)) + 0.05
    if twins:
        returns = np.hstack([returns, returns])
    assert backtest_overfitting(returns, blocks).probability == slow_overfitting(returns, blocks)


def test_overfitting_of_noise_and_of_skill() -> None:
    """Pins the scale: about one half for noise over seeds, none where one configuration dominates."""
    noise = [
        backtest_overfitting(np.random.default_rng(seed).standard_normal((320, 20)), 8).probability
        for seed in range(40)
    ]
    assert np.mean(noise) == pytest.approx(0.5, abs=0.1)
    skilled = np.random.default_rng(0).standard_normal((320, 20))
    skilled[:, 7] += 0.5
    found = backtest_overfitting(skilled)
    assert len(found.logits) == 12_870
    assert found.probability < 0.001
    assert found.loss_share < 0.001


@pytest.mark.parametrize(("shape", "blocks"), [((100, 1), 4), ((100, 3), 5), ((7, 3), 4), ((0, 0), 4)])
def test_overfitting_refuses_what_it_cannot_split(shape: tuple[int, int], blocks: int) -> None:
    """Pins odd blocks, one configuration and fewer than two periods a block."""
    with pytest.raises(BadInput):
        backtest_overfitting(np.zeros(shape), blocks)


@given(st.lists(st.tuples(st.integers(-3, 3), st.floats(-1, 1, width=16)), min_size=3, max_size=40))
@settings(deadline=None)
def test_spearman_is_scipys(pairs: list[tuple[int, float]]) -> None:
    """Pins ties at their average rank, and NaN for a constant side."""
    a, b = (np.array(side, dtype=np.float64) for side in zip(*pairs, strict=True))
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert np.isnan(spearman(a, b))
    else:
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_spearman_refuses_unequal_or_missing_values() -> None:
    """Pins a NaN that would be ranked highest, and series that were never joined."""
    with pytest.raises(BadInput, match="one length"):
        spearman(np.arange(3.0), np.arange(4.0))
    with pytest.raises(BadInput, match="finite"):
        spearman(np.arange(3.0), np.array([1.0, np.nan, 2.0]))
