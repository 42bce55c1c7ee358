"""Logistic, softmax and Huber heads on standardised inputs; the scaler is folded in, so graphs take raw features."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pipeline.errors import BadInput
from pipeline.models.examples import PROBABILITY_EDGE, Examples, Head
from pipeline.models.export import LinearBlock, heads_graph
from pipeline.models.family import Fitted, Objective, Progress
from pipeline.models.heads.huber import fit_huber
from pipeline.models.heads.outputs import Block, ModelCard, card_file, models_of, onnx_file
from pipeline.models.heads.runtime import load, require_complete
from pipeline.models.inputs import Inputs
from pipeline.models.spec import LinearHeadsSpec, TrainingSpec

BLOCK = 16_384  # rows held in float64 at a time
GRADIENT = 1e-5  # largest of the mean log loss; at scikit-learn's 1e-4 probabilities were off by 4e-5
EQUAL = 1e-5  # graph and float64 solution, relative beyond 1
NEVER = -1e4  # the softmax logit of a class that no fit row has

Floats = NDArray[np.float64]


class Scaler(NamedTuple):
    """Mean and deviation of the fit rows' features, float64 [F]; a feature without spread has scale 1."""

    mean: Floats
    scale: Floats


class Solution(NamedTuple):
    """Of one block, in standardised inputs: weights [F, K], bias [K], iterations used, stopped before the limit."""

    weights: Floats
    bias: Floats
    iterations: int
    converged: bool


def fit(
    spec: LinearHeadsSpec,
    training: TrainingSpec,
    examples: Examples,
    *,
    workdir: Path,
    objective: Objective | None,
    progress: Progress,
) -> Fitted:
    """Solve every block on its own labelled fit rows and export a graph per model.

    Raises
    ------
    BadInput
        A fit row with a missing feature, or a graph whose answers are not the solution's.
    """
    rows, models = examples.rows("fit"), models_of(examples.heads)
    schema = examples.inputs.store.schema
    with threadpool_limits(training.threads):
        x = examples.inputs.take(rows).raw
        require_complete(x, schema)
        scaler = standardise(x)
        solved = _solve_all(spec, models, examples, x, rows, progress)
    files = _exported(models, solved, scaler, schema, training.serving_batch)
    difference = _require_equal(files, models, solved, scaler, examples, training.serving_batch)
    heads = {
        head.name: {"iterations": solved[block.name].iterations, "converged": solved[block.name].converged}
        for blocks in models.values()
        for block in blocks
        for head in block.learned
    }
    return Fitted(files, notes={"heads": heads, "onnx_largest_difference": difference})


def standardise(x: NDArray[np.float32]) -> Scaler:
    """Standardise x [n, F] in place, by its own mean and deviation."""
    total, squares = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for rows in _blocks(len(x)):
        total += x[rows].sum(axis=0, dtype=np.float64)
    mean = total / len(x)
    for rows in _blocks(len(x)):
        squares += ((x[rows] - mean) ** 2).sum(axis=0)
    varies = x.max(axis=0) > x.min(axis=0)  # the deviation of equal values is not exactly 0
    scale = np.where(varies, np.sqrt(squares / len(x)), 1.0)
    for rows in _blocks(len(x)):
        x[rows] = (x[rows] - mean) / scale
    return Scaler(mean, scale)


def _solve_all(
    spec: LinearHeadsSpec,
    models: Mapping[str, Sequence[Block]],
    examples: Examples,
    x: NDArray[np.float32],
    rows: NDArray[np.int64],
    progress: Progress,
) -> dict[str, Solution]:
    column = {head.name: i for i, head in enumerate(examples.heads)}
    blocks = [block for model in models.values() for block in model]
    solved: dict[str, Solution] = {}
    for block in blocks:
        targets = examples.targets[rows][:, [column[head.name] for head in block.heads]]
        solved[block.name] = _solve(spec, block, x, targets)
        progress(f"solved {block.name}", len(solved) / len(blocks))
    return solved


def _solve(spec: LinearHeadsSpec, block: Block, x: NDArray[np.float32], targets: NDArray[np.float32]) -> Solution:
    """Weights of all heads of a block, those of constants zero."""
    learned = np.array([head.learned for head in block.heads])
    weights = np.zeros((x.shape[1], len(block.heads)))
    bias = np.array([_constant_bias(block, head) for head in block.heads])
    if not learned.any():
        return Solution(weights, bias, 0, True)
    known = ~np.isnan(targets[:, learned]).any(axis=1)
    seen, truth = (x if known.all() else x[known]), targets[known][:, learned]
    solve = _huber if block.kind == "linear" else _logistic
    found = solve(spec, seen, truth)
    weights[:, learned], bias[learned] = found.weights, found.bias
    return found._replace(weights=weights, bias=bias)


