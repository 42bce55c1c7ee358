"""Building blocks of nets: FiLM, masked attention pooling, the encoder of minute bars, towers.

What lives here: modules that know tensors only. Not here: which of them a study switches on (`multi_path`), losses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class FiLM(nn.Module):
    """Feature-wise linear modulation with bounded coefficients (Perez et al. 2018, arXiv 1709.07871).

    `gamma * x + beta` with gamma = 1 + bound tanh(W r + b) and beta = bound tanh(V r + c). All weights start at 0, so
    a fresh block is the identity, bit for bit, and draws nothing from the random state.

    Parameters
    ----------
    regime : int
        Descriptors of the regime.
    width : int
        Features that are modulated.
    bound : float
        gamma stays in 1 +- bound, beta in +- bound.
    """

    def __init__(self, regime: int, width: int, bound: float) -> None:
        super().__init__()
        self.bound = bound
        self.weight = nn.Parameter(torch.zeros(2 * width, regime))
        self.bias = nn.Parameter(torch.zeros(2 * width))

    def forward(self, x: Tensor, regime: Tensor) -> Tensor:
        """[n, ..., width], [n, R] -> [n, ..., width]; every step of a row is modulated alike."""
        bounded = self.bound * torch.tanh(functional.linear(regime, self.weight, self.bias))
        scale, shift = bounded.reshape(len(x), *[1] * (x.dim() - 2), -1).chunk(2, dim=-1)
        return (1.0 + scale) * x + shift

    def extra_repr(self) -> str:
        return f"regime={self.weight.shape[1]}, width={len(self.bias) // 2}, bound={self.bound}"


class AttentionPool(nn.Module):
    """Weighted means over time, one per head; steps that are absent weigh nothing.

    Parameters
    ----------
    width, heads : int
    """

    def __init__(self, width: int, heads: int = 1) -> None:
        super().__init__()
        self.score = nn.Linear(width, heads)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """[n, T, width], bool [n, T] -> [n, heads * width]; without any step present, plain means."""
        score = self.score(x)
        score = score.masked_fill(~present.unsqueeze(-1), torch.finfo(score.dtype).min)
        weight = torch.softmax(score, dim=1).to(x.dtype)
        return (weight.transpose(1, 2) @ x).flatten(1)


class BarEncoder(nn.Module):
    """Minute bars of some sessions -> one token per stock-day.

    Parallel convolutions gated by others (van den Oord et al. 2016, Dauphin et al. 2017), so that a product of two
    channels, such as return x volume share, is one filter: `profile * value * tanh(gate + place)`. Place and profile
    are learned per filter and bar of the session, since time of day matters: a product that counts in the last quarter
    alone was learned to 0.35 of its rank IC without the profile, to 0.60 with it. The sum over bars is divided by the
    root of their number: a mean of 48 bars lets too little of a faint signal through.

    Parameters
    ----------
    bars, channels : int
        Bars a session; channels per bar, the presence last.
    kernels : sequence of int
        Odd widths in bars.
    width : int
        Filters per kernel.
    hidden : int
        Width of a token.
    heads : int
        Attention poolings, beside the sum over the bars that are present.
    """

    def __init__(
        self, bars: int, channels: int, kernels: Sequence[int], width: int, hidden: int, heads: int = 2
    ) -> None:
        super().__init__()
        filters = len(kernels) * width
        self.branches = nn.ModuleList(nn.Conv1d(channels, 2 * width, kernel, padding=kernel // 2) for kernel in kernels)
        self.place = nn.Parameter(torch.zeros(filters, bars))
        self.profile = nn.Parameter(torch.ones(filters, bars))
        self.pool = AttentionPool(filters, heads)
        self.token = nn.Linear((heads + 1) * filters, hidden)
        self.absent = nn.Parameter(torch.zeros(hidden))

    def forward(self, bars: Tensor) -> tuple[Tensor, Tensor]:
        """[n, D, T, C + 1] -> tokens [n, D, hidden] and bool [n, D]: the stock-days that have a bar at all."""
        n, sessions = bars.shape[:2]
        flat = bars.flatten(0, 1)
        present = flat[..., -1] > 0
        series = flat.transpose(1, 2)
        halves = [branch(series).chunk(2, dim=1) for branch in self.branches]
        value, gate = (torch.cat(half, dim=1) for half in zip(*halves, strict=True))
        states = (self.profile * value * torch.tanh(gate + self.place)).transpose(1, 2)
        weight = present.to(states.dtype).unsqueeze(1)
        total = (weight @ states).squeeze(1) / weight.sum(dim=2).clamp(min=1.0).sqrt()
        token = self.token(torch.cat([self.pool(states, present), total], dim=1))
        seen = present.any(dim=1)
        token = torch.where(seen.unsqueeze(1), token, self.absent)
        return token.reshape(n, sessions, -1), seen.reshape(n, sessions)


class Tower(nn.Module):
    """Numeric features and embedded categories of one session -> an embedding.

    Parameters
    ----------
    features : int
        Numeric features.
    codes : sequence of int
        Number of codes of each category. Code 0, the unknown one, starts at zero: unseen in training, it says nothing.
    embedding, hidden : int
        Width of a category's embedding, and of the result.
    """

    def __init__(self, features: int, codes: Sequence[int], embedding: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Embedding(size, embedding) for size in codes)
        with torch.no_grad():
            for table in self.embed.parameters():
                table.normal_(std=0.1)[0] = 0.0
        self.mlp = perceptron(features + embedding * len(codes), hidden, hidden)

    def forward(self, numeric: Tensor, codes: Tensor | None = None) -> Tensor:
        """[n, features], int64 [n, categories] -> [n, hidden]."""
        embedded = [] if codes is None else [table(codes[:, i]) for i, table in enumerate(self.embed)]
        return torch.as_tensor(self.mlp(torch.cat([numeric, *embedded], dim=1)))


def perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))
