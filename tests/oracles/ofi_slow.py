"""The 16 order-flow features minute by minute in plain Python from their definitions; no code of `pipeline.features`.

`None` is missing. A snapshot is a list of 20 (bid price, bid size, ask price, ask size), NaN or zero where a level is
missing, or None where the minute has no usable one.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

Level = tuple[float, float, float, float]
Snapshot = list[Level] | None


def bid_part(price: float, size: float, price_before: float, size_before: float) -> float:
    if price > price_before:
        return size * price
    if price < price_before:
        return -size_before * price_before
    return (size - size_before) * price


def ask_part(price: float, size: float, price_before: float, size_before: float) -> float:
    if price < price_before:
        return -size * price
    if price > price_before:
        return size_before * price_before
    return -(size - size_before) * price


def _there(level: Level) -> bool:
    return all(x > 0 for x in level)


def event(now: Snapshot, before: Snapshot, levels: int) -> float | None:
    if now is None or before is None:
        return None
    pairs = list(zip(now[:levels], before[:levels], strict=True))
    if not all(_there(a) and _there(b) for a, b in pairs):
        return None
    return sum(bid_part(a[0], a[1], b[0], b[1]) + ask_part(a[2], a[3], b[2], b[3]) for a, b in pairs)


def depth(now: Snapshot, levels: int) -> float | None:
    if now is None or not all(_there(level) for level in now[:levels]):
        return None
    return sum(p * s + q * t for p, s, q, t in now[:levels])


def basis(now: Snapshot) -> float | None:
    if now is None:
        return None
    bid, bid_size, ask, ask_size = now[0]
    micro = (ask * bid_size + bid * ask_size) / max(bid_size + ask_size, 1e-12)
    return (micro / ((bid + ask) / 2) - 1) * 1e4


def _full(values: Sequence[float | None], t: int, n: int) -> list[float] | None:
    """The `n` values up to `t`; None unless all are there."""
    window = values[t - n + 1 : t + 1] if t + 1 >= n else []
    return [x for x in window if x is not None] if window and None not in window else None


def _less(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _times(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a * b


def _zscore(values: Sequence[float | None], t: int) -> float | None:
    window = _full(values, t, 240)
    if window is None or len(set(window)) == 1:
        return None
    return (window[-1] - statistics.fmean(window)) / statistics.stdev(window)


def slow_order_flow(
    snapshots: list[Snapshot], taker_imbalance_5m: list[float | None], spread_rank: list[float | None]
) -> dict[str, list[float | None]]:
    """One run of minutes without a gap -> the 16 columns by name."""
    n = len(snapshots)
    out: dict[str, list[float | None]] = {}
    for name, levels, lengths in (("ofi_l1", 1, (1, 3, 5, 15)), ("mlofi_l5", 5, (1, 5)), ("mlofi_l20", 20, (1, 5))):
        events = [event(snapshots[t], snapshots[t - 1] if t else None, levels) for t in range(n)]
        depths = [depth(snapshot, levels) for snapshot in snapshots]
        for length in lengths:
            column: list[float | None] = []
            for t in range(n):
                flow, book = _full(events, t, length), _full(depths, t, length)
                column.append(None if flow is None or book is None else sum(flow) / max(statistics.fmean(book), 1e-12))
            out[f"{name}_{length}m"] = column
    out["mlofi_l5_l20_gap_1m"] = [
        _less(a, b) for a, b in zip(out["mlofi_l5_1m"], out["mlofi_l20_1m"], strict=True)
    ]
    bases = [basis(snapshot) for snapshot in snapshots]
    for length in (1, 5):
        out[f"microprice_basis_change_{length}m_bps"] = [
            _less(bases[t], bases[t - length])
            if t >= length and all(bases[i] is not None for i in range(t - length, t + 1)) else None
            for t in range(n)
        ]  # fmt: skip
    for name in ("ofi_l1_5m", "mlofi_l20_5m"):
        out[f"{name}_zscore_240m"] = [_zscore(out[name], t) for t in range(n)]
    clipped = [None if x is None else math.copysign(min(abs(x), 5.0), x) for x in out["ofi_l1_5m"]]
    out["ofi_l1_5m_clipped"] = clipped
    out["ofi_l1_taker_5m"] = [_times(a, b) for a, b in zip(clipped, taker_imbalance_5m, strict=True)]
    out["ofi_l1_spread_rank_5m"] = [_times(a, b) for a, b in zip(clipped, spread_rank, strict=True)]
    return out
