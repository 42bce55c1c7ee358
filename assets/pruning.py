"""`foldgate prune`: forget superseded stage results that nothing reaches any more."""

from __future__ import annotations

import json

from pipeline.serving.bundle import load_bundle
from pipeline.stages.pinned import PIN_FILE
from resources.environments import Environment
from resources.versions import Version


def prune(environment: Environment) -> list[str]:
    """Delete what champions, pins and records do not reach; the files deleted, relative to the store.

    Raw tables are never pruned: every revision stays.
    """
    return environment.artifacts.prune(reachable(environment))


def reachable(environment: Environment) -> set[str]:
    """Hashes of every version that is current, pinned now or by a bundle that ever served, or read by one of those."""
    name, artifacts = environment.study.name, environment.artifacts
    held = {(v.stage, v.partition, v.hash): v for v in artifacts.versions() if v.study == name}
    waiting = [*_pinned(environment), *((v.stage, v.partition, v.hash) for v in _current(environment))]
    found: set[tuple[str, str, str]] = set()
    while waiting:
        place = waiting.pop()
        if place in found or place not in held:
            continue
        found.add(place)
        read = held[place].lineage.get("read", {})
        assert isinstance(read, dict)
        waiting += [(*_place(where), digest) for where, digest in read.items()]
    # Of each promotion its own result, which serving asks for; what it read is kept by the pins alone.
    others = {v.hash for v in artifacts.versions() if v.study != name or v.stage == "champion"}
    return {digest for _, _, digest in found} | others


def _place(where: str) -> tuple[str, str]:
    """`panel/2026-09` -> (panel, 2026-09); a whole has no partition."""
    stage, _, partition = where.partition("/")
    return stage, partition


def _current(environment: Environment) -> list[Version]:
    name, artifacts = environment.study.name, environment.artifacts
    stages = {v.stage for v in artifacts.versions() if v.study == name}
    return [version for stage in stages for version in artifacts.current(name, stage).values()]


def _pinned(environment: Environment) -> list[tuple[str, str, str]]:
    """What the folds pin now, and what every champion's bundle was made from."""
    name, artifacts = environment.study.name, environment.artifacts
    pins = []
    if artifacts.current(name, "folds"):
        pins.append(json.loads(artifacts.file(name, "folds", PIN_FILE)))
    for record in environment.champions(name).history():
        if record["kind"] != "refused":
            pins.append(load_bundle(environment.bundles(name), record["bundle"]).manifest["lineage"]["pin"])
    return [
        (stage, partition, digest)
        for pin in pins
        for stage, partitions in pin["stages"].items()
        for partition, digest in partitions.items()
    ]
