"""Which vendor columns each panel column is made from: for people who trace a number. The arithmetic is in measures.py.

A column named here is what the value reads; which *version* of the row it reads is `known_at` against the decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Origin = Mapping[str, tuple[str, ...]]
"""Vendor table -> the columns read."""

_LISTING: Origin = {"stock_basic": ("list_date", "delist_date"), "bse_mapping": ("o_code", "n_code")}
_ST: Origin = {"stock_st": ("type",), "namechange": ("name", "start_date", "end_date")}
_LIMIT: Origin = {"daily": ("pre_close",), **_ST}
_SUSPENDED: Origin = {"suspend_d": ("suspend_type", "suspend_timing")}
_ORDERS = {"flow_small": "sm", "flow_medium": "md", "flow_large": "lg", "flow_extra_large": "elg"}
_LEGS = {name: (f"buy_{size}_amount", f"sell_{size}_amount") for name, size in _ORDERS.items()}

ORIGINS: Mapping[str, Origin] = {
    **{name: {"daily": (name,)} for name in ("open", "high", "low", "close", "pre_close", "amount")},
    "volume": {"daily": ("vol",)},
    "factor": {"adj_factor": ("adj_factor",)},
    "code": {"bse_mapping": ("o_code", "n_code")},
    "board": {"stock_basic": ("list_date",)},
    "industry": {"index_member_all": ("l1_name", "in_date", "out_date")},
    "listing_age": _LISTING,
    "is_st": _ST,
    "up_limit": _LIMIT,
    "down_limit": _LIMIT,
    "limit_mismatch": {**_LIMIT, "stk_limit": ("up_limit", "down_limit")},
    "suspended": _SUSPENDED,
    "turnover": {"daily_basic": ("turnover_rate",)},
    "turnover_free": {"daily_basic": ("turnover_rate_f",)},
    "dividend_yield_pct": {"daily_basic": ("dv_ttm",)},
    **{name: {"daily_basic": (name,)} for name in ("volume_ratio", "pe_ttm", "pb", "ps_ttm", "total_mv", "circ_mv")},
    **{name: {"moneyflow": legs} for name, legs in _LEGS.items()},
    "flow_gross": {"moneyflow": tuple(leg for legs in _LEGS.values() for leg in legs)},
    "open_block": {**_LIMIT, "daily": ("open", "pre_close", "amount"), **_SUSPENDED},
    "close_block": {**_LIMIT, "daily": ("close", "pre_close", "amount"), **_SUSPENDED},
    "bars": {"stk_mins": ("open", "high", "low", "close", "amount")},
}
"""Panel column -> its origin; `bars` is the column of the `intraday` table. `decision_time` has none: it is the
market's wall time."""

_STATE = {**_LISTING, "daily": ("open", "high", "low", "close", "vol", "amount"), "adj_factor": ("adj_factor",)}
_DECIDED: Mapping[str, Origin] = {name: {**_STATE, **_ST, **_SUSPENDED} for name in ("eligible", "exclusion")}


def origin(columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Vendor table -> the columns behind some panel columns, in the order of the columns."""
    found: dict[str, list[str]] = {}
    for column in columns:
        for table, names in (_DECIDED.get(column) or ORIGINS.get(column, {})).items():
            found.setdefault(table, []).extend(name for name in names if name not in found.get(table, []))
    return {table: tuple(dict.fromkeys(names)) for table, names in found.items()}
