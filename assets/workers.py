"""Partitions of one run in several processes: for stages whose partitions are long and independent of each other.

A result does not depend on it: threads and seeds belong to the study, and each process runs whole partitions.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from assets.stage_runner import Log, paced, run_partition
from pipeline.errors import FoldgateError
from pipeline.stages.registry import STAGES
from resources.environments import Environment
from resources.versions import Version

LISTEN_SECONDS = 0.2
# A pipe takes up to 4096 bytes whole or not at all: so workers need no lock, which a killed one would keep for ever,
# and it leaves no half line.
LINE_CHARACTERS = 500


class Line(NamedTuple):
    """How far a partition is."""

    partition: str
    text: str
    done: float


class Done(NamedTuple):
    """A finished partition and its pictures (title -> PNG)."""

    partition: str
    version: Version
    pictures: dict[str, bytes]


class _Worker:
    """What one process keeps between its partitions: stores, and inputs that every partition would rebuild."""

    environment: Environment
    shared: dict[str, Any]
    lines: Connection


def run_in_processes(
    home: Path, study: str, stage: str, partitions: Mapping[str, Log], processes: int
) -> Iterator[Done]:
    """Partitions as they finish, in any order. The first failure is raised; what is done stays stored.

    Parameters
    ----------
    partitions : mapping
        Partition -> what is told its progress, in this process and thread.

    Raises
    ------
    FoldgateError
        A process ended in the middle of a partition.
    """
    spawn = multiprocessing.get_context("spawn")
    reader, writer = spawn.Pipe(duplex=False)
    last = [*partitions][-1]
    with reader, writer, ProcessPoolExecutor(processes, spawn, _start, (home, os.getpid(), writer)) as pool:
        waiting = {pool.submit(_run, study, stage, partition, partition == last) for partition in partitions}
        try:
            while waiting:
                done, waiting = wait(waiting, LISTEN_SECONDS, FIRST_COMPLETED)
                while reader.poll():
                    line: Line = reader.recv()
                    partitions[line.partition](line.text, line.done)
                for future in done:
                    yield future.result()
        except BrokenProcessPool as broken:
            raise FoldgateError(
                f"a worker finishes its partition of {stage}",
                "one ended by itself: it was killed, or memory ran out",
                "run it again, it goes on where it stopped; fewer `workers` need less memory",
            ) from broken
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start(home: Path, parent: int, lines: Connection) -> None:
    _Worker.environment, _Worker.shared, _Worker.lines = Environment(home), {}, lines
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A killed run must not leave workers behind that write its partitions later."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _say(partition: str, text: str, done: float) -> None:
    with suppress(BrokenPipeError):  # another partition failed and nobody listens any more; this one is finished
        _Worker.lines.send(Line(partition, text[:LINE_CHARACTERS], done))


def _run(study: str, stage: str, partition: str, draw: bool) -> Done:
    environment = _Worker.environment
    with paced(partial(_say, partition)) as log:
        version, figures = run_partition(
            environment, STAGES[stage], environment.studies[study], partition, _Worker.shared, log
        )
    return Done(partition, version, {title: picture() for title, picture in figures.items()} if draw else {})
