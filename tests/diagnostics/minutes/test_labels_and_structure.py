"""Low-MAE label, conditional entry, good-trade structure: planted and empty cases, arithmetic, statuses, skips."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.diagnostics.minutes.conditional_entry import ConditionalEntrySpec, conditional_entry
from pipeline.diagnostics.minutes.labels import LowMaeSpec, low_mae_labels
from pipeline.diagnostics.minutes.learners import LearnerSpec, aucs, learner, top_edge
from pipeline.diagnostics.minutes.structure import StructureSpec, good_trade_structure
from pipeline.errors import BadInput, SchemaError
from tests.diagnostics.minutes.planted import FEATURES, minutes

EVALUATION = ("E1", "E2", "E3")
TREES = LearnerSpec(family="balanced_trees", rounds=20)
SMALL = ConditionalEntrySpec(min_fit_rows=200, min_evaluation_rows=100)


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    return minutes()


def slow_top(score: list[float], edge: list[float], share: float) -> float:
    """Mean edge of the top rows, over every order in which ties may stand."""
    k = int(len(score) * share + 1e-9)
    cut = sorted(score, reverse=True)[k - 1]
    above = [e for s, e in zip(score, edge, strict=True) if s > cut]
    tied = [e for s, e in zip(score, edge, strict=True) if s == cut]
    return (sum(above) + (k - len(above)) * sum(tied) / len(tied)) / k


def test_auc_and_top_edge_equal_plain_definitions() -> None:
    """Pins ties: half a pair in an AUC, their mean at the cut of the top rows."""
    rng = np.random.default_rng(0)
    x, positive = rng.integers(0, 5, (60, 3)).astype(float), rng.uniform(size=60) < 0.4
    pairs = [[(a > b) + 0.5 * (a == b) for a in c[positive] for b in c[~positive]] for c in x.T]
    assert aucs(x, positive) == pytest.approx([np.mean(p) for p in pairs])
    edge = rng.normal(size=60)
    for share in (0.05, 0.5, 1.0):
        assert top_edge(x[:, 0], edge, share) == pytest.approx(slow_top(list(x[:, 0]), list(edge), share))
    assert top_edge(x[:, 0], edge, 0.01) is None
    with pytest.raises(BadInput, match="both classes"):
        aucs(x, np.ones(60, bool))


@pytest.mark.parametrize("family", ["balanced_logistic", "balanced_trees"])
def test_probabilities_keep_the_prevalence_and_repeat(family: str) -> None:
    """Pins balanced fitting that leaves a rare class at one half, which ruins a Brier; and unseeded trees."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4_000, 2))
    target = rng.uniform(size=4_000) < 1 / (1 + np.exp(3.0 - x[:, 0]))
    spec = LearnerSpec(family=family, rounds=30)
    one, two = (learner(x, spec)(target)(x) for _ in range(2))
    assert one.mean() == pytest.approx(target.mean(), abs=0.02)
    assert np.array_equal(one, two)


def test_a_row_cap_keeps_the_newest_rows() -> None:
    """Pins a cap that keeps the oldest: early rows say the opposite of late ones here."""
    x = np.linspace(-1, 1, 400)[:, None]
    x = np.concatenate([x, x])
    target = np.concatenate([x[:400, 0] < 0, x[400:, 0] > 0])
    predict = learner(x, LearnerSpec(max_fit_rows=400))(target)
    assert predict(np.array([[0.9]]))[0] > 0.5


def test_low_mae_labels_find_a_planted_side_and_not_noise(frame: pl.DataFrame) -> None:
    """Pins a probe that misses a foreseeable label, or that finds one in noise."""
    spec = LowMaeSpec(learner=TREES, max_mae_bps=(6.0, 8.0), min_achievable_bps=(6.0, 12.0))
    found = low_mae_labels(frame, FEATURES, spec)
    assert found.status == "PROMISING_LOW_MAE_LABEL"
    assert set(found.tables["candidates"].filter("usable")["side"]) == {"long"}
    assert low_mae_labels(frame, ["noise"]).status == "NO_STABLE_LOW_MAE_LABEL"


def test_low_mae_scores_equal_a_slow_computation(frame: pl.DataFrame) -> None:
    """Pins target, constant, AUC, top edge and score of one label, from the model's own probabilities."""
    spec = LowMaeSpec(max_mae_bps=(6.0,), min_achievable_bps=(12.0,))
    candidate = low_mae_labels(frame, FEATURES, spec).tables["candidates"].filter(pl.col("side") == "long").row(
        0, named=True)
    blocks = {b: frame.filter(pl.col("block") == b).sort("minute", "instrument") for b in ("fit_inner", *EVALUATION)}
    y = {b: ((f["long_mae_bps"] <= 6) & (f["long_max_achievable_net_edge_bps"] >= 12)).to_numpy()
         for b, f in blocks.items()}
    predict = learner(blocks["fit_inner"].select(FEATURES).to_numpy(), spec.learner)(y["fit_inner"])
    edges, order, lifts, ratios = [], [], [], []
    for block in EVALUATION:
        score = predict(blocks[block].select(FEATURES).to_numpy())
        edge = blocks[block]["long_actual_plan_net_edge_bps"].to_list()
        edges.append(slow_top(list(score), edge, 0.10))
        order.append(roc_auc_score(y[block], score))
        lifts.append(edges[-1] - sum(edge) / len(edge))
        ratios.append(((score - y[block]) ** 2).mean() / ((y["fit_inner"].mean() - y[block]) ** 2).mean())
    score = min(edges) + 0.25 * sum(edges) / 3 + 2 * min(order) + all(x > 0 for x in lifts)
    assert candidate["score"] == pytest.approx(score, abs=1e-9)
    assert candidate["mean_brier_ratio"] == pytest.approx(np.mean(ratios), abs=1e-12)


