"""The as-of panel in the slowest obvious way: every cell asks every row, limits in decimal arithmetic.

Shares no code with `pipeline.asof`. Rows are the dictionaries of `tests.asof.markets.Market.rows`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Decimal

Row = Mapping[str, object]


def newest(rows: Sequence[Row], code: str, session: date, decision: datetime) -> Row | None:
    """The row of the key with the latest `known_at` at or before the decision."""
    seen = [
        row
        for row in rows
        if row["ts_code"] == code and row["trade_date"] == session and row["known_at"] <= decision
    ]
    return max(seen, key=lambda row: row["known_at"], default=None)


def limit(pre_close: float, percent: int, sign: int) -> float:
    """`pre_close x (1 +- percent)` half up to a cent, exact on the printed decimals."""
    factor = 1 + sign * Decimal(percent) / 100
    return float((Decimal(repr(pre_close)) * factor).quantize(Decimal("0.01"), ROUND_HALF_UP))


def measures(
    rows: Mapping[str, Sequence[Row]], code: str, session: date, decision: datetime
) -> dict[str, object]:
    """Some measures of a main-board cell as a decision at `decision` knows them."""
    bar = newest(rows.get("daily", ()), code, session, decision)
    factor = newest(rows.get("adj_factor", ()), code, session, decision)
    basic = newest(rows.get("daily_basic", ()), code, session, decision)
    halted = newest(rows.get("suspend_d", ()), code, session, decision)
    return {
        "close": bar and bar["close"],
        "pre_close": bar and bar["pre_close"],
        "volume": bar and bar["vol"] * 100,
        "amount": bar and bar["amount"] * 1000,
        "up_limit": bar and limit(bar["pre_close"], 10, +1),
        "down_limit": bar and limit(bar["pre_close"], 10, -1),
        "factor": factor and factor["adj_factor"],
        "total_mv": basic and basic["total_mv"] * 10_000,
        "suspended": halted is not None,
    }
