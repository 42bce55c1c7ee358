"""What a model family is, and the registry. A new family is one more module and one more line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import BadInput
from pipeline.models.examples import Examples, Head
from pipeline.models.inputs import Inputs
from pipeline.models.spec import TrainingSpec

CURVES = {"epoch": pl.Int32, "loss": pl.Float64, "tune_loss": pl.Float64, "objective": pl.Float64}

Predict = Callable[[Inputs], NDArray[np.float32]]
"""Inputs of n rows -> float32 [n, learned heads]; a row's bits depend on that row only."""

Objective = Callable[[pl.DataFrame], float]
"""Tune rows' `session`, `instrument`, `<head>_head` -> what epoch selection maximises."""

Progress = Callable[[str, float], None]
"""What was done, and the share of the fit that is behind us."""


@dataclass(frozen=True)
class Fitted:
    """What a family made.

    Parameters
    ----------
    files : dict
        What serves the member.
    curves : DataFrame
        Of `CURVES`; empty without epochs.
    checkpoints : dict
        What each epoch would serve; empty without epochs.
    notes : dict
        Plain facts for people: device, precision, chosen epochs.
    """

    files: dict[str, bytes]
    curves: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=CURVES))
    checkpoints: dict[str, bytes] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


class Trainer(Protocol):
    """A module that fits a family."""

    def fit(
        self,
        spec: Any,
        training: TrainingSpec,
        examples: Examples,
        *,
        workdir: Path,
        objective: Objective | None,
        progress: Progress,
    ) -> Fitted:
        """Fit the learned heads on the fit rows, choose on the tune rows, never look at test targets."""


class Server(Protocol):
    """A module that serves a family; it never imports what only training needs (torch and Lightning: 3 s)."""

    def load(self, files: Mapping[str, bytes], heads: tuple[Head, ...], batch: int) -> Predict:
        """The serving form from a family's files; `heads` are the learned ones."""


FAMILIES = {
    "linear": ("pipeline.models.linear", "pipeline.models.onnx_runtime"),
    "boosted": ("pipeline.models.boosted", "pipeline.models.boosted"),
    "heads_linear": ("pipeline.models.heads.linear", "pipeline.models.heads.runtime"),
    "heads_trees": ("pipeline.models.heads.trees", "pipeline.models.heads.trees"),
    "multi_path": ("pipeline.models.nets.fitting", "pipeline.models.onnx_runtime"),
}
"""Family -> the module that fits it and the one that serves it."""


def trainer(name: str) -> Trainer:
    """What fits a registered family; imported only now."""
    return cast(Trainer, import_module(_modules(name)[0]))


def server(name: str) -> Server:
    """What serves a registered family; imported only now."""
    return cast(Server, import_module(_modules(name)[1]))


def _modules(name: str) -> tuple[str, str]:
    if name not in FAMILIES:
        raise BadInput("a member's family is registered", name, f"one of {sorted(FAMILIES)}")
    return FAMILIES[name]
