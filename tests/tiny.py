"""The tiny environment that tests of the assembled house share: history, research, promotion, then live sessions.

Building it takes seconds, so nobody changes it: a test that writes takes a copy (`copy_of`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.daily import check_session, run_session
from assets.definitions import build_definitions
from assets.runs import Runner
from pipeline.errors import PromotionRefused
from pipeline.models.spec import BoostedSpec, LinearSpec
from resources.environments import SETTINGS_FILE, Environment, Settings, create_environment
from resources.simulated import SIMULATED_TOKEN, SimulatedVendor, simulated_market
from resources.tushare import TushareClient, TushareSource
from tests.fakes import Watched

LIVE_SESSIONS = 3
# Smaller than the tiny demo, without the net (its export alone takes seconds a split), and only the gates that hold
# whatever a market brings: these tests need a champion. Whether members and gates are right is tested beside them.
SIZES = {
    "folds.n_groups": 3,
    "members": [LinearSpec().model_dump(mode="json"), BoostedSpec(rounds=5).model_dump(mode="json")],
    "training.threads": 1,
    "promotion.bootstrap_samples": 300,
    "execution.random_books": 5,
    "promotion.gates": [
        {"name": "folds_overlap", "bound": 0},
        {"name": "impossible_fills", "bound": 0},
        {"name": "replay", "bound": 0, "applies_to": "candidate"},
        {"name": "weights", "bound": 0, "applies_to": "candidate"},
    ],
}


@dataclass(frozen=True)
class Tiny:
    """The environment as it stands on the evening of its last live session.

    Parameters
    ----------
    eve : Path
        Home as it stood before the first live session: a champion serves, only `refused` is recorded.
    refused : date
        The last backfilled session, asked for before there was a champion.
    live : list of date
        The sessions after it, run one by one as if live; all but the last are checked.
    """

    environment: Environment
    runner: Runner
    eve: Path
    refused: date
    live: list[date]


def build_tiny(folder: Path) -> Tiny:
    """All of it, in about 20 s."""
    environment, sessions = tiny_environment(folder / "home")
    live = sessions[-LIVE_SESSIONS:]
    environment.move_clock(environment.study.market.decided_at(sessions[-LIVE_SESSIONS - 1]))
    runner = Runner(environment, dg.DagsterInstance.ephemeral(), build_definitions)
    runner.ingest()
    runner.market()
    with pytest.raises(PromotionRefused):  # before anything was promoted: a recorded NO_SELECTION
        runner.stages(["inference"], first=sessions[-LIVE_SESSIONS - 1].isoformat())
    runner.research()
    runner.stages(["candidate"])
    runner.stages(["champion"])
    shutil.copytree(environment.home, folder / "eve")
    for i, session in enumerate(live):
        live_session(runner, session)
        if i:
            check_session(runner, live[i - 1])
    return Tiny(environment, runner, folder / "eve", sessions[-LIVE_SESSIONS - 1], live)


def tiny_environment(home: Path) -> tuple[Environment, list[date]]:
    """An empty environment on the tiny simulated market, and all of its sessions."""
    sessions = list(simulated_market("tiny", {}).sessions)
    settings = Settings(profile="tiny", first_session=sessions[0], last_session=sessions[-1], overrides=SIZES)
    return create_environment(home, settings, home / "no_template"), sessions


def live_session(runner: Runner, session: date) -> None:
    """One session at its own decision time."""
    runner.environment.move_clock(runner.study.market.decided_at(session))
    run_session(runner, session)


def copy_of(home: Path, target: Path, now: datetime | None = None, **changes: Any) -> Runner:
    """A runner over a copy of a home, with some of its settings replaced and its clock set; Dagster's history is empty.

    An override replaces a field of the study; `{}` keeps those of the home.
    """
    shutil.copytree(home, target)
    path = target / SETTINGS_FILE
    settings = json.loads(path.read_text())
    changes["overrides"] = settings["overrides"] | changes.get("overrides", {})
    path.write_text(json.dumps(settings | changes))
    environment = Environment(target)
    if now is not None:
        environment.move_clock(now)
    return Runner(environment, dg.DagsterInstance.ephemeral(), build_definitions)


def watch(environment: Environment, before: Callable[[dict[str, Any]], None] = lambda asked: None) -> Watched:
    """Put an observer between the environment's client and its simulated vendor; the client never really sleeps."""
    vendor = Watched(SimulatedVendor(environment.simulated, environment.clock), before)
    client = TushareClient(SIMULATED_TOKEN, transport=vendor, clock=environment.clock, sleep=lambda seconds: None)
    environment.source = TushareSource(client)
    return vendor


def contents(folder: Path) -> dict[str, bytes]:
    """Every file's bytes by its relative name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
