"""Planted faults of the vendor: late rows, and rows first wrong and corrected the next morning."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import time

import numpy as np
import polars as pl

from pipeline.simulation import draws
from pipeline.simulation.world import World

LATE, REVISED, MISSING = 40, 60, 80  # stream names; the table's position is added
LATE_AT, CORRECTED_AT, MISSING_UNTIL = time(9, 25), time(8, 50), time(17, 30)


@dataclass(frozen=True)
class Mistake:
    """How a table's rows look before their correction: some columns are off by a factor."""

    columns: tuple[str, ...]
    scale: float
    decimals: int


MISTAKES = {
    "daily": Mistake(("vol", "amount"), 0.9, 0),
    "adj_factor": Mistake(("adj_factor",), 1.01, 6),
    "daily_basic": Mistake(("turnover_rate", "pe_ttm", "pb"), 1.05, 4),
    "moneyflow": Mistake(("buy_lg_amount", "buy_elg_amount"), 0.8, 2),
}


def with_faults(world: World, table: str, rows: pl.DataFrame, t: np.ndarray, i: np.ndarray) -> pl.DataFrame:
    """All versions of a table's rows; `t`, `i` are the ordinal and instrument of each row of `rows`.

    A version that corrects another has the same key and a later `published_at`.
    """
    faults = world.profile.faults
    if table not in MISTAKES or rows.is_empty():
        return rows
    stream = list(MISTAKES).index(table)
    seed = world.profile.seed
    inside = (t >= world.profile.sessions - (faults.stretch or world.profile.sessions)) & (t > 0)
    if not inside.any():
        return rows
    late = inside & (draws.uniforms(seed, LATE + stream, t, i) < faults.late_rate)
    wrong = inside & ~late & (draws.uniforms(seed, REVISED + stream, t, i) < faults.revision_rate)
    absent = np.isin(t, _missing(world)) if table == "moneyflow" else np.zeros(len(t), dtype=bool)
    rows = _postponed(rows, absent, world.published(t, MISSING_UNTIL, 1))
    rows = _postponed(rows, late & ~absent, world.published(t, LATE_AT, 1))
    return _corrected(rows, wrong & ~absent, world.published(t, CORRECTED_AT, 1), MISTAKES[table])


def fault_counts(world: World, tables: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """table, session, late, revised: what `with_faults` did, for a reader who wants to find them."""
    parts = [
        versions.group_by("trade_date")
        .agg(
            (pl.col("published_at").dt.convert_time_zone("Asia/Shanghai").dt.date() > pl.col("trade_date"))
            .sum()
            .alias("after_the_day"),
            (pl.len() - pl.col("ts_code").n_unique()).alias("revised"),
        )
        .select(
            pl.lit(name).alias("table"),
            pl.col("trade_date").alias("session"),
            (pl.col("after_the_day") - pl.col("revised")).alias("late"),
            "revised",
        )
        for name, versions in tables.items()
        if name in MISTAKES
    ]
    return pl.concat(parts).filter((pl.col("late") > 0) | (pl.col("revised") > 0)).sort("session", "table")


def _missing(world: World) -> np.ndarray:
    """Ordinals of sessions whose money flow is missing for a day."""
    count, n_sessions = world.profile.faults.missing_sessions, world.profile.sessions
    stretch = min(world.profile.faults.stretch or n_sessions, n_sessions) - 1
    rng = np.random.default_rng([world.profile.seed, MISSING])
    return n_sessions - 1 - rng.choice(stretch, min(count, stretch), replace=False)


def _postponed(rows: pl.DataFrame, chosen: np.ndarray, until: pl.Series) -> pl.DataFrame:
    if not chosen.any():
        return rows
    return rows.with_columns(
        pl.when(pl.Series(chosen)).then(until).otherwise(pl.col("published_at")).alias("published_at")
    )


def _corrected(rows: pl.DataFrame, chosen: np.ndarray, at: pl.Series, mistake: Mistake) -> pl.DataFrame:
    if not chosen.any():
        return rows
    mask = pl.Series(chosen)
    first = rows.with_columns(
        [
            pl.when(mask).then((pl.col(c) * mistake.scale).round(mistake.decimals)).otherwise(pl.col(c)).alias(c)
            for c in mistake.columns
        ]
    )
    right = rows.with_columns(at.alias("published_at")).filter(mask)
    return pl.concat([first, right]).sort("trade_date", "ts_code", "published_at", maintain_order=True)
