"""A home's life from raw tables to a checked live session, phase by phase, each in a process that may be killed.

The processes are real and so is the SIGKILL. They are forked from a server that has imported everything and computed
nothing, so that a hundred of them cost little more than what they compute.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import dagster as dg

from assets.daily import check_session, run_session
from assets.jobs import MARKET_STAGES, RESEARCH_STAGES
from assets.partitions import MEMBER, SPLIT
from assets.proof.contents import contents, sweep
from assets.proof.homes import runner_of
from assets.runs import Runner
from pipeline.files import replace_if_changed
from pipeline.stages.contract import months
from resources.environments import Environment

PRELOADED = ["assets.definitions", "assets.proof.lives"]
# What a file's way into a store ends with; each is a moment between two states of the disk.
DURABLE_EVENTS = {"os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}
WRITING = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class Kill:
    """When a process dies in a phase.

    Parameters
    ----------
    kind : str
        `step`: when a step is done and the next not begun; `write`: before a file is created, renamed or removed;
        `moment`: whenever the clock says.
    step : str
        Name of the step.
    write : int
        Which of the phase's durable operations, from 0.
    after : float
        Seconds after the phase began.
    """

    phase: str
    kind: str
    step: str = ""
    write: int = 0
    after: float = 0.0

    @property
    def sooner(self) -> Kill:
        """For a phase that ended before: what is done already need not be done again, so it is shorter."""
        return Kill(self.phase, "moment" if self.kind == "step" else self.kind, "", self.write // 2, self.after / 2)


@dataclass(frozen=True)
class Lived:
    """What a process said at the end of a phase.

    Parameters
    ----------
    contents : mapping
        Of the home, `contents`.
    steps : tuple of str
        In order.
    writes : int
        Durable operations.
    swept : int
        Files that no commit reached, deleted at the end of the last phase.
    failure : str
        The error that ended it; empty when there was none.
    """

    phase: str
    contents: dict[str, str] = field(default_factory=dict)
    steps: tuple[str, ...] = ()
    writes: int = 0
    seconds: float = 0.0
    swept: int = 0
    failure: str = ""


def _tables(runner: Runner, order: random.Random | None) -> None:
    if order is None:
        return runner.ingest()
    for month in _shuffled(_months(runner), order):
        runner.ingest(month, month)


def _market(runner: Runner, order: random.Random | None) -> None:
    if order is None:
        return runner.market()
    for stage in MARKET_STAGES:
        for month in _shuffled(_months(runner), order):
            runner.stages([stage], first=month)


def _research(runner: Runner, order: random.Random | None) -> None:
    if order is None:
        return runner.research()
    splits = runner.study.folds.splits
    both = [dg.MultiPartitionKey({SPLIT: s, MEMBER: member.name}) for s in splits for member in runner.study.members]
    runner.stages(["folds"])
    for stage, partitions in (("models", both), ("calibrators", splits), ("positions", splits)):
        for partition in _shuffled([str(each) for each in partitions], order):
            runner.stages([stage], first=partition)
    runner.stages(list(RESEARCH_STAGES[4:6]))
    runner.judged("scorecard")


def _live(runner: Runner, order: random.Random | None) -> None:
    day = runner.environment.settings.last_session
    assert day
    runner.environment.move_clock(runner.study.market.decided_at(day))
    run_session(runner, day)


def _check(runner: Runner, order: random.Random | None) -> None:
    day = runner.environment.settings.last_session
    assert day
    check_session(runner, day)


PHASES: dict[str, Callable[[Runner, random.Random | None], None]] = {
    "tables": _tables,
    "market": _market,
    "research": _research,
    "candidate": lambda runner, order: runner.judged("candidate"),
    "champion": lambda runner, order: runner.judged("champion"),
    "live": _live,
    "check": _check,
}
"""Name -> (runner, order of partitions or None for one range) in the order of a life."""


def _months(runner: Runner) -> list[str]:
    """Of all sessions that were decided by now."""
    environment = runner.environment
    first, last = environment.settings.first_session, environment.settings.last_session
    assert first
    assert last
    sessions = environment.announced_calendar().between(first, last)
    now, market = environment.clock.now(), environment.study.market
    return months([day for day in sessions if market.decided_at(day) <= now])


def _shuffled(names: Sequence[str], order: random.Random) -> list[str]:
    return order.sample(list(names), len(names))


def live_through(home: str, phases: Sequence[str], kill: Kill | None, said: Connection) -> None:
    """In a process of its own: the phases one after the other, dying in the last one where a kill is given."""
    steps, writes = list[str](), Writes(home)
    armed: Kill | None = None

    def step_done(step: str, seconds: float) -> None:
        steps.append(step)
        if armed is not None and armed.kind == "step" and step == armed.step:
            _die()

    phase = ""
    try:
        environment = Environment(Path(home))
        runner = runner_of(environment)
        runner.report = step_done
        for phase in phases:
            armed = kill if phase == phases[-1] else None
            began = time.perf_counter()
            steps.clear()
            said.send(phase)
            with writes.counted(armed):
                PHASES[phase](runner, None)
            took = time.perf_counter() - began
            swept = sweep(environment) if phase == [*PHASES][-1] else 0
            said.send(Lived(phase, contents(environment), tuple(steps), writes.seen, took, swept))
    except Exception as error:  # whatever a resumed run meets is what the proof is looking for
        first = (str(error) or "no message").splitlines()[0]
        said.send(Lived(phase, failure=f"{type(error).__name__}: {first}"))


class Writes:
    """Counts this process's durable operations on a home, and dies before a chosen one."""

    def __init__(self, home: str) -> None:
        self._home, self._fatal, self._on = home, -1, False
        self.seen = 0
        sys.addaudithook(self._heard)

    @contextmanager
    def counted(self, kill: Kill | None) -> Iterator[None]:
        """While a phase runs, from 0."""
        self.seen, self._fatal = 0, kill.write if kill is not None and kill.kind == "write" else -1
        self._on = True
        yield
        self._on = False

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on or not (event in DURABLE_EVENTS or (event == "open" and _writes(arguments))):
            return
        if not str(arguments[0]).startswith(self._home):
            return
        if self.seen == self._fatal:
            _die()
        self.seen += 1


