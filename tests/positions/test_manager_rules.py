"""Predicted edges, gates, choice of side, size, and one position at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import BadInput, KeyViolation, SchemaError
from pipeline.positions.manager import decide, gates, predicted_edges, run, with_truth, without_overlap
from pipeline.positions.manager_spec import (
    SIDE_OFF,
    AddThresholds,
    ManagerConfig,
    OpenThresholds,
    PlanNumbers,
    SideThresholds,
    Sizing,
)
from tests.oracles.manager_slow import slow_trades
from tests.positions.minutes import PLAN, SLOW_PLAN, SLOW_SIZING, START, outcomes, predictions, random_rows

CONFIG = ManagerConfig()
OPPORTUNITY = PLAN.model_copy(update={"entry_target_method": "OPPORTUNITY_MFE_V1"})


def config(direction: float = 0.6, entry: float = 0.5, edge: float = 3.0, margin: float = 0.06, risk: float = 0.65,
           short_direction: float | None = None, **sizing: float) -> ManagerConfig:
    side = {"min_entry_prob": entry, "min_edge_bps": edge}
    return ManagerConfig(
        open=OpenThresholds(
            long=SideThresholds(min_direction_prob=direction, **side),
            short=SideThresholds(min_direction_prob=direction if short_direction is None else short_direction, **side),
            min_direction_margin=margin, max_market_risk=risk,
        ),
        sizing=Sizing(**({"min_edge_bps": edge} | sizing)),
    )


def decided(frame: pl.DataFrame, cfg: ManagerConfig = CONFIG, plan: PlanNumbers = PLAN) -> pl.DataFrame:
    return decide(predicted_edges(frame, plan), cfg, plan)


def trades(frame: pl.DataFrame, truth: pl.DataFrame | None = None, cfg: ManagerConfig = CONFIG,
           plan: PlanNumbers = PLAN) -> pl.DataFrame:
    truth = outcomes(frame, plan) if truth is None else truth
    return run(with_truth(predicted_edges(frame, plan), truth, plan), cfg, plan, "tune_inner")


def test_the_payoff_edge_has_the_reference_values() -> None:
    """A payoff that forgets the cost on one branch."""
    plan = PLAN.model_copy(update={"target_distance_bps": 120.0, "stop_distance_bps": 2.0, "cost_bps": 6.5})
    edges = predicted_edges(predictions(long_entry_prob=[0.10, 0.50]), plan)["long_payoff_edge_bps"]
    assert edges.to_list() == pytest.approx([3.7, 52.5], abs=1e-12)


def test_the_method_decides_which_edge_counts_and_both_are_kept() -> None:
    """The probability of an opportunity paid as if it were one of the plan's target."""
    frame = predictions(long_entry_prob=[0.75], long_expected_net_edge_bps=[4.25])
    payoff, model = predicted_edges(frame, PLAN), predicted_edges(frame, OPPORTUNITY)
    for rows in (payoff, model):
        assert rows.select("long_payoff_edge_bps", "long_model_edge_bps").row(0) == (5.0, 4.25)
    assert (payoff["long_predicted_edge_bps"][0], payoff["edge_method"][0]) == (5.0, "ENTRY_PROBABILITY_PAYOFF")
    assert (model["long_predicted_edge_bps"][0], model["edge_method"][0]) == (4.25, "MODEL_ACTUAL_PLAN_EDGE")


def test_a_payoff_plan_needs_no_regression_head() -> None:
    """A study without the head refused although nothing reads it; or its edge kept as 0."""
    rows = predicted_edges(predictions().drop("long_expected_net_edge_bps"), PLAN)
    assert rows["long_model_edge_bps"].to_list() == [None]


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda f: f.drop("market_risk_prob"), SchemaError, "market_risk_prob"),
        (lambda f: f.with_columns(long_entry_prob=pl.lit(None, pl.Float64)), BadInput, "long_entry_prob = None"),
        (lambda f: f.with_columns(long_entry_prob=math.nan), BadInput, "long_entry_prob = nan"),
        (lambda f: f.with_columns(direction_long_prob=1.2), BadInput, "direction_long_prob = 1.2"),
        (lambda f: f.with_columns(market_risk_prob=-0.1), BadInput, "market_risk_prob = -0.1"),
        (lambda f: pl.concat([f, f]), KeyViolation, "unique"),
    ],
)
def test_broken_predictions_are_named(change: Callable, error: type, says: str) -> None:
    """A missing probability read as 0, NaN that fails every gate in silence, a score that is no probability."""
    with pytest.raises(error, match=says):
        predicted_edges(change(predictions()), PLAN)


