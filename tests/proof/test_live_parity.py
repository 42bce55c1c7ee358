"""Live sessions are made again bit for bit, a changed bit is named, and a comparison that rounds breaks the proof."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from assets.proof.contract import BROKEN, HELD
from assets.proof.homes import runner_of
from assets.proof.live_parity import (
    FLIPPED,
    NOTHING,
    Flipped,
    Outcome,
    finding,
    flipped,
    record_difference,
    run,
)
from pipeline.diagnostics.finding import Finding
from pipeline.serving import parity
from pipeline.studies import STUDIES
from resources.environments import Environment

pytestmark = pytest.mark.xdist_group("proof_live_parity")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live_parity")


@pytest.fixture(scope="module")
def found(folder: Path) -> Finding:
    return run("small", folder, lambda text, done: None)


def test_every_session_of_every_study_is_made_again_bit_for_bit(found: Finding) -> None:
    """Pins a live path and a research path that part ways, and a registered study that nobody compares."""
    rows, bits = found.tables["rows made again"], found.tables["changed bits"]
    assert (found.status, found.score) == (HELD, 1.0), [*rows.to_dicts(), *bits.to_dicts()]
    assert {*rows["study"]} == {*STUDIES}
    compared = rows.group_by("asset").agg(pl.sum("rows"))
    assert compared.filter(pl.col("asset") != "paths")["rows"].min() > 0  # type: ignore[operator]


def test_bits_are_changed_on_the_whole_way(found: Finding) -> None:
    """Pins a kind of stored file in which no bit was changed."""
    bits = found.tables["changed bits"]
    wanted = {f"{stage} {table}" for stage, table in FLIPPED if table != "paths"} | {"bundle file", "record file"}
    for study in STUDIES:
        changed = bits.filter(pl.col("study") == study)
        assert wanted <= {*changed["bit changed in"]}
        assert changed.filter(pl.col("bit changed in").str.starts_with("raw "))["named"].sum() == 1
    assert found.counts["named"] == found.counts["changed bits"] > 40


def test_a_comparison_that_rounds_breaks_the_proof(
    found: Finding, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pins changed bits that are counted as found whatever the comparison says."""
    environment = Environment(folder / next(iter(STUDIES)))
    last = environment.settings.last_session
    assert last
    exact = parity._bits
    monkeypatch.setattr(parity, "_bits", lambda values: exact(values) // 2**22 if values.dtype.is_float() else values)
    flips = flipped(runner_of(environment), last, 1)
    assert any(flip.found == NOTHING != flip.expected for flip in flips)
    reports = pl.DataFrame(
        {"when": [""], "session": [last], "asset": ["panel"], "rows": [1], "different": [0], "first": [""]}
    )
    assert finding([Outcome("study", reports, flips)]).status == BROKEN
    named = [replace(flip, found=flip.expected) for flip in flips]
    assert finding([Outcome("study", reports, named)]).status == HELD
    assert finding([Outcome("study", reports.with_columns(different=1), named)]).status == BROKEN


def test_what_is_found_without_any_change_breaks_the_proof(found: Finding, folder: Path) -> None:
    """Pins a proof that leaves its own damage behind and takes it for a find."""
    environment = Environment(folder / next(iter(STUDIES)))
    last = environment.settings.last_session
    assert last
    assert record_difference(environment, last) == ""
    name, reports = environment.study.name, pl.DataFrame({"session": [last], "asset": ["panel"], "rows": [1]})
    reports = reports.with_columns(when=pl.lit(""), different=pl.lit(0), first=pl.lit(None, pl.String))
    left = Flipped("nothing", NOTHING, replace(NOTHING, asset="panel"))
    assert finding([Outcome(name, reports, [left])]).status == BROKEN
