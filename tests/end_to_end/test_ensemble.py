"""Champions of one member or several, refitted or of every split: what was judged is what serves, with its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from assets.daily import check_session
from assets.runs import Runner
from pipeline.serving.bundle import Bundle, load_bundle
from tests.tiny import Tiny, copy_of, live_session

pytestmark = pytest.mark.xdist_group("tiny")

KEY = ["session", "instrument"]


def champion(runner: Runner) -> Bundle:
    environment, name = runner.environment, runner.study.name
    serving = environment.champions(name).current()
    assert serving is not None
    return load_bundle(environment.bundles(name), serving["bundle"])


def promoted(tiny: Tiny, folder: Path, ensemble: dict[str, Any]) -> Runner:
    """A copy of the eve whose champion is an ensemble of another kind; no model is fitted for its evaluation."""
    runner = copy_of(tiny.eve, folder / "home", overrides={"ensemble": ensemble})
    runner.research()
    runner.judged("candidate")
    runner.stages(["champion"])
    return runner


def slow_average(bundle: Bundle, scores: pl.DataFrame, column: str, *, ranked: bool) -> np.ndarray:
    """The weighted mean over parts as the formula says it, in key order."""
    total = np.zeros(0)
    for part in bundle.parts:
        raw = scores.filter(member=part.name).drop("member").sort(KEY)
        served = bundle.calibrators[part.name].apply(raw)
        value = (served[column].rank("average") - 0.5) / len(served) if ranked else served[column]
        total = part.weight * value.to_numpy() + (total if total.size else 0.0)
    return total


@pytest.mark.parametrize(
    ("ensemble", "members", "every_split"),
    [
        ({"members": ["boosted"], "weights": "equal", "splits": "production"}, ["boosted"], False),
        ({"members": ["boosted", "linear"], "weights": "tune_rank_ic", "splits": "all"}, ["linear", "boosted"], True),
    ],
    ids=["one member refitted", "all members of every split"],
)
def test_an_ensemble_is_judged_promoted_and_served_as_it_is(
    tiny: Tiny, tmp_path: Path, ensemble: dict[str, Any], members: list[str], every_split: bool
) -> None:
    """Pins parts that never serve, weights that live forgets, baselines in a bundle, and parity over such a bundle."""
    runner = promoted(tiny, tmp_path, ensemble)
    artifacts, study = runner.environment.artifacts, runner.study
    bundle = champion(runner)
    splits = study.folds.splits if every_split else ("production",)
    assert [part.name for part in bundle.parts] == [f"{name}@{split}" for split in splits for name in members]
    assert sum(bundle.weights) == pytest.approx(1.0, abs=1e-12)
    if every_split:
        models = artifacts.current(study.name, "models")
        for part in bundle.parts:
            assert bundle.manifest["weights"][part.name] == models[f"{part.split}|{part.member}"].files
            recorded = json.loads(artifacts.file(study.name, "calibrators", "weights.json", partition=part.split))
            assert [w["weight"] for w in recorded["members"] if w["member"] == part.member] == [
                pytest.approx(part.weight * len(splits))
            ]
        assert bundle.policy.origin == "locked"
    day = tiny.live[0]
    live_session(runner, day)
    made = {
        name: artifacts.table(study.name, "inference", name, partitions=[day.isoformat()])
        for name in ("scores", "predictions", "tensors")
    }
    assert sorted(made["tensors"]["member"]) == sorted(part.name for part in bundle.parts)
    predictions = made["predictions"].sort(KEY)
    for column, ranked in (("rank_pred", True), ("q_pred", False)):
        expected = slow_average(bundle, made["scores"], column, ranked=ranked)
        np.testing.assert_allclose(predictions[column].to_numpy(), expected, rtol=1e-12)
    live_session(runner, tiny.live[1])
    check_session(runner, day)
    assert artifacts.table(study.name, "parity", "report")["exact"].all()


def test_research_predicts_with_the_weights_it_recorded(tiny: Tiny, tmp_path: Path) -> None:
    """Pins weights that are written down and not used, and a baseline that enters predictions or is not counted."""
    overrides = {"ensemble": {"members": ["linear"], "weights": "tune_rank_ic", "splits": "production"}}
    runner = copy_of(tiny.eve, tmp_path / "home", overrides=overrides)
    runner.research()
    artifacts, study, split = runner.environment.artifacts, runner.study, runner.study.folds.splits[0]
    weights = artifacts.table(study.name, "calibrators", "weights", partitions=[split])
    assert weights.select("member", "weight").rows() == [("linear", 1.0)]
    predictions = artifacts.table(study.name, "predictions", "predictions").filter(split=split).sort(KEY)
    raw = artifacts.table(study.name, "models", "scores", partitions=[f"{split}|linear"]).filter(role="test").sort(KEY)
    place = pl.col("rank_head").rank("average").over("session")
    alone = raw.select((place - 0.5) / pl.len().over("session")).to_series()
    assert predictions["score"].to_list() == alone.to_list()
    trials = runner.environment.ledger(study.name).rows()
    newest = trials.filter(evaluation=trials["evaluation"][-1])
    assert set(newest["label"]) == {"ensemble", "boosted"}
    before = trials.filter(evaluation=trials["evaluation"][0])
    assert set(before["label"]) == {"ensemble", "linear", "boosted"}