def test_an_opportunity_plan_refuses_a_missing_edge() -> None:
    """The regression head's NaN compared with a threshold."""
    with pytest.raises(SchemaError, match="long_expected_net_edge_bps"):
        predicted_edges(predictions().drop("long_expected_net_edge_bps"), OPPORTUNITY)
    with pytest.raises(BadInput, match="short_expected_net_edge_bps = nan"):
        predicted_edges(predictions(short_expected_net_edge_bps=[math.nan]), OPPORTUNITY)


def test_the_last_bits_of_a_float32_head_are_no_error() -> None:
    """A softmax of 1.0000001 stopping a live minute."""
    rows = predicted_edges(predictions(direction_long_prob=[1.0000001]), PLAN)
    assert rows["direction_long_prob"].to_list() == [1.0]


@pytest.mark.parametrize(
    ("column", "at", "passes"),
    [
        ("direction_long_prob", 0.8, math.nextafter(0.8, 1.0)),
        ("long_entry_prob", 0.75, math.nextafter(0.75, 1.0)),
        ("market_risk_prob", 0.2, math.nextafter(0.2, 0.0)),
        ("direction_short_prob", 0.25, 0.25 - 2.0**-53),
        ("long_expected_net_edge_bps", 4.0, math.nextafter(4.0, 9.0)),
    ],
)
def test_every_gate_is_strict(column: str, at: float, passes: float) -> None:
    """A row on the threshold let in: grids share values with rounded probabilities."""
    exact = config(direction=0.8 if column == "direction_long_prob" else 0.5,
                   entry=0.75 if column == "long_entry_prob" else 0.5,
                   risk=0.2 if column == "market_risk_prob" else 0.5,
                   edge=4.0 if column.endswith("bps") else 0.0,
                   margin=0.5 if column == "direction_short_prob" else 0.0)
    base = {"direction_long_prob": 0.75 if column == "direction_short_prob" else 0.8}
    rows = [base | {column: at}, base | {column: passes}]
    for row, expected in zip(rows, [None, "LONG"], strict=True):
        frame = predictions(**{name: [value] for name, value in row.items()})
        assert decided(frame, exact, OPPORTUNITY)["side"].to_list() == [expected]


def test_a_side_is_switched_off() -> None:
    """A certain direction passing the threshold that means `never`."""
    frame = predictions(direction_long_prob=[1.0], direction_short_prob=[0.0])
    assert decided(frame)["side"].to_list() == ["LONG"]
    assert decided(frame, config(direction=SIDE_OFF))["side"].to_list() == [None]


def test_the_better_side_opens_and_long_on_a_tie() -> None:
    """Two positions in one minute, the order of columns deciding, or a less negative edge called better."""
    frame = predictions(
        direction_long_prob=[0.5] * 4, direction_short_prob=[0.25] * 4, long_entry_prob=[0.5] * 4,
        short_entry_prob=[0.5] * 4, long_expected_net_edge_bps=[4.0, 4.0, 4.0, -4.0],
        short_expected_net_edge_bps=[7.9, 8.1, 8.0, -1.0],
    )
    sides = decided(frame, config(direction=0.2, entry=0.2, edge=-5.0), OPPORTUNITY)["side"].to_list()
    assert sides == ["LONG", "SHORT", "LONG", "LONG"]


def test_an_unknown_side_is_refused() -> None:
    """A side in small letters that silently reads the other side's columns."""
    with pytest.raises(BadInput, match="long"):
        gates("long", CONFIG)


