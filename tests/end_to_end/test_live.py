"""Live sessions over a vendor that delivers late and corrects itself: records, their bytes, and parity."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import polars as pl
import pytest

from assets.commands import _require_exact
from assets.daily import check_session, run_session
from assets.runs import Runner
from pipeline.errors import ParityBroken
from pipeline.serving.parity import KEYS
from resources.environments import Environment
from tests.tiny import Tiny, contents, copy_of, live_session

pytestmark = pytest.mark.xdist_group("tiny")

# Seven times the profile's rates: late rows and corrections fall between any two live sessions.
FAULTS = {"late_rate": 0.02, "revision_rate": 0.02, "stretch": 30}


@pytest.fixture(scope="module")
def faulty(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """The live sessions over a vendor with many faults; every one is recorded and checked after the last."""
    runner = copy_of(tiny.eve, tmp_path_factory.mktemp("faulty") / "home", market={"faults": FAULTS})
    for session in tiny.live:
        live_session(runner, session)
    for session in tiny.live:
        check_session(runner, session)
    return runner


def parity(environment: Environment, session: date) -> pl.DataFrame:
    return environment.artifacts.table(environment.study.name, "parity", "report", partitions=[session.isoformat()])


def records(environment: Environment) -> Path:
    return environment.records(environment.study.name)


def test_every_live_session_is_recorded(tiny: Tiny, faulty: Runner) -> None:
    """Pins a session that was inferred and left no record, or another session's."""
    rows = pl.read_csv(records(faulty.environment) / "selections" / "all_selections.csv", infer_schema=False)
    live = rows.filter(pl.col("trade_date").is_in([f"{day:%Y%m%d}" for day in tiny.live]))
    champion = faulty.environment.champions(faulty.study.name).current()
    assert champion is not None
    assert live["trade_date"].to_list() == [f"{day:%Y%m%d}" for day in tiny.live]
    assert live["status"].to_list() == ["SELECTED"] * len(tiny.live)
    assert live["bundle"].unique().to_list() == [champion["bundle"]]
    assert live["names"].to_list() == ["10"] * len(tiny.live)


def test_the_vendor_was_late_and_corrected_itself_between_live_sessions(tiny: Tiny, faulty: Runner) -> None:
    """Pins the parity test below passing on a market in which nothing happened."""
    environment = faulty.environment
    patches = environment.artifacts.table(faulty.study.name, "panel", "patches")
    assert len(patches.filter(pl.col("effective_session").is_in(tiny.live) & pl.col("session").is_in(tiny.live))) >= 2
    seen = [environment.lake.scan(t).filter(pl.col("knowledge") == "observed") for t in ("daily_basic", "moneyflow")]
    assert sum(map(len, seen)) >= 2


def test_parity_is_exact_on_every_live_session(tiny: Tiny, faulty: Runner) -> None:
    """Pins a live value that the research path cannot rebuild once late rows and corrections are in the lake."""
    for session in tiny.live:
        report = parity(faulty.environment, session)
        assert report["exact"].all(), report.filter(~pl.col("exact")).to_dicts()
        rows = dict(report.select("asset", "rows").iter_rows())
        assert list(rows) == ["features", "orders", "panel", "paths", "predictions", "scores", "tensors"]
        assert rows.pop("paths") == 0  # none of these members reads minutes
        assert min(rows.values()) > 0


def test_running_a_session_again_changes_no_byte(tiny: Tiny, faulty: Runner, tmp_path: Path) -> None:
    """Pins a record, or a stored result, that a second run of the same or of an earlier session rewrites."""
    runner = copy_of(faulty.environment.home, tmp_path / "home")
    environment, name = runner.environment, runner.study.name
    before = contents(records(environment)), environment.lake.manifest_hash()
    inferred = environment.artifacts.current(name, "inference")
    for session in (tiny.live[-1], tiny.live[0]):
        run_session(runner, session)
    assert (contents(records(environment)), environment.lake.manifest_hash()) == before
    assert {k: v.hash for k, v in environment.artifacts.current(name, "inference").items()} == {
        k: v.hash for k, v in inferred.items()
    }


