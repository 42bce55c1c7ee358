"""Training losses per head kind, masked where a head has no truth. One call is one session."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, huber_loss

MIN_NAMES = 3  # a correlation of two names is +-1 whatever they are
VARIANCE_FLOOR = 1e-8  # keeps the correlation's gradient finite when a side is flat


def ic_loss(score: Tensor, target: Tensor) -> Tensor:
    """1 - Pearson correlation of one session; with rank targets, one minus a smooth rank IC.

    Parameters
    ----------
    score, target : Tensor [n]
    """
    a, b = score - score.mean(), target - target.mean()
    return 1.0 - (a * b).sum() / torch.sqrt(a.square().sum() * b.square().sum() + VARIANCE_FLOOR)


def session_loss(raw: Tensor, target: Tensor, kinds: Sequence[str]) -> Tensor:
    """Sum over heads: IC for ranks, log loss for probabilities, Huber for regressions.

    Parameters
    ----------
    raw : Tensor [n, H]
        Logits in the probability columns; standardised in the regression columns.
    target : Tensor [n, H]
        NaN where there is no truth.
    kinds : sequence of str
        Kind of each head.
    """
    total = raw.sum() * 0.0  # a session without any truth has a zero gradient, not none
    for column, kind in enumerate(kinds):
        known = ~torch.isnan(target[:, column])
        if int(known.sum()) < (MIN_NAMES if kind == "rank" else 1):
            continue
        score, truth = raw[known, column], target[known, column]
        if kind == "rank":
            total = total + ic_loss(score, truth)
        elif kind == "probability":
            total = total + binary_cross_entropy_with_logits(score, truth)
        else:
            total = total + huber_loss(score, truth)
    return total
