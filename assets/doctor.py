"""`foldgate doctor`: what would go wrong today, before it does."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal, TextIO

from pipeline.errors import FoldgateError
from pipeline.serving.bundle import load_bundle
from resources.environments import Environment, open_every_day
from resources.freshness import incomplete_sessions, latest_decided

GIBIBYTE = 2**30
LEAST_FREE = 5 * GIBIBYTE
CALENDAR_AHEAD = 14  # days; holidays are announced well before, so less means a stale calendar
PACKAGES = ("dagster", "dagster-webserver", "polars", "duckdb", "pyarrow", "numba", "torch", "lightgbm",
            "onnxruntime")  # fmt: skip
MARKET_STAGES = ("panel", "features", "labels")


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: `note` is worth knowing, `FAIL` stops something."""

    state: Literal["ok", "note", "FAIL"]
    what: str
    text: str
    remedy: str = ""


def examine(home: Path, out: TextIO) -> int:
    """Print one line a check; 1 when any failed."""
    failed = notes = 0
    for finding in findings(home):
        failed, notes = failed + (finding.state == "FAIL"), notes + (finding.state == "note")
        print(f"{finding.state:<5} {finding.what:<18} {finding.text}", file=out)
        if finding.remedy:
            print(f"{'':<24} remedy: {finding.remedy}", file=out)
    print(f"\n{failed} failed, {notes} to note", file=out)
    return 1 if failed else 0


def findings(home: Path) -> Iterator[Finding]:
    """Machine first, then the environment and what it holds."""
    yield from _machine(home)
    try:
        environment = Environment(home)
        study = environment.study
    except (FoldgateError, ValueError, OSError) as broken:
        yield _broken("environment", broken)
        return
    yield Finding("ok", "environment", f"{home}: {environment.settings.source}, study {study.name}")
    for what, check in CHECKS.items():
        try:
            yield from check(environment)
        except FoldgateError as broken:
            yield _broken(what, broken)


def _broken(what: str, broken: Exception) -> Finding:
    if isinstance(broken, FoldgateError):
        return Finding("FAIL", what, f"{broken.rule}: {broken.observed}", broken.remedy)
    return Finding("FAIL", what, f"settings cannot be read: {str(broken).splitlines()[0]}", "make the environment anew")


def _check(good: bool, what: str, text: str, remedy: str, otherwise: Literal["note", "FAIL"] = "FAIL") -> Finding:
    return Finding("ok", what, text) if good else Finding(otherwise, what, text, remedy)


def _machine(home: Path) -> Iterator[Finding]:
    yield _check(sys.version_info >= (3, 11), "python", sys.version.split()[0], "use Python 3.11 or newer")
    missing, found = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    yield _check(
        not missing, "packages", f"missing {', '.join(missing)}" if missing else ", ".join(found), "`make install`"
    )
    existing = next(parent for parent in (home, *home.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    yield _check(free >= LEAST_FREE, "disk", f"{free / GIBIBYTE:.0f} GiB free at {existing}",
                 f"free at least {LEAST_FREE / GIBIBYTE:.0f} GiB, or move the home with --home")  # fmt: skip
    writable = os.access(existing, os.W_OK)
    text = f"{existing} is {'writable' if writable else 'read-only'}"
    yield _check(writable, "folder", text, "change its owner, or use another --home")


def _token(environment: Environment) -> Iterator[Finding]:
    variable = environment.vendor.token_variable
    if environment.settings.live and variable:
        text = f"${variable} is {'set (never shown)' if environment.token else 'not set'}"
        yield _check(bool(environment.token), "token", text, f"export {variable}=...")


def _calendar(environment: Environment) -> Iterator[Finding]:
    calendar, now = environment.calendar(), environment.clock.now()
    if open_every_day(environment.study.market):
        yield Finding("ok", "calendar", f"open every day, from {calendar.sessions[0]} ({now:%Y-%m-%d %H:%M} UTC now)")
        return
    ahead = (calendar.known_until - now.date()).days
    clock = "now" if environment.settings.live else f"the {environment.settings.source} now"
    text = f"known until {calendar.known_until}, {ahead} days ahead of {clock} ({now:%Y-%m-%d %H:%M} UTC)"
    remedy = f"`foldgate backfill` fetches {environment.vendor.calendar_table} again"
    yield _check(ahead >= CALENDAR_AHEAD, "calendar", text, remedy, "FAIL" if ahead < 0 else "note")


def _tables(environment: Environment) -> Iterator[Finding]:
    manifest, study = environment.lake.manifest(), environment.study
    gaps = incomplete_sessions(environment, study)
    for use in study.tables:
        if use.table not in manifest.tables:
            lost = f"absent: the study loses {use.loses}" if use.loses else "absent, and required"
            yield Finding(
                "FAIL" if use.required else "note",
                use.table,
                lost,
                "`foldgate backfill` fetches it" if use.required else "",
            )
            continue
        entry, missing = manifest.tables[use.table], gaps.get(use.table, [])
        fresh = f"{entry.rows:>11,} rows" + (f", to {entry.last_session}" if entry.last_session else ", a snapshot")
        if missing:
            fresh += f"; {len(missing)} published sessions incomplete, newest {missing[-1]}"
        remedy = "`foldgate backfill` fetches what is missing"
        yield _check(not missing, use.table, fresh, remedy, "FAIL" if use.required else "note")


def _stages(environment: Environment) -> Iterator[Finding]:
    calendar, due = environment.calendar(), latest_decided(environment)
    for stage in MARKET_STAGES:
        newest = _newest(environment, stage)
        if newest is None:
            yield Finding("note", stage, "never made", "`foldgate backfill` makes it")
            continue
        behind = len(calendar.between(newest, due)) - 1
        text = f"sessions to {newest}" + (f", {behind} behind" if behind > 0 else "")
        yield _check(behind <= 0, stage, text, "`foldgate backfill`, or the daily `foldgate infer`", "note")


def _newest(environment: Environment, stage: str) -> date | None:
    held = environment.artifacts.current(environment.study.name, stage)
    days = [day for version in held.values() for day in version.tables[stage]["sessions"]]
    return date.fromisoformat(max(days)) if days else None


def _serving(environment: Environment) -> Iterator[Finding]:
    name = environment.study.name
    yield Finding("ok", "trial ledger", f"whole, head {environment.ledger(name).head()[:12]}")
    serving = environment.champions(name).current()
    if serving is None:
        yield Finding(
            "note", "champion", "none: nothing can be inferred", "`foldgate train`, then `foldgate champion promote`"
        )
        return
    bundle = load_bundle(environment.bundles(name), serving["bundle"])
    yield Finding("ok", "champion", f"{bundle.hash[:12]} since {serving['at'][:10]}, every file as recorded")
    changed = bundle.runtime_changes()
    if changed:
        then_now = ", ".join(f"{what} {then} then, {now} now" for what, (then, now) in changed.items())
        yield Finding("note", "runtime", then_now, "scores stay within the stated tolerance; parity may not be exact")


CHECKS: dict[str, Callable[[Environment], Iterator[Finding]]] = {
    "token": _token, "calendar": _calendar, "tables": _tables, "stages": _stages, "serving": _serving,
}  # fmt: skip
