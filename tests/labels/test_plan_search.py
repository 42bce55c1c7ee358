"""Plan search: figures against a direct reading of the outcomes, scores by hand, honest refusals."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.errors import BadInput, KeyViolation
from pipeline.frames import MINUTE_ROW as KEY
from pipeline.frames import Hindsight
from pipeline.labels.path_outcomes import of_side, path_outcomes
from pipeline.labels.plan_search import (
    dynamic_grid,
    dynamic_score,
    fixed_score,
    require_output_name,
    search_plans,
)
from pipeline.labels.price_plan import DYNAMIC, PricePlan
from tests.labels.test_path_outcomes import bars_of

CHEAP = {"fee_bps": 0.0, "slippage_bps": 0.0, "funding_cost_bps": 0.0}


def market(drift: float, n: int = 4_000) -> Hindsight:
    """A walk whose minutes rise by `drift`, 5 bps each."""
    rng = np.random.default_rng(11)
    close = 100 * np.exp(np.cumsum(rng.normal(drift, 5e-4, n)))
    reach = np.exp(np.abs(rng.normal(0, 2e-4, (2, n))))
    return Hindsight(bars_of((close * reach[0]).tolist(), (close / reach[1]).tolist(), close.tolist()))


def blocks_of(bars: Hindsight, gap: int = 60) -> pl.DataFrame:
    """Fit and three evaluation blocks of a thousand minutes, `gap` of them purged at each end."""
    rows = bars.frame.select(KEY).with_columns(i=pl.int_range(pl.len()))
    names = pl.Series(["fit_inner", "E1", "E2", "E3"])
    kept = rows.filter(pl.col("i") % 1_000 < 1_001 - gap)
    return kept.select(*KEY, block=names.gather(kept["i"] // 1_000))


def test_figures_of_a_block() -> None:
    """Pins every figure of a plan, side and block against the outcomes read directly."""
    bars, plan = market(0.0), PricePlan()
    blocks = blocks_of(bars)
    found = search_plans(bars, [plan], blocks)
    row = found.metrics.filter((pl.col("side") == "SHORT") & (pl.col("block") == "E2")).row(0, named=True)
    of = of_side(path_outcomes(bars, plan), "SHORT").join(blocks.filter(pl.col("block") == "E2"), on=KEY)
    edge = of["gross_edge_bps"] - 6.5
    assert row["rows"] == of.height == 941
    figures = {
        "mean_edge_bps": edge.mean(), "median_edge_bps": edge.median(), "p10_edge_bps": edge.quantile(0.1, "linear"),
        "p90_edge_bps": edge.quantile(0.9, "linear"), "positive_rate": (edge >= 3).mean(),
        "break_even_rate": (edge >= 0).mean(), "target_rate": of["target_hit"].mean(),
        "stop_rate": of["stop_hit"].mean(), "timeout_rate": of["timeout_hit"].mean(),
        "mean_minutes_to_exit": of["time_to_exit_ms"].mean() / 60_000, "mean_mfe_bps": of["mfe_bps"].mean(),
        "mean_mae_bps": of["mae_bps"].mean(), "mean_max_achievable_edge_bps": of["mfe_bps"].mean() - 6.5,
        "margin": of["target_hit"].mean() - (8 + 6.5) / 20,
    }
    assert {name: row[name] for name in figures} == pytest.approx(figures, rel=1e-12)


def seen(**changes: float) -> dict[str, float]:
    """Figures of a candidate."""
    return {"mean_edge_bps": 2.0, "worst_edge_bps": 1.0, "worst_margin": 0.1, "mean_max_achievable_edge_bps": 20.0,
            "lowest_positive_rate": 0.3, "highest_positive_rate": 0.5, "lowest_break_even_rate": 0.5,
            "highest_stop_rate": 0.25} | changes


def test_scores_by_hand() -> None:
    """Pins every coefficient of both scores, the penalties outside [0.03, 0.55] included."""
    plan = PricePlan()  # target - stop = 4
    base = 16 + 3 + 8 + 1 + math.log(5)
    assert fixed_score(plan, seen()) == pytest.approx(base)
    assert fixed_score(plan, seen(lowest_positive_rate=0.01)) == pytest.approx(base - 120 * 0.02)
    assert fixed_score(plan, seen(highest_positive_rate=0.65)) == pytest.approx(base - 2)
    wide = PricePlan(stop_distance_bps=50)
    assert fixed_score(wide, seen()) == pytest.approx(base - math.log(5))
    assert dynamic_score(seen()) == pytest.approx(16 + 4 + 10 + 6 - 2)


def test_null_market_has_no_robust_plan() -> None:
    """Pins the honest answer: no signal, costs, hence no robust plan, and the best is only named for study."""
    bars = market(0.0)
    found = search_plans(bars, [PricePlan(), PricePlan(target_distance_bps=24)], blocks_of(bars))
    assert not found.robust_candidate_found
    assert not found.candidates["robust"].any()
    assert "no plan is robust" in found.conclusion
    best = found.candidates.sort("score", descending=True).row(0, named=True)
    assert found.next_to_study["BOTH"]["price_plan_id"] == best["price_plan_id"]
    assert "mean edge > 0" in best["broken_rules"]


def test_trend_is_found_on_its_side_only() -> None:
    """Pins the search's power: in a rising market a trailing LONG is robust and a SHORT is not."""
    bars = market(6e-5)
    plans = [PricePlan(entry_plan_method=DYNAMIC, target_distance_bps=8, stop_distance_bps=16, max_hold_minutes=30,
                       trailing_stop_bps=trail, second_target_bps=60, min_expected_net_edge_bps=10,
                       price_plan_id=f"trail{trail}", **CHEAP) for trail in (30, 60)]
    found = search_plans(bars, plans, blocks_of(bars))
    assert found.robust_candidate_found
    assert set(found.chosen) == {"LONG"}
    assert set(found.next_to_study) == {"SHORT"}
    rows = found.candidates.filter((pl.col("side") == "LONG") & pl.col("robust"))
    assert found.chosen["LONG"]["score"] == rows["score"].max()


