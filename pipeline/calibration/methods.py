"""Calibration maps of raw probabilities: fit gives plain float64 parameters, apply reads nothing else.

Every map is monotone, so calibrating never reorders a head. Choosing among them is `calibrators`' work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Parameters = dict[str, list[float]]

EDGE = 1e-6
SLOPES = (0.05, 20.0)  # of a temperature, 1 / T
NEWTON_STEPS = 50
HALVINGS = 30


@dataclass(frozen=True)
class Method:
    """`fit(p, y) -> parameters` and `apply(p, parameters) -> p`, both on float64 [n]."""

    fit: Callable[[Floats, Floats], Parameters]
    apply: Callable[[Floats, Parameters], Floats]


def logit(p: Floats) -> Floats:
    """ln(p / (1 - p)), p kept inside (1e-6, 1 - 1e-6)."""
    inside = np.clip(p, EDGE, 1.0 - EDGE)
    return np.log(inside / (1.0 - inside))


def sigmoid(z: Floats) -> Floats:
    """1 / (1 + exp(-z))."""
    return 1.0 / (1.0 + np.exp(-z))


def _fit_platt(p: Floats, y: Floats) -> Parameters:
    """sigmoid(a logit(p) + b) by maximum likelihood on Platt's smoothed targets (Platt 1999, section 2.2)."""
    positives = y.sum()
    negatives = len(y) - positives
    target = np.where(y == 1.0, (positives + 1.0) / (positives + 2.0), 1.0 / (negatives + 2.0))
    z, mean = logit(p), target.mean()
    theta = np.array([1.0, 0.0])
    design = np.column_stack([z, np.ones_like(z)])
    for _ in range(NEWTON_STEPS):
        step = _descending_step(design, target, theta)
        theta = theta + step
        if np.abs(step).max() < 1e-10:
            break
    if not (np.isfinite(theta).all() and theta[0] > 0.0):  # would reverse the order: keep the prevalence
        theta = np.array([0.0, np.log(mean / (1.0 - mean))])
    return {"slope": [float(theta[0])], "intercept": [float(theta[1])]}


def _descending_step(design: Floats, target: Floats, theta: Floats) -> Floats:
    """A Newton step of logistic regression, halved until the loss falls; zero once none does."""
    q = sigmoid(design @ theta)
    hessian = (design * (q * (1.0 - q))[:, None]).T @ design + 1e-9 * np.eye(design.shape[1])
    step = np.linalg.solve(hessian, design.T @ (target - q))
    before = _log_loss(design @ theta, target)
    for halving in range(HALVINGS):
        shorter: Floats = step * np.float64(0.5**halving)
        if _log_loss(design @ (theta + shorter), target) < before:
            return shorter
    return np.zeros_like(step)


def _log_loss(z: Floats, target: Floats) -> float:
    return float(np.sum(np.logaddexp(0.0, z) - target * z))


def _apply_platt(p: Floats, parameters: Parameters) -> Floats:
    return sigmoid(parameters["slope"][0] * logit(p) + parameters["intercept"][0])


def _fit_temperature(p: Floats, y: Floats) -> Parameters:
    """sigmoid(logit(p) / T), T by maximum likelihood (Guo 2017); convex in 1 / T, solved by bisection."""
    z = logit(p)
    low, high = SLOPES
    for _ in range(60):
        slope = 0.5 * (low + high)
        rising = float(z @ (y - sigmoid(slope * z))) > 0.0
        low, high = (slope, high) if rising else (low, slope)
    return {"temperature": [2.0 / (low + high)]}


def _apply_temperature(p: Floats, parameters: Parameters) -> Floats:
    return sigmoid(logit(p) / parameters["temperature"][0])


def _fit_isotonic(p: Floats, y: Floats) -> Parameters:
    """Pool adjacent violators; only the knots are kept."""
    from sklearn.isotonic import IsotonicRegression  # 1 s to import

    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(p, y)
    return {"at": fitted.X_thresholds_.tolist(), "value": fitted.y_thresholds_.tolist()}


def _apply_isotonic(p: Floats, parameters: Parameters) -> Floats:
    return np.interp(p, parameters["at"], parameters["value"])


METHODS = {
    "identity": Method(lambda p, y: {}, lambda p, parameters: p.copy()),
    "platt": Method(_fit_platt, _apply_platt),
    "isotonic": Method(_fit_isotonic, _apply_isotonic),
    "temperature": Method(_fit_temperature, _apply_temperature),
}
