"""Partitions in several processes: their progress is heard, and a dead one ends the run instead of hanging it."""

from __future__ import annotations

import multiprocessing
import re
from pathlib import Path

import pytest

from assets.stage_runner import paced
from assets.workers import run_in_processes
from pipeline.errors import BadInput, FoldgateError
from tests.tiny import Tiny, copy_of

pytestmark = pytest.mark.xdist_group("tiny")


def test_progress_of_workers_reaches_the_run(tiny: Tiny, tmp_path: Path) -> None:
    """Pins workers that say nothing for hours, and lines that do not tell which partition they are of."""
    runner, heard = copy_of(tiny.eve, tmp_path / "home", workers=2), list[str]()
    runner.environment.watch = heard.append
    splits, n = runner.study.folds.splits, len(runner.study.folds.splits) * len(runner.study.members)
    runner.stages(["models"], first=f"linear|{splits[0]}", last=f"boosted|{splits[-1]}")
    kept = sorted(line for line in heard if "unchanged, kept" in line)
    assert len(kept) == n
    assert re.fullmatch(rf"models {splits[0]}\|boosted \(\d/{n}\): unchanged, kept, 100%", kept[0])
    assert sum("done, " in line for line in heard) == n


def test_a_failed_partition_ends_the_run(tiny: Tiny, tmp_path: Path) -> None:
    """Pins a run that hangs with partitions that were cancelled, or hides why the first one failed."""
    runner = copy_of(tiny.eve, tmp_path / "home")
    names = ["nowhere|linear", *(f"{split}|linear" for split in runner.study.folds.splits)]
    told = {name: lambda text, done: None for name in names}
    with pytest.raises(BadInput, match="one of these folds"):
        list(run_in_processes(runner.environment.home, runner.study.name, "models", told, 1))


def test_a_dead_worker_is_said_and_not_waited_for(tiny: Tiny, tmp_path: Path) -> None:
    """Pins a parent that listens for ever to a process that the kernel killed."""
    runner = copy_of(tiny.eve, tmp_path / "home", overrides={"members.1.rounds": 40})

    def kill(text: str, done: float) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    told = {f"{split}|{member}": kill for split in runner.study.folds.splits for member in ("linear", "boosted")}
    with pytest.raises(FoldgateError, match="killed, or memory ran out"):
        list(run_in_processes(runner.environment.home, runner.study.name, "models", told, 2))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that pacing sees, to be set."""
    now = [0.0]
    monkeypatch.setattr("assets.stage_runner.time.monotonic", lambda: now[0])
    return now


def test_a_log_is_paced_and_says_the_last(clock: list[float]) -> None:
    """Pins a thousand lines a second in Dagster's log, a run that seems to stop at 98%, and a last line said twice."""
    heard: list[str] = []
    with paced(lambda text, done: heard.append(text), 1.0) as log:
        for i in range(25):
            clock[0] = i / 10
            log(str(i), i / 25)
    assert heard == ["0", "10", "20", "24"]
    with paced(lambda text, done: heard.append(text)) as log:
        log("only", 1.0)
    assert heard[4:] == ["only"]


def test_a_failing_step_still_says_how_far_it_came(clock: list[float]) -> None:
    """Pins a last line that is swallowed by the exception it explains."""
    heard: list[str] = []

    def fail() -> None:
        with paced(lambda text, done: heard.append(text)) as log:
            log("first", 0.0)
            log("before it failed", 0.1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert heard == ["first", "before it failed"]
