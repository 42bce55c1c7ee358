"""A hash-chained, append-only log of JSON rows in a folder: one file a row, created exclusively.

The ledger and the champion's records are such logs. A chain alone does not see a cut tail, so its head is
anchored elsewhere (scorecards, bundles, champion records).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import Tampered
from pipeline.files import create_once
from pipeline.fingerprints import canonical_json, hash_bytes

GENESIS = "0" * 64
FIELDS = {"number", "before", "body", "hash"}
Row = dict[str, Any]


class Chain:
    """Rows `000001.json`, …; each names the hash of the one before it.

    Parameters
    ----------
    root : Path
        Folder of the rows; made on the first append.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def rows(self) -> list[Row]:
        """All rows in order, verified.

        Raises
        ------
        Tampered
            When a row was edited, removed or reordered.
        """
        before, rows = GENESIS, []
        for number, path in enumerate(self._paths(), start=1):
            row = _parsed(path)
            if path.stem != f"{number:06d}":
                raise Tampered("rows of a chain are numbered without a gap", path.name, f"row {number} is missing")
            if row.keys() != FIELDS or row["before"] != before or row["hash"] != _row_hash(row):
                raise Tampered(
                    "every row hashes to what it records and follows the row before it",
                    str(path),
                    "restore the folder from a backup; the row was edited",
                )
            before = row["hash"]
            rows.append(row)
        return rows

    def head(self) -> str:
        """Hash of the last row; zeros for an empty chain."""
        rows = self.rows()
        return rows[-1]["hash"] if rows else GENESIS

    def verify(self, anchor: str) -> None:
        """The anchored head must still be part of the chain: a cut tail is seen here."""
        if anchor != GENESIS and anchor not in {row["hash"] for row in self.rows()}:
            raise Tampered(
                "a chain holds every head that was anchored elsewhere",
                anchor[:16],
                "rows were removed from its end; restore the folder",
            )

    def append(self, build: Callable[[list[Row]], Mapping[str, Any] | None]) -> Row | None:
        """Append what `build` makes of the present rows; nothing when it returns None."""

        def as_many(rows: list[Row]) -> list[Mapping[str, Any]]:
            body = build(rows)
            return [] if body is None else [body]

        made = self.extend(as_many)
        return made[-1] if made else None

    def extend(self, build: Callable[[list[Row]], Iterable[Mapping[str, Any]]]) -> list[Row]:
        """Append every body that `build` makes of the present rows; the chain is read and verified once.

        A row's file is created exclusively, so of two writers one wins; the other builds anew on all rows, its
        own earlier ones included.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        made: list[Row] = []
        while True:
            rows = self.rows()
            for body in build(rows):
                row = _next_row(rows, body)
                if not self._create(row):
                    break
                rows.append(row)
                made.append(row)
            else:
                return made

    def _create(self, row: Row) -> bool:
        """The row's file appears whole or not at all, and never twice."""
        writer = f".{os.getpid()}.{threading.get_ident()}"
        return create_once(self.root / f"{row['number']:06d}.json", canonical_json(row).encode() + b"\n", writer)

    def _paths(self) -> list[Path]:
        return sorted(self.root.glob("[0-9]*.json"))


def _next_row(rows: list[Row], body: Mapping[str, Any]) -> Row:
    before = rows[-1]["hash"] if rows else GENESIS
    row: Row = {"number": len(rows) + 1, "before": before, "body": dict(body)}
    return row | {"hash": _row_hash(row)}


def _row_hash(row: Mapping[str, Any]) -> str:
    return hash_bytes(canonical_json({k: row.get(k) for k in ("number", "before", "body")}).encode())


def _parsed(path: Path) -> Row:
    try:
        row = json.loads(path.read_text())
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise Tampered("a row of a chain is a JSON object", str(path), "restore the folder from a backup")
    return row