def one_bit_off(environment: Environment, session: date, table: str, column: str) -> str:
    """Store an inference in which the lowest bit of one value is flipped; returns the row's key in a report."""
    name, key = environment.study.name, session.isoformat()
    version = environment.artifacts.current(name, "inference")[key]
    tables = {t: environment.artifacts.table(name, "inference", t, partitions=[key]) for t in version.tables}
    frame, row = tables[table], 5
    bits = frame[column].reinterpret(dtype=pl.UInt32 if frame.schema[column] == pl.Float32 else pl.UInt64)
    values = bits.to_list()
    values[row] ^= 1
    changed = pl.Series(column, values, dtype=bits.dtype).reinterpret(dtype=frame.schema[column])
    tables[table] = frame.with_columns(changed)
    files = {file: environment.artifacts.file(name, "inference", file, partition=key) for file in version.files}
    environment.artifacts.write(name, "inference", key, tables, files, lineage={"test": "one bit flipped"})
    named = frame.row(row, named=True)
    return "|".join(str(named[key]) for key in KEYS[table] if key != "session")


@pytest.mark.parametrize(
    ("table", "column"),
    [("panel", "close"), ("features", "KMID"), ("scores", "rank_head"), ("predictions", "q_pred"), ("orders", "score")],
)
def test_one_flipped_bit_is_named(tiny: Tiny, faulty: Runner, tmp_path: Path, table: str, column: str) -> None:
    """Pins a comparison with a tolerance, and a red parity that does not say where to look."""
    runner, session = copy_of(faulty.environment.home, tmp_path / "home"), tiny.live[1]
    row = one_bit_off(runner.environment, session, table, column)
    result = runner.stages(["parity"], first=session.isoformat())
    report = parity(runner.environment, session)
    broken = report.filter(~pl.col("exact"))
    assert broken.select("asset", "instrument", "column", "different").rows() == [(table, row, column, 1)]
    assert broken["live"][0] != broken["research"][0]
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert not checks["exact"].passed


def test_a_session_is_checked_against_raw_tables_and_not_against_what_inference_read(
    tiny: Tiny, faulty: Runner, tmp_path: Path
) -> None:
    """Pins a parity of the newest session that compares stored tables with themselves."""
    runner, session = copy_of(faulty.environment.home, tmp_path / "home"), tiny.live[-1]
    artifacts, name, month = runner.environment.artifacts, runner.study.name, f"{session:%Y-%m}"
    version = artifacts.current(name, "features")[month]
    tables = {t: artifacts.table(name, "features", t, partitions=[month]) for t in version.tables}
    shifted = tables["features"].with_columns(pl.col("KMID") + pl.lit(1.0, pl.Float32))
    artifacts.write(name, "features", month, tables | {"features": shifted}, {}, lineage={"test": "not from raw"})
    check_session(runner, session)
    assert parity(runner.environment, session)["exact"].all()
    rebuilt = artifacts.table(name, "features", "features", partitions=[month])
    assert rebuilt["KMID"].equals(tables["features"]["KMID"])


def test_the_commands_end_with_an_error_where_parity_broke(tiny: Tiny, faulty: Runner, tmp_path: Path) -> None:
    """Pins a demo that reports exact sessions without having looked at the verdicts."""
    runner, session = copy_of(faulty.environment.home, tmp_path / "home"), tiny.live[1]
    _require_exact(runner.environment, tiny.live)
    one_bit_off(runner.environment, session, "scores", "rank_head")
    runner.stages(["parity"], first=session.isoformat())
    with pytest.raises(ParityBroken, match="rank_head"):
        _require_exact(runner.environment, tiny.live)