def test_the_size_has_its_worked_value() -> None:
    """Size by edge in bps instead of edge over the loss at the stop: 5 / 10 x 0.8 x 0.75 x 0.8 = 0.24."""
    uncapped = config(max_single_leg_ratio=1.0)
    assert decided(predictions(), uncapped)["planned_ratio"][0] == pytest.approx(0.24, rel=1e-12)
    assert decided(predictions())["planned_ratio"][0] == 0.20


@pytest.mark.parametrize(
    ("sizing", "expected"),
    [
        ({"max_single_leg_ratio": 0.15}, 0.15),
        ({"max_total_position_ratio": 0.16}, 0.16),
        ({"max_liquidity_usage_ratio": 0.17}, 0.17),
        ({"max_loss_per_trade_bps": 1.2}, 0.12),
        ({"base_ratio": 0.01}, 0.05),
        ({"max_loss_per_trade_bps": 0.5}, 0.05),
        ({"max_loss_per_trade_bps": 0.49}, 0.0),
        ({"max_single_leg_ratio": 0.049}, 0.0),
        ({"min_edge_bps": 5.0}, 0.20),
        ({"min_edge_bps": 5.001}, 0.0),
    ],
)
def test_each_cap_binds_alone(sizing: dict, expected: float) -> None:
    """A cap that is stored and never read, or a position raised to the minimum above its cap."""
    ratio = decided(predictions(), config(**sizing))["planned_ratio"][0]
    assert ratio == pytest.approx(expected, rel=1e-12)
    assert trades(predictions(), cfg=config(**sizing)).height == (expected > 0)


PROBABILITY = st.integers(0, 20).map(lambda k: k / 20)


@given(
    st.lists(st.tuples(PROBABILITY, PROBABILITY, PROBABILITY, PROBABILITY), min_size=1, max_size=20),
    st.floats(0.01, 0.3), st.floats(0.01, 1.0), st.floats(0.1, 30.0), st.floats(-5, 8),
)
def test_sizes_are_zero_or_between_minimum_and_caps(
    rows: list[tuple[float, ...]], minimum: float, cap: float, max_loss: float, min_edge: float
) -> None:
    """A size outside its bounds for any odd combination of caps."""
    long, long_entry, short_entry, risk = (list(column) for column in zip(*rows, strict=True))
    frame = predictions(direction_long_prob=long, direction_short_prob=[(1 - p) / 2 for p in long],
                        long_entry_prob=long_entry, short_entry_prob=short_entry, market_risk_prob=risk)
    cfg = config(direction=0.1, entry=0.1, edge=-5, margin=0.01, risk=1.0, min_initial_ratio=minimum,
                 max_single_leg_ratio=cap, max_loss_per_trade_bps=max_loss, min_edge_bps=min_edge)
    limit = min(cap, max_loss / 10.0, 1.0)
    result = decided(frame, cfg)
    for side, ratio, *edges in result.select("side", "planned_ratio", "long_predicted_edge_bps",
                                             "short_predicted_edge_bps").iter_rows():
        edge = edges[side == "SHORT"]
        if side is None or limit < minimum or edge < min_edge:
            assert ratio == 0.0
        else:
            assert minimum <= ratio <= limit


@given(st.integers(0, 50), st.sampled_from(["direction", "entry", "edge", "margin", "risk"]), st.floats(0, 1))
def test_a_tighter_gate_opens_no_further_row(seed: int, gate: str, tightness: float) -> None:
    """A gate whose comparison is turned round: tightening must only remove rows, side by side."""
    rows = random_rows(seed, 30)
    loose = {"direction": 0.3, "entry": 0.2, "edge": -5.0, "margin": 0.0, "risk": 1.0}
    tight = loose | {gate: {"edge": -5 + 15 * tightness, "risk": 1 - tightness}.get(gate, max(loose[gate], tightness))}
    for side in ("LONG", "SHORT"):
        opens = [rows.select(pl.all_horizontal(gates(side, config(**bounds)).values())).to_series()
                 for bounds in (loose, tight)]
        assert not (opens[1] & ~opens[0]).any()


