"""What a stage is: a pure function from what it reads to frames, files, trials and figures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import reduce
from pathlib import Path
from typing import Any, Literal, Protocol

import polars as pl

from pipeline.calendars import Calendar
from pipeline.errors import BadInput
from pipeline.fingerprints import hash_json, hash_sources, with_imports
from pipeline.gates.ledger import Ledger, Trial
from pipeline.gates.promotion import Champions
from pipeline.study import Study

Figures = Mapping[str, Callable[[], bytes]]
PartitionKind = Literal["month", "whole", "split", "split_member", "session"]


@dataclass(frozen=True)
class StageResult:
    """What a stage hands to the runner, which alone writes.

    Parameters
    ----------
    tables, keys : mapping
        Name -> frame, and name -> its key columns.
    files : mapping
        Name -> bytes (models, JSON).
    trials : sequence of Trial
        Configurations that were scored on rows a gate reads.
    metadata : mapping
        Plain values for people.
    figures : mapping
        Title -> what draws its PNG; drawn for the last partition of a run only, a picture costs 0.1 s.
    """

    tables: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    keys: Mapping[str, Sequence[str]] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    trials: Sequence[Trial] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    figures: Figures = field(default_factory=dict)


@dataclass(frozen=True)
class Stores:
    """The append-only places of one study, beside its tables.

    Parameters
    ----------
    promoted : callable
        () -> bundles that a stored result of the champion stage names.
    """

    ledger: Ledger
    champions: Champions
    bundles: Path
    records: Path
    promoted: Callable[[], Collection[str]] = tuple


class Reader(Protocol):
    """Everything a stage may read. Each read is noted as lineage."""

    calendar: Calendar
    workdir: Path
    stores: Stores
    now: datetime
    first_session: date
    lineage: Mapping[str, str]

    def raw(
        self,
        table: str,
        *,
        start: date | None = None,
        end: date | None = None,
        known_after: datetime | None = None,
        known_until: datetime | None = None,
    ) -> pl.DataFrame | None:
        """All versions of a vendor table's rows; None when the source lacks the table."""
        ...

    def table(
        self,
        stage: str,
        name: str,
        *,
        partitions: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """A stage's table, its partitions concatenated; through the pin where the stage is pinned."""
        ...

    def file(self, stage: str, name: str, partition: str = "") -> bytes: ...

    def files(self, stage: str, partition: str = "") -> dict[str, str]:
        """Name -> sha256 of a partition's files, as its run recorded them."""
        ...

    def versions(self, stage: str) -> dict[str, str]:
        """Partition -> content hash, in partition order."""
        ...

    def metadata(self, stage: str) -> dict[str, Any]:
        """What the current version of an unpartitioned stage said of itself."""
        ...

    def rewritten(self, stage: str, partition: str, pinned: str) -> bool:
        """Whether sessions that a pinned version holds have other content now; newer sessions do not count."""
        ...

    def incomplete(self, session: date) -> list[str]:
        """Tables of the session that are not fetched completely."""
        ...

    def once(self, name: str, build: Callable[[], Any]) -> Any:
        """A value shared by the partitions of one run, because every one of them would rebuild it."""
        ...

    def folder(self, name: str, stages: Sequence[str], identity: object, build: Callable[[Path], None]) -> Path:
        """A scratch folder that `build` fills once for every partition and process: named by the versions of the
        stages it reads, by `identity` and by the code of the library that makes it."""
        ...

    def progress(self, text: str, done: float) -> None: ...


@dataclass(frozen=True)
class Stage:
    """One step of every study.

    Parameters
    ----------
    run : callable
        (study, reader, partition) -> StageResult.
    parts : tuple of str
        Fields of the study that it reads, dotted where it reads a part; only they enter its code version.
    modules : tuple of str
        Library modules it runs; only they enter its code version, with the module of `run` and what it imports from
        this package.
    resumes : bool
        A partition whose inputs and code did not change is not computed again.
    parallel : bool
        Partitions are long and independent: a range of them may run in several processes.
    verifies : bool
        Tables are hashed before they are read; bytes other than those recorded are refused.
    """

    name: str
    partition: PartitionKind
    reads: tuple[str, ...]
    run: Callable[[Study, Reader, str], StageResult]
    parts: tuple[str, ...]
    modules: tuple[str, ...]
    pinned: bool = False
    resumes: bool = False
    parallel: bool = False
    verifies: bool = False
    summary: str = ""

    def code_version(self, study: Study) -> str:
        """Hash of the study's parts and of the sources that this stage reads; nothing else retrains it."""
        values = study.model_dump(mode="json")
        read = {part: reduce(_field, part.split("."), values) for part in self.parts}
        return hash_json([read, hash_sources(self.code)])[:16]

    @property
    def code(self) -> set[str]:
        """Modules and packages whose sources enter the code version."""
        named = (*self.modules, self.run.__module__)
        return {each for name in named for each in with_imports(name, __package__)} - {__name__}


def _field(node: Mapping[str, Any], name: str) -> Any:
    """A field of a part; None where the part is of a kind that has no such field."""
    return node.get(name)


def months(sessions: Sequence[date]) -> list[str]:
    """Month partitions (`2026-09`) that hold the sessions, ascending."""
    return sorted({f"{day:%Y-%m}" for day in sessions})


def sessions_of(calendar: Calendar, month: str) -> list[date]:
    """Open sessions of a month partition."""
    return [day for day in calendar.sessions if f"{day:%Y-%m}" == month]


def decided_sessions(study: Study, read: Reader, month: str) -> list[date]:
    """Open sessions of a month whose decisions have been taken.

    Raises
    ------
    BadInput
        None has been taken yet.
    """
    wanted = [
        day
        for day in sessions_of(read.calendar, month)
        if study.market.decided_at(day) <= read.now and day >= read.first_session
    ]
    if not wanted:
        raise BadInput(
            "a month of the panel holds a decision that has been taken", month, "wait until its first decision time"
        )
    return wanted
