"""Every registered family: the laws, replayability, no look at test labels, and bad input."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest

from pipeline.errors import BadInput, KeyViolation, SchemaError
from pipeline.labels.spec import HeadSpec
from pipeline.models.family import FAMILIES, server
from pipeline.models.members import FittedMember, fit_member
from pipeline.models.prepared import Prepared
from pipeline.models.preparing import prepare
from pipeline.models.scoring import MEMBER_FILE, NORMALISER_FILE, load_member
from pipeline.models.spec import LinearSpec, MemberSpec
from tests.laws.models import (
    check_probabilities_are_open,
    check_scores_do_not_depend_on_other_sessions,
    check_scores_do_not_depend_on_the_batch,
    check_scores_do_not_see_the_future,
)
from tests.models.small_market import HEADS, MEMBERS, READS, TRAINING, SmallMarket, small_market

MARKET = small_market()
PREPARED = MARKET.prepared
every_member = pytest.mark.parametrize("spec", MEMBERS, ids=lambda spec: spec.name)


def fit(spec: MemberSpec, market: SmallMarket = MARKET, prepared: Prepared = PREPARED, heads=HEADS) -> FittedMember:
    with TemporaryDirectory() as folder:
        return fit_member(spec, TRAINING, heads, prepared, market.labels, market.roles, workdir=Path(folder))


@cache
def fitted(place: int) -> FittedMember:
    return fit(MEMBERS[place])


def of(spec: MemberSpec) -> FittedMember:
    return fitted(MEMBERS.index(spec))


def test_every_family_is_tested() -> None:
    """Pins a family that is registered without being under these laws."""
    assert {spec.family for spec in MEMBERS} == set(FAMILIES)


@every_member
def test_scores_do_not_depend_on_other_sessions(spec: MemberSpec) -> None:
    """Pins live scores (one session, its window only) that differ from research's in a bit."""
    days = [MARKET.days[i] for i in (0, 20, 39)]
    check_scores_do_not_depend_on_other_sessions(load_member(of(spec).files), MARKET.tables, days)


@every_member
def test_scores_do_not_depend_on_the_batch(spec: MemberSpec) -> None:
    """Pins kernels whose rounding changes with the number of rows or a row's place among them."""
    scorer = load_member(of(spec).files)
    check_scores_do_not_depend_on_the_batch(scorer, scorer.prepared_inputs(PREPARED))


@every_member
def test_scores_do_not_see_the_future(spec: MemberSpec) -> None:
    """Pins a window, rank or normaliser that reaches beyond the decision."""
    check_scores_do_not_see_the_future(load_member(of(spec).files), MARKET.tables, MARKET.days[25])


@every_member
def test_scores_come_from_the_serving_form(spec: MemberSpec) -> None:
    """Pins research scores taken from the in-memory model instead of the files that will serve."""
    member = of(spec)
    scorer = load_member(member.files)
    days = MARKET.roles.filter(pl.col("role").is_in(["tune", "test"]))["session"].unique().to_list()
    served = scorer.score(MARKET.features, MARKET.eligible, days, MARKET.paths)
    assert member.scores.drop("role").equals(served)
    assert member.scores.columns[:3] == ["session", "instrument", "role"]
    assert set(member.scores["role"]) == {"tune", "test"}
    check_probabilities_are_open(scorer, member.scores)


@every_member
def test_test_and_purged_rows_leave_no_trace(spec: MemberSpec) -> None:
    """Pins the worst leak: weights, normaliser or epoch that change with labels or features of test rows."""
    unseen = MARKET.roles.filter(~pl.col("role").is_in(["fit", "tune"]))["session"].unique().to_list()
    hidden = pl.col("session").is_in(unseen)
    labels = MARKET.labels.with_columns(
        pl.when(hidden).then(1 - pl.col(c)).otherwise(pl.col(c)).alias(c)
        for c in ("rank", "q", "buy_block", "fragility")
    )
    # the sequence member's first tune windows lawfully reach into purged sessions: spoil test features only
    test = pl.col("session") >= MARKET.days[31]
    features = MARKET.features.with_columns(
        pl.when(test).then(-3 * pl.col(c)).otherwise(pl.col(c)).alias(c)
        for c in (*[f"f{i}" for i in range(6)], "market")
    )
    bars = MARKET.paths["channels"].to_numpy().copy()
    bars[(MARKET.paths["session"] >= MARKET.days[31]).to_numpy()] = -3.0
    paths = MARKET.paths.with_columns(channels=pl.Series(bars, dtype=MARKET.paths.schema["channels"]))
    spoilt = replace(MARKET, features=features, labels=labels, paths=paths)
    again = fit(spec, spoilt, spoilt.prepared)
    assert again.files == of(spec).files


