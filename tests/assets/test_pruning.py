"""Forgetting superseded results."""

from __future__ import annotations

from pathlib import Path

import pytest

from assets.pruning import prune
from tests.tiny import Tiny, copy_of

pytestmark = pytest.mark.xdist_group("tiny")


def test_only_what_nothing_reaches_is_deleted(tiny: Tiny, tmp_path: Path) -> None:
    """Pins a prune that breaks a champion's lineage, and one that keeps everything."""
    environment = copy_of(tiny.environment.home, tmp_path / "home").environment
    name, artifacts = environment.study.name, environment.artifacts
    pinned = {v.hash for v in artifacts.versions()}
    once = artifacts.write(name, "diagnosis", "", {}, {"a.json": b"1"}, lineage={})
    artifacts.write(name, "diagnosis", "", {}, {"a.json": b"2"}, lineage={})
    deleted = prune(environment)
    left = {v.hash for v in artifacts.versions()}
    assert once.hash not in left
    assert any("diagnosis" in file for file in deleted)
    for version in artifacts.versions():
        artifacts.verify(version)
    served = environment.champions(name).current()
    assert served is not None
    panel = [v for v in artifacts.versions() if v.stage == "panel"]
    assert {v.hash for v in panel} <= pinned
    assert prune(environment) == []
