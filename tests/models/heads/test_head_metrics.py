"""Metrics of multi-head models against scikit-learn's, and where they are undefined."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from pipeline.models.examples import Head
from pipeline.models.heads.metrics import fit_constants, head_metrics

WAYS = tuple(Head(f"d{i}", "probability", 1 / 3, model="m", softmax="d") for i in range(3))
P, EDGE = Head("p", "probability", 0.25, model="m"), Head("e", "regression", 1.0, model="m")
DRAW = np.random.default_rng(2)


def column(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float32)[:, None]


def test_a_probability_equals_scikit_learns() -> None:
    """Pins swapped arguments, an unclipped logarithm, and a constant that is not the fit rows'."""
    y = (DRAW.random(500) < 0.3).astype(np.float32)
    p = np.clip(0.3 + 0.2 * (y - 0.3) + 0.2 * DRAW.standard_normal(500), 0, 1).astype(np.float32)
    found = head_metrics((P,), np.array([0.25]), column(y), column(p))["p"]
    inside, constant = np.clip(p.astype(np.float64), 1e-6, 1 - 1e-6), np.full(500, 0.25)
    assert found["auc"] == pytest.approx(roc_auc_score(y, p))
    assert found["brier"] == pytest.approx(brier_score_loss(y, p))
    assert found["brier_ratio"] == pytest.approx(brier_score_loss(y, p) / brier_score_loss(y, constant))
    assert found["log_loss"] == pytest.approx(log_loss(y, inside))
    assert found["log_loss_ratio"] == pytest.approx(log_loss(y, inside) / log_loss(y, constant))
    assert found["accuracy"] == pytest.approx(np.mean((p >= 0.5) == y))
    assert found["accuracy_constant"] == pytest.approx(np.mean(y == 0))
    assert found["hit_rate"] == pytest.approx(y.mean())
    top = np.argsort(-p, kind="stable")[:50]
    if np.sort(p)[-50] > np.sort(p)[-51]:
        assert found["hit_rate_top"] == pytest.approx(y[top].mean())


def test_the_top_tenth_holds_everything_that_ties() -> None:
    """Pins the oldest rows of a constant score being called its best."""
    y = np.r_[np.ones(50), np.zeros(450)]
    constant = head_metrics((P,), np.array([0.25]), column(y), column(np.full(500, 0.4)))["p"]
    assert constant["hit_rate_top"] == constant["hit_rate"] == 0.1
    ranked = head_metrics((P,), np.array([0.25]), column(y), column(np.linspace(1, 0, 500)))["p"]
    assert ranked["hit_rate_top"] == 1.0


def test_a_softmax_equals_scikit_learns() -> None:
    """Pins a log loss of three sigmoids, and classes that are compared out of order."""
    p = DRAW.dirichlet([2.0, 1.0, 3.0], 900)
    truth = np.array([DRAW.choice(3, p=row) for row in p])
    y, priors = np.eye(3)[truth], np.array([0.3, 0.2, 0.5])
    found = head_metrics(WAYS, priors, y.astype(np.float32), p.astype(np.float32))
    assert found["d"]["log_loss"] == pytest.approx(log_loss(truth, p), abs=1e-5)
    assert found["d"]["brier"] == pytest.approx(((p - y) ** 2).sum(axis=1).mean(), abs=1e-6)
    assert found["d"]["brier_constant"] == pytest.approx(((priors - y) ** 2).sum(axis=1).mean())
    assert found["d"]["accuracy"] == pytest.approx(np.mean(p.argmax(axis=1) == truth))
    assert found["d"]["accuracy_constant"] == pytest.approx(np.mean(truth == 2))
    assert found["d"]["hit_rate_top"] > found["d"]["hit_rate"]
    assert found["d2"]["auc"] == pytest.approx(roc_auc_score(y[:, 2], p[:, 2]), abs=1e-6)


def test_one_versus_rest_needs_two_hundred_rows_of_each() -> None:
    """Pins an AUC of a handful of rows of a rare class."""
    for rare, defined in ((199, False), (200, True)):
        truth = np.r_[np.zeros(rare), np.ones(400), np.full(400, 2)].astype(int)
        p = DRAW.dirichlet([1.0, 1.0, 1.0], len(truth)).astype(np.float32)
        found = head_metrics(WAYS, np.full(3, 1 / 3), np.eye(3, dtype=np.float32)[truth], p)
        assert (found["d0"]["auc"] is not None) is defined
        assert found["d1"]["auc"] is not None


def test_an_edge_stands_beside_the_median_of_what_it_trained_on() -> None:
    """Pins the mean as the constant (MAE prefers the median) and rows outside the population in it."""
    fit = column(np.array([np.nan, 0.0, 0.0, 0.0, 8.0, np.nan]))
    constants = fit_constants((EDGE,), fit)
    assert constants.tolist() == [0.0]
    y, p = np.arange(-4.0, 6.0), np.arange(-5.0, 5.0)
    found = head_metrics((EDGE,), constants, column(y), column(p))["e"]
    assert found["mae"] == 1.0
    assert found["mae_ratio"] == pytest.approx(1.0 / np.abs(y).mean())
    assert (found["hit_rate"], found["hit_rate_top"]) == (0.5, 1.0)
    assert (found["mean"], found["mean_top"]) == (0.5, 5.0)


def test_what_is_undefined_is_null() -> None:
    """Pins NaN in JSON, and a crash without truth or with one class."""
    nothing = np.full((4, 5), np.nan, np.float32)
    heads = (P, EDGE, *WAYS)
    found = head_metrics(heads, np.full(5, 0.3), nothing, np.full((4, 5), 0.3, np.float32))
    assert {metrics["rows"] for metrics in found.values()} == {0}
    ones = np.ones((4, 1), np.float32)
    one_class = head_metrics((P,), np.array([1 - 1e-6]), ones, ones)["p"]
    assert one_class["auc"] is None
    zero = head_metrics((EDGE,), np.array([0.0]), 0 * ones, ones)["e"]
    assert zero["mae_ratio"] is None
    json.dumps([found, one_class, zero], allow_nan=False)