@every_member
def test_planted_signal_is_found(spec: MemberSpec) -> None:
    """Pins a target column that is misaligned with its rows: everything would still run."""
    test = of(spec).metrics["test"]
    assert test["rank"]["rank_ic"] > 0.35
    assert test["buy_block"]["auc"] > 0.6
    assert test["buy_block"]["rows"] > test["rank"]["rows"]
    json.dumps(of(spec).metrics, allow_nan=False)


@every_member
def test_one_class_and_absent_heads_are_constants_and_say_so(spec: MemberSpec) -> None:
    """Pins a crash, or a made-up model, where there is nothing to learn; the other heads must not notice."""
    heads = (*HEADS, HeadSpec(name="never", kind="probability"), HeadSpec(name="unknown", kind="rank"))
    labels = MARKET.labels.with_columns(never=pl.lit(0.0, pl.Float32), unknown=pl.lit(None, pl.Float32))
    market = replace(MARKET, labels=labels)
    member = fit(spec, market, heads=heads)
    assert member.scores["never_head"].unique().to_list() == [np.float32(1e-6)]
    assert member.scores["unknown_head"].unique().to_list() == [0.0]
    assert member.metrics["test"]["never"]["reason"] == "one class only on the fit rows: 0"
    assert member.metrics["test"]["unknown"]["reason"] == "no fit row has this label"
    assert member.scores.select(of(spec).scores.columns).equals(of(spec).scores)


@every_member
def test_nothing_to_learn_at_all(spec: MemberSpec) -> None:
    """Pins an empty model file where every head is constant."""
    labels = MARKET.labels.with_columns(pl.lit(1.0, pl.Float32).alias("q"))
    market = replace(MARKET, labels=labels)
    member = fit(spec, market, heads=(HEADS[1],))
    assert set(member.files) == {MEMBER_FILE, NORMALISER_FILE}
    assert member.scores["q_head"].unique().to_list() == [np.float32(1 - 1e-6)]


@every_member
def test_thin_sessions_dead_features_and_empty_sessions(spec: MemberSpec) -> None:
    """Pins three-name sessions, a session without eligible names, all-missing and constant features."""
    names = pl.col("instrument").rank("dense").over("session")
    eligible = MARKET.eligible.with_columns(
        eligible=pl.when(pl.col("session") == MARKET.days[4])
        .then(names <= 3)
        .when(pl.col("session") == MARKET.days[6])
        .then(False)
        .otherwise("eligible")
    )
    features = MARKET.features.with_columns(pl.lit(None, pl.Float32).alias("f4"), pl.lit(1.0, pl.Float32).alias("f5"))
    market = replace(MARKET, features=features, eligible=eligible)
    member = fit(spec, market, market.prepared)
    assert member.metrics["test"]["rank"]["rank_ic"] > 0.3
    assert load_member(member.files).score(features, eligible, [MARKET.days[6]], MARKET.paths).is_empty()


def test_without_tune_or_test_rows() -> None:
    """Pins the production refit, where every known row is fitted on."""
    roles = MARKET.roles.with_columns(role=pl.lit("fit"))
    market = replace(MARKET, roles=roles)
    for spec in MEMBERS:
        member = fit(spec, market)
        assert member.scores.is_empty()
        assert member.metrics == {}
        assert (
            load_member(member.files).score(MARKET.features, MARKET.eligible, MARKET.days[-1:], MARKET.paths).height
            > 20
        )


