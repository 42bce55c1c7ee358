"""Stages run in memory on vendor rows that may have been changed: what the laws of whole chains are tried on.

Nothing is stored but scratch files in a folder handed in. What the laws demand is `laws.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.calendars import Calendar
from pipeline.errors import MissingTable
from pipeline.fingerprints import hash_bytes, hash_json
from pipeline.gates.ledger import Ledger
from pipeline.gates.promotion import Champions
from pipeline.stages.contract import StageResult, Stores, months
from pipeline.stages.registry import STAGES
from pipeline.study import Study
from pipeline.tables.spec import TableSpec

Change = Callable[[pl.DataFrame], pl.DataFrame]
Place = tuple[str, str]  # stage and table


@dataclass(frozen=True)
class Vendored:
    """Every version of the vendor's rows, and what is said of their tables.

    Parameters
    ----------
    rows : mapping
        Table -> rows with `known_at`.
    specs : mapping
        Table -> its spec.
    """

    rows: Mapping[str, pl.DataFrame]
    specs: Mapping[str, TableSpec]
    calendar: Calendar

    def changed(self, tables: Mapping[str, pl.DataFrame]) -> Vendored:
        """With the rows of some tables replaced."""
        return replace(self, rows={**self.rows, **tables})


class Rehearsal:
    """A `Reader` over vendor rows that runs the stages it is asked for, each partition once.

    Parameters
    ----------
    now : datetime
        Decisions after it have not been taken.
    workdir : Path
        An empty folder.
    """

    def __init__(self, study: Study, vendored: Vendored, *, now: datetime, first_session: date, workdir: Path) -> None:
        self.study, self.vendored, self.now, self.first_session = study, vendored, now, first_session
        self.workdir, self.calendar = workdir, vendored.calendar
        self.lineage: Mapping[str, str] = {}
        root = workdir / "stores"
        self.stores = Stores(Ledger(root / "ledger"), Champions(root / "champions"), root / "bundles", root / "records")
        self._results: dict[Place, StageResult] = {}
        self._shared: dict[str, Any] = {}
        self._changes: Mapping[Place, Change] = {}

    def varied(
        self,
        workdir: Path,
        changes: Mapping[Place, Change],
        keep: Iterable[str],
        share: Iterable[str] = (),
        study: Study | None = None,
    ) -> Rehearsal:
        """Another rehearsal whose readers see some tables changed.

        Parameters
        ----------
        keep : iterable of str
            Stages whose results it takes over.
        share : iterable of str
            Values of `once` that it takes over: those that no change touches.
        study : Study, optional
            Another study of which the kept stages would be the same.
        """
        other = Rehearsal(
            study or self.study, self.vendored, now=self.now, first_session=self.first_session, workdir=workdir
        )
        kept, shared = set(keep), set(share)
        other._results = {place: result for place, result in self._results.items() if place[0] in kept}
        other._shared = {name: value for name, value in self._shared.items() if name in shared}
        other._changes = changes
        return other

    def result(self, stage: str, partition: str = "") -> StageResult:
        """A stage's result; computed when it is first asked for."""
        place = (stage, partition)
        if place not in self._results:
            self._results[place] = STAGES[stage].run(self.study, self, partition)
        return self._results[place]

    @cached_property
    def _months(self) -> list[str]:
        days = [day for day in self.calendar.sessions if self.study.market.decided_at(day) <= self.now]
        return months([day for day in days if day >= self.first_session])

    def partitions(self, stage: str) -> list[str]:
        """Every partition that a stage has now."""
        splits = list(self.study.folds.splits)
        members = [member.name for member in self.study.members]
        kinds = {
            "month": self._months,
            "split": splits,
            "split_member": [f"{split}|{member}" for split in splits for member in members],
        }
        return kinds.get(STAGES[stage].partition, [""])

    def raw(
        self,
        table: str,
        *,
        start: date | None = None,
        end: date | None = None,
        known_after: datetime | None = None,
        known_until: datetime | None = None,
    ) -> pl.DataFrame | None:
        if table not in self.vendored.rows:
            return None
        rows, spec = self.vendored.rows[table], self.vendored.specs[table]
        wanted = []
        if spec.event is not None:
            wanted += [spec.event_day() >= start] if start else []
            wanted += [spec.event_day() <= end] if end else []
        wanted += [pl.col("known_at") > known_after] if known_after else []
        wanted += [pl.col("known_at") <= known_until] if known_until else []
        return rows.filter(*wanted) if wanted else rows

    def table(
        self,
        stage: str,
        name: str,
        *,
        partitions: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pl.DataFrame:
        held = self.partitions(stage)
        wanted = [part for part in (held if partitions is None else partitions) if part in held]
        if not wanted:
            raise MissingTable(f"{stage} has run", f"none of {partitions}", "ask for partitions that it has")
        frame = pl.concat(self.result(stage, part).tables[name] for part in wanted)
        change = self._changes.get((stage, name))
        frame = change(frame) if change else frame
        return frame.select(columns) if columns else frame

    def file(self, stage: str, name: str, partition: str = "") -> bytes:
        return self.result(stage, partition).files[name]

    def files(self, stage: str, partition: str = "") -> dict[str, str]:
        return {name: hash_bytes(data) for name, data in self.result(stage, partition).files.items()}

    def versions(self, stage: str) -> dict[str, str]:
        """Names in place of content hashes: a result is not hashed before it is computed."""
        return {part: hash_json([stage, part]) for part in self.partitions(stage)}

    def metadata(self, stage: str) -> dict[str, Any]:
        return dict(self.result(stage).metadata)

    def rewritten(self, stage: str, partition: str, pinned: str) -> bool:
        return False

    def incomplete(self, session: date) -> list[str]:
        return []

    def once(self, name: str, build: Callable[[], Any]) -> Any:
        if name not in self._shared:
            self._shared[name] = build()
        return self._shared[name]

    def folder(self, name: str, stages: Sequence[str], identity: object, build: Callable[[Path], None]) -> Path:
        folder = self.workdir / name / hash_json([identity, {stage: self.versions(stage) for stage in stages}])
        if not folder.exists():
            folder.mkdir(parents=True)
            build(folder)
        return folder

    def progress(self, text: str, done: float) -> None:
        """Told to nobody."""
