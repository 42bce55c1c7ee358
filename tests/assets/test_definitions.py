"""The code location: what is in it, that it loads, and that building it touches nothing."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from assets.definitions import build_definitions, definitions
from assets.keys import PROOF_GROUP, manifest_key, proof_key, stage_key, table_key
from assets.proof.registry import PROOFS
from assets.study_graph import BUILDERS
from pipeline.errors import BadInput
from pipeline.studies import STUDIES
from resources.environments import HOME_VARIABLE, Environment, Settings, create_environment
from tests.tiny import Tiny, contents

pytestmark = pytest.mark.xdist_group("tiny")


@pytest.fixture
def empty(tmp_path: Path) -> Environment:
    """A home that nothing was ever fetched into, as after `foldgate init`; there is no token."""
    return live_home(tmp_path / "home", next(iter(STUDIES)))


def live_home(home: Path, study: str) -> Environment:
    source = STUDIES[study].market.vendor
    settings = Settings.model_validate({"source": source, "study": study, "first_session": date(2024, 1, 2)})
    return create_environment(home, settings, home / "no_template")


@pytest.mark.parametrize("study", STUDIES)
def test_the_definitions_of_an_empty_home_are_valid(
    study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pins a code location that needs a token, a network or data before it can be shown."""
    monkeypatch.delenv("TUSHARE_TOKEN", raising=False)
    environment = live_home(tmp_path / "home", study)
    before = contents(environment.home)
    dg.Definitions.validate_loadable(build_definitions(environment))
    assert contents(environment.home) == before


def test_every_table_and_stage_is_an_asset_of_its_group(tiny: Tiny) -> None:
    """Pins a table, stage or proof without an asset, and an asset outside the group of its kind."""
    study = tiny.runner.study
    repository = build_definitions(tiny.environment).get_repository_def()
    graph = repository.asset_graph
    stages = {stage_key(study, name) for name in ("panel", "features", "labels", "champion", "inference", "parity")}
    vendor = {table_key("tushare", name) for name in study.table_names} | {manifest_key("tushare")}
    keys = graph.get_all_asset_keys()
    assert stages | vendor <= keys
    proofs = {proof_key(proof.name) for proof in PROOFS}
    assert proofs <= keys
    assert len(keys) == len(vendor) + len(BUILDERS) + len(proofs)
    assert {graph.get(key).group_name for key in vendor} == {"tushare"}
    assert {graph.get(key).group_name for key in keys - vendor - proofs} == {study.name}
    assert {graph.get(key).group_name for key in proofs} == {PROOF_GROUP}
    assert repository.get_job(PROOF_GROUP).asset_layer.executable_asset_keys == proofs


def test_every_registered_study_builds(tmp_path: Path) -> None:
    """Pins a study that is only ever built when someone chooses it."""
    for name in STUDIES:
        settings = Settings(study=name, first_session=date(2026, 2, 2), last_session=date(2026, 9, 30))
        environment = create_environment(tmp_path / name, settings, tmp_path / "no_template")
        dg.Definitions.validate_loadable(build_definitions(environment))


def test_sessions_are_the_calendars(tiny: Tiny) -> None:
    """Pins a partition for a holiday, one for a day outside the stretch, and a session without one."""
    graph = build_definitions(tiny.environment).get_repository_def().asset_graph
    settings = tiny.environment.settings
    assert settings.first_session
    assert settings.last_session
    wanted = tiny.environment.calendar().between(settings.first_session, settings.last_session)
    partitions = graph.get(stage_key(tiny.runner.study, "inference")).partitions_def
    assert partitions is not None
    assert partitions.get_partition_keys() == [day.isoformat() for day in wanted]
    assert any(b - a > timedelta(days=4) for a, b in pairwise(wanted)), "no holiday in the stretch"


def test_months_cover_the_stretch(tiny: Tiny) -> None:
    """Pins a first or last month that cannot be materialised."""
    graph = build_definitions(tiny.environment).get_repository_def().asset_graph
    for key in (stage_key(tiny.runner.study, "panel"), table_key("tushare", "daily")):
        partitions = graph.get(key).partitions_def
        assert partitions is not None
        names = partitions.get_partition_keys()
        assert (names[0], names[-1], len(names)) == ("2026-02", "2026-09", 8)


def test_an_open_end_reaches_today(empty: Environment) -> None:
    """Pins a live environment whose newest month or session cannot be materialised until it is over."""
    graph = build_definitions(empty).get_repository_def().asset_graph
    study, now = empty.study, datetime.now(UTC).astimezone(ZoneInfo(empty.study.market.zone))
    months = graph.get(stage_key(study, "panel")).partitions_def
    sessions = graph.get(stage_key(study, "inference")).partitions_def
    assert months is not None
    assert sessions is not None
    assert months.get_partition_keys()[-1] == f"{now:%Y-%m}"
    weekday = now.date() - timedelta(days=max(now.weekday() - 4, 0))
    assert weekday.isoformat() in sessions.get_partition_keys()[-2:]


def test_the_code_location_is_found_through_the_variable(tiny: Tiny) -> None:
    """Pins `assets.definitions` not loading the way that the UI and the daemon load it, or bringing libraries that only
    a stage, a probe or a proof needs: with these, loading took 6.9 s and 673 MB instead of 1.7 s and 235 MB."""
    script = (
        "import sys; from assets.definitions import definitions; d = definitions(); print(len(list(d.assets)));"
        "print(*sorted({'torch', 'lightning', 'lightgbm', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    made = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={"PATH": "", HOME_VARIABLE: str(tiny.eve)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    count, heavy = made.stdout.split("\n")[:2]
    assert int(count) == len(tiny.runner.study.table_names) + 1 + len(BUILDERS) + len(PROOFS)
    assert heavy == ""


def test_without_a_home_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pins a traceback about a path where nobody named a home."""
    monkeypatch.delenv(HOME_VARIABLE, raising=False)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with pytest.raises(BadInput, match="use the `foldgate` command"):
        definitions()
