"""What a person typed, checked against the environment: days, sessions, codes and names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time

import polars as pl

from pipeline.asof.identity import original_code
from pipeline.errors import BadInput, CalendarError
from resources.environments import Environment
from resources.ingestion import listed_codes


def day(text: str) -> date:
    """A day written as 2026-09-30 or 20260930."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadInput("a day is written YYYY-MM-DD", text, "for example 2026-09-30") from None


def minute(environment: Environment, text: str) -> datetime:
    """The open of a minute, in UTC, written as 2026-06-30T13:05; its day is a session."""
    rule, remedy = "a minute is named by its open in UTC, YYYY-MM-DDTHH:MM", "for example 2026-06-30T13:05"
    try:
        wanted = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(rule, text or "(nothing)", remedy) from None
    if re.fullmatch(r"[\d-]+", text):
        raise BadInput(rule, f"{text}, a whole day", f"add the minute, {remedy}")
    if wanted.second or wanted.microsecond:
        raise BadInput(rule, f"{text}, an instant inside a minute", f"leave the seconds out, {remedy}")
    wanted = wanted.astimezone(UTC) if wanted.tzinfo else wanted.replace(tzinfo=UTC)
    session(environment, wanted.date().isoformat())
    return wanted


def month(text: str | None) -> str | None:
    """A month written as 2026-09; None stays None."""
    if text is not None and not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", text):
        raise BadInput("a month is written YYYY-MM", text, "for example 2026-09")
    return text


def hour(text: str) -> time:
    """A wall time written as 23:00."""
    try:
        return time.fromisoformat(text)
    except ValueError:
        raise BadInput("a local time is written HH:MM", text, "for example 23:00") from None


def session(environment: Environment, text: str) -> date:
    """A day that is an open session of the calendar."""
    wanted, calendar = day(text), environment.calendar()
    if wanted in calendar:
        return wanted
    near = [found for found in calendar.sessions if found < wanted][-1:]
    near += [found for found in calendar.sessions if found > wanted][:1]
    raise CalendarError(
        "a session is an open day of the exchange",
        f"{wanted} ({wanted:%A})",
        f"the nearest are {' and '.join(map(str, near))}; the calendar is known until {calendar.known_until}",
    )


def renames(environment: Environment) -> dict[str, str]:
    """New code -> the code the security had first."""
    if "bse_mapping" not in environment.lake.tables():
        return {}
    mapping = environment.lake.latest("bse_mapping")
    return dict(zip(mapping["n_code"], mapping["o_code"], strict=True))


def instrument(environment: Environment, code: str) -> str:
    """The permanent id behind any code a security ever had, in any case and with or without its exchange."""
    changed = renames(environment)
    listed = listed_codes(environment, environment.study)
    known = sorted({*listed, *changed, *changed.values()})
    typed = code.strip().upper()
    moved = re.fullmatch(r"(SH|SZ|BJ)\.?(\d{6})", typed)
    typed = f"{moved[2]}.{moved[1]}" if moved else typed
    found = [name for name in known if name == typed or name.split(".")[0] == typed]
    if len(found) == 1:
        return str(original_code(pl.Series(found), changed)[0])
    raise BadInput(
        "a code names one security of the market",
        code or "(nothing)",
        f"add the exchange: {', '.join(found)}" if found else f"close: {', '.join(_close(typed, known)) or 'none'}",
    )


def one_of(what: str, typed: str, known: Sequence[str]) -> str:
    """A name out of a set; its error offers the close ones, or all of a short set."""
    if typed in known:
        return typed
    close = _close(typed, known)
    offer = f"did you mean {', '.join(close)}?" if close else f"choose from {', '.join(list(known)[:40])}"
    raise BadInput(what, typed or "(nothing)", offer)


def _close(typed: str, known: Sequence[str]) -> list[str]:
    """Names that look alike, whatever their case."""
    folded = {name.casefold(): name for name in known}
    return [folded[match] for match in difflib.get_close_matches(typed.casefold(), folded, n=5, cutoff=0.5)]
