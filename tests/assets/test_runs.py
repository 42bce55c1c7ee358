"""Running stages: ranges, resuming, what a run leaves in Dagster, and what a failed one says."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from assets.keys import stage_key
from pipeline.errors import BadInput
from tests.tiny import Tiny, copy_of

pytestmark = pytest.mark.xdist_group("tiny")


def materialised(result: dg.ExecuteInProcessResult, name: str) -> list[dg.AssetMaterialization]:
    return [
        event.materialization
        for event in result.get_asset_materialization_events()
        if event.materialization.asset_key.path[-1] == name
    ]


def test_a_range_is_one_run_over_each_partition(tiny: Tiny, tmp_path: Path) -> None:
    """Pins a range that runs only its ends, and one that starts a run per month."""
    runner = copy_of(tiny.eve, tmp_path / "home", overrides={"universe.seasoning_sessions": 70})
    before = runner.environment.artifacts.current(runner.study.name, "panel")
    result = runner.stages(["panel"], first="2026-05", last="2026-07")
    after = runner.environment.artifacts.current(runner.study.name, "panel")
    assert {name for name in after if after[name].sequence != before[name].sequence} == {
        "2026-05",
        "2026-06",
        "2026-07",
    }
    assert [event.partition for event in materialised(result, "panel")] == ["2026-05", "2026-06", "2026-07"]
    assert len(runner.instance.get_run_ids()) == 1


def test_the_same_content_has_the_same_data_version(tiny: Tiny, tmp_path: Path) -> None:
    """Pins a version that changes with the run, so that everything downstream looks stale every day."""
    runner = copy_of(tiny.eve, tmp_path / "home")
    versions = [
        materialised(runner.stages(["labels"], first="2026-07"), "labels")[0].tags["dagster/data_version"]
        for _ in range(2)
    ]
    stored = runner.environment.artifacts.current(runner.study.name, "labels")["2026-07"].hash
    assert versions == [stored[:16]] * 2


def test_research_gives_the_same_content_every_time(tiny: Tiny, tmp_path: Path) -> None:
    """Pins floats added in whatever order the threads finish: a mean turnover once differed in its last bit."""
    runner = copy_of(tiny.eve, tmp_path / "home")
    name, before = runner.study.name, len(runner.environment.artifacts.versions())
    for _ in range(6):
        runner.stages(["predictions", "backtest"])
    current = runner.environment.artifacts.current
    for stage in ("predictions", "backtest"):
        assert current(name, stage)[""].hash == tiny.environment.artifacts.current(name, stage)[""].hash
    assert len(runner.environment.artifacts.versions()) == before


def test_a_materialisation_tells_rows_seconds_and_the_stages_own_figures(tiny: Tiny, tmp_path: Path) -> None:
    """Pins a UI in which a stage is a name and a time stamp."""
    runner = copy_of(tiny.eve, tmp_path / "home")
    (event,) = materialised(runner.stages(["panel"], first="2026-07"), "panel")
    assert event.metadata["rows"].value > 500
    assert 0 < event.metadata["eligible_share"].value <= 1
    assert event.metadata["seconds"].value >= 0
    pictures = [value for value in event.metadata.values() if "data:image/png;base64," in str(value.value)]
    assert len(pictures) == 1


def test_lineage_names_what_was_read(tiny: Tiny) -> None:
    """Pins a result whose origin cannot be told: every version read is stored with it."""
    artifacts, name = tiny.environment.artifacts, tiny.runner.study.name
    panel = artifacts.current(name, "panel")
    read = artifacts.current(name, "features")["2026-09"].lineage["read"]
    assert read["panel/2026-09"] in {v.hash for v in artifacts.versions() if v.stage == "panel"}
    assert {"panel/2026-07", "panel/2026-08"} <= set(read)
    assert panel["2026-09"].lineage["read"] == {"lake": panel["2026-09"].lineage["read"]["lake"]}
    assert len(panel["2026-09"].lineage["code"]) == 16


def test_research_reads_through_the_pin(tiny: Tiny, tmp_path: Path) -> None:
    """Pins research that silently reads sessions which came after its folds were made."""
    runner = copy_of(tiny.environment.home, tmp_path / "home", overrides={"members.1.rounds": 6})
    artifacts, name = runner.environment.artifacts, runner.study.name
    pinned = tiny.runner.environment.artifacts.version
    folds = artifacts.current(name, "folds")[""]
    runner.stages(["models"], first=str(dg.MultiPartitionKey({"split": "locked", "member": "boosted"})))
    read = artifacts.current(name, "models")["locked|boosted"].lineage["read"]
    newest = artifacts.current(name, "features")["2026-09"].hash
    assert read["features/2026-09"] != newest
    assert pinned(name, "features", "2026-09", read["features/2026-09"]).sequence < folds.sequence
    scores = artifacts.table(name, "models", "scores", partitions=["locked|boosted"])
    assert scores["session"].max() < tiny.live[0]


def test_a_month_without_a_decision_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    """Pins an empty panel that counts as done because its month lies ahead."""
    runner = copy_of(tiny.eve, tmp_path / "home")
    environment = runner.environment
    (environment.home / "now.json").unlink()  # a home whose clock was never set may begin anywhere
    environment.move_clock(environment.clock.now().replace(month=8, day=31))
    with pytest.raises(BadInput, match="a decision that has been taken"):
        runner.stages(["panel"], first="2026-09")
    assert runner.instance.get_runs()[0].status == dg.DagsterRunStatus.FAILURE


def test_months_without_an_end_reach_to_now(tiny: Tiny) -> None:
    """Pins a backfill that stops a month early, or asks for months that have not begun."""
    assert tiny.runner._span(None, None) == [f"2026-{month:02d}" for month in range(2, 10)]
    assert tiny.runner._span("2026-08", None) == ["2026-08", "2026-09"]
    assert tiny.runner._span("2026-03", "2026-04") == ["2026-03", "2026-04"]


def test_steps_are_reported_as_they_finish(tiny: Tiny, tmp_path: Path) -> None:
    """Pins a command that is silent for minutes."""
    runner = copy_of(tiny.eve, tmp_path / "home")
    told: list[tuple[str, float]] = []
    runner.report = lambda step, seconds: told.append((step, seconds))
    runner.stages(["panel", "features"], first="2026-09", step="panel, features 2026-09")
    runner.stages(["champion"])
    assert [step for step, _ in told] == ["panel, features 2026-09", "champion"]
    assert all(seconds > 0 for _, seconds in told)
    assert runner.instance.has_asset_key(stage_key(runner.study, "champion"))