def test_one_class_labels_stay_listed_as_skipped(frame: pl.DataFrame) -> None:
    """Pins a label that nobody meets being dropped in silence, or fitted."""
    spec = LowMaeSpec(max_mae_bps=(6.0,), min_achievable_bps=(6.0, 500.0))
    found = low_mae_labels(frame, FEATURES, spec)
    assert found.tables["skipped"].rows() == [
        (side, "MAE <= 6, max achievable >= 500", "one class in fit_inner: 0 of 4000 rows positive")
        for side in ("long", "short")]
    assert found.tables["candidates"].height == 2


def test_conditional_entry_scores_and_marks_hindsight(frame: pl.DataFrame) -> None:
    """Pins filter, shares and score against a slow computation, and an oracle that does not say it is one."""
    found = conditional_entry(frame, FEATURES, SMALL)
    candidates, metrics = found.tables["candidates"], found.tables["metrics"]
    assert candidates["reads_future"].all()
    assert "NEVER LIVE" in found.text
    assert found.status == "PROMISING_WITH_HINDSIGHT_ONLY"
    key = (pl.col("side") == "long", pl.col("min_achievable_bps") == 12.0, pl.col("target_edge_bps") == 3.0)
    inside = pl.col("long_max_achievable_net_edge_bps") >= 12.0
    blocks = {b: frame.filter((pl.col("block") == b) & inside).sort("minute", "instrument")
              for b in ("fit_inner", *EVALUATION)}
    edge = {b: f["long_actual_plan_net_edge_bps"] for b, f in blocks.items()}
    x = {b: f.select(FEATURES).to_numpy() for b, f in blocks.items()}
    predict = learner(x["fit_inner"], SMALL.learner)((edge["fit_inner"] >= 3.0).to_numpy())
    for share in SMALL.top_shares:
        row = candidates.filter(*key, pl.col("top_share") == share).row(0, named=True)
        tops = [slow_top(list(predict(x[b])), edge[b].to_list(), share) for b in EVALUATION]
        score = min(tops) + 0.25 * sum(tops) / 3 + 2 * all(t > 0 for t in tops)
        assert row["score"] == pytest.approx(score, abs=1e-9)
        lifts = [t - frame.filter(pl.col("block") == b)["long_actual_plan_net_edge_bps"].mean()
                 for t, b in zip(tops, EVALUATION, strict=True)]
        assert row["min_lift_bps"] == pytest.approx(min(lifts), abs=1e-9)
    seen = metrics.filter(*key, pl.col("block") == "E2")
    assert seen["filtered_edge_bps"].to_list() == pytest.approx([edge["E2"].mean()] * len(SMALL.top_shares))


def test_conditional_entry_skips_small_filters(frame: pl.DataFrame) -> None:
    """Pins models fitted on a handful of rows: 1,000 to fit, 500 to evaluate."""
    found = conditional_entry(frame, FEATURES, ConditionalEntrySpec(min_achievable_bps=(12.0, 60.0)))
    reasons = found.tables["skipped"].filter(pl.col("candidate") == "max achievable >= 60")["reason"].to_list()
    assert reasons == ["0 rows in fit_inner, 1000 needed"] * 2
    short = ConditionalEntrySpec(min_achievable_bps=(12.0,), min_fit_rows=2, min_evaluation_rows=3_000)
    assert conditional_entry(frame, FEATURES, short).tables["skipped"]["reason"].str.contains("E1, 3000 needed").all()
    none = conditional_entry(frame.with_columns(
        long_actual_plan_net_edge_bps=pl.lit(-5.0), short_actual_plan_net_edge_bps=pl.lit(-5.0)), FEATURES, SMALL)
    assert none.status == "NO_STABLE_CONDITIONAL_ENTRY"
    assert none.tables["skipped"]["reason"].str.starts_with("one class").sum() > 0


