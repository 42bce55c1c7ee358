"""From a vendor to the lake: ask only for what is missing and for the re-fetch window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import groupby

from pipeline.asof.spec import SymbolsSpec
from pipeline.errors import MissingTable, PermissionMissing
from pipeline.study import Study
from pipeline.tables.spec import TableSpec
from resources.environments import Environment

CODES_PER_COMMIT = 100  # 100 names x 166 sessions x 48 bars is about 0.8 M rows, some 60 MB


@dataclass
class IngestReport:
    """What one table's ingestion did, in rows and sessions.

    `vanished` rows are in the lake and no longer in the vendor's complete answer; they stay: decisions read them.
    """

    table: str
    present: bool = True
    asked: int = 0
    new: int = 0
    revised: int = 0
    late: int = 0
    unchanged: int = 0
    vanished: int = 0
    incomplete: list[date] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def ingest(
    environment: Environment,
    study: Study,
    spec: TableSpec,
    sessions: Sequence[date] = (),
    watch: Callable[[str], None] = lambda line: None,
) -> IngestReport:
    """Fetch one vendor table and append it to the lake.

    Parameters
    ----------
    sessions : sequence of date
        Open sessions wanted; ignored by snapshot tables.

    Raises
    ------
    MissingTable
        When the source lacks a table that the study requires.
    PermissionMissing
        When the vendor refuses such a table; one that is not required is left out and noted.
    """
    report = IngestReport(spec.name)
    use = next(use for use in study.tables if use.table == spec.name)
    if spec.name not in environment.source.tables():
        if use.required:
            raise MissingTable(
                f"the study requires the table {spec.name}",
                "the source lacks it",
                "add it to the folder or get the vendor's permission",
            )
        report.present = False
        report.notes.append(f"absent; the study loses {use.loses}")
        return report
    try:
        for i, codes in enumerate(batches := _batches(environment, study, spec)):
            wanted = _wanted(environment, spec, sessions, codes)
            parts = _parts(study, wanted) if spec.layout == "session" else [wanted]
            for j, part in enumerate(parts):
                watch(f"{spec.name}: {len(part)} sessions, {(i + j / len(parts)) / len(batches):.0%}")
                try:
                    _append(environment, spec, part, codes, report)
                except MissingTable as absent:  # a folder without files of these days may have them of others
                    if use.required:
                        raise
                    report.incomplete += part
                    report.notes.append(f"{absent.rule}: {absent.observed}")
    except PermissionMissing as refused:
        if use.required:
            raise
        report.present = False
        report.notes.append(f"{refused.observed}; the study loses {use.loses}")
    return report


def _append(
    environment: Environment, spec: TableSpec, wanted: list[date], codes: list[str], report: IngestReport
) -> None:
    """One request to the vendor and one commit of the lake."""
    fetched = environment.source.fetch(spec, wanted, codes)
    added = environment.lake.append(
        spec,
        fetched.rows,
        request=fetched.request,
        codes=codes,
        ingested_at=environment.clock.now(),
        complete=fetched.complete,
    )
    report.asked += len(wanted)
    report.new += added.new
    report.revised += added.revised
    report.late += added.late
    report.unchanged += added.unchanged
    report.vanished += added.vanished
    report.notes += fetched.notes
    if added.vanished:
        report.notes.append(f"{spec.name}: the vendor withdrew {added.vanished} stored rows; they stay in the lake")
    report.incomplete += [day for day in wanted if day not in set(fetched.complete)]


def _wanted(environment: Environment, spec: TableSpec, sessions: Sequence[date], codes: Sequence[str]) -> list[date]:
    """Published sessions that were never fetched completely, plus the re-fetch window before now."""
    if spec.layout != "session":
        return []
    settings, again = environment.settings, environment.settings.refetch_sessions
    # A month holds more than the environment does where its stretch begins or ends.
    inside = [day for day in sessions if (settings.first_session or day) <= day <= (settings.last_session or day)]
    published = spec.published(inside, environment.clock.now())
    window = published[-again:] if again else []
    return sorted({*environment.lake.missing(spec.name, published, codes=codes), *window})


def _parts(study: Study, wanted: list[date]) -> list[list[date]]:
    """What one request covers: all days of a study of sessions; of minutes a month, 29 MB of books a symbol."""
    if study.market.decides == "session":
        return [wanted] if wanted else []
    return [list(days) for _, days in groupby(wanted, lambda day: (day.year, day.month))]


def _batches(environment: Environment, study: Study, spec: TableSpec) -> list[list[str]]:
    """The codes to ask for: none, the benchmark, the study's symbols, or every listed and delisted name in lots."""
    if spec.fetch_by == "index":
        return [[study.market.benchmark]]
    if spec.fetch_by != "instrument":
        return [[]]
    codes = listed_codes(environment, study)
    return [codes[i : i + CODES_PER_COMMIT] for i in range(0, len(codes), CODES_PER_COMMIT)] or [[]]


def listed_codes(environment: Environment, study: Study) -> list[str]:
    """The symbols that the study names, or every code the vendor ever listed."""
    if isinstance(study.universe, SymbolsSpec):
        return sorted(study.universe.symbols)
    return environment.lake.latest(environment.vendor.listing)["ts_code"].drop_nulls().sort().to_list()
