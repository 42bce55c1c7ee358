"""Which requests make up a Tushare table, and which sessions their answers complete. Nothing is sent here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import polars as pl

from pipeline.errors import BadInput, VendorUnavailable
from pipeline.fingerprints import hash_json
from pipeline.tables.spec import TableSpec
from resources.source import shown

# 48 five-minute bars and, where the vendor sends it, the opening auction.
BARS_PER_SESSION = 49


@dataclass(frozen=True)
class Ask:
    """Requests whose rows must agree with each other, and the sessions that they cover."""

    requests: tuple[dict[str, str], ...]
    sessions: tuple[date, ...]


@dataclass(frozen=True)
class Answer:
    """What an `Ask` gave; `cut` when a page stayed at the row cap without a further one."""

    ask: Ask
    rows: pl.DataFrame
    cut: bool
    first_empty: bool
    calls: int
    notes: tuple[str, ...] = ()


def plan(spec: TableSpec, sessions: Sequence[date], codes: Sequence[str]) -> Iterator[Ask]:
    """The requests for some sessions of a table, as few as the row cap allows."""
    fixed = [dict(params) for params in spec.requests]
    if spec.fetch_by == "snapshot":
        yield Ask(tuple(fixed), tuple(sessions))
    elif spec.fetch_by == "session":
        for day in sessions:
            yield Ask(tuple({**params, "trade_date": f"{day:%Y%m%d}"} for params in fixed), (day,))
    else:
        per_session = BARS_PER_SESSION if spec.fetch_by == "instrument" else 1
        step = spec.row_cap // per_session
        spans = [tuple(sessions[i:i + step]) for i in range(0, len(sessions), step)]
        for code in codes:
            for span in spans:
                yield Ask(tuple({**params, "ts_code": code, **_range(spec, span)} for params in fixed), span)


def _range(spec: TableSpec, sessions: Sequence[date]) -> dict[str, str]:
    """Both ends are inclusive; minute tables take times."""
    first, last = sessions[0], sessions[-1]
    if spec.fetch_by == "instrument":
        return {"start_date": f"{first} 00:00:00", "end_date": f"{last} 23:59:59"}
    return {"start_date": f"{first:%Y%m%d}", "end_date": f"{last:%Y%m%d}"}


def within(spec: TableSpec, rows: pl.DataFrame, sessions: Sequence[date]) -> pl.DataFrame:
    """Rows of the sessions: a range may cover days between them, a call for one day must not."""
    if spec.event is None:
        return rows
    wanted = spec.event_day().is_in(list(sessions))
    inside = rows.filter(wanted)
    if spec.fetch_by == "session" and inside.height < rows.height:
        raise BadInput(f"{spec.name}: an answer holds only the session asked for",
                       rows.filter(~wanted).select(spec.key).row(0), "the vendor ignored trade_date")
    return inside


def completeness(
    spec: TableSpec, rows: pl.DataFrame, sessions: Sequence[date], codes: Sequence[str],
    answers: Sequence[Answer],
) -> tuple[tuple[date, ...], tuple[str, ...]]:
    """Sessions that are surely whole, and a note for whatever a person should know.

    Raises
    ------
    VendorUnavailable
        A snapshot without rows, or cut: half a snapshot is worse than yesterday's.
    """
    notes = [note for answer in answers for note in answer.notes]
    if spec.event is None:
        for answer in answers:
            if answer.first_empty or answer.cut:
                seen = "no rows" if answer.first_empty else f"cut at {spec.row_cap} rows, no further page"
                raise VendorUnavailable(f"{spec.name}: a snapshot must be read whole", seen, "try again")
        return tuple(sessions), tuple(notes)
    cut = {day for answer in answers if answer.cut for day in answer.ask.sessions}
    short = _short(spec, rows, sessions, codes)
    what = "not every code has rows" if spec.fetch_by == "index" else "no rows"
    if short:
        notes.append(f"{spec.name}: {what} on the open {shown(short)}")
    if cut:
        notes.append(f"{spec.name}: cut at {spec.row_cap} rows, no further page, in {shown(sorted(cut))}")
    return tuple(day for day in sessions if day not in cut and day not in short), tuple(notes)


def _short(
    spec: TableSpec, rows: pl.DataFrame, sessions: Sequence[date], codes: Sequence[str]
) -> list[date]:
    """Sessions with too few rows: none at all, or by index not every code."""
    if spec.may_be_empty:
        return []
    days = rows.group_by(spec.event_day().alias("day")).agg(pl.col("ts_code").n_unique().alias("codes"))
    found = dict(days.iter_rows())
    wanted = len(set(codes)) if spec.fetch_by == "index" else 1
    return [day for day in sessions if found.get(day, 0) < wanted]


def describe(
    spec: TableSpec, sessions: Sequence[date], codes: Sequence[str], asks: Sequence[Ask], calls: int
) -> str:
    """The request in words, with a hash over every parameter sent."""
    parts = [spec.vendor, spec.name]
    if spec.event is not None and sessions:
        parts.append(f"{sessions[0]}..{sessions[-1]}")
    if codes:
        parts.append(f"{len(codes)} codes")
    sent = hash_json([list(spec.names), [list(ask.requests) for ask in asks]])
    return " ".join([*parts, f"{calls} calls", f"#{sent[:12]}"])
