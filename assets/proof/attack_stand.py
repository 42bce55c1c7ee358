"""Where promotion is attacked: copies of a judged home, one for each attempt, and what came of it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from assets.proof.homes import HomePlan, judged_home, reader_of, stage_named
from assets.stage_runner import run_partition
from pipeline.errors import FoldgateError, PromotionRefused
from pipeline.fingerprints import canonical_json
from pipeline.serving.bundle import STUDY, Bundle, load_bundle, write_bundle
from pipeline.stages.candidates import BUNDLE_FILE
from pipeline.stages.serving import champion_bundle
from pipeline.study import Study
from resources.environments import Environment
from resources.versions import Version

SHARED = ("lake",)  # nothing here is attacked, and promotion does not read it
LINKED = ("artifacts",)  # an attempt may replace a file here, but never changes one in place


@dataclass(frozen=True)
class Outcome:
    """What came of an attempt.

    Parameters
    ----------
    moved : bool
        Another bundle than before may serve.
    recorded : bool
        The champion's records hold the refusal.
    by : str
        What refused, in the words of its rule.
    """

    moved: bool
    recorded: bool
    by: str


@dataclass(frozen=True)
class Stand:
    """A judged home of one study: an earlier champion serves, and the candidate would be promoted as it lies.

    Parameters
    ----------
    home : Path
    earlier, candidate : str
        Hashes of both bundles.
    """

    home: Path
    earlier: str
    candidate: str

    def copy(self, target: Path) -> Environment:
        """The home once more; `target` is replaced."""
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for path in (each for each in self.home.iterdir() if each.name != "scratch"):
            if path.name in SHARED:
                (target / path.name).symlink_to(path, target_is_directory=True)
            elif path.is_dir():
                copy = os.link if path.name in LINKED else shutil.copy2
                shutil.copytree(path, target / path.name, copy_function=copy)
            else:
                shutil.copy2(path, target / path.name)
        return Environment(target)


def build_stand(study: Study, home: Path, wanted: HomePlan) -> Stand:
    """A judged home in which another bundle was promoted before, by the stage itself."""
    environment = judged_home(study, home, wanted).environment
    candidate = chosen(environment)
    earlier = _packed_again(environment, {"title": f"{study.title}, earlier"})
    present = environment.artifacts.current(study.name, "candidate")[""]
    rewrite(environment, "candidate", files={BUNDLE_FILE: lambda data: data.replace(
        candidate.encode(), earlier.encode())}, tables={"verdicts": lambda t: t.with_columns(
            evaluation_hash=pl.lit(earlier))})  # fmt: skip
    attempt(environment)
    rewrite(environment, "candidate", files={BUNDLE_FILE: lambda data: data.replace(
        earlier.encode(), candidate.encode())}, tables={"verdicts": lambda t: t.with_columns(
            evaluation_hash=pl.lit(candidate))})  # fmt: skip
    assert environment.artifacts.current(study.name, "candidate")[""].hash == present.hash
    serving = environment.champions(study.name).current()
    assert serving is not None
    assert serving["bundle"] == earlier
    return Stand(home, earlier, candidate)


def _packed_again(environment: Environment, changes: Mapping[str, Any]) -> str:
    """The candidate's bundle with another study.json: consistent in itself, and judged by nobody."""
    name = environment.study.name
    bundle = load_bundle(environment.bundles(name), chosen(environment))
    files = {**bundle.files, STUDY: canonical_json({**bundle.study, **changes}).encode()}
    return write_bundle(environment.bundles(name), files, given(bundle)).hash


def given(bundle: Bundle) -> dict[str, Any]:
    """What was handed to `write_bundle`."""
    return {name: value for name, value in bundle.manifest.items() if name not in ("files", "runtime", "format")}


def chosen(environment: Environment) -> str:
    """The bundle that the candidate stage names."""
    return str(json.loads(environment.artifacts.file(environment.study.name, "candidate", BUNDLE_FILE))["bundle"])


def bundle_folder(environment: Environment) -> Path:
    """Where the candidate's bundle lies."""
    return environment.bundles(environment.study.name) / chosen(environment)


