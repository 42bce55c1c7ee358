"""States of 100,000 positions at 5, 15 and 30 minutes: the kernel against one position at a time in plain Python.

Equality on 2,000 positions first, then the ratio per state.

    python -m benchmarks.position_state
"""

from __future__ import annotations

import time

import numpy as np
import polars as pl

from pipeline.features.minutes.position_state import AGES, SIDED, STATE_ORDER, Barriers, position_states
from pipeline.frames import AsOf
from tests.oracles.position_state_slow import slow_states

MINUTES, POSITIONS, SLOW = 200_000, 100_000, 2_000
BARRIERS = Barriers(target_distance_bps=12.0, stop_distance_bps=8.0, cost_bps=6.5)


def market() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Bars and the sided features of a random walk."""
    rng = np.random.default_rng(1)
    close = 60_000 * np.exp(np.cumsum(rng.normal(size=MINUTES) * 5e-4))
    start = pl.datetime(2024, 1, 1, time_unit="us", time_zone="UTC")
    frame = pl.DataFrame({"close": close}).with_columns(
        (start + pl.duration(minutes=pl.int_range(pl.len()))).alias("minute"),
        high=pl.col("close") * 1.0003, low=pl.col("close") * 0.9997, instrument=pl.lit("BTCUSDT"),
    ).with_columns(session=pl.col("minute").dt.date())
    drawn = {name: pl.Series(rng.normal(size=MINUTES)) for name in SIDED}
    return frame, frame.select("session", "instrument", "minute").with_columns(**drawn)


def main() -> None:
    bars, features = market()
    rows = bars.select("session", "instrument", "minute").head(MINUTES - 60).sample(POSITIONS, seed=2)
    entries = rows.with_columns(
        side=pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.lit("LONG")).otherwise(pl.lit("SHORT")),
        entry_predicted_edge_bps=pl.lit(4.0), entry_direction_prob=pl.lit(0.6))
    position_states(AsOf(bars), AsOf(features), entries.head(10), BARRIERS)  # compiled
    begun = time.perf_counter()
    found = position_states(AsOf(bars), AsOf(features), entries, BARRIERS)
    fast = time.perf_counter() - begun
    few, dicts = entries.head(SLOW), bars.to_dicts()
    begun = time.perf_counter()
    expected = slow_states(dicts, few.to_dicts(), *BARRIERS.model_dump().values(), AGES)
    slow = time.perf_counter() - begun
    names = [name for name in STATE_ORDER[2:13] if not name.startswith("entry_")]
    own = found.join(few.select("instrument", "side", entry_minute="minute"), on=["instrument", "side", "entry_minute"])
    keys = zip(own["instrument"], own["side"], own["entry_minute"],
               own["time_in_position_minutes"].cast(pl.Int64), strict=True)
    np.testing.assert_allclose(own.select(names).to_numpy(), [expected[key] for key in keys], rtol=1e-5, atol=1e-4)
    ratio = slow / len(expected) / (fast / found.height)
    print(f"equal on {len(expected):,} states")
    print(f"{found.height:,} states in {fast:.3f} s; {ratio:.0f}x plain Python a state")


if __name__ == "__main__":
    main()
