"""Partitions of one run in several processes: for stages whose partitions are long and independent of each other.

A result does not depend on it: threads and seeds belong to the study, and each process runs whole partitions.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from assets.stage_runner import run_partition
from pipeline.stages.registry import STAGES
from resources.environments import Environment
from resources.versions import Version


class Done(NamedTuple):
    """A finished partition and its pictures (title -> PNG)."""

    partition: str
    version: Version
    pictures: dict[str, bytes]


class _Worker:
    """What one process keeps between its partitions: stores, and inputs that every partition would rebuild."""

    environment: Environment
    shared: dict[str, Any]


def run_in_processes(home: Path, study: str, stage: str, partitions: Sequence[str], processes: int) -> Iterator[Done]:
    """Partitions as they finish, in any order. The first failure is raised; what is done stays stored."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawn, _start, (home, os.getpid())) as pool:
        waiting = [pool.submit(_run, study, stage, partition, partition == partitions[-1]) for partition in partitions]
        try:
            for future in as_completed(waiting):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start(home: Path, parent: int) -> None:
    _Worker.environment, _Worker.shared = Environment(home), {}
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A killed run must not leave workers behind that write its partitions later."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _run(study: str, stage: str, partition: str, draw: bool) -> Done:
    environment = _Worker.environment
    version, figures = run_partition(
        environment, STAGES[stage], environment.studies[study], partition, _Worker.shared, lambda text, done: None
    )
    return Done(partition, version, {title: picture() for title, picture in figures.items()} if draw else {})
