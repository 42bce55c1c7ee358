"""Killed homes end as the uninterrupted one; a house that writes halves does not."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import polars as pl
import pytest

from assets.proof.contents import contents
from assets.proof.contract import BROKEN, HELD
from assets.proof.crashes import SIZES, Outcome, chosen_kills, differences, finding, killed_life, run
from assets.proof.lives import PHASES, Kill, Lived, live_through
from pipeline.diagnostics.finding import Finding
from pipeline.serving import record_files
from resources.environments import Environment

pytestmark = pytest.mark.xdist_group("proof_crashes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("crashes")


@pytest.fixture(scope="module")
def found(folder: Path) -> Finding:
    return run("small", folder, lambda text, done: None)


@pytest.fixture
def unrecorded(found: Finding, folder: Path, tmp_path: Path) -> Path:
    """The uninterrupted home at its end, without its records: its live session can be recorded once more."""
    home = tmp_path / "home"
    shutil.copytree(next(folder.glob("*/*/reference")), home)
    shutil.rmtree(home / "records")
    return home


def test_a_killed_home_ends_as_the_uninterrupted_one(found: Finding) -> None:
    """Pins rows, versions, trials or records that a kill loses or doubles, and hashes that follow threads or order."""
    kills, anew = found.tables["kills"], found.tables["made anew"]
    assert (found.status, found.score) == (HELD, 1.0), [*kills.to_dicts(), *anew.to_dicts()]
    assert kills["kills"].sum() == SIZES["small"].kills
    assert {*kills["killed"]} == {"between two steps", "before a file appears", "at a random moment"}
    assert anew["contents compared"].min() > 300  # type: ignore[operator]


def torn(home: str, phases: Sequence[str], kill: Kill | None, said: Connection) -> None:
    """A process that creates records in place, and is killed in the middle of the first."""

    def create(path: Path, data: bytes, writer: str = "") -> bool:
        if path.exists():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        if kill is not None:
            path.write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        path.write_bytes(data)
        return True

    record_files.create_once = create  # type: ignore[assignment]
    live_through(home, phases, kill, said)


def test_a_record_that_is_written_in_place_breaks_the_proof(folder: Path, unrecorded: Path) -> None:
    """Pins a comparison that half a record passes."""
    expected = {"live": Lived("live", contents(Environment(next(folder.glob("*/*/reference")))))}
    kills, swept = killed_life(unrecorded, [Kill("live", "moment", after=600)], expected, child=torn)
    assert "RecordConflict" in kills[0][1]
    few = replace(SIZES["small"], kills=1)
    assert finding([Outcome("study", expected, kills, [("elsewhere", 1, "")], swept)], few).status == BROKEN


def test_a_kill_that_comes_too_late_is_made_to_come_sooner() -> None:
    """Pins kills that are counted though the process had ended by itself."""
    assert Kill("live", "moment", after=4.0).sooner == Kill("live", "moment", after=2.0)
    assert Kill("live", "write", write=9).sooner == Kill("live", "write", write=4)
    assert Kill("live", "step", step="inference").sooner.kind == "moment"


def test_each_step_boundary_is_among_the_kills_of_the_full_run() -> None:
    """Pins a boundary that is never tried."""
    reference = {phase: Lived(phase, steps=(f"{phase} 1", f"{phase} 2"), writes=9, seconds=1.0) for phase in PHASES}
    kills = chosen_kills(reference, replace(SIZES["full"], kills=50), random.Random(0))
    assert {(kill.phase, kill.step) for kill in kills if kill.kind == "step"} == {
        (phase, step) for phase, lived in reference.items() for step in lived.steps
    }
    assert len(kills) == 50
    assert {kill.kind for kill in kills} == {"step", "write", "moment"}


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        ({"ledger/rows": "2"}, ""),
        ({"ledger/rows": "4"}, "ledger/rows: 2 is 4"),
        ({}, "ledger/rows: 2 is None"),
        ({"ledger/rows": "2", "records/extra": "a"}, "records/extra: None is a"),
    ],
)
def test_whatever_is_more_or_less_or_other_is_a_difference(found: dict[str, str], wanted: str) -> None:
    """Pins contents that are lost or doubled without being seen."""
    assert differences({"ledger/rows": "2"}, Lived("live", found)) == wanted


def test_fewer_kills_than_asked_for_break_the_proof() -> None:
    """Pins a proof that holds because nothing was killed."""
    nothing = finding([Outcome("study", {})], SIZES["small"])
    assert nothing.status == BROKEN
    assert nothing.tables["kills"].schema["kills"] == pl.Int64
