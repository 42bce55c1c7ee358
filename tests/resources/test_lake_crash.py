"""What survives: writers that are killed, disks that fill, and writers that race."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

import resources.commits
from pipeline.errors import BadInput, LakeConflict
from resources.artifacts import Artifacts
from resources.commits import CommitLog
from resources.lake import Lake
from tests.resources.lake_tables import BARS, BY_CODE, MONDAY, TUESDAY, after, bars

ROOT = Path(__file__).parents[2]

ENDLESS_WRITER = """
import sys
from datetime import timedelta
from pathlib import Path
import polars as pl
from resources.artifacts import Artifacts
from resources.lake import Lake
from tests.resources.lake_tables import BARS, MONDAY, after, bars

home = Path(sys.argv[1])
lake, artifacts = Lake(home / "lake"), Artifacts(home / "artifacts")
big = pl.DataFrame({"x": range(200_000)})
for i in range(10_000):
    rows = bars(*((MONDAY, f"{code:05d}", float(i)) for code in range(500)))
    lake.append(BARS, rows, request="r", ingested_at=after(MONDAY, i), complete=[MONDAY])
    artifacts.write("study", "stage", "", {"x": big + i}, {"i.txt": str(i).encode()}, lineage={})
    print(i, flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.011, 0.023])
