"""Ridge regression in closed form for all heads: the baseline that every study carries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pipeline.models.examples import Examples, Head
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

    A probability head is one Newton step of a ridge logistic regression from its prevalence p:
    logit = logit(p) + (linear - p) / (p (1 - p)). It keeps the order of the linear fit and never leaves
    (0, 1), where a clipped linear probability would tie most rows of a rare head at 0.
    """
    fit_rows, learned = examples.rows("fit"), examples.learned
    heads = [examples.heads[i] for i in learned]
    with threadpool_limits(training.threads):
        weights = ridge(examples.inputs.x[fit_rows], examples.targets[fit_rows][:, learned], spec.penalty)
    for column, head in enumerate(heads):
        if head.kind == "probability":
            _to_logit(weights[:, column], head)
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


def _to_logit(weights: NDArray[np.float64], head: Head) -> None:
    p = head.baseline
    weights[-1] -= p
    weights /= p * (1.0 - p)
    weights[-1] += np.log(p / (1.0 - p))
