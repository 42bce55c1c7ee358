"""DuckDB over the lake and the stage results: views over Parquet, and as-of reads in SQL.

Nothing is copied and no file is locked: the database lives in memory, or holds views only. A view names the
files of the moment it was made; connect again to see newer commits. Versions and hashes are the business of
`lake.py` and `artifacts.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import polars as pl

from pipeline.errors import BadInput, MissingTable
from resources.artifacts import Artifacts
from resources.lake import Lake
from resources.manifest import TableManifest

if TYPE_CHECKING:
    from dagster_duckdb import DuckDBResource


def connect(lake: Lake | None, artifacts: Artifacts | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory database with the views of `add_views`."""
    connection = duckdb.connect()
    add_views(connection, lake, artifacts)
    return connection


def add_views(
    connection: duckdb.DuckDBPyConnection, lake: Lake | None, artifacts: Artifacts | None = None
) -> None:
    """Add views to any DuckDB connection, one that Dagster's `DuckDBResource` opened included.

    `<vendor>.<table>` holds the newest versions, `<vendor>.<table>_versions` all of them, and the table macro
    `<vendor>.<table>_as_of(instant)` the newest ones known at an instant. `<study>.<stage>_<table>` holds the
    current partitions of a stage's table, `<study>.<stage>` the table that is named like its stage.
    """
    # Instants are UTC wherever they are shown.
    connection.execute("SET TimeZone = 'UTC'")
    for statement in [*_lake_views(lake), *_artifact_views(artifacts)]:
        connection.execute(statement)


def duckdb_resource() -> DuckDBResource:
    """Dagster's DuckDB resource, in memory; an asset adds the views to the connection it gets."""
    from dagster_duckdb import DuckDBResource

    return DuckDBResource(database=":memory:")


def observed_shares(lake: Lake) -> pl.DataFrame:
    """table, rows (all versions), observed: the share of rows known by watching instead of by the table's rule."""
    columns = "count(*) AS rows, coalesce(avg((knowledge = 'observed')::DOUBLE), 0) AS observed"
    tables = sorted(lake.manifest().tables.items())
    with connect(lake) as connection:
        parts = [
            connection.sql(f"SELECT {columns} FROM {_name(entry.vendor, name + '_versions')}")
            .pl()
            .insert_column(0, pl.Series("table", [name]))
            for name, entry in tables
        ]
    return pl.concat(parts)


def write_views(path: Path, lake: Lake | None, artifacts: Artifacts | None = None) -> Path:
    """A `.duckdb` file of views only, for people; replaced as a whole under who has it open."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with duckdb.connect(str(temporary)) as connection:
            add_views(connection, lake, artifacts)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def as_of(connection: duckdb.DuckDBPyConnection, table: str, instant: datetime) -> pl.DataFrame:
    """The newest version of each key of `<vendor>.<table>` known at an aware instant."""
    if instant.tzinfo is None:
        raise BadInput("instants must be aware", instant, "take it from a Clock or from clock.instant")
    vendor, _, name = table.rpartition(".")
    listed = "SELECT schema_name, function_name FROM duckdb_functions() WHERE function_type = 'table_macro'"
    known = {f"{schema}.{function}" for schema, function in connection.sql(listed).fetchall()}
    if f"{vendor}.{name}_as_of" not in known:
        tables = sorted(macro.removesuffix("_as_of") for macro in known if macro.endswith("_as_of"))
        raise MissingTable("an as-of read names <vendor>.<table>", table, f"choose one of {tables}")
    call = f"FROM {_name(vendor, name + '_as_of')}(TIMESTAMPTZ '{instant.isoformat()}')"
    frame: pl.DataFrame = connection.sql(call).pl()
    return frame


def _lake_views(lake: Lake | None) -> Iterator[str]:
    if lake is None:
        return
    for table in lake.manifest().tables.values():
        yield f"CREATE SCHEMA IF NOT EXISTS {_quoted(table.vendor)}"
        versions = _name(table.vendor, f"{table.name}_versions")
        files = [lake.root / kept.file for kept in table.files]
        yield f"CREATE OR REPLACE VIEW {versions} AS {_parquet(files)}"
        yield f"CREATE OR REPLACE VIEW {_name(table.vendor, table.name)} AS FROM {versions} {_newest(table)}"
        yield (f"CREATE OR REPLACE MACRO {_name(table.vendor, f'{table.name}_as_of')}(instant) AS TABLE "
               f"FROM {versions} WHERE known_at <= instant {_newest(table)}")


def _artifact_views(artifacts: Artifacts | None) -> Iterator[str]:
    if artifacts is None:
        return
    for study, stage in sorted({(version.study, version.stage) for version in artifacts.versions()}):
        yield f"CREATE SCHEMA IF NOT EXISTS {_quoted(study)}"
        current = artifacts.current(study, stage).values()
        for table in sorted({name for version in current for name in version.tables}):
            held = [version.tables[table]["file"] for version in current if table in version.tables]
            files = [artifacts.root / file for file in held]
            view = stage if table == stage else f"{stage}_{table}"
            yield f"CREATE OR REPLACE VIEW {_name(study, view)} AS {_parquet(files)}"


def _newest(table: TableManifest) -> str:
    """Keep the newest version per key; (key, known_at) is unique, so there are no ties."""
    keys = ", ".join(_quoted(name) for name in table.key)
    return f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY known_at DESC) = 1"


def _parquet(files: Iterable[Path]) -> str:
    paths = ", ".join("'" + str(file.resolve()).replace("'", "''") + "'" for file in files)
    return f"SELECT * FROM read_parquet([{paths}], union_by_name = true, hive_partitioning = false)"


def _name(schema: str, name: str) -> str:
    return f"{_quoted(schema)}.{_quoted(name)}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
