"""What the artifact store holds, folded from its commit log: the versions of every stage's results.

Values only; bytes are read and written in `artifacts.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypedDict

from pipeline.errors import BadInput

FORMAT = 1


class StoredTable(TypedDict):
    """Where a table's bytes lie, and its content hashes: the whole, and each session where it has any."""

    file: str
    hash: str
    rows: int
    sessions: dict[str, str]


@dataclass(frozen=True)
class Version:
    """One result of a stage for one partition.

    Parameters
    ----------
    hash : str
        Of the contents of all tables and files; equal contents have equal hashes, whoever made them and when.
    tables : mapping
        Name -> `StoredTable`.
    files : mapping
        Name -> sha256 of its bytes.
    lineage, metadata : mapping
        As given by the writer; no part of the hash.
    sequence : int
        The commit that recorded it; larger is newer.
    """

    study: str
    stage: str
    partition: str
    hash: str
    tables: Mapping[str, StoredTable]
    files: Mapping[str, str]
    lineage: Mapping[str, Any]
    metadata: Mapping[str, Any]
    sequence: int


@dataclass(frozen=True)
class Versions:
    """All versions at one commit.

    Parameters
    ----------
    held : mapping
        (study, stage) -> partition -> hash -> version; the newest version of a partition comes last.
    """

    number: int = 0
    held: Mapping[tuple[str, str], Mapping[str, Mapping[str, Version]]] = field(default_factory=dict)

    def of(self, study: str, stage: str, partition: str) -> Mapping[str, Version]:
        """The versions of one partition, oldest first."""
        return self.held.get((study, stage), {}).get(partition, {})

    def all(self) -> list[Version]:
        """Every version, oldest commit first."""
        found = [version for partitions in self.held.values() for versions in partitions.values()
                 for version in versions.values()]
        return sorted(found, key=lambda version: version.sequence)

    def after(self, entries: Iterable[tuple[int, dict[str, Any]]]) -> Versions:
        """The versions once more entries are folded in; what was handed out before does not change."""
        newest, held = self.number, dict(self.held)
        for number, entry in entries:
            newest = number
            if entry.get("format") != FORMAT:
                raise BadInput(f"this library reads artifact entries of format {FORMAT}", entry.get("format"),
                               "open the store with the release that wrote it")
            if "version" in entry:
                _add(held, Version(**entry["version"]))
            for study, stage, partition, digest in entry.get("pruned", ()):
                kept = {h: v for h, v in held[study, stage][partition].items() if h != digest}
                held[study, stage] = {**held[study, stage], partition: kept}
        return Versions(newest, held)

    def state(self) -> dict[str, Any]:
        """As JSON, for a checkpoint."""
        return {"number": self.number, "versions": [asdict(version) for version in self.all()]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Versions:
        """From a checkpoint."""
        held: dict[tuple[str, str], Mapping[str, Mapping[str, Version]]] = {}
        for version in state["versions"]:
            _add(held, Version(**version))
        return cls(state["number"], held)


def _add(held: dict[tuple[str, str], Mapping[str, Mapping[str, Version]]], version: Version) -> None:
    stage = version.study, version.stage
    partitions = held.get(stage, {})
    others = {digest: kept for digest, kept in partitions.get(version.partition, {}).items()
              if digest != version.hash}
    held[stage] = {**partitions, version.partition: {**others, version.hash: version}}
