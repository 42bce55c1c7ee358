"""Trade metrics, exits and the verdict."""

from __future__ import annotations

import json
import math
from datetime import timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import BadInput, SchemaError
from pipeline.fingerprints import canonical_json
from pipeline.positions.manager import run
from pipeline.positions.manager_spec import ManagerConfig
from pipeline.positions.trades import TradeMetrics, exit_mix, judge, trade_metrics, verdict_reasons
from tests.oracles.manager_slow import slow_metrics
from tests.positions.minutes import PLAN, START, random_rows

CONFIG = ManagerConfig()
GOOD = TradeMetrics(trade_count=40, mean_actual_edge_bps=0.1, longest_losing_run=8, planned_ratio_max=0.0501,
                    profit_factor=1.0)


def trades(edges: list[float], ratios: list[float] | None = None, sides: list[str] | None = None) -> pl.DataFrame:
    n = len(edges)
    return pl.DataFrame(
        {"minute": [START + timedelta(minutes=60 * i) for i in range(n)], "instrument": ["A"] * n,
         "side": sides or ["LONG"] * n, "actual_edge_bps": edges, "planned_ratio": ratios or [0.5] * n},
        schema_overrides={"minute": pl.Datetime("us", "UTC"), "actual_edge_bps": pl.Float64,
                          "planned_ratio": pl.Float64, "instrument": pl.String, "side": pl.String},
    ).with_columns(weighted_edge_bps=pl.col("actual_edge_bps") * pl.col("planned_ratio"))


def test_metrics_have_their_worked_values() -> None:
    """A drawdown that misses the first loss, a factor of counts, a run that survives a break-even trade."""
    m = trade_metrics(trades([-4, 8, -2, 0, -2, -6, 10], [0.5, 0.5, 1.0, 0.3, 1.0, 0.5, 0.1]))
    assert (m.trade_count, m.win_rate, m.mean_actual_edge_bps) == (7, 2 / 7, 4 / 7)
    assert m.total_weighted_edge_bps == pytest.approx(-2 + 4 - 2 - 2 - 3 + 1)
    assert m.mean_weighted_edge_bps == pytest.approx(-4 / 7)
    assert m.max_drawdown_bps == pytest.approx(7.0)
    assert m.profit_factor == pytest.approx(5 / 9)
    assert m.longest_losing_run == 2
    assert (m.planned_ratio_min, m.planned_ratio_median, m.planned_ratio_max) == (0.1, 0.5, 1.0)
    assert m.planned_ratio_mean == pytest.approx(3.9 / 7)
    assert m.score == pytest.approx(-4 / 7 * 7**0.5 + 0.03 * -4 - 0.2 * 7 - 2 * 73)
    assert trade_metrics(trades([-3.0])).max_drawdown_bps == 1.5


def test_no_trades_are_zeros() -> None:
    """A division by no trades; NaN that a gate reads as neither good nor bad."""
    m = trade_metrics(trades([]))
    assert m == TradeMetrics()
    assert (set(m.model_dump(exclude={"score"}).values()), m.score) == ({0}, -1_000_000)


def test_a_record_without_a_loss_can_be_hashed_and_read_back() -> None:
    """An infinite profit factor that stops the canonical JSON of a result."""
    m = trade_metrics(trades([1.0, 2.0]))
    assert m.profit_factor == math.inf
    assert TradeMetrics.model_validate(json.loads(canonical_json(m))) == m


@given(st.lists(st.tuples(st.integers(-8, 8).map(lambda e: e / 2), st.sampled_from([0.05, 0.125, 0.25, 1.0])),
                max_size=30), st.randoms())
def test_metrics_equal_their_definitions_in_any_row_order(rows: list, random: object) -> None:
    """Metrics of rows in storage order; an even count's median; a last run that is not closed."""
    table = trades([e for e, _ in rows], [r for _, r in rows])
    shuffled = table.sample(fraction=1, shuffle=True, seed=random.randint(0, 99))  # type: ignore[attr-defined]
    expected = slow_metrics(table.to_dicts())
    assert trade_metrics(shuffled).model_dump() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"side": pl.lit("BUY")}, BadInput),
        ({"side": pl.lit(None, pl.String)}, BadInput),
        ({"weighted_edge_bps": pl.lit(math.nan)}, BadInput),
        ({"actual_edge_bps": pl.lit(None, pl.Float64)}, BadInput),
    ],
)
def test_broken_trades_are_refused(change: dict, error: type) -> None:
    """A trade of no side counted for neither; NaN that makes every comparison of the verdict false."""
    with pytest.raises(error):
        trade_metrics(trades([1.0, 2.0]).with_columns(**change))
    with pytest.raises(SchemaError, match="planned_ratio"):
        trade_metrics(trades([1.0]).drop("planned_ratio"))


