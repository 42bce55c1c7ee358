"""What the probes of a minute study that fit models share: checked rows of blocks, and small heads on a matrix.

None of these models is exported. The members of a study are `pipeline.models`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import lightgbm
import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pipeline.diagnostics.minutes.evaluation import BLOCKS, Floats
from pipeline.errors import BadInput
from pipeline.frames import MINUTE_ROW as KEY
from pipeline.frames import require_columns, require_unique
from pipeline.labels.plan_search import EVALUATION_BLOCKS
from pipeline.models.examples import PROBABILITY_EDGE, Spans
from pipeline.models.heads.huber import fit_huber
from pipeline.models.heads.trees import purged_end
from pipeline.models.spec import TrainingSpec, TreeHeadsSpec

CONFIRMING = EVALUATION_BLOCKS[1:]

Matrix = NDArray[np.float32]
Predict = Callable[[Matrix], Floats]


class NotFittable(BadInput):
    """Too few fit rows, or one class among them: a reason to skip one combination of several."""


class Head(NamedTuple):
    """A fitted head: `predict` maps float32 [n, F] to [n] or, of classes, [n, K].

    `rounds` are trees or iterations used; `converged`: the solver stopped before its limit.
    """

    predict: Predict
    rounds: int
    converged: bool


def probe_rows(
    rows: pl.DataFrame, features: Sequence[str], columns: Sequence[str], what: str, identity: Sequence[str] = ()
) -> pl.DataFrame:
    """Rows of the fit block and of E1, E2, E3, checked, by minute, then by the rest of the key.

    Parameters
    ----------
    rows : pl.DataFrame
        The key, `block`, `label_start`, `label_end`, `features` and `columns`.
    identity : sequence of str
        What a key has beside (session, instrument, minute).

    Raises
    ------
    SchemaError, KeyViolation, BadInput
        A column is absent; a key is doubled; a block is sealed, unknown or absent; blocks are out of time order or a
        label looks into the next one; a feature is null, NaN or infinite.
    """
    require_columns(rows, [*KEY, *identity, "block", "label_start", "label_end", *features, *columns], what)
    require_unique(rows, [*KEY, *identity], what)
    _require_blocks(rows, what)
    if not features:
        raise BadInput(f"{what} needs a feature", "none", "name the feature columns")
    finite = rows.select(pl.col(features).cast(pl.Float64).is_finite().fill_null(False).sum()).row(0)
    broken = {name: rows.height - n for name, n in zip(features, finite, strict=True) if n < rows.height}
    if broken:
        raise BadInput(f"{what}: features are finite", f"rows without: {broken}",
                       "drop the incomplete rows first, and report how many")
    return rows.sort("minute", "instrument", *identity)


def _require_blocks(rows: pl.DataFrame, what: str) -> None:
    seen = set(rows["block"].to_list())
    if seen != set(BLOCKS):
        raise BadInput(f"{what} reads the blocks {list(BLOCKS)} and no sealed one", sorted(map(str, seen)),
                       "fit on fit_inner, evaluate on the purged thirds of tune_inner")
    spans = rows.group_by("block").agg(pl.col("label_start").min(), pl.col("label_end").max())
    ends = {row["block"]: (row["label_start"], row["label_end"]) for row in spans.iter_rows(named=True)}
    for before, after in pairwise(BLOCKS):
        first, last = ends[after][0], ends[before][1]
        if first is None or last is None or last > first:
            raise BadInput(f"{what}: labels of {before} end before {after} begins", f"{last} after {first}",
                           "purge the blocks by the label horizon")


def matrix(rows: pl.DataFrame, features: Sequence[str]) -> Matrix:
    """[n, F] float32, C order."""
    return np.ascontiguousarray(rows.select(pl.col(features).cast(pl.Float32)).to_numpy())


def values(rows: pl.DataFrame, name: str) -> Floats:
    """A column as float64; a missing or non-finite value is an error that names it."""
    column = rows[name].cast(pl.Float64)
    missing = rows.height - int(column.is_finite().fill_null(False).sum())
    if missing:
        raise BadInput(f"{name} is known and finite", f"missing in {missing} of {rows.height} rows",
                       "keep the rows whose window of outcomes is whole")
    return np.array(column.to_numpy())


def require_classes(y: Floats, least: int, what: str, classes: int = 2) -> None:
    """Enough fit rows, and each class among them."""
    if len(y) < least:
        raise NotFittable(f"{what} fits on {least} rows or more", len(y), "widen the population or the fit rows")
    seen = np.unique(y)
    if len(seen) < classes:
        raise NotFittable(f"{what} has rows of each class to fit on", f"only {seen.tolist()}", "widen the fit rows")


def grow(
    spec: TreeHeadsSpec, training: TrainingSpec, x: Matrix, y: Floats, spans: Spans, classes: int
) -> Head:
    """Trees, stopped early on the purged end of the rows; `classes` 0 is a regression, 2 a probability, 3 a softmax."""
    chosen: dict[str, Any] = {"objective": {0: "regression", 2: "binary"}.get(classes, "multiclass")}
    if classes > 2:
        chosen["num_class"] = classes
    parameters = chosen | {
        "num_leaves": spec.leaves, "learning_rate": spec.learning_rate, "lambda_l2": spec.l2,
        "max_bin": spec.max_bin, "min_data_in_leaf": spec.min_rows_in_leaf, "seed": training.seed,
        "num_threads": training.threads, "deterministic": True, "force_row_wise": True, "verbosity": -1,
    }  # fmt: skip
    train, stop = purged_end(spans, np.arange(len(y)), spec.stopping_share)
    whole = lightgbm.Dataset(x, label=y, params=parameters).construct()
    booster = lightgbm.train(
        parameters, whole.subset(train), num_boost_round=spec.rounds, valid_sets=[whole.subset(stop)],
        callbacks=[lightgbm.early_stopping(spec.patience, verbose=False)],
    )

    def predict(rows: Matrix) -> Floats:
        return np.asarray(booster.predict(rows, num_threads=training.threads), np.float64)

    return Head(predict, int(booster.best_iteration), int(booster.best_iteration) < spec.rounds)


def spans_of(rows: pl.DataFrame) -> Spans:
    """What the labels of rows looked at."""
    return Spans(rows["label_start"].to_numpy(), rows["label_end"].to_numpy())


def standardised(x: Matrix) -> tuple[Floats, Floats]:
    """Mean and deviation of columns; zero deviation -> 1."""
    wide = x.astype(np.float64)
    varies = x.max(axis=0) > x.min(axis=0)  # the deviation of equal values is not exactly 0
    return wide.mean(axis=0), np.where(varies, wide.std(axis=0), 1.0)


def logistic(x: Matrix, y: Floats, iterations: int) -> Head:
    """Logistic head on standardised inputs (C = 1): [n] of two classes, [n, K] of more."""
    mean, scale = standardised(x)
    model = LogisticRegression(C=1.0, solver="newton-cholesky", max_iter=iterations, tol=1e-5)
    # float32 as the members are solved; one thread, because two spin where other work runs.
    with warnings.catch_warnings(record=True) as caught, threadpool_limits(1):
        warnings.simplefilter("always")
        model.fit(((x - mean) / scale).astype(np.float32), y)
    limited = any(issubclass(warning.category, ConvergenceWarning) for warning in caught)

    def predict(rows: Matrix) -> Floats:
        p = np.asarray(model.predict_proba((rows - mean) / scale), np.float64)
        return p[:, 1] if p.shape[1] == 2 else p

    return Head(predict, int(np.max(model.n_iter_)), not limited)


def huber(x: Matrix, y: Floats, iterations: int) -> Head:
    """Huber's regression on standardised inputs, alpha 0.001, epsilon 1.35."""
    mean, scale = standardised(x)
    with threadpool_limits(1):  # as above: 12 s became 3 s beside other work
        found = fit_huber(((x - mean) / scale).astype(np.float32), y, alpha=1e-3, epsilon=1.35, iterations=iterations)

    def predict(rows: Matrix) -> Floats:
        return np.asarray((rows - mean) / scale @ found.weights + found.bias, np.float64)

    return Head(predict, found.iterations, found.converged)


