"""A GRU over the daily window beside an MLP over the day's cross-section, one trunk, one output per head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.fingerprints import hash_bytes, hash_json
from pipeline.models.examples import Examples, Head
from pipeline.models.export import LOGIT_EDGE, network_graph
from pipeline.models.family import Fitted, Objective, Progress
from pipeline.models.onnx_runtime import FILE
from pipeline.models.spec import SequenceNetSpec, TrainingSpec
from pipeline.models.training import Schedule, replayable, tensors, train


class SequenceNet(nn.Module):
    """Raw head values: logits for probabilities, standardised regressions, ranks of free scale.

    Parameters
    ----------
    features, channels : int
        Columns of `x`, and channels of a window (presence included).
    heads : int
    hidden : int
        Width of the window's state, of the cross-section's embedding and of the trunk.
    dropout : float
        On the fused embedding, in training only.
    """

    def __init__(self, features: int, channels: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(channels, hidden), nn.SiLU())
        self.recur = nn.GRU(hidden, hidden, batch_first=True)
        self.attend = nn.Linear(hidden, 1)
        self.cross = nn.Sequential(nn.Linear(features, 2 * hidden), nn.SiLU(), nn.Linear(2 * hidden, hidden))
        self.trunk = nn.Sequential(
            nn.LayerNorm(2 * hidden), nn.Dropout(dropout), nn.Linear(2 * hidden, hidden), nn.SiLU()
        )
        self.heads = nn.Linear(hidden, heads)

    def forward(self, x: Tensor, sequence: Tensor) -> Tensor:
        """[n, F], [n, window, C] -> [n, H]."""
        states, _ = self.recur(self.project(sequence))
        weights = torch.softmax(self.attend(states), dim=1)
        token = (weights * states).sum(dim=1)
        return torch.as_tensor(self.heads(self.trunk(torch.cat([token, self.cross(x)], dim=1))))


class Served(nn.Module):
    """Raw head values as they are served: probabilities in (0, 1), regressions in their own unit.

    Parameters
    ----------
    network : Module
    probability : sequence of bool [H]
    location, spread : float32 [H]
        Of the regression heads' labels on the fit rows; 0 and 1 elsewhere.
    """

    def __init__(
        self,
        network: nn.Module,
        probability: Sequence[bool],
        location: NDArray[np.float32],
        spread: NDArray[np.float32],
    ) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("probability", torch.tensor(probability))
        self.register_buffer("location", torch.from_numpy(location))
        self.register_buffer("spread", torch.from_numpy(spread))

    def forward(self, x: Tensor, sequence: Tensor) -> Tensor:
        raw = self.network(x, sequence)
        risen = torch.sigmoid(torch.clamp(raw, -LOGIT_EDGE, LOGIT_EDGE))
        own_unit = raw * self.get_buffer("spread") + self.get_buffer("location")
        return torch.where(self.get_buffer("probability"), risen, own_unit)


def fit(
    spec: SequenceNetSpec,
    training: TrainingSpec,
    examples: Examples,
    *,
    workdir: Path,
    objective: Objective | None,
    progress: Progress,
) -> Fitted:
    """Train on whole sessions, keep the best epoch, export it for a fixed batch."""
    heads = [examples.heads[i] for i in examples.learned]
    location, spread = _units(examples, heads)
    targets = (examples.targets[:, examples.learned] - location) / spread
    schedule = Schedule(spec.epochs, spec.learning_rate, spec.weight_decay, training.seed)
    with replayable(training.seed, training.net_threads):
        network = _network(spec, examples, heads)
        served = Served(network, [head.kind == "probability" for head in heads], location, spread)
        folder = workdir / _identity(spec, training, examples)
        curves = train(
            network, served, examples, targets, schedule,
            folder=folder, objective=objective, progress=progress,
        )  # fmt: skip
        padding = np.zeros(training.serving_batch, np.int64)
        example = tuple(torch.zeros_like(part) for part in tensors(examples.inputs, padding))
        graph = network_graph(served, example, ("x", "sequence"))
    return Fitted({FILE: graph}, curves)


def _network(spec: SequenceNetSpec, examples: Examples, heads: Sequence[Head]) -> SequenceNet:
    """Fresh weights; probability heads start at their prevalence, which takes rare ones epochs to reach."""
    inputs = examples.inputs
    network = SequenceNet(inputs.x.shape[1], inputs.sequence.shape[2], len(heads), spec.hidden, spec.dropout)
    with torch.no_grad():
        for column, head in enumerate(heads):
            p = head.baseline
            network.heads.bias[column] = float(np.log(p / (1.0 - p))) if head.kind == "probability" else 0.0
    return network


def _units(examples: Examples, heads: Sequence[Head]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and deviation of the regression heads on the fit rows: Huber's bend needs labels of unit size."""
    location, spread = np.zeros(len(heads), np.float32), np.ones(len(heads), np.float32)
    fit_rows = examples.rows("fit")
    for place, (column, head) in enumerate(zip(examples.learned, heads, strict=True)):
        if head.kind == "regression":
            known = examples.targets[fit_rows, column].astype(np.float64)
            location[place], spread[place] = np.nanmean(known), np.nanstd(known)
    return location, spread


def _identity(spec: SequenceNetSpec, training: TrainingSpec, examples: Examples) -> str:
    """Everything that shapes the weights: a checkpoint of another training is never picked up."""
    inputs = examples.inputs
    arrays = (inputs.x, inputs.sequence, inputs.session_index, inputs.instrument_index, examples.targets)
    hashes = [hash_bytes(np.ascontiguousarray(array).tobytes()) for array in arrays]
    return hash_json([spec, training, [*examples.role], hashes])
