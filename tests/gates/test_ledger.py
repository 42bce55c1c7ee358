"""The ledger and the chain under it: tampering, races and kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import Tampered
from pipeline.gates.chain import GENESIS, Chain
from pipeline.gates.ledger import Ledger, Trial, returns_matrix

REPOSITORY = Path(__file__).parents[2]
DAYS = [date(2026, 1, 5) + timedelta(days=i) for i in range(30)]


def trial(configuration: str, rows: str = "paths:1", first: int = 0, seed: int = 0) -> Trial:
    returns = np.random.default_rng(seed).standard_normal(30 - first)
    return Trial(configuration, configuration, "evaluation", rows, DAYS[first:], returns.tolist())


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path)
    made.append([trial("a"), trial("b"), trial("c"), trial("d")])
    return made


def test_the_same_trial_is_one_row(ledger: Ledger) -> None:
    """Pins an N that grows with every repeated run, and one that does not grow with other rows."""
    head = ledger.head()
    assert ledger.append([trial("a"), trial("d")]) == head
    assert ledger.append([trial("a", rows="locked:1")]) != head
    ledger.append([trial("e", seed=1), trial("e", seed=2)])
    assert ledger.rows()["configuration"].to_list() == ["a", "b", "c", "d", "a", "e"]
    assert ledger.rows()["returns"][-1].to_list() == list(trial("e", seed=1).returns)


def test_rows_survive_reading(ledger: Ledger) -> None:
    """Pins returns that lose bits in JSON: the matrix of PBO is read back from here."""
    row = ledger.rows().row(0, named=True)
    assert row["returns"] == list(trial("a").returns)
    assert row["sessions"][0] == "2026-01-05"
    assert row["n"] == 30


def edit(root: Path) -> None:
    path = root / "000002.json"
    row = json.loads(path.read_text())
    row["body"]["sharpe"] = 0.0
    path.write_text(json.dumps(row))


def delete(root: Path) -> None:
    (root / "000002.json").unlink()


def delete_and_renumber(root: Path) -> None:
    for number in (3, 4):
        (root / f"{number:06d}.json").rename(root / f"{number - 1:06d}.json")


def reorder(root: Path) -> None:
    second, third = root / "000002.json", root / "000003.json"
    texts = third.read_text(), second.read_text()
    for path, text in zip((second, third), texts, strict=True):
        path.write_text(text)


def rewrite_with_a_right_hash(root: Path) -> None:
    """Forge a whole row: its own hash is right, but the next one names another."""
    forged = Chain(root.parent / "forged")
    rows = Chain(root).rows()
    for row in (rows[0]["body"], rows[1]["body"] | {"sharpe": 9.0}):
        forged.append(lambda _, row=row: row)
    shutil.copy(root.parent / "forged" / "000002.json", root / "000002.json")


def truncate(root: Path) -> None:
    path = root / "000004.json"
    path.write_bytes(path.read_bytes()[:-20])


def not_an_object(root: Path) -> None:
    (root / "000004.json").write_text("[]")


@pytest.mark.parametrize(
    "damage",
    [edit, delete, delete_and_renumber, reorder, rewrite_with_a_right_hash, truncate, not_an_object],
)
def test_tampering_is_seen(damage: Callable[[Path], None], tmp_path: Path) -> None:
    """Pins each way in which a search could be made to look smaller than it was."""
    ledger = Ledger(tmp_path / "ledger")
    ledger.append([trial(name) for name in "abcd"])
    damage(tmp_path / "ledger")
    with pytest.raises(Tampered):
        ledger.rows()
    with pytest.raises(Tampered):
        ledger.append([trial("e")])


def test_a_cut_tail_is_seen_by_an_anchor_only(ledger: Ledger, tmp_path: Path) -> None:
    """Pins what a chain alone cannot see: the newest rows removed, and the rest in order."""
    anchor = ledger.head()
    ledger.append([trial("e")])
    ledger.verify(anchor)
    (tmp_path / "000005.json").unlink()
    (tmp_path / "000004.json").unlink()
    assert len(ledger.rows()) == 3
    with pytest.raises(Tampered, match="anchored elsewhere"):
        ledger.verify(anchor)


def test_an_empty_ledger_holds_only_the_genesis_anchor(tmp_path: Path) -> None:
    """Pins a whole ledger removed: only the anchor of nothing may match nothing."""
    empty = Ledger(tmp_path / "none")
    empty.verify(GENESIS)
    with pytest.raises(Tampered):
        empty.verify("1" * 64)


def test_returns_matrix_reads_shared_sessions_only(tmp_path: Path) -> None:
    """Pins configurations of other lengths that would be compared on other days."""
    ledger = Ledger(tmp_path)
    whole, late = trial("a", seed=1), trial("b", first=10, seed=2)
    ledger.append([whole, late])
    matrix = returns_matrix(ledger.rows())
    assert matrix.shape == (20, 2)
    np.testing.assert_array_equal(matrix[:, 0], whole.returns[10:])
    np.testing.assert_array_equal(matrix[:, 1], late.returns)


def test_threads_of_one_process_do_not_lose_rows(tmp_path: Path) -> None:
    """Pins a temporary name shared by threads: one linked what the other had written into it."""
    chain = Chain(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: chain.append(lambda _: {"i": i}), range(64)))
    assert sorted(row["body"]["i"] for row in chain.rows()) == list(range(64))


APPENDER = """
import os, signal, sys
from pathlib import Path
from pipeline.gates.chain import Chain
at, root = sys.argv[1], Path(sys.argv[2])
real = os.link
def die(*names):
    if at == "after":
        real(*names)
    os.kill(os.getpid(), signal.SIGKILL)
