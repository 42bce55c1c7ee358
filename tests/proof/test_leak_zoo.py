"""The leak zoo holds, covers what it must, and turns BROKEN when a catcher sleeps, cries wolf or is crashed into."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest

from assets.proof.contract import BROKEN, HELD
from assets.proof.leak_zoo import LEAKS, Tried, catchers, concluded, run, tried
from assets.proof.leaks.catchers import LISTING
from assets.proof.leaks.contract import Leak
from assets.proof.leaks.panel_leaks import PANEL_LEAKS
from assets.proof.leaks.worlds import World
from pipeline.asof import panel
from pipeline.studies import STUDIES

pytestmark = pytest.mark.xdist_group("proof_leak_zoo")
EVERY = [leak for leaks in LEAKS.values() for leak in leaks]
EARLY_ROWS = next(leak for leak in PANEL_LEAKS if leak.catcher is LISTING)


@pytest.fixture(scope="module")
def stub() -> World:
    """All that the listing certificate reads of a world: its study."""
    return World(STUDIES["ashare_daily"], None, None)  # type: ignore[arg-type]


def test_every_leak_of_the_small_zoo_is_caught(tmp_path):
    """Pins a check that no longer sees the leak it is there for, and one that is red on a clean market."""
    finding = run("small", tmp_path, lambda what, share: None)
    assert finding.status == HELD, finding.text
    assert finding.score == 1.0
    assert finding.counts["leaks"] >= 30
    assert finding.counts["red when clean"] == 0
    assert finding.tables["catchers"]["clean runs"].min() >= 1
    assert finding.tables["catchers"]["rows compared"].min() >= 1


def test_the_zoo_is_whole():
    """Pins a leak that is registered twice, or under another's catcher, and a zoo that shrinks."""
    assert len({leak.name for leak in EVERY}) == len(EVERY) >= 60
    checks = {(leak.catcher.name, leak.catcher.check) for leak in EVERY}
    assert len(checks) == len({leak.catcher.name for leak in EVERY})
    assert {catcher.name for kind in LEAKS for catcher in catchers(kind)} == {leak.catcher.name for leak in EVERY}


def test_a_sleeping_catcher_breaks_the_proof(stub, monkeypatch):
    """Pins a proof that cannot fail: with the certificate disabled the same leak escapes, and is named."""
    awake = tried("session", 0, stub, LISTING, EARLY_ROWS)
    assert awake.red
    assert tried("session", 0, stub, LISTING).green
    monkeypatch.setattr(panel, "require_listed", lambda *read: None)
    asleep = tried("session", 0, stub, LISTING, EARLY_ROWS)
    assert not asleep.red
    assert concluded([awake]).status == HELD
    broken = concluded([asleep])
    assert (broken.status, broken.score) == (BROKEN, 0.0)
    assert EARLY_ROWS.name in broken.text


def test_a_crash_is_no_catch(stub):
    """Pins a mutation that breaks the code instead of leaking and is counted as caught."""

    def crash(*read):
        raise LISTING.red("another rule")

    crashing = Leak("crash", "nothing", replace(LISTING, check=crash), nullcontext)
    found = tried("session", 0, stub, crashing.catcher, crashing)
    assert not found.red
    assert concluded([found]).status == BROKEN


def test_a_red_on_a_clean_market_breaks_the_proof(stub):
    """Pins a catcher that is red on everything: it would catch every leak."""
    caught = tried("session", 0, stub, LISTING, EARLY_ROWS)
    alarm = Tried("session", 0, "", LISTING.name, red=True, green=False, rows=0, seen="a false alarm")
    assert concluded([caught, alarm]).status == BROKEN
    assert concluded([]).status == BROKEN
