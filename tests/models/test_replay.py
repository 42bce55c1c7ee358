"""The same study trains to the same bytes: in another process, and after a kill."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.errors import SchemaError
from pipeline.models.examples import Examples, learnable_heads, roles_of, targets_of
from pipeline.models.inputs import fit_normaliser, inputs_of
from pipeline.models.members import FittedMember, fit_member
from pipeline.models.nets.fitting import _identity, _recipe
from pipeline.models.spec import MultiPathNetSpec, TrainingSpec
from tests.models.small_market import HEADS, MEMBERS, TRAINING, small_market

NET = MEMBERS[2]
KILLED = 9


def train(folder: Path, spec=NET, progress=lambda what, share: None, training=TRAINING) -> FittedMember:
    market = small_market()
    return fit_member(
        spec, training, HEADS, market.prepared, market.labels, market.roles, workdir=folder, progress=progress
    )


def other_process(folder: Path) -> None:
    """Train every member, then start the net again and die in its second epoch."""
    for spec in MEMBERS:
        for name, data in train(folder / "whole", spec).files.items():
            (folder / f"{spec.name}.{name}").write_bytes(data)
    train(folder / "killed", progress=lambda what, share: os._exit(KILLED) if "epoch 2" in what else None)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elsewhere")
    code = "import sys, pathlib, tests.models.test_replay as t; t.other_process(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == KILLED
    return folder


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FittedMember]:
    return {spec.name: train(tmp_path_factory.mktemp("here"), spec) for spec in MEMBERS}


@pytest.mark.parametrize("spec", MEMBERS, ids=lambda spec: spec.name)
def test_same_seed_same_bytes_in_two_processes(spec, elsewhere: Path, here: dict[str, FittedMember]) -> None:
    """Pins unseeded draws, hash-ordered names and machine paths in a model file."""
    for name, data in here[spec.name].files.items():
        assert (elsewhere / f"{spec.name}.{name}").read_bytes() == data, name


def test_a_killed_training_resumes_to_the_same_member(elsewhere: Path, here: dict[str, FittedMember]) -> None:
    """Pins a resume that repeats an epoch, forgets the best one, or draws other dropout; and litter."""
    resumed: list[str] = []
    after = train(elsewhere / "killed", progress=lambda what, share: resumed.append(what))
    assert [what[:12] for what in resumed] == ["epoch 2 of 3", "epoch 3 of 3"]
    assert after.files == here[NET.name].files
    assert after.curves.equals(here[NET.name].curves)
    assert not list((elsewhere / "killed").iterdir())


def test_a_checkpoint_of_another_training_is_not_resumed() -> None:
    """Pins weights of other hyper-parameters, data or seed that slip in through a shared work folder."""
    market, spec = small_market(), NET
    prepared = market.prepared
    role, targets = roles_of(prepared, market.roles), targets_of(prepared, market.labels, HEADS)
    normaliser = fit_normaliser(prepared, role == "fit", spec.layout)
    inputs = inputs_of(prepared, normaliser, spec.layout)
    examples = Examples(inputs, targets, learnable_heads(targets[role == "fit"], HEADS), role)

    def identity(spec: MultiPathNetSpec, training: TrainingSpec, examples: Examples) -> str:
        return _identity(spec, training, _recipe(spec, training), examples)

    known = identity(spec, TRAINING, examples)
    others = [
        identity(spec.model_copy(update={"learning_rate": 1e-3}), TRAINING, examples),
        identity(spec, TRAINING.model_copy(update={"seed": 8}), examples),
        identity(spec, TRAINING, replace(examples, targets=targets + 1)),
        identity(spec, TRAINING, replace(examples, role=role[::-1])),
        identity(
            spec, TRAINING, replace(examples, inputs=replace(inputs, store=replace(prepared, identity="another store")))
        ),
    ]
    assert len({known, *others}) == 6
    assert known == identity(spec, TRAINING, examples)


def test_seed_matters_and_the_callers_torch_state_comes_back(tmp_path: Path, here: dict[str, FittedMember]) -> None:
    """Pins a seed that nothing reads, and a training that leaves its own settings to whatever runs next."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    settings = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    other = train(tmp_path, training=TRAINING.model_copy(update={"seed": 8}))
    assert other.files["model.onnx"] != here[NET.name].files["model.onnx"]
    assert torch.equal(torch.get_rng_state(), before)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == settings


def test_a_checkpoint_of_another_schema_is_refused(tmp_path: Path) -> None:
    """Pins weights that were copied from another training's folder and happen to fit."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, spec in ((first, NET), (second, NET.model_copy(update={"learning_rate": 1e-3}))):
        with pytest.raises(RuntimeError, match="killed"):
            train(folder, spec, progress=_interrupted)
    (checkpoint,) = first.glob("*/epoch=000.ckpt")
    (other,) = second.glob("*/epoch=000.ckpt")
    other.write_bytes(checkpoint.read_bytes())
    with pytest.raises(SchemaError, match="its own checkpoint only"):
        train(second, NET.model_copy(update={"learning_rate": 1e-3}))


def _interrupted(what: str, share: float) -> None:
    if "epoch 2" in what:
        raise RuntimeError("killed")
