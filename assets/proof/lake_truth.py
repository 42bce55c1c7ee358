"""A lake beside that of an ingestion without faults: which days differ, was it told, and is it whole in the end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

import polars as pl

from pipeline.tables.spec import TableSpec
from resources.ingestion import IngestReport
from resources.lake import Lake

MISSING = re.compile(r": (\d+) minutes missing")
STAMPS = ("known_at", "ingested_at", "knowledge", "request")


@dataclass(frozen=True)
class Compared:
    """A table after fair weather.

    Parameters
    ----------
    wrong : str
        What is not as the truth; empty where everything is.
    rows : int
        Of the truth, all versions: so many were compared.
    stamped : int
        Rows whose true value came late and says so: known when it was seen.
    """

    wrong: str
    rows: int
    stamped: int = 0


def differing(lake: Lake, truth: Lake, spec: TableSpec, notes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Days whose content is not the truth's: those of which nobody was told, and those that are incomplete or noted."""
    held, true = lake.manifest().tables.get(spec.name), truth.manifest().table(spec.name)
    have = held.sessions if held is not None else {}
    days = sorted(day for day in {*have, *true.sessions} if have.get(day) != true.sessions.get(day))
    if spec.layout == "snapshot":
        # A snapshot that was never stored is absent, and every reader of the lake says so.
        return ([], days) if held is None else (days, [])
    known = held.complete if held is not None else {}
    counted = [day for day in days if day in known]
    told = [day for day in days if day not in known]
    return ([], days) if counted and _noted(lake, truth, spec, notes, counted) else (counted, told)


def _noted(lake: Lake, truth: Lake, spec: TableSpec, notes: Sequence[str], days: list[str]) -> bool:
    """Whether the notes name just as many missing minutes as those days lack, and nothing else differs on them."""
    start, end = date.fromisoformat(days[0]), date.fromisoformat(days[-1])
    have, true = (
        side.latest(spec.name, start=start, end=end).drop(STAMPS).filter(spec.event_day().cast(pl.String).is_in(days))
        for side in (lake, truth)
    )
    lacking = without(true, have).height
    # A note a symbol and request, and a request a month.
    told = sum(int(found.group(1)) for note in notes if (found := MISSING.search(note)))
    return without(have, true).is_empty() and told == lacking


def astray(lake: Lake, truth: Lake, spec: TableSpec) -> tuple[pl.DataFrame, pl.DataFrame]:
    """True rows that a lake lacks although it takes their day for complete, and rows that it holds and are not true.

    Whoever reads the lake now decides without the first and by the second.
    """
    held = lake.manifest().tables.get(spec.name)
    true = truth.latest(spec.name).select(spec.names)
    if held is None:
        return true.clear(), true.clear()
    have = lake.latest(spec.name).select(spec.names)
    counted = spec.event_day().cast(pl.String).is_in(list(held.complete)) if spec.layout == "session" else True
    return without(true.filter(counted), have), without(have, true)


def compared(
    lake: Lake, truth: Lake, spec: TableSpec, report: IngestReport, since: datetime | None, late: pl.DataFrame
) -> Compared:
    """Whether a lake is the truth.

    Parameters
    ----------
    report : IngestReport
        Of the last ingestion; rows that the truth lacks must have been told as withdrawn.
    since : datetime, optional
        Values may have come late, and must then be known no earlier than this. None: nothing false was ever taken
        in, so that contents must be equal bit for bit, time stamps included.
    late : DataFrame
        Rows that were missed before: they must be dated when they came, whatever the table's rule says.
    """
    held, true = lake.manifest().table(spec.name), truth.manifest().table(spec.name)
    rows = true.rows
    if set(held.complete) != set(true.complete):
        return Compared(f"sessions are incomplete: {'; '.join(report.notes)[:160]}", rows)
    if since is None:
        return Compared("" if held.hash == true.hash else "contents differ", rows)
    have, wanted = (side.latest(spec.name) for side in (lake, truth))
    values = list(spec.names)
    lost, others = without(wanted.select(values), have.select(values)), without(have.select(values), wanted)
    if lost.height or others.height != report.vanished:
        seen = f"{lost.height} true rows lacking, {others.height} others, {report.vanished} told as withdrawn"
        return Compared(f"values differ: {seen}", rows)
    timed = [*values, "known_at", "knowledge"]
    moved = without(have.select(timed), wanted.select(timed)).join(wanted, on=values, how="semi", nulls_equal=True)
    stamped = pl.concat([moved, have.select(timed).join(late, on=values, how="semi", nulls_equal=True)]).unique()
    honest = (pl.col("knowledge") == "observed") & (pl.col("known_at") >= since)
    return Compared("" if stamped.filter(~honest).is_empty() else "a late row is dated back", rows, stamped.height)


def without(rows: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """Rows of which the others have no equal, in every column."""
    return rows.join(others, on=rows.columns, how="anti", nulls_equal=True)
