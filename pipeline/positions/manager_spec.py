"""What the position manager of minute decisions is told: thresholds, sizing, plan numbers, grids.

The rules themselves are in `manager`.

Frames use snake_case; the JSON that a runtime without Python reads (`ManagerConfig.contract`) is camelCase.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.alias_generators import to_camel

from pipeline.errors import BadInput
from pipeline.fingerprints import hash_json
from pipeline.spec import Spec

SIDES = ("LONG", "SHORT")
SIDE_OFF = 1.01
"""A direction threshold that no probability passes: the side never opens."""

MOST_THRESHOLDS = 63
"""Different threshold values a grid may hold per side: each is one bit of a signed 64-bit mask."""

EdgeMethod = Literal["ENTRY_PROBABILITY_PAYOFF", "MODEL_ACTUAL_PLAN_EDGE"]
EntryTargetMethod = Literal["PRICE_PLAN_OUTCOME_V1", "OPPORTUNITY_QUALITY_V1", "OPPORTUNITY_MFE_V1"]


def _require(ok: bool, rule: str, observed: object, remedy: str) -> None:
    if not ok:
        raise BadInput(rule, observed, remedy)


def require_probability(value: float, name: str, highest: float = 1.0) -> float:
    """`value` if it lies in [0, highest]; NaN does not."""
    _require(0.0 <= value <= highest, f"{name} lies in [0, {highest:g}]", value, f"give a value in [0, {highest:g}]")
    return value


def require_side(side: str) -> str:
    """The column prefix of a side: LONG -> `long`, SHORT -> `short`."""
    _require(side in SIDES, f"a side is one of {list(SIDES)}", side, "name the side in capitals")
    return side.lower()


class _Contract(Spec):
    """A spec that is written to JSON in camelCase and read from either spelling."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, validate_by_alias=True)


class SideThresholds(_Contract):
    """What one side needs to open; every comparison is strict.

    Parameters
    ----------
    min_direction_prob : float
        In [0, 1.01]; `SIDE_OFF` switches the side off.
    min_entry_prob : float
        In [0, 1].
    min_edge_bps : float
        Least predicted net edge.
    """

    min_direction_prob: float
    min_entry_prob: float
    min_edge_bps: float

    @model_validator(mode="after")
    def _check(self) -> Self:
        require_probability(self.min_direction_prob, "a direction threshold", SIDE_OFF)
        require_probability(self.min_entry_prob, "an entry threshold")
        _require(math.isfinite(self.min_edge_bps), "an edge threshold is a finite number of bps", self.min_edge_bps,
                 "give a finite value")
        return self


class OpenThresholds(_Contract):
    """Gates of a first position. The margin is |long - short| direction probability, the same for both sides."""

    long: SideThresholds = SideThresholds(min_direction_prob=0.60, min_entry_prob=0.50, min_edge_bps=3.0)
    short: SideThresholds = SideThresholds(min_direction_prob=0.60, min_entry_prob=0.50, min_edge_bps=3.0)
    min_direction_margin: float = 0.06
    max_market_risk: float = 0.65

    @model_validator(mode="after")
    def _check(self) -> Self:
        require_probability(self.min_direction_margin, "the direction margin")
        require_probability(self.max_market_risk, "the market risk threshold")
        return self

    def side(self, side: str) -> SideThresholds:
        """The thresholds of LONG or SHORT."""
        return self.long if require_side(side) == "long" else self.short


