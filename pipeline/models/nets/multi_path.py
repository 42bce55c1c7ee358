"""The multi-path net: minute bars, daily sequence and cross-section, modulated by the market's regime.

What lives here: how the blocks are wired. Not here: the blocks themselves, the training loop, the arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import BadInput, SchemaError
from pipeline.models.nets.blocks import AttentionPool, BarEncoder, FiLM, Tower, perceptron
from pipeline.models.spec import FilmPlace, MultiPathNetSpec


@dataclass(frozen=True)
class Shape:
    """Sizes that are known only with the data.

    Parameters
    ----------
    features : int
        Columns of `x`.
    columns : dict
        Feature -> column of `x`.
    daily : int
        Channels of the daily window, the presence last; 0 when it is off.
    bars, channels : int
        Bars a session, and channels per bar, the presence last; 0 when they are off.
    vocabulary : dict
        Category -> number of codes, code 0 the unknown one; in the order of the columns of `codes`.
    heads : int
    """

    features: int
    columns: dict[str, int]
    daily: int
    bars: int
    channels: int
    vocabulary: dict[str, int]
    heads: int


class MultiPathNet(nn.Module):
    """Raw head values: logits for probabilities, standardised regressions, ranks of free scale.

    Parameters
    ----------
    spec : MultiPathNetSpec
    shape : Shape

    Raises
    ------
    SchemaError
        A feature or category that the spec names and the data lack.
    BadInput
        More sessions of bars than the daily window has.
    """

    def __init__(self, spec: MultiPathNetSpec, shape: Shape) -> None:
        super().__init__()
        self.spec, self.shape = spec, shape
        self.regime = Columns(spec.regime if spec.film else (), shape.columns)
        self.intraday = IntradayPath(spec, shape) if spec.intraday else None
        self.daily = DailyPath(spec, shape) if spec.daily else None
        alone = spec.intraday if not spec.daily else None
        self.alone = nn.Linear(alone.sessions * (spec.hidden + 1), spec.hidden) if alone else None
        self.cross = CrossSectionPath(spec, shape) if spec.towers else None
        self.execution = ExecutionContext(spec, shape) if spec.execution else None
        parts = (self.intraday or self.daily, self.cross, self.execution)
        width = spec.hidden * sum(part is not None for part in parts)
        self.norm = nn.LayerNorm(width)
        self.film = modulation(spec, "trunk", width)
        self.trunk = nn.Sequential(nn.Dropout(spec.dropout), nn.Linear(width, spec.hidden), nn.SiLU())
        self.heads = nn.Linear(spec.hidden, shape.heads)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that `forward` takes, in its order."""
        layout = self.spec.layout
        on = {"daily": layout.daily, "bars": layout.intraday_sessions, "codes": layout.categories}
        return ("x", *(name for name, part in on.items() if part))

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        """Raw values of n rows.

        Parameters
        ----------
        x : Tensor [n, F]
        rest : Tensor
            The parts that are on, as named by `inputs`: daily [n, W, B + 1], bars [n, D, T, C + 1] with absent bars
            all 0, codes int64 [n, K]. Everything finite.

        Returns
        -------
        Tensor [n, H]
        """
        part = dict(zip(self.inputs[1:], rest, strict=True))
        regime = self.regime(x)
        tokens = self.intraday(part["bars"], regime) if self.intraday is not None else None
        embeddings = []
        if self.daily is not None:
            embeddings.append(self.daily(part["daily"], tokens, regime))
        if self.alone is not None and tokens is not None:
            embeddings.append(functional.silu(self.alone(tokens.flatten(1))))
        if self.cross is not None:
            embeddings.append(self.cross(x, part.get("codes"), regime))
        if self.execution is not None:
            embeddings.append(self.execution(x, regime))
        fused = self.film(self.norm(torch.cat(embeddings, dim=1)), regime)
        return torch.as_tensor(self.heads(self.trunk(fused)))

    def extra_repr(self) -> str:
        return f"{self.spec!r}, {self.shape!r}"


class IntradayPath(nn.Module):
    """Path A: bars of recent sessions -> one modulated token per stock-day, then whether that day has any bar."""

    def __init__(self, spec: MultiPathNetSpec, shape: Shape) -> None:
        super().__init__()
        assert spec.intraday is not None
        self.encode = BarEncoder(shape.bars, shape.channels, spec.intraday.kernels, spec.intraday.width, spec.hidden)
        self.film = modulation(spec, "intraday", spec.hidden)

    def forward(self, bars: Tensor, regime: Tensor) -> Tensor:
        """[n, D, T, C + 1] -> [n, D, hidden + 1]."""
        tokens, seen = self.encode(bars)
        return torch.cat([self.film(tokens, regime), seen.unsqueeze(2).to(tokens.dtype)], dim=2)


