"""The documentation against the code: commands, links, gates, tables and examples that a reader will try."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from assets.cli import build_parser
from pipeline.asof.panel import PANEL_COLUMNS
from pipeline.asof.tradability import EXCLUSIONS
from pipeline.calendars import Calendar
from pipeline.fingerprints import hash_file
from pipeline.serving.records import write_no_selection
from pipeline.stages.registry import STAGES
from pipeline.studies import STUDIES
from pipeline.study import Study
from pipeline.tables.tushare import TABLES
from resources.imported import FolderSource

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
EXAMPLES = ROOT / "docs" / "examples"
CODE = re.compile(r"```.*?\n(.*?)```|`([^`\n]+)`", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
ROW = re.compile(r"^\| `(\w+)` \|.*\|\s*(?:at least|at most|above) ([\d.]+) \|$", re.MULTILINE)


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def invocations(text: str) -> Iterator[list[str]]:
    """The words of every `foldgate ...` in code, comments cut."""
    for block, inline in CODE.findall(text):
        for line in (block or inline).splitlines():
            words = line.split("#")[0].split()
            if words[:1] == ["foldgate"]:
                yield words[1:]


def subparsers() -> dict[str, argparse.ArgumentParser]:
    actions = build_parser()._actions
    return next(action.choices for action in actions if isinstance(action, argparse._SubParsersAction))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_named_command_and_option_exists(page: Path) -> None:
    """Pins a command or an option that was renamed while the text went on naming it."""
    commands = subparsers()
    for words in invocations(page.read_text(encoding="utf-8")):
        if not words:
            continue
        assert words[0] in commands or words[0] == "--help", f"foldgate {' '.join(words)}"
        known = {name for action in commands[words[0]]._actions for name in action.option_strings}
        unknown = [word for word in words if word.startswith("--") and word not in known]
        assert not unknown, f"foldgate {' '.join(words)}: {unknown}"
        choices = next(
            (list(a.choices) for a in commands[words[0]]._actions if a.choices and not a.option_strings), []
        )
        if choices and len(words) > 1 and not words[1].startswith("-"):
            assert words[1] in choices, f"foldgate {' '.join(words)}"


def test_the_readme_lists_every_command() -> None:
    """Pins a command that nobody can find."""
    named = {words[0] for words in invocations((ROOT / "README.md").read_text(encoding="utf-8")) if words}
    assert not set(subparsers()) - named


def test_every_make_target_exists() -> None:
    """Pins the two set-up commands of the README."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        target
        for page in PAGES
        for block, inline in CODE.findall(page.read_text(encoding="utf-8"))
        for target in re.findall(r"^\s*make ([a-z]+)", block or inline, re.MULTILINE)
    }
    assert {"demo", "test", "ui"} <= named <= targets


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_relative_link_resolves(page: Path) -> None:
    """Pins a file that was moved under a link."""
    targets = [target.split("#")[0] for target in LINK.findall(page.read_text(encoding="utf-8"))]
    broken = [t for t in targets if t and "://" not in t and not (page.parent / t).exists()]
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_named_file_exists(page: Path) -> None:
    """Pins a source file that was moved while the text went on naming it."""
    named = re.findall(
        r"`((?:pipeline|assets|resources|tests|benchmarks|docs)/[\w/]+\.\w+)`",
        page.read_text(encoding="utf-8"),
    )
    assert not [name for name in named if not (ROOT / name).exists()]


def test_the_patterns_find_something() -> None:
    """Pins the tests above passing because their patterns match nothing."""
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert len(LINK.findall(text)) > 10
    assert len(list(invocations(text))) > 20


def test_every_gate_is_documented_with_its_bound() -> None:
    """Pins a gate or a bound that changed in a study alone, and a documented gate that no study has."""
    listed = {
        (name, float(bound))
        for name, bound in ROW.findall((ROOT / "docs/backtest-protocol.md").read_text(encoding="utf-8"))
    }
    assert {(gate.name, gate.bound) for study in STUDIES.values() for gate in study.promotion.gates} == listed


