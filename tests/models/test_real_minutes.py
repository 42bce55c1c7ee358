"""The multi-path net on quarter hours of real stocks, through the path that a user's own dump takes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import onnx
import polars as pl
import pytest
import torch
from onnx import numpy_helper

from assets.definitions import build_definitions
from assets.partitions import MEMBER, SPLIT
from assets.runs import Runner
from pipeline.asof.panel import build_panel
from pipeline.features.compute import compute, path_channels
from pipeline.features.plan import plan
from pipeline.models.inputs import Inputs
from pipeline.models.nets.multi_path import MultiPathNet, Shape
from pipeline.models.nets.served import Served
from pipeline.models.preparing import prepare
from pipeline.models.scoring import Scorer, load_member
from pipeline.models.spec import DailyPathSpec, IntradayPathSpec, LinearSpec, MultiPathNetSpec, TowerSpec
from pipeline.stages.stored_inputs import member_reads, standing_columns
from pipeline.tables.tushare import TABLES
from resources.environments import Environment, Settings, create_environment

pytestmark = pytest.mark.realdata

BARS, NAMES, SESSIONS = 16, 60, 120
NET = MultiPathNetSpec(
    intraday=IntradayPathSpec(sessions=2, kernels=(3,), width=4),
    daily=DailyPathSpec(window=5, features=("return_1", "VMA20", "late_reversal")),
    towers=(
        TowerSpec(name="event", categories=("limit_up_closes_5",)),
        TowerSpec(name="context", features=("amihud_20",), categories=("board",)),
    ),
    regime=("market_return_1", "breadth_1"),
    hidden=8,
    epochs=2,
)


def tushare_tables(bars: pl.DataFrame, calendar: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The least that a study requires, in the vendor's columns and units.

    What the bars do not tell stays unknown: no factor (1 throughout, so an ex-date is a fall), no listing day (long
    ago), no ratios, no ST. A day without turnover has no daily row.

    Parameters
    ----------
    bars : DataFrame
        `symbol`, `datetime` (a bar's end), prices in CNY, `volume` in shares, `amount` in CNY.
    calendar : DataFrame
        `trade_cal` of the vendor.
    """
    exchange = pl.when(pl.col("symbol").str.starts_with("6")).then(pl.lit(".SH")).otherwise(pl.lit(".SZ"))
    rows = bars.with_columns(ts_code=pl.col("symbol") + exchange).sort("ts_code", "datetime")
    daily = (
        rows.filter((pl.col("close") > 0) & (pl.col("volume") > 0))
        .group_by("ts_code", trade_date=pl.col("datetime").dt.date(), maintain_order=True)
        .agg(
            pl.col("open").first(),
            pl.col("high").max(),
            pl.col("low").min(),
            pl.col("close").last(),
            vol=pl.col("volume").sum() / 100,
            amount=pl.col("amount").sum() / 1000,
        )
        .with_columns(pre_close=pl.col("close").shift(1).over("ts_code"))
        .drop_nulls("pre_close")
    )
    names = daily["ts_code"].unique().sort()
    return {
        "trade_cal": calendar,
        "stock_basic": pl.DataFrame({"ts_code": names}).with_columns(list_date=pl.lit(date(2000, 1, 4))),
        "daily": daily,
        "adj_factor": daily.select("ts_code", "trade_date", adj_factor=pl.lit(1.0)),
        "daily_basic": daily.select("ts_code", "trade_date", "close"),
        "stk_mins": rows.select(
            "ts_code", "open", "close", "high", "low", "amount", trade_time="datetime", vol="volume"
        ),
    }


def dump(realdata: Path, folder: Path, names: int, sessions: int) -> list[date]:
    """A folder of a few names' tables, and the days that they hold."""
    bars = pl.read_parquet(realdata / "ashare_15m" / "bars.parquet")
    day, chosen = pl.col("datetime").dt.date(), bars["symbol"].unique().sort()[:names]
    days = bars.select(day.unique().sort()).to_series()[: sessions + 1]
    bars = bars.filter(pl.col("symbol").is_in(chosen.implode()), day.is_in(days.implode()))
    folder.mkdir(parents=True)
    for name, rows in tushare_tables(bars, calendar_of(realdata)).items():
        rows.write_parquet(folder / f"{name}.parquet")
    return days[1:].to_list()  # the first day's close before is unknown


