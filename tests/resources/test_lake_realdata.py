"""Real Tushare rows through the lake: exactly as sent, month by month."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from pipeline.tables.tushare import TABLES
from resources.lake import Lake

BESIDE = Path(__file__).parents[3] / "shared" / "data"
FOLDER = Path(os.environ.get("FOLDGATE_REALDATA", BESIDE)) / "tushare_csi300"
NOW = datetime(2024, 1, 2, tzinfo=UTC)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["daily", "daily_basic", "suspend_d", "stock_basic", "trade_cal"])
def test_real_tables_come_back_exactly(tmp_path: Path, name: str) -> None:
    """Pins what made-up rows lack: real nulls, gaps and types; a second import must find nothing new."""
    path = FOLDER / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"needs {path.name} of the real data folder")
    spec, lake = TABLES[name], Lake(tmp_path)
    rows = spec.settle(spec.typed(pl.read_parquet(path)))
    if spec.layout == "session":
        rows = rows.filter(pl.col(spec.event).is_between(date(2022, 1, 1), date(2022, 6, 30)))
    for new, unchanged in ((rows.height, 0), (0, rows.height)):
        report = lake.append(spec, rows, request="import", ingested_at=NOW)
        assert (report.new, report.unchanged, report.revised) == (new, unchanged, 0)
    stored = lake.latest(name).select(spec.names)
    assert stored.sort(spec.key, nulls_last=True).equals(rows)
    if spec.layout == "session":
        days = rows[spec.event].dt.strftime("%Y-%m")
        assert {kept.month for kept in lake.manifest().table(name).files} == set(days)
        month = lake.scan(name, start=date(2022, 3, 1), end=date(2022, 3, 31))
        assert month.height == (days == "2022-03").sum()
