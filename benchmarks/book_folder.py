"""Minute books out of a folder of snapshots, beside polars expressions level by level (what stood here before).

Two folders: ten days of 1,440 snapshots, one in 100 levels none; and one day of 864,000 (a snapshot each 100 ms). First
the rows and counts must be equal, nulls included; then both are timed, with the peak of memory (Linux only).

    python -m benchmarks.book_folder
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import polars as pl

from pipeline.clock import FixedClock
from pipeline.tables.binance import BOOK_1M, level_names
from pipeline.tables.books import BEST, last_of_minutes
from resources.book_folder import BookFolder
from tests.oracles.book_levels_slow import valid_levels

CLOCK = FixedClock(datetime(2024, 3, 1, tzinfo=UTC))
DAYS = [date(2024, 1, 1) + timedelta(days=i) for i in range(10)]
MINUTE_DAY, FEED_DAY, TURNS = 1_440, 864_000, 5


def place(folder: Path, day: date) -> Path:
    return folder / f"table=book/exchange=BINANCE_FUTURES/symbol=BTCUSDT/dt={day}/data.parquet"


def write_day(folder: Path, day: date, snapshots: int) -> None:
    """Books a tick apart around a middle that walks; behind the best quote one level in 100 has no size."""
    rng = np.random.default_rng(day.toordinal())
    middle = 60_000 + np.round(0.5 * rng.standard_normal(snapshots).cumsum(), 1)
    every = timedelta(days=1) / snapshots
    columns = {"origin_time": np.datetime64(day, "us") + np.arange(snapshots) * np.timedelta64(every)}
    for name in level_names():
        side, level, what = name.split("_")
        size = np.round(rng.uniform(0.001, 9, snapshots), 3) * ((level == "0") | (rng.random(snapshots) > 0.01))
        away = (int(level) + 1) * (-0.1 if side == "bid" else 0.1)
        columns[name] = np.round(middle + away, 1) if what == "price" else size
    place(folder, day).parent.mkdir(parents=True)
    pl.DataFrame(columns).write_parquet(place(folder, day))


def ours(folder: Path, days: list[date]) -> tuple[pl.DataFrame, tuple[str, ...]]:
    got = BookFolder(folder, clock=CLOCK).fetch(BOOK_1M, days, ["BTCUSDT"])
    return got.rows, got.notes


def theirs(folder: Path, days: list[date]) -> tuple[pl.DataFrame, tuple[int, int]]:
    """Rows, and the missing and disordered levels."""
    frames, missing, disordered = [], 0, 0
    for day in days:
        scan = pl.scan_parquet(place(folder, day), hive_partitioning=False)
        chosen, _ = last_of_minutes(scan.select("origin_time", *BEST).collect())
        wanted = scan.select("origin_time", *level_names()).with_row_index("position").filter(
            pl.col("position").is_in(chosen.implode())
        ).collect()
        levels, *found = valid_levels(wanted)
        missing, disordered = missing + found[0], disordered + found[1]
        frames.append(BOOK_1M.typed(levels.select(
            pl.lit("BTCUSDT").alias("symbol"), pl.col("origin_time").dt.truncate("1m").alias("minute"), "origin_time",
            *level_names(),
        )))
    return pl.concat(frames).sort(BOOK_1M.key), (missing, disordered)


def timed(read: Callable[[Path, list[date]], object], folder: Path, days: list[date]) -> tuple[float, float]:
    """Seconds, and the process's peak in MB so far (`getrusage` would count the parent's as well)."""
    begin = time.perf_counter()
    read(folder, days)
    seconds = time.perf_counter() - begin
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return seconds, int(peak.split()[1]) / 1024


def compare(folder: Path, days: list[date], snapshots: int) -> None:
    for day in days:
        write_day(folder, day, snapshots)
    (rows, notes), (expected, found) = ours(folder, days), theirs(folder, days)
    told = sum(int(note.partition(" missing_levels")[0].rpartition(" ")[2]) for note in notes)
    if not rows.equals(expected) or (told, 0) != found:
        sys.exit("books differ")
    # Each in a process of its own, for a peak of memory is never taken back; in turns, for machines have moods.
    spawn = get_context("spawn")
    with spawn.Pool(1) as mine, spawn.Pool(1) as other:
        turns = [(mine.apply(timed, (ours, folder, days)), other.apply(timed, (theirs, folder, days)))
                 for _ in range(TURNS)]
    fast, slow = (min(turn[i][0] for turn in turns) / len(days) for i in range(2))
    small, large = (max(turn[i][1] for turn in turns) for i in range(2))
    print(f"{len(days)} days of {snapshots:,} snapshots: {rows.height:,} minutes equal, {told:,} levels missing")
    print(f"ours {fast * 1e3:.0f} ms a day, peak {small:.0f} MB; expressions {slow * 1e3:.0f} ms, {large:.0f} MB; "
          f"ratio {slow / fast:.1f}")


def main() -> None:
    for days, snapshots in ((DAYS, MINUTE_DAY), (DAYS[:1], FEED_DAY)):
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder), days, snapshots)


if __name__ == "__main__":
    main()
