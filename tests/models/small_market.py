"""A market small enough to fit every family on in seconds: a planted signal, gaps, null labels, minutes, categories."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property

import numpy as np
import polars as pl

from pipeline.features.compute import CHANNELS
from pipeline.labels.spec import HeadSpec
from pipeline.models.prepared import Prepared, Reads
from pipeline.models.preparing import Part, prepare
from pipeline.models.spec import (
    BoostedSpec,
    DailyPathSpec,
    IntradayPathSpec,
    LinearHeadsSpec,
    LinearSpec,
    MemberSpec,
    MultiPathNetSpec,
    TowerSpec,
    TrainingSpec,
    TreeHeadsSpec,
)

KEY = ["session", "instrument"]
HEADS = (
    HeadSpec(name="rank", kind="rank"),
    HeadSpec(name="q", kind="probability"),
    HeadSpec(name="buy_block", kind="probability"),
    HeadSpec(name="fragility", kind="regression"),
)
MEMBERS: tuple[MemberSpec, ...] = (
    LinearSpec(),
    BoostedSpec(rounds=5, leaves=7, min_rows_in_leaf=20),
    MultiPathNetSpec(
        intraday=IntradayPathSpec(sessions=2, kernels=(3,), width=4),
        daily=DailyPathSpec(window=4, features=("f0", "market")),
        towers=(
            TowerSpec(name="context", features=("f1",), categories=("board",)),
            TowerSpec(name="event", categories=("f3",)),
        ),
        execution=("f2",),
        regime=("market",),
        hidden=8,
        epochs=3,
        learning_rate=1e-2,
    ),
    LinearHeadsSpec(),
    TreeHeadsSpec(rounds=5, leaves=7),
)
SPAN = 4  # sessions that a label looks at
BARS = 8
READS = Reads(CHANNELS, BARS, ("board", "f3"))
TRAINING = TrainingSpec(threads=1)


@dataclass(frozen=True)
class SmallMarket:
    features: pl.DataFrame
    eligible: pl.DataFrame  # and each name's board
    labels: pl.DataFrame
    roles: pl.DataFrame
    scopes: dict[str, str]
    paths: pl.DataFrame

    @property
    def days(self) -> list[date]:
        return self.eligible["session"].unique().sort().to_list()

    @property
    def tables(self) -> Part:
        return Part(self.features, self.eligible, self.paths)

    @cached_property
    def prepared(self) -> Prepared:
        return prepare(self.features, self.eligible, self.scopes, READS, self.paths)


def small_market(sessions: int = 40, names: int = 30, seed: int = 3) -> SmallMarket:
    draw = np.random.default_rng(seed)
    days = [date(2024, 1, 1) + timedelta(days=i) for i in range(sessions)]
    n = sessions * names
    keys = pl.DataFrame(
        {
            "session": np.repeat(np.array(days, "M8[D]"), names),
            "instrument": [f"{i:06d}.SZ" for i in range(names)] * sessions,
        }
    )
    values = draw.standard_normal((n, 6)).astype(np.float32)
    values[:, 3] = np.round(values[:, 3])  # ties
    signal = values[:, 0] + 0.5 * values[:, 1]
    values[draw.random(values.shape) < 0.05] = np.nan
    market = np.repeat(draw.standard_normal(sessions).astype(np.float32), names)
    features = keys.hstack(pl.DataFrame(values, schema=[f"f{i}" for i in range(6)])).with_columns(
        pl.Series("market", market), pl.col("^f.$").fill_nan(None)
    )
    blocked = draw.random(n) < 1 / (1 + np.exp(2 - signal))
    labels = (
        keys.with_columns(ret=pl.Series(signal + draw.standard_normal(n)), block=pl.Series(blocked))
        .with_columns(rank=((pl.col("ret").rank().over("session") - 0.5) / names).cast(pl.Float32))
        .with_columns(
            q=(pl.col("rank") > 0.8).cast(pl.Float32),
            buy_block=pl.col("block").cast(pl.Float32),
            fragility=(0.03 * pl.col("ret").abs()).cast(pl.Float32),
        )
        .with_columns(pl.when("block").then(None).otherwise(pl.col(c)).alias(c) for c in ("rank", "q", "fragility"))
        .with_columns(label_start=pl.col("session"), label_end=pl.col("session") + pl.duration(days=SPAN))
        .drop("ret", "block")
    )
    edges = {"fit": 0.55, "purged": 0.6, "tune": 0.75, "test": 1.0}
    role = [next(r for r, edge in edges.items() if i < edge * sessions) for i in range(sessions)]
    roles = keys.join(pl.DataFrame({"session": days, "role": role}), on="session", maintain_order="left")
    eligible = keys.with_columns(
        eligible=pl.Series(draw.random(n) > 0.1),
        board=pl.Series(np.array(["main", "star", "bse"])[np.arange(n) % names % 3]),
    )
    bars = draw.standard_normal((n, BARS, len(CHANNELS))).astype(np.float32)
    bars[draw.random((n, BARS)) < 0.1] = np.nan
    bars[draw.random(n) < 0.05] = np.nan  # a day without any bar
    sold = draw.random(n) > 0.05  # a day that the vendor lacks
    paths = keys.with_columns(channels=pl.Series(bars.reshape(n, -1), dtype=pl.Array(pl.Float32, bars[0].size)))
    scopes = {f"f{i}": "instrument" for i in range(6)} | {"f5": "cross_section", "market": "market"}
    return SmallMarket(features, eligible, labels, roles, scopes, paths.filter(pl.Series(sold)))
