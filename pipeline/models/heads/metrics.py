"""How good the heads of multi-head models are, each beside the constant of the rows that it trained on.

Probabilities: AUC, Brier, log loss, accuracy, hit rate. Edges: absolute error. What every study's heads report is in
`pipeline.models.metrics`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.models.examples import PROBABILITY_EDGE, Examples, Head
from pipeline.models.metrics import Metrics, auc

TOP_SHARE = 0.10
ONE_VS_REST_ROWS = 200  # of each class

Floats = NDArray[np.float64]


def model_metrics(examples: Examples, index: NDArray[np.int64], scores: NDArray[np.float32]) -> dict[str, Metrics]:
    """Head (and softmax) -> metrics on the rows `index` of the heads that belong to a model.

    Parameters
    ----------
    scores : float32 [len(index), H]
    """
    chosen = [i for i, head in enumerate(examples.heads) if head.model]
    heads = [examples.heads[i] for i in chosen]
    constants = fit_constants(heads, examples.targets[examples.rows("fit")][:, chosen])
    return head_metrics(heads, constants, examples.targets[index][:, chosen], scores[:, chosen])


def fit_constants(heads: Sequence[Head], targets: NDArray[np.float32]) -> Floats:
    """[H] what predicts best without features: the prevalence of a probability, the median of anything else.

    Parameters
    ----------
    targets : float32 [n_fit, H]
        NaN on the rows that a head does not train on.
    """
    out = np.array([head.baseline for head in heads])
    for column, head in enumerate(heads):
        known = targets[~np.isnan(targets[:, column]), column]
        if head.kind != "probability" and known.size:
            out[column] = np.median(known.astype(np.float64))
    return out


def head_metrics(
    heads: Sequence[Head], constants: Floats, truth: NDArray[np.float32], scores: NDArray[np.float32]
) -> dict[str, Metrics]:
    """The same for any rows with truth; null where undefined.

    Parameters
    ----------
    constants : float64 [H]
    truth, scores : float32 [n, H]
        NaN truth is left out.
    """
    out: dict[str, Metrics] = {}
    for column, head in enumerate(heads):
        known = np.flatnonzero(~np.isnan(truth[:, column]))
        y, p = (values[known, column].astype(np.float64) for values in (truth, scores))
        constant = float(constants[column])
        out[head.name] = {"rows": len(known), "constant": constant, "reason": head.reason}
        if known.size:
            out[head.name] |= _one_head(head, y, p, constant)
    for group in dict.fromkeys(head.softmax for head in heads if head.softmax):
        columns = [i for i, head in enumerate(heads) if head.softmax == group]
        known = np.flatnonzero(~np.isnan(truth[:, columns]).any(axis=1))
        y, p = (values[known][:, columns].astype(np.float64) for values in (truth, scores))
        out[group] = {"rows": len(known)} | (_choice(y, p, constants[columns]) if known.size else {})
    return out


def _one_head(head: Head, y: Floats, p: Floats, constant: float) -> Metrics:
    return _probability(y, p, constant, head) if head.kind == "probability" else _edge(y, p, constant)


def _probability(y: Floats, p: Floats, constant: float, head: Head) -> Metrics:
    least = ONE_VS_REST_ROWS if head.softmax else 1
    enough = min(y.sum(), len(y) - y.sum()) >= least
    priors = np.full(len(y), constant)
    return {
        "positives": int(y.sum()),
        "auc": auc(y, p) if enough else None,
        **_beside("brier", float(np.mean((p - y) ** 2)), float(np.mean((priors - y) ** 2))),
        **_beside("log_loss", _log_loss(y, p), _log_loss(y, priors)),
        "accuracy": float(np.mean((p >= 0.5) == y)),
        "accuracy_constant": float(np.mean((priors >= 0.5) == y)),
        "hit_rate": float(y.mean()),
        "hit_rate_top": float(y[_top(p)].mean()),
    }


def _choice(y: Floats, p: Floats, priors: Floats) -> Metrics:
    """Of a softmax: y one-hot and p [n, K]; its confidence is the largest probability."""
    chosen, truth = p.argmax(axis=1), y.argmax(axis=1)
    hits = chosen == truth
    constant = np.broadcast_to(priors, y.shape)
    return {
        **_beside("brier", _squares(p - y), _squares(constant - y)),
        **_beside("log_loss", _surprise(y, p), _surprise(y, constant)),
        "accuracy": float(hits.mean()),
        "accuracy_constant": float(np.mean(truth == priors.argmax())),
        "hit_rate": float(hits.mean()),
        "hit_rate_top": float(hits[_top(p.max(axis=1))].mean()),
    }


def _edge(y: Floats, p: Floats, median: float) -> Metrics:
    """A hit is a truth above zero."""
    gains = y > 0.0
    return {
        **_beside("mae", float(np.mean(np.abs(p - y))), float(np.mean(np.abs(median - y)))),
        "hit_rate": float(gains.mean()),
        "hit_rate_top": float(gains[_top(p)].mean()),
        "mean": float(y.mean()),
        "mean_top": float(y[_top(p)].mean()),
    }


def _beside(name: str, value: float, constant: float) -> Metrics:
    ratio = value / constant if constant > 0.0 else None
    return {name: value, f"{name}_constant": constant, f"{name}_ratio": ratio}


def _log_loss(y: Floats, p: Floats) -> float:
    inside = np.clip(p, PROBABILITY_EDGE, 1.0 - PROBABILITY_EDGE)
    return float(-np.mean(y * np.log(inside) + (1.0 - y) * np.log1p(-inside)))


def _surprise(y: Floats, p: Floats) -> float:
    """Log loss of one-hot y [n, K]."""
    return float(-np.mean((y * np.log(np.clip(p, PROBABILITY_EDGE, 1.0 - PROBABILITY_EDGE))).sum(axis=1)))


def _squares(errors: Floats) -> float:
    return float(np.mean((errors**2).sum(axis=1)))


def _top(score: Floats) -> NDArray[np.bool_]:
    """The highest tenth, with everything that ties with its last."""
    place = len(score) - max(1, int(np.ceil(TOP_SHARE * len(score))))
    return score >= np.partition(score, place)[place]
