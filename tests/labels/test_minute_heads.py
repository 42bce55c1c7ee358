"""Labels of a minute: each rule at its bound, spans, origins, and the wide table."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.errors import BadInput, KeyViolation, SchemaError
from pipeline.frames import MINUTE_ROW as KEY
from pipeline.frames import Hindsight
from pipeline.labels.minute_heads import (
    FAMILIES,
    continue_labels,
    direction_by_opportunity,
    direction_by_return,
    direction_report,
    entry_labels,
    exit_labels,
    minute_labels,
    risk_labels,
)
from pipeline.labels.minute_spec import BY_OPPORTUNITY, MinuteLabelSpec
from pipeline.labels.path_outcomes import PER_SIDE, path_outcomes
from pipeline.labels.price_plan import DYNAMIC, PricePlan
from tests.labels.test_path_outcomes import START, bars_of

PLAN, SPEC = PricePlan(), MinuteLabelSpec()


def outcome(**changes: Any) -> pl.DataFrame:
    """One minute whose two trades came to nothing, with some values changed."""
    zeros = {f"{side}_{name}": 0.0 if name.endswith("bps") else 0 for side in ("long", "short") for name in PER_SIDE}
    idle = {"long_time_to_exit_ms": 2_700_000, "short_time_to_exit_ms": 2_700_000}
    shared = {"future_spread_p80": None, "future_realized_vol_bps": 0.0}
    return pl.DataFrame([{"session": START.date(), "instrument": "BTCUSDT", "minute": START} | zeros | idle | shared
                         | changes]).with_columns(pl.col("minute").cast(pl.Datetime("us", "UTC")))


def features(**values: float | None) -> pl.DataFrame:
    """The same minute's features."""
    known = {"ret_15m_bps": 0.0, "realized_vol_15m_bps": 1.0} | values
    return outcome().select(KEY).with_columns(pl.lit(v, pl.Float32).alias(k) for k, v in known.items())


def rank(value: float | None) -> pl.DataFrame:
    """The same minute's rank of the spread ahead."""
    return outcome().select(KEY).with_columns(pl.lit(value, pl.Float64).alias("future_spread_rank_24h_pct"))


def row(frame: pl.DataFrame) -> dict[str, Any]:
    """The only row."""
    return frame.row(0, named=True)


@pytest.mark.parametrize(("move", "expected"), [(5.0, (0, 0, 1)), (5.01, (1, 0, 0)), (-5.0, (0, 0, 1)),
                                                (-5.01, (0, 1, 0))])
def test_direction_by_return_is_strict(move: float, expected: tuple[int, int, int]) -> None:
    """Pins above +5 / below -5: exactly 5 bps is neutral."""
    out = row(direction_by_return(outcome(long_future_return_bps=move), PLAN, SPEC))
    assert (out["long_target"], out["short_target"], out["neutral_target"]) == expected
    assert out["future_return_bps"] == move


@pytest.mark.parametrize(("long", "short", "expected"), [
    (40.0, 35.0, (1, 0, 0)),  # reaches the threshold, leads by exactly 5
    (40.0, 35.1, (0, 0, 1)),  # does not lead enough
    (39.9, 0.0, (0, 0, 1)),  # does not reach it
    (None, 40.0, (0, 1, 0)),  # a missing edge does not stop the other side
    (float("nan"), 40.0, (0, 1, 0)),
    (None, 39.0, (0, 0, 1)),
    (None, None, (0, 0, 1)),  # and cannot win
])
def test_direction_by_opportunity(long: float | None, short: float | None, expected: tuple[int, int, int]) -> None:
    """Pins threshold, lead and what a missing edge may and may not do."""
    edges = {"long_max_achievable_net_edge_bps": long, "short_max_achievable_net_edge_bps": short}
    entry = outcome().select(KEY).with_columns(pl.lit(v, pl.Float64).alias(k) for k, v in edges.items())
    spec = MinuteLabelSpec(direction_method=BY_OPPORTUNITY, opportunity_threshold_bps=40)
    out = row(direction_by_opportunity(entry, PLAN, spec))
    assert (out["long_target"], out["short_target"], out["neutral_target"]) == expected
    assert out["label_method"] == BY_OPPORTUNITY


def test_opportunity_threshold_has_no_default() -> None:
    """Pins that the threshold is asked for, in the spec and in the function."""
    with pytest.raises(BadInput, match="no default"):
        MinuteLabelSpec(direction_method=BY_OPPORTUNITY)
    entry = entry_labels(outcome(), PLAN, SPEC)
    with pytest.raises(BadInput, match="opportunity_threshold_bps"):
        direction_by_opportunity(entry, PLAN, SPEC)
    with pytest.raises(SchemaError, match="max_achievable_net_edge_bps"):
        direction_by_opportunity(outcome(), PLAN, SPEC)


