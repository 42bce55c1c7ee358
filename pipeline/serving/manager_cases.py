"""Cases of the position manager in which implementations go apart: thresholds met exactly, ties, caps. Inputs only."""

from __future__ import annotations

from typing import Any, NamedTuple

from pipeline.positions.manager_spec import (
    SIDE_OFF,
    EntryTargetMethod,
    ManagerConfig,
    OpenThresholds,
    PlanNumbers,
    SideThresholds,
    Sizing,
)


class ManagerCase(NamedTuple):
    """One row under one configuration and plan."""

    name: str
    row: dict[str, float]
    config: ManagerConfig
    plan: PlanNumbers


def _side(direction: float = 0.3, entry: float = 0.2, edge: float = -20.0) -> SideThresholds:
    return SideThresholds(min_direction_prob=direction, min_entry_prob=entry, min_edge_bps=edge)


def _config(
    long: SideThresholds | None = None,
    short: SideThresholds | None = None,
    margin: float = 0.0,
    risk: float = 1.0,
    least: float = -20.0,
    **sizing: float,
) -> ManagerConfig:
    """Gates and sizes that stop nothing but what is named."""
    gates = OpenThresholds(
        long=long or _side(), short=short or _side(), min_direction_margin=margin, max_market_risk=risk
    )
    return ManagerConfig(open=gates, sizing=Sizing(min_edge_bps=least, **sizing))


def _plan(method: EntryTargetMethod = "PRICE_PLAN_OUTCOME_V1", stop: float = 8.0, cost: float = 2.0) -> PlanNumbers:
    return PlanNumbers(
        price_plan_id="case",
        price_plan_config_hash="0" * 64,
        target_distance_bps=12.0,
        stop_distance_bps=stop,
        max_hold_minutes=45,
        cost_bps=cost,
        entry_target_method=method,
    )


def _row(**changes: float) -> dict[str, float]:
    """LONG is likely, and worth 5 bps by its entry probability."""
    plain = {
        "direction_long_prob": 0.75,
        "direction_short_prob": 0.125,
        "long_entry_prob": 0.75,
        "short_entry_prob": 0.75,
        "long_expected_net_edge_bps": 4.0,
        "short_expected_net_edge_bps": 4.0,
        "market_risk_prob": 0.25,
    }
    return plain | changes


def manager_cases() -> tuple[ManagerCase, ...]:
    """In the order in which they are written down."""
    by_model, off = _plan("OPPORTUNITY_MFE_V1"), _side(SIDE_OFF)
    short = {"direction_long_prob": 0.125, "direction_short_prob": 0.75}
    equal: dict[str, Any] = {"direction_long_prob": 0.5, "direction_short_prob": 0.75}
    cases = [
        ("opens LONG", _row(), _config(), _plan()),
        ("opens SHORT", _row(**short), _config(), _plan()),
        ("defaults of the configuration", _row(), ManagerConfig(), _plan()),
        ("direction equal to its threshold", _row(), _config(long=_side(direction=0.75)), _plan()),
        ("margin equal to its threshold", _row(), _config(margin=0.625), _plan()),
        ("margin has no sign", _row(**short), _config(margin=0.5), _plan()),
        ("entry probability equal to its threshold", _row(), _config(long=_side(entry=0.75)), _plan()),
        ("market risk equal to its threshold", _row(), _config(risk=0.25), _plan()),
        ("predicted edge equal to its threshold", _row(), _config(long=_side(edge=5.0)), _plan()),
        ("LONG switched off", _row(direction_long_prob=1.0, direction_short_prob=0.0), _config(long=off), _plan()),
        ("LONG switched off, SHORT passes", _row(**equal), _config(long=off), _plan()),
        ("both switched off", _row(**equal), _config(long=off, short=off), _plan()),
        ("both pass, SHORT is worth more", _row(**equal), _config(), _plan()),
        ("both pass and are worth the same: LONG", _row(**equal, long_expected_net_edge_bps=6.0), _config(), by_model),
        ("both pass and are worth nothing: LONG", _row(**equal, long_entry_prob=0.25, short_entry_prob=0.25),
         _config(), _plan()),
        ("edge of the model where the entry target is an opportunity", _row(), _config(), by_model),
        ("size between its bounds", _row(), _config(base_ratio=0.5), _plan()),
        ("size raised to the minimum", _row(), _config(base_ratio=0.125), _plan()),
        ("size cut at the single-leg cap", _row(), _config(base_ratio=4.0), _plan()),
        ("size cut by the loss per trade", _row(), _config(base_ratio=4.0, max_loss_per_trade_bps=1.25), _plan()),
        ("size cut by the total", _row(), _config(base_ratio=4.0, max_total_position_ratio=0.15), _plan()),
        ("size cut by liquidity", _row(), _config(base_ratio=4.0, max_liquidity_usage_ratio=0.1), _plan()),
        ("cap under the minimum: no trade", _row(), _config(max_loss_per_trade_bps=0.25), _plan()),
        ("cap equal to the minimum", _row(), _config(max_single_leg_ratio=0.05), _plan()),
        ("edge under the sizing's minimum: no trade", _row(), _config(least=6.0), _plan()),
        ("edge equal to the sizing's minimum", _row(), _config(least=5.0), _plan()),
        ("a loss under one basis point", _row(), _config(base_ratio=0.0625), _plan(stop=0.5, cost=0.25)),
        ("probabilities beyond their bounds by rounding", _row(direction_long_prob=1.0000001, market_risk_prob=-1e-7),
         _config(), _plan()),
    ]  # fmt: skip
    return tuple(ManagerCase(*case) for case in cases)
