"""The price plan as a value and as a context: defaults, refusals, and both files read back as the same plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import BadInput, Tampered
from pipeline.labels.price_plan import (
    CONTEXT_FIELDS,
    DYNAMIC,
    PricePlan,
    plan_from_context,
    price_plan_context,
    read_price_plan_context,
    write_price_plan_context,
)


def test_defaults_of_the_reference() -> None:
    """Pins every default: another number would label another trade."""
    plan = PricePlan()
    assert (plan.max_hold_minutes, plan.target_distance_bps, plan.stop_distance_bps) == (45, 12, 8)
    assert (plan.second_target_bps, plan.trailing_stop_bps, plan.max_entry_mae_bps) == (24, 10, 12)
    assert (plan.partial_take1_ratio, plan.partial_take2_ratio, plan.breakeven_after_first_target) == (0.5, 0.25, True)
    assert (plan.funding_cost_bps, plan.cost_bps) == (0.5, 6.5)
    assert (plan.min_expected_net_edge_bps, plan.min_plan_net_edge_bps) == (3, 0)


def test_absent_distances_follow_target_and_stop() -> None:
    """Pins what is derived when absent: second target 2x the target, trail and entry MAE the stop."""
    plan = PricePlan(target_distance_bps=20, stop_distance_bps=5, trailing_stop_bps=None, max_entry_mae_bps=None)
    assert (plan.second_target_bps, plan.trailing_stop_bps, plan.max_entry_mae_bps) == (40, 5, 5)
    assert PricePlan(second_target_bps=None).second_target_bps == 24


def test_take_ratios_are_clipped() -> None:
    """Pins the clip: the takes together never exceed the position, nor does either fall below nothing."""
    plan = PricePlan(partial_take1_ratio=1.4, partial_take2_ratio=0.5)
    assert (plan.partial_take1_ratio, plan.partial_take2_ratio) == (1.0, 0.0)
    plan = PricePlan(partial_take1_ratio=0.75, partial_take2_ratio=0.5)
    assert (plan.partial_take1_ratio, plan.partial_take2_ratio) == (0.75, 0.25)
    assert PricePlan(partial_take1_ratio=1).partial_take2_ratio == 0.0  # the default take 2 too
    assert PricePlan(partial_take1_ratio=-1).partial_take1_ratio == 0.0


def test_stop_may_equal_target() -> None:
    """Pins that any positive distances make a label; only the search asks for target > stop."""
    assert PricePlan(target_distance_bps=8, stop_distance_bps=8).stop_distance_bps == 8


@pytest.mark.parametrize(("fields", "says"), [
    ({"target_distance_bps": 0}, "target_distance_bps must be positive"),
    ({"stop_distance_bps": -1}, "stop_distance_bps must be positive"),
    ({"max_hold_minutes": 0}, "max_hold_minutes must be positive"),
    ({"trailing_stop_bps": 0}, "trailing_stop_bps must be positive"),
    ({"second_target_bps": float("nan")}, "finite"),
    ({"fee_bps": float("inf")}, "finite"),
    ({"fee_bps": -9}, "no gain"),
    ({"entry_plan_method": "TRAILING"}, "FIXED_TARGET_STOP_V1"),
    ({"entry_target_method": "BEST"}, "OPPORTUNITY_QUALITY_V1"),
])
def test_bad_plans_are_named(fields: dict[str, Any], says: str) -> None:
    """Pins that a plan that cannot be traded is refused with its field, its value and a remedy."""
    with pytest.raises(BadInput, match=says) as caught:
        PricePlan(**fields)
    assert caught.value.remedy


def test_hash_is_of_the_terms_not_of_the_name() -> None:
    """Pins that equal terms hash alike, spelled out or derived, and that any other term changes the hash."""
    plan = PricePlan()
    assert PricePlan(price_plan_id="mine", second_target_bps=24.0).price_plan_hash == plan.price_plan_hash
    assert PricePlan(slippage_bps=2.5).price_plan_hash != plan.price_plan_hash
    assert PricePlan(entry_target_method="OPPORTUNITY_MFE_V1").price_plan_hash != plan.price_plan_hash


def test_name_tells_the_shape() -> None:
    """Pins the id that the reference gives, and that a fixed plan does not pretend to trail."""
    assert PricePlan(entry_plan_method=DYNAMIC, trailing_stop_bps=8).price_plan_id == (
        "dyn_h45_t12_s8_trail8_t2x2_p50_25")
    assert PricePlan(target_distance_bps=12.5).price_plan_id == "fixed_h45_t12.5_s8"


_plans = st.builds(
    PricePlan,
    entry_plan_method=st.sampled_from(["FIXED_TARGET_STOP_V1", DYNAMIC]),
    target_distance_bps=st.floats(0.1, 500), stop_distance_bps=st.floats(0.1, 500),
    max_hold_minutes=st.integers(1, 600), trailing_stop_bps=st.none() | st.floats(0.1, 500),
    partial_take1_ratio=st.floats(-1, 2), partial_take2_ratio=st.floats(-1, 2), slippage_bps=st.floats(0, 20),
    breakeven_after_first_target=st.booleans(),
)


@given(_plans)
def test_context_reads_back_as_the_plan(plan: PricePlan) -> None:
    """Pins the round trip through JSON text: every digit, every method, the name."""
    assert plan_from_context(json.loads(json.dumps(price_plan_context(plan)))) == plan


@pytest.mark.parametrize("ending", [".json", ".parquet"])
def test_both_files_read_back(tmp_path: Path, ending: str) -> None:
    """Pins both written forms, and that the keys are camelCase in the file."""
    plan, path = PricePlan(entry_plan_method=DYNAMIC, fee_bps=4.1), tmp_path / f"price_plan_context{ending}"
    write_price_plan_context(plan, path)
    assert read_price_plan_context(path) == plan
    if ending == ".json":
        written = json.loads(path.read_text())
        assert list(written) == list(CONTEXT_FIELDS)
        assert written["pricePlanConfigHash"] == plan.price_plan_hash


def test_contract_keys_are_all_there() -> None:
    """Pins the names that a runtime of another language looks up."""
    asked = {
        "pricePlanId", "pricePlanConfigHash", "targetDistanceBps", "stopDistanceBps", "maxHoldMinutes",
        "minExpectedNetEdgeBps", "minPlanNetEdgeBps", "maxEntryMaeBps", "costBps", "entryLabelMethod",
        "entryTargetMethod", "entryPlanMethod", "partialTake1Ratio", "partialTake2Ratio", "secondTargetBps",
        "trailingStopBps", "breakevenAfterFirstTarget",
    }
    assert asked <= set(price_plan_context(PricePlan()))


def test_absent_distances_of_a_context_are_derived() -> None:
    """Pins `twice the target when absent`, `the stop when absent`, for a context that another tool wrote."""
    plan = PricePlan(trailing_stop_bps=None, max_entry_mae_bps=None)
    context = price_plan_context(plan)
    for key in ("secondTargetBps", "trailingStopBps", "maxEntryMaeBps"):
        del context[key]
    assert plan_from_context(context) == plan


def test_missing_context_is_an_error(tmp_path: Path) -> None:
    """Pins the difference from the source, which guessed stop 35, cost 4, hold 45."""
    with pytest.raises(BadInput, match="never guessed"):
        plan_from_context(None)
    with pytest.raises(BadInput, match="need a price_plan_context"):
        read_price_plan_context(tmp_path / "price_plan_context.json")
    with pytest.raises(BadInput, match=r"\.json or a \.parquet"):
        read_price_plan_context(tmp_path / "price_plan_context.yaml")


def test_changed_context_is_an_error() -> None:
    """Pins that a context cannot say another cost, hash or set of keys than its plan."""
    context = price_plan_context(PricePlan())
    with pytest.raises(Tampered, match="costBps"):
        plan_from_context(context | {"costBps": 4.0})
    with pytest.raises(Tampered, match="pricePlanConfigHash"):
        plan_from_context(context | {"stopDistanceBps": 9.0})
    with pytest.raises(BadInput, match="stopDistanceBps"):
        plan_from_context({key: value for key, value in context.items() if key != "stopDistanceBps"})
    with pytest.raises(BadInput, match="stopBps"):
        plan_from_context(context | {"stopBps": 9.0})
