"""The nonlinear probe: what trees alone can see is promising, noise is not, every threshold counts."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from pipeline.diagnostics.minutes.nonlinear_probe import (
    NOT_STABLE,
    PROMISING,
    NonlinearProbeSpec,
    nonlinear_probe,
    probe_checks,
)
from pipeline.errors import BadInput, SchemaError
from pipeline.models.spec import TreeHeadsSpec
from pipeline.positions.trades import TradeMetrics
from tests.diagnostics.minutes.block_rows import block_rows
from tests.positions.minutes import PLAN

FEATURES = ("a", "b", "c")
SPEC = NonlinearProbeSpec(trees=TreeHeadsSpec(rounds=30))


def rows(planted: bool, seed: int = 3) -> pl.DataFrame:
    """LONG pays where a x b is high, SHORT where it is low: no linear head sees it. Or either pays by chance."""
    frame = block_rows(FEATURES, 3_500, 1_500, seed)
    rng = np.random.default_rng(seed + 1)
    product = (frame["a"] * frame["b"]).to_numpy() if planted else rng.normal(size=frame.height)
    wins = {"long": product > 0.4, "short": product < -0.4}
    columns = {"neutral_target": (~(wins["long"] | wins["short"])).astype(np.int8), "market_risk_prob": 0.2}
    for side, won in wins.items():
        gross = np.where(won, 12.0, -8.0)
        columns |= {
            f"{side}_target": won.astype(np.int8), f"{side}_entry_target": won.astype(np.int8),
            f"{side}_gross_edge_bps": gross, f"{side}_actual_plan_net_edge_bps": gross - PLAN.cost_bps,
            f"{side}_max_achievable_net_edge_bps": np.where(rng.random(frame.height) < 0.6, 45.0, 10.0),
            f"{side}_time_to_exit_ms": np.full(frame.height, 60_000), f"{side}_target_hit": won,
            f"{side}_stop_hit": ~won, f"{side}_timeout_hit": np.zeros(frame.height, bool),
        }  # fmt: skip
    return frame.with_columns(pl.lit(v).alias(k) if np.isscalar(v) else pl.Series(k, v) for k, v in columns.items())


@pytest.fixture(scope="module")
def planted() -> pl.DataFrame:
    return rows(True)


def test_a_product_of_two_features_is_promising(planted):
    """Pins trees that learn nothing, a search that reads more than E1, and counts that are not reported."""
    found = nonlinear_probe(planted, FEATURES, PLAN, SPEC)
    assert found.status == PROMISING
    assert found.tables["metrics"]["block"].to_list() == ["E1", "E2", "E3"]
    assert found.score == found.tables["metrics"]["score"][0] == found.tables["candidates"]["score"].max()
    assert found.tables["candidates"].height == 17_280
    assert found.tables["search"]["positive_with_80_trades"][0] > 0
    heads = found.tables["heads"]
    assert heads["fit_filter"].to_list() == ["ALL_FIT_ROWS"] + ["SIDE_OPPORTUNITY_LONG_GE_40_BPS_FIT_ROWS"] * 2 + [
        "SIDE_OPPORTUNITY_SHORT_GE_40_BPS_FIT_ROWS"] * 2
    assert heads["fit_row_ratio"][1] == pytest.approx(0.6, abs=0.05)


def test_noise_is_not_promising():
    """Pins a probe that promises: the best of 17,280 candidates on E1 must not carry over by itself."""
    found = nonlinear_probe(rows(False), FEATURES, PLAN, SPEC)
    assert found.status == NOT_STABLE
    assert "Not met: E" in found.text


def test_the_choice_does_not_see_e2_and_e3(planted):
    """Pins thresholds chosen with the confirming blocks: other truth there, same choice."""
    later = pl.col("block").is_in(["E2", "E3"])
    gross = pl.when(later).then(-8.0).otherwise("long_gross_edge_bps")
    turned = planted.with_columns(long_gross_edge_bps=gross, long_actual_plan_net_edge_bps=gross - PLAN.cost_bps)
    found = [nonlinear_probe(frame, FEATURES, PLAN, SPEC) for frame in (planted, turned)]
    assert found[0].tables["candidates"].equals(found[1].tables["candidates"])
    assert found[0].tables["metrics"]["mean_weighted_edge_bps"][1] > found[1].tables["metrics"][
        "mean_weighted_edge_bps"][1]


def test_entry_alone_keeps_the_linear_direction(planted):
    """Pins a Direction tree that is fitted although only Entry is replaced."""
    spec = SPEC.model_copy(update={"replaces": "entry"})
    with pytest.raises(SchemaError, match="direction_long_prob"):
        nonlinear_probe(planted, FEATURES, PLAN, spec)
    never = planted.with_columns(direction_long_prob=pl.lit(0.0), direction_short_prob=pl.lit(0.0))
    found = nonlinear_probe(never, FEATURES, PLAN, spec)
    assert "direction" not in found.tables["heads"]["head"].to_list()
    assert found.status == NOT_STABLE
    assert found.score is None


GOOD = {"E1": (80, 0.01), "E2": (40, 0.01), "E3": (10, -0.99)}


def passes(figures) -> bool:
    metrics = {b: TradeMetrics(trade_count=n, mean_weighted_edge_bps=edge) for b, (n, edge) in figures.items()}
    return probe_checks(metrics)["passed"].all()


@pytest.mark.parametrize("figures", [
    {"E1": (79, 0.01)}, {"E2": (39, 0.01)}, {"E3": (9, 1.0)}, {"E1": (80, 0.0)}, {"E2": (40, 0.0)}, {"E3": (10, -1.0)},
])  # fmt: skip
def test_each_threshold_of_the_rule(figures):
    """Pins 80 / 40 / 10 trades, inclusive, and 0 / 0 / -1 bps, exclusive."""
    assert passes(GOOD)
    assert not passes(GOOD | figures)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"a": pl.when(pl.int_range(pl.len()) == 7).then(float("nan")).otherwise("a")}, "features are finite"),
        ({"block": pl.col("block").replace("E3", "latest_stress")}, "no sealed one"),
        ({"label_end": pl.col("label_end") + pl.duration(hours=1)}, "labels of fit_inner end before"),
        ({"long_max_achievable_net_edge_bps": pl.lit(39.9)}, "1000 rows or more"),
        ({"long_entry_target": pl.lit(0)}, "rows of each class"),
        ({"long_target": pl.lit(1)}, "one-hot"),
    ],
)
def test_bad_rows_are_named(planted, change, says):
    """Pins fits on holes, sealed rows, labels that leak into the next block, and populations that say nothing."""
    with pytest.raises(BadInput, match=says):
        nonlinear_probe(planted.with_columns(**change), FEATURES, PLAN, SPEC)