@pytest.mark.parametrize(("method", "gross", "mfe", "mae", "expected", "target"), [
    ("PRICE_PLAN_OUTCOME_V1", 9.5, 9.5, 99.0, 3.0, 1),
    ("PRICE_PLAN_OUTCOME_V1", 9.4, 99.0, 0.0, 2.9, 0),
    ("OPPORTUNITY_MFE_V1", -8.0, 9.5, 99.0, 3.0, 1),
    ("OPPORTUNITY_QUALITY_V1", 6.5, 9.5, 12.0, 3.0, 1),
    ("OPPORTUNITY_QUALITY_V1", 6.4, 9.5, 12.0, 3.0, 0),
    ("OPPORTUNITY_QUALITY_V1", 6.5, 9.5, 12.1, 3.0, 0),
    ("OPPORTUNITY_QUALITY_V1", 6.5, 9.4, 12.0, 2.9, 0),
])
def test_entry_methods(method: Any, gross: float, mfe: float, mae: float, expected: float, target: int) -> None:
    """Pins what each method expects and asks for, at the bounds 3, 0 and 12; the plan edge is there under all."""
    plan = PricePlan(entry_target_method=method)
    out = row(entry_labels(outcome(short_gross_edge_bps=gross, short_mfe_bps=mfe, short_mae_bps=mae), plan, SPEC))
    assert out["short_entry_target"] == target
    assert out["short_expected_net_edge_bps"] == pytest.approx(expected)
    assert out["short_actual_plan_net_edge_bps"] == gross - 6.5
    assert (out["short_max_achievable_gross_edge_bps"], out["short_max_achievable_net_edge_bps"]) == (mfe, mfe - 6.5)
    assert (out["short_mae_bps"], out["long_entry_target"], out["label_method"]) == (mae, 0, method)


def test_entry_span_is_realised_by_the_later_exit() -> None:
    """Pins the span: to the later side's exit where the trade counts, to the horizon where MFE does."""
    done = {"long_time_to_exit_ms": 120_000, "short_time_to_exit_ms": 300_000}
    out = row(entry_labels(outcome(**done), PLAN, SPEC))
    decision = START + timedelta(minutes=1)
    assert (out["label_start"], out["label_end"]) == (decision, decision + timedelta(minutes=5))
    assert out["horizon_end"] == decision + timedelta(minutes=45)
    plan = PricePlan(entry_target_method="OPPORTUNITY_MFE_V1")
    assert row(entry_labels(outcome(**done), plan, SPEC))["label_end"] == decision + timedelta(minutes=45)
    assert row(continue_labels(outcome(**done), PLAN, SPEC))["label_end"] == decision + timedelta(minutes=5)


@pytest.mark.parametrize(("gross", "stop", "method", "target"), [
    (11.5, 0, "FIXED_TARGET_STOP_V1", 1), (11.4, 0, "FIXED_TARGET_STOP_V1", 0), (11.5, 1, "FIXED_TARGET_STOP_V1", 0),
    (11.5, 1, DYNAMIC, 1),
])
def test_continue_rule(gross: float, stop: int, method: Any, target: int) -> None:
    """Pins edge >= 5 after cost, and that a stop forbids it unless the plan trails."""
    plan = PricePlan(entry_plan_method=method)
    out = row(continue_labels(outcome(long_gross_edge_bps=gross, long_stop_hit=stop), plan, SPEC))
    assert (out["long_continue_target"], out["long_expected_continue_edge_bps"]) == (target, gross - 6.5)


def test_exit_rules() -> None:
    """Pins adverse at 20, idle up to 5, and a reversal only against the side that the last 15 minutes favoured."""
    out = row(exit_labels(outcome(long_future_return_bps=5.0), features(ret_15m_bps=-3.0), PLAN, SPEC))
    assert (out["exit_stagnation_target"], out["long_exit_target"], out["short_exit_target"]) == (1, 1, 1)
    moved = outcome(long_future_return_bps=5.1, long_mae_bps=19.9, short_mae_bps=20.0)
    out = row(exit_labels(moved, features(ret_15m_bps=3.0), PLAN, SPEC))
    assert (out["exit_stagnation_target"], out["long_exit_target"]) == (0, 0)
    assert (out["short_exit_adverse_target"], out["short_exit_target"]) == (1, 1)
    turned = outcome(long_future_return_bps=5.1)
    out = row(exit_labels(turned, features(ret_15m_bps=-3.0), PLAN, SPEC))
    assert (out["short_exit_reversal_target"], out["long_exit_reversal_target"]) == (1, 0)
    assert (out["short_exit_target"], out["long_exit_target"]) == (1, 0)


