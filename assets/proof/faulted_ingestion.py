"""Ingestions through faults, over a real socket, each then finished in fair weather and judged against the truth.

The clients, the sources, `ingest` and the lake are the house's own; only what comes over the socket is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import polars as pl

from assets.proof.fault_server import Armed, Fault, Loopback, Weather
from assets.proof.faults_of_archive import archive_faults
from assets.proof.faults_of_binance import interface_faults
from assets.proof.faults_of_http import ARCHIVE, CORRECTED, EQUAL, INTERFACE, KEPT, PLAUSIBLE, TOLD, TUSHARE
from assets.proof.faults_of_tushare import tushare_faults
from assets.proof.lake_truth import astray, compared, differing, without
from pipeline.asof.spec import TableUse
from pipeline.clock import FixedClock
from pipeline.errors import FoldgateError
from pipeline.fingerprints import hash_json
from pipeline.study import Study
from pipeline.tables.spec import TableSpec
from resources.binance import BinanceSource
from resources.binance_archive import ArchiveClient
from resources.binance_rest import BinanceRest
from resources.environments import Environment, Settings, create_environment
from resources.ingestion import IngestReport, ingest
from resources.simulated import SIMULATED_TOKEN, SimulatedVendor
from resources.simulated_perpetual import SimulatedExchange
from resources.source import Source
from resources.tushare import TushareClient, TushareSource
from resources.vendors import VENDORS

PATIENCE = 30.0  # seconds
LATER = timedelta(hours=1)  # between the faults and fair weather
PAUSE = timedelta(days=7)  # after the last session: every file of the archive is out
CHANNELS = {"tushare": (TUSHARE,), "binance": (INTERFACE, ARCHIVE)}
# The tables that a protocol carries, where it is not all of the study's; no study reads the contracts yet.
CARRIED = {INTERFACE: ("exchange_info", "funding_rate", "klines_1m"), ARCHIVE: ("funding_rate", "klines_1m")}
# Fair markets: what goes wrong, the weather says.
MARKETS: dict[str, dict[str, Any]] = {
    "tushare": {"instruments": 30, "sessions": 100, "faults": {"late_rate": 0.0, "revision_rate": 0.0}},
    "binance": {"faults": {"outages": 0, "republished": 0, "missing_book_days": 0}},
}
NEVER = ("silent", "untyped", "never healed")


@dataclass(frozen=True)
class Judged:
    """How one table came through.

    Parameters
    ----------
    ends : str
        `equal`, `told`, `corrected`, `kept` or the name of the error that stopped it; or, beginning with one of
        `NEVER`, what must not be.
    injected, retries : int
        Requests that a fault befell, and requests beyond those of an ingestion without faults.
    rows, stamped : int
        As in `Compared`.
    """

    table: str
    ends: str
    injected: int = 0
    retries: int = 0
    rows: int = 0
    stamped: int = 0
    detail: str = ""

    @property
    def safe(self) -> bool:
        """Whether nobody was deceived, however it ended."""
        return not self.ends.startswith(NEVER)


@dataclass
class Rig:
    """One vendor's protocol on a socket, and the truth: a lake that was filled without faults."""

    channel: str
    study: Study
    sessions: list[date]
    clock: FixedClock
    weather: Weather
    url: str
    folder: Path
    requests: dict[str, int] = field(default_factory=dict)
    _homes: Iterator[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        self.began = self.clock.at
        vendor = VENDORS[self.study.market.vendor]
        names = CARRIED.get(self.channel, self.study.table_names)
        # Snapshots first: minutes are asked for by listed code.
        self.specs = sorted((vendor.tables[name] for name in names), key=lambda spec: spec.layout != "snapshot")
        self.truth = self.environment(PATIENCE)
        for spec in self.specs:
            before = self.weather.requests
            ingest(self.truth, self.study, spec, self.sessions)
            self.requests[spec.name] = self.weather.requests - before

    def faults(self) -> list[Fault]:
        """All that can go wrong with this protocol."""
        if self.channel == INTERFACE:
            return list(interface_faults(self.began))
        if self.channel == ARCHIVE:
            return list(archive_faults())
        required = {use.table for use in self.study.tables if use.required}
        return list(tushare_faults(lambda spec: spec.name in required))

    def environment(self, timeout: float) -> Environment:
        """An empty home whose source asks over the socket."""
        home = self.folder / f"home_{next(self._homes)}"
        settings = Settings(
            study=self.study.name,
            profile="tiny",
            first_session=self.sessions[0],
            last_session=self.sessions[-1],
            refetch_sessions=len(self.sessions),
        )
        environment = create_environment(home, settings, home / "none")
        environment.clock = self.clock
        environment.source = self._source(home, timeout)
        return environment

    def _source(self, home: Path, timeout: float) -> Source:
        # Plain HTTP: a client of its own making would read the machine's certificates, 30 ms a time.
        usual: dict[str, Any] = {
            "base_url": self.url,
            "transport": httpx.HTTPTransport(verify=False),
            "clock": self.clock,
            "sleep": lambda seconds: None,
            "timeout": timeout,
        }
        if self.channel == TUSHARE:
            return TushareSource(TushareClient(SIMULATED_TOKEN, **usual))
        archive = ArchiveClient(home / "archive", **usual) if self.channel == ARCHIVE else None
        return BinanceSource(archive, {"um": BinanceRest("um", **usual)}, self.clock)

    def alone(self, spec: TableSpec, fault: Fault) -> Judged:
        """One table through one fault."""
        campaign = Campaign(self, fault.timeout)
        campaign.list_codes(spec)
        before = self.weather.requests
        campaign.attempt(spec, [Armed(fault, fault.times)])
        retries = self.weather.requests - before - self.requests[spec.name]
        (judged,) = campaign.settle()
        return replace(judged, retries=retries)


@dataclass
class _Course:
    """What one table has been through."""

    ends: str
    detail: str = ""
    injected: int = 0
    taken_in: bool = False  # something false or late, so that fair weather has to correct
    late: list[pl.DataFrame] = field(default_factory=list)  # what readers of the lake had to do without
    plausible: bool = False  # an answer in which nothing was wrong except that the vendor says otherwise later


class Campaign:
    """One lake through any number of ingestions under faults, and then the last one in fair weather."""

    def __init__(self, rig: Rig, timeout: float = PATIENCE) -> None:
        self.rig, self._courses = rig, dict[str, _Course]()
        self.environment = rig.environment(timeout)
        rig.weather.arm()

    def attempt(self, spec: TableSpec, faults: Sequence[Armed]) -> str:
        """Ingest a table once through some faults; how that ended. What counts as complete must be the truth."""
        self.list_codes(spec)
        pages = [armed.fault.page for armed in faults if armed.fault.page]
        self.rig.weather.arm(faults)
        ends, detail, report = self._ingest(replace(spec, row_cap=min(pages)) if pages else spec)
        self.rig.weather.arm()
        befell = [armed for armed in faults if armed.injected]
        course = self._courses.setdefault(spec.name, _Course(EQUAL))
        course.injected += sum(armed.injected for armed in befell)
        might = {armed.fault.ends(spec) for armed in befell}
        course.taken_in |= bool(might & {TOLD, *PLAUSIBLE})
        course.plausible |= bool(might & {*PLAUSIBLE})
        ends, detail = self._judged(spec, course, ends, detail, report)
        if not course.ends.startswith(NEVER):
            course.ends, course.detail = ends, detail[:200]
        return ends

    def _judged(
        self, spec: TableSpec, course: _Course, ends: str, detail: str, report: IngestReport
    ) -> tuple[str, str]:
        """The end of an ingestion in the light of what the lake then holds."""
        lake, truth = self.environment.lake, self.rig.truth.lake
        silent, told = differing(lake, truth, spec, report.notes)
        gone, false = astray(lake, truth, spec)
        if course.late and false.is_empty() and without(gone, course.late[-1]).is_empty():
            silent, told = [], [*silent, *told]  # what was told of an earlier ingestion is still all there is to tell
        course.late.append(gone)
        if silent and not ends.startswith(NEVER) and not course.plausible:
            return "silent gap", ", ".join(silent[:3]) or "whole table"
        if ends == EQUAL and (silent or told):
            return (CORRECTED, "") if silent else (TOLD, "; ".join(report.notes))
        return ends, detail

    def list_codes(self, spec: TableSpec) -> None:
        """What a table by instrument is asked for by, in fair weather: whoever is not listed is not asked for."""
        listing = self.environment.vendor.listing
        if spec.fetch_by == "instrument" and listing and listing not in self.environment.lake.tables():
            ingest(self.environment, self.rig.study, self.environment.tables[listing])

    def _ingest(self, spec: TableSpec) -> tuple[str, str, IngestReport]:
        nothing = IngestReport(spec.name)
        try:
            return EQUAL, "", ingest(self.environment, self.rig.study, spec, self.rig.sessions)
        except FoldgateError as stopped:
            text = f"{stopped.rule}; observed: {stopped.observed}"
            leaked = SIMULATED_TOKEN in str(stopped)
            return "untyped: the token is in the error" if leaked else type(stopped).__name__, text, nothing
        except Exception as error:  # what must never come out of the house
            return f"untyped {type(error).__name__}", str(error), nothing

    def settle(self) -> list[Judged]:
        """Ingest everything once more, later and in fair weather: now the lake must be the truth."""
        rig = self.rig
        rig.weather.arm()
        rig.clock.at = rig.began + LATER
        try:
            return [self._settled(spec, self._courses[spec.name]) for spec in rig.specs if spec.name in self._courses]
        finally:
            rig.clock.at = rig.began

    def _settled(self, spec: TableSpec, course: _Course) -> Judged:
        rig = self.rig
        ends, detail, report = self._ingest(spec)
        if ends != EQUAL:
            return Judged(spec.name, f"never healed: {ends}", course.injected, detail=detail)
        since, late = rig.began if course.taken_in else None, pl.concat(course.late).unique()
        end = compared(self.environment.lake, rig.truth.lake, spec, report, since, late)
        if course.ends == CORRECTED and report.vanished:
            course.ends = KEPT
        if not course.ends.startswith(NEVER) and end.wrong:
            course.ends, course.detail = f"never healed: {end.wrong}", end.wrong
        return Judged(spec.name, course.ends, course.injected, 0, end.rows, end.stamped, course.detail)


@contextmanager
def rig_of(channel: str, study: Study, folder: Path, days: int) -> Iterator[Rig]:
    """A vendor's protocol, served while the context is open, over a made-up market of which some days are wanted."""
    vendor = VENDORS[study.market.vendor]
    replaced = MARKETS[study.market.vendor] | ({} if channel == TUSHARE else {"days": max(days + 2, 6)})
    market = vendor.market("tiny", replaced)
    sessions = list(vendor.market_sessions(market))[-days:]
    clock = FixedClock(datetime.combine(sessions[-1], time(12), UTC) + PAUSE)
    weather = Weather(SimulatedVendor(market, clock) if channel == TUSHARE else SimulatedExchange(market, clock))
    unread = [TableUse(table=name) for name in CARRIED.get(channel, ()) if name not in study.table_names]
    widened = study.model_copy(update={"tables": (*study.tables, *unread)})
    with Loopback(weather) as server:
        yield Rig(channel, widened, sessions, clock, weather, server.url, folder / hash_json([channel, study.name])[:8])
