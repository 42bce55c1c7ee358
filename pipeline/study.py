"""A study: the frozen, typed description of one trading model. Every stage reads its own part of it."""

from __future__ import annotations

import re

from pydantic import Field, model_validator

from pipeline.asof.spec import MarketSpec, TableUse, UniverseSpec
from pipeline.backtests.spec import ExecutionSpec
from pipeline.calibration.spec import CalibrationSpec, EnsembleSpec
from pipeline.folds.spec import FoldSpec
from pipeline.gates.spec import PromotionSpec
from pipeline.labels.spec import LabelSpec
from pipeline.models.spec import MemberSpec, TrainingSpec
from pipeline.positions.spec import PolicySpec
from pipeline.spec import Spec


class Study(Spec):
    """All that distinguishes one trading model from another; a stage never asks for its name."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str
    market: MarketSpec
    tables: tuple[TableUse, ...]
    universe: UniverseSpec
    features: tuple[str, ...]
    labels: LabelSpec
    folds: FoldSpec
    members: tuple[MemberSpec, ...]
    training: TrainingSpec
    calibration: CalibrationSpec
    ensemble: EnsembleSpec = EnsembleSpec()
    policy: PolicySpec
    execution: ExecutionSpec
    promotion: PromotionSpec

    @model_validator(mode="after")
    def _coherent(self) -> Study:
        names = [member.name for member in self.members]
        if len(set(names)) != len(names) or not names:
            raise ValueError(f"member names must be unique and at least one; got {names}")
        _require_plain(names)
        _require_among(self.ensemble.members, names)
        if self.labels.exit_session != self.execution.exit_session:
            raise ValueError(
                f"labels and execution must exit at the same session; "
                f"got {self.labels.exit_session} and {self.execution.exit_session}"
            )
        return self

    @property
    def ensemble_names(self) -> tuple[str, ...]:
        """Members that predict together, in the study's order: float sums depend on it."""
        chosen = self.ensemble.members
        return tuple(member.name for member in self.members if not chosen or member.name in chosen)

    @property
    def table_names(self) -> tuple[str, ...]:
        return tuple(use.table for use in self.tables)


def _require_plain(names: list[str]) -> None:
    """Names become partitions, files and parts of a bundle; `weights` is a file beside theirs."""
    wrong = [name for name in names if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "weights"]
    if wrong:
        raise ValueError(f"member names are lower-case words other than `weights`; got {wrong}")


def _require_among(chosen: tuple[str, ...], names: list[str]) -> None:
    if len(set(chosen)) != len(chosen) or not set(chosen) <= set(names):
        raise ValueError(f"an ensemble names members of the study, each once: some of {names}; got {list(chosen)}")
