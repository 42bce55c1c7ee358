"""Minutes of two symbols on four purged blocks, with effects that a probe should and should not find."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

START = datetime(2026, 1, 1, tzinfo=UTC)
FEATURES = ("signal", "noise", "event", "partner")
SIZES = {"fit_inner": 2_000, "E1": 1_700, "E2": 1_700, "E3": 1_700}
GAP = 60


def minutes(sizes: dict[str, int] | None = None, seed: int = 3) -> pl.DataFrame:
    """Long earns where `signal` is high, or where `event` and `partner` are; short and `noise` get nothing.

    The population loses 5 bps: an entry of no information pays its cost.
    """
    rng = np.random.default_rng(seed)
    frames, start = [], START
    for block, n in (sizes or SIZES).items():
        clock = [start + timedelta(minutes=i) for i in range(n)]
        frames += [_symbol(rng, block, name, clock) for name in ("BTCUSDT", "ETHUSDT")]
        start += timedelta(minutes=n + GAP)
    return pl.concat(frames)


def _symbol(rng: np.random.Generator, block: str, symbol: str, clock: list[datetime]) -> pl.DataFrame:
    n = len(clock)
    signal, noise, partner = rng.uniform(-1, 1, n), rng.normal(size=n), rng.normal(size=n)
    event = np.where(rng.uniform(size=n) < 0.25, rng.uniform(1, 5, n), 0.0)
    gain = 12.0 * (signal > 0.75) + 14.0 * ((event > 3.0) & (partner > 0.0))
    long, short = -5.0 + gain + rng.normal(0, 4, n), -5.0 + rng.normal(0, 4, n)
    mae = {"long": np.abs(rng.normal(8, 3, n)) - 4.0 * (gain > 0), "short": np.abs(rng.normal(8, 3, n))}
    frame = pl.DataFrame({"minute": clock, "signal": signal, "noise": noise, "event": event, "partner": partner})
    return frame.with_columns(
        pl.col("minute").cast(pl.Datetime("us", "UTC")), session=pl.col("minute").dt.date(), instrument=pl.lit(symbol),
        block=pl.lit(block),
        **{f"{side}_actual_plan_net_edge_bps": pl.Series(edge) for side, edge in (("long", long), ("short", short))},
        **{f"{side}_max_achievable_net_edge_bps": pl.Series(np.maximum(edge, 0.0) + rng.uniform(0, 14, n))
           for side, edge in (("long", long), ("short", short))},
        **{f"{side}_mae_bps": pl.Series(np.maximum(values, 0.0)) for side, values in mae.items()},
    )
