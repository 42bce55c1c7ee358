"""Diagnostics of minutes in the assembled house: on stages that ran, through the pin, stored, kept and listed."""

from __future__ import annotations

import json

import pytest

from assets.diagnosing import asked_for, list_all, show
from assets.runs import Runner
from pipeline.errors import BadInput
from pipeline.stages.minute_diagnostics import MINUTE_DIAGNOSTICS
from tests.minutes_tiny import TinyMinutes
from tests.tiny import copy_of

pytestmark = pytest.mark.xdist_group("tiny_minutes")

QUICK = ("run_diagnosis", "single_features", "dynamic_exit_search", "state_aware_continue")
"""One of each kind of reading: stored trades and scores, features alone, bars, predictions of the paths."""


@pytest.fixture(scope="module")
def ran(tiny_minutes: TinyMinutes, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    runner = copy_of(tiny_minutes.environment.home, tmp_path_factory.mktemp("probes") / "home")
    runner.stages(list(QUICK))
    return runner


def test_they_answer_and_are_no_trial(ran: Runner, tiny_minutes: TinyMinutes) -> None:
    """Pins a probe that does not fit the stored tables, and one that appends to the ledger."""
    name, artifacts = ran.study.name, ran.environment.artifacts
    for diagnostic in QUICK:
        said = json.loads(artifacts.file(name, diagnostic, "finding.json"))
        assert said["status"]
        assert said["counts"]["fit_rows" if diagnostic == "run_diagnosis" else "fit_inner_rows"] > 0
        assert b"data:image/png;base64," in artifacts.file(name, diagnostic, "report.html")
    assert ran.environment.ledger(name).head() == tiny_minutes.environment.ledger(name).head()


def test_the_run_diagnosis_tells_the_trades_of_the_backtest(ran: Runner) -> None:
    """Pins a diagnosis of other trades than those that were judged."""
    name, artifacts = ran.study.name, ran.environment.artifacts
    trades = artifacts.table(name, "backtest", "trades")
    judged = dict(trades.filter(book="locked").group_by("eval_split").len().iter_rows())
    told = artifacts.table(name, "run_diagnosis", "trades")
    assert dict(told.filter(told["trade_count"] > 0).select("split", "trade_count").iter_rows()) == judged


def test_they_are_listed_and_shown(ran: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    """Pins a probe that cannot be found, a terminal without its finding, and one offered that does not apply."""
    list_all(ran.environment, ran.instance)
    listed = capsys.readouterr().out
    assert all(f"{each.name} " in listed for each in MINUTE_DIAGNOSTICS)
    assert "not for perp_minute, which lacks a member of family multi_path: ablation" in listed
    page = show(ran.environment, asked_for(ran.environment, "single_features"))
    assert "Single-feature screen: " in capsys.readouterr().out
    assert page.stat().st_size > 10_000
    with pytest.raises(BadInput, match="needs a member of family multi_path"):
        asked_for(ran.environment, "ablation")
