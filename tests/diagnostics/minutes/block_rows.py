"""Rows of the four blocks, purged, with features that are noise until a test plants something."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

FIRST = datetime(2024, 1, 1, tzinfo=UTC)
PURGED = 60  # minutes between blocks; labels look 45 ahead


def block_rows(features: Sequence[str], fit: int, each: int, seed: int = 3) -> pl.DataFrame:
    """Key, `block`, label span and standard normal features, a minute a row."""
    sizes = {"fit_inner": fit, "E1": each, "E2": each, "E3": each}
    parts, start = [], 0
    for block, n in sizes.items():
        parts += [(FIRST + timedelta(minutes=start + i), block) for i in range(n)]
        start += n + PURGED
    frame = pl.DataFrame(parts, schema={"minute": pl.Datetime("us", "UTC"), "block": pl.String}, orient="row")
    noise = np.random.default_rng(seed).normal(size=(frame.height, len(features)))
    return frame.select(
        pl.col("minute").dt.date().alias("session"), pl.lit("BTCUSDT").alias("instrument"), "minute", "block",
        (pl.col("minute") + pl.duration(minutes=1)).alias("label_start"),
        (pl.col("minute") + pl.duration(minutes=46)).alias("label_end"),
        *(pl.Series(name, noise[:, i]) for i, name in enumerate(features)),
    )
