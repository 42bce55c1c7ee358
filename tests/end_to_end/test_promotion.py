"""The champion cannot be forced by hand: every way round the gates ends in a recorded refusal."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from assets.daily import check_session
from assets.partitions import MEMBER, SPLIT
from assets.runs import Runner
from pipeline.errors import FoldgateError, MissingTable, PromotionRefused
from tests.tiny import SIZES, Tiny, copy_of, live_session

pytestmark = pytest.mark.xdist_group("tiny")
# What no market of this size can show.
OUT_OF_REACH = [*SIZES["promotion.gates"], {"name": "net_excess", "bound": 99}]


def rejudged(runner: Runner) -> None:
    runner.judged("scorecard")
    runner.judged("candidate")


def keep(runner: Runner) -> None:
    """Nothing stored changes: the study alone does."""


def forget(runner: Runner, stage: str) -> None:
    """The store as if a stage had never run: its entries speak of another one."""
    for entry in (runner.environment.home / "artifacts" / "log").iterdir():
        body = json.loads(entry.read_bytes())
        if body.get("version", {}).get("stage") == stage:
            body["version"]["stage"] = "elsewhere"
            entry.write_text(json.dumps(body))


def forget_the_scorecard(runner: Runner) -> None:
    forget(runner, "scorecard")


def retrain_one_split(runner: Runner) -> None:
    key = str(dg.MultiPartitionKey({SPLIT: runner.study.folds.splits[0], MEMBER: "boosted"}))
    runner.stages(["models"], first=key)


def rewrite_a_pinned_month(runner: Runner) -> None:
    runner.stages(["panel"], first="2026-06")


def wait_beyond_the_age_limit(runner: Runner) -> None:
    environment = runner.environment
    environment.move_clock(environment.clock.now() + timedelta(days=runner.study.promotion.max_age_days + 1))


def tamper_with_the_bundle(runner: Runner) -> None:
    champion = runner.environment.champions(runner.study.name).current()
    assert champion is not None
    path = runner.environment.bundles(runner.study.name) / champion["bundle"] / "policy.json"
    path.write_bytes(path.read_bytes() + b" ")


def cut_the_ledger(runner: Runner) -> None:
    max((runner.environment.home / "ledger" / runner.study.name).glob("0*.json")).unlink()


def edit_the_ledger(runner: Runner) -> None:
    path = min((runner.environment.home / "ledger" / runner.study.name).glob("0*.json"))
    path.write_text(path.read_text().replace('"sharpe":', '"sharpe":1'))


@pytest.mark.parametrize(
    ("overrides", "act", "reason"),
    [
        ({"promotion.gates": OUT_OF_REACH}, rejudged, "net_excess: fail"),
        ({"promotion.gates": OUT_OF_REACH}, keep, "net_excess: missing"),
        ({"promotion.gates": [{"name": "folds_overlap", "bound": 1}, *SIZES["promotion.gates"][1:]]}, keep,
         "folds_overlap: judged against the bound 0"),
        ({}, forget_the_scorecard, "folds_overlap: missing, no evaluation was judged"),
        ({"members.1.rounds": 6}, retrain_one_split, "folds_overlap: judged another hash"),
        ({"members.1.rounds": 6}, retrain_one_split, "candidate: was refitted under another evaluation"),
        ({"universe.seasoning_sessions": 70}, rewrite_a_pinned_month, "stale: panel/2026-06 was rewritten"),
        ({}, wait_beyond_the_age_limit, "stale: the evaluation verdicts are older than 30 days"),
        ({}, wait_beyond_the_age_limit, "stale: the candidate verdicts are older than 30 days"),
        ({}, tamper_with_the_bundle, "Tampered: every file of a bundle hashes"),
        ({}, cut_the_ledger, "Tampered: a chain holds every head that was anchored"),
        ({}, edit_the_ledger, "Tampered: every row hashes to what it records"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)  # fmt: skip
def test_materialising_the_champion_by_hand_is_refused(
    tiny: Tiny, tmp_path: Path, overrides: dict[str, Any], act: Callable[[Runner], None], reason: str
) -> None:
    """Pins each way to a champion that its gates did not allow: the pointer moves, or the attempt leaves no record."""
    runner = copy_of(tiny.eve, tmp_path / "home", overrides=overrides)
    champions = runner.environment.champions(runner.study.name)
    serving = champions.current()
    act(runner)
    with pytest.raises(PromotionRefused, match=reason.replace("(", r"\(")):
        runner.stages(["champion"])
    assert champions.current() == serving
    last = champions.history()[-1]
    assert last["kind"] == "refused"
    assert any(found.startswith(reason) for found in last["reasons"]), last["reasons"]
    assert len(champions.history()) == 2


@pytest.mark.parametrize(("stage", "error"), [("candidate", PromotionRefused), ("folds", MissingTable)])
def test_there_is_no_champion_without_research(
    tiny: Tiny, tmp_path: Path, stage: str, error: type[FoldgateError]
) -> None:
    """Pins an obscure error, or a pointer to nothing, where a stage never ran."""
    runner = copy_of(tiny.eve, tmp_path / "home")
    (runner.environment.home / "champions").rename(tmp_path / "champions")
    forget(runner, stage)
    with pytest.raises(error, match=f"materialise {stage} first"):
        runner.stages(["champion"])
    assert runner.environment.champions(runner.study.name).history() == []


PROMOTE = """
import sys, time
from pathlib import Path
import dagster as dg
from assets.definitions import build_definitions
from assets.runs import Runner
from resources.environments import Environment
runner = Runner(Environment(Path(sys.argv[1])), dg.DagsterInstance.ephemeral(), build_definitions)
Path(sys.argv[2]).touch()
for _ in range(60_000):
    if Path(sys.argv[3]).exists():
        break
    time.sleep(0.001)