def test_unknown_feature_is_no_false_label() -> None:
    """Pins missing inputs: null where they could decide, the label where something else decides."""
    unknown = features(ret_15m_bps=None, realized_vol_15m_bps=None)
    out = row(exit_labels(outcome(long_future_return_bps=9.0, long_mae_bps=25.0), unknown, PLAN, SPEC))
    assert (out["short_exit_reversal_target"], out["long_exit_target"], out["short_exit_target"]) == (None, 1, None)
    calm = row(risk_labels(outcome(), rank(None), unknown, PLAN, SPEC))
    assert (calm["market_risk_target"], calm["volatility_expansion_target"]) == (None, None)
    assert calm["liquidity_deterioration_target"] is None
    wild = row(risk_labels(outcome(long_mae_bps=60.0), rank(None), unknown, PLAN, SPEC))
    assert wild["market_risk_target"] == 1


@pytest.mark.parametrize(("changes", "vol", "lit"), [
    ({"long_mae_bps": 59.9}, 1.0, {"position_drawdown_target", "long_position_risk_target"}),
    ({"short_mae_bps": 60.0}, 1.0, {"market_risk_target", "market_drawdown_target", "position_drawdown_target",
                                    "short_position_risk_target"}),
    ({"long_mfe_bps": 80.0}, 1.0, {"market_risk_target", "spike_target"}),
    ({"future_realized_vol_bps": 3.6}, 2.0, {"market_risk_target", "volatility_expansion_target"}),
    ({"future_realized_vol_bps": 3.59}, 2.0, set()),
    ({"future_realized_vol_bps": 1.8}, 0.1, {"market_risk_target", "volatility_expansion_target"}),
    ({"future_realized_vol_bps": 1.79}, 0.1, set()),
    ({"long_mae_bps": 34.9}, 1.0, set()),
    ({"long_mae_bps": 35.0}, 1.0, {"position_drawdown_target", "long_position_risk_target"}),
    ({"short_stop_hit": 1}, 1.0, {"short_position_risk_target"}),
])
def test_risk_rules(changes: dict[str, Any], vol: float, lit: set[str]) -> None:
    """Pins each bound of risk and which components make market risk."""
    out = row(risk_labels(outcome(**changes), rank(0.5), features(realized_vol_15m_bps=vol), PLAN, SPEC))
    assert {name for name, value in out.items() if name.endswith("_target") and value == 1} == lit


def test_liquidity_is_ahead_and_no_part_of_market_risk() -> None:
    """Pins the difference from the source: the rank of the spread ahead decides, and market risk does not read it."""
    worse = row(risk_labels(outcome(), rank(0.90), features(), PLAN, SPEC))
    assert (worse["liquidity_deterioration_target"], worse["market_risk_target"]) == (1, 0)
    assert row(risk_labels(outcome(), rank(0.89), features(), PLAN, SPEC))["liquidity_deterioration_target"] == 0


@pytest.fixture(scope="module")
def market() -> tuple[Hindsight, pl.DataFrame]:
    """4,000 minutes with a gap, and features of all but the first."""
    rng = np.random.default_rng(5)
    n = 4_000
    close = 100 * np.exp(np.cumsum(rng.normal(0, 6e-4, n)))
    reach = np.exp(np.abs(rng.normal(0, 3e-4, (2, n))))
    at = [k if k < 2_500 else k + 80 for k in range(n)]
    bars = bars_of((close * reach[0]).tolist(), (close / reach[1]).tolist(), close.tolist(),
                   spread=rng.random(n).tolist(), at=at)
    known = bars.select(KEY).slice(1).with_columns(
        ret_15m_bps=pl.Series(rng.normal(0, 20, n - 1), dtype=pl.Float32),
        realized_vol_15m_bps=pl.Series(rng.uniform(2, 9, n - 1), dtype=pl.Float32))
    return Hindsight(bars), known