def ridge(x: Matrix, y: Floats, alpha: float) -> Head:
    """Ridge regression on standardised inputs: a closed form, so it always stops."""
    mean, scale = standardised(x)
    model = Ridge(alpha=alpha, solver="cholesky").fit((x - mean) / scale, y)

    def predict(rows: Matrix) -> Floats:
        return np.asarray(model.predict((rows - mean) / scale), np.float64)

    return Head(predict, 1, True)


def log_loss(y: Floats, p: Floats) -> float:
    """Mean of -ln of the true class's probability, clipped to [1e-6, 1 - 1e-6]; p [n] or [n, K] with y a class."""
    both = np.column_stack([1.0 - p, p]) if p.ndim == 1 else p
    true = both[np.arange(len(y)), y.astype(np.int64)]
    return float(-np.log(np.clip(true, PROBABILITY_EDGE, 1.0 - PROBABILITY_EDGE)).mean())


def direction_class(rows: pl.DataFrame) -> Floats:
    """[n] 0 long, 1 short, 2 neutral, of one-hot labels."""
    names = [f"{way}_target" for way in ("long", "short", "neutral")]
    truth = np.column_stack([values(rows, name) for name in names])
    if not (truth.sum(axis=1) == 1.0).all():
        raise BadInput("direction labels are one-hot", truth[truth.sum(axis=1) != 1.0][0].tolist(),
                       "rebuild the labels")
    return truth.argmax(axis=1).astype(np.float64)
