"""Ridge regression in closed form for all heads: the baseline that every study carries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pipeline.models.examples import Examples
from pipeline.models.export import linear_graph
from pipeline.models.family import Fitted, Objective, Progress
from pipeline.models.onnx_runtime import FILE
from pipeline.models.spec import LinearSpec, TrainingSpec

BLOCK = 16_384  # rows held in float64 at a time: 29 MB at 220 features


def fit(
    spec: LinearSpec,
    training: TrainingSpec,
    examples: Examples,
    *,
    workdir: Path,
    objective: Objective | None,
    progress: Progress,
) -> Fitted:
    """Solve the learned heads and export them.

    A probability head keeps the order of the linear fit; its logit is slope x linear + intercept, both fitted by
    logistic regression on the fit rows. A clipped linear probability would tie most rows of a rare head at 0, and one
    Newton step from the prevalence overshoots there: on 0.2% positives of real stocks the ensemble's Brier score
    became 2.8 times the constant's.
    """
    fit_rows, learned = examples.rows("fit"), examples.learned
    heads = [examples.heads[i] for i in learned]
    with threadpool_limits(training.threads):
        x, targets = examples.inputs.take(fit_rows).x, examples.targets[fit_rows][:, learned]
        weights = ridge(x, targets, spec.penalty)
        for column, head in enumerate(heads):
            if head.kind == "probability":
                _to_logit(weights[:, column], x, targets[:, column])
    served = weights.astype(np.float32)
    graph = linear_graph(
        served[:-1], served[-1], [head.kind == "probability" for head in heads], training.serving_batch
    )
    progress("ridge solved", 1.0)
    return Fitted({FILE: graph})


def ridge(x: NDArray[np.float32], targets: NDArray[np.float32], penalty: float) -> NDArray[np.float64]:
    """Least squares with penalty x rows on the squared weights, none on the intercept.

    Rows are grouped by which heads they have truth for; a head's normal equations are the sum over its
    groups, so every row enters a Gram matrix once, whatever the heads' masks; heads with the same mask share
    one solve.

    Parameters
    ----------
    x : float32 [n, F]
    targets : float32 [n, H]
        NaN where a head has no truth; each head has some.
    penalty : float
        Per row of the head.

    Returns
    -------
    float64 [F + 1, H]
        Weights, the intercept last.
    """
    known = ~np.isnan(targets)
    patterns, group = np.unique(known, axis=0, return_inverse=True)
    size = x.shape[1] + 1
    grams = np.zeros((len(patterns), size, size))
    moments = np.zeros((len(patterns), size, targets.shape[1]))
    for i in range(len(patterns)):
        rows = np.flatnonzero(group.reshape(-1) == i)
        for block in (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)):
            design = np.column_stack([x[block].astype(np.float64), np.ones(len(block))])
            grams[i] += design.T @ design
            moments[i] += design.T @ np.where(known[block], targets[block].astype(np.float64), 0.0)
    weights = np.empty((size, targets.shape[1]))
    for pattern in np.unique(patterns.T, axis=0):  # heads that share their groups share their factorisation
        heads = (pattern == patterns.T).all(axis=1)
        gram = grams[pattern].sum(axis=0)
        gram[np.arange(size - 1), np.arange(size - 1)] += penalty * gram[-1, -1]
        weights[:, heads] = np.linalg.solve(gram, moments[pattern].sum(axis=0)[:, heads])
    return weights


def _to_logit(weights: NDArray[np.float64], x: NDArray[np.float32], truth: NDArray[np.float32]) -> None:
    """Replace linear weights [F + 1] by those of the logit, in place; rows without truth are left out."""
    known = ~np.isnan(truth)
    linear = x[known] @ weights[:-1].astype(np.float32) + np.float32(weights[-1])
    centre, spread = float(linear.mean()), float(linear.std()) or 1.0
    fitted = LogisticRegression(C=np.inf).fit(((linear - centre) / spread)[:, None], truth[known])
    slope = float(fitted.coef_[0, 0]) / spread
    weights *= slope
    weights[-1] += float(fitted.intercept_[0]) - slope * centre