def _one_symbol(starts: list[int], **columns: list) -> tuple[pl.DataFrame, pl.DataFrame]:
    frame = predictions(minute=[START + timedelta(minutes=m) for m in starts])
    return frame, outcomes(frame, **columns)


@pytest.mark.parametrize(("second", "count"), [(14, 1), (15, 2)])
def test_the_next_entry_waits_for_exit_and_cooldown_to_the_minute(second: int, count: int) -> None:
    """An entry one minute early or one minute late: exit after 10 minutes, cooldown 5."""
    assert trades(*_one_symbol([0, second])).height == count


@pytest.mark.parametrize(("second", "count"), [(49, 1), (50, 2)])
def test_an_unknown_exit_counts_as_the_longest_hold(second: int, count: int) -> None:
    """A position of unknown end that blocks nothing, or for ever: 45 minutes and cooldown 5."""
    frame, truth = _one_symbol([0, second], long_time_to_exit_ms=[None, 60_000])
    taken = trades(frame, truth)
    assert taken.height == count
    assert taken["minutes_to_exit"][0] == 45.0


def test_symbols_do_not_wait_for_each_other() -> None:
    """One symbol's open position that blocks another's, or its rows that move another's trades."""
    rows = random_rows(3, 200)
    loose = config(direction=0.3, entry=0.2, edge=-5, margin=0, risk=1.0)
    together = run(rows, loose, PLAN, "tune_inner")
    for name in ("BTCUSDT", "ETHUSDT"):
        alone = run(rows.filter(pl.col("instrument") == name), loose, PLAN, "tune_inner")
        assert alone.height > 5
        assert together.filter(pl.col("instrument") == name).equals(alone)


def test_the_higher_predicted_edge_comes_first_at_the_same_minute() -> None:
    """Entries of one minute taken in row order."""
    entries = pl.DataFrame({
        "minute": [START] * 3, "instrument": ["A", "A", "B"], "side": ["LONG", "SHORT", "LONG"],
        "predicted_edge_bps": [4.0, 6.0, 5.0], "held_ms": [60_000] * 3,
    })
    taken = without_overlap(entries, 0)
    assert taken.select("instrument", "side").rows() == [("A", "SHORT"), ("B", "LONG")]
    assert without_overlap(entries.reverse(), 0).equals(taken)
    assert without_overlap(entries.clear(), 0).is_empty()


@given(
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from("AB"), st.integers(1, 20)), max_size=40),
    st.integers(0, 5),
)
def test_no_two_positions_of_a_symbol_overlap_and_none_is_left_out(rows: list, cooldown: int) -> None:
    """Overlap, or an entry refused although the symbol was free."""
    entries = pl.DataFrame(
        [(START + timedelta(minutes=m), s, "LONG", 1.0, 60_000 * h) for m, s, h in rows], orient="row",
        schema={"minute": pl.Datetime("us", "UTC"), "instrument": pl.String, "side": pl.String,
                "predicted_edge_bps": pl.Float64, "held_ms": pl.Int64},
    )
    taken = without_overlap(entries, cooldown)
    for name in "AB":
        spans = [(m, m + timedelta(milliseconds=h) + timedelta(minutes=cooldown)) for m, h in
                 taken.filter(pl.col("instrument") == name).select("minute", "held_ms").iter_rows()]
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        for minute in entries.filter(pl.col("instrument") == name)["minute"]:
            assert any(start <= minute < end for start, end in spans)


