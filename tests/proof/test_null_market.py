"""The control on two tiny null markets, and what turns it red."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from assets.proof.contract import BROKEN, HELD
from assets.proof.null_finding import finding, pooled
from assets.proof.null_market import LEFT_OUT, control, leaking, plans_of, run
from assets.proof.simulated_research import MarketPlan, each_market
from pipeline.diagnostics.finding import Finding
from pipeline.studies import STUDIES

pytestmark = [pytest.mark.xdist_group("proof_null"), pytest.mark.slow]
STUDY = STUDIES["ashare_daily"]


def silent(text: str, done: float) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("null")


@pytest.fixture(scope="module")
def found(folder: Path) -> Finding:
    return run("small", folder, silent)


@pytest.fixture(scope="module")
def plans() -> list[MarketPlan]:
    return plans_of(STUDY, "small")


@pytest.fixture(scope="module")
def results(found: Finding, folder: Path, plans: list[MarketPlan]) -> dict[str, dict[str, Any]]:
    """What the run stored; it would be fitted anew were it not."""
    return each_market(control, plans, folder, silent)


def test_nothing_is_found_and_nothing_promoted(found: Finding) -> None:
    """Pins a leak of the size that two tiny markets show, and gates that luck or a rising market can pass."""
    assert found.status == HELD, found.text
    markets = found.tables["markets"]
    assert markets["promoted"].to_list() == [False, False]
    assert markets["drift a session"].to_list() == [0.0, 0.002]
    assert found.tables["control"]["standard error"][0] < 0.03
    assert all(draw()[:4] == b"\x89PNG" for draw in found.figures.values())


@pytest.fixture(scope="module")
def broken(folder: Path, plans: list[MarketPlan]) -> tuple[MarketPlan, dict[str, Any]]:
    """The first market told by a vendor that knows the future, and judged by gates that ask for no returns."""
    kept = ("folds_overlap", "replay")
    gates = [gate.model_dump(mode="json") for gate in STUDY.promotion.gates if gate.name in kept]
    told = leaking(plans[0], 0.5)
    judged = replace(told, promotes=True, overrides={**told.overrides, "promotion.gates": gates})
    return told, each_market(control, [judged], folder, silent)[judged.name]


def test_a_vendor_that_knows_the_future_breaks_it(
    broken: tuple[MarketPlan, dict[str, Any]], plans: list[MarketPlan], results: dict[str, dict[str, Any]]
) -> None:
    """Pins a control that would stay green whatever leaks: one column of one table does, through the real graph."""
    told, leaky = broken
    assert leaky["leaked"] == pytest.approx(0.5, abs=0.05)
    as_if_clean = results | {plans[0].name: results[plans[0].name] | {"rank_ic": leaky["rank_ic"]}}
    judged = finding(plans[:1], as_if_clean, {})
    assert judged.status == BROKEN
    assert "standard errors from 0" in judged.text
    seen = finding([*plans, told], results | {told.name: leaky}, {})
    assert seen.status == HELD
    assert seen.tables["leaks"]["seen"].to_list() == [True]


def test_gates_that_ask_for_no_returns_break_it(
    broken: tuple[MarketPlan, dict[str, Any]], plans: list[MarketPlan], results: dict[str, dict[str, Any]]
) -> None:
    """Pins a control in which something else than the gates keeps candidates from being promoted."""
    _, judged = broken
    assert judged["promoted"]
    outcome = {name: judged[name] for name in ("promoted", "refused", "gates")}
    assert finding(plans, results | {plans[1].name: results[plans[1].name] | outcome}, {}).status == BROKEN


def test_a_leak_that_is_not_seen_breaks_it(plans: list[MarketPlan], results: dict[str, dict[str, Any]]) -> None:
    """Pins a control without power that is published as if it had some."""
    told = leaking(plans[0], 0.5)
    blind = results | {told.name: {"rank_ic": results[plans[0].name]["rank_ic"], "leaked": 0.5}}
    assert finding([*plans, told], blind, {}).status == BROKEN
    assert finding(plans, results, {STUDY.name: 0.001}).status == BROKEN  # far from as precise as that


@pytest.mark.parametrize(
    "outcome",
    [
        {"gates": {"rank_ic": "missing", "net_excess": "fail"}},
        {"gates": {"rank_ic": "pass", "calibration": "fail"}},
    ],
    ids=["a gate without evidence", "refused for another reason"],
)
def test_a_candidate_that_is_not_refused_for_its_returns_breaks_it(
    outcome: dict[str, Any], plans: list[MarketPlan], results: dict[str, dict[str, Any]]
) -> None:
    """Pins a refusal that proves nothing about returns: a run that broke off is refused as well."""
    assert finding(plans, results, {}).status == HELD
    assert finding(plans, results | {plans[1].name: results[plans[1].name] | outcome}, {}).status == BROKEN


def test_the_standard_error_is_the_markets_own() -> None:
    """Pins an error from sessions that share their luck, by which a lucky market would count as many."""
    random = np.random.default_rng(3)
    runs = [np.repeat(random.normal(0.0, 1.0, 60), 20).tolist() for _ in range(40)]
    assert pooled(runs).error == pytest.approx(1.0 / np.sqrt(40 * 60), rel=0.1)
    luck = random.normal(0.0, 1.0, 40)
    shifted = [(np.asarray(values) + of).tolist() for values, of in zip(runs, luck, strict=True)]
    assert pooled(shifted).error == pytest.approx(1.0 / np.sqrt(40), rel=0.3)


def test_every_study_and_member_is_in_the_published_control() -> None:
    """Pins a study, or a family that is not among the ones said to be left out, that no null market ever saw."""
    for study in STUDIES.values():
        made = plans_of(study, "full")
        clean = [plan for plan in made if not plan.leak]
        assert len({plan.market["seed"] for plan in clean}) == len(clean) >= 3
        names = {member["name"] for member in clean[0].overrides["members"]}
        assert names == {member.name for member in study.members if member.family not in LEFT_OUT}
        assert {plan.market["signal"] for plan in made} == {0.0}
        assert not {key for plan in made for key in plan.overrides if key.startswith(("promotion", "execution"))}
    stocks = [plan for plan in plans_of(STUDY, "full") if not plan.leak]
    assert len(stocks) == 60
    assert pl.Series([plan.market["rise"] for plan in stocks]).value_counts()["count"].to_list() == [20, 20, 20]
