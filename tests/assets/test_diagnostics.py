"""Diagnostics in the assembled house: the ablation on the tiny market with a very small net, and its command."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from assets.cli import main
from assets.definitions import build_definitions
from assets.keys import stage_key
from assets.report import write_report
from assets.runs import Runner
from assets.stage_runner import StageReader
from pipeline.errors import BadInput
from pipeline.folds.splits import roles
from pipeline.models.spec import (
    BoostedSpec,
    IntradayPathSpec,
    LinearSpec,
    MultiPathNetSpec,
    TowerSpec,
)
from pipeline.stages.ablation import ABLATION, run_ablation
from pipeline.stages.diagnostics import presented
from pipeline.stages.pinned import read_folds
from pipeline.stages.registry import DIAGNOSTICS, STAGES
from pipeline.studies import STUDIES
from resources.environments import Environment, Settings, create_environment
from tests.tiny import Tiny, contents, copy_of

pytestmark = pytest.mark.xdist_group("tiny")

ROOT = Path(__file__).resolve().parents[2]
# Two blocks and FiLM: every variant that is one more network costs a second of export.
NET = MultiPathNetSpec(
    intraday=IntradayPathSpec(sessions=1, kernels=(3,), width=2),
    towers=(TowerSpec(name="context", features=("return_5",)),),
    regime=("market_return_1",),
    film=("trunk",),
    hidden=4,
    epochs=1,
)
MEMBERS = [LinearSpec(), BoostedSpec(rounds=5), NET]


class Killed(Exception):
    """What ends a run in the middle of a variant."""


class Reading(StageReader):
    """A reader of the ablation that can spoil the labels outside fit and tune, or stop at a word of the progress."""

    def __init__(self, environment: Environment, workdir: Path, *, spoil: bool = False, stop: str = "") -> None:
        self.told: list[str] = []
        self.spoil, self.stop, self.repinned = spoil, stop, False
        workdir.mkdir(exist_ok=True)
        super().__init__(environment, environment.study, ABLATION.stage, {}, workdir, self._told)

    def _told(self, text: str, done: float) -> None:
        self.told.append(text)
        if self.stop and text.startswith(self.stop):
            raise Killed

    def versions(self, stage: str) -> dict[str, str]:
        return {"": "another pin"} if self.repinned and stage == "folds" else super().versions(stage)

    def table(self, stage: str, name: str, **asked: Any) -> pl.DataFrame:
        frame = super().table(stage, name, **asked)
        if not self.spoil or stage != "labels":
            return frame
        folds = read_folds(self)
        split = folds.certificate.filter(pl.col("split") != "locked").sort("fit_rows", "split")["split"][-1]
        seen = roles(folds, split, frame).is_in(["fit", "tune"])
        heads = [pl.col(head.name) for head in self._study.labels.heads]
        return frame.with_columns(pl.when(seen).then(head).otherwise(float("inf")).alias(head.meta.output_name())
                                  for head in heads)  # fmt: skip


@dataclass(frozen=True)
class Ran:
    """The environment after the ablation's asset ran, and the ledger's head before it."""

    runner: Runner
    ledger: str

    @property
    def environment(self) -> Environment:
        return self.runner.environment

    def table(self, name: str) -> pl.DataFrame:
        return self.environment.artifacts.table(self.environment.study.name, "ablation", name)


@pytest.fixture(scope="module")
def ran(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    members = [member.model_dump(mode="json") for member in MEMBERS]
    runner = copy_of(tiny.eve, tmp_path_factory.mktemp("ablation") / "home", overrides={"members": members})
    head = runner.environment.ledger(runner.study.name).head()
    runner.stages(["ablation"])
    return Ran(runner, head)


def test_the_asset_stores_a_table_of_every_variant(ran: Ran) -> None:
    """Pins a variant that is not fitted, a path that is on where it should be off, a member that is not compared."""
    table = ran.table("ablation")
    assert dict(zip(table["variant"], table["paths"], strict=True)) == {
        "all": "A+C+FiLM", "A off": "C+FiLM", "C off": "A+FiLM", "FiLM off": "A+C", "A only": "A", "C only": "C",
        "whole": "",
    }  # fmt: skip
    assert table["member"].to_list()[-2:] == ["linear", "boosted"]
    assert not table["rank_ic"].null_count()
    nets = table.filter(pl.col("member") == "multi_path")
    assert (nets["parameters"][1:] < nets["parameters"][0]).all()
    assert set(nets["epochs"]) == {"0 0 0"}
    assert (nets["seed_deviation"] > 0).all()
    assert ran.table("blocks")["block"].to_list() == ["A", "C", "FiLM"]


def test_it_is_no_trial(ran: Ran) -> None:
    """Pins an ablation that scores rows that a gate reads: the ledger does not grow."""
    assert ran.environment.ledger(ran.environment.study.name).head() == ran.ledger


def test_no_label_outside_fit_and_tune_is_read(ran: Ran, tmp_path: Path) -> None:
    """Pins a test row that enters the fit, the choice of the epoch or a figure: with infinite labels there the result
    is the same to the byte (and reading one would be an error)."""
    study, artifacts = ran.environment.study, ran.environment.artifacts
    spoiled = presented(ABLATION, study, run_ablation(study, Reading(ran.environment, tmp_path, spoil=True)))
    assert spoiled.files == {name: artifacts.file(study.name, "ablation", name) for name in spoiled.files}
    assert all(table.equals(ran.table(name)) for name, table in spoiled.tables.items())


def test_the_spoiled_labels_are_not_nothing(ran: Ran, tmp_path: Path) -> None:
    """Pins the test above passing because nothing was spoiled: the models stage, which reads them, refuses."""
    reader = Reading(ran.environment, tmp_path / "work", spoil=True)
    split = ran.environment.study.folds.splits[0]
    with pytest.raises(BadInput, match="finite"):
        STAGES["models"].run(ran.environment.study, reader, f"{split}|linear")


def test_a_killed_ablation_goes_on_where_it_stopped(ran: Ran, tmp_path: Path) -> None:
    """Pins hours of training done again, a result that depends on the interruption, and files that are left behind."""
    study = ran.environment.study
    with pytest.raises(Killed):
        run_ablation(study, Reading(ran.environment, tmp_path, stop="multi_path, A off, seed 8"))
    again = Reading(ran.environment, tmp_path)
    found = run_ablation(study, again)
    assert [text for text in again.told if "measured before" in text] == [
        *(f"multi_path, all, seed {seed}: measured before" for seed in (7, 8, 9)),
        "multi_path, A off, seed 7: measured before",
    ]
    assert found.tables["ablation"].equals(ran.table("ablation"))
    assert not contents(tmp_path)


def test_what_was_measured_on_other_folds_is_not_taken_up(ran: Ran, tmp_path: Path) -> None:
    """Pins a killed ablation that is finished with figures of an earlier pin."""
    study = ran.environment.study
    with pytest.raises(Killed):
        run_ablation(study, Reading(ran.environment, tmp_path, stop="multi_path, A off"))
    later = Reading(ran.environment, tmp_path, stop="multi_path, all")
    later.repinned = True
    with pytest.raises(Killed):
        run_ablation(study, later)
    assert later.told
    assert not any("measured before" in text for text in later.told)


def test_it_stands_apart_and_nothing_needs_it(tmp_path: Path) -> None:
    """Pins a diagnostic among the stages of the study, upstream of one, in one of its jobs, or with a stage's name."""
    settings = Settings(first_session=date(2026, 2, 2), last_session=date(2026, 9, 30))
    environment = create_environment(tmp_path / "home", settings, tmp_path / "no_template")
    repository = build_definitions(environment).get_repository_def()
    graph, study = repository.asset_graph, environment.study
    keys = {stage_key(study, each.name) for each in DIAGNOSTICS if each.applies_to(study)}
    assert keys
    assert {graph.get(key).group_name for key in keys} == {f"{study.name}_diagnostics"}
    assert {graph.get(key).is_partitioned for key in keys} == {False}
    assert not any(graph.get(key).parent_keys & keys for key in graph.get_all_asset_keys() - keys)
    jobs = [job for job in repository.get_all_jobs() if not job.name.startswith("__")]
    assert not any(key in keys for job in jobs for key in job.asset_layer.executable_asset_keys)
    names = [each.name for each in DIAGNOSTICS]
    assert len({*names, *STAGES}) == len(names) + len(STAGES)


