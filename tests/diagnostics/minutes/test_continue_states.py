"""State-aware Continue: a planted state passes, noise does not, an oracle never; every check of the rule counts."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from pipeline.diagnostics.minutes.continue_states import (
    BY_LABEL,
    BY_MANAGER,
    NOT_READY,
    PASS,
    ContinueSpec,
    continue_checks,
    continue_rows,
    label_chosen_entries,
    manager_entries,
    state_aware_continue,
)
from pipeline.errors import BadInput, KeyViolation
from pipeline.features.minutes.position_state import SIDED, STATE_ORDER, Barriers, position_states
from pipeline.frames import AsOf, Hindsight
from pipeline.labels.minute_heads import continue_labels
from pipeline.labels.minute_spec import MinuteLabelSpec
from pipeline.labels.path_outcomes import path_outcomes
from pipeline.labels.price_plan import DYNAMIC, PricePlan
from pipeline.positions.manager import predicted_edges
from pipeline.positions.manager_spec import ManagerConfig, PlanNumbers
from tests.diagnostics.minutes.block_rows import block_rows

MARKET = ("ret_15m_bps", "spread_bps")
SPEC = ContinueSpec(least_fit_rows=500)


def rows(weight: float, by: str = BY_MANAGER, seed: int = 3) -> pl.DataFrame:
    """Both sides at every minute; the edge ahead follows `unrealized_pnl_bps` by `weight`."""
    sides = []
    for i, side in enumerate(("LONG", "SHORT")):
        frame = block_rows((*MARKET, *STATE_ORDER), 900, 500, seed + i)
        edge = 5.0 * weight * frame["unrealized_pnl_bps"].to_numpy()
        edge = edge + np.random.default_rng(seed + 9 + i).normal(size=frame.height) * 5.0
        sides.append(frame.with_columns(
            pl.Series("expected_continue_edge_bps", edge), pl.Series("continue_target", (edge >= 5).astype(np.int8)),
            side=pl.lit(side), entry_minute=pl.col("minute") - pl.duration(minutes=5), entries_by=pl.lit(by)))
    return pl.concat(sides)


@pytest.fixture(scope="module")
def planted() -> pl.DataFrame:
    return rows(1.0)


@pytest.mark.parametrize("spec", [SPEC, ContinueSpec(least_fit_rows=500, regressor="ridge", clip_bps=20.0)])
def test_a_planted_state_passes(planted, spec):
    """Pins state features that never reach the model, for both regressors."""
    found = state_aware_continue(planted, MARKET, spec)
    assert found.status == PASS, found.text
    assert found.tables["checks"].height == 2 * 2 * 5
    assert found.tables["reasons"].is_empty()
    assert found.score == found.tables["metrics"].filter(
        pl.col("arm") == "market_and_state", pl.col("block") != "E1")["auc"].min()


def test_noise_is_not_ready_with_every_reason():
    """Pins a pass by chance, and a status without its reasons or without the checks that held."""
    found = state_aware_continue(rows(0.0), MARKET, SPEC)
    assert found.status == NOT_READY
    assert {f"{block}_{side}_not_auc_at_least_0.60" for block in ("E2", "E3") for side in ("LONG", "SHORT")} <= set(
        found.tables["reasons"]["reason"])
    assert "Passed: E2_LONG_regressor_converged" in found.text


def test_an_oracle_never_passes():
    """Pins entries chosen by their own label on the way into the formal chain."""
    found = state_aware_continue(rows(1.0, BY_LABEL), MARKET, SPEC)
    assert found.status == NOT_READY
    assert found.tables["reasons"]["reason"].to_list() == [BY_LABEL]
    assert "an oracle" in found.text


def test_e1_does_not_count(planted):
    """Pins a confirming role of E1: turned round there, the rest still passes."""
    turned = planted.with_columns(continue_target=pl.when(pl.col("block") == "E1").then(1 - pl.col("continue_target"))
                                  .otherwise("continue_target"))
    assert state_aware_continue(turned, MARKET, SPEC).status == PASS


def test_a_side_without_rows_or_classes_is_skipped_with_its_reason(planted):
    """Pins a pass on one side alone."""
    few = planted.filter((pl.col("side") == "LONG") | (pl.int_range(pl.len()) % 2 == 0))
    assert "SHORT_fit_rows_450_below_500" in state_aware_continue(few, MARKET, SPEC).tables["reasons"]["reason"]
    one = planted.with_columns(continue_target=pl.when(pl.col("block") == "E3").then(0).otherwise("continue_target"))
    found = state_aware_continue(one, MARKET, SPEC)
    assert (found.score, found.status) == (None, NOT_READY)
    assert found.tables["reasons"]["reason"].to_list() == ["LONG_E3_without_both_classes",
                                                           "SHORT_E3_without_both_classes"]


def test_a_regressor_at_its_limit_does_not_pass(planted):
    """Pins a solution that is none."""
    found = state_aware_continue(planted, MARKET, SPEC.model_copy(update={"iterations": 1}))
    assert "E2_LONG_not_regressor_converged" in found.tables["reasons"]["reason"]


GOOD = {"auc": 0.60, "mae_ratio": 0.97, "converged": True}


@pytest.mark.parametrize(
    ("own", "other", "failed"),
    [
        ({}, {}, []),
        ({"auc": 0.5999}, {}, ["auc_at_least_0.60"]),
        ({"mae_ratio": 0.9701}, {}, ["mae_ratio_at_most_0.97"]),
        ({}, {"auc": 0.60}, ["auc_better_than_market"]),
        ({}, {"mae_ratio": 0.97}, ["mae_better_than_market"]),
        ({"converged": False}, {}, ["regressor_converged"]),
    ],
)
def test_each_check_of_the_rule(own, other, failed):
    """Pins 0.60 and 0.97, inclusive, and "strictly better" than market only."""
    arms = {"market_and_state": GOOD | own, "market": {"auc": 0.55, "mae_ratio": 0.99, "converged": True} | other}
    metrics = pl.DataFrame([{"arm": arm, "block": "E2", "side": "LONG"} | own for arm, own in arms.items()])
    assert continue_checks(metrics).filter(~pl.col("passed"))["check"].to_list() == failed


def market_of_bars(n: int = 400) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A random walk of bars and the features that states and a manager read of them."""
    rng = np.random.default_rng(5)
    frame = block_rows((*MARKET, *SIDED), n, 1)[:n]
    close = 100 * np.exp(np.cumsum(rng.normal(size=n) * 4e-4))
    bars = frame.select("session", "instrument", "minute", pl.Series("close", close), spread_bps=pl.lit(1.0))
    return bars.with_columns(high=pl.col("close") * 1.0002, low=pl.col("close") * 0.9998), frame.select(
        "session", "instrument", "minute", *MARKET, *SIDED)