def test_structure_finds_the_planted_feature_in_its_own_direction(frame: pl.DataFrame) -> None:
    """Pins a direction taken from all blocks or ignored, and the score's parts."""
    turned = frame.with_columns(turned=-pl.col("signal"))
    found = good_trade_structure(turned, ["turned", "noise"], StructureSpec(learner=TREES))
    candidates = found.tables["candidates"]
    best = candidates.row(0, named=True)
    assert (best["side"], best["feature"], best["direction"], best["stable"]) == ("long", "turned", -1, True)
    assert not candidates.filter(pl.col("feature") == "noise")["usable"].any()
    order, tops = [], []
    for block in EVALUATION:
        own = frame.filter(pl.col("block") == block)
        edge = own["long_actual_plan_net_edge_bps"]
        order.append(roc_auc_score((edge >= 3.0).to_numpy(), own["signal"].to_numpy()))
        tops.append(slow_top(own["signal"].to_list(), edge.to_list(), 0.01))
    assert min(order) >= 0.53
    assert best["score"] == pytest.approx(10 * min(order) + 0.1 * min(tops) + 2 + 3, abs=1e-9)
    assert found.tables["metrics"].height == 2 * 2 * 3 * 3


def test_direction_is_fixed_on_the_first_block(frame: pl.DataFrame) -> None:
    """Pins a feature that turns round after E1 being called stable."""
    fickle = frame.with_columns(pl.when(pl.col("block") == "E3").then(-pl.col("signal")).otherwise("signal")
                                .alias("signal"))
    row = good_trade_structure(fickle, ["signal"], StructureSpec(learner=TREES)).tables["candidates"].filter(
        pl.col("side") == "long").row(0, named=True)
    assert row["picked"]
    assert not row["stable"]
    assert row["min_auc"] < 0.5


def test_structure_counts_its_three_classes(frame: pl.DataFrame) -> None:
    """Pins the bounds of good, break-even and bad, which belong to the class."""
    edge = pl.when(pl.int_range(pl.len()) % 4 == 0).then(3.0).when(pl.int_range(pl.len()) % 4 == 1).then(0.0)
    exact = frame.with_columns(edge.otherwise(-3.0).alias("long_actual_plan_net_edge_bps"))
    classes = good_trade_structure(exact, ["noise"], StructureSpec(learner=TREES)).tables["classes"]
    seen = classes.filter(pl.col("side") == "long").select("good_rate", "break_even_rate", "bad_rate")
    assert seen.rows() == [(0.25, 0.5, 0.5)] * 4


def test_tree_statuses(frame: pl.DataFrame) -> None:
    """Pins each status string and the bound that separates it from the next."""
    spec = StructureSpec(learner=TREES)
    found = good_trade_structure(frame, FEATURES, spec)
    assert found.status == "PROMISING_TREE_STRUCTURE"
    long = found.tables["trees"].filter(pl.col("side") == "long")
    bound = float(long["auc"].min())
    at, above = (spec.model_copy(update={"promising_auc": value}) for value in (bound, bound + 1e-9))
    assert good_trade_structure(frame, FEATURES, at).status == "PROMISING_TREE_STRUCTURE"
    assert good_trade_structure(frame, FEATURES, above).status == "NO_STABLE_TREE_STRUCTURE"
    assert good_trade_structure(frame, ["noise"], spec).status == "NO_STABLE_TREE_STRUCTURE"
    assert good_trade_structure(frame, FEATURES, StructureSpec(min_rows=4_001)).status == "NO_MODEL_ROWS"
    never = frame.with_columns(long_actual_plan_net_edge_bps=pl.lit(-5.0), short_actual_plan_net_edge_bps=pl.lit(-5.0))
    assert good_trade_structure(never, FEATURES, spec).status == "NO_MODEL_ROWS"


def test_a_block_without_a_top_row_has_its_own_status() -> None:
    """Pins a mean over no row: 8 rows have no top 10 %, and no top 1 % for a feature."""
    tiny = minutes({"fit_inner": 100, "E1": 100, "E2": 4, "E3": 100})
    by_turns = pl.when(pl.int_range(pl.len()) % 2 == 0).then(5.0).otherwise(-5.0)
    tiny = tiny.with_columns(by_turns.alias(f"{side}_actual_plan_net_edge_bps") for side in ("long", "short"))
    found = good_trade_structure(tiny, ["signal"], StructureSpec(min_rows=100, learner=TREES))
    assert found.status == "NO_TOP10_ROWS"
    assert set(found.tables["skipped"]["reason"]) == {"no row in the top 1 % of E2"}


@pytest.mark.parametrize("probe", [low_mae_labels, conditional_entry, good_trade_structure])
def test_missing_labels_and_features_are_named(frame: pl.DataFrame, probe) -> None:  # type: ignore[no-untyped-def]
    """Pins a probe that goes on without the actual plan edge or with a hole in a feature."""
    with pytest.raises(SchemaError, match="long_actual_plan_net_edge_bps"):
        probe(frame.drop("long_actual_plan_net_edge_bps"), ["signal"])
    broken = frame.with_columns(noise=pl.lit(float("nan")))
    with pytest.raises(BadInput, match="'noise': 14200"):
        probe(broken, ["noise"])
