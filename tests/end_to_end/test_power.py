"""Power, with the study's own gates and bounds: a planted signal is promoted, a market without one is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assets.proof.simulated_research import RETURN_GATES, MarketPlan, attempt_promotion, researched, verdicts
from assets.runs import Runner
from pipeline.models.spec import BoostedSpec, LinearSpec
from pipeline.studies import STUDIES

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


def judged(home: Path, signal: float) -> tuple[Runner, str]:
    """A market's history, the study on it, and why its candidate was refused."""
    study = next(iter(STUDIES.values()))
    runner = researched(MarketPlan("power", study.name, "demo", {**MARKET, "signal": signal}, SIZES), home)
    assert runner.study.promotion.gates == study.promotion.gates
    return runner, attempt_promotion(runner)


def test_a_planted_signal_is_promoted(tmp_path: Path) -> None:
    """Pins gates so strict that nothing passes, and a pipeline that loses a signal which is there."""
    runner, refused = judged(tmp_path / "home", SIGNAL)
    found = verdicts(runner)
    assert set(found) == {gate.name for gate in runner.study.promotion.gates}
    assert {gate for gate, status in found.items() if status not in ("pass", "not_applicable")} == set()
    assert {gate for gate in RETURN_GATES if found[gate] != "pass"} == set()
    assert refused == ""
    assert runner.environment.champions(runner.study.name).current() is not None


def test_a_market_without_signal_is_refused(tmp_path: Path) -> None:
    """Pins a leak anywhere between vendor and scorecard, and gates that luck can pass."""
    runner, refused = judged(tmp_path / "home", 0.0)
    red = {gate for gate, status in verdicts(runner).items() if status == "fail"}
    assert {"rank_ic", "net_excess", "deflated_sharpe", "track_record"} <= red
    assert all(f"{gate}: fail" in refused for gate in red.intersection(RETURN_GATES))
    # What is no matter of luck stays green: the refusal is about returns, not about a broken run.
    assert red <= {*RETURN_GATES, "break_even", "overfitting", "locked_excess", "calibration", "refit_correlation"}
    assert runner.environment.champions(runner.study.name).current() is None
