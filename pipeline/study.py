"""A study: the frozen, typed description of one trading model. Every stage reads its own part of it."""

from __future__ import annotations

from pydantic import Field, model_validator

from pipeline.asof.spec import MarketSpec, TableUse, UniverseSpec
from pipeline.backtests.spec import ExecutionSpec
from pipeline.calibration.spec import CalibrationSpec
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
    policy: PolicySpec
    execution: ExecutionSpec
    promotion: PromotionSpec

    @model_validator(mode="after")
    def _coherent(self) -> Study:
        names = [member.name for member in self.members]
        if len(set(names)) != len(names) or not names:
            raise ValueError(f"member names must be unique and at least one; got {names}")
        if self.labels.exit_session != self.execution.exit_session:
            raise ValueError(
                f"labels and execution must exit at the same session; "
                f"got {self.labels.exit_session} and {self.execution.exit_session}"
            )
        return self

    @property
    def table_names(self) -> tuple[str, ...]:
        return tuple(use.table for use in self.tables)