def _writes(arguments: tuple[Any, ...]) -> bool:
    """Whether an `open` event is of a file that will be written."""
    return len(arguments) > 2 and isinstance(arguments[2], int) and bool(arguments[2] & WRITING)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


Child = Callable[[str, Sequence[str], Kill | None, Connection], None]


def live(home: Path, phases: Sequence[str], kill: Kill | None = None, child: Child = live_through) -> list[Lived]:
    """Run phases in a process; those that it lived to the end of, or up to a failure. Fewer when it was killed.

    Parameters
    ----------
    phases : sequence of str
        One after the other; a kill falls into the last.
    child : callable
        What runs in the process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(str(home), list(phases), kill, writer))
    process.start()
    writer.close()
    with reader:
        lived = _listen(reader, process, phases[-1], kill)
    process.join()
    if process.exitcode not in ((0,) if kill is None else (0, -signal.SIGKILL)):
        lived.append(Lived(phases[-1], failure=f"the process ended with {process.exitcode}"))
    return lived


def _listen(reader: Connection, process: Any, last: str, kill: Kill | None) -> list[Lived]:
    """What is said until the process ends; it is killed on the way where its clock says so."""
    lived = []
    with suppress(EOFError, OSError):  # so a pipe ends, in the middle of a line or not
        while True:
            heard = reader.recv()
            if isinstance(heard, Lived):
                lived.append(heard)
            elif kill is not None and kill.kind == "moment" and heard == last and not reader.poll(kill.after):
                process.kill()
    return lived


def main(home: str, result: str, seed: str) -> None:
    """A whole life in this interpreter, partitions in a drawn order; what the home then holds goes into a file."""
    runner = runner_of(Environment(Path(home)))
    order = random.Random(int(seed)) if seed else None
    said = {}
    for name, phase in PHASES.items():
        phase(runner, order)
        said[name] = contents(runner.environment)
    replace_if_changed(Path(result), json.dumps(said).encode())


if __name__ == "__main__":
    main(*sys.argv[1:4])