class AddThresholds(_Contract):
    """Adding to a position; `cooldown_minutes` is also the wait between an exit and the next entry of a symbol."""

    max_market_risk: float = 0.65
    min_entry_prob: float = 0.50
    min_edge_bps: float = 3.0
    cooldown_minutes: int = Field(default=5, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        require_probability(self.max_market_risk, "the market risk threshold of adding")
        require_probability(self.min_entry_prob, "the entry threshold of adding")
        _require(math.isfinite(self.min_edge_bps), "an edge threshold is a finite number of bps", self.min_edge_bps,
                 "give a finite value")
        return self


class Sizing(_Contract):
    """Share of capital a first position gets.

    Parameters
    ----------
    base_ratio : float
        Ratio at predicted edge = stop + cost and full confidence.
    min_initial_ratio : float
        A smaller position is raised to this one; a cap below it means no trade.
    max_single_leg_ratio, max_total_position_ratio, max_liquidity_usage_ratio : float
        Caps, as shares of capital.
    max_loss_per_trade_bps : float
        Most a stopped trade may cost, in bps of capital: caps the ratio at this / (stop + cost).
    min_edge_bps : float
        No position below this predicted edge.
    """

    base_ratio: float = 1.0
    min_initial_ratio: float = 0.05
    max_single_leg_ratio: float = 0.20
    max_total_position_ratio: float = 1.0
    max_liquidity_usage_ratio: float = 1.0
    max_loss_per_trade_bps: float = 20.0
    min_edge_bps: float = 3.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in set(type(self).model_fields) - {"min_edge_bps"}:
            value = getattr(self, name)
            _require(0.0 < value < math.inf, f"sizing's {name} is positive and finite", value, "give a positive value")
        _require(math.isfinite(self.min_edge_bps), "sizing's min_edge_bps is finite", self.min_edge_bps,
                 "give a finite value")
        return self

    def cap(self, loss_at_stop_bps: float) -> float:
        """The largest ratio at a loss of stop + cost bps."""
        return min(
            self.max_single_leg_ratio,
            self.max_total_position_ratio,
            self.max_liquidity_usage_ratio,
            self.max_loss_per_trade_bps / loss_at_stop_bps,
        )


class ManagerConfig(_Contract):
    """One position manager, as chosen; it travels in bundles as `contract()`."""

    version: str = "1"
    open: OpenThresholds = OpenThresholds()
    add: AddThresholds = AddThresholds()
    sizing: Sizing = Sizing()

    def contract(self) -> dict[str, Any]:
        """The plain camelCase form that bundles hold and hashes are taken of."""
        return self.model_dump(mode="json", by_alias=True)

    def config_hash(self) -> str:
        """sha256 of the contract's canonical JSON."""
        return hash_json(self.contract())

    def threshold_hash(self) -> str:
        """First 16 hex digits of the hash of the `open` section: which gates let a trade in."""
        return hash_json(self.contract()["open"])[:16]


class PlanNumbers(_Contract):
    """What the manager reads of a price plan; distances and cost in bps."""

    price_plan_id: str
    price_plan_config_hash: str
    target_distance_bps: float
    stop_distance_bps: float
    max_hold_minutes: int
    cost_bps: float
    entry_target_method: EntryTargetMethod

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("target_distance_bps", "stop_distance_bps", "max_hold_minutes"):
            value = getattr(self, name)
            _require(0 < value < math.inf, f"the price plan's {name} is positive", value, "give the plan's own value")
        _require(0 <= self.cost_bps < math.inf, "the price plan's cost is not negative", self.cost_bps,
                 "give fee + slippage + funding, in bps")
        return self

    @classmethod
    def from_context(cls, context: Mapping[str, Any] | None) -> Self:
        """The numbers out of a `price_plan_context`.

        Raises
        ------
        BadInput
            There is no context, or it lacks or breaks a field. Nothing is filled in: a default stop or cost
            would silently judge another plan.
        """
        _require(bool(context), "the position manager needs a price_plan_context", context,
                 "pass the context that the labels were made with")
        names = {to_camel(name) for name in cls.model_fields}
        try:
            return cls.model_validate({key: value for key, value in (context or {}).items() if key in names})
        except ValidationError as error:
            wrong = {".".join(map(str, e["loc"])): e["msg"] for e in error.errors()}
            raise BadInput(f"a price_plan_context holds {sorted(names)}", wrong, "rebuild the price plan") from error

    @property
    def loss_at_stop_bps(self) -> float:
        """Stop + cost."""
        return self.stop_distance_bps + self.cost_bps

    @property
    def edge_method(self) -> EdgeMethod:
        """Opportunity targets are no event of the plan, so their entry probability pays nothing by itself."""
        return "ENTRY_PROBABILITY_PAYOFF" if self.entry_target_method == "PRICE_PLAN_OUTCOME_V1" else (
            "MODEL_ACTUAL_PLAN_EDGE")


class SearchGrid(Spec):
    """Threshold values to try; candidates run in the order of the fields, the last varies fastest.

    `max_single_leg_ratio` replaces the cap of the searched configuration (1.0: a tight cap would level the
    sizes and hide which thresholds size well).
    """

    long_direction: tuple[float, ...]
    short_direction: tuple[float, ...]
    entry: tuple[float, ...]
    market_risk: tuple[float, ...]
    edge: tuple[float, ...]
    margin: tuple[float, ...]
    max_single_leg_ratio: float = 1.0

    @field_validator("long_direction", "short_direction", "entry", "market_risk", "edge", "margin")
    @classmethod
    def _axis(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        _require(bool(values) and len(set(values)) == len(values), "a grid axis has one or more different values",
                 values, "drop doubled values")
        return values

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        for value in self.long_direction + self.short_direction:
            require_probability(value, "a direction threshold", SIDE_OFF)
        for value in self.entry + self.market_risk + self.margin:
            require_probability(value, "an entry, risk or margin threshold")
        _require(all(map(math.isfinite, self.edge)), "edge thresholds are finite", self.edge, "give finite bps")
        per_side = max(len(self.long_direction), len(self.short_direction)) + sum(map(len, self.common))
        _require(per_side <= MOST_THRESHOLDS, f"a grid has at most {MOST_THRESHOLDS} threshold values per side",
                 per_side, "search a coarser grid first, then refine around its best")
        return self

    @property
    def common(self) -> tuple[tuple[float, ...], ...]:
        """The axes that hold for both sides: entry, market risk, edge, margin."""
        return self.entry, self.market_risk, self.edge, self.margin

    @property
    def size(self) -> int:
        """Number of candidates."""
        return math.prod(map(len, (self.long_direction, self.short_direction, *self.common)))


GRID = SearchGrid(
    long_direction=(0.50, 0.60, 0.70, SIDE_OFF), short_direction=(0.50, 0.60, 0.70, SIDE_OFF),
    entry=(0.30, 0.50, 0.70, 0.85), market_risk=(0.45, 0.65), edge=(3.0, 8.0, 15.0, 25.0), margin=(0.02, 0.06, 0.10),
)
"""1,536 candidates."""

EXPANDED_GRID = SearchGrid(
    long_direction=(0.20, 0.30, 0.40, 0.50, 0.60, SIDE_OFF), short_direction=(0.20, 0.30, 0.40, 0.50, 0.60, SIDE_OFF),
    entry=(0.05, 0.10, 0.20, 0.30, 0.40, 0.50), market_risk=(0.45, 0.65, 0.85, 1.00),
    edge=(-5.0, 0.0, 3.0, 5.0, 8.0), margin=(0.0, 0.01, 0.02, 0.05),
)
"""17,280 candidates."""


class ManagerSpec(Spec):
    """The position manager: gates and sizes of minute decisions, searched on each split's tune group.

    Parameters
    ----------
    grid : SearchGrid
        Thresholds tried.
    base : ManagerConfig
        What the grid does not set.
    alpha : str
        Served column that is measured by itself: rank IC, and the correlation of a refit with the split's model.
    """

    family: Literal["position_manager"] = "position_manager"
    grid: SearchGrid = GRID
    base: ManagerConfig = ManagerConfig()
    alpha: str = "direction_long_prob_pred"

    @property
    def fewest(self) -> int:
        """Rows of a session below which their order says nothing."""
        return 2
