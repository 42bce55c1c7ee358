"""What the states of a position must obey, bit for bit. A red is a `LawBroken`; a law returns the rows it compared.

Not here: which bars and entries are tried.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from pipeline.errors import LawBroken
from pipeline.features.laws import differing
from pipeline.features.minutes.position_state import STATE_KEY, STATE_ORDER, Barriers, position_states
from pipeline.frames import AsOf, as_of

Calculate = Callable[[AsOf, AsOf, pl.DataFrame, Barriers], pl.DataFrame]
WIDER = 0.2  # share by which the range of entry bars is widened


def check_entry_bar(
    bars: AsOf, features: AsOf, entries: pl.DataFrame, barriers: Barriers, calculate: Calculate = position_states
) -> int:
    """A state knows nothing of its entry bar but the close: that bar's range precedes the fill."""
    at_entry = entries.select("instrument", "minute", entered=pl.lit(True)).unique()
    whole = calculate(bars, features, entries, barriers)
    rows = 0
    # One entry's bar lies inside another's path, so entries that overlap are judged apart.
    for entry in at_entry.sort("instrument", "minute").iter_slices(1):
        own = entries.join(entry, on=["instrument", "minute"], how="semi")
        marked = as_of(bars).join(entry, on=["instrument", "minute"], how="left", maintain_order="left")
        spread = pl.when("entered").then(WIDER).otherwise(0.0)
        wide = marked.with_columns(high=pl.col("high") * (1 + spread), low=pl.col("low") * (1 - spread)).drop("entered")
        found = calculate(AsOf(wide), features, own, barriers)
        expected = whole.join(found, on=list(STATE_KEY), how="semi")
        broken = differing(expected, found, STATE_ORDER, STATE_KEY, STATE_KEY)
        rows += len(found)
        if broken:
            name, *place, a, b = broken[0]
            raise LawBroken(
                "a state knows nothing of its entry bar but the close",
                f"{name} of {' '.join(map(str, place))} is {a!r}, but {b!r} with a wider entry bar",
                "look at bars from the minute after the entry",
            )
    return rows
