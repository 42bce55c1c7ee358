"""`foldgate diagnose`: which diagnostics there are, and what one found, in a terminal and in the report."""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import polars as pl

from assets import arguments
from assets.console import cell, fixed, table
from assets.keys import stage_key
from pipeline.errors import BadInput
from pipeline.files import replace_if_changed
from pipeline.reports.html import Section
from pipeline.stages.diagnostics import REPORT_FILE, Diagnostic, shortened
from pipeline.stages.registry import DIAGNOSTICS
from resources.environments import Environment

WIDTH = 110


def asked_for(environment: Environment, name: str) -> Diagnostic:
    """The diagnostic of that name.

    Raises
    ------
    BadInput
        There is none, or the study lacks what it asks about.
    """
    arguments.one_of("a diagnostic", name, [each.name for each in DIAGNOSTICS])
    found = next(each for each in DIAGNOSTICS if each.name == name)
    if not found.applies_to(environment.study):
        rule = f"diagnostic {name} needs {found.needs}"
        raise BadInput(rule, f"study {environment.study.name} has none", "choose another, or add it to the study")
    return found


def list_all(environment: Environment, instance: dg.DagsterInstance) -> None:
    """Each diagnostic with what it asks, when it last ran and what it found."""
    study, width = environment.study, max(len(each.name) for each in DIAGNOSTICS)
    for each in DIAGNOSTICS:
        if each.applies_to(study):
            print(f"{each.name:<{width}} {each.asks}")
            print(f"{'':<{width}} {_standing(environment, instance, each)}")
    for needs in dict.fromkeys(each.needs for each in DIAGNOSTICS if not each.applies_to(study)):
        names = ", ".join(each.name for each in DIAGNOSTICS if each.needs == needs)
        print(textwrap.fill(f"not for {study.name}, which lacks {needs}: {names}", WIDTH))


def _standing(environment: Environment, instance: dg.DagsterInstance, diagnostic: Diagnostic) -> str:
    study = environment.study
    held = environment.artifacts.current(study.name, diagnostic.name)
    if not held:
        return f"never ran; `foldgate diagnose {diagnostic.name}`"
    event = instance.get_latest_materialization_event(stage_key(study, diagnostic.name))
    when = f"{datetime.fromtimestamp(event.timestamp, UTC):%Y-%m-%d %H:%M} UTC" if event else "time not recorded"
    outdated = "" if is_current(environment, diagnostic) else " (of earlier folds: run it again)"
    return f"{when}: {held[''].metadata['status']}{outdated}"


def is_current(environment: Environment, diagnostic: Diagnostic) -> bool:
    """Whether its finding was made from the stage results as they are now."""
    name, artifacts = environment.study.name, environment.artifacts
    read = artifacts.current(name, diagnostic.name)[""].lineage["read"]
    now = {stage: {part: v.hash for part, v in artifacts.current(name, stage).items()} for stage in diagnostic.reads}
    return all(
        read.get(f"{stage}/{part}" if part else stage, digest) == digest
        for stage, parts in now.items()
        for part, digest in parts.items()
    )


def show(environment: Environment, diagnostic: Diagnostic) -> Path:
    """Print the stored finding with its tables, and put its report where a browser finds it."""
    name, artifacts = environment.study.name, environment.artifacts
    version = artifacts.current(name, diagnostic.name)[""]
    print(f"\n{diagnostic.title}: {version.metadata['status']}\n")
    print(textwrap.fill(str(version.metadata["text"]), WIDTH))
    for held in sorted(version.tables):
        heading, frame = shortened(held, artifacts.table(name, diagnostic.name, held))
        print(f"\n{heading}")
        table(frame.columns, [[_cell(value) for value in row] for row in frame.iter_rows()])
    target = environment.home / "diagnostics" / f"{diagnostic.name}.html"
    replace_if_changed(target, artifacts.file(name, diagnostic.name, REPORT_FILE))
    return target


def findings_section(environment: Environment) -> Section | None:
    """What the diagnostics found, for the report of the environment; None where none ran."""
    rows = []
    for each in DIAGNOSTICS:
        held = environment.artifacts.current(environment.study.name, each.name)
        if held:
            said, current = held[""].metadata, "yes" if is_current(environment, each) else "no"
            row = {"diagnostic": each.name, "asks": each.asks, "finding": said["status"], "score": said["score"]}
            rows.append(row | {"current": current})
    words = "Probes that explain a result and decide nothing; `foldgate diagnose` shows one in full."
    return Section("Diagnostics", words, tables={"findings": pl.DataFrame(rows)}) if rows else None


def _cell(value: object) -> str:
    return fixed(value) if isinstance(value, float) else cell(value)
