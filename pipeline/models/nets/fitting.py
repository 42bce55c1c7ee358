"""Fitting the multi-path net on one split: from its spec and examples to files that serve it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.fingerprints import hash_bytes, hash_json
from pipeline.models.examples import Examples, Head
from pipeline.models.export import network_graph
from pipeline.models.family import Fitted, Objective, Progress
from pipeline.models.nets.multi_path import MultiPathNet, Shape
from pipeline.models.nets.served import Served
from pipeline.models.onnx_runtime import FILE
from pipeline.models.spec import MultiPathNetSpec, TrainingSpec
from pipeline.models.training import Recipe, Trained, accelerator_of, precision_of, replayable, train

CODES = 8  # embedding tables grow in steps: splits whose vocabularies differ by a few share one traced graph


def fit(
    spec: MultiPathNetSpec,
    training: TrainingSpec,
    examples: Examples,
    *,
    workdir: Path,
    objective: Objective | None,
    progress: Progress,
) -> Fitted:
    """Train on whole sessions, choose the epoch on tune rows, export every epoch for a fixed batch."""
    heads = [examples.heads[i] for i in examples.learned]
    location, spread = _units(examples, heads)
    targets = (examples.targets[:, examples.learned] - location) / spread
    recipe = _recipe(spec, training)
    with replayable(training.seed, training.net_threads):
        network = network_of(spec, examples)
        served = Served(network, [head.kind == "probability" for head in heads], location, spread)
        folder = workdir / _identity(spec, training, recipe, examples)
        trained = train(served, examples, targets, recipe, folder=folder, objective=objective, progress=progress)
        checkpoints = _exported(served, trained, examples, training.serving_batch)
    chosen = checkpoints[_epoch_file(trained.chosen)]
    return Fitted({FILE: chosen}, trained.curves, checkpoints, _notes(recipe, trained, spec))


def network_of(spec: MultiPathNetSpec, examples: Examples) -> MultiPathNet:
    """Fresh weights for the shapes of the data; probability heads start at their prevalence, which takes rare ones
    epochs to reach."""
    inputs, heads = examples.inputs, [examples.heads[i] for i in examples.learned]
    normaliser = inputs.normaliser
    shape = Shape(
        features=len(normaliser.schema),
        columns={name: i for i, name in enumerate(normaliser.schema)},
        daily=len(inputs.layout.daily) + 1 if inputs.layout.daily else 0,
        bars=normaliser.bars,
        channels=len(normaliser.channels) + 1 if normaliser.channels else 0,
        vocabulary={name: -(-(len(seen) + 1) // CODES) * CODES for name, seen in normaliser.vocabulary.items()},
        heads=len(heads),
    )
    network = MultiPathNet(spec, shape)
    with torch.no_grad():
        for column, head in enumerate(heads):
            p = head.baseline
            network.heads.bias[column] = float(np.log(p / (1.0 - p))) if head.kind == "probability" else 0.0
    return network


def _recipe(spec: MultiPathNetSpec, training: TrainingSpec) -> Recipe:
    accelerator = accelerator_of(training.device)
    return Recipe(
        epochs=spec.epochs,
        learning_rate=spec.learning_rate,
        weight_decay=spec.weight_decay,
        rank_loss=spec.rank_loss,
        quantile=spec.quantile,
        uncertainty_weighting=spec.uncertainty_weighting,
        select=spec.select,
        accelerator=accelerator,
        precision=precision_of(spec.precision, accelerator),
        seed=training.seed,
    )


def _exported(served: Served, trained: Trained, examples: Examples, batch: int) -> dict[str, bytes]:
    """`epoch_003.onnx` -> the graph that this epoch would serve; the network is left at the chosen one."""
    first = examples.inputs.tensors(np.zeros(batch, np.int64))
    example = tuple(torch.zeros_like(torch.from_numpy(part)) for part in first.values())
    files = {}
    for epoch, weights in enumerate(trained.epochs):
        served.network.load_state_dict(weights)
        files[_epoch_file(epoch)] = network_graph(served, example, tuple(first))
    served.network.load_state_dict(trained.epochs[trained.chosen])
    return files


def _epoch_file(epoch: int) -> str:
    return f"epoch_{epoch:03d}.onnx"


def _notes(recipe: Recipe, trained: Trained, spec: MultiPathNetSpec) -> dict[str, object]:
    paths = {"A": spec.intraday, "B": spec.daily, "C": spec.towers, "FiLM": spec.film}
    return {
        "device": recipe.accelerator,
        "precision": recipe.precision,
        "paths": [name for name, on in paths.items() if on],
        "selected_by": recipe.select,
        "epoch": trained.chosen,
        "epoch_by_objective": trained.by_objective,
        "epoch_by_loss": trained.by_loss,
    }


def _units(examples: Examples, heads: Sequence[Head]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and deviation of the regression heads on the fit rows: their loss is weighed against the other heads'."""
    location, spread = np.zeros(len(heads), np.float32), np.ones(len(heads), np.float32)
    fit_rows = examples.rows("fit")
    for place, (column, head) in enumerate(zip(examples.learned, heads, strict=True)):
        if head.kind == "regression":
            known = examples.targets[fit_rows, column].astype(np.float64)
            location[place], spread[place] = np.nanmean(known), np.nanstd(known)
    return location, spread


def _identity(spec: MultiPathNetSpec, training: TrainingSpec, recipe: Recipe, examples: Examples) -> str:
    """Everything that shapes the weights: a checkpoint of another training is never picked up."""
    inputs = examples.inputs
    arrays = (inputs.index, examples.targets)
    hashes = [hash_bytes(np.ascontiguousarray(array).tobytes()) for array in arrays]
    known = inputs.normaliser.to_json().decode()
    return hash_json([spec, training, asdict(recipe), inputs.store.identity, known, [*examples.role], hashes])