runner.stages(["champion"])
"""


def test_two_promotions_at_once_leave_one_chain(tiny: Tiny, tmp_path: Path) -> None:
    """Pins two processes that both become the first champion, or break the chain between them."""
    runner = copy_of(tiny.eve, tmp_path / "home")
    champions = runner.environment.champions(runner.study.name)
    served = champions.current()
    (runner.environment.home / "champions").rename(tmp_path / "champions")
    ready, go = [tmp_path / "ready_0", tmp_path / "ready_1"], tmp_path / "go"
    command = [sys.executable, "-W", "ignore", "-c", PROMOTE, str(runner.environment.home)]
    running = [subprocess.Popen([*command, str(path), str(go)], stderr=subprocess.DEVNULL) for path in ready]
    while not all(path.exists() for path in ready) and not any(process.poll() for process in running):
        time.sleep(0.01)
    go.touch()
    assert [process.wait(timeout=60) for process in running] == [0, 0]
    assert served is not None
    assert [(row["kind"], row["bundle"]) for row in champions.history()] == [("promoted", served["bundle"])]


def test_a_rollback_is_recorded_and_serves_the_older_bundle(tiny: Tiny, tmp_path: Path) -> None:
    """Pins a rollback without a trace, a withdrawn bundle that goes on serving, parity with another than it served."""
    runner = copy_of(tiny.eve, tmp_path / "home", overrides={"calibration.min_positives": 1000})
    splits, champions = runner.study.folds.splits, runner.environment.champions(runner.study.name)
    first = champions.current()
    for stage in ("calibrators", "positions"):
        runner.stages([stage], first=splits[0], last=splits[-1])
    runner.stages(["predictions", "backtest"])
    rejudged(runner)
    runner.stages(["champion"])
    second = champions.current()
    assert first is not None
    assert second is not None
    assert second["bundle"] != first["bundle"]
    live_session(runner, tiny.live[0])
    champions.rollback(first["bundle"][:12], "a test", now=runner.environment.clock.now())
    live_session(runner, tiny.live[1])
    history = champions.history()
    assert [(row["kind"], row["bundle"]) for row in history[1:]] == [
        ("promoted", second["bundle"]),
        ("rolled_back", first["bundle"]),
    ]
    assert history[-1]["reasons"] == ["a test"]
    records = runner.environment.records(runner.study.name) / "selections" / "all_selections.csv"
    rows = pl.read_csv(records, infer_schema=False).filter(pl.col("status") == "SELECTED")
    assert rows["bundle"].to_list() == [second["bundle"], first["bundle"]]
    check_session(runner, tiny.live[0])
    assert runner.environment.artifacts.table(runner.study.name, "parity", "report")["exact"].all()
