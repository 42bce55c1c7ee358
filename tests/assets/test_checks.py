"""Asset checks: they show stored verdicts and counts in the UI; the champion stage decides by itself."""

from __future__ import annotations

from datetime import time
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster._core.errors import DagsterAssetCheckFailedError

from assets.checks import build_checks
from assets.daily import run_session
from assets.keys import manifest_key, stage_key
from assets.runs import QUIET, Runner
from pipeline.clock import instant
from pipeline.errors import IncompleteTables
from pipeline.studies import STUDIES
from tests.tiny import SIZES, Tiny, copy_of

pytestmark = pytest.mark.xdist_group("tiny")

OUT_OF_REACH = [*SIZES["promotion.gates"], {"name": "net_excess", "bound": 99}]


def evaluations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {check.check_name: check for check in result.get_asset_check_evaluations()}


@pytest.fixture(scope="module")
def red(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """A study with a gate that nothing reaches; its scorecard is not judged yet."""
    return copy_of(tiny.eve, tmp_path_factory.mktemp("red") / "home", overrides={"promotion.gates": OUT_OF_REACH})


def test_every_gate_of_a_study_has_a_check_on_the_stage_that_judges_it() -> None:
    """Pins a gate that decides without being seen."""
    for study in STUDIES.values():
        checks = {spec.key for built in build_checks(study, []) for spec in built.check_specs}
        for gate in study.promotion.gates:
            stage = "scorecard" if gate.applies_to == "evaluation" else "candidate"
            assert dg.AssetCheckKey(stage_key(study, stage), gate.name) in checks


def test_a_red_gate_stops_the_same_run_and_shows_its_verdict(red: Runner) -> None:
    """Pins a candidate refitted, or a champion moved, in the run that has just judged its evaluation red."""
    champions, name = red.environment.champions(red.study.name), red.study.name
    before = champions.history(), red.environment.artifacts.current(name, "candidate")[""].sequence
    with pytest.raises(DagsterAssetCheckFailedError, match="net_excess"):
        red.stages(["scorecard", "candidate", "champion"])
    assert (champions.history(), red.environment.artifacts.current(name, "candidate")[""].sequence) == before
    run = red.instance.get_runs(limit=1)[0]
    assert run.status == dg.DagsterRunStatus.FAILURE
    records = red.instance.get_records_for_run(run.run_id).records
    shown = {
        e.check_name: e for r in records if (e := r.event_log_entry.asset_check_evaluation) is not None
    }  # fmt: skip
    gate = shown["net_excess"]
    stored = red.environment.artifacts.table(name, "scorecard", "verdicts").filter(gate="net_excess").row(0, named=True)
    assert stored["status"] == "fail"
    assert not gate.passed
    assert gate.blocking
    assert {key: gate.metadata[key].value for key in ("status", "value", "low", "bound", "evaluation_hash")} == {
        key: stored[key] for key in ("status", "value", "low", "bound", "evaluation_hash")
    }
    assert gate.description == f"{stored['rule']}: {stored['detail']}"
    assert shown["folds_overlap"].passed


def test_green_gates_let_the_run_go_on(tiny: Tiny, tmp_path: Path) -> None:
    """Pins checks that stop every run: scorecard to champion in one."""
    runner = copy_of(tiny.eve, tmp_path / "home")
    result = runner.stages(["scorecard", "candidate", "champion"])
    checks = evaluations(result)
    assert set(checks) == {gate["name"] for gate in SIZES["promotion.gates"]}
    assert all(check.passed for check in checks.values())
    assert [row["kind"] for row in runner.environment.champions(runner.study.name).history()] == ["promoted"]


def test_a_verdict_that_is_not_stored_is_red(tiny: Tiny, tmp_path: Path) -> None:
    """Pins a check that passes because the gate was never judged."""
    runner = copy_of(tiny.eve, tmp_path / "home", overrides={"promotion.gates": OUT_OF_REACH})
    job = dg.define_asset_job("only_checks", dg.AssetSelection.checks_for_assets(stage_key(runner.study, "scorecard")))
    definitions = dg.Definitions(
        assets=[dg.AssetSpec(stage_key(runner.study, "scorecard"))],
        asset_checks=build_checks(runner.study, []),
        jobs=[job],
        resources={"environment": runner.environment},
    )
    result = definitions.resolve_job_def("only_checks").execute_in_process(
        instance=runner.instance, run_config=QUIET, raise_on_error=False
    )
    check = evaluations(result)["net_excess"]
    assert not check.passed
    assert check.metadata["status"].value == "missing"
    assert check.description == "net_excess: not judged; materialise scorecard again"


def test_completeness_lists_the_incomplete_sessions(tiny: Tiny, tmp_path: Path) -> None:
    """Pins a hole in the lake that is seen only when inference refuses."""
    faults = {"missing_sessions": 3, "stretch": 4, "late_rate": 0, "revision_rate": 0}
    runner = copy_of(tiny.eve, tmp_path / "home", market={"faults": faults})
    vendor, session = runner.study.market.vendor, tiny.live[0]
    assert evaluations(runner.job(f"{vendor}_manifest"))["complete"].passed
    runner.environment.move_clock(instant(session, time(20, 30)))
    with pytest.raises(IncompleteTables):
        run_session(runner, session)
    check = evaluations(runner.job(f"{vendor}_manifest"))["complete"]
    assert check.asset_key == manifest_key(vendor)
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert check.metadata["incomplete"].value == {"moneyflow": [session.isoformat()]}


def test_parity_counts_the_sessions_it_compared(tiny: Tiny, tmp_path: Path) -> None:
    """Pins a green check over nothing. (What turns it red: tests/end_to_end/test_live.py.)"""
    runner = copy_of(tiny.environment.home, tmp_path / "home")
    check = evaluations(runner.stages(["parity"], first=tiny.live[-1].isoformat()))["exact"]
    assert check.passed
    assert check.metadata["sessions"].value == len(tiny.live)
    assert check.metadata["different"].value == 0
    reports = runner.environment.artifacts.table(runner.study.name, "parity", "report")
    assert reports.filter(pl.col("exact"))["session"].n_unique() == len(tiny.live)
