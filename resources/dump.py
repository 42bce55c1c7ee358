"""The files of one table in a folder of dumps, whatever their form. Read only, and lazily.

`<table>.parquet`, `<table>.csv[.gz]`, `<table>/…` or `table=<table>/…`, the latter two with or without Hive
partitions; days as text, numbers, dates or instants.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path

import polars as pl

from pipeline.errors import BadInput, SchemaError
from pipeline.tables.conversion import convert
from pipeline.tables.spec import TableSpec

FORMATS = (".parquet", ".csv", ".csv.gz")


@dataclass(frozen=True)
class Dump:
    """The files of one table."""

    spec: TableSpec
    files: tuple[Path, ...]

    def partitions(self, file: Path) -> dict[str, str]:
        """The `key=value` folders of a file's path; all of it, because polars reads all of it too."""
        return dict(folder.split("=", 1) for folder in file.parent.parts if "=" in folder)

    @cached_property
    def scan(self) -> pl.LazyFrame:
        """All rows, unread; CSV and partition values as text, because the spec knows the types."""
        if self.files[0].suffix == ".parquet":
            return pl.scan_parquet(
                list(self.files), hive_partitioning=bool(self.partitions(self.files[0])),
                hive_schema=dict.fromkeys(self.partitions(self.files[0]), pl.String) or None,
                missing_columns="insert", extra_columns="ignore",
                cast_options=pl.ScanCastOptions(integer_cast="upcast", float_cast="upcast"),
            )
        return pl.concat([
            pl.scan_csv(file, infer_schema=False).with_columns(
                pl.lit(value).alias(key) for key, value in self.partitions(file).items()
            )
            for file in self.files
        ], how="diagonal")

    @cached_property
    def raw_schema(self) -> pl.Schema:
        with self._naming_the_file():
            return self.scan.collect_schema()

    @property
    def missing(self) -> list[str]:
        return [name for name in self.spec.names if name not in self.raw_schema]

    @property
    def extra(self) -> list[str]:
        known = {*self.spec.names, *self.partitions(self.files[0])}
        return [name for name in self.raw_schema if name not in known]

    @cached_property
    def event_head(self) -> pl.Expr:
        """The part of the raw event column that names the day, in whatever form the dump has it."""
        name = self.spec.event
        if name is None or name not in self.raw_schema:
            raise SchemaError(f"{self.spec.name} needs the column {name}", self.raw_schema.names(),
                              "add it to the dump")
        dtype, column = self.raw_schema[name], pl.col(name)
        if dtype == pl.String:
            dashed = column.str.slice(4, 1).str.contains(r"[-/]")
            return pl.when(dashed).then(column.str.slice(0, 10)).otherwise(column.str.slice(0, 8))
        if isinstance(dtype, pl.Datetime):
            local = column.dt.convert_time_zone(self.spec.zone) if dtype.time_zone else column
            return local.dt.date()
        return column

    @cached_property
    def days(self) -> pl.DataFrame:
        """Every day of the dump: `head` as the dump writes it, `day` as Date, `rows`."""
        heads = self.event_head.alias("head")
        counts = self.collect(self.scan.group_by(heads).agg(pl.len().alias("rows")))
        days = convert(counts.select(day="head"), {"day": pl.Date()}, self.spec.zone)
        return counts.hstack(days).sort("day")

    def rows(self, sessions: Sequence[date] | None) -> pl.DataFrame:
        """Typed rows of some days, or all; rows without a day always, so that they are met as an error."""
        lazy = self.scan.select([name for name in self.spec.names if name in self.raw_schema])
        if sessions is not None:
            heads = self.days.filter(pl.col("day").is_in(list(sessions)))["head"]
            lazy = lazy.filter(self.event_head.is_in(heads.implode()) | self.event_head.is_null())
        return self.spec.typed(self.collect(lazy))

    def collect(self, lazy: pl.LazyFrame) -> pl.DataFrame:
        """The rows of a query over the scan."""
        with self._naming_the_file():
            return lazy.collect()

    @contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        try:
            yield
        except (pl.exceptions.PolarsError, OSError) as error:
            raise SchemaError(
                f"{self.spec.name}: all files must be readable as one table", f"{self.files[0]}: {error}",
                "write Parquet with one schema, or CSV in UTF-8 with a header",
            ) from error



def find(folder: Path, spec: TableSpec) -> Dump | None:
    """The files of a table, by name.

    Raises
    ------
    BadInput
        The table lies in more than one place, or in files of several formats.
    """
    single = [path for form in FORMATS if (path := folder / f"{spec.name}{form}").is_file()]
    nested = [path for name in (spec.name, f"table={spec.name}") if (path := folder / name).is_dir()]
    places = [*single, *nested]
    if len(places) > 1:
        raise BadInput(f"{spec.name} must lie in one place", [path.name for path in places], "keep one")
    if single:
        return Dump(spec, (single[0],))
    files = sorted(path for place in nested for path in place.rglob("*") if path.name.endswith(FORMATS))
    if len({path.suffix for path in files}) > 1:
        raise BadInput(f"{spec.name} must have files of one format", "parquet and csv", "convert them")
    return Dump(spec, tuple(files)) if files else None