def scored(bars: pl.DataFrame, plan: PlanNumbers) -> pl.DataFrame:
    """Predictions that open LONG at even minutes and SHORT at odd ones."""
    even = pl.int_range(pl.len()) % 2 == 0
    probs = {"direction_long_prob": pl.when(even).then(0.9).otherwise(0.05),
             "direction_short_prob": pl.when(even).then(0.05).otherwise(0.9),
             **{name: pl.lit(0.95) for name in ("long_entry_prob", "short_entry_prob")},
             "market_risk_prob": pl.lit(0.1)}
    return predicted_edges(bars.select("session", "instrument", "minute", **probs), plan)


def test_from_bars_to_rows():
    """Pins the chain: manager's entries, their states, the side's own label of the state's minute, its block."""
    bars, features = market_of_bars()
    plan = PricePlan()
    numbers = PlanNumbers(
        price_plan_id=plan.price_plan_id, price_plan_config_hash=plan.price_plan_hash, target_distance_bps=12.0,
        stop_distance_bps=8.0, max_hold_minutes=45, cost_bps=plan.cost_bps, entry_target_method="PRICE_PLAN_OUTCOME_V1")
    predictions = scored(bars, numbers)
    entries = manager_entries(predictions, ManagerConfig(), numbers)
    assert entries.height == 400
    assert set(entries["entry_direction_prob"]) == {0.9}
    states = position_states(AsOf(bars), AsOf(features), entries, Barriers(
        target_distance_bps=12.0, stop_distance_bps=8.0, cost_bps=plan.cost_bps))
    labels = continue_labels(path_outcomes(Hindsight(bars), plan, 45), plan, MinuteLabelSpec())
    blocks = bars.select("session", "instrument", "minute", block=pl.lit("fit_inner"))
    found = continue_rows(states, features, labels, blocks, plan)
    assert found.height == (355 - 5) + (355 - 15) + (355 - 30)
    one = found.filter(pl.col("side") == "SHORT").row(50, named=True)
    label = labels.filter(pl.col("minute") == one["minute"])
    assert one["expected_continue_edge_bps"] == label["short_expected_continue_edge_bps"][0]
    assert one["entries_by"] == BY_MANAGER
    with pytest.raises(BadInput, match="fixed plan"):
        continue_rows(states, features, labels, blocks, PricePlan(entry_plan_method=DYNAMIC))
    with pytest.raises(BadInput, match="of one price plan"):
        continue_rows(states, features, labels, blocks, PricePlan(stop_distance_bps=9.0))
    with pytest.raises(KeyViolation, match="every state's minute has features"):
        continue_rows(states, features.head(100), labels, blocks, plan)


def test_the_oracle_takes_what_came_true():
    """Pins an oracle that is not marked as one."""
    bars, _ = market_of_bars(20)
    numbers = PlanNumbers(
        price_plan_id="p", price_plan_config_hash="00", target_distance_bps=12.0, stop_distance_bps=8.0,
        max_hold_minutes=45, cost_bps=6.5, entry_target_method="PRICE_PLAN_OUTCOME_V1")
    came_true = scored(bars, numbers).with_columns(
        long_entry_target=(pl.int_range(pl.len()) == 3).cast(pl.Int8), short_entry_target=pl.lit(0, pl.Int8))
    found = label_chosen_entries(came_true)
    assert found.select("side", "entries_by", "entry_direction_prob").rows() == [("LONG", BY_LABEL, 0.05)]


def test_bad_rows_are_named(planted):
    """Pins holes in states and entries of two kinds in one measurement."""
    with pytest.raises(BadInput, match="features are finite"):
        state_aware_continue(planted.with_columns(side_ret_1m_bps=pl.lit(None, pl.Float32)), MARKET, SPEC)
    mixed = pl.when(pl.int_range(pl.len()) == 0).then(pl.lit(BY_LABEL)).otherwise("entries_by")
    with pytest.raises(BadInput, match="entries are by"):
        state_aware_continue(planted.with_columns(entries_by=mixed), MARKET, SPEC)