os.link = die
Chain(root).append(lambda rows: {"i": len(rows)})
"""


@pytest.mark.parametrize(("at", "kept"), [("before", 1), ("after", 2)])
def test_a_kill_in_the_middle_of_an_append(at: str, kept: int, tmp_path: Path) -> None:
    """Pins half a row: the chain holds it wholly or not at all, and goes on."""
    chain = Chain(tmp_path)
    chain.append(lambda rows: {"i": 0})
    killed = subprocess.run([sys.executable, "-c", APPENDER, at, str(tmp_path)], cwd=REPOSITORY, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(chain.rows()) == kept
    chain.append(lambda rows: {"i": len(rows)})
    assert [row["body"]["i"] for row in chain.rows()] == list(range(kept + 1))


def test_a_lost_race_in_a_batch_goes_on_with_the_rest(tmp_path: Path) -> None:
    """Pins a batch that drops or doubles rows when another writer comes between two of them."""
    chain, asked = Chain(tmp_path), []

    def build(rows: list[dict]) -> Iterator[dict]:
        asked.append(len(rows))
        here = {row["body"]["name"] for row in rows}
        for name in "abc":
            if name not in here:
                if name == "b" and len(asked) == 1:
                    Chain(tmp_path).append(lambda _: {"name": "other"})
                yield {"name": name}

    made = chain.extend(build)
    assert [row["body"]["name"] for row in chain.rows()] == ["a", "other", "b", "c"]
    assert [row["body"]["name"] for row in made] == ["a", "b", "c"]
    assert asked == [0, 2]


RACER = """
import sys, time
from pathlib import Path
from pipeline.gates.chain import Chain
name, root = sys.argv[1], Path(sys.argv[2])
(root / f"ready.{name}").touch()
while len(list(root.glob("ready.*"))) < 2:
    time.sleep(0.001)
for i in range(25):
    Chain(root / "chain").append(lambda rows: {"name": name, "i": i})
"""


def test_two_processes_append_at_once(tmp_path: Path) -> None:
    """Pins a lost update: every row of both is there once, in its process's order."""
    running = [subprocess.Popen([sys.executable, "-c", RACER, name, str(tmp_path)], cwd=REPOSITORY) for name in "xy"]
    assert [process.wait(60) for process in running] == [0, 0]
    bodies = [row["body"] for row in Chain(tmp_path / "chain").rows()]
    for name in "xy":
        assert [body["i"] for body in bodies if body["name"] == name] == list(range(25))
    assert not [file for file in os.listdir(tmp_path / "chain") if file.endswith(".tmp")]
