"""Small labelled panels for fold tests."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl

from pipeline.calendars import Calendar

SCHEMA = {"session": pl.Date, "instrument": pl.String, "label_start": pl.Date, "label_end": pl.Date}


def weekdays(n: int) -> Calendar:
    """`n` sessions, Monday to Friday, so that calendar days and sessions differ."""
    days = [day for i in range(2 * n) if (day := date(2020, 1, 1) + timedelta(i)).weekday() < 5][:n]
    return Calendar(tuple(days), days[-1])


def labelled(calendar: Calendar, spans: list[tuple[int, str, int, int | None]]) -> pl.DataFrame:
    """Labels from (session, instrument, start, end) in ordinals; end None: not yet known."""
    day = calendar.sessions
    rows = [(day[t], name, day[s], None if e is None else day[e]) for t, name, s, e in spans]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row").sort("session", "instrument")


def balanced(calendar: Calendar, n_sessions: int, names: int = 2, length: int = 4) -> pl.DataFrame:
    """Every name on each of the first `n_sessions` sessions, with spans `[T, T + length)`."""
    return labelled(
        calendar, [(t, f"{i:03d}", t, t + length) for t in range(n_sessions) for i in range(names)]
    )


def unbalanced(calendar: Calendar, n_sessions: int, names: int, seed: int) -> pl.DataFrame:
    """A growing universe with gaps, and some spans carried by up to ten sessions."""
    rng = np.random.default_rng(seed)
    listed = rng.integers(0, n_sessions * 3 // 4, names)
    rows = [
        (t, f"{i:03d}", t, t + 4 + (int(rng.integers(1, 11)) if rng.random() < 0.07 else 0))
        for t in range(n_sessions)
        for i in range(names)
        if t >= listed[i] and rng.random() < 0.9
    ]
    return labelled(calendar, rows)
