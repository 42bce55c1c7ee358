"""Training losses of the heads of one session, masked where there is no truth, and how they are weighed.

Every loss works on columns: scores and truths [n, K], `known` [n, K], values [K]. What is not known enters no sum, so
that its gradient is exactly zero; nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

MIN_NAMES = 3  # a correlation of two names is +-1 whatever they are
VARIANCE_FLOOR = 1e-8  # keeps the correlation's gradient finite when a side is flat
LOG_VARIANCE_BOUND = 6.0


class HeadLosses(NamedTuple):
    """Losses of one session.

    Parameters
    ----------
    values : Tensor [H]
        Exactly 0, with a zero gradient, where a head is not active.
    active : Tensor, bool [H]
        Heads with enough truth: three names for ranks, one elsewhere.
    """

    values: Tensor
    active: Tensor


def head_losses(raw: Tensor, target: Tensor, kinds: Sequence[str], *, rank_loss: str, quantile: float) -> HeadLosses:
    """Listwise loss for ranks, log loss for probabilities, pinball loss for regressions.

    Parameters
    ----------
    raw : Tensor [n, H]
        Logits in the probability columns; standardised in the regression columns.
    target : Tensor [n, H]
        NaN where there is no truth.
    kinds : sequence of str [H]
        `rank`, `probability` or `regression`.
    rank_loss : str
        `ic` or `list_mle`.
    quantile : float
        What the pinball loss asks for.
    """
    known = ~torch.isnan(target)
    truth = torch.where(known, target, 0.0)
    values: list[Tensor] = [raw.new_zeros(())] * len(kinds)
    for kind in dict.fromkeys(kinds):
        columns = [i for i, own in enumerate(kinds) if own == kind]
        part = raw[:, columns].float(), truth[:, columns].float(), known[:, columns]
        if kind == "rank":
            losses = ic_loss(*part) if rank_loss == "ic" else list_mle(*part)
        elif kind == "probability":
            losses = log_loss(*part)
        else:
            losses = pinball(*part, quantile)
        for column, loss in zip(columns, losses.unbind(), strict=True):
            values[column] = loss
    active = known.sum(dim=0) >= torch.tensor(least_names(kinds), device=raw.device)
    return HeadLosses(torch.where(active, torch.stack(values), 0.0), active)


def least_names(kinds: Sequence[str]) -> list[int]:
    """How many names with truth each head's loss needs."""
    return [MIN_NAMES if kind == "rank" else 1 for kind in kinds]


def ic_loss(score: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """1 - Pearson correlation; with rank targets, one minus a smooth rank IC. In [0, 2]."""
    a, b = _centred(score, known), _centred(truth, known)
    norm = torch.sqrt(a.square().sum(dim=0) * b.square().sum(dim=0) + VARIANCE_FLOOR)
    return 1.0 - (a * b).sum(dim=0) / norm


def list_mle(score: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Mean negative log likelihood of the true order under Plackett-Luce (Xia et al., ICML 2008).

    Ties are Breslow's, as in Cox regression: each member of a tie competes with the whole tie and with all below it.
    So a tie asks for equal scores, and neither chance nor the order of rows enters.
    """
    lowest = torch.finfo(score.dtype).min
    order = torch.where(known, truth, -torch.inf).argsort(dim=0, descending=True, stable=True)
    ranked = torch.where(known, score, lowest / 2).gather(0, order)
    sorted_truth, sorted_known = truth.gather(0, order), known.gather(0, order)
    remaining = torch.logcumsumexp(ranked.flip(0), dim=0).flip(0)
    place = torch.arange(len(score), device=score.device).unsqueeze(1)
    opens = torch.ones_like(sorted_known)
    opens[1:] = sorted_truth[1:] != sorted_truth[:-1]
    first = torch.where(opens, place, 0).cummax(dim=0).values
    terms = torch.where(sorted_known, remaining.gather(0, first) - ranked, 0.0)
    return terms.sum(dim=0) / _count(known)


def log_loss(score: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits."""
    return _mean(functional.binary_cross_entropy_with_logits(score, truth, reduction="none"), known)


def pinball(score: Tensor, truth: Tensor, known: Tensor, quantile: float) -> Tensor:
    """Mean of max(q e, (q - 1) e) with e = truth - score (Koenker and Bassett 1978)."""
    error = truth - score
    return _mean(torch.maximum(quantile * error, (quantile - 1.0) * error), known)


class UncertaintyWeights(nn.Module):
    """Heads weighed by learned uncertainty (Kendall et al. 2018, arXiv 1705.07115).

    e^-s L / 2 + s / 2 for ranks and regressions, e^-s L + s / 2 for probabilities; s is a log variance in +-6.

    Parameters
    ----------
    kinds : sequence of str [H]
    """

    scale: Tensor

    def __init__(self, kinds: Sequence[str]) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(len(kinds)))
        scale = torch.tensor([1.0 if kind == "probability" else 0.5 for kind in kinds])
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, losses: HeadLosses) -> Tensor:
        """Total of the active heads; it needs losses that are not negative."""
        with torch.no_grad():  # a clamp inside the graph would leave s stuck once it is out
            self.log_variance.clamp_(-LOG_VARIANCE_BOUND, LOG_VARIANCE_BOUND)
        s = self.log_variance
        weighed = self.scale * torch.exp(-s) * losses.values + 0.5 * s
        return torch.where(losses.active, weighed, 0.0).sum()

    def parameter_group(self) -> dict[str, object]:
        """For AdamW: no decay, and no momentum, which would go on moving a head that this session masks."""
        return {"params": [self.log_variance], "weight_decay": 0.0, "betas": (0.0, 0.999)}


def _count(known: Tensor) -> Tensor:
    return known.sum(dim=0).clamp(min=1)


def _mean(values: Tensor, known: Tensor) -> Tensor:
    return torch.where(known, values, 0.0).sum(dim=0) / _count(known)


def _centred(values: Tensor, known: Tensor) -> Tensor:
    return torch.where(known, values - _mean(values, known), 0.0)
