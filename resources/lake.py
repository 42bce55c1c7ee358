"""The lake: raw vendor tables, append-only, every revision kept, each version with when it could be known.

Stage results live in `artifacts.py`; what a commit is, in `commits.py`; what counts as a revision, in
`revisions.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.clock import Clock
from pipeline.errors import BadInput, LakeConflict, SchemaError
from pipeline.tables.spec import TableSpec
from resources.bounds import Bounds
from resources.commits import CHECKPOINT_EVERY, CommitLog
from resources.manifest import FORMAT, WHOLE, LakeFile, Manifest, TableManifest
from resources.revisions import (
    STAMPS,
    asked_codes,
    checked,
    complete_days,
    coverage,
    day_hashes,
    day_of,
    newest,
    revise,
    vanished,
    watched_since,
)

# Appends of one month that stay separate files; the next one folds them together, so a month scan opens few.
MERGE_FILES = 12
# A lost race is another writer's progress, so this many in a row means something else is wrong.
ATTEMPTS = 64


@dataclass(frozen=True)
class AppendReport:
    """What a fetch added, in rows.

    Parameters
    ----------
    commit : int or None
        The commit made; None when there was nothing to record.
    new, revised, unchanged : int
        Rows never stored before, changed, and stored already.
    late : int
        New rows that an earlier complete fetch of their session lacked.
    observed : int
        Added rows known when they were seen, not by the table's rule.
    vanished : int
        Stored rows that this complete fetch no longer has; they stay.
    """

    commit: int | None
    new: int
    revised: int
    unchanged: int
    late: int
    observed: int
    vanished: int


class Lake:
    """Vendor tables under one folder.

    Parameters
    ----------
    root : Path
        Made at the first append.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._commits = CommitLog(self.root)
        self._folds: dict[int, Manifest] = {0: Manifest()}

    def append(
        self, spec: TableSpec, rows: pl.DataFrame, *, request: str, ingested_at: datetime,
        complete: Sequence[date] = (), codes: Sequence[str] = (),
    ) -> AppendReport:
        """Add a fetch; what is stored already is left alone, so repeating one changes nothing.

        Parameters
        ----------
        rows : DataFrame
            Rows as the vendor sent them, typed by the spec.
        request : str
            Fingerprint of the request.
        ingested_at : datetime
            Aware instant of the fetch.
        complete : sequence of date
            Sessions that the fetch holds completely. A snapshot is always taken as complete.
        codes : sequence of str
            The codes that were asked for, where a table is fetched by code; by default those that answered.

        Raises
        ------
        SchemaError, KeyViolation, BadInput
            Columns or types unlike the spec; null or doubled keys; a naive instant.
        """
        rows = checked(spec, rows, ingested_at)
        planned: tuple[int, AppendReport, dict[str, Any]] | None = None
        for _ in range(ATTEMPTS):
            manifest = self.manifest()
            table = manifest.tables.get(spec.name)
            changed = table.changed if table else 0
            if planned is None or planned[0] != changed:
                self._check_table(spec, table)
                planned = changed, *self._plan(spec, table, rows, request, ingested_at, complete, codes)
            _, report, entry = planned
            if not entry["adds"] and entry["complete"] is None:
                return report
            try:
                self._commits.commit(manifest.number + 1, entry)
            except LakeConflict:
                continue
            self._checkpoint(manifest.number + 1)
            return replace(report, commit=manifest.number + 1)
        raise LakeConflict("an append must win within its attempts", ATTEMPTS,
                           "look for a writer that runs in a loop")

    def scan(
        self, table: str, *, start: date | None = None, end: date | None = None,
        known_after: datetime | None = None, known_until: datetime | None = None, at: int | None = None,
    ) -> pl.DataFrame:
        """All versions of rows with `start <= event day <= end` and `known_after < known_at <= known_until`.

        Parameters
        ----------
        start, end : date, optional
            Bounds of session tables; a snapshot has no event and is returned whole.
        at : int, optional
            Read the lake as of this commit; by default the newest.

        Returns
        -------
        DataFrame
            The table's columns, then `known_at`, `ingested_at` (Datetime us UTC), `knowledge` ("rule",
            "observed") and `request`. Ordered by event day, key and `known_at`; (key, `known_at`) is unique.
        """
        held = self.manifest(at).table(table)
        bounds, schema = Bounds(start, end, known_after, known_until), self._schema(held)
        chosen = bounds.files(held)
        if not chosen:
            return pl.DataFrame(schema=schema)
        frame = self._frames(chosen, schema).filter(bounds.inside(held, schema)).collect()
        disjoint = all(before.last < after.first for before, after in pairwise(chosen))
        return frame if disjoint else _sorted(frame, _order(held))

    def latest(
        self, table: str, *, start: date | None = None, end: date | None = None,
        known_after: datetime | None = None, known_until: datetime | None = None, at: int | None = None,
    ) -> pl.DataFrame:
        """The newest version per key among what `scan` returns for the same arguments."""
        number = self.head() if at is None else at
        versions = self.scan(table, start=start, end=end, known_after=known_after, known_until=known_until,
                             at=number)
        return newest(versions, self.manifest(number).table(table).key)

    def head(self) -> int:
        """Number of the newest commit; 0 for an empty lake."""
        return self._commits.head()

    def manifest(self, at: int | None = None) -> Manifest:
        """What the lake holds at a commit, by default the newest."""
        number = self.head() if at is None else at
        if number in self._folds:
            return self._folds[number]
        if not 0 <= number <= self.head():
            raise BadInput(f"a commit lies between 0 and {self.head()}", number,
                           "use a number that a pin recorded")
        base = self._folds[max(n for n in self._folds if n <= number)]
        kept = self._commits.load_checkpoint(number) if number - base.number > CHECKPOINT_EVERY else None
        if kept is not None and kept[0] > base.number:
            base = Manifest.from_state(kept[1])
        folded = base.after(self._commits.entries(base.number, number))
        # The newest fold serves nearly every read; a few older ones serve pins.
        recent = sorted(n for n in self._folds if n)[-3:]
        self._folds = {0: self._folds[0], **{n: self._folds[n] for n in recent}, number: folded}
        return folded

    def manifest_hash(self, at: int | None = None, tables: Collection[str] = ()) -> str:
        """Content hash of the lake, or of some tables, at a commit."""
        return self.manifest(at).hash(tables)

    def missing(
        self, table: str, sessions: Sequence[date], at: int | None = None, codes: Collection[str] = ()
    ) -> list[date]:
        """Sessions never fetched completely (for all `codes`, where a table is fetched by code)."""
        manifest = self.manifest(at)
        return manifest.table(table).missing(sessions, codes) if table in manifest.tables else list(sessions)

    def tables(self, at: int | None = None) -> list[str]:
        """Names of the tables held."""
        return sorted(self.manifest(at).tables)

    def verify(self, at: int | None = None) -> None:
        """Refuse, as `Tampered`, any file whose bytes no longer hash to its name."""
        for table in self.manifest(at).tables.values():
            for kept in table.files:
                self._commits.verify(kept.file)

    def sweep(self, older_than: timedelta = timedelta(hours=1), clock: Clock | None = None) -> list[str]:
        """Delete leftovers of writers that died; files of every commit, old ones too, stay."""
        def referenced() -> set[str]:
            entries = self._commits.entries(0, self.head())
            return {added["file"] for _, entry in entries for added in entry["adds"]}

        return self._commits.sweep(referenced, older_than, clock)

    def _schema(self, table: TableManifest) -> pl.Schema:
        """The newest columns of a table: those of its last file."""
        return pl.Schema(pl.read_parquet_schema(self.root / table.files[-1].file))

    def _check_table(self, spec: TableSpec, table: TableManifest | None) -> None:
        """A stored table keeps its vendor, key and types; it may gain columns."""
        if table is None:
            return
        told = (spec.vendor, spec.key, spec.event, spec.layout)
        held = (table.vendor, table.key, table.event, table.layout)
        if told != held:
            raise SchemaError(f"the table {spec.name} keeps its vendor, key, event and layout {held}", told,
                              "give the new table another name")
        drift = {name: (dtype, spec.schema[name]) for name, dtype in self._schema(table).items()
                 if name in spec.schema and spec.schema[name] != dtype}
        if drift:
            raise SchemaError(f"the columns of {spec.name} keep their types", drift,
                              "keep the stored type in the spec, or give the new table another name")

    def _plan(
        self, spec: TableSpec, table: TableManifest | None, rows: pl.DataFrame, request: str,
        ingested_at: datetime, complete: Sequence[date], codes: Sequence[str],
    ) -> tuple[AppendReport, dict[str, Any]]:
        """What an append adds on top of one state of its table; files are written, nothing is committed."""
        days = complete_days(spec, rows, complete)
        asked = asked_codes(spec, rows, codes)
        stored = self._stored(spec, table, rows, days)
        watched = watched_since(spec, rows, table)
        change = revise(spec, rows, stored, watched, request=request, ingested_at=ingested_at)
        adds, removes = self._write(spec, table, change.versions)
        gone = vanished(spec, rows, stored, days, asked)
        report = AppendReport(None, change.new, change.revised, change.unchanged, change.late,
                              change.observed, gone)
        return report, {
            "format": FORMAT, "table": spec.name,
            "adds": [asdict(added) for added in adds], "removes": removes,
            "head": {"vendor": spec.vendor, "name": spec.name, "layout": spec.layout, "event": spec.event,
                     "key": spec.key},
            "sessions": day_hashes(spec, stored, change.versions),
            "complete": coverage(spec, table, rows, days, asked, ingested_at),
        }

    def _stored(
        self, spec: TableSpec, table: TableManifest | None, rows: pl.DataFrame, days: list[str]
    ) -> pl.DataFrame:
        """Stored versions of the days that a fetch touches, in order of key and `known_at`."""
        schema = {**spec.schema, **STAMPS}
        wanted = {*days, *rows.select(day_of(spec)).to_series().unique()}
        months = {day[:7] for day in wanted}
        chosen = [kept for kept in (table.files if table else ()) if kept.month in months and kept.rows]
        if not chosen:
            return pl.DataFrame(schema=schema)
        frame = self._frames(chosen, schema).filter(day_of(spec).is_in(sorted(wanted))).collect()
        return _sorted(frame, _order(spec))

    def _write(
        self, spec: TableSpec, table: TableManifest | None, versions: pl.DataFrame
    ) -> tuple[list[LakeFile], list[str]]:
        """One file per month of events; a month of many small files is rewritten as one."""
        if versions.is_empty():
            # The first commit of a table without rows still says what its columns are.
            return ([self._keep(spec, WHOLE, versions)] if table is None else []), []
        adds, removes = [], []
        months = versions.select(day_of(spec).str.slice(0, 7)).to_series()
        for month in months.unique().sort():
            part = versions.filter(months == month)
            live = [kept for kept in (table.files if table else ()) if kept.month == month and kept.rows]
            if len(live) >= MERGE_FILES:
                part = pl.concat([self._frames(live, part.schema).collect(), part])
                removes += [kept.file for kept in live]
            adds.append(self._keep(spec, month, part))
        return adds, removes

    def _keep(self, spec: TableSpec, month: str, versions: pl.DataFrame) -> LakeFile:
        ordered = _sorted(versions, _order(spec))
        folder = "/".join(part for part in (spec.vendor, spec.name, month) if part)
        file, _ = self._commits.store(folder, ".parquet", ordered.write_parquet)
        if ordered.is_empty():
            return LakeFile(file, 0, month, "", "", 0, 0)
        day, known = day_of(spec), pl.col("known_at").to_physical()
        ends = ordered.select(day.min().alias("first"), day.max().alias("last"), known.min().alias("from"),
                              known.max().alias("until")).row(0)
        return LakeFile(file, ordered.height, month, *ends)

    def _frames(self, files: Sequence[LakeFile], schema: Mapping[str, pl.DataType]) -> pl.LazyFrame:
        """Files as one frame; a column that an old file lacks is null there."""
        paths = [self.root / kept.file for kept in files]
        return pl.scan_parquet(paths, schema=schema, missing_columns="insert", extra_columns="ignore",
                               glob=False)

    def _checkpoint(self, number: int) -> None:
        if number % CHECKPOINT_EVERY == 0:
            self._commits.save_checkpoint(number, self.manifest(number).state())


def _order(table: TableSpec | TableManifest) -> list[pl.Expr]:
    """Event day first, so that files of different months concatenate in order; then key and version."""
    day = [pl.col(table.event).cast(pl.Date)] if table.layout == "session" and table.event else []
    return [*day, *(pl.col(name) for name in table.key), pl.col("known_at")]


def _sorted(frame: pl.DataFrame, order: Sequence[pl.Expr]) -> pl.DataFrame:
    return frame.sort(list(order), maintain_order=True)
