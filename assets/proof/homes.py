"""Small simulated homes in which proofs run the real graph; every registered study has one. No claims here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from assets.definitions import build_definitions
from assets.runs import Runner
from assets.stage_runner import StageReader
from pipeline.gates.evaluate import GATES
from pipeline.stages.contract import Stage
from pipeline.stages.registry import STAGES
from pipeline.study import Study
from resources.environments import Environment, Settings, create_environment
from resources.vendors import VENDORS

PROFILE = "tiny"
# What a member may spend, whatever its family: a proof asks whether the house holds, not how good a model is.
COSTS = {"rounds": 4, "iterations": 40, "epochs": 1}


@dataclass(frozen=True)
class Shape:
    """Sizes of a home, by how often its study decides.

    Parameters
    ----------
    market : mapping
        Fields of the simulated market's tiny profile.
    study : mapping
        Dotted fields of the study.
    """

    market: Mapping[str, Any]
    study: Mapping[str, Any]


SHAPES = {
    "session": Shape(
        {"instruments": 30, "sessions": 120},
        {
            "folds.n_groups": 3,
            "execution.random_books": 5,
            "promotion.bootstrap_samples": 200,
            "promotion.bootstrap_block": 1,
        },
    ),
    "minute": Shape(
        {"days": 10, "signal": 0.3},
        {
            "folds.n_groups": 3,
            "promotion.bootstrap_samples": 200,
            "promotion.bootstrap_block": 1,
            "training.row_cap": 2_000,
            "policy.grid.long_direction": [0.3, 0.5],
            "policy.grid.short_direction": [0.3, 0.5],
            "policy.grid.entry": [0.2, 0.4],
            "policy.grid.market_risk": [0.85],
            "policy.grid.edge": [-5.0, 3.0],
            "policy.grid.margin": [0.02, 0.1],
        },
    ),
}


@dataclass(frozen=True)
class HomePlan:
    """What a proof asks of a home beyond its shape.

    Parameters
    ----------
    members : int or None
        How many of the study's members, the first ones; None for all.
    market, study : mapping
        Fields to replace beside the shape's.
    held : int or None
        The market's newest sessions that the home holds; None for all.
    evenings : int
        Last sessions that are fetched each at its own evening: what comes late or is corrected shows as such.
    reachable_gates : bool
        Every gate of the study with a bound that any market meets: who wants to see a refusal needs a green start.
    """

    members: int | None = 1
    market: Mapping[str, Any] = field(default_factory=dict)
    study: Mapping[str, Any] = field(default_factory=dict)
    held: int | None = None
    evenings: int = 1
    reachable_gates: bool = True


def open_home(study: Study, home: Path, wanted: HomePlan) -> Runner:
    """An empty home; its clock stands before the evenings on which it will fetch."""
    shape, vendor = SHAPES[study.market.decides], VENDORS[study.market.vendor]
    market = {**shape.market, **wanted.market}
    sessions = vendor.market_sessions(vendor.market(PROFILE, market))
    settings = Settings(
        study=study.name,
        profile=PROFILE,
        market=market,
        first_session=sessions[-(wanted.held or 0)],
        last_session=sessions[-1],
        overrides={**shape.study, **_members(study, wanted.members), **_gates(study, wanted), **wanted.study},
    )
    environment = create_environment(home, settings, home / "no_template")
    environment.move_clock(environment.study.market.decided_at(sessions[-wanted.evenings]))
    return runner_of(environment)


def filled_home(study: Study, home: Path, wanted: HomePlan) -> Runner:
    """Raw tables, panel, features and labels up to the market's last session."""
    runner = open_home(study, home, wanted)
    runner.ingest()
    settings, calendar = runner.environment.settings, runner.environment.calendar()
    assert settings.last_session
    for back in range(wanted.evenings - 1, 0, -1):
        session = calendar.shift(settings.last_session, 1 - back)
        runner.environment.move_clock(runner.study.market.decided_at(session))
        runner.ingest(f"{session:%Y-%m}", f"{session:%Y-%m}")
    runner.market()
    return runner


def runner_of(environment: Environment) -> Runner:
    """Runs stages of the environment; Dagster's own history is in memory."""
    return Runner(environment, dg.DagsterInstance.ephemeral(), build_definitions)


def judged_home(study: Study, home: Path, wanted: HomePlan) -> Runner:
    """From raw tables to a judged candidate; nothing serves yet."""
    runner = filled_home(study, home, wanted)
    runner.research()
    runner.judged("candidate")
    return runner


def reader_of(environment: Environment, stage: str, workdir: Path) -> StageReader:
    """What the runner hands to a stage."""
    return StageReader(environment, environment.study, stage_named(stage), {}, workdir, lambda text, done: None)


def stage_named(name: str) -> Stage:
    """A stage of every study."""
    return STAGES[name]


def _members(study: Study, count: int | None) -> dict[str, Any]:
    """The first members, each with no more work than `COSTS`; an ensemble of exactly these."""
    kept = [member.model_dump(mode="json") for member in study.members[:count]]
    cheap = [{**member, **{name: min(member[name], cost) for name, cost in COSTS.items() if name in member}}
             for member in kept]  # fmt: skip
    names: Collection[str] = {member["name"] for member in kept}
    together = [name for name in study.ensemble.members if name in names]
    return {"members": cheap, "ensemble.members": together, "training.threads": 1}


def _gates(study: Study, wanted: HomePlan) -> dict[str, Any]:
    if not wanted.reachable_gates:
        return {}
    gates = [
        gate.model_dump(mode="json") | {"bound": 1e9 if "at most" in str(GATES[gate.name].__doc__) else -1e9}
        for gate in study.promotion.gates
    ]
    return {"promotion.gates": gates}
