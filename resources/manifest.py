"""What the lake holds, folded from its commit log: files, session hashes, and what was fetched completely.

Values only; bytes are read and written in `lake.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

from pipeline.errors import BadInput, MissingTable
from pipeline.fingerprints import hash_json

# The one "session" of a snapshot table, and the one scope of a table that is fetched for all codes at once.
WHOLE = ""
FORMAT = 1


@dataclass(frozen=True)
class LakeFile:
    """One immutable Parquet file; ranges are inclusive and let readers skip it.

    Parameters
    ----------
    file : str
        Path relative to the lake's root.
    month : str
        `YYYY-MM` of its rows' events; empty for snapshots.
    first, last : str
        ISO days of the first and last event; empty for snapshots and for files without rows.
    known_from, known_until : int
        Smallest and largest `known_at`, in microseconds since the epoch.
    """

    file: str
    rows: int
    month: str
    first: str
    last: str
    known_from: int
    known_until: int


@dataclass(frozen=True)
class Coverage:
    """Days fetched completely for a set of codes (none named: for the whole table), and when last."""

    codes: tuple[str, ...] = ()
    complete: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TableManifest:
    """One vendor table at one commit.

    Parameters
    ----------
    sessions : mapping
        ISO day -> content hash of that day's rows, all versions; a snapshot has the one day "".
    coverage : mapping
        Scope -> what was fetched completely for it; the scope "" covers every code.
    changed : int
        The commit that last touched the table.
    """

    vendor: str
    name: str
    layout: str
    event: str | None
    key: tuple[str, ...]
    files: tuple[LakeFile, ...]
    sessions: Mapping[str, str]
    coverage: Mapping[str, Coverage]
    rows: int
    changed: int

    @property
    def complete(self) -> dict[str, str]:
        """ISO day -> when it was last fetched completely, for any set of codes."""
        latest: dict[str, str] = {}
        for scope in self.coverage.values():
            for day, at in scope.complete.items():
                latest[day] = max(at, latest.get(day, at))
        return latest

    @property
    def first_session(self) -> str:
        return min(self.sessions, default="")

    @property
    def last_session(self) -> str:
        return max(self.sessions, default="")

    @property
    def hash(self) -> str:
        """Content hash of the table: its sessions, never the files or times of its making."""
        return hash_json(dict(self.sessions))

    def missing(self, days: Iterable[date], codes: Collection[str]) -> list[date]:
        """Days not yet fetched completely for all `codes` (none named: for any set of them)."""
        if not codes:
            done = self.complete
            return [day for day in days if day.isoformat() not in done]
        wanted = set(codes)
        scopes = [(wanted if name == WHOLE else wanted & set(scope.codes), scope.complete)
                  for name, scope in self.coverage.items()]
        return [
            day for day in days
            if set().union(*(held for held, complete in scopes if day.isoformat() in complete)) != wanted
        ]


@dataclass(frozen=True)
class Manifest:
    """The lake at one commit."""

    number: int = 0
    tables: Mapping[str, TableManifest] = field(default_factory=dict)

    def table(self, name: str) -> TableManifest:
        """The manifest of a table that the lake holds."""
        if name not in self.tables:
            raise MissingTable(f"the lake must hold the table {name}", sorted(self.tables), "ingest it first")
        return self.tables[name]

    def hash(self, tables: Collection[str] = ()) -> str:
        """Content hash over some tables, all of them when none is named."""
        return hash_json({name: dict(self.table(name).sessions) for name in (tables or self.tables)})

    def after(self, entries: Iterable[tuple[int, dict[str, Any]]]) -> Manifest:
        """The manifest once more entries are folded in."""
        number, tables = self.number, dict(self.tables)
        open_tables: dict[str, _Fold] = {}
        for number, entry in entries:
            if entry.get("format") != FORMAT:
                raise BadInput(f"this library reads lake entries of format {FORMAT}", entry.get("format"),
                               "open the lake with the release that wrote it")
            name = entry["table"]
            if name not in open_tables:
                open_tables[name] = _Fold(tables.get(name))
            open_tables[name].add(number, entry)
        return Manifest(number, {**tables, **{name: fold.close() for name, fold in open_tables.items()}})

    def state(self) -> dict[str, object]:
        """As JSON, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Manifest:
        """From a checkpoint."""
        tables = {}
        for name, held in state["tables"].items():
            tables[name] = TableManifest(**{
                **held,
                "key": tuple(held["key"]),
                "files": tuple(LakeFile(**kept) for kept in held["files"]),
                "coverage": {scope: Coverage(tuple(kept["codes"]), kept["complete"])
                             for scope, kept in held["coverage"].items()},
            })
        return cls(state["number"], tables)


class _Fold:
    """One table while entries are added: copied once, not once per entry."""

    def __init__(self, base: TableManifest | None) -> None:
        self.files = {kept.file: kept for kept in base.files} if base else {}
        self.sessions = dict(base.sessions) if base else {}
        self.codes = {scope: held.codes for scope, held in base.coverage.items()} if base else {}
        self.complete = {scope: dict(held.complete) for scope, held in base.coverage.items()} if base else {}

    def add(self, number: int, entry: Mapping[str, Any]) -> None:
        self.head, self.number = entry["head"], number
        for file in entry["removes"]:
            del self.files[file]
        self.files.update({added["file"]: LakeFile(**added) for added in entry["adds"]})
        self.sessions.update(entry["sessions"])
        fetched = entry["complete"]
        if fetched is not None:
            scope = fetched["scope"]
            self.codes.setdefault(scope, tuple(fetched["codes"]))
            self.complete.setdefault(scope, {}).update(dict.fromkeys(fetched["days"], fetched["at"]))

    def close(self) -> TableManifest:
        head = self.head
        return TableManifest(
            head["vendor"], head["name"], head["layout"], head["event"], tuple(head["key"]),
            tuple(self.files.values()), self.sessions,
            {scope: Coverage(self.codes[scope], days) for scope, days in self.complete.items()},
            sum(kept.rows for kept in self.files.values()), self.number,
        )
