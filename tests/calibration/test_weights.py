"""Weights of an ensemble: chosen on tune rows alone, recorded exactly, and a mean when they are applied."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import spearmanr

from pipeline.calibration.averaging import average_members
from pipeline.calibration.spec import EnsembleSpec
from pipeline.calibration.weights import EnsembleWeights, ensemble_weights
from pipeline.errors import BadInput
from pipeline.labels.spec import HeadSpec
from pipeline.studies import STUDIES
from pipeline.study import Study

HEADS = (HeadSpec(name="rank", kind="rank"), HeadSpec(name="q", kind="probability"))
BY_IC = EnsembleSpec(weights="tune_rank_ic")
SESSIONS, NAMES = 12, 30


def keys() -> pl.DataFrame:
    days = [date(2024, 1, 1) + timedelta(days=i) for i in range(SESSIONS)]
    return pl.DataFrame(
        {
            "session": np.repeat(np.array(days, "M8[D]"), NAMES),
            "instrument": [f"{i:03d}" for i in range(NAMES)] * SESSIONS,
        }
    )


def market(skills: dict[str, float]) -> tuple[dict[str, pl.DataFrame], pl.DataFrame]:
    """Members' tune scores, the truth times a skill plus noise; every eighth label is not known."""
    draw = np.random.default_rng(5)
    truth = draw.standard_normal(SESSIONS * NAMES)
    label = pl.Series([None if i % 8 == 0 else float(value) for i, value in enumerate(truth)], dtype=pl.Float32)
    scores = {
        name: keys().with_columns(
            role=pl.lit("tune"),
            rank_head=pl.Series(skill * truth + draw.standard_normal(len(truth)), dtype=pl.Float32),
        )
        for name, skill in skills.items()
    }
    return scores, keys().with_columns(rank=label)


def slow_ic(scores: pl.DataFrame, labels: pl.DataFrame) -> float:
    both = scores.join(labels, on=["session", "instrument"]).drop_nulls("rank")
    parts = both.partition_by("session")
    return float(np.mean([spearmanr(part["rank"], part["rank_head"]).statistic for part in parts]))


def test_weights_follow_the_rank_ic_on_tune() -> None:
    """Pins weights by another measure, a member that hurts and still counts, and rows without a known label."""
    scores, labels = market({"good": 1.0, "fair": 0.3, "bad": -0.8})
    found = ensemble_weights(scores, labels, "rank", BY_IC)
    ics = {name: slow_ic(frame, labels) for name, frame in scores.items()}
    assert ics["bad"] < 0 < ics["fair"] < ics["good"]
    for each in found.members:
        assert each.rank_ic == pytest.approx(ics[each.member], abs=1e-6)
        assert each.sessions == SESSIONS
    total = ics["good"] + ics["fair"]
    expected = {"good": ics["good"] / total, "fair": ics["fair"] / total, "bad": 0.0}
    assert found.by_member == pytest.approx(expected, abs=1e-6)
    assert list(found.by_member) == ["good", "fair", "bad"]
    shuffled = {name: frame.sample(fraction=1.0, shuffle=True, seed=2) for name, frame in scores.items()}
    assert ensemble_weights(shuffled, labels, "rank", BY_IC) == found


@pytest.mark.parametrize("case", ["all hurt", "flat", "no truth"])
def test_without_a_useful_member_all_weigh_the_same_and_it_says_why(case: str) -> None:
    """Pins a division by zero, weights of NaN, and an ensemble that loses all members in silence."""
    scores, labels = market({"a": -1.0, "b": -2.0})
    if case == "flat":
        scores = {name: frame.with_columns(rank_head=pl.lit(0.5, pl.Float32)) for name, frame in scores.items()}
    elif case == "no truth":
        labels = labels.with_columns(rank=pl.lit(None, pl.Float32))
    found = ensemble_weights(scores, labels, "rank", BY_IC)
    assert found.by_member == {"a": 0.5, "b": 0.5}
    assert found.reason.startswith("equal: no member's rank head")
    assert ensemble_weights(scores, labels, "rank", EnsembleSpec()).reason == "equal, as the study says"
    assert [each.rank_ic is None for each in found.members] == [case != "all hurt"] * 2