def test_truth_is_joined_one_to_one() -> None:
    """Decisions silently dropped, or doubled, by the join with outcomes."""
    frame = predicted_edges(predictions(long_entry_prob=[0.75, 0.75]), PLAN)
    truth = outcomes(frame)
    with pytest.raises(KeyViolation, match="2 rows, 1 joined"):
        with_truth(frame, truth.head(1), PLAN)
    with pytest.raises(KeyViolation, match="unique"):
        with_truth(frame, pl.concat([truth, truth]), PLAN)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("long_actual_plan_net_edge_bps", 10.1, "rows differ"),
        ("short_actual_plan_net_edge_bps", None, "rows differ"),
        ("long_gross_edge_bps", math.nan, "gross edge is known"),
        ("short_target_hit", None, "how it ended"),
        ("long_time_to_exit_ms", -1, "is positive"),
        ("short_time_to_exit_ms", 0, "is positive"),
    ],
)
def test_truth_that_contradicts_itself_is_refused(column: str, value: float | None, says: str) -> None:
    """Labels of one plan judged by outcomes of another, or an outcome that is not there."""
    frame = predicted_edges(predictions(), PLAN)
    truth = outcomes(frame).with_columns(pl.lit(value).alias(column))
    with pytest.raises(BadInput, match=says):
        with_truth(frame, truth, PLAN)


def test_a_float32_label_equals_its_float64_outcome() -> None:
    """Rounding of the stored label called another plan."""
    frame = predicted_edges(predictions(), PLAN)
    truth = outcomes(frame, long_gross_edge_bps=[7.123456789]).with_columns(
        pl.col("long_actual_plan_net_edge_bps").cast(pl.Float32))
    assert with_truth(frame, truth, PLAN)["long_actual_edge_bps"][0] == pytest.approx(5.123456789, rel=1e-12)


def test_a_trade_carries_its_sides_numbers_and_its_origin() -> None:
    """A SHORT trade with LONG's truth; a trade that cannot be traced to plan and thresholds."""
    frame = predictions(direction_long_prob=[0.1], direction_short_prob=[0.8], short_entry_prob=[0.7])
    truth = outcomes(frame, short_gross_edge_bps=[-8.0], short_time_to_exit_ms=[180_000])
    trade = trades(frame, truth).row(0, named=True)
    assert trade["side"] == "SHORT"
    assert (trade["entry_at"] - trade["minute"], trade["exit_at"] - trade["entry_at"]) == (
        timedelta(minutes=1), timedelta(minutes=3))
    assert (trade["gross_edge_bps"], trade["actual_edge_bps"], trade["label_actual_plan_edge_bps"]) == (-8, -10, -10)
    assert trade["weighted_edge_bps"] == -10 * trade["planned_ratio"]
    assert (trade["target_hit"], trade["stop_hit"], trade["timeout_hit"]) == (False, True, False)
    assert (trade["direction_prob"], trade["entry_prob"], trade["eval_split"]) == (0.8, 0.7, "tune_inner")
    assert trade["threshold_hash"] == CONFIG.threshold_hash()
    assert trade["manager_config_hash"] == CONFIG.config_hash()
    assert (trade["price_plan_id"], trade["price_plan_hash"]) == (PLAN.price_plan_id, PLAN.price_plan_config_hash)


def test_one_live_minute_decides_as_its_row_among_many() -> None:
    """A decision that depends on the rows around it."""
    rows = random_rows(5, 60)
    many = decide(rows, CONFIG, PLAN)
    for i in range(0, rows.height, 7):
        assert decide(rows[i], CONFIG, PLAN).equals(many[i])


@pytest.mark.parametrize("seed", range(6))
def test_trades_equal_the_slow_manager(seed: int) -> None:
    """Any difference from the rules applied one row at a time, whatever the order of rows."""
    rows = random_rows(seed, 150)
    gate = [(0.5, 0.6, 0.3, 0.65, 3.0, 0.05), (0.3, SIDE_OFF, 0.2, 0.9, 0.0, 0.0), (0.2, 0.2, 0.05, 1.0, -5.0, 0.0)]
    long, short, entry, risk, edge, margin = gate[seed % 3]
    cfg = config(long, entry, edge, margin, risk, short_direction=short)
    cfg = cfg.model_copy(update={"add": AddThresholds(cooldown_minutes=seed)})
    bounds = {"long_direction": long, "short_direction": short, "entry": entry, "market_risk": risk, "edge": edge,
              "margin": margin}
    expected = slow_trades(rows.to_dicts(), bounds, SLOW_SIZING | {"min_edge": edge}, SLOW_PLAN, seed)
    got = run(rows.sample(fraction=1, shuffle=True, seed=seed), cfg, PLAN, "tune_inner")
    assert expected
    for name in ("instrument", "minute", "side", "exit_at", "actual_edge_bps"):
        assert got[name].to_list() == [trade[name] for trade in expected]
    for name in ("planned_ratio", "weighted_edge_bps"):
        assert got[name].to_list() == pytest.approx([trade[name] for trade in expected], rel=1e-12)


