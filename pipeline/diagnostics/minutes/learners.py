"""Small classifiers of a probe, and how well a score orders rows: AUC, the edge of its top share.

Nothing fitted here leaves the probe. The models of a study are `pipeline.models`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import lightgbm
import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pipeline.diagnostics.minutes.evaluation import FIT, Floats
from pipeline.errors import BadInput
from pipeline.labels.plan_search import EVALUATION_BLOCKS
from pipeline.spec import Spec

Flags = NDArray[np.bool_]
Predict = Callable[[Floats], Floats]
Fit = Callable[[Flags], Predict]
PROBABILITY_EDGE: Final = 1e-6


class LearnerSpec(Spec):
    """A classifier whose two classes weigh the same in fitting.

    Parameters
    ----------
    family : {"balanced_logistic", "balanced_trees"}
        Logistic on standardised features, or LightGBM.
    inverse_penalty : float
        scikit-learn's C.
    iterations, rounds : int
        Of the logistic, at most; of the trees, exactly.
    max_fit_rows : int
        The newest rows are kept.
    """

    family: Literal["balanced_logistic", "balanced_trees"] = "balanced_logistic"
    inverse_penalty: float = Field(default=1.0, gt=0)
    iterations: int = Field(default=500, ge=1)
    rounds: int = Field(default=120, ge=1)
    leaves: int = Field(default=31, ge=2)
    learning_rate: float = Field(default=0.04, gt=0)
    l2: float = Field(default=0.02, ge=0)
    min_rows_in_leaf: int = Field(default=20, ge=1)
    max_fit_rows: int = Field(default=100_000, ge=2)
    seed: int = 7
    threads: int = Field(default=1, ge=1)


def learner(x: Floats, spec: LearnerSpec) -> Fit:
    """What fits any number of two-class targets on the same rows.

    Parameters
    ----------
    x : float64 [n, F]
        In time order.

    Returns
    -------
    callable
        target bool [n], both classes among the rows kept -> predict. A prediction is the probability with the fit
        rows' own prevalence: balancing moves every logit by the log odds of the prevalence, which is moved back.
    """
    kept = x[-spec.max_fit_rows :]
    fit = (_logistic if spec.family == "balanced_logistic" else _trees)(kept, spec)

    def fit_newest(target: Flags) -> Predict:
        return fit(target[-spec.max_fit_rows :])

    return fit_newest


def one_class(targets: Mapping[str, Flags], spec: LearnerSpec) -> str | None:
    """Which block has one class only, in words: nothing to fit, or no AUC."""
    for block in (FIT, *EVALUATION_BLOCKS):
        target = targets[block][-spec.max_fit_rows :] if block == FIT else targets[block]
        positives = int(target.sum())
        if positives in (0, len(target)):
            return f"one class in {block}: {positives} of {len(target)} rows positive"
    return None


def aucs(x: Floats, positive: Flags) -> Floats:
    """Share of (positive, negative) pairs in the right order, ties half, of every column [n, k] -> [k].

    Mann-Whitney by average ranks; both classes must be there.
    """
    count, n = int(positive.sum()), len(positive)
    if count in (0, n):
        raise BadInput("an AUC needs both classes", f"{count} of {n} rows positive", "leave the target out")
    ranks = pl.from_numpy(x).select(pl.all().rank("average")).to_numpy()
    total = ranks[positive].sum(axis=0)
    return np.asarray((total - count * (count + 1) / 2) / (count * (n - count)))


def top_rows(rows: int, share: float) -> int:
    """Rows in the top share, rounded down."""
    return int(np.floor(rows * share + 1e-9))


def top_edge(score: Floats, edge: Floats, share: float) -> float | None:
    """Mean edge of the top share by score; None where that is no row.

    Rows tied at the cut enter with their mean, so the answer does not depend on the order of rows.
    """
    k = top_rows(len(score), share)
    if k == 0:
        return None
    cut = np.partition(score, len(score) - k)[len(score) - k]
    above, tied = score > cut, score == cut
    return float((edge[above].sum() + (k - int(above.sum())) * edge[tied].mean()) / k)


def _weights(target: Flags) -> tuple[Floats, float]:
    """Weights under which both classes count the same, and the log odds of the prevalence."""
    share = float(target.mean())
    return np.where(target, 0.5 / share, 0.5 / (1.0 - share)), float(np.log(share / (1.0 - share)))


def _probability(logit: Floats, odds: float) -> Floats:
    limit = -float(np.log(PROBABILITY_EDGE))
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logit + odds, -limit, limit))))


def _logistic(x: Floats, spec: LearnerSpec) -> Fit:
    centre, spread = x.mean(axis=0), x.std(axis=0)
    spread = np.where(spread > 0.0, spread, 1.0)
    standardised = (x - centre) / spread

    def fit(target: Flags) -> Predict:
        weights, odds = _weights(target)
        model = LogisticRegression(C=spec.inverse_penalty, solver="newton-cholesky", max_iter=spec.iterations)
        with threadpool_limits(spec.threads):
            model.fit(standardised, target, weights)
        slope = model.coef_[0] / spread
        bias = float(model.intercept_[0] - centre @ slope)

        def predict(rows: Floats) -> Floats:
            with threadpool_limits(spec.threads):
                return _probability(rows @ slope + bias, odds)

        return predict

    return fit


def _trees(x: Floats, spec: LearnerSpec) -> Fit:
    parameters: dict[str, Any] = {
        "objective": "binary", "num_leaves": spec.leaves, "learning_rate": spec.learning_rate, "lambda_l2": spec.l2,
        "min_data_in_leaf": spec.min_rows_in_leaf, "seed": spec.seed, "num_threads": spec.threads,
        "deterministic": True, "force_row_wise": True, "feature_pre_filter": False, "verbosity": -1,
    }  # fmt: skip
    binned = lightgbm.Dataset(x, params=parameters, free_raw_data=False)

    def fit(target: Flags) -> Predict:
        weights, odds = _weights(target)
        binned.set_label(target.astype(np.float32))
        binned.set_weight(weights.astype(np.float32))
        booster = lightgbm.train(parameters, binned, num_boost_round=spec.rounds)
        return lambda rows: _probability(
            np.asarray(booster.predict(rows, raw_score=True, num_threads=spec.threads), np.float64), odds)

    return fit
