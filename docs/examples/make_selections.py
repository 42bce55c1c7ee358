"""Makes the sample `all_selections.csv` beside this file: a tiny run, from raw tables to recorded sessions.

    python docs/examples/make_selections.py

The market is made up. Some bounds are moved, because 160 sessions of 40 names are too few for them: the file
shows a format, no result.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import dagster as dg
from make import HERE, write_metadata

from assets.commands import TEMPLATE, TINY_SIZES
from assets.daily import run_session
from assets.definitions import build_definitions
from assets.runs import Runner
from pipeline.errors import PromotionRefused
from pipeline.stages.market import decision_time
from pipeline.studies import STUDIES
from resources.environments import Environment, Settings, create_environment
from resources.simulated import simulated_market

PROFILE = "tiny"
SESSIONS = 4  # the first one before anything was promoted
MOVED = {"overfitting": 1.0, "calibration": 100.0, "refit_correlation": -1.0}


def main() -> None:
    """Run in a folder that is deleted afterwards; keep the selections."""
    with tempfile.TemporaryDirectory() as folder:
        environment = create_environment(Path(folder) / "home", _settings(), TEMPLATE)
        _run(environment)
        shutil.copy(environment.records(environment.study.name) / "selections" / "all_selections.csv", HERE)
    write_metadata()


def _settings() -> Settings:
    """The tiny market and study, with the moved bounds."""
    market = simulated_market(PROFILE)
    sessions = [day for day in market.calendar.sessions if day <= market.profile.last_session]
    gates = [gate.name for gate in STUDIES[Settings().study].promotion.gates]
    moved = {f"promotion.gates.{gates.index(name)}.bound": bound for name, bound in MOVED.items()}
    return Settings(
        profile=PROFILE,
        first_session=sessions[-market.profile.sessions],
        last_session=sessions[-1],
        overrides={**TINY_SIZES, **moved},
    )


def _run(environment: Environment) -> None:
    """Backfill and research up to the first live session; refuse it, promote, infer the others."""
    study, market = environment.study, environment.simulated
    live = [day for day in market.calendar.sessions if day <= market.profile.last_session][-SESSIONS:]
    environment.move_clock(decision_time(study, market.calendar.shift(live[0], -1)))
    with dg.DagsterInstance.ephemeral() as instance:
        runner = Runner(
            environment, instance, build_definitions, lambda step, took: print(f"{took:6.1f} s {step}")
        )
        runner.ingest()
        runner.market()
        environment.move_clock(decision_time(study, live[0]))
        with suppress(PromotionRefused):
            run_session(runner, live[0])
        runner.research()
        runner.stages(["candidate"])
        runner.stages(["champion"])
        for session in live[1:]:
            environment.move_clock(decision_time(study, session))
            run_session(runner, session)


if __name__ == "__main__":
    main()