def test_no_rows_are_no_trades() -> None:
    """An empty minute range that breaks the run."""
    assert run(random_rows(0, 5).clear(), CONFIG, PLAN, "latest_stress").is_empty()


@pytest.mark.parametrize(
    "make",
    [
        lambda: config(direction=1.011), lambda: config(direction=-0.01), lambda: config(direction=math.nan),
        lambda: config(entry=1.01), lambda: config(risk=1.01), lambda: config(margin=-0.1),
        lambda: config(edge=math.inf), lambda: config(base_ratio=0.0), lambda: config(min_initial_ratio=math.nan),
        lambda: AddThresholds(min_entry_prob=2.0), lambda: AddThresholds(max_market_risk=-1.0),
    ],
)
def test_thresholds_outside_their_range_are_refused(make: Callable) -> None:
    """A typo of 65 for 0.65 that silently opens nothing, or everything."""
    with pytest.raises(BadInput, match="observed"):
        make()


def test_the_contract_is_camel_case_and_reads_back() -> None:
    """A bundle that a runtime in another language cannot read under the agreed names."""
    contract = CONFIG.contract()
    assert contract["open"]["long"] == {"minDirectionProb": 0.6, "minEntryProb": 0.5, "minEdgeBps": 3.0}
    assert set(contract["sizing"]) == {
        "baseRatio", "minInitialRatio", "maxSingleLegRatio", "maxTotalPositionRatio", "maxLiquidityUsageRatio",
        "maxLossPerTradeBps", "minEdgeBps"}
    assert contract["add"]["cooldownMinutes"] == 5
    assert ManagerConfig.model_validate(contract) == CONFIG


def test_the_hashes_see_what_they_name() -> None:
    """A threshold hash that moves with the cooldown, or a config hash that does not."""
    other_wait = CONFIG.model_copy(update={"add": AddThresholds(cooldown_minutes=6)})
    assert other_wait.config_hash() != CONFIG.config_hash()
    assert other_wait.threshold_hash() == CONFIG.threshold_hash()
    assert config(margin=0.07).threshold_hash() != CONFIG.threshold_hash()
    assert len(CONFIG.threshold_hash()) == 16


CONTEXT = {
    "pricePlanId": "p", "pricePlanConfigHash": "h", "targetDistanceBps": 12.0, "stopDistanceBps": 8.0,
    "maxHoldMinutes": 45, "costBps": 6.5, "entryTargetMethod": "OPPORTUNITY_QUALITY_V1", "trailingStopBps": 10.0,
}


def test_the_plan_is_read_from_its_context() -> None:
    """Fields of the plan that the manager does not read stopping it, or another name for a field."""
    plan = PlanNumbers.from_context(CONTEXT)
    assert (plan.loss_at_stop_bps, plan.max_hold_minutes, plan.edge_method) == (14.5, 45, "MODEL_ACTUAL_PLAN_EDGE")


@pytest.mark.parametrize(
    "context",
    [None, {}, {k: v for k, v in CONTEXT.items() if k != "stopDistanceBps"}, CONTEXT | {"stopDistanceBps": 0.0},
     CONTEXT | {"entryTargetMethod": "SOMETHING_ELSE"}, CONTEXT | {"maxHoldMinutes": -1}, CONTEXT | {"costBps": -1.0}],
)
def test_a_missing_or_broken_context_is_an_error(context: dict | None) -> None:
    """The default stop, cost and hold of another plan filled in with a warning."""
    with pytest.raises(BadInput):
        PlanNumbers.from_context(context)
