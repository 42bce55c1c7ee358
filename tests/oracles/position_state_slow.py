"""States of positions one by one, in plain Python, straight from the formulas of the contract."""

from __future__ import annotations

from datetime import timedelta
from typing import Any


def slow_states(
    bars: list[dict[str, Any]], entries: list[dict[str, Any]], target: float, stop: float, cost: float,
    ages: tuple[int, ...],
) -> dict[tuple[Any, ...], tuple[float, ...]]:
    """(instrument, side, entry minute, age) -> pnl, mfe, mae, to stop, to target, and the four ratios; bps."""
    at = {(bar["instrument"], bar["minute"]): bar for bar in bars}
    found = {}
    for entry in entries:
        name, begun, long = entry["instrument"], entry["minute"], entry["side"] == "LONG"
        price = at[name, begun]["close"]
        for age in ages:
            path = [at.get((name, begun + timedelta(minutes=i))) for i in range(1, age + 1)]
            if None in path:
                continue
            now = path[-1]["close"]
            top, bottom = max(bar["high"] for bar in path), min(bar["low"] for bar in path)
            if long:
                best, worst, move = top / price - 1, price / bottom - 1, now / price - 1
                to_stop, to_target = now / (price * (1 - stop / 1e4)) - 1, price * (1 + target / 1e4) / now - 1
            else:
                best, worst, move = price / bottom - 1, top / price - 1, price / now - 1
                to_stop, to_target = price * (1 + stop / 1e4) / now - 1, now / (price * (1 - target / 1e4)) - 1
            pnl, mfe, mae = move * 1e4 - cost, max(best, 0) * 1e4, max(worst, 0) * 1e4
            found[name, entry["side"], begun, age] = (
                pnl, mfe, mae, to_stop * 1e4, to_target * 1e4, pnl / (mfe + mae + 1), mfe - max(pnl, 0), pnl + mae,
                mfe / (mae + 1),
            )
    return found
