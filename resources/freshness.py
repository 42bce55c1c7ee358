"""How complete and how fresh the lake is; read by checks, the daily job and the doctor."""

from __future__ import annotations

from datetime import date

from pipeline.study import Study
from resources.environments import Environment


def incomplete_sessions(
    environment: Environment, study: Study, only: date | None = None
) -> dict[str, list[date]]:
    """Table -> published sessions that were never fetched completely; only tables that the source has.

    Parameters
    ----------
    only : date, optional
        Ask for one session instead of the whole stretch.
    """
    calendar, now = environment.calendar(), environment.clock.now()
    first = environment.settings.first_session or calendar.sessions[0]
    last = environment.settings.last_session or calendar.known_until
    sessions = [only] if only else calendar.between(first, last)
    present = environment.source.tables()
    gaps = {}
    for use in study.tables:
        spec = environment.tables[use.table]
        if spec.layout != "session" or use.table not in present:
            continue
        published = [day for day in sessions if spec.published_at(day) <= now]
        gaps[use.table] = (
            environment.lake.missing(use.table, published)
            if use.table in environment.lake.tables()
            else published
        )
    return gaps
