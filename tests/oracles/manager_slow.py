"""The position manager one row at a time, written from its rules; no code of `pipeline.positions`.

Rows are dicts of a frame with predictions and truth; thresholds, sizing and plan are plain dicts.
"""

from __future__ import annotations

import math
import statistics
from datetime import timedelta


def predicted_edge(row: dict, side: str, plan: dict) -> float:
    if plan["entry_target_method"] != "PRICE_PLAN_OUTCOME_V1":
        return row[f"{side}_expected_net_edge_bps"]
    p = row[f"{side}_entry_prob"]
    return p * (plan["target"] - plan["cost"]) + (1.0 - p) * (-plan["stop"] - plan["cost"])


def passes(row: dict, side: str, gates: dict, plan: dict) -> bool:
    return (
        row[f"direction_{side}_prob"] > gates[f"{side}_direction"]
        and abs(row["direction_long_prob"] - row["direction_short_prob"]) > gates["margin"]
        and row[f"{side}_entry_prob"] > gates["entry"]
        and row["market_risk_prob"] < gates["market_risk"]
        and predicted_edge(row, side, plan) > gates["edge"]
    )


def confidence(row: dict, side: str) -> float:
    return row[f"direction_{side}_prob"] * row[f"{side}_entry_prob"] * (1.0 - row["market_risk_prob"])


def ratio(row: dict, side: str, sizing: dict, plan: dict) -> float:
    loss = plan["stop"] + plan["cost"]
    cap = min(sizing["single"], sizing["total"], sizing["liquidity"], sizing["max_loss"] / loss)
    edge = predicted_edge(row, side, plan)
    if cap < sizing["minimum"] or edge < sizing["min_edge"]:
        return 0.0
    size = sizing["base"] * edge / max(loss, 1.0) * confidence(row, side)
    return min(max(size, sizing["minimum"]), cap)


def choose(row: dict, gates: dict, plan: dict) -> str | None:
    sides = [side for side in ("long", "short") if passes(row, side, gates, plan)]
    if len(sides) < 2:
        return sides[0] if sides else None
    value = {side: max(predicted_edge(row, side, plan), 0.0) * confidence(row, side) for side in sides}
    return "short" if value["short"] > value["long"] else "long"


def slow_trades(rows: list[dict], gates: dict, sizing: dict, plan: dict, cooldown: int) -> list[dict]:
    """Trades in order of entry; a symbol is free again at exit + cooldown."""
    trades: list[dict] = []
    for row in sorted(rows, key=lambda row: (row["minute"], row["instrument"])):
        side = choose(row, gates, plan)
        size = ratio(row, side, sizing, plan) if side else 0.0
        entry_at = row["minute"] + timedelta(minutes=1)
        last = [trade for trade in trades if trade["instrument"] == row["instrument"]][-1:]
        if size == 0.0 or (last and entry_at < last[0]["exit_at"] + timedelta(minutes=cooldown)):
            continue
        held = row[f"{side}_time_to_exit_ms"]
        held = plan["max_hold"] * 60_000 if held is None else held
        actual = row[f"{side}_gross_edge_bps"] - plan["cost"]
        trades.append({
            "instrument": row["instrument"], "minute": row["minute"], "side": side.upper(), "planned_ratio": size,
            "actual_edge_bps": actual, "weighted_edge_bps": actual * size,
            "exit_at": entry_at + timedelta(milliseconds=held),
        })
    return trades


def slow_metrics(trades: list[dict]) -> dict[str, float]:
    names = ("trade_count", "win_rate", "mean_actual_edge_bps", "mean_weighted_edge_bps", "total_weighted_edge_bps",
             "max_drawdown_bps", "profit_factor", "longest_losing_run", "planned_ratio_mean", "planned_ratio_min",
             "planned_ratio_median", "planned_ratio_max")
    if not trades:
        return dict.fromkeys(names, 0.0) | {"score": -1_000_000.0}
    n = len(trades)
    actual, weighted, ratios = (
        [trade[k] for trade in trades] for k in ("actual_edge_bps", "weighted_edge_bps", "planned_ratio")
    )
    curve = [math.fsum(weighted[:i]) for i in range(n + 1)]
    losing = ["L" if edge < 0 else " " for edge in weighted]
    gain, loss = sum(w for w in weighted if w > 0), -sum(w for w in weighted if w < 0)
    values = (
        n, sum(a > 0 for a in actual) / n, sum(actual) / n, sum(weighted) / n, sum(weighted),
        max(max(curve[: i + 1]) - curve[i] for i in range(n + 1)), gain / loss if loss else math.inf,
        max(map(len, "".join(losing).split(" "))),
        sum(ratios) / n, min(ratios), statistics.median(ratios), max(ratios),
    )
    m = dict(zip(names, values, strict=True))
    return m | {
        "score": m["mean_weighted_edge_bps"] * n**0.5 + 0.03 * m["total_weighted_edge_bps"]
        - 0.20 * m["max_drawdown_bps"] - 2 * max(0, 80 - n)
    }
