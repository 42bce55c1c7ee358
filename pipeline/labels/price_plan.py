"""The price plan: where a trade is entered, taken, stopped and given up, and what it costs.

A value and its two written forms (`price_plan_context` as JSON and as Parquet). What a plan would have earned
is `path_outcomes`; which plan to choose is `plan_search`.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import Field, ValidationInfo, field_validator

from pipeline.errors import BadInput, Tampered
from pipeline.files import replace_if_changed
from pipeline.fingerprints import hash_json
from pipeline.spec import Spec

PlanMethod = Literal["FIXED_TARGET_STOP_V1", "DYNAMIC_TRAILING_V1"]
EntryTargetMethod = Literal["PRICE_PLAN_OUTCOME_V1", "OPPORTUNITY_QUALITY_V1", "OPPORTUNITY_MFE_V1"]
EntryLabelMethod = Literal["PATH_OUTCOME_V1"]

FIXED: PlanMethod = "FIXED_TARGET_STOP_V1"
DYNAMIC: PlanMethod = "DYNAMIC_TRAILING_V1"
OPPORTUNITY_METHODS = ("OPPORTUNITY_QUALITY_V1", "OPPORTUNITY_MFE_V1")

_KNOWN = {
    "entry_plan_method": (FIXED, DYNAMIC),
    "entry_target_method": ("PRICE_PLAN_OUTCOME_V1", *OPPORTUNITY_METHODS),
    "entry_label_method": ("PATH_OUTCOME_V1",),
}
_DISTANCES = ("target_distance_bps", "stop_distance_bps", "second_target_bps", "trailing_stop_bps", "max_entry_mae_bps")
_DERIVED = {
    "second_target_bps": lambda known: 2 * known["target_distance_bps"],
    "trailing_stop_bps": lambda known: known["stop_distance_bps"],
    "max_entry_mae_bps": lambda known: known["stop_distance_bps"],
}

# camelCase, because a runtime that is not Python reads it; the order is the order of the file.
CONTEXT_FIELDS = {
    "pricePlanId": "price_plan_id",
    "pricePlanConfigHash": "price_plan_hash",
    "targetDistanceBps": "target_distance_bps",
    "stopDistanceBps": "stop_distance_bps",
    "maxHoldMinutes": "max_hold_minutes",
    "minExpectedNetEdgeBps": "min_expected_net_edge_bps",
    "minPlanNetEdgeBps": "min_plan_net_edge_bps",
    "maxEntryMaeBps": "max_entry_mae_bps",
    "costBps": "cost_bps",
    "feeBps": "fee_bps",
    "slippageBps": "slippage_bps",
    "fundingCostBps": "funding_cost_bps",
    "entryLabelMethod": "entry_label_method",
    "entryTargetMethod": "entry_target_method",
    "entryPlanMethod": "entry_plan_method",
    "partialTake1Ratio": "partial_take1_ratio",
    "partialTake2Ratio": "partial_take2_ratio",
    "secondTargetBps": "second_target_bps",
    "trailingStopBps": "trailing_stop_bps",
    "breakevenAfterFirstTarget": "breakeven_after_first_target",
}
_MEASURED = {"pricePlanConfigHash": "price_plan_hash", "costBps": "cost_bps"}


class PricePlan(Spec):
    """One way to trade a minute's decision: entry at its close, both sides, barriers as distances in bps.

    Parameters
    ----------
    entry_plan_method : str
        `FIXED_TARGET_STOP_V1` or `DYNAMIC_TRAILING_V1`.
    target_distance_bps, stop_distance_bps : float
        First target and stop, positive, from the entry price.
    max_hold_minutes : int
        The horizon H: bars looked at after the decision minute.
    second_target_bps : float
        Where take 2 happens; twice the target when None.
    trailing_stop_bps : float
        Distance of the stop from the best price after take 1; the stop distance when None.
    partial_take1_ratio, partial_take2_ratio : float
        Shares of the position taken; clipped to [0, 1] and [0, 1 - take 1].
    breakeven_after_first_target : bool
        Whether the trailing stop is never worse than entry.
    fee_bps, slippage_bps, funding_cost_bps : float
        Cost of a whole round trip, charged once per trade.
    min_expected_net_edge_bps, min_plan_net_edge_bps, max_entry_mae_bps : float
        Bounds of the entry target; the last is the stop distance when None.
    entry_target_method, entry_label_method : str
        What the entry target asks for, and how its truth is made.
    price_plan_id : str
        A name; by default it tells the shape, such as `dyn_h45_t12_s8_trail8_t2x2_p50_25`.

    Raises
    ------
    BadInput
        An unknown method, a distance or horizon that is not positive, a number that is not finite, a negative cost.
    """

    entry_plan_method: PlanMethod = FIXED
    target_distance_bps: float = 12.0
    stop_distance_bps: float = 8.0
    max_hold_minutes: int = 45
    second_target_bps: float = Field(default_factory=_DERIVED["second_target_bps"])
    trailing_stop_bps: float = 10.0
    partial_take1_ratio: float = 0.50
    partial_take2_ratio: float = Field(default=0.25, validate_default=True)
    breakeven_after_first_target: bool = True
    fee_bps: float = 4.0
    slippage_bps: float = 2.0
    funding_cost_bps: float = Field(default=0.5, validate_default=True)
    min_expected_net_edge_bps: float = 3.0
    min_plan_net_edge_bps: float = 0.0
    max_entry_mae_bps: float = 12.0
    entry_target_method: EntryTargetMethod = "PRICE_PLAN_OUTCOME_V1"
    entry_label_method: EntryLabelMethod = "PATH_OUTCOME_V1"
    price_plan_id: str = Field(default_factory=lambda known: derived_plan_id(known), min_length=1)

    @field_validator(*_KNOWN, mode="before")
    @classmethod
    def _known_method(cls, value: object, info: ValidationInfo) -> object:
        known = _KNOWN[str(info.field_name)]
        if value not in known:
            raise BadInput(f"{info.field_name} is one of {list(known)}", repr(value), "name one of these")
        return value

    @field_validator(*_DERIVED, mode="before")
    @classmethod
    def _absent(cls, value: object, info: ValidationInfo) -> object:
        if value is None and {"target_distance_bps", "stop_distance_bps"} <= info.data.keys():
            return _DERIVED[str(info.field_name)](info.data)
        return value

    @field_validator("*")
    @classmethod
    def _finite(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f"{info.field_name} is a finite number", value, "give it in basis points")
        if info.field_name in (*_DISTANCES, "max_hold_minutes") and not value > 0:
            raise BadInput(f"{info.field_name} must be positive", value, "give a distance in bps, a horizon in minutes")
        return value

    @field_validator("funding_cost_bps")
    @classmethod
    def _whole_cost(cls, value: float, info: ValidationInfo) -> float:
        cost = value + info.data.get("fee_bps", 0.0) + info.data.get("slippage_bps", 0.0)
        if cost < 0:
            raise BadInput("fee, slippage and funding together are no gain", f"{cost} bps", "give positive bps")
        return value

    @field_validator("partial_take1_ratio")
    @classmethod
    def _first_take(cls, value: float) -> float:
        return min(max(value, 0.0), 1.0)

    @field_validator("partial_take2_ratio")
    @classmethod
    def _second_take(cls, value: float, info: ValidationInfo) -> float:
        return min(max(value, 0.0), 1.0 - info.data.get("partial_take1_ratio", 0.0))

    @property
    def cost_bps(self) -> float:
        """Fee, slippage and funding of one trade."""
        return self.fee_bps + self.slippage_bps + self.funding_cost_bps

    @property
    def price_plan_hash(self) -> str:
        """sha256 of everything but the name: equal plans have equal hashes."""
        return hash_json(self.model_dump(mode="json", exclude={"price_plan_id"}))


def derived_plan_id(plan: Mapping[str, Any]) -> str:
    """The name that tells a plan's shape, from its fields."""
    target, shape = plan["target_distance_bps"], f"h{plan['max_hold_minutes']}_t{plan['target_distance_bps']:g}"
    shape += f"_s{plan['stop_distance_bps']:g}"
    if plan["entry_plan_method"] == FIXED:
        return f"fixed_{shape}"
    takes = f"p{100 * plan['partial_take1_ratio']:g}_{100 * plan['partial_take2_ratio']:g}"
    return f"dyn_{shape}_trail{plan['trailing_stop_bps']:g}_t2x{plan['second_target_bps'] / target:g}_{takes}"


