"""A diagnostic: a probe that explains a result of a study. It exports no model and no other stage reads it.

What lives here: what a diagnostic is, and how its finding becomes the result of a stage. Not here: the probes
themselves; which there are is in `registry`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from pipeline.diagnostics.finding import Finding
from pipeline.fingerprints import canonical_json
from pipeline.reports.html import Section, page
from pipeline.stages.contract import Reader, Stage, StageResult
from pipeline.study import Study

FINDING_FILE, REPORT_FILE = "finding.json", "report.html"
PURPOSE = "diagnostic only"
REPORT_ROWS, METADATA_ROWS = 50, 20
"""Rows of a table that its report and its metadata show; the stored table holds all."""
LIBRARY = ("pipeline.diagnostics.finding",)


@dataclass(frozen=True)
class Diagnostic:
    """One question about a study, and what answers it.

    A diagnostic never scores rows that a gate reads: that would be a trial, and belongs into the ledger.

    Parameters
    ----------
    name : str
        Names its stage and asset, beside the study's own.
    title, asks : str
        For people.
    needs : str
        What a study must have for the question to make sense.
    applies_to : callable
        Whether a study has it.
    run : callable
        (study, reader) -> Finding.
    reads, parts, modules
        As for `Stage`.
    """

    name: str
    title: str
    asks: str
    needs: str
    applies_to: Callable[[Study], bool]
    run: Callable[[Study, Reader], Finding]
    reads: tuple[str, ...]
    parts: tuple[str, ...]
    modules: tuple[str, ...]

    @property
    def stage(self) -> Stage:
        """The diagnostic as a stage: unpartitioned, through the pin, kept while nothing it depends on changed."""

        def run(study: Study, read: Reader, _: str) -> StageResult:
            return presented(self, study, self.run(study, read))

        modules = (*self.modules, *LIBRARY, self.run.__module__)
        return Stage(
            self.name, "whole", self.reads, run, self.parts, modules, pinned=True, resumes=True, summary=self.asks
        )


def presented(diagnostic: Diagnostic, study: Study, found: Finding) -> StageResult:
    """A finding as tables, `finding.json`, a self-contained `report.html`, metadata and pictures."""
    said = {"score": found.score, "status": found.status, "text": found.text}
    asked = {"name": diagnostic.name, "title": diagnostic.title, "asks": diagnostic.asks}
    counted = {"rule": found.rule or found.text, "counts": dict(found.counts), "tables": _heights(found)}
    skipped = found.tables["skipped"].to_dicts() if "skipped" in found.tables else []
    result = asked | said | counted | {"purpose": PURPOSE, "skipped": skipped}
    pictures = {title: draw() for title, draw in found.figures.items()}
    shown = dict(shortened(name, table) for name, table in found.tables.items())
    section = Section("Finding", found.text, pictures, shown)
    report = page(diagnostic.title, f"{study.name}; {diagnostic.asks}", None, found.status, [section])
    return StageResult(
        tables=found.tables,
        files={FINDING_FILE: canonical_json(result).encode(), REPORT_FILE: report.encode()},
        metadata=said | {name: table.head(METADATA_ROWS).to_dicts() for name, table in found.tables.items()},
        figures=found.figures,
    )


def shortened(name: str, table: pl.DataFrame) -> tuple[str, pl.DataFrame]:
    """The first rows of a table, under a heading that says how many there are."""
    if table.height <= REPORT_ROWS:
        return name, table
    return f"{name}: the first {REPORT_ROWS} of {table.height:,} rows", table.head(REPORT_ROWS)


def _heights(found: Finding) -> dict[str, int]:
    return {name: table.height for name, table in found.tables.items()}