def calendar_of(realdata: Path) -> pl.DataFrame:
    return pl.read_parquet(realdata / "tushare_csi300" / "trade_cal.parquet")


@dataclass(frozen=True)
class Trained:
    """A home in which one split of a study was trained on the dump."""

    environment: Environment
    split: str

    def table(self, stage: str, name: str, **chosen: Any) -> pl.DataFrame:
        return self.environment.artifacts.table(self.environment.study.name, stage, name, **chosen)

    def metrics(self, member: str) -> dict[str, Any]:
        return dict(self._version(member).metadata["metrics"])

    def _version(self, member: str) -> Any:
        return self.environment.artifacts.current(self.environment.study.name, "models")[f"{self.split}|{member}"]

    def scores(self, member: str) -> pl.DataFrame:
        return self.table("models", "scores", partitions=[f"{self.split}|{member}"])

    def files(self, member: str) -> dict[str, bytes]:
        artifacts, study, partition = self.environment.artifacts, self.environment.study, f"{self.split}|{member}"
        return {
            name: artifacts.file(study.name, "models", name, partition=partition)
            for name in self._version(member).files
            if "/" not in name
        }

    @cached_property
    def scorer(self) -> Scorer:
        return load_member(self.files("multi_path"))

    @cached_property
    def inputs(self) -> Inputs:
        """Of every row, from the tables as they were stored month by month."""
        study = self.environment.study
        reads = member_reads(study, minutes=True)
        store = prepare(
            self.table("features", "features"),
            self.table("panel", "panel", columns=standing_columns(study, reads.categories)),
            plan(study.features).scopes,
            reads,
            self.table("features", "paths"),
        )
        return self.scorer.prepared_inputs(store)


def train(folder: Path, days: list[date], overrides: dict[str, Any], split: str) -> Trained:
    """Import, panel, features, labels, folds and one split of every member, as the commands do it."""
    overrides = {"market.bars_per_session": BARS} | overrides
    settings = Settings(
        source="imported", folder=str(folder), first_session=days[0], last_session=days[-1], overrides=overrides
    )
    environment = create_environment(folder.parent / "home", settings, folder / "no_template")
    environment.move_clock(environment.study.market.decided_at(days[-1]))
    runner = Runner(environment, dg.DagsterInstance.ephemeral(), build_definitions)
    runner.ingest()
    runner.market()
    runner.stages(["folds"])
    for member in environment.study.members:
        runner.stages(["models"], first=str(dg.MultiPartitionKey({SPLIT: split, MEMBER: member.name})))
    return Trained(environment, split)


ONE_SPLIT = {"scheme": "expanding", "n_groups": 2, "n_test_groups": 1, "locked_share": 0.0}


