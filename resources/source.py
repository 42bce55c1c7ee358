"""What every source of vendor rows promises, be it a vendor's interface or a folder of dumps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol

import polars as pl

from pipeline.errors import MissingTable
from pipeline.tables.spec import TableSpec


@dataclass(frozen=True)
class Fetched:
    """Rows of one table, and how far they can be trusted to be all of them.

    Parameters
    ----------
    rows : DataFrame
        In the spec's columns, types and vendor units; in key order, keys unique.
    request : str
        What was asked for, in words and with a hash of every request; never a secret.
    complete : tuple of date
        Sessions whose rows were read to the end and are not empty where they may not be.
    notes : tuple of str
        What a person should know: empty sessions, cut answers, dropped repeats, absent columns.
    """

    rows: pl.DataFrame
    request: str
    complete: tuple[date, ...]
    notes: tuple[str, ...]


def shown(days: Sequence[date]) -> str:
    """Sessions for a note: how many, and the first few by name."""
    names = ", ".join(day.isoformat() for day in days[:3]) + (", …" if len(days) > 3 else "")
    return f"{len(days)} session{'s' if len(days) != 1 else ''} ({names})"


class Source(Protocol):
    """Something that answers for vendor tables."""

    def tables(self) -> frozenset[str]:
        """Names of the tables it can answer for."""
        ...

    def fetch(self, spec: TableSpec, sessions: Sequence[date], codes: Sequence[str] = ()) -> Fetched:
        """Rows of the sessions; a snapshot is read whole, tables by instrument or index need codes."""
        ...


class Dumped(Source, Protocol):
    """A source that holds all it will ever hold."""

    def span(self, table: str) -> tuple[date, date]:
        """First and last day of a table's rows."""
        ...


class Together:
    """Several sources as one: the first that answers for a table is asked.

    Parameters
    ----------
    *sources : Source
    """

    def __init__(self, *sources: Source) -> None:
        self.sources = sources

    def tables(self) -> frozenset[str]:
        """Names of the tables that any of them can answer for."""
        return frozenset().union(*(source.tables() for source in self.sources))

    def fetch(self, spec: TableSpec, sessions: Sequence[date], codes: Sequence[str] = ()) -> Fetched:
        """As the source's own `fetch`.

        Raises
        ------
        MissingTable
            None answers for the table.
        """
        for source in self.sources:
            if spec.name in source.tables():
                return source.fetch(spec, sessions, codes)
        raise MissingTable(f"a source must answer for {spec.name}", sorted(self.tables()), "add one that does")