def test_a_study_without_a_net_has_no_ablation(tiny: Tiny) -> None:
    """Pins an asset that can only fail."""
    graph = build_definitions(tiny.environment).get_repository_def().asset_graph
    assert not graph.has(stage_key(tiny.runner.study, "ablation"))


def test_every_diagnostic_is_documented_with_its_parts() -> None:
    """Pins a diagnostic, or what its code version covers, that changed in the code alone."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| ([^|]*) \| ([^|]*) \| [^|]* \|$", text, re.MULTILINE)
    listed = {name: set(re.findall(r"[\w.]+", covers)) for name, _, covers in rows}
    for each in DIAGNOSTICS:
        floors = {name.split(".")[1] for name in each.modules if name.count(".") == 1}
        assert listed[each.name] == {*each.parts, *floors}, each.name


def test_the_code_version_covers_its_own_function_alone() -> None:
    """Pins a changed gate that retrains eight nets, and a changed training that keeps an old table."""
    study = STUDIES["ashare_daily"]
    version = ABLATION.stage.code_version(study)
    gates = study.promotion.model_copy(update={"bootstrap_samples": 7})
    assert ABLATION.stage.code_version(study.model_copy(update={"promotion": gates})) == version
    seed = study.training.model_copy(update={"seed": 8})
    assert ABLATION.stage.code_version(study.model_copy(update={"training": seed})) != version


def test_the_finding_is_json_and_the_report_loads_nothing(ran: Ran) -> None:
    """Pins a report that needs a network or lacks a table or a picture, and a finding that no program can read."""
    name, artifacts = ran.environment.study.name, ran.environment.artifacts
    found = json.loads(artifacts.file(name, "ablation", "finding.json"))
    assert set(found) == {
        "name", "title", "asks", "purpose", "score", "status", "text", "rule", "counts", "tables", "skipped",
    }  # fmt: skip
    page = artifacts.file(name, "ablation", "report.html").decode()
    assert found["status"] in page
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert all(f"<td>{variant}</td>" in page for variant in ran.table("ablation")["variant"])


def test_the_environments_report_lists_the_finding(ran: Ran, tmp_path: Path) -> None:
    """Pins findings that only who knows of them can find."""
    write_report(ran.environment, tmp_path / "report.html")
    section = (tmp_path / "report.html").read_text().split('id="diagnostics"')[1]
    assert ABLATION.asks in section.split("</section>")[0]


def test_the_command(ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Pins a command that does not print its table, loses the report, or computes an unchanged diagnostic again."""
    home = ran.environment.home
    monkeypatch.setenv("FOLDGATE_HOME", "")
    monkeypatch.setenv("DAGSTER_HOME", "")  # the command sets both; they come back after the test
    before = ran.environment.artifacts.current(ran.environment.study.name, "ablation")
    assert main(["diagnose", "ablation", "--home", str(home)]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    for row in ran.table("ablation").iter_rows(named=True):
        assert any(line[:1] == [row["member"]] and f"{row['rank_ic']:.4f}" in line for line in lines), row
    assert (home / "diagnostics" / "ablation.html").stat().st_size > 10_000
    assert ran.environment.artifacts.current(ran.environment.study.name, "ablation") == before
    assert main(["diagnose", "--home", str(home)]) == 0
    listed = capsys.readouterr().out
    assert ABLATION.asks in listed
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC: ", listed)
    assert main(["diagnose", "ablatoin", "--home", str(home)]) == 1
    assert "did you mean ablation" in capsys.readouterr().err


def test_a_study_without_a_net_is_told_so(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pins a traceback where a diagnostic does not apply."""
    monkeypatch.setenv("FOLDGATE_HOME", "")
    monkeypatch.setenv("DAGSTER_HOME", "")
    assert main(["diagnose", "ablation", "--home", str(tiny.environment.home)]) == 1
    assert "needs a member of family multi_path" in capsys.readouterr().err


def test_metadata_in_the_ui_says_what_was_found(ran: Ran) -> None:
    """Pins an asset page without status, table or picture."""
    key = stage_key(ran.environment.study, "ablation")
    event = ran.runner.instance.get_latest_materialization_event(key)
    assert event is not None
    assert event.asset_materialization is not None
    shown = event.asset_materialization.metadata
    assert isinstance(shown["status"], dg.TextMetadataValue)
    assert "| variant |" in str(shown["ablation"].value)
    assert str(shown["difference to all"].value).startswith("![difference to all](data:image/png")
