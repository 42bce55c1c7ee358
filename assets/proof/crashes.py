"""Killed in the middle, a home goes on to what it would have been; made anew elsewhere, it is the same again."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from assets.proof.contents import HASH_CHARACTERS
from assets.proof.contract import BROKEN, HELD, Progress, Size
from assets.proof.homes import HomePlan, open_home
from assets.proof.lives import PHASES, Child, Kill, Lived, live, live_through
from pipeline.diagnostics.finding import Finding
from pipeline.errors import BadInput
from pipeline.files import replace_if_changed
from pipeline.fingerprints import hash_sources
from pipeline.studies import STUDIES
from pipeline.study import Study
from resources.environments import SETTINGS_FILE

SEED = 20261120
HOUSE = ("assets", "pipeline", "resources")
ATTEMPTS = 12  # a phase that is over before the kill is run again with one that comes sooner
RESUMED_FROM_THE_START = 4  # every so many lives
NAMED_DIFFERENCES = 3


@dataclass(frozen=True)
class Elsewhere:
    """Where a home is made anew.

    Parameters
    ----------
    variables : mapping
        Environment variables of its interpreter.
    shuffled : bool
        Partitions one by one in a drawn order, in place of ranges.
    workers : int
        Processes that train.
    """

    name: str
    variables: Mapping[str, str]
    shuffled: bool = False
    workers: int = 1


def _threads(count: int) -> dict[str, str]:
    """Thread pools that no study sets."""
    return {f"{pool}_THREADS": str(count) for pool in ("POLARS_MAX", "OMP_NUM", "OPENBLAS_NUM", "NUMBA_NUM")}


ELSEWHERE = (
    Elsewhere("hash seed 1, one thread each, partitions in another order",
              {"PYTHONHASHSEED": "1", **_threads(1)}, shuffled=True),
    Elsewhere("hash seed 2, two threads each, two training processes",
              {"PYTHONHASHSEED": "2", **_threads(2)}, workers=2),
    Elsewhere("random hash seed, partitions in another order", {"PYTHONHASHSEED": "random"}, shuffled=True),
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """How much is killed.

    Parameters
    ----------
    homes : mapping
        How often a study decides -> its home; others are left out.
    kills : int
        Of all studies together.
    lives : int
        Of a study, over which its kills are dealt.
    every_step : bool
        Whether each step boundary is among the kills, or some are drawn.
    """

    homes: Mapping[str, HomePlan]
    kills: int
    lives: int
    every_step: bool
    elsewhere: tuple[Elsewhere, ...]


_FEW_TABLES = ("trade_cal", "stock_basic", "daily", "adj_factor", "daily_basic", "suspend_d", "index_daily")
_SMALLEST: dict[str, Any] = {
    "universe.seasoning_sessions": 5,
    "execution.random_books": 2,
    "features": ["returns", "limits"],
    "tables": [{"table": name} for name in _FEW_TABLES],
}
_LATE = {"faults": {"late_rate": 0.02, "revision_rate": 0.02, "stretch": 3}}
SIZES: dict[Size, Sizes] = {
    "small": Sizes(
        {"session": HomePlan(market={"sessions": 100}, held=72, evenings=2, study=_SMALLEST)},
        kills=8, lives=1, every_step=False, elsewhere=ELSEWHERE[:1],
    ),
    "full": Sizes(
        {"session": HomePlan(2, market={"sessions": 110, **_LATE}, held=90, evenings=2,
                             study={"universe.seasoning_sessions": 20}),
         "minute": HomePlan(2, market={"days": 12}, evenings=2, study={"training.row_cap": 500})},
        kills=200, lives=10, every_step=True, elsewhere=ELSEWHERE,
    ),
}  # fmt: skip


@dataclass
class Outcome:
    """What became of a study's homes.

    Parameters
    ----------
    reference : mapping
        Phase -> what the uninterrupted life said.
    kills : list
        Each kill, and what differed when its phase was over at last; empty where nothing did.
    anew : list
        Where a home was made anew, how many of its contents were compared, and which differ.
    """

    study: str
    reference: Mapping[str, Lived]
    kills: list[tuple[Kill, str]] = field(default_factory=list)
    anew: list[tuple[str, int, str]] = field(default_factory=list)
    swept: int = 0


def run(size: Size, folder: Path, progress: Progress) -> Finding:
    """Every study that the size names: one life in peace, others with kills, others elsewhere."""
    asked, code = SIZES[size], hash_sources(HOUSE)
    folder = folder / code[:HASH_CHARACTERS]  # what an interrupted run of other code left is not gone on with
    studies = [study for study in STUDIES.values() if study.market.decides in asked.homes]
    outcomes = []
    for i, study in enumerate(studies):
        share = asked.kills // len(studies) + (i < asked.kills % len(studies))

        def told(text: str, done: float, at: int = i) -> None:
            progress(text, (at + done) / len(studies))

        outcomes.append(examine(study, replace(asked, kills=share), folder / study.name, told))
    found = finding(outcomes, asked)
    if found.status == BROKEN and hash_sources(HOUSE) != code:
        raise BadInput("the code stays as it is while homes are compared", "it was edited meanwhile", "run it again")
    return found


def examine(study: Study, asked: Sizes, folder: Path, progress: Progress) -> Outcome:
    """One study."""
    progress(f"{study.name}: an uninterrupted life", 0.0)
    empty = folder / "empty"
    open_home(study, empty, asked.homes[study.market.decides])
    anew = [(place, _elsewhere(empty, folder / f"elsewhere_{i}", place)) for i, place in enumerate(asked.elsewhere[:1])]
    reference = _reference(empty, folder)
    outcome = Outcome(study.name, reference)
    dealt = deal(chosen_kills(reference, asked, random.Random(SEED)), asked.lives)
    with ThreadPoolExecutor(min(2, asked.lives)) as pool:
        lives = [pool.submit(_one_life, empty, folder, number, kills, reference) for number, kills in enumerate(dealt)]
        for number, running in enumerate(lives, start=1):
            kills, swept = running.result()
            outcome.kills += kills
            outcome.swept += swept
            progress(f"{study.name}: {len(outcome.kills)} kills", number / (len(lives) + 1))
    for i, place in enumerate(asked.elsewhere[1:], start=1):
        anew.append((place, begun := _elsewhere(empty, folder / f"elsewhere_{i}", place)))
        if begun:
            begun.wait()
    outcome.anew = [
        (place.name, *_judged(process, folder / f"elsewhere_{i}.json", reference))
        for i, (place, process) in enumerate(anew)
    ]
    return outcome


def _reference(empty: Path, folder: Path) -> dict[str, Lived]:
    """The uninterrupted life, from its file where an earlier run got that far."""
    lived = _once(
        folder / "reference.json",
        lambda: {phase: asdict(each) for phase, each in uninterrupted(empty, folder / "reference").items()},
    )
    return {phase: Lived(**each) for phase, each in lived.items()}


def _once(path: Path, build: Callable[[], Any]) -> Any:
    """Plain values that are built once, however often the proof is interrupted."""
    if not path.exists():
        replace_if_changed(path, json.dumps(build()).encode())
    return json.loads(path.read_bytes())


def _fresh(empty: Path, home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(empty, home)


def uninterrupted(empty: Path, home: Path) -> dict[str, Lived]:
    """A whole life in one process.

    Raises
    ------
    RuntimeError
        It failed: then there is nothing to compare with.
    """
    _fresh(empty, home)
    lived = live(home, [*PHASES])
    if lived[-1].failure or len(lived) < len(PHASES):
        raise RuntimeError(f"the uninterrupted life ended in {lived[-1].phase}: {lived[-1].failure}")
    return {each.phase: each for each in lived}


def chosen_kills(reference: Mapping[str, Lived], asked: Sizes, draw: random.Random) -> list[Kill]:
    """Step boundaries, then durable operations and moments by turns, drawn from the uninterrupted life."""
    steps = [Kill(phase, "step", step=step) for phase, lived in reference.items() for step in lived.steps]
    kills = steps if asked.every_step else draw.sample(steps, min(3, asked.kills))
    writes = [Kill(phase, "write", write=n) for phase, lived in reference.items() for n in range(lived.writes)]
    seconds = [lived.seconds for lived in reference.values()]
    while len(kills) < asked.kills:
        phase = draw.choices([*reference], seconds)[0]
        moment = Kill(phase, "moment", after=draw.uniform(0, reference[phase].seconds))
        kills.append(moment if len(kills) % 2 else draw.choice(writes))
    return kills[: asked.kills]


def deal(kills: Sequence[Kill], lives: int) -> list[list[Kill]]:
    """The kills of each life, in the order of its phases and steps."""
    order = {phase: i for i, phase in enumerate(PHASES)}
    return [sorted(kills[n::lives], key=lambda kill: order[kill.phase]) for n in range(lives)]


def _one_life(
    empty: Path, folder: Path, number: int, kills: Sequence[Kill], reference: Mapping[str, Lived]
) -> tuple[list[tuple[Kill, str]], int]:
    """A life with kills; every other one trains in two processes, which outlive their killed run for a while."""
    home = folder / f"life_{number}"

    def lived() -> Any:
        _fresh(empty, home)
        _set_workers(home, 1 + number % 2)
        from_start = number % RESUMED_FROM_THE_START == RESUMED_FROM_THE_START - 1
        judged, swept = killed_life(home, kills, reference, from_start=from_start)
        shutil.rmtree(home)
        return [[asdict(kill), differed] for kill, differed in judged], swept

    judged, swept = _once(folder / f"life_{number}.json", lived)
    return [(Kill(**kill), differed) for kill, differed in judged], swept


def killed_life(
    home: Path,
    kills: Sequence[Kill],
    reference: Mapping[str, Lived],
    *,
    from_start: bool = False,
    child: Child = live_through,
) -> tuple[list[tuple[Kill, str]], int]:
    """Live through all phases that the reference has, dying at every kill, and compare whatever is reached.

    Parameters
    ----------
    from_start : bool
        After a kill in research begin with the first phase again, in place of the phase that was killed.

    Returns
    -------
    tuple
        Kills and what differed after them; files swept at the end.
    """
    phases, at, reached = [*reference], 0, 0
    differed, died, swept = dict[str, str](), list[Kill](), 0
    for planned in [*kills, None]:
        kill, target = planned, phases.index(planned.phase) if planned else len(phases) - 1
        for _ in range(ATTEMPTS):
            lived = live(home, phases[at : target + 1], kill, child)
            for each in lived:
                if each.failure or phases.index(each.phase) >= reached:  # before, the home holds what came later too
                    differed[each.phase] = differences(reference[each.phase].contents, each)
                swept += each.swept
            reached = max(reached, target)
            if lived and lived[-1].failure:
                return [(kill, differed.get(kill.phase) or lived[-1].failure) for kill in kills], swept
            ended = len(lived) == target + 1 - at
            at = target
            if kill is None or not ended:
                break
            kill = kill.sooner
        if kill is not None:
            died.append(kill)
        at = 0 if from_start and phases[at] in ("market", "research") else at
    return [(kill, differed[kill.phase]) for kill in died], swept


def differences(expected: Mapping[str, str], lived: Lived) -> str:
    """The first few contents that are not as in the uninterrupted life; empty when all are."""
    if lived.failure:
        return lived.failure
    names = sorted(
        name for name in expected.keys() | lived.contents.keys() if expected.get(name) != lived.contents.get(name)
    )
    shown = [f"{name}: {expected.get(name)} is {lived.contents.get(name)}" for name in names[:NAMED_DIFFERENCES]]
    return "; ".join([*shown, *([f"{len(names)} in all"] if len(names) > len(shown) else [])])


def _set_workers(home: Path, workers: int) -> None:
    path = home / SETTINGS_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"workers": workers}))


def _elsewhere(empty: Path, home: Path, place: Elsewhere) -> subprocess.Popen[bytes] | None:
    """A whole life in an interpreter of its own, begun; None where it was lived before."""
    if Path(f"{home}.json").exists():
        return None
    _fresh(empty, home)
    _set_workers(home, place.workers)
    order = str(SEED) if place.shuffled else ""
    command = [sys.executable, "-W", "ignore", "-m", "assets.proof.lives", str(home), f"{home}.json", order]
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(command, env={**os.environ, **place.variables}, cwd=root, stderr=subprocess.PIPE)


def _judged(process: subprocess.Popen[bytes] | None, result: Path, reference: Mapping[str, Lived]) -> tuple[int, str]:
    """How many contents were compared, and what differs."""
    errors = process.communicate()[1] if process else b""
    if process and process.returncode:
        return 0, f"ended with {process.returncode}: {errors.decode().splitlines()[-1:]}"
    found: dict[str, dict[str, str]] = json.loads(result.read_text())
    compared = sum(len(each.contents) for each in reference.values())
    wrong = [differences(lived.contents, Lived(phase, found[phase])) for phase, lived in reference.items()]
    return compared, next((text for text in wrong if text), "")


def finding(outcomes: Sequence[Outcome], asked: Sizes) -> Finding:
    """All studies together: held where every kill that was asked for fell, and nothing differs."""
    kills = [(outcome.study, kill, differed) for outcome in outcomes for kill, differed in outcome.kills]
    anew = [(outcome.study, *row) for outcome in outcomes for row in outcome.anew]
    fine = sum(not differed for _, _, differed in kills)
    held = fine == len(kills) == asked.kills and all(compared and not differed for *_, compared, differed in anew)
    compared = sum(len(lived.contents) for outcome in outcomes for lived in outcome.reference.values())
    swept = sum(outcome.swept for outcome in outcomes)
    return Finding(
        score=fine / asked.kills,
        status=HELD if held else BROKEN,
        text=f"{len(kills)} processes were killed with SIGKILL in {len(outcomes)} of {len(STUDIES)} studies; after "
        f"{fine} of them the resumed home held what the uninterrupted one held: lake rows and versions, results, "
        f"ledger, champion, bundles and records, {compared} contents by hash or count at the ends of {len(PHASES)} "
        "phases. "
        f"{swept} files that the killed processes left were reached by no commit and swept. "
        f"{sum(not row[-1] for row in anew)} of {len(anew)} homes made anew elsewhere were equal too.",
        tables={"kills": _kill_table(kills), "made anew": _anew_table(anew)},
        rule="held when as many processes were killed as asked for, and no content of any home differs",
        counts={"kills": len(kills), "equal after": fine, "contents": compared, "swept": swept, "made anew": len(anew)},
    )


def _kill_table(kills: Sequence[tuple[str, Kill, str]]) -> pl.DataFrame:
    """One row a study, phase and kind of kill."""
    rows = [{"study": study, "killed in": kill.phase, "killed": KINDS[kill.kind], "kills": 1,
             "equal after": int(not differed), "first difference": differed or None}
            for study, kill, differed in kills]  # fmt: skip
    schema = {"study": pl.String, "killed in": pl.String, "killed": pl.String, "kills": pl.Int64,
              "equal after": pl.Int64, "first difference": pl.String}  # fmt: skip
    order = pl.col("killed in").replace_strict({phase: i for i, phase in enumerate(PHASES)}, return_dtype=pl.Int64)
    by = ["study", "killed in", "killed"]
    grouped = pl.DataFrame(rows, schema=schema).group_by(by, maintain_order=True)
    table = grouped.agg(pl.sum("kills", "equal after"), pl.col("first difference").drop_nulls().first())
    return table.sort("study", order, "killed")


KINDS = {"step": "between two steps", "write": "before a file appears", "moment": "at a random moment"}


def _anew_table(anew: Sequence[tuple[str, str, int, str]]) -> pl.DataFrame:
    schema = {"study": pl.String, "made anew with": pl.String, "contents compared": pl.Int64,
              "first difference": pl.String}  # fmt: skip
    rows = [(study, name, compared, differed or None) for study, name, compared, differed in anew]
    return pl.DataFrame(rows, schema=schema, orient="row")
