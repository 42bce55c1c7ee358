"""A vendor that sells no minutes: the net trains, is promoted and serves on daily data, and everyone is told."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from assets.daily import check_session
from assets.definitions import build_definitions
from assets.report import write_report
from assets.runs import Runner
from pipeline.models.spec import DailyPathSpec, IntradayPathSpec, LinearSpec, MultiPathNetSpec, TowerSpec
from pipeline.serving.bundle import Bundle, load_bundle
from resources.environments import Settings, create_environment
from resources.simulated import simulated_market
from tests.tiny import SIZES, live_session

NET = MultiPathNetSpec(
    intraday=IntradayPathSpec(sessions=2, kernels=(3,), width=2),
    daily=DailyPathSpec(window=3, features=("return_1", "late_reversal")),
    towers=(TowerSpec(name="context", features=("amihud_20",), categories=("board",)),),
    regime=("market_return_1",),
    hidden=4,
    epochs=1,
)
FOLDS = {"scheme": "expanding", "n_groups": 2, "n_test_groups": 1}
OFF = "Path A: the market has no minute bars"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runner, date]:
    """Research on the later half of the market, promotion, and a live session that is checked."""
    home, market = tmp_path_factory.mktemp("minutes_absent") / "home", {"minutes": False}
    sessions = list(simulated_market("tiny", market).sessions)[-90:]
    members = [member.model_dump(mode="json") for member in (LinearSpec(), NET)]
    settings = Settings(
        profile="tiny",
        market=market,
        first_session=sessions[0],
        last_session=sessions[-1],
        overrides=SIZES | {"members": members, "folds": FOLDS},
    )
    environment = create_environment(home, settings, home / "no_template")
    environment.move_clock(environment.study.market.decided_at(sessions[-2]))
    runner = Runner(environment, dg.DagsterInstance.ephemeral(), build_definitions)
    runner.ingest()
    runner.market()
    runner.research()
    runner.stages(["candidate"])
    runner.stages(["champion"])
    live_session(runner, sessions[-1])
    check_session(runner, sessions[-1])
    return runner, sessions[-1]


def champion(runner: Runner) -> Bundle:
    environment, name = runner.environment, runner.study.name
    serving = environment.champions(name).current()
    assert serving is not None
    return load_bundle(environment.bundles(name), serving["bundle"])


def test_the_net_trains_without_path_a_in_every_split_and_says_so(served: tuple[Runner, date]) -> None:
    """Pins a run that stops, invents bars or is silent where minutes are an optional table that is absent."""
    runner, _ = served
    artifacts, study = runner.environment.artifacts, runner.study
    assert "stk_mins" not in runner.environment.lake.tables()
    assert artifacts.table(study.name, "panel", "intraday").is_empty()
    assert artifacts.table(study.name, "features", "paths").is_empty()
    versions = artifacts.current(study.name, "models")
    notes = {part: version.metadata["training"] for part, version in versions.items() if part.endswith("|multi_path")}
    assert set(notes) == {f"{split}|multi_path" for split in study.folds.splits}
    assert {tuple(note["paths"]) for note in notes.values()} == {("B", "C", "FiLM")}
    assert {note["switched_off"] for note in notes.values()} == {OFF}
    scores = artifacts.table(study.name, "models", "scores").filter(member="multi_path")
    assert scores.select("rank_head").null_count().item() == 0
    assert scores["rank_head"].is_finite().all()


def test_its_champion_serves_daily_only_and_parity_is_exact(served: tuple[Runner, date]) -> None:
    """Pins a bundle that asks for minutes which no session will have, and live tensors of another layout."""
    runner, session = served
    bundle = champion(runner)
    assert [part.member for part in bundle.parts] == ["linear", "multi_path"]
    assert bundle.reads.bars == 0
    assert bundle.window == 3
    artifacts, study = runner.environment.artifacts, runner.study
    assert len(artifacts.table(study.name, "inference", "orders")) == study.policy.top_k
    report = artifacts.table(study.name, "parity", "report")
    assert report["session"].unique().to_list() == [session]
    assert {"tensors", "scores", "orders"} <= set(report["asset"])
    assert report["exact"].all()


def test_the_report_says_what_is_off(served: tuple[Runner, date], tmp_path: Path) -> None:
    """Pins a reader who takes the net's rank IC for one of minute bars."""
    write_report(served[0].environment, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert OFF in text
    assert "stk_mins (loses Path A and the intraday features)" in text
