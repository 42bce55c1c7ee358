"""The tiny environment of minutes that tests share: a simulated perpetual, research, promotion, then live days.

The counterpart of `tiny.py`. Building it takes seconds, so nobody changes it: a test that writes takes a copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pytest

from assets.daily import check_session
from assets.definitions import build_definitions
from assets.runs import Runner
from pipeline.errors import PromotionRefused
from pipeline.models.spec import LinearHeadsSpec, TreeHeadsSpec
from resources.environments import Environment, Settings, create_environment
from tests.tiny import live_session

STUDY, SYMBOL = "perp_minute", "BTCUSDT"
LAST, DAYS, LIVE_DAYS = date(2026, 6, 30), 16, 2
# Few splits, rows, rounds and thresholds, and only the gates that hold whatever a market brings: these tests need a
# champion and trades of both sides. Whether members, manager and gates are right is tested beside them.
SIZES = {
    "folds.n_groups": 3,
    "members": [
        LinearHeadsSpec(iterations=60).model_dump(mode="json"),
        TreeHeadsSpec(rounds=3).model_dump(mode="json"),
    ],
    "training.row_cap": 3_000,
    "policy.grid": {
        "long_direction": [0.3, 0.5], "short_direction": [0.3, 0.5], "entry": [0.2, 0.4], "market_risk": [0.85],
        "edge": [-5.0, 3.0], "margin": [0.02, 0.1],
    },
    "promotion.bootstrap_samples": 300,
    "promotion.gates": [
        {"name": "folds_overlap", "bound": 0},
        {"name": "impossible_fills", "bound": 0},
        {"name": "replay", "bound": 0, "applies_to": "candidate"},
        {"name": "weights", "bound": 0, "applies_to": "candidate"},
    ],
}  # fmt: skip


@dataclass(frozen=True)
class TinyMinutes:
    """The environment as it stands after its last live day was decided.

    Parameters
    ----------
    refused : date
        The last backfilled day, asked for before there was a champion.
    live : list of date
        The days after it, decided one by one as if live; all but the last are checked.
    """

    environment: Environment
    runner: Runner
    refused: date
    live: list[date]


def build_tiny_minutes(folder: Path) -> TinyMinutes:
    """All of it, in about 25 s."""
    environment = minutes_environment(folder / "home")
    live = [LAST - timedelta(days=n) for n in reversed(range(LIVE_DAYS))]
    refused = live[0] - timedelta(days=1)
    environment.move_clock(environment.study.market.decided_at(refused))
    runner = Runner(environment, dg.DagsterInstance.ephemeral(), build_definitions)
    runner.ingest()
    runner.market()
    with pytest.raises(PromotionRefused):  # before anything was promoted: a recorded NO_SELECTION
        runner.stages(["inference"], first=refused.isoformat())
    runner.research()
    runner.stages(["candidate"])
    runner.stages(["champion"])
    for i, day in enumerate(live):
        live_session(runner, day)
        if i:
            check_session(runner, live[i - 1])
    return TinyMinutes(environment, runner, refused, live)


def minutes_environment(home: Path) -> Environment:
    """An empty environment on the tiny simulated perpetual; the signal is strong, so that both sides trade."""
    settings = Settings(
        study=STUDY, profile="tiny", market={"days": DAYS, "signal": 0.3}, overrides=SIZES,
        first_session=LAST - timedelta(days=DAYS - 1), last_session=LAST,
    )  # fmt: skip
    return create_environment(home, settings, home / "no_template")
