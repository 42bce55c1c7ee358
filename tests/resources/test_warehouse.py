"""SQL over both stores: the views say what the stores say."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pytest

from pipeline.errors import BadInput, MissingTable
from resources.artifacts import Artifacts
from resources.lake import Lake
from resources.warehouse import add_views, as_of, connect, duckdb_resource, write_views
from tests.resources.lake_tables import BARS, HALTS, MONDAY, TUESDAY, WEDNESDAY, after, bars, due

AS_OF_ORACLE = """
SELECT v.* FROM read_parquet('{files}') v WHERE v.known_at <= TIMESTAMPTZ '{instant}' AND NOT EXISTS (
  SELECT 1 FROM read_parquet('{files}') w WHERE w.day = v.day AND w.code = v.code
  AND w.known_at > v.known_at AND w.known_at <= TIMESTAMPTZ '{instant}')
ORDER BY day, code
"""


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path / "la'ke")
    rows = bars(*((day, code, 1.0) for day in (MONDAY, TUESDAY, WEDNESDAY) for code in "abc"))
    lake.append(BARS, rows, request="1", ingested_at=after(WEDNESDAY), complete=[MONDAY, TUESDAY, WEDNESDAY])
    for hours, day, code in ((2, MONDAY, "a"), (3, MONDAY, "a"), (4, TUESDAY, "b"), (5, TUESDAY, "late")):
        lake.append(BARS, bars((day, code, float(hours))), request="2", ingested_at=after(WEDNESDAY, hours))
    halted = [(MONDAY, "a", None, 1.0), (MONDAY, "a", "09:30", 2.0)]
    halts = pl.DataFrame(halted, schema=HALTS.schema, orient="row")
    lake.append(HALTS, halts, request="1", ingested_at=after(WEDNESDAY), complete=[MONDAY])
    lake.append(HALTS, halts.with_columns(pl.col("value") + 1), request="2", ingested_at=after(WEDNESDAY, 2))
    return lake


@pytest.mark.parametrize("moment", [due(MONDAY), *(after(WEDNESDAY, hours) for hours in (1, 2, 4.5, 9))])
def test_as_of_reads_agree_with_sql_written_the_slow_way(lake: Lake, moment: datetime) -> None:
    """Pins the lake's as-of read, and the warehouse's, against an anti-join over the raw files."""
    files = str(lake.root / "files/vendor/bars/**/*.parquet").replace("'", "''")
    oracle = duckdb.sql(AS_OF_ORACLE.format(files=files, instant=moment.isoformat())).pl()
    assert oracle.height > 0
    mine = lake.latest("bars", known_until=moment)
    assert mine.select(BARS.names).rows() == oracle.select(BARS.names).rows()
    assert as_of(connect(lake), "vendor.bars", moment).sort("day", "code").equals(mine)


def test_views_say_what_the_stores_say(lake: Lake, tmp_path: Path) -> None:
    """Pins views over the wrong files: all versions, the newest ones, null keys, and stage tables."""
    artifacts = Artifacts(tmp_path / "artifacts")
    frame = pl.DataFrame({"x": [1, 2]})
    for partition in ("2024-01", "2024-02"):
        artifacts.write("study", "panel", partition, {"panel": frame + 5, "extra": frame}, {}, lineage={})
        artifacts.write("study", "panel", partition, {"panel": frame, "extra": frame}, {}, lineage={})
    connection = connect(lake, artifacts)
    for table, key in (("bars", ["day", "code"]), ("halts", ["day", "code", "timing"])):
        order = [*key, "known_at"]
        for view, truth in ((f"{table}_versions", lake.scan(table)), (table, lake.latest(table))):
            assert connection.sql(f"FROM vendor.{view}").pl().sort(order).equals(truth.sort(order))
    assert connection.sql("SELECT sum(x) FROM study.panel").fetchall() == [(6,)]
    assert connection.sql("SELECT sum(x) FROM study.panel_extra").fetchall() == [(6,)]


def test_a_file_of_views_holds_no_rows_and_is_replaced_whole(lake: Lake, tmp_path: Path) -> None:
    """Pins a database file that copies data, or that one reader's lock keeps from being renewed."""
    path = write_views(tmp_path / "views.duckdb", lake)
    with duckdb.connect(str(path), read_only=True) as reader:
        before = reader.sql("SELECT count(*) FROM vendor.bars_versions").fetchall()
        lake.append(BARS, bars((MONDAY, "new", 1.0)), request="3", ingested_at=after(WEDNESDAY, 30))
        write_views(path, lake)
        assert reader.sql("SELECT count(*) FROM duckdb_tables()").fetchall() == [(0,)]
    with duckdb.connect(str(path), read_only=True) as reader:
        assert reader.sql("SELECT count(*) FROM vendor.bars_versions").fetchall() == [(before[0][0] + 1,)]


def test_dagsters_resource_takes_the_views(lake: Lake) -> None:
    """Pins a resource whose connections cannot hold the views."""
    with duckdb_resource().get_connection() as connection:
        add_views(connection, lake)
        counted = connection.sql("SELECT count(*) FROM vendor.bars").fetchall()
    assert counted == [(lake.latest("bars").height,)]


def test_wrong_as_of_arguments_are_named(lake: Lake) -> None:
    """Pins a catalog error in place of the tables there are, and local times taken for UTC."""
    connection = connect(lake)
    with pytest.raises(MissingTable, match=r"vendor\.bars"):
        as_of(connection, "bars", due(MONDAY))
    with pytest.raises(BadInput, match="aware"):
        as_of(connection, "vendor.bars", datetime(2024, 1, 2))
    assert as_of(connection, "vendor.bars", due(MONDAY) - timedelta(seconds=1)).is_empty()
