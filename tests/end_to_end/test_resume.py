"""What is done is not done again: after a kill, on a second ingestion, and when only a gate moves."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from assets.runs import Runner
from assets.study_graph import BUILDERS
from pipeline.stages.registry import STAGES
from resources.environments import Environment, overridden
from resources.versions import Version
from tests.tiny import Tiny, copy_of, watch

pytestmark = pytest.mark.xdist_group("tiny")

TRAIN = """
import sys
from pathlib import Path
import dagster as dg
from assets.definitions import build_definitions
from assets.runs import Runner
from resources.environments import Environment
runner = Runner(Environment(Path(sys.argv[1])), dg.DagsterInstance.ephemeral(), build_definitions)
runner.research()
"""
OTHER_MEMBERS = {"members.1.rounds": 12}
WORKERS_END_SECONDS = 1.5  # a worker looks for its run twice a second


def models(environment: Environment) -> dict[str, Version]:
    return environment.artifacts.current(environment.study.name, "models")


def fresh(before: dict[str, Version], now: dict[str, Version]) -> dict[str, Version]:
    """Partitions made since."""
    return {name: version for name, version in now.items() if version.sequence != before[name].sequence}


def kill_in_the_middle(home: Path, done: int) -> dict[str, Version]:
    """Research of a home in a process of its own, killed -9 once some partitions of `models` are new; these."""
    environment = Environment(home)
    before = models(environment)
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", TRAIN, str(home)])
    try:
        for _ in range(6000):
            found = fresh(before, models(environment))
            if len(found) >= done or process.poll() is not None:
                break
            time.sleep(0.01)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    time.sleep(WORKERS_END_SECONDS)
    left = fresh(before, models(environment))
    time.sleep(WORKERS_END_SECONDS)
    assert fresh(before, models(environment)) == left, "a worker of the killed run goes on"
    return left


@pytest.fixture(scope="module")
def whole(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """The same research in one go, in one process."""
    runner = copy_of(tiny.eve, tmp_path_factory.mktemp("whole") / "home", overrides=OTHER_MEMBERS)
    runner.research()
    return runner


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_training_goes_on_where_it_stopped(tiny: Tiny, whole: Runner, tmp_path: Path, workers: int) -> None:
    """Pins finished models that are trained again, workers that outlive their run, and results that tell of it."""
    runner = copy_of(tiny.eve, tmp_path / "home", overrides=OTHER_MEMBERS, workers=workers)
    finished = kill_in_the_middle(runner.environment.home, done=3)
    assert 3 <= len(finished) < len(runner.study.folds.splits) * len(runner.study.members)
    runner.research()
    now = models(runner.environment)
    assert {name: now[name].sequence for name in finished} == {name: v.sequence for name, v in finished.items()}
    for stage in ("folds", "models", "calibrators", "positions", "predictions", "backtest", "scorecard"):
        made, wanted = (
            {name: version.hash for name, version in r.environment.artifacts.current(r.study.name, stage).items()}
            for r in (runner, whole)
        )
        assert made == wanted, stage


def test_unchanged_models_are_kept(tiny: Tiny, tmp_path: Path) -> None:
    """Pins a second research run that trains anything anew."""
    runner = copy_of(tiny.eve, tmp_path / "home")
    before = models(runner.environment)
    splits, name = runner.study.folds.splits, runner.study.name
    runner.research()
    assert fresh(before, models(runner.environment)) == {}
    assert len(before) == 2 * len(splits)
    assert len(runner.environment.ledger(name).rows()) == len(Environment(tiny.eve).ledger(name).rows())


def test_a_second_ingestion_asks_for_the_refetch_window_only(tiny: Tiny, tmp_path: Path) -> None:
    """Pins a daily job that fetches the whole history again, and one that changes the lake by fetching the same."""
    runner = copy_of(tiny.environment.home, tmp_path / "home")
    environment = runner.environment
    lake, head = environment.lake.manifest_hash(), environment.lake.head()
    vendor = watch(environment)
    runner.ingest()
    window = [f"{day:%Y%m%d}" for day in environment.calendar().sessions if day <= tiny.live[-1]][-5:]
    by_table: dict[str, list[dict[str, Any]]] = {}
    for asked in vendor.requests:
        by_table.setdefault(asked["api_name"], []).append(asked["params"])
    assert set(by_table) == set(runner.study.table_names)
    for table, asked in by_table.items():
        spec = environment.tables[table]
        if spec.fetch_by == "session":
            assert sorted({params["trade_date"] for params in asked}) == window, table
        elif spec.layout == "session":
            assert {params["start_date"][:10].replace("-", "") for params in asked} == {window[0]}, table
            assert {params["end_date"][:10].replace("-", "") for params in asked} == {window[-1]}, table
    assert environment.lake.manifest_hash() == lake
    assert environment.lake.head() == head


LOOSER = [{"name": "net_excess", "bound": -1}, {"name": "replay", "bound": 0, "applies_to": "candidate"}]


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"promotion.gates": LOOSER}, {"scorecard", "candidate", "champion"}),
        ({"promotion.max_age_days": 7}, {"scorecard", "candidate", "champion"}),
        ({"title": "another"}, set()),
        ({"features": ["returns"]}, {"features"}),
        ({"universe.seasoning_sessions": 20}, {"panel"}),
        ({"calibration.min_positives": 7}, {"calibrators", "candidate"}),
        ({"ensemble.weights": "tune_rank_ic"}, {"calibrators", "backtest", "candidate"}),
        ({"ensemble.splits": "all"}, {"candidate"}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_a_change_reaches_only_the_stages_that_read_it(tiny: Tiny, change: dict[str, Any], changed: set[str]) -> None:
    """Pins a moved gate that retrains models, and a change that a stage does not notice."""
    study = tiny.runner.study
    other = overridden(study, change)
    assert len(STAGES) == len(BUILDERS)
    found = {name for name, stage in STAGES.items() if stage.code_version(study) != stage.code_version(other)}
    assert found == changed


@pytest.mark.parametrize("stage", ["models", "positions", "backtest", "scorecard", "candidate"])
def test_the_code_that_decides_enters_the_version_of_every_stage_that_asks_it(stage: str) -> None:
    """Pins a stage whose code moved into another module of its room and is no longer noticed."""
    assert {"pipeline.stages.top_k", "pipeline.stages.position_manager"} <= STAGES[stage].code
