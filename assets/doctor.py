"""`foldgate doctor`: what would go wrong today, before it does."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from pipeline.errors import FoldgateError
from resources.environments import TOKEN_VARIABLE, Environment
from resources.freshness import incomplete_sessions

GIBIBYTE = 2**30
LEAST_FREE = 5 * GIBIBYTE
PACKAGES = ("dagster", "dagster-webserver", "polars", "duckdb", "pyarrow", "numba", "torch", "lightgbm", "onnxruntime")
Finding = tuple[bool, str]


def examine(home: Path, out: TextIO) -> int:
    """Print one line a check; 1 when any failed."""
    findings = [*_machine(home), *_environment(home)]
    for good, line in findings:
        print(f"{'ok  ' if good else 'FAIL'}  {line}", file=out)
    return 0 if all(good for good, _ in findings) else 1


def _machine(home: Path) -> Iterator[Finding]:
    yield sys.version_info >= (3, 11), f"Python {sys.version.split()[0]} (3.11 or newer)"
    for name in PACKAGES:
        try:
            yield True, f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield False, f"{name} is not installed; run `make install`"
    existing = next(parent for parent in (home, *home.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    yield free >= LEAST_FREE, f"{free / GIBIBYTE:.0f} GiB free at {existing} (at least {LEAST_FREE / GIBIBYTE:.0f})"


def _environment(home: Path) -> Iterator[Finding]:
    try:
        environment = Environment(home)
    except FoldgateError as broken:
        yield False, f"environment: {broken}"
        return
    yield True, f"environment {home}: {environment.settings.source}, study {environment.study.name}"
    if environment.settings.source == "tushare":
        yield bool(os.environ.get(TOKEN_VARIABLE)), f"${TOKEN_VARIABLE} is set (its value is never shown)"
    for check in (_calendar, _tables, _stores):
        yield from _guarded(check, environment)


def _guarded(check: Callable[[Environment], Iterator[Finding]], environment: Environment) -> Iterator[Finding]:
    try:
        yield from check(environment)
    except FoldgateError as broken:
        yield False, str(broken)


def _calendar(environment: Environment) -> Iterator[Finding]:
    calendar, now = environment.calendar(), environment.clock.now()
    ahead = (calendar.known_until - now.date()).days
    yield ahead >= 0, f"calendar known until {calendar.known_until}, {ahead} days ahead of {now:%Y-%m-%d}"


def _tables(environment: Environment) -> Iterator[Finding]:
    gaps = incomplete_sessions(environment, environment.study)
    manifest = environment.lake.manifest()
    for use in environment.study.tables:
        if use.table not in manifest.tables:
            yield not use.required, f"{use.table}: absent; the study loses {use.loses or 'everything'}"
            continue
        entry, missing = manifest.tables[use.table], gaps.get(use.table, [])
        fresh = f"{use.table}: {entry.rows:,} rows, sessions to {entry.last_session or '(snapshot)'}"
        yield not missing, fresh if not missing else f"{fresh}; {len(missing)} published sessions incomplete, newest {missing[-1]}"


def _stores(environment: Environment) -> Iterator[Finding]:
    name = environment.study.name
    head = environment.ledger(name).head()
    yield True, f"trial ledger whole, head {head[:12]}"
    serving = environment.champions(name).current()
    yield True, f"champion {serving['bundle'][:12]} since {serving['at'][:10]}" if serving else "no champion"
