"""A minute market small enough to fit both families in seconds: two symbols, gaps, five models, planted signals.

Features lie far from zero and differ in scale by 1e6, so that a scaler that is folded wrongly shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.labels.minute_models import EntryPopulation, five_models
from pipeline.labels.spec import HeadSpec
from pipeline.models.members import FittedMember, fit_member
from pipeline.models.prepared import Prepared
from pipeline.models.preparing import Part, prepare
from pipeline.models.spec import LinearHeadsSpec, MemberSpec, TrainingSpec, TreeHeadsSpec

KEY = ["session", "instrument", "minute"]
LINEAR, TREES = LinearHeadsSpec(), TreeHeadsSpec(rounds=12, leaves=7, patience=4)
FAMILIES: tuple[MemberSpec, ...] = (LINEAR, TREES)
TRAINING = TrainingSpec(threads=1)
HORIZON = timedelta(minutes=45)
FEATURES = tuple(f"f{i}" for i in range(6))
CENTRE = np.array([0.0, 250.0, -3.0, 2e-5, 40.0, 7.0])
SPREAD = np.array([1.0, 12.0, 0.5, 1e-6, 15.0, 0.0])  # f5 is constant
MINUTES = 1_200  # a day, of each symbol; the rest of it is a gap
DAYS = 4


@dataclass(frozen=True)
class SmallMinutes:
    features: pl.DataFrame
    labels: pl.DataFrame
    roles: pl.DataFrame
    heads: tuple[HeadSpec, ...] = field(default_factory=five_models)

    @property
    def standing(self) -> pl.DataFrame:
        return self.features.select(*KEY, eligible=pl.lit(True))

    @property
    def tables(self) -> Part:
        return Part(self.features, self.standing)

    @property
    def days(self) -> list[date]:
        return self.features["session"].unique().sort().to_list()

    @cached_property
    def prepared(self) -> Prepared:
        return prepare(self.features, self.standing, dict.fromkeys(FEATURES, "series"))


def small_minutes(entry_population: EntryPopulation = "none", seed: int = 5) -> SmallMinutes:
    """Two days of fit rows, a purge of the horizon, a day of tune and one of test rows."""
    draw = np.random.default_rng(seed)
    opens = [datetime(2024, 3, 1) + timedelta(days=d, minutes=m) for d in range(DAYS) for m in range(MINUTES)]
    keys = pl.DataFrame(
        {
            "minute": pl.Series(opens * 2).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
            "instrument": np.repeat(["BTCUSDT", "ETHUSDT"], len(opens)),
        }
    ).select(pl.col("minute").dt.date().alias("session"), "instrument", "minute")
    normal = draw.standard_normal((len(keys), len(FEATURES)))
    raw = pl.DataFrame((CENTRE + SPREAD * normal).astype(np.float32), schema=list(FEATURES))
    start = pl.col("minute") + timedelta(minutes=1)
    labels = keys.hstack(_labels(normal, draw)).with_columns(label_start=start, label_end=start + HORIZON)
    turn = keys["minute"].dt.replace_time_zone(None).to_numpy()
    day = (keys["session"].to_numpy() - np.datetime64("2024-03-01")).astype(int)
    purged = (day == 1) & (turn > np.datetime64("2024-03-02T18:00"))
    role = np.where(purged, "purged", np.array(["fit", "fit", "tune", "test"])[day])
    roles = keys.with_columns(role=pl.Series(role))
    market = SmallMinutes(keys.hstack(raw).sort(KEY), labels.sort(KEY), roles.sort(KEY), five_models(entry_population))
    return market


def _labels(normal: np.ndarray, draw: np.random.Generator) -> pl.DataFrame:
    """Every column that the five models read: f0 drives direction, f1 the edges and targets of the sides."""
    n = len(normal)
    move = normal[:, 0] + draw.standard_normal(n)
    edge = {side: 9 * sign * normal[:, 1] + 4 * draw.standard_t(3, n) for side, sign in (("long", 1), ("short", -1))}
    columns: dict[str, Any] = {
        "long_target": move > 0.7,
        "short_target": move < -0.7,
        "neutral_target": np.abs(move) <= 0.7,
        "liquidity_deterioration_target": np.zeros(n),  # one class
    }
    for side, value in edge.items():
        columns |= {
            f"{side}_actual_plan_net_edge_bps": value,
            f"{side}_max_achievable_net_edge_bps": 40 + value,
            f"{side}_expected_continue_edge_bps": value + draw.standard_normal(n),
        }
    named = [head.label for head in five_models() if head.kind == "probability" and head.label not in columns]
    columns |= {name: edge["long"] + 6 * draw.standard_normal(n) > 0 for name in named}
    columns["long_exit_target"] = np.where(draw.random(n) < 0.02, np.nan, columns["long_exit_target"])
    return pl.DataFrame({name: np.asarray(values, np.float32) for name, values in columns.items()})


def fit(spec: MemberSpec, market: SmallMinutes, folder: Path, training: TrainingSpec = TRAINING) -> FittedMember:
    return fit_member(spec, training, market.heads, market.prepared, market.labels, market.roles, workdir=folder)