def test_fit_block_is_reported_and_never_scored() -> None:
    """Pins that the fit block stands in the metrics and moves no score."""
    bars = market(0.0)
    blocks = blocks_of(bars)
    whole = search_plans(bars, [PricePlan()], blocks)
    without = search_plans(bars, [PricePlan()], blocks.filter(pl.col("block") != "fit_inner"))
    assert "fit_inner" in whole.metrics["block"]
    assert whole.candidates.equals(without.candidates)


def test_first_of_equal_plans_wins() -> None:
    """Pins the tie: equal plans under two names, the first is chosen."""
    bars = market(0.0)
    plans = [PricePlan(price_plan_id=name) for name in ("b", "a")]
    assert search_plans(bars, plans, blocks_of(bars)).next_to_study["BOTH"]["price_plan_id"] == "b"


def test_grid_of_81_plans() -> None:
    """Pins the grid: its size, values, names, and that cost and bounds are the base plan's."""
    grid = dynamic_grid(PricePlan(slippage_bps=3.0))
    assert len({plan.price_plan_id for plan in grid}) == len(grid) == 81
    assert "dyn_h45_t12_s8_trail8_t2x2_p50_25" in {plan.price_plan_id for plan in grid}
    values = {name: {getattr(plan, name) for plan in grid} for name in (
        "max_hold_minutes", "target_distance_bps", "stop_distance_bps", "trailing_stop_bps", "cost_bps")}
    assert values == {"max_hold_minutes": {30, 45, 60}, "target_distance_bps": {8, 12, 16},
                      "stop_distance_bps": {4, 6, 8}, "trailing_stop_bps": {4, 8, 12}, "cost_bps": {7.5}}
    assert all(plan.second_target_bps == 2 * plan.target_distance_bps for plan in grid)


def _sealed(blocks: pl.DataFrame) -> pl.DataFrame:
    return blocks.with_columns(pl.col("block").replace("fit_inner", "validation_locked"))


def _swapped(blocks: pl.DataFrame) -> pl.DataFrame:
    return blocks.with_columns(pl.col("block").replace({"E1": "E2", "E2": "E1"}))


@pytest.mark.parametrize(("spoil", "says"), [
    (_sealed, "sealed rows are no input of a choice"),
    (_swapped, "follow each other"),
    (lambda blocks: blocks.filter(pl.col("block") != "E3"), "absent"),
    (lambda blocks: blocks.with_columns(pl.col("minute") + pl.when(pl.col("block") == "E1").then(
        timedelta(minutes=20)).otherwise(timedelta(0))), "purged"),
    (lambda blocks: blocks.with_columns(pl.lit("ETHUSDT").alias("instrument")), "bars ahead are known"),
])
def test_bad_blocks_are_named(spoil: Any, says: str) -> None:
    """Pins the guard of the choice: sealed, missing, swapped, unpurged or foreign rows."""
    bars = market(0.0)
    with pytest.raises(BadInput, match=says):
        search_plans(bars, [PricePlan()], spoil(blocks_of(bars)))


def test_blocks_and_plans_are_told_apart() -> None:
    """Pins doubled rows, no plans, mixed methods and a doubled name."""
    bars = market(0.0)
    blocks = blocks_of(bars)
    with pytest.raises(KeyViolation):
        search_plans(bars, [PricePlan()], pl.concat([blocks, blocks.head(1)]))
    for plans, says in (([], "no plans"), ([PricePlan(), PricePlan(entry_plan_method=DYNAMIC)], "one method"),
                        ([PricePlan(), PricePlan(fee_bps=1)], "its own price_plan_id")):
        with pytest.raises(BadInput, match=says):
            search_plans(bars, plans, blocks)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "/"])
def test_output_name_is_a_plain_folder(name: str) -> None:
    """Pins that a name given by a user cannot leave the folder it is meant for."""
    with pytest.raises(BadInput, match="plain folder name"):
        require_output_name(name)
    assert require_output_name("dyn.search-1") == "dyn.search-1"
