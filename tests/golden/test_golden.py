"""What must not change by accident, as files. `make golden` rewrites them; read the diff before it is committed."""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from assets.definitions import build_definitions
from pipeline.folds.spec import FoldSpec
from pipeline.folds.splits import make_folds
from pipeline.models.members import fit_member
from pipeline.studies import STUDIES
from resources.environments import Settings, create_environment
from tests.folds.panels import unbalanced, weekdays
from tests.models.small_market import HEADS, MEMBERS, TRAINING, small_market

HERE = Path(__file__).parent


def golden(name: str, made: Any) -> Any:
    """The stored value; written anew on demand, and then equal by definition."""
    path = HERE / name
    if os.environ.get("FOLDGATE_UPDATE_GOLDEN"):
        path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_the_asset_graph_of_a_study(name: str, tmp_path: Path) -> None:
    """Pins an asset, a dependency, a check or a partitioning that appears or goes without being meant."""
    settings = Settings(study=name, first_session=date(2026, 2, 2), last_session=date(2026, 9, 30))
    environment = create_environment(tmp_path / "home", settings, tmp_path / "no_template")
    repository = build_definitions(environment).get_repository_def()
    graph = repository.asset_graph
    assets = {
        key.to_user_string(): {
            "group": graph.get(key).group_name,
            "partitions": _partitions(graph.get(key).partitions_def),
            "needs": sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
            "checks": sorted(check.name for check in graph.get(key).check_keys),
        }
        for key in sorted(graph.get_all_asset_keys(), key=lambda key: key.to_user_string())
    }
    made = {
        "assets": assets,
        "jobs": sorted(job.name for job in repository.get_all_jobs() if not job.name.startswith("__")),
        "schedules": {schedule.name: schedule.cron_schedule for schedule in repository.schedule_defs},
    }
    assert made == golden(f"graph_{name}.json", made)


def _partitions(definition: dg.PartitionsDefinition | None) -> str:
    """What kind of partitions, in a word or the names of the dimensions."""
    match definition:
        case None:
            return "whole"
        case dg.MultiPartitionsDefinition():
            return " x ".join(sorted(dimension.name for dimension in definition.partitions_defs))
        case dg.TimeWindowPartitionsDefinition():
            return "month" if definition.fmt == "%Y-%m" else "session"
        case _:
            return "split"


def test_the_fold_indices_of_cpcv() -> None:
    """Pins splits, purging and paths that move by a session: every number of an evaluation hangs on them."""
    calendar = weekdays(100)
    folds = make_folds(unbalanced(calendar, 80, 6, seed=5), calendar, FoldSpec(n_groups=6, n_test_groups=2))
    letters = pl.col("role").cast(pl.String).replace_strict({"fit": "f", "tune": "u", "test": "T", "unused": "."})
    roles = folds.split_sessions.sort("split", "session").select("split", letters)
    groups = folds.paths.sort("path", "group").select("path", pl.format("{}:{}", "group", "split"))
    purged = folds.purged.sort("split", "session", "instrument").select(
        "split", pl.format("{} {} {}", pl.col("session").cast(pl.String), "instrument", "cause")
    )
    made = {"roles": _joined(roles, ""), "paths": _joined(groups, " "), "purged": _joined(purged, ", ")}
    assert made == golden("cpcv_6_2.json", made)


def _joined(rows: pl.DataFrame, separator: str) -> dict[str, str]:
    """First column -> the values of the second one, in order, as one text."""
    name, value = rows.columns
    return dict(rows.group_by(name, maintain_order=True).agg(pl.col(value).str.join(separator)).rows())


def test_a_tiny_nets_loss_curve(tmp_path: Path) -> None:
    """Pins a change of the net, its inputs, its losses or its seeds that was not meant to change any result."""
    market, net = small_market(), MEMBERS[2]
    curves = fit_member(net, TRAINING, HEADS, market.prepared, market.labels, market.roles, workdir=tmp_path).curves
    made = {"loss": curves["loss"].to_list()}
    assert len(made["loss"]) == 3
    assert made["loss"] == pytest.approx(golden("tiny_net_loss.json", made)["loss"], abs=1e-6)