def price_plan_context(plan: PricePlan) -> dict[str, object]:
    """The plan as it travels: camelCase keys in the order of `CONTEXT_FIELDS`."""
    return {key: getattr(plan, name) for key, name in CONTEXT_FIELDS.items()}


def plan_from_context(context: Mapping[str, object] | None) -> PricePlan:
    """The plan of a context; what labels, position manager and Continue read it with.

    Raises
    ------
    BadInput
        No context, keys missing or unknown: a plan is never guessed.
    Tampered
        The recorded hash or cost is not the plan's.
    """
    if not context:
        raise BadInput("a price plan is read from its price_plan_context, never guessed", "no context",
                       "hand over the context that the labels were made with")
    optional = {"secondTargetBps", "trailingStopBps", "maxEntryMaeBps"}
    missing = sorted(set(CONTEXT_FIELDS) - optional - set(context))
    unknown = sorted(set(context) - set(CONTEXT_FIELDS))
    if missing or unknown:
        raise BadInput("price_plan_context has the keys of CONTEXT_FIELDS", f"missing {missing}, unknown {unknown}",
                       "write it again with price_plan_context")
    plan = PricePlan.model_validate({
        name: context.get(key) for key, name in CONTEXT_FIELDS.items() if key not in _MEASURED
    })
    for key, name in _MEASURED.items():
        if context[key] != getattr(plan, name):
            raise Tampered(f"{key} of a price_plan_context is that of its own plan",
                           f"{context[key]}, the plan gives {getattr(plan, name)}", "write the context again")
    return plan


def context_bytes(plan: PricePlan, ending: str) -> bytes:
    """The context as `.json`, or as one row of `.parquet`."""
    context = price_plan_context(plan)
    if ending == ".json":
        return (json.dumps(context, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    buffer = io.BytesIO()
    pl.DataFrame([context]).write_parquet(buffer)
    return buffer.getvalue()


def write_price_plan_context(plan: PricePlan, path: Path) -> None:
    """Write the context as JSON or as one Parquet row, by the file's ending."""
    replace_if_changed(path, context_bytes(plan, _ending(path)))


def read_price_plan_context(path: Path) -> PricePlan:
    """The plan of a written context; a missing file is an error, not a default plan."""
    ending = _ending(path)
    if not path.exists():
        raise BadInput("labels, position manager and Continue need a price_plan_context", f"no file {path.name}",
                       "write it with write_price_plan_context beside the labels")
    if ending == ".json":
        return plan_from_context(json.loads(path.read_text("utf-8")))
    rows = pl.read_parquet(path)
    if rows.height != 1:
        raise BadInput("a price_plan_context is one row", f"{rows.height} rows in {path.name}", "write it again")
    return plan_from_context(rows.row(0, named=True))


def _ending(path: Path) -> str:
    if path.suffix not in (".json", ".parquet"):
        raise BadInput("a price_plan_context is a .json or a .parquet file", path.name, "choose one of both endings")
    return path.suffix