def test_a_killed_writer_leaves_the_last_commit_whole(tmp_path: Path, delay: float) -> None:
    """Pins a store that kill -9 in mid-write leaves half written, unreadable or with a commit lost."""
    writer = subprocess.Popen([sys.executable, "-c", ENDLESS_WRITER, str(tmp_path)], cwd=ROOT,
                              stdout=subprocess.PIPE, text=True)
    try:
        last = next(int(line) for line in writer.stdout if int(line) >= 2)
        time.sleep(delay)
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    last = max([last, *(int(line) for line in writer.stdout if line.endswith("\n"))])
    lake, artifacts = Lake(tmp_path / "lake"), Artifacts(tmp_path / "artifacts")
    lake.verify()
    values = lake.latest("bars")["value"]
    assert values.len() == 500
    assert values.n_unique() == 1
    assert values[0] >= last
    version = artifacts.current("study", "stage")[""]
    artifacts.verify(version)
    made = int(artifacts.file("study", "stage", "i.txt"))
    assert made >= last
    assert artifacts.table("study", "stage", "x")["x"].to_list()[:2] == [made, made + 1]
    lake.sweep(timedelta(0))
    artifacts.sweep(timedelta(0))
    assert not list(tmp_path.rglob(f"{resources.commits.TEMPORARY}*"))
    assert lake.latest("bars")["value"].equals(values)
    again = lake.append(BARS, bars((TUESDAY, "a", 1.0)), request="r", ingested_at=after(TUESDAY))
    assert again.commit == lake.head()


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def half_then_full(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data[: len(data) // 2])
    full_disk()


@pytest.mark.parametrize("where", ["parquet", "fsync", "entry", "link"])
def test_a_full_disk_leaves_the_last_commit_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Pins a commit that points at bytes that never reached the disk, and leftovers that fill it further."""
    lake, artifacts = Lake(tmp_path / "lake"), Artifacts(tmp_path / "artifacts")
    first = bars((MONDAY, "a", 1.0))
    lake.append(BARS, first, request="r", ingested_at=after(MONDAY), complete=[MONDAY])
    artifacts.write("study", "stage", "", {"x": first}, {}, lineage={})
    before = lake.scan("bars")
    with monkeypatch.context() as broken:
        if where == "parquet":
            broken.setattr(pl.DataFrame, "write_parquet", lambda _, path: half_then_full(path, b"PAR1...."))
        elif where == "entry":
            broken.setattr(resources.commits, "write_synced", half_then_full)
        else:
            broken.setattr(os, where, full_disk)
        with pytest.raises(OSError, match="No space left"):
            lake.append(BARS, bars((TUESDAY, "a", 2.0)), request="r", ingested_at=after(TUESDAY))
        with pytest.raises(OSError, match="No space left"):
            artifacts.write("study", "stage", "", {"x": first.drop("value")}, {}, lineage={})
    for reader in (lake, Lake(lake.root)):
        assert reader.head() == 1
        assert reader.scan("bars").equals(before)
    assert artifacts.table("study", "stage", "x").equals(first)
    assert not list(tmp_path.rglob(f"{resources.commits.TEMPORARY}*"))
    assert lake.append(BARS, bars((TUESDAY, "a", 2.0)), request="r", ingested_at=after(TUESDAY)).commit == 2


def test_a_commit_number_is_taken_once(tmp_path: Path) -> None:
    """Pins two writers that both believe they won, and gaps that readers would fall into."""
    one, other = CommitLog(tmp_path), CommitLog(tmp_path)
    one.commit(1, {"by": "one"})
    with pytest.raises(LakeConflict, match="once"):
        other.commit(1, {"by": "other"})
    assert list(other.entries(0, other.head())) == [(1, {"by": "one"})]
    with pytest.raises(BadInput, match="use 2"):
        other.commit(3, {"by": "other"})


def test_a_lost_race_is_run_again_on_what_won(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pins a retry that repeats its stale comparison: both writers would add the same row."""
    lake, rival = Lake(tmp_path), Lake(tmp_path)
    lake.append(BARS, bars((MONDAY, "a", 1.0)), request="r", ingested_at=after(MONDAY))
    commit, rows = CommitLog.commit, bars((MONDAY, "b", 1.0))

    def rival_first(log: CommitLog, number: int, entry: dict) -> None:
        monkeypatch.setattr(CommitLog, "commit", commit)
        rival.append(BARS, rows, request="rival", ingested_at=after(MONDAY, 2))
        commit(log, number, entry)

    monkeypatch.setattr(CommitLog, "commit", rival_first)
    report = lake.append(BARS, rows, request="r", ingested_at=after(MONDAY, 3))
    assert (report.commit, report.new, report.unchanged) == (None, 0, 1)
    assert lake.scan("bars")["request"].to_list() == ["r", "rival"]


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    """Pins lost updates among threads that append to one table and to another."""
    days = [date(2024, 1, 2) + timedelta(days=i) for i in range(6)]

    def write(spec, code: str) -> None:
        lake = Lake(tmp_path)
        for day in days:
            lake.append(spec, bars((day, code, 1.0), spec=spec), request=code, ingested_at=after(days[-1]))

    jobs = [(BARS, "a"), (BARS, "b"), (BY_CODE, "c"), (BY_CODE, "d")]
    threads = [threading.Thread(target=write, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lake = Lake(tmp_path)
    assert lake.head() == 24
    for table, codes in (("bars", "ab"), ("by_code", "cd")):
        held = lake.scan(table).select("day", "code").rows()
        assert sorted(held) == [(day, code) for day in days for code in codes]
    fresh = Lake(tmp_path / "fresh")
    for spec, code in jobs:
        rows = bars(*((day, code, 1.0) for day in days), spec=spec)
        fresh.append(spec, rows, request="", ingested_at=after(days[-1]))
    assert fresh.manifest_hash() == lake.manifest_hash()


def test_sweeping_spares_files_on_their_way_into_a_commit(tmp_path: Path) -> None:
    """Pins a sweep that deletes what a slower writer is about to commit, or what it just put back."""
    log = CommitLog(tmp_path)
    file, _ = log.store("t", ".bin", lambda path: path.write_bytes(b"x"))
    assert log.sweep(set, timedelta(hours=1)) == []
    old = time.time() - 7200
    os.utime(tmp_path / file, (old, old))

    def referenced_late() -> set[str]:
        log.store("t", ".bin", lambda path: path.write_bytes(b"x"))
        return set()

    assert log.sweep(referenced_late, timedelta(hours=1)) == []
    assert (tmp_path / file).read_bytes() == b"x"
    os.utime(tmp_path / file, (old, old))
    assert log.sweep(set, timedelta(hours=1)) == [file]
    assert not (tmp_path / file).exists()