@pytest.fixture(scope="module")
def trained(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    if not (realdata / "ashare_15m" / "bars.parquet").exists():
        pytest.skip(f"no quarter hours in {realdata}")
    folder = tmp_path_factory.mktemp("minutes") / "dump"
    days = dump(realdata, folder, NAMES, SESSIONS)
    members = [member.model_dump(mode="json") for member in (LinearSpec(), NET)]
    return train(folder, days, {"members": members, "folds": ONE_SPLIT}, "walk_00")


def test_a_real_day_is_sixteen_bars(trained: Trained) -> None:
    """Pins a bar count that is written into a stage: channels of another shape, or most of them missing."""
    paths = trained.table("features", "paths")
    channels = paths["channels"].to_numpy().reshape(len(paths), BARS, -1)
    assert paths["session"].n_unique() == SESSIONS
    assert paths["instrument"].n_unique() == NAMES
    assert channels.shape[2] == 8
    assert np.isnan(channels).mean() < 0.005
    traded = channels[:, :, 1][~np.isnan(channels[:, :, 1]).any(axis=1)]
    np.testing.assert_allclose(traded.sum(axis=1), 1.0, rtol=1e-5)
    rules = trained.table("panel", "quarantine").filter(table="stk_mins")["rule"].unique().to_list()
    assert rules == []


def test_every_test_row_of_real_minutes_is_scored(trained: Trained) -> None:
    """Pins rows lost between stages, NaN from a suspended name's day, and a path that was switched off unseen."""
    sessions = trained.table("folds", "split_sessions").filter(split=trained.split, role="test")
    panel = trained.table("panel", "panel").filter("eligible").select("session", "instrument")
    open_labels = trained.table("folds", "purged").filter(split=trained.split, cause="open")
    expected = panel.join(sessions, on="session", how="semi").join(
        open_labels, on=["session", "instrument"], how="anti"
    )
    scores = trained.scores("multi_path").filter(role="test")
    assert scores.select("session", "instrument").sort(pl.all()).equals(expected.sort(pl.all()))
    assert len(scores) > 0.8 * NAMES * len(sessions)
    heads = scores.select(pl.selectors.ends_with("_head"))
    assert np.isfinite(heads.to_numpy()).all()
    assert heads["rank_head"].n_unique() > 0.9 * len(scores)
    assert trained.scorer.normaliser.bars == BARS
    for role in ("tune", "test"):
        assert abs(trained.metrics("multi_path")[role]["rank"]["rank_ic"]) < 0.4  # what has more sees the future


def test_what_is_served_of_real_minutes_is_what_torch_computes(trained: Trained) -> None:
    """Pins an operator that the exporter gets wrong on real bars: absent tokens, clipped channels, rare categories."""
    graph = onnx.load_model_from_string(trained.files("multi_path")["model.onnx"]).graph
    weights = {part.name: torch.from_numpy(numpy_helper.to_array(part).copy()) for part in graph.initializer}
    normaliser, card = trained.scorer.normaliser, trained.scorer.card
    categories = enumerate(NET.layout.categories)  # one a tower, so the towers' order is theirs
    embedded = {name: len(weights[f"network_cross_towers_{i}_embed_0_weight"]) for i, name in categories}
    shape = Shape(
        len(normaliser.schema),
        {name: i for i, name in enumerate(normaliser.schema)},
        len(card.layout.daily) + 1,
        BARS,
        len(normaliser.channels) + 1,
        embedded,
        sum(head.learned for head in card.heads),
    )
    learned = [head for head in card.heads if head.learned]
    kinds, units = [head.kind == "probability" for head in learned], np.zeros((2, len(learned)), np.float32)
    served = Served(MultiPathNet(NET, shape), kinds, *units).eval()
    served.load_state_dict({name: weights[name.replace(".", "_")] for name in served.state_dict()})
    index = np.linspace(0, len(trained.inputs) - 1, 500).astype(np.int64)
    with torch.no_grad():
        tensors = trained.inputs.tensors(index)
        expected = served(*(torch.from_numpy(part) for part in tensors.values())).numpy()
    got = trained.scorer.score_inputs(trained.inputs.take(index))
    names = [f"{head.name}_head" for head in learned]
    np.testing.assert_allclose(got.select(names).to_numpy(), expected, atol=2e-5)
    assert (tensors["bars"][..., -1] == 0).any(axis=(1, 2)).any()


def test_tensors_of_real_minutes_are_rebuilt_from_the_raw_rows(trained: Trained, realdata: Path) -> None:
    """Pins tensors that depend on months, on the lake or on how much history was read: parity would break."""
    environment, study = trained.environment, trained.environment.study
    calendar = environment.calendar()
    folder = Path(environment.settings.folder)
    raw = {}
    for path in folder.glob("*.parquet"):
        spec = TABLES[path.stem]
        raw[path.stem] = spec.known_at(spec.typed(pl.read_parquet(path))).with_columns(knowledge=pl.lit("rule"))
    days = trained.table("panel", "summary")["session"].to_list()
    made = build_panel(raw, calendar, days, study.market, study.universe)
    window = days[-trained.scorer.window :]
    features = compute(made.panel, made.patches, made.intraday, plan(study.features), window)
    paths = path_channels(made.intraday, made.panel, window)
    standing = made.panel.frame.filter(pl.col("session").is_in(window))
    live = trained.scorer.inputs(features, standing, [days[-1]], paths)
    stored = trained.scorer.prepared_inputs(trained.inputs.store, [days[-1]])
    assert len(live) > 0.8 * NAMES
    assert live.hashes() == stored.hashes()
