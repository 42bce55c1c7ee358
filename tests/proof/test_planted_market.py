"""The positive control on one tiny market, and what turns it red."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assets.proof.contract import BROKEN, HELD
from assets.proof.planted_market import PLANTED, Planted, finding, plan_of, run
from assets.proof.simulated_research import MarketPlan
from pipeline.diagnostics.finding import Finding
from pipeline.studies import STUDIES

pytestmark = [pytest.mark.xdist_group("proof_planted"), pytest.mark.slow]
STUDY = STUDIES["ashare_daily"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planted")


@pytest.fixture(scope="module")
def found(folder: Path) -> Finding:
    return run("small", folder, lambda text, done: None)


@pytest.fixture(scope="module")
def case(found: Finding, folder: Path) -> tuple[MarketPlan, Planted, dict[str, Any]]:
    """The small market, and what was stored of it."""
    planted = PLANTED["small"][0]
    plan = plan_of(STUDY, planted)
    return plan, planted, json.loads((folder / f"{plan.name}.json").read_bytes())


def test_a_planted_signal_is_found(found: Finding) -> None:
    """Pins a pipeline that loses a signal which is there."""
    assert found.status == HELD, found.text
    rows = found.tables["recovered"]
    assert rows["of whom"].to_list() == ["ensemble", "linear"]
    assert rows["oracle rank IC"][0] == pytest.approx(0.3, abs=0.05)
    assert 0.4 < rows["share recovered"][0] < 1.0
    assert all(draw()[:4] == b"\x89PNG" for draw in found.figures.values())


def test_a_score_that_lost_the_signal_breaks_it(case: tuple[MarketPlan, Planted, dict[str, Any]]) -> None:
    """Pins a control that any score passes: here the sessions' scores are drawn at random."""
    plan, planted, result = case
    noise = np.random.default_rng(1).normal(0.0, 0.15, len(result["rank_ic"]["linear"])).tolist()
    lost = result | {"rank_ic": result["rank_ic"] | {"linear": noise}}
    assert finding([(plan, planted)], {plan.name: lost}).status == BROKEN


def test_a_weak_signal_must_be_recovered_closely(case: tuple[MarketPlan, Planted, dict[str, Any]]) -> None:
    """Pins a bound of 0.005 that nothing enforces, in either direction: more than the oracle has is a leak."""
    plan, planted, result = case
    close = Planted(planted.name, planted.decides, planted.profile, planted.market, close=True)
    assert finding([(plan, close)], {plan.name: result}).status == BROKEN
    oracle = np.asarray(result["rank_ic"]["oracle"])
    for shift, status in ((-0.004, HELD), (0.004, HELD), (0.006, BROKEN)):
        near = result | {"rank_ic": result["rank_ic"] | {"ensemble": (oracle + shift).tolist()}}
        assert finding([(plan, close)], {plan.name: near}).status == status


def test_a_refused_candidate_breaks_it(case: tuple[MarketPlan, Planted, dict[str, Any]]) -> None:
    """Pins gates so strict that nothing passes."""
    plan, planted, result = case
    strong = Planted(planted.name, planted.decides, planted.profile, planted.market, promoted=True)
    refused = result | {"promoted": False, "refused": "rank_ic: fail"}
    judged = finding([(plan, strong)], {plan.name: refused})
    assert judged.status == BROKEN
    assert "rank_ic: fail" in judged.text
    assert finding([(plan, strong)], {plan.name: result | {"promoted": True}}).status == HELD


def test_every_study_is_promoted_with_all_its_members_in_the_published_control() -> None:
    """Pins a study or a member of which nobody knows what it recovers, and gates loosened until something passes."""
    for study in STUDIES.values():
        own = [planted for planted in PLANTED["full"] if planted.decides == study.market.decides and planted.promoted]
        assert own
        assert [dict(plan_of(study, planted).overrides) for planted in own] == [{}] * len(own)
    wide = next(planted for planted in PLANTED["full"] if planted.close)
    assert (wide.market["instruments"], wide.market["sessions"], wide.market["signal"]) == (1_000, 1_000, 0.03)
