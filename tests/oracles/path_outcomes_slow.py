"""Path outcomes minute by minute in plain Python: long and short written out, nothing shared with the kernels."""

from __future__ import annotations

import math
from datetime import timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from pipeline.labels.path_outcomes import COLUMNS
from pipeline.labels.price_plan import FIXED, PricePlan

Bar = dict[str, Any]


def slow_outcomes(bars: pl.DataFrame, plan: PricePlan) -> pl.DataFrame:
    """`path_outcomes`, one minute at a time."""
    horizon, rows = plan.max_hold_minutes, []
    for _, frame in sorted(bars.partition_by("instrument", as_dict=True).items()):
        series = frame.sort("minute").rows(named=True)
        for i in range(len(series) - horizon):
            window = series[i : i + horizon + 1]
            if window[-1]["minute"] - window[0]["minute"] == timedelta(minutes=horizon):
                rows.append(_row(window[0], window[1:], plan))
    table = pl.DataFrame(rows, infer_schema_length=None) if rows else pl.DataFrame(schema=dict.fromkeys(COLUMNS))
    return table.select(COLUMNS).sort("session", "instrument", "minute")


def _row(now: Bar, ahead: list[Bar], plan: PricePlan) -> Bar:
    trade = _fixed if plan.entry_plan_method == FIXED else _dynamic
    entry, last = now["close"], ahead[-1]["close"]
    top, bottom = max(bar["high"] for bar in ahead), min(bar["low"] for bar in ahead)
    rise, fall = max(top / entry - 1, 0.0) * 1e4, max(entry / bottom - 1, 0.0) * 1e4
    row = {name: now[name] for name in ("session", "instrument", "minute")}
    for side, move, best, worst in (("long", (last / entry - 1) * 1e4, rise, fall),
                                    ("short", (entry / last - 1) * 1e4, fall, rise)):
        outcome = trade(side == "long", entry, ahead, plan, move)
        outcome |= {"future_return_bps": move, "mfe_bps": best, "mae_bps": worst}
        row |= {f"{side}_{name}": value for name, value in outcome.items()}
    spreads = [bar["spread_bps"] for bar in ahead if bar["spread_bps"] is not None]
    closes = [entry, *(bar["close"] for bar in ahead)]
    squares = [math.log(b / a) ** 2 for a, b in pairwise(closes)]
    return row | {
        "future_spread_p80": float(np.quantile(spreads, 0.8)) if spreads else None,
        "future_realized_vol_bps": math.sqrt(sum(squares) / len(squares)) * 1e4,
    }


def _outcome(target: int, stop: int, timeout: int, both: int, bars: tuple[int, int, int], gross: float) -> Bar:
    to_target, to_stop, to_exit = (bar * 60_000 if bar > 0 else -1 for bar in bars)
    return {"target_hit": target, "stop_hit": stop, "timeout_hit": timeout, "ambiguous_hit": both,
            "time_to_target_ms": to_target, "time_to_stop_ms": to_stop, "time_to_exit_ms": to_exit,
            "gross_edge_bps": gross}


def _fixed(long: bool, entry: float, ahead: list[Bar], plan: PricePlan, move: float) -> Bar:
    target, stop = plan.target_distance_bps, plan.stop_distance_bps
    for k, bar in enumerate(ahead, 1):
        if long:
            stopped, reached = bar["low"] <= entry * (1 - stop / 1e4), bar["high"] >= entry * (1 + target / 1e4)
        else:
            stopped, reached = bar["high"] >= entry * (1 + stop / 1e4), bar["low"] <= entry * (1 - target / 1e4)
        if stopped:
            return _outcome(0, 1, 0, int(reached), (-1, k, k), -stop)
        if reached:
            return _outcome(1, 0, 0, 0, (k, -1, k), target)
    return _outcome(0, 0, 1, 0, (-1, -1, len(ahead)), move)


def _dynamic(long: bool, entry: float, ahead: list[Bar], plan: PricePlan, move: float) -> Bar:
    left, earned, took_first, took_second, best = 1.0, 0.0, -1, False, entry
    for k, bar in enumerate(ahead, 1):
        price = _stop_price(long, entry, best, took_first > 0, plan)
        if (bar["low"] <= price) if long else (bar["high"] >= price):
            lost = (price / entry - 1) * 1e4 if long else (entry / price - 1) * 1e4
            return _outcome(int(took_first > 0), int(took_first < 0), 0, 0, (took_first, k, k), earned + left * lost)
        if took_first < 0 and _reached(long, entry, bar, plan.target_distance_bps):
            took_first = k
            earned += plan.partial_take1_ratio * plan.target_distance_bps
            left -= plan.partial_take1_ratio
        if took_first > 0 and not took_second and _reached(long, entry, bar, plan.second_target_bps):
            took_second = True
            part = min(plan.partial_take2_ratio, left)
            earned += part * plan.second_target_bps
            left -= part
        if left < 1e-9:
            return _outcome(1, 0, 0, 0, (took_first, -1, k), earned)
        best = max(best, bar["high"]) if long else min(best, bar["low"])
    return _outcome(int(took_first > 0), 0, 1, 0, (took_first, -1, len(ahead)), earned + left * move)


def _reached(long: bool, entry: float, bar: Bar, distance: float) -> bool:
    return bar["high"] >= entry * (1 + distance / 1e4) if long else bar["low"] <= entry * (1 - distance / 1e4)


def _stop_price(long: bool, entry: float, best: float, taken: bool, plan: PricePlan) -> float:
    stop, trail = plan.stop_distance_bps / 1e4, plan.trailing_stop_bps / 1e4
    if not taken:
        return entry * (1 - stop) if long else entry * (1 + stop)
    price = best * (1 - trail) if long else best * (1 + trail)
    if plan.breakeven_after_first_target:
        price = max(price, entry) if long else min(price, entry)
    return price
