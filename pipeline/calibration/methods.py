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
    for _ in range(NEWTON_STEPS):
        step = _descending_step(z, target, theta)
        theta = theta + step
        if np.abs(step).max() < 1e-10:
            break
    if not (np.isfinite(theta).all() and theta[0] > 0.0):  # would reverse the order: keep the prevalence
        theta = np.array([0.0, np.log(mean / (1.0 - mean))])
    return {"slope": [float(theta[0])], "intercept": [float(theta[1])]}


def _descending_step(z: Floats, target: Floats, theta: Floats) -> Floats:
    """A Newton step of logistic regression, halved until the loss falls; zero once none does.

    Sums are NumPy's: a product of BLAS changes its last bits with its threads, and on busy cores took 0.2 s.
    """
    line = theta[0] * z + theta[1]
    q = sigmoid(line)
    weight, missed = q * (1.0 - q), target - q
    crossed = np.sum(weight * z)
    hessian = np.array([[np.sum(weight * z * z), crossed], [crossed, np.sum(weight)]]) + 1e-9 * np.eye(2)
    step: Floats = np.linalg.solve(hessian, np.array([np.sum(z * missed), np.sum(missed)]))
    before = _log_loss(line, target)
    for halving in range(HALVINGS):
        shorter: Floats = step * np.float64(0.5**halving)
        moved = theta + shorter
        if _log_loss(moved[0] * z + moved[1], target) < before:
            return shorter
    return np.zeros_like(step)


def _log_loss(z: Floats, target: Floats) -> float:
    return float(np.sum(np.logaddexp(0.0, z) - target * z))


def _apply_platt(p: Floats, parameters: Parameters) -> Floats:
    return sigmoid(parameters["slope"][0] * logit(p) + parameters["intercept"][0])


def _fit_temperature(p: Floats, y: Floats) -> Parameters:
    """sigmoid(logit(p) / T), T by maximum likelihood (Guo 2017); convex in 1 / T: Newton, bisection where it leaves."""
    z = logit(p)
    squared, (low, high), slope = z * z, SLOPES, 1.0
    for _ in range(NEWTON_STEPS):
        q = sigmoid(slope * z)
        rise = float(np.sum(z * (y - q)))
        low, high = (slope, high) if rise > 0.0 else (low, slope)
        further = slope + rise / max(float(np.sum(squared * (q * (1.0 - q)))), EDGE)
        moved = further if low < further < high else 0.5 * (low + high)
        done, slope = abs(moved - slope) <= 1e-12 * slope, moved
        if done:
            break
    return {"temperature": [1.0 / slope]}


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