def test_wide_table(market: tuple[Hindsight, pl.DataFrame]) -> None:
    """Pins columns, rows, origins and that the row's span covers every family's."""
    bars, known = market
    wide = minute_labels(bars, known, PLAN, SPEC)
    assert wide.height == 4_000 - 2 * 45
    need = ("entry_target", "expected_net_edge_bps", "actual_plan_net_edge_bps", "max_achievable_net_edge_bps",
            "mae_bps")
    assert {f"{side}_{name}" for side in ("long", "short") for name in need} <= set(wide.columns)
    assert set(wide["price_plan_hash"]) == {PLAN.price_plan_hash}
    ends = wide.select((pl.col("label_end") - pl.col(f"{family}_label_end")).alias(family) for family in FAMILIES)
    assert ends.min_horizontal().min() == timedelta(0)
    assert (wide["label_end"] - wide["label_start"]).unique().to_list() == [timedelta(minutes=45)]
    assert wide["continue_label_end"].min() < wide["label_end"].min()
    assert (wide.select(pl.sum_horizontal("long_target", "short_target", "neutral_target")) == 1).to_series().all()
    outcomes = path_outcomes(bars, PLAN)
    edges = outcomes.select(*KEY, long_actual_plan_net_edge_bps=pl.col("long_gross_edge_bps") - PLAN.cost_bps)
    assert_frame_equal(wide.select(edges.columns), edges, check_exact=True)


def test_wide_table_of_another_horizon(market: tuple[Hindsight, pl.DataFrame]) -> None:
    """Pins that entry keeps the plan's horizon while the others keep 45, on the rows that both know."""
    bars, known = market
    plan = PricePlan(max_hold_minutes=60)
    wide = minute_labels(bars, known, plan, SPEC)
    assert wide.height == 4_000 - 2 * 60
    assert (wide["label_end"] - wide["label_start"]).unique().to_list() == [timedelta(minutes=60)]
    assert (wide["risk_label_end"] - wide["label_start"]).unique().to_list() == [timedelta(minutes=45)]
    own = wide.select(KEY).join(path_outcomes(bars, plan), on=KEY, maintain_order="left")
    common = wide.select(KEY).join(path_outcomes(bars, plan, 45), on=KEY, maintain_order="left")
    assert wide["long_mae_bps"].equals(own["long_mae_bps"])
    assert wide["future_return_bps"].equals(common["long_future_return_bps"].rename("future_return_bps"))


def test_wide_table_by_opportunity(market: tuple[Hindsight, pl.DataFrame]) -> None:
    """Pins that direction by opportunity reads the entry edges of the same table."""
    bars, known = market
    spec = MinuteLabelSpec(direction_method=BY_OPPORTUNITY, opportunity_threshold_bps=10)
    wide = minute_labels(bars, known, PLAN, spec)
    long, short = (wide[f"{side}_max_achievable_net_edge_bps"] for side in ("long", "short"))
    assert wide["long_target"].cast(pl.Boolean).equals(
        ((long >= 10) & (long - short >= 5)).alias("long_target"))
    assert 0 < wide["long_target"].sum() < wide.height
    assert "future_return_bps" not in wide.columns


def test_features_must_be_one_row_a_minute(market: tuple[Hindsight, pl.DataFrame]) -> None:
    """Pins the join: a doubled feature row would double labels; a missing column is named."""
    bars, known = market
    with pytest.raises(KeyViolation):
        minute_labels(bars, pl.concat([known, known.head(1)]), PLAN, SPEC)
    with pytest.raises(SchemaError, match="realized_vol_15m_bps"):
        minute_labels(bars, known.drop("realized_vol_15m_bps"), PLAN, SPEC)


def test_direction_report(market: tuple[Hindsight, pl.DataFrame]) -> None:
    """Pins counts, rates by split and that the hash follows the data; a row without a split is an error."""
    bars, _ = market
    labels = direction_by_return(path_outcomes(bars, PLAN), PLAN, SPEC)
    splits = labels.select(KEY).with_columns(
        pl.when(pl.int_range(pl.len()) < 1_000).then(pl.lit("fit_inner")).otherwise(pl.lit("tune_inner"))
        .alias("split_id"))
    report = direction_report(labels, splits)
    fit = report["splits"]["fit_inner"]
    assert (report["rows"], fit["rows"]) == (labels.height, 1_000)
    assert fit["long_rate"] == labels["long_target"].head(1_000).mean()
    assert sum(report["counts"].values()) == labels.height
    assert direction_report(labels.reverse(), splits)["data_hash"] == report["data_hash"]
    changed = labels.with_columns(pl.col("future_return_bps") + 1)
    assert direction_report(changed, splits)["data_hash"] != report["data_hash"]
    with pytest.raises(BadInput, match="belongs to a split"):
        direction_report(labels, splits.slice(1))
