"""What a home holds, as hashes by name: two homes with equal contents lost nothing and doubled nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from pipeline.fingerprints import hash_file, hash_frame, hash_json
from pipeline.serving.bundle import load_bundle
from resources.environments import Environment

# When and by which request a row was fetched is not content; a resumed ingestion asks for less than a whole one.
NOT_CONTENT = ("ingested_at", "request")
HASH_CHARACTERS = 16


def contents(environment: Environment) -> dict[str, str]:
    """Name -> hash or count, of every store; all bytes are verified against their recorded hashes on the way.

    Raises
    ------
    Tampered
        A file is not what was recorded, or a chain has an edited or missing row.
    """
    named = (_lake, _results, _chains, _bundles, _records)
    return {name: value for part in named for name, value in part(environment)}


def sweep(environment: Environment) -> int:
    """Delete what no commit reaches; how many files that were."""
    return len(environment.lake.sweep(timedelta(0))) + len(environment.artifacts.sweep(timedelta(0)))


def _lake(environment: Environment) -> Iterator[tuple[str, str]]:
    lake = environment.lake
    lake.verify()
    for name, table in lake.manifest().tables.items():
        rows = lake.scan(name)
        distinct = rows.select(*table.key, "known_at").n_unique()
        yield f"lake/{name}/rows", f"{len(rows)}, of these {len(rows) - distinct} doubled"
        yield f"lake/{name}/versions", hash_frame(rows.drop(NOT_CONTENT))[:HASH_CHARACTERS]
        yield f"lake/{name}/sessions", table.hash[:HASH_CHARACTERS]
        fetched = {scope: sorted(held.complete) for scope, held in table.coverage.items()}
        yield f"lake/{name}/fetched", hash_json(fetched)[:HASH_CHARACTERS]


def _results(environment: Environment) -> Iterator[tuple[str, str]]:
    """Every version of every partition, oldest first: a run that was repeated must not add one."""
    held = defaultdict(list)
    for version in sorted(environment.artifacts.versions(), key=lambda version: version.sequence):
        environment.artifacts.verify(version)
        held[version.stage, version.partition].append(version.hash[:HASH_CHARACTERS])
    for (stage, partition), hashes in held.items():
        yield f"results/{stage}/{partition}".rstrip("/"), " ".join(hashes)


def _chains(environment: Environment) -> Iterator[tuple[str, str]]:
    study = environment.study.name
    ledger, champions = environment.ledger(study), environment.champions(study).chain
    rows = ledger.rows()
    yield "ledger/rows", f"{len(rows)}, of these {len(rows) - rows['identity'].n_unique()} doubled"
    yield "ledger/head", ledger.head()[:HASH_CHARACTERS]
    yield "champions/rows", str(len(champions.rows()))
    yield "champions/head", champions.head()[:HASH_CHARACTERS]


def _bundles(environment: Environment) -> Iterator[tuple[str, str]]:
    root = environment.bundles(environment.study.name)
    for folder in sorted(root.glob("[!.]*")):
        load_bundle(root, folder.name)
    yield from _files(root, "bundles")


def _records(environment: Environment) -> Iterator[tuple[str, str]]:
    yield from _files(environment.records(environment.study.name), "records")


def _files(root: Path, name: str) -> Iterator[tuple[str, str]]:
    """Files and their hashes; what a killed writer left unfinished begins with a dot and is read by nobody."""
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if path.is_file() and not any(part.startswith(".") for part in inside.parts):
            yield f"{name}/{inside.as_posix()}", hash_file(path)[:HASH_CHARACTERS]