def test_the_contract_names_every_panel_column() -> None:
    """Pins a panel column that readers of the contract do not know of."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert not [column for column in PANEL_COLUMNS if not re.search(rf"\b{column}\b", text)]


def test_every_stage_is_listed_with_its_partition_and_parts() -> None:
    """Pins a stage whose partition, or what its code version covers, changed in the code alone."""
    rows = re.findall(r"^\| (\w+) \| ([^|]*) \| [^|]* \| ([^|]*) \|$", _page("architecture"), re.MULTILINE)
    listed = {name: (partition, set(re.findall(r"[\w.]+", covers))) for name, partition, covers in rows}
    assert len(STAGES) == 14
    for stage in STAGES.values():
        partition, covers = listed[stage.name]
        assert partition == stage.partition.replace("_", " x ")
        floors = {name.split(".")[1] for name in stage.modules if name.count(".") == 1}
        assert covers == {*stage.parts, *floors}, stage.name


def _page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def test_every_exclusion_and_table_is_explained() -> None:
    """Pins an exclusion reason or a vendor table that appears in the data and in no page."""
    text = (ROOT / "docs/tushare-hygiene.md").read_text(encoding="utf-8")
    assert not [name for name in (*EXCLUSIONS, *TABLES) if f"`{name}`" not in text]


TABLE_PAGES = {"tushare": "README.md", "binance": "docs/perp-minute.md"}


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_the_docs_say_what_each_absent_table_costs(study: Study) -> None:
    """Pins required and optional tables of a study's page against the study."""
    text = (ROOT / TABLE_PAGES[study.market.vendor]).read_text(encoding="utf-8")
    required = re.search(r"^Required: (.*?)\.", text, re.MULTILINE | re.DOTALL)
    assert required is not None
    assert set(re.findall(r"`(\w+)`", required[1])) == {use.table for use in study.tables if use.required}
    assert not [use.table for use in study.tables if not use.required and f"| `{use.table}` |" not in text]


def test_the_examples_are_what_their_metadata_says() -> None:
    """Pins example files that were edited by hand, and files without origin and licence."""
    metadata = json.loads((EXAMPLES / "metadata.json").read_text())
    assert metadata["licence"] == "Apache-2.0"
    assert metadata["origin"].startswith("simulated")
    files = sorted(EXAMPLES.rglob("*.csv"))
    assert metadata["sha256"] == {path.relative_to(EXAMPLES).as_posix(): hash_file(path) for path in files}


def test_the_example_folder_is_a_source() -> None:
    """Pins an example that the importer no longer reads: every table, every row, under its spec."""
    source = FolderSource(EXAMPLES / "raw_folder")
    assert source.tables() == set(TABLES)
    calendar = Calendar.from_trade_cal(source.fetch(TABLES["trade_cal"], []).rows)
    sessions = calendar.between(*source.span("daily"))
    rows = {name: source.fetch(spec, sessions).rows for name, spec in TABLES.items()}
    for name, spec in TABLES.items():
        spec.check(rows[name], calendar=calendar)
    assert rows["daily"]["trade_date"].unique().sort().to_list() == sessions
    assert not [name for name, frame in rows.items() if frame.is_empty() and not TABLES[name].may_be_empty]


def test_the_sample_selections_are_in_the_format_of_today(tmp_path: Path) -> None:
    """Pins a sample, and a list of columns in the contract, that the records no longer have."""
    sample = pl.read_csv(EXAMPLES / "all_selections.csv")
    write_no_selection(tmp_path, date(2026, 9, 30), "an example")
    assert sample.columns == pl.read_csv(tmp_path / "selections" / "all_selections.csv").columns
    assert sample["status"].to_list() == ["NO_SELECTION", "SELECTED", "SELECTED", "SELECTED"]
    contract = (ROOT / "docs/inference-contract.md").read_text(encoding="utf-8")
    stems = {re.sub(r"_\d\d$", "_01", column) for column in sample.columns}
    assert not [stem for stem in stems if f"`{stem}`" not in contract]
