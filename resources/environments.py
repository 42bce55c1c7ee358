"""One environment: a home folder, its settings, and the stores, vendor and clock that belong to it.

The only module that reads environment variables.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError, model_validator

from pipeline.asof.spec import MarketSpec
from pipeline.calendars import Calendar
from pipeline.clock import Clock, FixedClock, SystemClock
from pipeline.errors import BadInput, MissingTable
from pipeline.gates.ledger import Ledger
from pipeline.gates.promotion import Champions
from pipeline.spec import Spec
from pipeline.studies import STUDIES
from pipeline.study import Study
from pipeline.tables.spec import TableSpec
from resources.artifacts import Artifacts
from resources.lake import Lake
from resources.source import Source
from resources.vendors import VENDORS, Vendor

HOME_VARIABLE = "FOLDGATE_HOME"
SETTINGS_FILE = "settings.json"
NOT_LIVE = ("simulated", "imported")  # kinds of source whose clock stands still
# A market that never closes announces no sessions; so far ahead they are taken for granted.
ALWAYS_OPEN_AHEAD = timedelta(days=366)


def open_every_day(market: MarketSpec) -> bool:
    """Whether each natural day is a session: a market that decides by the minute never closes."""
    return market.decides == "minute"


class Settings(Spec):
    """What distinguishes one environment from another; written once, when its home is made.

    Parameters
    ----------
    source : {"simulated", "imported", "tushare", "binance"}
        Where vendor rows come from; a live one is the vendor of the study's market.
    profile : str
        Of the simulated market.
    market : mapping
        Fields of that profile to replace, e.g. {"signal": 0.0, "seed": 3}.
    folder : str
        Of an import.
    books : str
        Folder of book snapshots, where the live vendor sells none.
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

    source: Literal["simulated", "imported", "tushare", "binance"] = "simulated"
    study: str = next(iter(STUDIES))
    profile: str = "demo"
    market: Mapping[str, Any] = {}
    folder: str = ""
    books: str = ""
    base_url: str = "http://api.tushare.pro"
    calls_per_minute: int = 170
    first_session: date | None = None
    last_session: date | None = None
    refetch_sessions: int = 5
    workers: int = 1
    retry_until: time = time(23, 0)
    notify: str = ""
    overrides: Mapping[str, Any] = {}

    @property
    def live(self) -> bool:
        """Whether rows come from the vendor itself, as the real time passes."""
        return self.source not in NOT_LIVE

    @model_validator(mode="after")
    def _coherent(self) -> Settings:
        if self.study not in STUDIES:
            raise BadInput("an environment holds a registered study", self.study, f"choose from {sorted(STUDIES)}")
        vendor = STUDIES[self.study].market.vendor
        if self.live and self.source != vendor:
            raise BadInput(f"the study {self.study} reads the vendor {vendor}", self.source,
                           f"choose {vendor}, or one of {list(NOT_LIVE)}")
        return self


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
    def vendor(self) -> Vendor:
        """The vendor of the study's market."""
        return VENDORS[self.study.market.vendor]

    @property
    def token(self) -> str:
        """The account's secret at the vendor; empty where it is unset or none is needed."""
        variable = self.vendor.token_variable
        return os.environ.get(variable, "") if variable else ""

    @cached_property
    def tables(self) -> dict[str, TableSpec]:
        return dict(self.vendor.tables)

    @cached_property
    def simulated(self) -> Any:
        """The simulated market behind this environment."""
        return self.vendor.market(self.settings.profile, self.settings.market)

    @cached_property
    def clock(self) -> Clock:
        """The system's clock, or the simulated now that survives between processes."""
        if self.settings.live:
            return SystemClock()
        stored = self.home / "now.json"
        if stored.exists():
            return FixedClock(datetime.fromisoformat(json.loads(stored.read_text())))
        end = self.settings.last_session or date.max - ALWAYS_OPEN_AHEAD
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
            return self.vendor.imported(Path(self.settings.folder), self.study.universe)
        return self.vendor.live(self) if self.settings.live else self.vendor.simulated(self)

    @property
    def knows_calendar(self) -> bool:
        """Whether the open sessions can be told before anything more is fetched."""
        return open_every_day(self.study.market) or self.vendor.calendar_table in self.lake.tables()

    def calendar(self) -> Calendar:
        """The sessions: every day of a market that never closes, else the trading calendar as the lake knows it."""
        if open_every_day(self.study.market):
            return self._every_day()
        table = self.vendor.calendar_table
        if not self.knows_calendar:
            raise MissingTable(f"the calendar comes from {table}", "the lake holds none", f"ingest {table} first")
        return Calendar.from_trade_cal(self.lake.latest(table))

    def announced_calendar(self) -> Calendar:
        """The calendar, from the source itself where the lake does not know it yet."""
        if self.knows_calendar:
            return self.calendar()
        return Calendar.from_trade_cal(self.source.fetch(self.tables[self.vendor.calendar_table], []).rows)

    def _every_day(self) -> Calendar:
        """From the environment's first session to a year from now."""
        first = self.settings.first_session
        if first is None:
            raise BadInput("history begins with a session where the market is open every day", "no first_session",
                           "name it in the settings")
        last = self.clock.now().date() + ALWAYS_OPEN_AHEAD
        return Calendar(tuple(first + timedelta(days=i) for i in range((last - first).days + 1)), last)


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