def test_rows_that_were_not_tuned_on_are_refused() -> None:
    """Pins weights chosen on the rows that judge them."""
    scores, labels = market({"a": 1.0, "b": 0.5})
    scores["b"] = scores["b"].with_columns(role=pl.Series(["tune", *["test"] * (SESSIONS * NAMES - 1)]))
    with pytest.raises(BadInput, match="tune rows only"):
        ensemble_weights(scores, labels, "rank", BY_IC)
    with pytest.raises(BadInput, match="has members"):
        ensemble_weights({}, labels, "rank", BY_IC)


def test_recorded_weights_are_exact() -> None:
    """Pins weights that lose their last bits, or their order, in the file that live reads."""
    scores, labels = market({"z": 1.0, "m": 0.1, "a": 0.3})
    found = ensemble_weights(scores, labels, "rank", BY_IC)
    assert EnsembleWeights.from_json(found.to_json()) == found
    assert list(EnsembleWeights.from_json(found.to_json()).by_member) == ["z", "m", "a"]
    assert dict(found.to_frame().select("member", "weight").iter_rows()) == found.by_member


def member(seed: int) -> pl.DataFrame:
    draw = np.random.default_rng(seed)
    return keys().with_columns(
        rank_pred=pl.Series(draw.standard_normal(SESSIONS * NAMES)),
        q_pred=pl.Series(draw.choice([0.0, 0.1, 0.3, 1.0], SESSIONS * NAMES)),
    )


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_equal_weights_give_the_bits_of_no_weights(n: int) -> None:
    """Pins 1/3 + 1/3 + 1/3: a sum of rounded shares, not of the values, would move every record by a bit."""
    frames = [member(seed) for seed in range(n)]
    plain = average_members(frames, HEADS, "rank_pred")
    assert average_members(frames, HEADS, "rank_pred", [1 / n] * n).equals(plain)
    total = frames[0]["q_pred"]
    for frame in frames[1:]:
        total = total + frame["q_pred"]
    assert plain["q_pred"].equals((total / n).alias("q_pred"))  # polars' division: by the rounded reciprocal


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=6))
def test_a_weighted_mean_is_a_mean(raw: list[float]) -> None:
    """Pins a probability of 1.0000000000000002, which a filter at 1 refuses, and weights that meet other members."""
    weights = [value / sum(raw) for value in raw]
    frames = [member(seed) for seed in range(len(raw))]
    mean = average_members(frames, HEADS, "rank_pred", weights)
    expected = sum(frame["q_pred"].to_numpy() * weight for frame, weight in zip(frames, weights, strict=True))
    np.testing.assert_allclose(mean["q_pred"].to_numpy(), expected, rtol=1e-12)
    assert mean["q_pred"].is_between(0.0, 1.0).all()
    sure = [frame.with_columns(q_pred=pl.lit(1.0)) for frame in frames]
    one = average_members(sure, HEADS, "rank_pred", weights)["q_pred"]
    assert 1.0 - 1e-15 <= one.min() <= one.max() <= 1.0


@pytest.mark.parametrize(
    ("members", "ensemble", "observed"),
    [
        ({}, {"members": ["nobody"]}, "nobody"),
        ({}, {"members": ["linear", "linear"]}, "each once"),
        ({}, {"weights": "loudest"}, "tune_rank_ic"),
        ({"name": "a|b"}, {}, "a|b"),
        ({"name": "a@b"}, {}, "a@b"),
        ({"name": "weights"}, {}, "weights"),
    ],
)
def test_ensembles_that_a_study_refuses(members: dict[str, Any], ensemble: dict[str, Any], observed: str) -> None:
    """Pins an ensemble of members that nobody trains, and names that would collide with partitions, parts or files."""
    values = STUDIES["ashare_daily"].model_dump(mode="json")
    values["members"][0] |= members
    with pytest.raises(ValidationError, match=observed.replace("|", r"\|")):
        Study.model_validate(values | {"ensemble": ensemble})


def test_an_ensemble_keeps_the_studys_order() -> None:
    """Pins a float sum that depends on the order in which somebody wrote two names."""
    study = STUDIES["ashare_daily"]
    names = [each.name for each in study.members]
    chosen = study.model_copy(update={"ensemble": EnsembleSpec(members=tuple(reversed(names[:2])))})
    assert chosen.ensemble_names == tuple(names[:2])
    assert study.ensemble_names == tuple(names)