def test_bad_members_are_refused() -> None:
    """Pins training on nothing, doubled or odd labels, unknown families and torn artifacts."""

    def with_(labels=MARKET.labels, roles=MARKET.roles) -> SmallMarket:
        return replace(MARKET, labels=labels, roles=roles)

    with pytest.raises(BadInput, match="eligible fit rows"):
        fit(MEMBERS[0], with_(roles=MARKET.roles.with_columns(role=pl.lit("test"))))
    with pytest.raises(BadInput, match="buy_block are 0 or 1"):
        fit(MEMBERS[0], with_(labels=MARKET.labels.with_columns(buy_block=pl.lit(0.5, pl.Float32))))
    with pytest.raises(BadInput, match="fragility"):
        fit(MEMBERS[0], with_(labels=MARKET.labels.with_columns(fragility=pl.lit(float("inf"), pl.Float32))))
    with pytest.raises(SchemaError, match="fragility"):
        fit(MEMBERS[0], with_(labels=MARKET.labels.drop("fragility")))
    with pytest.raises(KeyViolation):
        fit(MEMBERS[0], with_(labels=pl.concat([MARKET.labels, MARKET.labels[:1]])))
    with pytest.raises(BadInput, match=r"forest.*boosted"):
        server("forest")
    with pytest.raises(BadInput, match="forest"):
        fit(LinearSpec.model_construct(family="forest"))
    with pytest.raises(BadInput, match="absent"):
        load_member({MEMBER_FILE: b"{}"})
    card = json.loads(of(MEMBERS[0]).files[MEMBER_FILE]) | {"format": 99}
    with pytest.raises(BadInput, match="99"):
        load_member(of(MEMBERS[0]).files | {MEMBER_FILE: json.dumps(card).encode()})


def test_scoring_with_other_columns_is_refused() -> None:
    """Pins a bundle fed with another schema: positions would shift silently."""
    scorer = load_member(of(MEMBERS[0]).files)
    with pytest.raises(SchemaError, match=r"missing \['f1'\], unexpected \['extra'\]"):
        scorer.score(MARKET.features.rename({"f1": "extra"}), MARKET.eligible, MARKET.days[:1])
    reordered = MARKET.features.select("session", "instrument", *reversed(MARKET.scopes))
    days = MARKET.days[30:32]
    assert scorer.score(reordered, MARKET.eligible, days).equals(
        scorer.score(MARKET.features, MARKET.eligible, days, MARKET.paths)
    )


@dataclass
class Shift:
    """Scores plus one: an unlawful scorer, for the law's own test."""

    by: int = 0

    def __call__(self, inputs) -> np.ndarray:
        self.by += 1
        return np.full((len(inputs), len(HEADS)), self.by, np.float32)


def test_the_laws_can_fail() -> None:
    """Pins laws that pass whatever they are given."""
    good = load_member(of(MEMBERS[0]).files)
    bad = type(good)(good.card, good.normaliser, Shift())
    with pytest.raises(AssertionError, match="scoring the session alone changes rank_head"):
        check_scores_do_not_depend_on_other_sessions(bad, MARKET.tables, MARKET.days[:2])
    with pytest.raises(AssertionError, match="shuffled rows changes rank_head"):
        check_scores_do_not_depend_on_the_batch(bad, bad.prepared_inputs(PREPARED))
    with pytest.raises(AssertionError, match="a changed future"):
        check_scores_do_not_see_the_future(bad, MARKET.tables, MARKET.days[3])
    with pytest.raises(AssertionError, match="q spans"):
        check_probabilities_are_open(good, bad.score(MARKET.features, MARKET.eligible, MARKET.days[:1], MARKET.paths))


NET = MEMBERS[2]


def test_a_market_without_minutes_switches_path_a_off_and_says_so() -> None:
    """Pins a run that stops, or trains on invented bars, where the vendor sells no minutes."""
    daily_only = prepare(MARKET.features, MARKET.eligible, MARKET.scopes, READS._replace(bars=0))
    member = fit(NET, MARKET, daily_only)
    assert member.notes["switched_off"] == "Path A: the market has no minute bars"
    assert member.notes["paths"] == ["B", "C", "FiLM"]
    scorer = load_member(member.files)
    assert scorer.card.layout.intraday_sessions == 0
    assert member.metrics["test"]["rank"]["rank_ic"] > 0.3
    bars_only = NET.model_copy(update={"daily": None, "towers": ()})
    with pytest.raises(BadInput, match="minute bars and nothing else"):
        fit(bars_only, MARKET, daily_only)


def test_every_path_trains_alone() -> None:
    """Pins a block that works only beside the others: each is a configuration that a study may choose."""
    alone = {
        "A": {"daily": None, "towers": (), "execution": (), "film": ()},
        "B": {"intraday": None, "towers": (), "execution": (), "film": ()},
        "C": {"intraday": None, "daily": None, "execution": (), "film": ()},
    }
    for name, off in alone.items():
        member = fit(NET.model_copy(update=off | {"epochs": 1}))
        assert member.notes["paths"] == [name]
        assert load_member(member.files).score(*MARKET.tables[:2], MARKET.days[-1:], MARKET.paths).height > 20
