"""Power, with the study's own gates and bounds: a planted signal is promoted, a market without one is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from assets.definitions import build_definitions
from assets.runs import Runner
from pipeline.errors import PromotionRefused
from pipeline.models.spec import BoostedSpec, LinearSpec
from pipeline.studies import STUDIES
from resources.environments import Settings, create_environment
from resources.simulated import simulated_market

pytestmark = [pytest.mark.xdist_group("power"), pytest.mark.slow]

# Large enough for the gates to tell the two apart, and no larger; without minutes, which need most of the fetching.
MARKET = {"instruments": 120, "sessions": 280, "minutes": False, "seed": 20_260_930}
SIGNAL = 0.3
# Fewer splits, books and rounds; no gate and no bound is touched.
SIZES: dict[str, Any] = {
    "folds.n_groups": 4,  # with 3 a split trains on a third of the sessions, and tunes on a fifth of that
    "members": [LinearSpec().model_dump(mode="json"), BoostedSpec(rounds=20).model_dump(mode="json")],
    "training.threads": 1,
    "execution.random_books": 50,
    "promotion.bootstrap_samples": 500,
}
RETURN_GATES = {"rank_ic", "net_excess", "worst_path", "probabilistic_sharpe", "deflated_sharpe", "track_record"}


def research(home: Path, signal: float) -> Runner:
    """A market's history, the study on it, and an attempt at promotion."""
    market = {**MARKET, "signal": signal}
    sessions = simulated_market("demo", market).sessions
    settings = Settings(
        profile="demo", market=market, first_session=sessions[0], last_session=sessions[-1], overrides=SIZES
    )
    environment = create_environment(home, settings, home / "no_template")
    runner = Runner(environment, dg.DagsterInstance.ephemeral(), build_definitions)
    assert environment.study.promotion.gates == STUDIES[environment.study.name].promotion.gates
    runner.ingest()
    runner.market()
    runner.research()
    runner.judged("candidate")
    return runner


def verdicts(runner: Runner) -> dict[str, str]:
    tables = [
        runner.environment.artifacts.table(runner.study.name, stage, "verdicts") for stage in ("scorecard", "candidate")
    ]
    return dict(pl.concat(tables).select("gate", "status").rows())


def test_a_planted_signal_is_promoted(tmp_path: Path) -> None:
    """Pins gates so strict that nothing passes, and a pipeline that loses a signal which is there."""
    runner = research(tmp_path / "home", SIGNAL)
    found = verdicts(runner)
    assert set(found) == {gate.name for gate in runner.study.promotion.gates}
    assert {gate for gate, status in found.items() if status not in ("pass", "not_applicable")} == set()
    assert {gate for gate in RETURN_GATES if found[gate] != "pass"} == set()
    runner.stages(["champion"])
    assert runner.environment.champions(runner.study.name).current() is not None


def test_a_market_without_signal_is_refused(tmp_path: Path) -> None:
    """Pins a leak anywhere between vendor and scorecard, and gates that luck can pass."""
    runner = research(tmp_path / "home", 0.0)
    with pytest.raises(PromotionRefused) as refused:
        runner.stages(["champion"])
    red = {gate for gate, status in verdicts(runner).items() if status == "fail"}
    assert {"rank_ic", "net_excess", "deflated_sharpe", "track_record"} <= red
    assert all(f"{gate}: fail" in str(refused.value.observed) for gate in red & RETURN_GATES)
    # What is no matter of luck stays green: the refusal is about returns, not about a broken run.
    assert red <= RETURN_GATES | {"break_even", "overfitting", "locked_excess", "calibration", "refit_correlation"}
    assert runner.environment.champions(runner.study.name).current() is None