def _constant_bias(block: Block, head: Head) -> float:
    """What a graph without weights must hold to answer the head's constant."""
    if block.kind == "linear":
        return head.baseline
    if block.kind == "softmax":
        return 0.0 if head.baseline > 0.5 else NEVER
    return float(np.log(head.baseline) - np.log1p(-head.baseline))


def _huber(spec: LinearHeadsSpec, x: NDArray[np.float32], truth: NDArray[np.float32]) -> Solution:
    found = fit_huber(
        x,
        truth[:, 0].astype(np.float64),
        alpha=spec.huber_alpha,
        epsilon=spec.huber_epsilon,
        iterations=spec.iterations,
    )
    return Solution(found.weights[:, None], np.array([found.bias]), found.iterations, found.converged)


def _logistic(spec: LinearHeadsSpec, x: NDArray[np.float32], truth: NDArray[np.float32]) -> Solution:
    """One sigmoid, or a softmax over K > 1 columns of one-hot truth.

    Newton's method takes 5 steps where lbfgs stops in float32 with weights that are off by 1e-3.
    """
    softmax = truth.shape[1] > 1
    classes = truth.argmax(axis=1) if softmax else truth[:, 0]
    model = LogisticRegression(C=spec.inverse_penalty, solver="newton-cholesky", max_iter=spec.iterations, tol=GRADIENT)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(x, classes)
    limited = any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    weights, bias = model.coef_.T.astype(np.float64), model.intercept_.astype(np.float64)
    if softmax and truth.shape[1] == 2:  # one logit of the second class over the first
        weights, bias = np.column_stack([0.0 * weights, weights]), np.append(0.0, bias)
    return Solution(weights, bias, int(model.n_iter_.max()), not limited)


def _exported(
    models: Mapping[str, Sequence[Block]],
    solved: Mapping[str, Solution],
    scaler: Scaler,
    schema: tuple[str, ...],
    batch: int,
) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for model, blocks in models.items():
        files[onnx_file(model)] = heads_graph([_folded(block, solved[block.name], scaler) for block in blocks], batch)
        files[card_file(model)] = ModelCard.of(model, blocks, schema, batch).to_json()
    return files


def _folded(block: Block, solution: Solution, scaler: Scaler) -> LinearBlock:
    """In raw features."""
    weights = solution.weights / scaler.scale[:, None]
    return LinearBlock(block.name, block.kind, weights, solution.bias - scaler.mean @ weights)


def _require_equal(
    files: Mapping[str, bytes],
    models: Mapping[str, Sequence[Block]],
    solved: Mapping[str, Solution],
    scaler: Scaler,
    examples: Examples,
    batch: int,
) -> float:
    """Largest difference between graph and float64 solution over the tune rows (the fit rows where there are none)."""
    tune = examples.rows("tune")
    inputs = examples.inputs.take(tune if tune.size else examples.rows("fit"))
    heads = tuple(head for blocks in models.values() for block in blocks for head in block.learned)
    served = load(files, heads, batch)(inputs)
    worst = 0.0
    for rows in _blocks(len(inputs)):
        expected = _python(inputs.take(np.arange(len(inputs))[rows]), models, solved, scaler)
        error = np.abs(served[rows] - expected) / np.maximum(1.0, np.abs(expected))
        worst = max(worst, float(error.max()))
    if worst > EQUAL:
        remedy = "do not serve it: bring the features to one order of magnitude and refit"
        raise BadInput(f"a graph equals its float64 solution to {EQUAL:g}", f"{worst:.1e}", remedy)
    return worst


def _python(
    inputs: Inputs, models: Mapping[str, Sequence[Block]], solved: Mapping[str, Solution], scaler: Scaler
) -> Floats:
    """[n, learned heads] in float64."""
    x = (inputs.raw - scaler.mean) / scaler.scale
    columns = []
    for block in (block for blocks in models.values() for block in blocks if block.learned):
        linear = x @ solved[block.name].weights + solved[block.name].bias
        if block.kind == "softmax":
            risen = np.exp(linear - linear.max(axis=1, keepdims=True))
            linear = risen / risen.sum(axis=1, keepdims=True)
        elif block.kind == "logistic":
            linear = np.exp(-np.logaddexp(0.0, -linear))  # does not overflow where an outlier drives it
        if block.kind != "linear":
            linear = np.clip(linear, PROBABILITY_EDGE, 1.0 - PROBABILITY_EDGE)
        columns += [linear[:, i] for i, head in enumerate(block.heads) if head.learned]
    return np.column_stack(columns)


def _blocks(rows: int) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, rows, BLOCK)]
