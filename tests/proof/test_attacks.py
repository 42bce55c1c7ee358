"""No small attack promotes; without the checks under proof, the same attacks do."""

from __future__ import annotations

from pathlib import Path

import pytest

from assets.proof import attacks
from assets.proof.attack_list import ledger_attacks, pointer_attacks, side_attacks, verdict_attacks
from assets.proof.attack_stand import Stand, chosen
from assets.proof.attacks import control, finding, run
from assets.proof.contract import BROKEN, HELD
from assets.stage_runner import StageReader
from pipeline.diagnostics.finding import Finding
from pipeline.gates.chain import Chain
from pipeline.stages import serving
from resources.artifacts import Artifacts
from resources.environments import Environment

STUDY = "ashare_daily"
pytestmark = pytest.mark.xdist_group("proof_attacks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("attacks")


@pytest.fixture(scope="module")
def found(folder: Path) -> Finding:
    return run("small", folder, lambda text, done: None)


def test_no_attack_promotes(found: Finding) -> None:
    """Pins a way past the gates, a crash instead of a rule, and a stand on which nothing could be promoted."""
    assert (found.status, found.score) == (HELD, 0.0), found.text
    attempts = found.tables["attempts"]
    assert found.counts["attempts"] > 70
    assert attempts.filter(attack="two at once").height >= 20
    assert found.tables["controls"]["promoted"].to_list() == [True, True, True]
    assert set(attempts.filter(attack="gate red")["refused by"]) == {"a verdict is red"}


@pytest.mark.parametrize(
    ("attack", "disable"),
    [
        ("red", lambda patch: patch.setattr(serving, "reasons_to_refuse", lambda *_, **__: [])),
        ("stored file edited", lambda patch: patch.setattr(Artifacts, "table", _unverified(Artifacts.table))),
        ("taken back", lambda patch: patch.setattr(Chain, "verify", lambda self, anchor: None)),
        ("hashed again", lambda patch: patch.setattr(StageReader, "_promoted", _everything)),
    ],
)
def test_without_its_check_an_attack_promotes(found: Finding, folder: Path, tmp_path, monkeypatch, attack, disable):
    """Pins a proof that cannot fail: gates unread, bytes unverified, anchors unasked, the pointer believed."""
    environment = Environment(folder / STUDY)
    serving_now = environment.champions(STUDY).current()
    assert serving_now is not None
    stand = Stand(folder / STUDY, serving_now["bundle"], chosen(environment))
    known = {
        "red": next(iter(verdict_attacks(environment.study))),
        "stored file edited": next(a for a in verdict_attacks(environment.study) if "stored file" in a.family),
        "taken back": list(ledger_attacks(2))[-1],
        "hashed again": next(a for a in pointer_attacks(1, 1) if "hashed again" in a.name),
    }[attack]
    disable(monkeypatch)
    outcome = attacks._one(stand.copy(tmp_path / "copy"), [known])
    assert outcome.moved, outcome
    row = attacks._row(STUDY, known.family, known.name, outcome)
    assert finding([row], control(stand, STUDY, tmp_path / "copy")).status == BROKEN


def _unverified(table):
    def read(self, *arguments, verify=False, **asked):
        return table(self, *arguments, **asked)

    return read


def _everything(self: StageReader) -> list[str]:
    """Every bundle there is, as if the stage had promoted it."""
    return [path.name for path in self.stores.bundles.iterdir()]


def test_a_control_that_is_refused_breaks_it(found: Finding) -> None:
    """Pins zero promotions on a stand where nothing can ever be promoted."""
    rows = found.tables["attempts"].to_dicts()
    controls = [row | {"promoted": False} for row in found.tables["controls"].to_dicts()]
    assert finding(rows, controls).status == BROKEN


def test_every_state_of_every_gate_is_attacked(folder: Path, found: Finding) -> None:
    """Pins a full version that leaves a registered gate or a side out."""
    study = Environment(folder / STUDY).study
    families = {}
    for attack in verdict_attacks(study):
        families.setdefault(attack.family, set()).add(attack.name)
    assert families["gate red"] == {gate.name for gate in study.promotion.gates}
    assert len(families) == 9
    assert {attack.name for attack in side_attacks(study)} >= {"evaluation", "candidate"}
