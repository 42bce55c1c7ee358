"""Path A's channels of one day, bar by bar in plain Python from their definitions; no code of `pipeline.features`."""

from __future__ import annotations

import math

OPEN, HIGH, LOW, CLOSE, AMOUNT = range(5)
SESSION_MINUTES, EDGE_MINUTES = 240, 30


def slow_channels(bars: list[list[float]]) -> list[dict[str, float] | None]:
    """One day's `[n_bars][5]` -> per bar the channels by name; None for an absent bar."""
    n = len(bars)
    edge = max(EDGE_MINUTES // (SESSION_MINUTES // n), 1)
    held = [b for b in range(n) if not any(math.isnan(field) for field in bars[b])]
    amounts = {b: bars[b][AMOUNT] for b in held}
    volumes = {b: bars[b][AMOUNT] / (sum(bars[b][:AMOUNT]) / 4) for b in held}
    returns = {b: math.log(bars[b][CLOSE] / _reference(bars, held, b)) for b in held}
    opening = _reference(bars, held, 0) if held else math.nan
    morning = _reference(bars, held, n - edge) - opening if held else math.nan
    out: list[dict[str, float] | None] = [None] * n
    for b in held:
        bar, so_far = bars[b], [returns[i] ** 2 for i in held if i <= b]
        share = _share(amounts, b)
        out[b] = {
            "bar_return": returns[b],
            "amount_share": share,
            "volume_share": _share(volumes, b),
            "high_low_range": math.log(bar[HIGH] / bar[LOW]),
            "close_location": (bar[CLOSE] - bar[LOW]) / (bar[HIGH] - bar[LOW]) if bar[HIGH] > bar[LOW] else 0.5,
            "realised_volatility": math.sqrt(sum(so_far) / len(so_far)),
            "first_session_pressure": _sign(returns[b]) * share if b < edge else 0.0,
            "late_session_reversal": -_sign(morning) * returns[b] if b >= n - edge else 0.0,
        }
    return out


def _reference(bars: list[list[float]], held: list[int], b: int) -> float:
    """Close of the newest bar held before `b`; without one, the open of the first bar held."""
    before = [i for i in held if i < b]
    return bars[before[-1]][CLOSE] if before else bars[held[0]][OPEN]


def _share(parts: dict[int, float], b: int) -> float:
    whole = sum(parts.values())
    return parts[b] / whole if whole > 0 else 0.0


def _sign(x: float) -> float:
    return math.copysign(1.0, x) if x else 0.0
