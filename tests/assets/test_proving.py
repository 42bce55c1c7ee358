"""The scaffold of proofs: what is kept, what the page says, and the exit code."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import polars as pl
import pytest

from assets import proving
from assets.cli import main
from assets.proof.contract import BROKEN, HELD, Progress, Proof, Size
from assets.proofs import build_proof
from pipeline.diagnostics.finding import Finding
from pipeline.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]
PNG = b"\x89PNG not really"


def proof(name: str, status: str = HELD, rows: int = 3) -> Proof:
    def run(size: Size, folder: Path, progress: Progress) -> Finding:
        assert folder.is_dir()
        progress("counted", 0.5)
        tables = {"zebra": pl.DataFrame({"n": range(rows)}), "ant": pl.DataFrame({"what": ["a | b"], "x": [None]})}
        return Finding(0.25, status, f"Ran at {size}.", tables, {"how it went": lambda: PNG})

    return Proof(name, f"Claim of {name}", f"{name} holds.", "The rest.", "shares of it", run)


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[Proof]:
    made = [proof("first"), proof("second", BROKEN), proof("third", rows=100)]
    monkeypatch.setattr(proving, "PROOFS", tuple(made))
    return made


def ran(each: Proof, size: Size, home: Path) -> None:
    proving.run_proof(each, size, home, lambda text, done: None)


def test_the_page_says_what_ran_at_which_size_and_what_did_not(proofs: list[Proof], tmp_path: Path) -> None:
    """Pins a small run published as a full one, a claim without its test, and tables out of their order."""
    ran(proofs[0], "small", tmp_path)
    ran(proofs[2], "small", tmp_path)
    ran(proofs[2], "full", tmp_path)
    page = tmp_path / "proof.md"
    proving.write_page(tmp_path, proving.EVERY_SIZE, page)
    text = page.read_text()
    rows = {line.split("]")[0][3:]: line for line in text.splitlines() if line.startswith("| [")}
    assert "| HELD | 0.25 | shares of it | small |" in rows["Claim of first"]
    assert "| not run |" in rows["Claim of second"]
    assert "| HELD | 0.25 | shares of it | full |" in rows["Claim of third"]
    assert text.count("*What it cannot see:* The rest.") == 2
    assert text.index("zebra:") < text.index("ant:")
    assert f"… and {100 - proving.SHOWN} rows more." in text
    assert "a \\| b" in text
    for picture in ("first_how_it_went.png", "third_how_it_went.png"):
        assert (tmp_path / "proof" / picture).read_bytes() == PNG
        assert f"(proof/{picture})" in text


def test_the_report_says_which_proofs_ran_in_its_home(proofs: list[Proof], tmp_path: Path) -> None:
    """Pins a section that shows nothing, or a small run where a full one is at hand."""
    assert proving.proof_section(tmp_path) is None
    ran(proofs[1], "small", tmp_path)
    ran(proofs[2], "small", tmp_path)
    ran(proofs[2], "full", tmp_path)
    section = proving.proof_section(tmp_path)
    assert section is not None
    assert section.tables["proofs"].rows() == [
        ("Claim of second", "small", BROKEN, 0.25, "shares of it"),
        ("Claim of third", "full", HELD, 0.25, "shares of it"),
    ]


def test_a_proof_says_held_or_broken(tmp_path: Path) -> None:
    """Pins a third status, which nobody would read as red."""
    with pytest.raises(BadInput, match="MOSTLY"):
        ran(proof("loose", "MOSTLY"), "small", tmp_path)
    assert proving.held(tmp_path, "small", proof("loose")) is None


def test_the_command_runs_all_and_fails_where_one_is_broken(
    proofs: list[Proof], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pins an exit code of 0 over a broken proof, and proofs after it that are left out."""
    assert main(["prove", "--small", "--home", str(tmp_path)]) == 1
    assert [proving.held(tmp_path, "small", each) is not None for each in proofs] == [True] * 3
    assert "2 of 3 held" in capsys.readouterr().out
    assert main(["prove", "first", "--small", "--home", str(tmp_path)]) == 0
    assert main(["prove", "nonsense", "--small", "--home", str(tmp_path)]) == 1
    assert "first, second, third" in capsys.readouterr().err


def test_every_proof_is_published() -> None:
    """Pins a registered proof that the published page does not know."""
    text = (ROOT / "docs" / "proof.md").read_text(encoding="utf-8")
    assert [each.name for each in proving.PROOFS if f"## {each.title}" not in text] == []


@pytest.mark.parametrize("status", [HELD, BROKEN])
def test_a_proof_in_the_ui_shows_its_figure_and_turns_its_check_red(
    status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pins a broken claim that looks like any other materialisation."""
    home = SimpleNamespace(home=tmp_path, watch=lambda line: None)
    made = dg.materialize([build_proof(proof("first", status))], resources={"environment": home}, raise_on_error=False)
    (check,) = made.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("held", status == HELD)
    (event,) = made.get_asset_materialization_events()
    shown = event.materialization.metadata
    assert shown["shares of it"].value == 0.25
    assert "a \\| b" in shown["ant"].value
    assert "base64," in shown["how it went"].value


@pytest.mark.parametrize("each", proving.PROOFS, ids=lambda each: each.name)
def test_every_registered_proof_finds_its_test(each: Proof, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pins a proof whose module moved: it is imported late, so loading the registry does not notice."""
    module, found = import_module(f"assets.proof.{each.name}"), Finding(None, HELD, "ran")
    assert list(inspect.signature(module.run).parameters) == ["size", "folder", "progress"]
    monkeypatch.setattr(module, "run", lambda *asked: found if asked[:2] == ("small", tmp_path) else None)
    assert each.run("small", tmp_path, lambda text, done: None) is found
