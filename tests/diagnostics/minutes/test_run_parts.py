"""Run diagnosis, dynamic-exit search, direction-opportunity dataset and the variants, each by itself."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from pipeline.diagnostics.minutes.continue_states import NOT_READY
from pipeline.diagnostics.minutes.continue_variants import continue_variants
from pipeline.diagnostics.minutes.direction_opportunity import NOTHING, READY, direction_opportunity
from pipeline.diagnostics.minutes.dynamic_exits import FOUND, dynamic_exits
from pipeline.diagnostics.minutes.dynamic_exits import NOTHING as NO_EXIT
from pipeline.diagnostics.minutes.nonlinear_probe import NOT_STABLE
from pipeline.diagnostics.minutes.nonlinear_variants import nonlinear_variants
from pipeline.diagnostics.minutes.run_diagnosis import (
    NO_TRADE,
    NOT_TRADABLE,
    REVIEW,
    conclusion,
    gate_funnel,
    run_diagnosis,
)
from pipeline.errors import BadInput
from pipeline.frames import AsOf
from pipeline.labels.minute_spec import MinuteLabelSpec
from pipeline.labels.price_plan import DYNAMIC, PricePlan
from pipeline.labels.spec import HeadSpec
from pipeline.models.spec import TreeHeadsSpec
from pipeline.positions.manager import run
from pipeline.positions.manager_spec import ManagerConfig
from pipeline.positions.trades import TradeMetrics
from tests.diagnostics.minutes.block_rows import block_rows
from tests.diagnostics.minutes.test_nonlinear_probe import FEATURES
from tests.diagnostics.minutes.test_nonlinear_probe import rows as probe_frame
from tests.labels.test_plan_search import CHEAP, blocks_of, market
from tests.positions.minutes import PLAN, random_rows

HEADS = (
    HeadSpec(name="long_entry_prob", kind="probability", target="long_entry_target"),
    HeadSpec(name="long_expected_net_edge_bps", kind="regression", target="long_actual_plan_net_edge_bps"),
)
CONFIG = ManagerConfig()


def made(count: int, edge: float) -> TradeMetrics:
    return TradeMetrics(trade_count=count, mean_weighted_edge_bps=edge)


@pytest.mark.parametrize(("validation", "stress", "said"), [
    (made(0, 0.0), made(9, 1.0), NO_TRADE),
    (made(9, 0.0), made(9, 0.0), NOT_TRADABLE),
    (made(9, -1.0), made(0, 0.0), NOT_TRADABLE),
    (made(9, 0.1), made(9, -1.0), REVIEW),
    (made(9, -1.0), made(9, 0.1), REVIEW),
])
def test_the_conclusion(validation, stress, said):
    """Pins each conclusion, and that both sealed splits must lose before the plan is blamed."""
    assert conclusion({"validation_locked": validation, "latest_stress": stress}) == said


@pytest.fixture(scope="module")
def decided() -> pl.DataFrame:
    frame = random_rows(5, 400)
    targets = {f"{side}_entry_target": (pl.col(f"{side}_actual_edge_bps") > 3).cast(pl.Int8)
               for side in ("long", "short")}
    return frame.with_columns(**targets)


def test_the_funnel_counts_rows_one_by_one(decided):
    """Pins gates counted in another order, from another threshold, or not strictly."""
    funnel = gate_funnel(decided, CONFIG)
    for side in ("LONG", "SHORT"):
        own, low = CONFIG.open.side(side), side.lower()
        left = {name: [0, 0] for name in ("direction", "margin", "entry", "risk", "edge")}
        for row in decided.iter_rows(named=True):
            margin = abs(row["direction_long_prob"] - row["direction_short_prob"])
            passed = [
                row[f"direction_{low}_prob"] > own.min_direction_prob, margin > CONFIG.open.min_direction_margin,
                row[f"{low}_entry_prob"] > own.min_entry_prob, row["market_risk_prob"] < CONFIG.open.max_market_risk,
                row[f"{low}_predicted_edge_bps"] > own.min_edge_bps,
            ]  # fmt: skip
            for i, name in enumerate(left):
                left[name][0] += passed[i]
                left[name][1] += all(passed[: i + 1])
        part = funnel.filter(pl.col("side") == side)
        assert {gate: [alone, both] for gate, alone, both in part.select("gate", "alone", "cumulative").rows()} == left


def test_the_tables_of_a_run(decided):
    """Pins variants that do not relax, deciles of another order, a top share of the wrong rows, and lost counts."""
    labels = decided.select(*(head.label for head in HEADS)).with_columns(split_id=pl.lit("fit_inner"))
    trades = run(decided, CONFIG, PLAN, "validation_locked")
    grid = pl.DataFrame({"trade_count": [0, 3, 5], "mean_weighted_edge_bps": [0.0, -1.0, 2.0]})
    found = run_diagnosis(labels, decided, trades, grid, HEADS, CONFIG, PLAN)
    assert found.score == pytest.approx(trades["weighted_edge_bps"].mean())
    assert found.counts["validation_locked_trades"] == trades.height > 0
    assert found.tables["grid"].row(0) == (3, 2, 1)
    variants = found.tables["variants"]
    assert variants["variant"].to_list() == ["chosen", "entry 0.30", "entry 0.50", "entry 0.70", "direction only"]
    opens = variants["rows_open"].to_list()
    assert opens[1] >= opens[2] >= opens[3]
    assert opens[4] > opens[1]
    assert variants["trade_count"][0] == trades.height
    tenths = found.tables["entry_deciles"].filter(pl.col("side") == "long")
    assert tenths["rows"].to_list() == [80] * 10
    assert tenths["entry_prob"].is_sorted()
    top = found.tables["top_direction"].filter((pl.col("side") == "short") & (pl.col("top_share") == 0.10))
    best = decided.sort("direction_short_prob", descending=True, maintain_order=True).head(80)
    assert top["edge_bps"][0] == pytest.approx(best["short_actual_edge_bps"].mean())
    rates = found.tables["label_rates"].row(0, named=True)
    assert rates["rate"] == pytest.approx(labels["long_entry_target"].mean())
    assert found.tables["label_quantiles"]["q100"][0] == labels["long_actual_plan_net_edge_bps"].max()
    assert "Next step" in found.text


def test_a_run_without_a_sealed_trade(decided):
    """Pins a crash where the manager never traded."""
    labels = decided.select(*(head.label for head in HEADS)).with_columns(split_id=pl.lit("tune_inner"))
    none = run(decided, CONFIG, PLAN, "validation_locked").clear()
    grid = pl.DataFrame({"trade_count": [0], "mean_weighted_edge_bps": [0.0]})
    found = run_diagnosis(labels, decided, none, grid, HEADS, CONFIG, PLAN)
    assert (found.status, found.score) == (NO_TRADE, None)


def test_a_trend_gives_a_robust_exit_and_a_walk_none():
    """Pins a search whose finding does not say what it found, and "none found" that is left to the reader."""
    plans = [PricePlan(entry_plan_method=DYNAMIC, target_distance_bps=8, stop_distance_bps=16, max_hold_minutes=30,
                       trailing_stop_bps=30, second_target_bps=60, min_expected_net_edge_bps=10, **CHEAP)]
    rising, walk = market(6e-5), market(0.0)
    found, none = dynamic_exits(rising, plans, blocks_of(rising)), dynamic_exits(walk, plans, blocks_of(walk))
    assert found.status == FOUND
    assert found.tables["candidates"].row(0, named=True)["robust"]
    assert found.counts["robust"] == 1
    assert (none.status, none.counts["robust"]) == (NO_EXIT, 0)
    assert "None found: no plan of the grid is robust" in none.text
    assert "fit_inner" in none.tables["metrics"]["block"]


@pytest.fixture(scope="module")
def opportunities() -> pl.DataFrame:
    rng = np.random.default_rng(2)
    frame = block_rows(("a",), 2_000, 1_000)
    return frame.with_columns(**{f"{side}_max_achievable_net_edge_bps": pl.Series(rng.uniform(-5, 30, frame.height))
                                 for side in ("long", "short")})


def test_direction_by_opportunity_is_counted_row_by_row(opportunities):
    """Pins the counts of a block, the lead over the other side, and thresholds that share one dataset."""
    found = direction_opportunity(opportunities, PricePlan(), MinuteLabelSpec(), (12.0, 20.0))
    assert found.status == READY
    row = found.tables["metrics"].filter((pl.col("threshold_bps") == 12) & (pl.col("block") == "E2")).row(0, named=True)
    pairs = opportunities.filter(pl.col("block") == "E2").select(
        "long_max_achievable_net_edge_bps", "short_max_achievable_net_edge_bps").rows()
    long = sum(a >= 12 and a - b >= 5 for a, b in pairs)
    short = sum(b >= 12 and b - a >= 5 for a, b in pairs)
    assert (row["rows"], row["long_target"], row["short_target"]) == (1_000, long, short)
    assert row["neutral_rate"] == pytest.approx(1 - (long + short) / 1_000)
    assert found.tables["candidates"]["data_hash"].n_unique() == 2
    best = found.tables["candidates"].row(0, named=True)
    dataset = found.tables["dataset"]
    assert dataset["long_target"].sum() == best["long_target"]
    rates = found.tables["metrics"].filter(pl.col("threshold_bps") == best["threshold_bps"])
    assert found.score == rates.select(pl.min_horizontal("long_rate", "short_rate", "neutral_rate").min()).item()


def test_a_threshold_that_no_side_reaches_gives_no_dataset(opportunities):
    """Pins a dataset of one class that is called usable, and a skipped threshold without its reason."""
    found = direction_opportunity(opportunities, PricePlan(), MinuteLabelSpec(), (1e6,))
    assert (found.status, found.score) == (NOTHING, 0.0)
    assert found.tables["skipped"].row(0) == ("both", "threshold 1e+06", "0 rows of long in E1, 200 needed")
    sealed = opportunities.with_columns(pl.col("block").replace("E3", "latest_stress"))
    with pytest.raises(BadInput, match="no sealed block"):
        direction_opportunity(sealed, PricePlan(), MinuteLabelSpec(), (12.0,))


def test_a_variant_that_cannot_be_fitted_is_skipped_by_name():
    """Pins a probe that dies of one thin population, and a status taken from other than the best on E1."""
    frame = probe_frame(True).with_columns(**{f"{side}_max_achievable_net_edge_bps": pl.lit(1.0)
                                              for side in ("long", "short")})
    place = pl.int_range(pl.len())
    kept = frame.with_columns(
        direction_long_prob=pl.lit(0.6), direction_short_prob=pl.lit(0.5),
        **{f"{side}_entry_target": (place % 2).cast(pl.Int8) for side in ("long", "short")},
        long_target=(place % 5 < 2).cast(pl.Int8), short_target=(place % 5).is_in([2, 3]).cast(pl.Int8),
        neutral_target=(place % 5 == 4).cast(pl.Int8))
    trees = TreeHeadsSpec(rounds=5)
    found = nonlinear_variants(kept, FEATURES, PLAN, trees=trees)
    assert found.tables["variants"]["variant"].to_list() == [
        "direction and entry, direction label", "entry, direction label"]
    assert found.tables["skipped"]["candidate"].to_list() == [
        "direction and entry, side opportunity", "entry, side opportunity"]
    assert "fits on 1000 rows or more" in found.tables["skipped"]["reason"][0]
    picked = found.tables["variants"].filter("picked").row(0, named=True)
    assert picked["score"] == found.tables["variants"]["score"].max() == found.score
    assert picked["status"] == found.status
    labels = {f"{way}_target": pl.lit(int(way == "neutral")) for way in ("long", "short", "neutral")}
    none = nonlinear_variants(kept.with_columns(**labels), FEATURES, PLAN, trees=trees)
    assert (none.status, none.score, none.tables["skipped"].height) == (NOT_STABLE, None, 4)


@pytest.mark.parametrize(("plan", "says"), [
    (PricePlan(), "features of the state are absent: ret_1m_bps"),
    (PricePlan(entry_plan_method=DYNAMIC), "features of the state are absent"),
])
def test_continue_without_the_features_of_a_state_is_not_ready(plan, says):
    """Pins a crash of a study without books."""
    nothing = pl.DataFrame()
    found = continue_variants(AsOf(nothing), nothing, ["spread_bps"], nothing, CONFIG, plan, PLAN, 10)
    assert found.status == NOT_READY
    assert says in found.text
    assert found.tables["skipped"]["side"].to_list() == ["long", "short"]
