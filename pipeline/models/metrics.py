"""How good raw scores are, head by head, beside the constant predictor fitted on the fit rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.models.examples import Examples
from pipeline.models.kernels import centred_ranks

MIN_NAMES = 3  # a rank correlation of two names is +-1

Metrics = dict[str, float | int | str | None]


def member_metrics(examples: Examples, index: NDArray[np.int64], scores: NDArray[np.float32]) -> dict[str, Metrics]:
    """Head -> metrics on the rows `index`, whose scores are float32 [len(index), H]; null where undefined."""
    session = examples.inputs.session_index[index]
    out: dict[str, Metrics] = {}
    for column, head in enumerate(examples.heads):
        truth = examples.targets[index, column]
        known = ~np.isnan(truth)
        measured: Metrics = {"rows": int(known.sum()), "constant": head.baseline, "reason": head.reason}
        if known.any():
            measure = _probability if head.kind == "probability" else _deviation
            y, p = truth[known].astype(np.float64), scores[known, column].astype(np.float64)
            measured |= measure(y, p, head.baseline)
            measured |= _rank(truth[known], scores[known, column], session[known])
        out[head.name] = measured
    return out


def session_rank_ic(
    truth: NDArray[np.float32], score: NDArray[np.float32], session: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Spearman correlation (average ties) of each session of three names or more; NaN where a side is flat.

    Parameters
    ----------
    truth, score : float32 [n]
    session : int32 [n]
        Ascending.
    """
    if not len(session):
        return np.empty(0)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(session)) + 1, [len(session)]]).astype(np.int64)
    ranks = np.empty((len(session), 2), np.float32)
    pair = np.asfortranarray(np.column_stack([truth, score]).astype(np.float32))
    centred_ranks(pair.view(np.uint32), starts, ranks)
    a, b = ranks.astype(np.float64).T
    products = [np.add.reduceat(values, starts[:-1]) for values in (a * b, a * a, b * b)]
    with np.errstate(invalid="ignore", divide="ignore"):
        ic = products[0] / np.sqrt(products[1] * products[2])
    return np.asarray(ic[np.diff(starts) >= MIN_NAMES])


def _rank(truth: NDArray[np.float32], score: NDArray[np.float32], session: NDArray[np.int32]) -> Metrics:
    ic = session_rank_ic(truth, score, session)
    ic = ic[np.isfinite(ic)]
    if ic.size < 2:
        return {"rank_ic": None, "rank_ic_deviation": None, "sessions": int(ic.size)}
    return {
        "rank_ic": float(ic.mean()),
        "rank_ic_deviation": float(ic.std(ddof=1)),
        "sessions": int(ic.size),
    }


def _probability(y: NDArray[np.float64], p: NDArray[np.float64], constant: float) -> Metrics:
    return {
        "positives": int(y.sum()),
        "brier": float(np.mean((p - y) ** 2)),
        "brier_constant": float(np.mean((constant - y) ** 2)),
        "auc": auc(y, p),
    }


def _deviation(y: NDArray[np.float64], p: NDArray[np.float64], constant: float) -> Metrics:
    return {"mae": float(np.mean(np.abs(p - y))), "mae_constant": float(np.mean(np.abs(constant - y)))}


def auc(y: NDArray[np.float64], p: NDArray[np.float64]) -> float | None:
    """Share of (positive, negative) pairs in the right order, ties half (Mann-Whitney)."""
    positives = int(y.sum())
    if positives in (0, len(y)):
        return None
    _, place, counts = np.unique(p, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - 0.5 * (counts - 1))[place]
    pairs = positives * (len(y) - positives)
    return float((rank[y == 1.0].sum() - positives * (positives + 1) / 2) / pairs)