class DailyPath(nn.Module):
    """Path B: the daily window, Path A's tokens on its newest steps, read by a GRU and pooled over present sessions.

    What enters the GRU also passes it by, and the row's own session is added to the pool: a mean over 20 sessions
    alone lets a twentieth of today's bars through, and took three epochs to learn what now takes one.
    """

    def __init__(self, spec: MultiPathNetSpec, shape: Shape) -> None:
        super().__init__()
        assert spec.daily is not None
        hidden, bars = spec.hidden, spec.intraday
        if bars and bars.sessions > spec.daily.window:
            observed = f"{bars.sessions} sessions of bars in a window of {spec.daily.window}"
            raise BadInput("bars lie inside the daily window", observed, "read fewer sessions or widen the window")
        self.project = perceptron(shape.daily, hidden, hidden)
        self.fuse = nn.Linear(2 * hidden + 1, hidden) if bars else None
        self.recur = nn.GRU(hidden, hidden, batch_first=True)
        self.film = modulation(spec, "daily", hidden)
        self.pool = AttentionPool(hidden)

    def forward(self, daily: Tensor, tokens: Tensor | None, regime: Tensor) -> Tensor:
        """[n, W, B + 1], [n, D, hidden + 1] -> [n, hidden]."""
        steps = self.project(daily)
        if self.fuse is not None and tokens is not None:
            aligned = functional.pad(tokens, (0, 0, daily.shape[1] - tokens.shape[1], 0))
            steps = self.fuse(torch.cat([steps, aligned], dim=2))
        states = self.film(steps + self.recur(functional.silu(steps))[0], regime)
        return torch.as_tensor(self.pool(states, daily[..., -1] > 0) + states[:, -1])


class CrossSectionPath(nn.Module):
    """Path C: a tower per theme, then a post tower over all features and what the towers gave."""

    def __init__(self, spec: MultiPathNetSpec, shape: Shape) -> None:
        super().__init__()
        place = {name: i for i, name in enumerate(shape.vocabulary)}
        self.numeric = nn.ModuleList(Columns(tower.features, shape.columns) for tower in spec.towers)
        self.coded = nn.ModuleList(Columns(tower.categories, place) for tower in spec.towers)
        self.towers = nn.ModuleList(
            Tower(len(tower.features), [shape.vocabulary[c] for c in tower.categories], spec.embedding, spec.hidden)
            for tower in spec.towers
        )
        self.films = nn.ModuleList(modulation(spec, "towers", spec.hidden) for _ in spec.towers)
        self.post = perceptron(shape.features + len(spec.towers) * spec.hidden, 2 * spec.hidden, spec.hidden)
        self.post_film = modulation(spec, "towers", spec.hidden)

    def forward(self, x: Tensor, codes: Tensor | None, regime: Tensor) -> Tensor:
        """[n, F], int64 [n, K] -> [n, hidden]."""
        outputs = []
        for numeric, coded, tower, film in zip(self.numeric, self.coded, self.towers, self.films, strict=True):
            own = None if codes is None else coded(codes)
            outputs.append(film(tower(numeric(x), own), regime))
        return torch.as_tensor(self.post_film(self.post(torch.cat([x, *outputs], dim=1)), regime))


class ExecutionContext(nn.Module):
    """What an order would meet tomorrow, embedded from a few features."""

    def __init__(self, spec: MultiPathNetSpec, shape: Shape) -> None:
        super().__init__()
        self.select = Columns(spec.execution, shape.columns)
        self.embed = perceptron(len(spec.execution), spec.hidden, spec.hidden)
        self.film = modulation(spec, "execution", spec.hidden)

    def forward(self, x: Tensor, regime: Tensor) -> Tensor:
        """[n, F] -> [n, hidden]."""
        return torch.as_tensor(self.film(self.embed(self.select(x)), regime))


class Columns(nn.Module):
    """Columns of a table, chosen by name."""

    index: Tensor

    def __init__(self, names: Sequence[str], columns: Mapping[str, int]) -> None:
        super().__init__()
        unknown = [name for name in names if name not in columns]
        if unknown:
            raise SchemaError("a net reads what the data hold", f"missing {unknown}", "correct the member's spec")
        chosen = torch.tensor([columns[name] for name in names], dtype=torch.int64)
        self.register_buffer("index", chosen, persistent=False)

    def forward(self, table: Tensor) -> Tensor:
        return torch.index_select(table, 1, self.index)


class Unmodulated(nn.Module):
    """A place that the regime leaves alone."""

    def forward(self, x: Tensor, regime: Tensor) -> Tensor:
        return x


def modulation(spec: MultiPathNetSpec, place: FilmPlace, width: int) -> nn.Module:
    """FiLM where the spec asks for it."""
    return FiLM(len(spec.regime), width, spec.film_bound) if place in spec.film else Unmodulated()
