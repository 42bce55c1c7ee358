"""The two stores at market size: 5,400 names, 120 months of 21 sessions; and what reading a long log costs.

Run `python -m benchmarks.lake [months]`. Each figure is printed after its answer was checked.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.tables.tushare import DAILY, STK_MINS
from resources.artifacts import Artifacts
from resources.lake import Lake

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES, SESSIONS = 5400, 21


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def month_days(month: int) -> list[date]:
    first = date(2014 + month // 12, month % 12 + 1, 1)
    return [first + timedelta(days=i) for i in range(SESSIONS)]


def daily_month(days: list[date], random: np.random.Generator) -> pl.DataFrame:
    """Prices on a tick grid, so that they compress like real ones."""
    rows = len(days) * NAMES
    values = {c: np.round(10 + random.standard_normal(rows), 2) for c in DAILY.names[2:]}
    codes = np.tile(np.array([f"{i:06d}.SZ" for i in range(NAMES)]), len(days))
    dated = np.repeat(np.array(days, dtype="datetime64[D]"), NAMES)
    frame = pl.DataFrame({"ts_code": codes, "trade_date": dated, **values})
    return frame.select(DAILY.names).cast(DAILY.schema)


def minute_month(days: list[date], names: int, random: np.random.Generator) -> pl.DataFrame:
    minutes = np.arange(575, 575 + 48 * 5, 5).astype("timedelta64[m]")
    at = (np.array(days, dtype="datetime64[m]")[:, None] + minutes).ravel().astype("datetime64[us]")
    values = {c: np.round(10 + random.standard_normal(names * at.size), 2) for c in STK_MINS.names[2:]}
    codes = np.repeat(np.array([f"{i:06d}.SZ" for i in range(names)]), at.size)
    return pl.DataFrame({"ts_code": codes, "trade_time": np.tile(at, names), **values}).select(STK_MINS.names)


def lake_at_market_size(folder: Path, months: int) -> None:
    lake, random, took = Lake(folder / "lake"), np.random.default_rng(0), []
    for month in range(months):
        days = month_days(month)
        rows = daily_month(days, random)
        report, seconds = timed(lambda d=days, r=rows: lake.append(
            DAILY, r, request="", ingested_at=NOW, complete=d))
        assert report.new == rows.height
        took.append(seconds)
    print(f"daily, {lake.manifest().table('daily').rows:,} rows: append a month {np.median(took):.3f} s, "
          f"the last one {took[-1]:.3f} s")
    days = month_days(months // 2)
    scans = [timed(lambda: lake.scan("daily", start=days[0], end=days[-1])) for _ in range(9)]
    assert scans[0][0].height == NAMES * SESSIONS
    print(f"scan a month: {np.median([s for _, s in scans]) * 1e3:.1f} ms")
    again, seconds = timed(lambda: lake.append(DAILY, rows, request="", ingested_at=NOW))
    assert again.commit is None
    print(f"append the same month again: {seconds:.3f} s")
    minutes = minute_month(month_days(0), 200, random)
    report, seconds = timed(lambda: lake.append(STK_MINS, minutes, request="", ingested_at=NOW))
    assert report.new == minutes.height
    print(f"stk_mins, 200 names x {SESSIONS} sessions x 48 bars: append {seconds:.3f} s")


def long_log(folder: Path, commits: int) -> None:
    lake, empty = Lake(folder / "long"), DAILY.empty()
    for i in range(commits):
        day = date(2014, 1, 1) + timedelta(days=i)
        lake.append(DAILY, empty, request="", ingested_at=NOW, complete=[day])
    held, seconds = timed(lambda: Lake(lake.root).manifest())
    assert held == lake.manifest()
    shutil.rmtree(lake.root / "checkpoints")
    bare, slow = timed(lambda: Lake(lake.root).manifest())
    assert bare == held
    print(f"a cold reader of {commits:,} commits: {seconds * 1e3:.0f} ms, "
          f"without checkpoints {slow * 1e3:.0f} ms")


def artifacts_at_market_size(folder: Path) -> None:
    random = np.random.default_rng(0)
    days = np.repeat(np.arange(1000, dtype=np.int32), 5000)
    frame = pl.DataFrame({
        "session": pl.Series(days).cast(pl.Date), "instrument": [f"{i:06d}.SZ" for i in range(5000)] * 1000,
        **{f"c{i}": np.round(random.standard_normal(days.size), 4) for i in range(9)},
    })
    store, key = Artifacts(folder / "artifacts"), {"t": ("session", "instrument")}
    _, seconds = timed(lambda: store.write("study", "stage", "", {"t": frame}, {}, keys=key, lineage={}))
    read, reading = timed(lambda: store.table("study", "stage", "t"))
    assert read.equals(frame)
    print(f"stage table of 5 M x 11: hash and write {seconds:.2f} s, read {reading:.2f} s")


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


if __name__ == "__main__":
    with scratch() as folder:
        lake_at_market_size(folder, int(sys.argv[1]) if len(sys.argv) > 1 else 120)
        long_log(folder, 2000)
        artifacts_at_market_size(folder)
