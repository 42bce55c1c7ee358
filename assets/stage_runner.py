"""Ranges, loading, writing, hashes, metadata and progress: once, for all stages."""

from __future__ import annotations

import base64
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from assets.keys import stage_key
from assets.markdown import markdown_table
from assets.partitions import MEMBER, SPLIT
from pipeline.calendars import Calendar
from pipeline.errors import MissingTable
from pipeline.files import one_writer
from pipeline.fingerprints import hash_json
from pipeline.stages.contract import Figures, Stage, Stores
from pipeline.stages.pinned import PIN_FILE
from pipeline.stages.serving import CHAMPION_FILE
from pipeline.study import Study
from resources.artifacts import Version
from resources.environments import Environment
from resources.freshness import incomplete_sessions

# What is being done, and how much of it, from 0 to 1.
Log = Callable[[str, float], None]
PACE_SECONDS = 1.0


class StageReader:
    """Reads for one stage and notes every version it handed out as lineage."""

    def __init__(
        self,
        environment: Environment,
        study: Study,
        stage: Stage,
        shared: dict[str, Any],
        workdir: Path,
        log: Log,
    ) -> None:
        self._environment, self._study, self._stage = environment, study, stage
        self._shared, self._log = shared, log
        self.workdir = workdir
        self.lineage: dict[str, str] = {}

    @cached_property
    def calendar(self) -> Calendar:
        return self.once("calendar", self._environment.calendar)

    @cached_property
    def _pin(self) -> dict[str, dict[str, str]]:
        """stage -> partition -> hash, as `folds` pinned it; empty before and after research."""
        if not self._stage.pinned:
            return {}
        return json.loads(self.file("folds", PIN_FILE))["stages"]

    def _versions(self, stage: str) -> dict[str, Version]:
        artifacts, name = self._environment.artifacts, self._study.name
        current = artifacts.current(name, stage)
        pinned = self._pin.get(stage) if stage != "folds" else None
        if pinned is None:
            return dict(sorted(current.items()))
        return {part: artifacts.version(name, stage, part, digest) for part, digest in sorted(pinned.items())}

    def versions(self, stage: str) -> dict[str, str]:
        return {partition: version.hash for partition, version in self._versions(stage).items()}

    def raw(
        self,
        table: str,
        *,
        start: date | None = None,
        end: date | None = None,
        known_after: datetime | None = None,
        known_until: datetime | None = None,
    ) -> pl.DataFrame | None:
        lake = self._environment.lake
        if table not in lake.tables():
            return None
        self.lineage["lake"] = self.once("lake manifest", lake.manifest_hash)
        return lake.scan(table, start=start, end=end, known_after=known_after, known_until=known_until)

    def table(
        self,
        stage: str,
        name: str,
        *,
        partitions: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pl.DataFrame:
        versions = self._versions(stage)
        wanted = {p: v.hash for p, v in versions.items() if partitions is None or p in partitions}
        self.lineage |= {f"{stage}/{p}" if p else stage: digest for p, digest in wanted.items()}
        return self._environment.artifacts.table(
            self._study.name,
            stage,
            name,
            partitions=list(wanted),
            pinned=wanted,
            columns=columns,
            verify=self._stage.verifies,
        )

    def file(self, stage: str, name: str, partition: str = "") -> bytes:
        version = self._noted(stage, partition, name)
        return self._environment.artifacts.file(self._study.name, stage, name, partition=partition, pinned=version.hash)

    def files(self, stage: str, partition: str = "") -> dict[str, str]:
        return dict(self._noted(stage, partition, "the files").files)

    def _noted(self, stage: str, partition: str, what: str) -> Version:
        """A partition's version, noted as read."""
        version = self._versions(stage).get(partition)
        if version is None:
            raise MissingTable(
                f"{self._stage.name} reads {what} of {stage}",
                f"{stage} has no result" + f" of {partition}" * bool(partition),
                f"materialise {stage} first",
            )
        self.lineage[f"{stage}/{partition}" if partition else stage] = version.hash
        return version

    @cached_property
    def stores(self) -> Stores:
        name, environment = self._study.name, self._environment
        return Stores(
            environment.ledger(name),
            environment.champions(name),
            environment.bundles(name),
            environment.records(name),
            self._promoted,
        )

    def _promoted(self) -> set[str]:
        artifacts, study = self._environment.artifacts, self._study.name
        held = [v.hash for v in artifacts.versions() if (v.study, v.stage) == (study, "champion")]
        return {json.loads(artifacts.file(study, "champion", CHAMPION_FILE, pinned=v))["bundle"] for v in held}

    @property
    def now(self) -> datetime:
        return self._environment.clock.now()

    @property
    def first_session(self) -> date:
        return self._environment.settings.first_session or self.calendar.sessions[0]

    def metadata(self, stage: str) -> dict[str, Any]:
        return dict(self._versions(stage)[""].metadata)

    def rewritten(self, stage: str, partition: str, pinned: str) -> bool:
        artifacts, name = self._environment.artifacts, self._study.name
        then = artifacts.version(name, stage, partition, pinned).tables[stage]["sessions"]
        now = artifacts.current(name, stage)[partition].tables[stage]["sessions"]
        return any(now.get(day) != digest for day, digest in then.items())

    def incomplete(self, session: date) -> list[str]:
        gaps = incomplete_sessions(self._environment, self._study, session)
        return sorted(table for table, days in gaps.items() if days)

    def once(self, name: str, build: Callable[[], Any]) -> Any:
        if name not in self._shared:
            before, self.lineage = self.lineage, {}
            self._shared[name] = (build(), self.lineage)
            self.lineage = before
        value, read = self._shared[name]
        self.lineage |= read
        return value

    def folder(self, name: str, stages: Sequence[str], identity: object, build: Callable[[Path], None]) -> Path:
        versions = {stage: self.versions(stage) for stage in stages}
        root = self._environment.home / "scratch" / name
        folder = root / hash_json([identity, versions])
        with one_writer(root):
            if not folder.exists():
                for leftover in (path for path in root.iterdir() if path.is_dir()):
                    shutil.rmtree(leftover)  # of older versions; who has one mapped keeps it
                making = folder.with_suffix(".tmp")
                making.mkdir()
                build(making)
                making.rename(folder)
        self.lineage |= {f"{stage}/{p}" if p else stage: v for stage in stages for p, v in versions[stage].items()}
        return folder

    def progress(self, text: str, done: float) -> None:
        self._log(text, done)


def partition_names(context: dg.AssetExecutionContext) -> list[str]:
    """The run's partitions as store names; `""` for a whole, `split|member` for two dimensions."""
    if not context.has_partition_key and not context.has_partition_key_range:
        return [""]
    names = []
    for key in context.partition_keys:
        parts = getattr(key, "keys_by_dimension", None)
        names.append(f"{parts[SPLIT]}|{parts[MEMBER]}" if parts else str(key))
    return names


def run_stage(
    context: dg.AssetExecutionContext, environment: Environment, stage: Stage, study: Study
) -> dg.MaterializeResult:
    """Run a stage over the partitions of this run, writing each as soon as it is done."""
    partitions, started = partition_names(context), time.perf_counter()
    tell = told(context.log.info, environment.watch)
    parallel = stage.parallel and environment.settings.workers > 1 and len(partitions) > 1
    run = _side_by_side if parallel else _one_by_one
    versions, pictures = run(environment, stage, study, partitions, tell)
    digest = versions[0].hash if len(versions) == 1 else hash_json([version.hash for version in versions])
    described = {
        "partitions": len(partitions),
        "rows": sum(table["rows"] for version in versions for table in version.tables.values()),
        "seconds": round(time.perf_counter() - started, 2),
        **versions[-1].metadata,
    }
    return dg.MaterializeResult(
        asset_key=stage_key(study, stage),
        data_version=dg.DataVersion(digest[:16]),
        metadata={name: _shown(value) for name, value in described.items()} | _pictures(pictures),
    )


def _one_by_one(
    environment: Environment, stage: Stage, study: Study, partitions: list[str], tell: Callable[[str], None]
) -> tuple[list[Version], Figures]:
    """Versions in partition order, and the pictures of the last partition that was computed."""
    versions, figures, shared = [], dict[str, Callable[[], bytes]](), dict[str, Any]()
    for i, partition in enumerate(partitions):
        say = _progress(tell, stage, partition, i, len(partitions))
        say("started", 0.0)
        with paced(say) as log:
            version, drawn = run_partition(environment, stage, study, partition, shared, log)
        versions.append(version)
        figures = dict(drawn) or figures
    return versions, figures


def _side_by_side(
    environment: Environment, stage: Stage, study: Study, partitions: list[str], tell: Callable[[str], None]
) -> tuple[list[Version], Figures]:
    """The same in several processes, whose progress is told here as it comes."""
    from assets.workers import run_in_processes

    versions, figures = dict[str, Version](), dict[str, Callable[[], bytes]]()
    says = {part: _progress(tell, stage, part, i, len(partitions)) for i, part in enumerate(partitions)}
    workers = environment.settings.workers
    for done in run_in_processes(environment.home, study.name, stage.name, says, workers):
        versions[done.partition] = done.version
        figures |= {title: partial(bytes, png) for title, png in done.pictures.items()}
        tell(f"{stage.name} {done.partition}: done, {len(versions)} of {len(partitions)}")
    return [versions[partition] for partition in partitions], figures


def run_partition(
    environment: Environment,
    stage: Stage,
    study: Study,
    partition: str,
    shared: dict[str, Any],
    log: Log,
) -> tuple[Version, Figures]:
    """One partition: skip it if nothing it depends on changed, else compute, append trials, write.

    Returns its version, and what draws its pictures (nothing when it was skipped).
    """
    with _workdir(environment, study, stage, partition) as workdir:
        reader = StageReader(environment, study, stage, shared, workdir, log)
        code = stage.code_version(study)
        inputs = hash_json([code, {name: reader.versions(name) for name in stage.reads}]) if stage.resumes else ""
        existing = environment.artifacts.current(study.name, stage.name).get(partition)
        if inputs and existing and existing.lineage.get("inputs") == inputs:
            log("unchanged, kept", 1.0)
            return existing, {}
        result = stage.run(study, reader, partition)
        if result.trials:
            environment.ledger(study.name).append(result.trials)
        version = environment.artifacts.write(
            study.name,
            stage.name,
            partition,
            result.tables,
            result.files,
            keys=result.keys,
            lineage={"code": code, "inputs": inputs, "read": dict(sorted(reader.lineage.items()))},
            metadata=result.metadata,
        )
    return version, result.figures


@contextmanager
def _workdir(environment: Environment, study: Study, stage: Stage, partition: str) -> Iterator[Path]:
    """A scratch folder that survives an interruption where the stage resumes, so that checkpoints do."""
    root = environment.home / "scratch"
    root.mkdir(parents=True, exist_ok=True)
    if not stage.resumes:
        with tempfile.TemporaryDirectory(dir=root) as folder:
            yield Path(folder)
        return
    folder = root / hash_json([study.name, stage.name, partition, stage.code_version(study)])[:16]
    folder.mkdir(exist_ok=True)
    yield folder


def _progress(tell: Callable[[str], None], stage: Stage, partition: str, i: int, n: int) -> Log:
    """Log lines `models cpcv_03|linear (4/45): epoch 2, 67%`."""
    place = f"{stage.name} {partition}".strip() + (f" ({i + 1}/{n})" if n > 1 else "")
    return lambda text, done: tell(f"{place}: {text}, {done:.0%}")


@contextmanager
def paced(say: Log, seconds: float = PACE_SECONDS) -> Iterator[Log]:
    """A log that speaks at most once every `seconds`, and always says the last: a step may report a thousand times."""
    spoken, held = -math.inf, list[tuple[str, float]]()

    def log(text: str, done: float) -> None:
        nonlocal spoken
        held[:] = [(text, done)]
        if time.monotonic() - spoken >= seconds:
            spoken = time.monotonic()
            say(*held.pop())

    try:
        yield log
    finally:
        for line in held:
            say(*line)


def told(*listeners: Callable[[str], object]) -> Callable[[str], None]:
    """Pass a line on to the UI's log and to a console."""

    def tell(line: str) -> None:
        for listener in listeners:
            listener(line)

    return tell


def _shown(value: Any) -> Any:
    """Plain values as they are; rows of dicts as a markdown table; anything else as JSON."""
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        head = list(value[0])
        return dg.MetadataValue.md("\n".join(markdown_table(head, [[row[name] for name in head] for row in value])))
    return dg.MetadataValue.json(value) if isinstance(value, (dict, list)) else value


def _pictures(figures: Figures) -> dict[str, dg.MarkdownMetadataValue]:
    return {title: picture(draw(), title) for title, draw in figures.items()}


def picture(png: bytes, title: str) -> dg.MarkdownMetadataValue:
    """A picture as the UI shows it."""
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")
