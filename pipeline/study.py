"""A study: the frozen, typed description of one trading model. Every stage reads its own part of it."""

from __future__ import annotations

import re

from pydantic import Field, model_validator

from pipeline.asof.spec import MarketSpec, SymbolsSpec, TableUse, UniverseSpec
from pipeline.backtests.spec import ExecutionSpec, PlanExecutionSpec
from pipeline.calibration.spec import CalibrationSpec, EnsembleSpec
from pipeline.errors import BadInput
from pipeline.features.minutes.plan import MinutePlan
from pipeline.features.plan import plan
from pipeline.folds.spec import FoldSpec
from pipeline.frames import MINUTE_ROW, ROW
from pipeline.gates.spec import PromotionSpec
from pipeline.labels.minute_spec import PlanLabelSpec
from pipeline.labels.spec import LabelSpec
from pipeline.models.spec import MemberSpec, MultiPathNetSpec, TrainingSpec
from pipeline.positions.manager_spec import ManagerSpec
from pipeline.positions.spec import PolicySpec
from pipeline.spec import Spec

MINUTES = "stk_mins"
PANEL_CATEGORIES = ("board", "industry", "is_st")  # panel columns that take few values: all that can be embedded


class Study(Spec):
    """All that distinguishes one trading model from another; a stage never asks for its name."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str
    market: MarketSpec
    tables: tuple[TableUse, ...]
    universe: UniverseSpec | SymbolsSpec
    features: tuple[str, ...]
    labels: LabelSpec | PlanLabelSpec
    folds: FoldSpec
    members: tuple[MemberSpec, ...]
    training: TrainingSpec
    calibration: CalibrationSpec
    ensemble: EnsembleSpec = EnsembleSpec()
    policy: PolicySpec | ManagerSpec
    execution: ExecutionSpec | PlanExecutionSpec
    promotion: PromotionSpec

    @model_validator(mode="after")
    def _coherent(self) -> Study:
        names = [member.name for member in self.members]
        if len(set(names)) != len(names) or not names:
            raise ValueError(f"member names must be unique and at least one; got {names}")
        _require_plain(names)
        _require_among(self.ensemble.members, names)
        _require_one_kind(self)
        for member in self.members:
            if isinstance(member, MultiPathNetSpec):
                _require_inputs(member, self.features, self.table_names)
        return self

    @property
    def ensemble_names(self) -> tuple[str, ...]:
        """Members that predict together, in the study's order: float sums depend on it."""
        chosen = self.ensemble.members
        return tuple(member.name for member in self.members if not chosen or member.name in chosen)

    @property
    def row_key(self) -> tuple[str, ...]:
        """Key of panel, features, labels and everything made of them."""
        return MINUTE_ROW if self.market.decides == "minute" else ROW

    @property
    def table_names(self) -> tuple[str, ...]:
        return tuple(use.table for use in self.tables)


def _require_one_kind(study: Study) -> None:
    """A study decides by the session or by the minute, in every part."""
    by_minute = {
        "market": study.market.decides == "minute",
        "universe": isinstance(study.universe, SymbolsSpec),
        "features": isinstance(plan(study.features), MinutePlan),
        "labels": isinstance(study.labels, PlanLabelSpec),
        "policy": isinstance(study.policy, ManagerSpec),
        "execution": isinstance(study.execution, PlanExecutionSpec),
    }
    if len(set(by_minute.values())) > 1:
        minutes = [part for part, decided in by_minute.items() if decided]
        raise ValueError(f"every part of a study decides by the session, or every part by the minute; got {minutes}")
    if isinstance(study.labels, LabelSpec) and isinstance(study.execution, ExecutionSpec):
        exits = study.labels.exit_session, study.execution.exit_session
        if exits[0] != exits[1]:
            raise ValueError(f"labels and execution must exit at the same session; got {exits[0]} and {exits[1]}")


def _require_plain(names: list[str]) -> None:
    """Names become partitions, files and parts of a bundle; `weights` is a file beside theirs."""
    wrong = [name for name in names if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "weights"]
    if wrong:
        raise ValueError(f"member names are lower-case words other than `weights`; got {wrong}")


def _require_among(chosen: tuple[str, ...], names: list[str]) -> None:
    if len(set(chosen)) != len(chosen) or not set(chosen) <= set(names):
        raise ValueError(f"an ensemble names members of the study, each once: some of {names}; got {list(chosen)}")


def _require_inputs(net: MultiPathNetSpec, families: tuple[str, ...], tables: tuple[str, ...]) -> None:
    """What a net names, the study makes: else it fails hours later, when the first split is trained."""
    scopes = plan(families).scopes
    rule = f"the member {net.name} reads what its study makes"
    unknown = sorted({*net.columns} - {*scopes})
    if unknown:
        raise BadInput(rule, f"no family of {list(families)} makes {unknown}", "add the family, or drop the names")
    local = {name: scopes[name] for name in net.regime if scopes[name] != "market"}
    if local:
        raise BadInput("a regime is made of market features", f"{net.name}: {local}", "name features of scope market")
    categories = sorted({*net.layout.categories} - {*scopes, *PANEL_CATEGORIES})
    if categories:
        raise BadInput(rule, f"no category {categories}", f"name features, or {list(PANEL_CATEGORIES)} of the panel")
    if net.intraday and MINUTES not in tables:
        remedy = f"name {MINUTES} (it may be optional), or set the member's intraday to null"
        raise BadInput(rule, f"an intraday path, and no table {MINUTES}", remedy)
