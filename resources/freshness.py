"""How complete and how fresh the lake is; read by checks, the daily job and the doctor."""

from __future__ import annotations

from datetime import date
from zoneinfo import ZoneInfo

from pipeline.study import Study
from resources.environments import Environment


def incomplete_sessions(
    environment: Environment, study: Study, only: date | None = None
) -> dict[str, list[date]]:
    """Table -> sessions that were never fetched completely; only published ones, of tables that the study can get.

    Parameters
    ----------
    only : date, optional
        Ask for one session instead of the whole stretch; then a table not yet published is incomplete too.
    """
    calendar, now = environment.calendar(), environment.clock.now()
    first = environment.settings.first_session or calendar.sessions[0]
    last = environment.settings.last_session or calendar.known_until
    sessions = [only] if only else calendar.between(first, last)
    present, held = environment.source.tables(), environment.lake.tables()
    gaps = {}
    for use in study.tables:
        spec = environment.tables[use.table]
        # An optional table of which the lake never held a row is one that the vendor does not give this account.
        given = use.table in present and (use.required or use.table in held)
        if spec.layout != "session" or not given:
            continue
        wanted = sessions if only else spec.published(sessions, now)
        gaps[use.table] = environment.lake.missing(use.table, wanted) if use.table in held else wanted
    return gaps


def latest_decided(environment: Environment) -> date:
    """The newest session whose decision time has passed; the calendar's first where none has."""
    calendar, now = environment.calendar(), environment.clock.now()
    market = environment.study.market
    day = calendar.latest(min(now.astimezone(ZoneInfo(market.zone)).date(), calendar.known_until))
    while market.decided_at(day) > now and day > calendar.sessions[0]:
        day = calendar.shift(day, -1)
    return day
