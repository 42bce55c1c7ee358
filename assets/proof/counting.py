"""Rows and values that laws compared, and how many differ in any bit; by law and column. No laws here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from pipeline.features.laws import differing_rows

FUTURE = "a value is the same without the future"
PAST = "a value is the same without what lies before its look-back"


@dataclass
class Tally:
    """One column under one law."""

    comparisons: int = 0
    rows: int = 0
    differences: int = 0


@dataclass
class Certificate:
    """What the laws compared; it refuses nothing, so that a table shows all that is wrong.

    Parameters
    ----------
    key : tuple of str
        Of the rows compared.
    """

    key: tuple[str, ...]
    tallies: defaultdict[tuple[str, str], Tally] = field(default_factory=lambda: defaultdict(Tally))

    def __call__(
        self, subject: Any, law: str, what: str, remedy: str, found: pl.DataFrame, columns: Sequence[str]
    ) -> None:
        """As the `compare` of a subject."""
        self.count(law, subject.whole, found, columns)

    def count(self, law: str, expected: pl.DataFrame, found: pl.DataFrame, columns: Sequence[str]) -> None:
        """Hold the rows found against the same rows of the whole; one that the whole lacks differs in every column."""
        key = list(self.key)
        both = found.select(*key, *columns).join(expected.select(*key, *columns), on=key, how="left", suffix="_whole")
        known = found.join(expected.select(key), on=key, how="semi").height
        for name in columns:
            wrong = len(differing_rows(both[f"{name}_whole"], both[name])) if known == len(found) else len(found)
            tally = self.tallies[(law, name)]
            tally.comparisons += 1
            tally.rows += len(found)
            tally.differences += wrong

    def total(self, columns: Sequence[str], law: str = "") -> Tally:
        """Of some columns, over one law or all; `comparisons` and `rows` are those of the least compared column."""
        asked = {name: [t for (of, column), t in self.tallies.items() if column == name and law in ("", of)]
                 for name in columns}  # fmt: skip
        each = [
            Tally(sum(t.comparisons for t in ts), sum(t.rows for t in ts), sum(t.differences for t in ts))
            for ts in asked.values()
        ]
        return Tally(
            min((t.comparisons for t in each), default=0),
            min((t.rows for t in each), default=0),
            sum(t.differences for t in each),
        )


@dataclass(frozen=True)
class Certified:
    """Columns of one kind, what they declare and what was found.

    Parameters
    ----------
    of : str
        For people: what the columns are.
    unit : str
        What look-backs count.
    families : mapping
        Family -> its columns.
    declared, measured : mapping
        Column -> look-back.
    certificate : Certificate
    """

    of: str
    unit: str
    families: Mapping[str, Sequence[str]]
    declared: Mapping[str, int]
    measured: Mapping[str, int]
    certificate: Certificate

    def table(self) -> pl.DataFrame:
        """One row a family."""
        return pl.DataFrame([self._row(family, columns) for family, columns in self.families.items()])

    def column_table(self) -> pl.DataFrame:
        """One row a column."""
        every = [(family, name) for family, columns in self.families.items() for name in columns]
        return pl.DataFrame([{"column": name, **self._row(family, [name])} for family, name in every]).drop("columns")

    def _row(self, family: str, columns: Sequence[str]) -> dict[str, object]:
        whole = self.certificate.total(columns)
        return {
            "of": self.of,
            "family": family,
            "columns": len(columns),
            "future cuts": self.certificate.total(columns, FUTURE).comparisons,
            "past cuts": self.certificate.total(columns, PAST).comparisons,
            "comparisons": whole.comparisons,
            "rows": whole.rows,
            "differences": whole.differences,
            "look-back declared": max(self.declared[name] for name in columns),
            "look-back measured": max(self.measured[name] for name in columns),
            "unit": self.unit,
        }
