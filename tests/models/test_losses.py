"""Losses of the heads against slow loops, and what a masked head may move."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.models.losses import HeadLosses, UncertaintyWeights, head_losses, ic_loss, list_mle

KINDS = ("rank", "probability", "regression", "rank", "probability", "regression")
Floats = NDArray[np.float64]


def slow_ic(score: Floats, truth: Floats) -> float:
    return 1.0 - float(np.corrcoef(score, truth)[0, 1])


def slow_list_mle(score: Floats, truth: Floats) -> float:
    """Each name against the names whose truth is not above its own."""
    terms = [math.log(sum(math.exp(score[j]) for j in range(len(score)) if truth[j] <= truth[i])) - score[i]
             for i in range(len(score))]  # fmt: skip
    return sum(terms) / len(score)


def slow_log_loss(score: Floats, truth: Floats) -> float:
    p = [1.0 / (1.0 + math.exp(-s)) for s in score]
    return -sum(y * math.log(q) + (1 - y) * math.log(1 - q) for y, q in zip(truth, p, strict=True)) / len(p)


def slow_pinball(score: Floats, truth: Floats, quantile: float) -> float:
    errors = truth - score
    return sum(quantile * e if e >= 0 else (quantile - 1) * e for e in errors) / len(errors)


def session(n: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and truths with holes of their own in every head; ranks have ties."""
    draw = np.random.default_rng(seed)
    raw = draw.normal(0.0, 2.0, (n, len(KINDS)))
    target = draw.normal(size=raw.shape)
    target[:, [0, 3]] = draw.integers(0, 15, (n, 2)) / 15 - 0.5
    target[:, [1, 4]] = draw.random((n, 2)) < 0.3
    target[draw.random(raw.shape) < 0.2] = np.nan
    return torch.tensor(raw, dtype=torch.float32, requires_grad=True), torch.tensor(target, dtype=torch.float32)


@pytest.mark.parametrize("rank_loss", ["ic", "list_mle"])
def test_every_loss_equals_a_loop_over_the_known_names(rank_loss: str) -> None:
    """Pins a mask that leaks into a mean, a head in another head's place, and a tie broken by row order."""
    raw, target = session()
    values, active = head_losses(raw, target, KINDS, rank_loss=rank_loss, quantile=0.3)
    assert active.all()
    for column, kind in enumerate(KINDS):
        truth = target[:, column].double().numpy()
        known = ~np.isnan(truth)
        score, truth = raw[:, column].detach().double().numpy()[known], truth[known]
        slow = {
            "rank": lambda s, y: (slow_ic if rank_loss == "ic" else slow_list_mle)(s, y),
            "probability": slow_log_loss,
            "regression": lambda s, y: slow_pinball(s, y, 0.3),
        }[kind](score, truth)
        assert float(values[column].detach()) == pytest.approx(slow, rel=2e-6)


def test_list_mle_gives_the_published_values() -> None:
    """Pins a likelihood of the reversed order: three names, 0.72087 when scored ideally, 3.72087 when upside down."""
    score, known = torch.tensor([[3.0], [2.0], [1.0]]), torch.ones(3, 1, dtype=torch.bool)
    ideal, reversed_ = torch.tensor([[0.9], [0.5], [0.1]]), torch.tensor([[0.1], [0.5], [0.9]])
    assert 3 * float(list_mle(score, ideal, known)) == pytest.approx(0.72087, abs=1e-5)
    assert 3 * float(list_mle(score, reversed_, known)) == pytest.approx(3.72087, abs=1e-5)


def test_a_tie_asks_for_equal_scores_in_any_row_order() -> None:
    """Pins ties that the order of rows decides, and with them a gradient that invents a preference."""
    truth, known = torch.tensor([[0.2], [0.2], [-0.4], [0.2]]), torch.ones(4, 1, dtype=torch.bool)
    score = torch.zeros(4, 1, requires_grad=True)
    (gradient,) = torch.autograd.grad(list_mle(score, truth, known).sum(), score)
    assert gradient[0] == gradient[1] == gradient[3] < 0 < gradient[2]
    order = torch.tensor([3, 2, 0, 1])
    uneven = torch.tensor([[1.0], [-2.0], [0.5], [0.3]])
    swapped = list_mle(uneven[order], truth[order], known)
    assert float(swapped) == pytest.approx(float(list_mle(uneven, truth, known)), rel=1e-6)


