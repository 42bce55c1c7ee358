"""Huber's robust linear regression with its own scale (Owen 2007, "A robust hybrid of lasso and ridge regression",
eq. 6): scikit-learn's objective, minimised by Newton steps. Weights match on benchmarks.multi_head_members, 2.7 times
as fast there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BLOCK = 16_384  # rows held in float64 at a time: 9 MB at 70 features
TOLERANCE = 1e-11  # of the objective, that another step would gain
HALVINGS = 40
LEAST_SCALE = 1e-2  # of the target's deviation


@dataclass(frozen=True)
class HuberFit:
    """Minimiser of sum(s + H((x w + c - y) / s) s) + alpha w'w, H(z) = z^2 inside epsilon and 2 epsilon |z| - epsilon^2
    outside.

    Parameters
    ----------
    weights : float64 [F]
    bias, scale : float
    iterations : int
    converged : bool
        Stopped before its limit.
    """

    weights: Floats
    bias: float
    scale: float
    iterations: int
    converged: bool


def fit_huber(x: NDArray[np.float32], y: Floats, *, alpha: float, epsilon: float, iterations: int) -> HuberFit:
    """Fit on standardised inputs.

    The scale stays above 1% of the target's deviation. Where most rows have one and the same edge, the stop of their
    plan, the objective falls until the scale is zero; scikit-learn's solver then stops at an arbitrary point.

    Parameters
    ----------
    x : float32 [n, F]
    y : float64 [n]
        Not all the same.
    """
    problem = _Huber(x, y, alpha, epsilon, LEAST_SCALE * float(y.std()))
    theta = np.zeros(x.shape[1] + 2)  # weights, bias, scale
    theta[-2], theta[-1] = np.median(y), y.std()
    residual = theta[-2] - y
    for done in range(iterations):
        value, gradient, hessian = problem.quadratic(theta, residual)
        step = problem.step(theta, gradient, hessian)
        if -0.5 * float(gradient @ step) <= TOLERANCE * value:
            return _fit(theta, done, True)
        moved = problem.fitted(step)
        share = problem.descend(theta, residual, step, moved, value, float(gradient @ step))
        if share == 0.0:  # no float64 step lowers it further
            return _fit(theta, done, True)
        theta = problem.at(theta, share * step)
        residual = residual + share * moved
    return _fit(theta, iterations, False)


def _fit(theta: Floats, iterations: int, converged: bool) -> HuberFit:
    return HuberFit(theta[:-2].copy(), float(theta[-2]), float(theta[-1]), iterations, converged)


class _Huber:
    """The objective over theta = (weights, bias, scale), jointly convex."""

    def __init__(self, x: NDArray[np.float32], y: Floats, alpha: float, epsilon: float, least_scale: float) -> None:
        self.x, self.y, self.alpha, self.epsilon, self.least_scale = x, y, alpha, epsilon, least_scale

    def value(self, theta: Floats, residual: Floats) -> float:
        weights, scale, size = theta[:-2], theta[-1], np.abs(residual)
        inside = size <= self.epsilon * scale
        linear = 2.0 * self.epsilon * size[~inside] - self.epsilon**2 * scale
        total = len(size) * scale + (size[inside] ** 2).sum() / scale + linear.sum()
        return float(total + self.alpha * weights @ weights)

    def quadratic(self, theta: Floats, residual: Floats) -> tuple[float, Floats, Floats]:
        """Value, gradient and (generalised) Hessian, in one pass over the rows."""
        width, scale = len(theta), theta[-1]
        inside = np.abs(residual) <= self.epsilon * scale
        slope = np.where(inside, 2.0 * residual / scale, 2.0 * self.epsilon * np.sign(residual))
        gradient, hessian = np.zeros(width), np.zeros((width, width))
        for rows in _blocks(len(residual)):
            design = self._design(rows)
            gradient[:-1] += design.T @ slope[rows]
            within = design[inside[rows]]
            hessian[:-1, :-1] += within.T @ within
            hessian[-1, :-1] -= within.T @ residual[rows][inside[rows]] / scale
        squares = float((residual[inside] ** 2).sum())
        hessian[:-1, -1] = hessian[-1, :-1]
        hessian[-1, -1] = squares / scale**2
        hessian *= 2.0 / scale
        places = np.arange(width - 2)
        hessian[places, places] += 2.0 * self.alpha
        gradient[:-2] += 2.0 * self.alpha * theta[:-2]
        gradient[-1] = len(residual) - squares / scale**2 - self.epsilon**2 * np.count_nonzero(~inside)
        return self.value(theta, residual), gradient, hessian

    def step(self, theta: Floats, gradient: Floats, hessian: Floats) -> Floats:
        """Newton's; the scale stays where it is once it lies on its bound and would go below."""
        free = np.ones(len(theta), bool)
        free[-1] = theta[-1] > self.least_scale or gradient[-1] < 0.0
        within = np.ix_(free, free)
        damped = hessian[within] + np.eye(free.sum()) * (1e-12 * np.trace(hessian) + 1e-300)
        step = np.zeros(len(theta))
        step[free] = np.linalg.solve(damped, -gradient[free])
        return step

    def fitted(self, step: Floats) -> Floats:
        """[n] what a step adds to the fitted values."""
        out = np.empty(len(self.y))
        for rows in _blocks(len(out)):
            out[rows] = self._design(rows) @ step[:-1]
        return out

    def descend(
        self, theta: Floats, residual: Floats, step: Floats, moved: Floats, value: float, slope: float
    ) -> float:
        """The first of 1, 1/2, 1/4... that lowers the objective enough (Armijo); 0 when none does."""
        share = 1.0
        for _ in range(HALVINGS):
            if self.value(self.at(theta, share * step), residual + share * moved) <= value + 1e-4 * share * slope:
                return share
            share *= 0.5
        return 0.0

    def at(self, theta: Floats, step: Floats) -> Floats:
        reached = theta + step
        reached[-1] = max(reached[-1], self.least_scale)
        return reached

    def _design(self, rows: slice) -> Floats:
        part = self.x[rows]
        out = np.ones((len(part), part.shape[1] + 1))
        out[:, :-1] = part
        return out


def _blocks(rows: int) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, rows, BLOCK)]
