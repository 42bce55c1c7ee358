"""One environment: a home folder, its settings, and the stores, vendor and clock that belong to it.

The only module that reads environment variables.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from pipeline.calendars import Calendar
from pipeline.clock import Clock, FixedClock, SystemClock
from pipeline.errors import BadInput, MissingTable, TokenRejected
from pipeline.gates.ledger import Ledger
from pipeline.gates.promotion import Champions
from pipeline.spec import Spec
from pipeline.studies import STUDIES
from pipeline.study import Study
from pipeline.tables.spec import TableSpec
from pipeline.tables.tushare import TABLES
from resources.artifacts import Artifacts
from resources.lake import Lake
from resources.source import Source

HOME_VARIABLE = "FOLDGATE_HOME"
TOKEN_VARIABLE = "TUSHARE_TOKEN"
SETTINGS_FILE = "settings.json"


class Settings(Spec):
    """What distinguishes one environment from another; written once, when its home is made.

    Parameters
    ----------
    source : {"simulated", "imported", "tushare"}
        Where vendor rows come from.
    profile : str
        Of the simulated market.
    market : mapping
        Fields of that profile to replace, e.g. {"signal": 0.0, "seed": 3}.
    folder : str
        Of an import.
    first_session, last_session : date
        The stretch that the environment holds; an open end follows the clock.
    refetch_sessions : int
        Sessions asked for again on every ingestion, because vendors correct late.
    workers : int
        Processes for stages whose partitions are long and independent; each holds its own copy of their inputs.
    retry_until : time
        Local hour after which a daily job with incomplete tables fails.
    notify : str
        Command that is run with the message of a failed daily job as its last argument.
    overrides : mapping
        Dotted study field -> value, e.g. {"folds.n_groups": 4}.
    """

    source: Literal["simulated", "imported", "tushare"] = "simulated"
    study: str = next(iter(STUDIES))
    profile: str = "demo"
    market: Mapping[str, Any] = {}
    folder: str = ""
    base_url: str = "http://api.tushare.pro"
    calls_per_minute: int = 170
    first_session: date | None = None
    last_session: date | None = None
    refetch_sessions: int = 5
    workers: int = 1
    retry_until: time = time(23, 0)
    notify: str = ""
    overrides: Mapping[str, Any] = {}


def overridden(study: Study, overrides: Mapping[str, Any]) -> Study:
    """The study with some fields replaced, validated again."""
    values = study.model_dump(mode="json")
    for dotted, value in overrides.items():
        *parents, leaf = dotted.split(".")
        node = values
        for name in parents:
            node = node[int(name)] if isinstance(node, list) else node.get(name, {})
        if isinstance(node, list) or leaf not in node:
            raise BadInput("an override names a field of the study", dotted, f"fields here: {sorted(node)}")
        node[leaf] = value
    return Study.model_validate(values)


class Environment:
    """Everything a run reads from or writes to.

    Parameters
    ----------
    home : Path
        Holds `settings.json` and every store; also Dagster's home.

    Attributes
    ----------
    watch : callable
        Told a line now and then while a step is long; a console sets it.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.watch: Callable[[str], None] = lambda line: None
        path = home / SETTINGS_FILE
        if not path.exists():
            raise BadInput(
                "an environment's home holds settings.json",
                str(home),
                "make one with `foldgate demo`, `foldgate import` or `foldgate init`",
            )
        try:
            self.settings = Settings.model_validate_json(path.read_text())
        except ValidationError as broken:
            first = broken.errors()[0]
            raise BadInput(
                f"{SETTINGS_FILE} holds the settings of this release",
                f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
                "make the environment anew, or edit the file",
            ) from None

    @cached_property
    def lake(self) -> Lake:
        return Lake(self.home / "lake")

    @cached_property
    def artifacts(self) -> Artifacts:
        return Artifacts(self.home / "artifacts")

    @cached_property
    def study(self) -> Study:
        return self.studies[self.settings.study]

    @cached_property
    def studies(self) -> dict[str, Study]:
        return {
            name: overridden(study, self.settings.overrides) if name == self.settings.study else study
            for name, study in STUDIES.items()
        }

    def ledger(self, study: str) -> Ledger:
        return Ledger(self.home / "ledger" / study)

    def champions(self, study: str) -> Champions:
        return Champions(self.home / "champions" / study)

    def bundles(self, study: str) -> Path:
        return self.home / "bundles" / study

    def records(self, study: str) -> Path:
        return self.home / "records" / study

    @cached_property
    def tables(self) -> dict[str, TableSpec]:
        return TABLES

    @cached_property
    def simulated(self) -> Any:
        """The simulated market behind this environment."""
        from resources.simulated import simulated_market

        return simulated_market(self.settings.profile, self.settings.market)

    @cached_property
    def clock(self) -> Clock:
        """The system's clock, or the simulated now that survives between processes."""
        if self.settings.source == "tushare":
            return SystemClock()
        stored = self.home / "now.json"
        if stored.exists():
            return FixedClock(datetime.fromisoformat(json.loads(stored.read_text())))
        end = self.settings.last_session or date.max
        return FixedClock(datetime.combine(end, time(23, 59), UTC))

    def move_clock(self, now: datetime) -> None:
        """Advance the simulated now; refused where the clock is real, and never backwards."""
        clock = self.clock
        if not isinstance(clock, FixedClock):
            raise BadInput("only a simulated clock can be moved", type(clock).__name__)
        if (self.home / "now.json").exists() and now < clock.at:
            raise BadInput("a simulated now only goes forward", f"{clock.at} to {now}", "begin in another home")
        clock.at = now
        self.home.mkdir(parents=True, exist_ok=True)
        temporary = self.home / "now.json.tmp"
        temporary.write_text(json.dumps(now.isoformat()))
        temporary.replace(self.home / "now.json")

    @cached_property
    def source(self) -> Source:
        """The vendor, reached through the same client in production and simulation."""
        if self.settings.source == "imported":
            from resources.imported import FolderSource

            return FolderSource(Path(self.settings.folder))
        from resources.tushare import TushareClient, TushareSource

        if self.settings.source == "simulated":
            from resources.simulated import SIMULATED_TOKEN, SimulatedVendor

            vendor = SimulatedVendor(self.simulated, self.clock)
            return TushareSource(TushareClient(SIMULATED_TOKEN, transport=vendor, clock=self.clock))
        token = os.environ.get(TOKEN_VARIABLE, "")
        if not token:
            raise TokenRejected(
                f"the variable {TOKEN_VARIABLE} must hold your Tushare token",
                "it is empty",
                f"export {TOKEN_VARIABLE}=...",
            )
        return TushareSource(
            TushareClient(
                token,
                base_url=self.settings.base_url,
                clock=self.clock,
                calls_per_minute=self.settings.calls_per_minute,
            )
        )

    def calendar(self) -> Calendar:
        """The trading calendar as the lake knows it."""
        if "trade_cal" not in self.lake.tables():
            raise MissingTable("the calendar comes from trade_cal", "the lake holds none", "ingest trade_cal first")
        return Calendar.from_trade_cal(self.lake.latest("trade_cal"))


def current_environment() -> Environment:
    """The environment named by `FOLDGATE_HOME` (falls back to `DAGSTER_HOME`)."""
    home = os.environ.get(HOME_VARIABLE) or os.environ.get("DAGSTER_HOME")
    if not home:
        raise BadInput(
            f"{HOME_VARIABLE} must name the environment's home",
            "unset",
            "use the `foldgate` command, which sets it",
        )
    return Environment(Path(home).resolve())


def create_environment(home: Path, settings: Settings, template: Path) -> Environment:
    """Make a home: its settings and a copy of the project's dagster.yaml. An existing one must agree.

    Raises
    ------
    BadInput
        When the home exists with other settings.
    """
    home.mkdir(parents=True, exist_ok=True)
    path = home / SETTINGS_FILE
    text = json.dumps(settings.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    if path.exists() and path.read_text() != text:
        raise BadInput(
            "a home keeps the settings it was made with",
            str(path),
            "choose another home with --home, or delete this one",
        )
    path.write_text(text)
    if template.exists() and not (home / "dagster.yaml").exists():
        (home / "dagster.yaml").write_bytes(template.read_bytes())
    return Environment(home)