def test_list_mle_survives_scores_that_overflow_an_exponential() -> None:
    """Pins a cumulative sum of exponentials: exp(200) is infinite in float32, and unknown names sit at its far end."""
    score = torch.tensor([[200.0], [-200.0], [0.0], [90.0]], requires_grad=True)
    truth = torch.tensor([[3.0], [1.0], [2.0], [0.0]])
    known = torch.tensor([[True], [True], [True], [False]])
    loss = list_mle(score, truth, known)
    (gradient,) = torch.autograd.grad(loss.sum(), score)
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(gradient).all()
    assert gradient[3] == 0.0


@pytest.mark.parametrize("rank_loss", ["ic", "list_mle"])
def test_heads_without_truth_have_a_zero_gradient(rank_loss: str) -> None:
    """Pins NaN labels that poison a session, and two names that make a correlation of one."""
    raw, target = session()
    target[:, 0] = torch.nan
    target[:, 1] = torch.nan
    target[2:, 3] = torch.nan
    target[:2, 3] = torch.tensor([0.1, 0.2])
    values, active = head_losses(raw, target, KINDS, rank_loss=rank_loss, quantile=0.5)
    assert active.tolist() == [False, False, True, False, True, True]
    assert values[~active].tolist() == [0.0, 0.0, 0.0]
    values.sum().backward()
    assert raw.grad is not None
    assert torch.isfinite(raw.grad).all()
    assert (raw.grad[:, ~active] == 0.0).all()
    assert (raw.grad[torch.isnan(target)] == 0.0).all()
    assert (raw.grad[:, active] != 0.0).any(dim=0).all()


def test_flat_scores_do_not_divide_by_zero() -> None:
    """Pins the first step of a net whose rank head starts at a constant."""
    score = torch.full((10, 1), 0.7, requires_grad=True)
    known = torch.ones(10, 1, dtype=torch.bool)
    loss = ic_loss(score, torch.linspace(-0.5, 0.5, 10)[:, None], known)
    loss.sum().backward()
    assert float(loss.detach()) == pytest.approx(1.0, abs=1e-3)
    assert score.grad is not None
    assert torch.isfinite(score.grad).all()


def test_weights_settle_at_the_losses_they_see() -> None:
    """Pins the factors: e^-s L / 2 + s / 2 is least at s = ln L, e^-s L + s / 2 at s = ln 2 L; both stay within 6."""
    weights = UncertaintyWeights(("rank", "probability", "regression"))
    losses = torch.tensor([0.8, 0.3, 1e-4])
    optimiser = torch.optim.SGD([weights.log_variance], lr=0.5)
    for _ in range(400):
        optimiser.zero_grad()
        weights(HeadLosses(losses, torch.ones(3, dtype=torch.bool))).backward()
        optimiser.step()
    assert weights.log_variance.tolist()[:2] == pytest.approx([math.log(0.8), math.log(0.6)], abs=1e-4)
    weights(HeadLosses(losses, torch.ones(3, dtype=torch.bool)))
    assert weights.log_variance[2].item() == -6.0


def test_a_masked_head_does_not_move_its_weight() -> None:
    """Pins momentum and decay, which would move the log variance of a head that this session knows nothing of."""
    weights = UncertaintyWeights(("rank", "probability"))
    optimiser = torch.optim.AdamW([weights.parameter_group()], lr=0.01, weight_decay=0.5)
    both, first = torch.tensor([True, True]), torch.tensor([True, False])
    for active in (both, both, first):
        before = weights.log_variance.detach().clone()
        optimiser.zero_grad()
        weights(HeadLosses(torch.where(active, 0.4, 0.0), active)).backward()
        optimiser.step()
    assert weights.log_variance[1] == before[1]
    assert weights.log_variance[0] != before[0]
