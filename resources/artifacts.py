"""Stage results: tables and small files of a (study, stage, partition), versioned by content, never changed.

Vendor rows live in `lake.py`; what a commit is, in `commits.py`.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.clock import Clock
from pipeline.errors import BadInput, KeyViolation, LakeConflict, MissingTable, SchemaError
from pipeline.fingerprints import canonical_json, hash_bytes, hash_frame, hash_json, session_hashes
from pipeline.frames import canonical
from resources.commits import CHECKPOINT_EVERY, CommitLog
from resources.versions import FORMAT, StoredTable, Version, Versions

SESSION = "session"
# A lost race is another writer's progress, so this many in a row means something else is wrong.
ATTEMPTS = 64


class Artifacts:
    """Stage results under one folder.

    Parameters
    ----------
    root : Path
        Made at the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._commits = CommitLog(self.root)
        self._lock = threading.Lock()
        self._versions = Versions()

    def write(
        self, study: str, stage: str, partition: str, tables: Mapping[str, pl.DataFrame],
        files: Mapping[str, bytes], *, keys: Mapping[str, Sequence[str]] | None = None,
        lineage: Mapping[str, object], metadata: Mapping[str, object] | None = None,
    ) -> Version:
        """Keep a result and make it the current one of its partition.

        Parameters
        ----------
        tables : mapping
            Name -> frame; stored in canonical form.
        files : mapping
            Name -> bytes.
        keys : mapping
            Table -> key columns; its rows are stored in that order and must be unique by it. Without a key
            the given row order is content.
        lineage, metadata : mapping
            JSON values; a number that is not finite is kept as null.

        Raises
        ------
        KeyViolation
            A null or doubled key; nothing is written.
        """
        _require_names(study, stage)
        keys = keys or {}
        frames = {name: canonical(frame, keys.get(name, ())) for name, frame in tables.items()}
        for name in keys.keys() & frames.keys():
            _require_key(frames[name], keys[name], f"{stage}.{name}")
        content = {name: _content(frame, keys.get(name, ())) for name, frame in frames.items()}
        digests = {name: hash_bytes(data) for name, data in files.items()}
        tabled = {name: whole for name, (whole, _) in content.items()}
        draft = Version(study, stage, partition, hash_json({"tables": tabled, "files": digests}), {}, digests,
                        _plain(lineage), _plain(metadata or {}), 0)
        for _ in range(ATTEMPTS):
            held = self._fold()
            known = held.of(study, stage, partition)
            newest = known[[*known][-1]] if known else None
            if newest and replace(draft, tables=newest.tables, sequence=newest.sequence) == newest:
                return newest
            stored = {name: self._place(draft, known, frames[name], *content[name]) for name in frames}
            self._place_files(draft, files)
            version = replace(draft, tables=stored, sequence=held.number + 1)
            if self._commit(version.sequence, {"version": asdict(version)}):
                return version
        raise _lost("write")

    def current(self, study: str, stage: str) -> dict[str, Version]:
        """The newest version of each partition, in partition order; empty for a stage that never ran."""
        held = self._fold().held.get((study, stage), {})
        return {partition: [*held[partition].values()][-1] for partition in sorted(held)}

    def version(self, study: str, stage: str, partition: str, hash: str) -> Version:
        """Any version by its hash."""
        held = self._fold().of(study, stage, partition)
        if hash not in held:
            raise MissingTable(f"{study}/{stage}/{partition or '(whole)'} must hold version {hash[:16]}",
                               [known[:16] for known in held],
                               "it was pruned or never made; run the stage again")
        return held[hash]

    def table(
        self, study: str, stage: str, name: str, *, partitions: Sequence[str] | None = None,
        pinned: Mapping[str, str] | None = None, columns: Sequence[str] | None = None, verify: bool = False,
    ) -> pl.DataFrame:
        """A table of a stage, its partitions one after the other in the order of their names.

        Parameters
        ----------
        partitions : sequence of str, optional
            By default those pinned, else all.
        pinned : mapping, optional
            Partition -> version hash; the newest version where a partition is not named.
        columns : sequence of str, optional
            Columns to read.
        verify : bool
            Hash the files first and refuse, as `Tampered`, bytes other than those recorded.
        """
        versions = self._chosen(study, stage, partitions, pinned)
        lacking = [version.partition for version in versions if name not in version.tables]
        if lacking or not versions:
            raise MissingTable(f"stage {stage} of {study} must hold the table {name}",
                               f"not in partitions {lacking}" if lacking else "no partition",
                               "run the stage first")
        files = [version.tables[name]["file"] for version in versions]
        if verify:
            for file in files:
                self._commits.verify(file)
        try:
            return pl.read_parquet([self.root / file for file in files], glob=False, hive_partitioning=False,
                                   columns=list(columns) if columns is not None else None)
        except (pl.exceptions.SchemaError, pl.exceptions.ColumnNotFoundError) as error:
            raise SchemaError(f"all partitions of {stage}.{name} must have the same columns, as asked for",
                              str(error).splitlines()[0], "run the stage again for all partitions") from None

    def file(
        self, study: str, stage: str, name: str, *, partition: str = "", pinned: str | None = None,
        verify: bool = True,
    ) -> bytes:
        """A small file of a stage; refused, as `Tampered`, when its bytes are not those recorded."""
        version, = self._chosen(study, stage, [partition], {partition: pinned} if pinned else None)
        if name not in version.files:
            raise MissingTable(f"stage {stage} of {study} must hold the file {name}", sorted(version.files),
                               "run the stage first")
        place = _file_path(version, name)
        if verify:
            self._commits.verify(place)
        return (self.root / place).read_bytes()

    def verify(self, version: Version) -> None:
        """Refuse, as `Tampered`, a version of which a file's bytes are not those recorded."""
        for file in _places(version):
            self._commits.verify(file)

    def prune(
        self, keep: set[str], older_than: timedelta = timedelta(0), clock: Clock | None = None
    ) -> list[str]:
        """Forget versions that are neither current nor in `keep`, and delete the files that only they had.

        Parameters
        ----------
        keep : set of str
            Version hashes that champions, pins and records reach.

        Returns
        -------
        list of str
            Files deleted, relative to the root.
        """
        for _ in range(ATTEMPTS):
            held = self._fold()
            gone = [[*stage, partition, digest] for stage, partitions in held.held.items()
                    for partition, versions in partitions.items()
                    for digest in list(versions)[:-1] if digest not in keep]
            if not gone or self._commit(held.number + 1, {"pruned": sorted(gone)}):
                return self.sweep(older_than, clock)
        raise _lost("prune")

    def sweep(self, older_than: timedelta = timedelta(hours=1), clock: Clock | None = None) -> list[str]:
        """Delete files that no version has: leftovers of writers that died, and of pruned versions."""
        def referenced() -> set[str]:
            return {file for version in self.versions() for file in _places(version)}

        return self._commits.sweep(referenced, older_than, clock)

    def versions(self) -> list[Version]:
        """Every version held, of every study and stage."""
        return self._fold().all()

    def _chosen(
        self, study: str, stage: str, partitions: Sequence[str] | None, pinned: Mapping[str, str] | None
    ) -> list[Version]:
        pinned = pinned or {}
        current = self.current(study, stage)
        if partitions is None:
            partitions = list(pinned or current)
        lacking = sorted(set(partitions) - set(current))
        if lacking:
            raise MissingTable(f"stage {stage} of {study} must hold the partitions {sorted(partitions)}",
                               f"missing {lacking}", "run the stage for them first")
        return [self.version(study, stage, part, pinned[part]) if part in pinned else current[part]
                for part in sorted(set(partitions))]

    def _place(
        self, draft: Version, known: Mapping[str, Version], frame: pl.DataFrame, digest: str,
        sessions: dict[str, str],
    ) -> StoredTable:
        """Where a table lies: where an older version put the same content, or in a new file."""
        for version in known.values():
            for held in version.tables.values():
                if held["hash"] == digest and (self.root / held["file"]).exists():
                    return held
        file, _ = self._commits.store(_folder(draft), ".parquet", frame.write_parquet)
        return {"file": file, "hash": digest, "rows": frame.height, "sessions": sessions}

    def _place_files(self, draft: Version, files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            self._commits.store(_folder(draft), Path(name).suffix, partial(_write_bytes, data))

    def _commit(self, number: int, entry: Mapping[str, object]) -> bool:
        """Whether the commit was won."""
        try:
            self._commits.commit(number, {"format": FORMAT, **entry})
        except LakeConflict:
            return False
        self._checkpoint(number)
        return True

    def _fold(self) -> Versions:
        """The versions at the head of the log."""
        with self._lock:
            head, held = self._commits.head(), self._versions
            kept = self._commits.load_checkpoint(head) if head - held.number > CHECKPOINT_EVERY else None
            if kept is not None and kept[0] > held.number:
                held = Versions.from_state(kept[1])
            self._versions = held.after(self._commits.entries(held.number, head))
            return self._versions

    def _checkpoint(self, number: int) -> None:
        if number % CHECKPOINT_EVERY == 0 and self._fold().number == number:
            self._commits.save_checkpoint(number, self._fold().state())


def _require_names(study: str, stage: str) -> None:
    """Names become folders."""
    for name in (study, stage):
        if not name or any(c in name for c in "/\\\0") or name.startswith("."):
            raise BadInput("study and stage names must be plain folder names", name, "use letters and digits")


def _require_key(frame: pl.DataFrame, key: Sequence[str], what: str) -> None:
    """A null or doubled key in a frame that is in key order."""
    columns = [pl.col(name) for name in key]
    empty = pl.any_horizontal(column.is_null() for column in columns)
    again = pl.all_horizontal(column == column.shift() for column in columns).fill_null(False)
    wrong = frame.filter(empty | again)
    if not wrong.is_empty():
        raise KeyViolation(f"{what}: the key {list(key)} must be unique and not null",
                           wrong.select(key).row(0), "keep one row per key")


def _content(frame: pl.DataFrame, key: Sequence[str]) -> tuple[str, dict[str, str]]:
    """A table's hash and its session hashes; where both would say the same, the bytes are hashed once."""
    if frame.schema.get(SESSION) != pl.Date or frame[SESSION].null_count():
        return hash_frame(frame), {}
    sessions = session_hashes(frame, key)
    schema = [[name, str(dtype)] for name, dtype in frame.schema.items()]
    # A key fixes the order of all rows, so the sessions say it all; without one the order is content.
    return (hash_json([schema, list(key), sessions]) if key else hash_frame(frame)), sessions


def _plain(values: Mapping[str, object]) -> dict[str, Any]:
    """As it will be read back from JSON."""
    return dict(json.loads(canonical_json(_finite(values))))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_bytes(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def _lost(what: str) -> LakeConflict:
    return LakeConflict(f"a {what} must win within its attempts", ATTEMPTS,
                        "look for a writer that runs in a loop")


def _folder(version: Version) -> str:
    return f"{version.study}/{version.stage}"


def _file_path(version: Version, name: str) -> str:
    return f"files/{_folder(version)}/{version.files[name]}{Path(name).suffix}"


def _places(version: Version) -> list[str]:
    return [*(held["file"] for held in version.tables.values()),
            *(_file_path(version, name) for name in version.files)]
