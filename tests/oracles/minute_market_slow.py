"""The market features of one minute in plain Python from their definitions; no code of `pipeline.features`.

Rows are dicts of one run of minutes without a gap, oldest first, the minute itself last. `None` is missing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

Row = dict[str, Any]


def slow_market(rows: list[Row], funding: list[Row]) -> dict[str, float | None]:
    """All but the book's features of the last row; `funding` holds the instrument's rows in time order."""
    now, close = rows[-1], rows[-1]["close"]
    out: dict[str, float | None] = {}
    for n in (1, 3, 5, 15, 30, 60):
        out[f"ret_{n}m_bps"] = _over(rows, n + 1, lambda w: (close / w[0]["close"] - 1) * 1e4)
    for n in (5, 15, 60):
        out[f"realized_vol_{n}m_bps"] = _over(rows, n + 1, _volatility)
    short, long = out["realized_vol_5m_bps"], out["realized_vol_60m_bps"]
    out["vol_ratio_5m_60m"] = short / long if short is not None and long else None
    for n in (1, 15, 60):
        out[f"range_{n}m_bps"] = _over(rows, n, lambda w: (_high(w) - _low(w)) / close * 1e4)
        out[f"close_location_{n}m"] = _over(
            rows, n, lambda w: (close - _low(w)) / (_high(w) - _low(w)) if _high(w) > _low(w) else 0.5
        )
    out["upper_wick_1m_bps"] = (now["high"] - max(now["open"], close)) / close * 1e4
    out["lower_wick_1m_bps"] = (min(now["open"], close) - now["low"]) / close * 1e4
    for n in (60, 240):
        out |= _events(rows, n)
    for n in (60, 240):
        out[f"volume_zscore_{n}m"] = _over(rows, n, lambda w: _zscore([r["volume"] for r in w]))
        out[f"trades_zscore_{n}m"] = _over(rows, n, lambda w: _zscore([r["trades"] for r in w]))
    out["taker_net_zscore_60m"] = _over(
        rows, 60, lambda w: _zscore([2 * r["taker_buy_volume"] - r["volume"] for r in w])
    )
    out["volume_ratio_5m_60m"] = _over(rows, 60, lambda w: _divide(_sum(w[-5:], "volume") / 5, _sum(w, "volume") / 60))
    out["trade_size_ratio_5m_60m"] = _over(rows, 60, lambda w: _divide(_size(w[-5:]), _size(w)))
    for n in (15, 60):
        out[f"vwap_distance_{n}m_bps"] = _over(rows, n, _vwap_distance)
    for n in (1, 5, 15):
        out[f"taker_imbalance_{n}m"] = _over(rows, n, _imbalance)
    out["spread_bps"] = now["spread_bps"]
    out["spread_rank_24h_pct"] = _over(rows, 1440, _rank)
    out["spread_zscore_60m"] = _over(rows, 60, lambda w: _zscore([r["spread_bps"] for r in w]))
    return out | _funding(now["minute"], funding) | _clock(now["minute"])


def _over(rows: list[Row], n: int, value: Callable[[list[Row]], float | None]) -> float | None:
    return value(rows[-n:]) if len(rows) >= n else None


def _volatility(window: list[Row]) -> float:
    moves = [math.log(b["close"] / a["close"]) for a, b in pairwise(window)]
    return math.sqrt(statistics.fmean(x * x for x in moves)) * 1e4


def _high(window: list[Row]) -> float:
    return max(row["high"] for row in window)


def _low(window: list[Row]) -> float:
    return min(row["low"] for row in window)


def _sum(window: list[Row], column: str) -> float:
    return math.fsum(row[column] for row in window)


def _divide(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


def _size(window: list[Row]) -> float | None:
    return _divide(_sum(window, "quote_volume"), _sum(window, "trades"))


def _zscore(values: list[float | None]) -> float | None:
    there = [x for x in values if x is not None]
    if len(there) < len(values) or len(set(there)) == 1:
        return None
    return (there[-1] - statistics.fmean(there)) / statistics.stdev(there)


def _vwap_distance(window: list[Row]) -> float | None:
    price = _divide(_sum(window, "quote_volume"), _sum(window, "volume"))
    return None if price is None else (window[-1]["close"] / price - 1) * 1e4


def _imbalance(window: list[Row]) -> float | None:
    volume, bought = _sum(window, "volume"), _sum(window, "taker_buy_volume")
    return _divide(bought - (volume - bought), volume)


def _rank(window: list[Row]) -> float | None:
    there = [row["spread_bps"] for row in window if row["spread_bps"] is not None]
    now = window[-1]["spread_bps"]
    if now is None or len(there) < 0.9 * len(window):
        return None
    return (sum(x < now for x in there) + (sum(x == now for x in there) + 1) / 2) / len(there)


def _events(rows: list[Row], n: int) -> dict[str, float | None]:
    names = [f"{kind}_{n}m_bps" for kind in ("breakout_up", "breakout_down", "sweep_high", "sweep_low")]
    if len(rows) < n + 1:
        return dict.fromkeys(names)
    now, top, bottom = rows[-1], _high(rows[-n - 1 : -1]), _low(rows[-n - 1 : -1])
    values = [0.0, 0.0, 0.0, 0.0]
    if now["close"] > top:
        values[0] = (now["close"] / top - 1) * 1e4
    elif now["high"] > top:
        values[2] = (now["high"] / top - 1) * 1e4
    if now["close"] < bottom:
        values[1] = (bottom / now["close"] - 1) * 1e4
    elif now["low"] < bottom:
        values[3] = (bottom / now["low"] - 1) * 1e4
    return dict(zip(names, values, strict=True))


def _funding(minute: datetime, funding: list[Row]) -> dict[str, float | None]:
    decision = minute + timedelta(minutes=1)
    known = [row for row in funding if row["funding_time"] < decision]
    if known:
        after = known[-1]["funding_time"] + timedelta(hours=known[-1]["interval_hours"])
        if after >= decision:
            return {
                "funding_rate_bps": known[-1]["rate"] * 1e4,
                "minutes_to_funding": (after - decision).total_seconds() / 60,
            }
    return {"funding_rate_bps": None, "minutes_to_funding": None}


def _clock(minute: datetime) -> dict[str, float | None]:
    day = minute.hour * 60 + minute.minute
    angles = {"day": 2 * math.pi * day / 1440, "week": 2 * math.pi * (minute.weekday() * 1440 + day) / 10_080}
    return {
        f"minute_of_{name}_{wave}": value(angle)
        for name, angle in angles.items() for wave, value in (("sin", math.sin), ("cos", math.cos))
    }  # fmt: skip
