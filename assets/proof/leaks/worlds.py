"""Small simulated markets in which leaks are looked for: raw rows through the real client, stages run in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from assets.proof.homes import PROFILE, SHAPES
from pipeline.models.spec import BoostedSpec, LinearSpec, MultiPathNetSpec, TowerSpec, TreeHeadsSpec
from pipeline.stages.rehearsal import Rehearsal, Vendored
from pipeline.studies import STUDIES
from pipeline.study import Study
from resources.environments import Environment, Settings, create_environment
from resources.ingestion import ingest
from resources.vendors import VENDORS

SETTLED = ("trade_cal", "bse_mapping")
"""Tables that say which day is a session and which code which instrument: identities, not measurements."""
HISTORY = ("panel", "features", "labels", "folds")
SHARED = ("prepared", "eligible", "featured")
NET = MultiPathNetSpec(
    towers=(TowerSpec(name="context", features=("return_1", "return_5"), categories=("board", "industry")),),
    film=(), hidden=4, embedding=2, epochs=2,
)  # fmt: skip
MARKETS: dict[str, dict[str, Any]] = {
    "session": {"instruments": 30, "sessions": 110},
    "minute": {"days": 10, "signal": 0.3, "faults": {"missing_book_days": 0, "outages": 0}},
}
STUDY: dict[str, dict[str, Any]] = {
    "session": {
        "members": [LinearSpec().model_dump(mode="json"), BoostedSpec(rounds=3).model_dump(mode="json")],
        "features": ["returns", "flow", "regime", "intraday", "cross_section", "context"],
        "ensemble.weights": "tune_rank_ic",
        "universe.seasoning_sessions": 5,
        "calibration.min_positives": 5,
    },
    "minute": {
        "members": [TreeHeadsSpec(rounds=3, leaves=7).model_dump(mode="json")],
        "ensemble.members": [],
        "calibration.min_positives": 5,
    },
}
"""What of a home's shape is smaller still; by how often the study decides."""


@dataclass(frozen=True)
class World:
    """A simulated market of one study, and its history made once by the clean house.

    Parameters
    ----------
    study : Study
    vendored : Vendored
        Everything the vendor ever sent.
    base : Rehearsal
        Panel, features, labels and folds over it; who varies it keeps these.
    """

    study: Study
    vendored: Vendored
    base: Rehearsal

    @property
    def by_minute(self) -> bool:
        return self.study.market.decides == "minute"

    @property
    def split(self) -> str:
        return self.study.folds.splits[0]

    @cached_property
    def labels(self) -> pl.DataFrame:
        return self.base.table("labels", "labels")

    @cached_property
    def cut(self) -> datetime:
        """An instant inside the history; the session after it opens with an eligible name locked, where one does."""
        if self.by_minute:
            return _middle(self.labels["minute"].unique().sort().to_list()) + timedelta(minutes=1)
        locked = pl.col("open_block").is_in(["limit_up", "limit_down"]).shift(-1).over("instrument", order_by="session")
        before = self.base.table("panel", "panel").filter("eligible", locked)["session"].unique().to_list()
        days = [day for day in self._inner if day in before] or self._inner
        return self.study.market.decided_at(_middle(days))

    @cached_property
    def exit_cut(self) -> datetime:
        """An instant between the planned and the realised end of an exit that was delayed, where one was."""
        late = pl.DataFrame() if self.by_minute else self.labels.filter(
            pl.col("exit_delay") > 0, pl.col("session").is_in(self._inner)
        ).sort("session")  # fmt: skip
        if late.is_empty():
            return self.cut
        planned = self.base.calendar.shift(late["session"][0], self.study.labels.exit_session)
        return self.study.market.decided_at(planned)

    @cached_property
    def cuts(self) -> list[datetime]:
        """Instants all over the history."""
        if self.by_minute:
            return self.labels["minute"].unique().sort().to_list()[400::2000]
        return [self.study.market.decided_at(day) for day in self._inner[::4]]

    @property
    def _inner(self) -> list[date]:
        """Sessions with enough history before them, not the newest, and with some of their month to come."""
        days = self.labels["session"].unique().sort().to_list()[25:-20]
        return [day for day in days if day.day <= 20]

    def with_study(self, study: Study, folder: Path, *, share: bool = True) -> World:
        """The same history under a study that differs in what follows it."""
        base = self.base.varied(folder, {}, HISTORY, SHARED if share else (), study=study)
        return World(study, self.vendored, base)


def build_world(kind: str, seed: int, folder: Path) -> World:
    """A world of the study that decides so often; the seed changes the market and nothing else."""
    study = next(study for study in STUDIES.values() if study.market.decides == kind)
    vendor, market = VENDORS[study.market.vendor], {**MARKETS[kind], "seed": seed}
    sessions = vendor.market_sessions(vendor.market(PROFILE, market))
    settings = Settings(
        study=study.name, profile=PROFILE, market=market, first_session=sessions[0], last_session=sessions[-1],
        overrides={**SHAPES[kind].study, **STUDY[kind]},
    )  # fmt: skip
    environment = create_environment(folder / "home", settings, folder / "no_template")
    vendored = _vendored(environment, sessions)
    # The last day of minutes is whole after its own midnight.
    last = sessions[-1] - timedelta(days=kind == "minute")
    base = Rehearsal(environment.study, vendored, now=environment.study.market.decided_at(last),
                     first_session=sessions[0], workdir=folder / "base")  # fmt: skip
    for stage in HISTORY:
        for partition in base.partitions(stage):
            base.result(stage, partition)
    return World(environment.study, vendored, base)


def _vendored(environment: Environment, sessions: Sequence[date]) -> Vendored:
    """Every table fetched through the client into the lake, and read back."""
    study, lake = environment.study, environment.lake
    for name in study.table_names:
        ingest(environment, study, environment.tables[name], sessions)
    return Vendored({name: lake.scan(name) for name in lake.tables()}, environment.tables, environment.calendar())


def _middle(values: list[Any]) -> Any:
    return values[len(values) // 2]