def test_the_exit_mix_is_per_side() -> None:
    """Rates over all trades; a trailing exit (neither flag) lost from the three rates."""
    table = trades([1, 1, -1, 2], sides=["LONG", "LONG", "LONG", "SHORT"]).with_columns(
        target_hit=pl.Series([True, False, False, True]), stop_hit=pl.Series([False, False, True, False]),
        minutes_to_exit=pl.Series([3.0, 45.0, 6.0, 1.0]))
    mix = exit_mix(table)
    long = mix["LONG"]
    assert (long.target_hit_rate, long.stop_hit_rate, long.timeout_exit_rate) == (1 / 3, 1 / 3, 1 / 3)
    assert (long.mean_minutes_to_exit, long.median_minutes_to_exit, long.trade_count) == (18.0, 6.0, 3)
    assert (mix["SHORT"].trade_count, mix["SHORT"].timeout_exit_rate) == (1, 0.0)
    assert set(exit_mix(table.filter(pl.col("side") == "LONG"))["SHORT"].model_dump().values()) == {0}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mean_actual_edge_bps": 0.0}, "validation_locked_avg_trade_edge_not_positive"),
        ({"longest_losing_run": 9}, "validation_locked_max_consecutive_losses_above_8"),
        ({"planned_ratio_max": 0.050001}, "validation_locked_sizing_collapsed_to_min_initial"),
        ({"trade_count": 39}, "validation_locked_trade_count_below_40"),
    ],
)
def test_each_reason_has_its_bound_on_validation(change: dict, reason: str) -> None:
    """A bound off by one, or one read on the wrong split."""
    assert verdict_reasons(GOOD, GOOD) == ()
    assert verdict_reasons(GOOD.model_copy(update=change), GOOD) == (reason,)
    assert verdict_reasons(GOOD, GOOD.model_copy(update=change)) == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"trade_count": 19}, "latest_stress_trade_count_below_20"),
        ({"profit_factor": 0.999}, "latest_stress_profit_factor_below_1"),
    ],
)
def test_each_reason_has_its_bound_on_stress(change: dict, reason: str) -> None:
    """A bound off by one, or one read on the wrong split."""
    assert verdict_reasons(GOOD, GOOD.model_copy(update=change)) == (reason,)
    assert verdict_reasons(GOOD, GOOD.model_copy(update={"trade_count": 20})) == ()


def test_the_verdict_names_what_it_judged() -> None:
    """A verdict on trades of another plan or configuration; a split left out."""
    rows = random_rows(9, 800)
    parts = {split: run(rows, CONFIG, PLAN, split) for split in ("validation_locked", "latest_stress")}
    verdict = judge(parts, CONFIG, PLAN)
    assert verdict.manager_config_hash == CONFIG.config_hash()
    assert (verdict.price_plan_id, verdict.price_plan_hash) == (PLAN.price_plan_id, PLAN.price_plan_config_hash)
    assert verdict.metrics["validation_locked"] == trade_metrics(parts["validation_locked"])
    assert verdict.status == ("REJECTED" if verdict.reasons else "ACCEPTED")
    with pytest.raises(BadInput, match="latest_stress"):
        judge({"validation_locked": parts["validation_locked"]}, CONFIG, PLAN)
    with pytest.raises(BadInput, match="under their own plan"):
        judge(parts, CONFIG.model_copy(update={"version": "2"}), PLAN)


def test_no_trades_at_all_are_rejected_for_what_is_missing() -> None:
    """An empty backtest accepted, or said to have collapsed sizes it never had."""
    empty = run(random_rows(9, 5).clear(), CONFIG, PLAN, "any")
    verdict = judge({"validation_locked": empty, "latest_stress": empty}, CONFIG, PLAN)
    assert verdict.status == "REJECTED"
    assert verdict.reasons == (
        "validation_locked_avg_trade_edge_not_positive", "validation_locked_trade_count_below_40",
        "latest_stress_trade_count_below_20", "latest_stress_profit_factor_below_1")