def overwrite(path: Path, data: bytes) -> None:
    """Other bytes under the same name, in this copy alone."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def rewrite(
    environment: Environment,
    stage: str,
    *,
    tables: Mapping[str, Callable[[pl.DataFrame], pl.DataFrame]] | None = None,
    files: Mapping[str, Callable[[bytes], bytes]] | None = None,
    metadata: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    partition: str = "",
) -> Version:
    """Store a newer version of a stage's result, as a stage would, with parts of it changed."""
    artifacts, name = environment.artifacts, environment.study.name
    version = artifacts.current(name, stage)[partition]
    keys = stage_keys(environment, stage)
    held = {t: artifacts.table(name, stage, t, partitions=[partition]) for t in version.tables}
    data = {f: artifacts.file(name, stage, f, partition=partition) for f in version.files}
    changed = {t: (tables or {}).get(t, _same)(frame) for t, frame in held.items()}
    written = {f: (files or {}).get(f, _same)(content) for f, content in data.items()}
    doubled = any(k in changed and changed[k].select(key).is_duplicated().any() for k, key in keys.items())
    return artifacts.write(name, stage, partition, changed, written, keys={} if doubled else keys,
                           lineage=dict(version.lineage), metadata=metadata(dict(version.metadata)))  # fmt: skip


def stage_keys(environment: Environment, stage: str) -> dict[str, tuple[str, ...]]:
    """Keys of the tables that attacks rewrite."""
    row = environment.study.row_key
    return {
        "scorecard": {"verdicts": ("gate",)},
        "candidate": {"verdicts": ("gate",), "certificate": ("split",)},
        "predictions": {"predictions": ("split", *row)},
        "features": {"features": row, "paths": row},
    }.get(stage, {})


def _same(value: Any) -> Any:
    return value


def attempt(environment: Environment) -> Outcome:
    """Materialise the champion by hand: the stage itself, as the runner runs it."""
    champions = environment.champions(environment.study.name)
    before, rows = _serving(environment), _length(environment)
    try:
        run_partition(environment, stage_named("champion"), environment.study, "", {}, lambda text, done: None)
    except FoldgateError as refused:
        by = observed(refused)
    except Exception as crash:  # no promotion either, but nothing that names a rule
        by = f"crash: {type(crash).__name__}"
    else:
        return Outcome(_serving(environment) != before, False, "nothing")
    grown = _length(environment) > rows and champions.history()[-1]["kind"] == "refused"
    return Outcome(_serving(environment) != before, grown, by)


def serve(environment: Environment, workdir: Path) -> Outcome:
    """Ask for the bundle that may serve, as inference does."""
    workdir.mkdir(exist_ok=True)
    try:
        served = champion_bundle(reader_of(environment, "inference", workdir)).hash
    except FoldgateError as refused:
        return Outcome(False, False, observed(refused))
    return Outcome(True, False, f"nothing: {served[:8]} serves")


def _serving(environment: Environment) -> str:
    """What the pointer names; a broken chain serves nothing."""
    try:
        body = environment.champions(environment.study.name).current()
    except FoldgateError:
        return ""
    return body["bundle"] if body else ""


def _length(environment: Environment) -> int:
    return len(list((environment.home / "champions" / environment.study.name).glob("0*.json")))


def observed(refused: FoldgateError) -> str:
    """What refused: the first reason of a refusal, without names, hashes and numbers."""
    said = str(refused.observed) if isinstance(refused, PromotionRefused) and refused.observed else ""
    first = said.split("; ")[0] if said else f"{type(refused).__name__}: {refused.rule}"
    for pattern, words in _REASONS:
        if re.search(pattern, first):
            return words
    return re.sub(r": observed.*| \([^)]*\)|[0-9a-f]{12,}.*", "", first)


_REASONS = (
    (r"^\w+: fail", "a verdict is red"),
    (r"^\w+: missing, no (evaluation|candidate) was judged", "verdicts are missing"),
    (r"^\w+: missing", "a verdict is missing"),
    (r"^\w+: not_applicable", "a verdict is not applicable"),
    (r"^\w+: judged twice", "a verdict stands twice"),
    (r"^\w+: judged another hash", "a verdict judged another hash"),
    (r"^\w+: judged against the bound", "a verdict judged another bound"),
    (r"^stale: .* was rewritten", "a pinned session was rewritten"),
    (r"^stale: .* older than", "verdicts are too old"),
    (r"^stale: .* in the future", "verdicts are dated in the future"),
    (r"^stale: the ledger has grown", "the ledger has grown since"),
    (r"another evaluation", "refitted under another evaluation"),
    (r"^\w+: green,", "a verdict has no known status"),
    (r"names no gate", "the study names no gate for it"),
    (r"^there is none", "there is no candidate"),
    (r"BadInput: a bundle is loaded", "the bundle is not there"),
    (r"Tampered: every file of a bundle", "a file of the bundle is not what its manifest records"),
    (r"Tampered: files/", "a stored result is not what its name says"),
    (r"Tampered: (every row|a row of a chain|rows of a chain)", "a chain's row was edited or is gone"),
    (r"Tampered: a chain holds every head", "a head anchored elsewhere is gone"),
    (r"Tampered: the pointer names", "the stage never promoted what the pointer names"),
)
