"""Vendor faults: the small proof holds, and breaks as soon as a check under it is taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import resources.binance
import resources.binance_rest
import resources.lake
import resources.tushare
from assets.proof.contract import BROKEN, HELD
from assets.proof.fault_server import Fault
from assets.proof.faulted_ingestion import CHANNELS, Rig, rig_of
from assets.proof.faults_of_http import ARCHIVE, INTERFACE, TUSHARE
from assets.proof.vendor_faults import alone, finding, run
from pipeline.studies import STUDIES
from pipeline.tables import binance_rows


@pytest.fixture(scope="module")
def rigs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Rig]]:
    """Every vendor's protocol on a socket, over two days."""
    studies = {study.market.vendor: study for study in STUDIES.values()}
    folder = tmp_path_factory.mktemp("rigs")
    with ExitStack() as opened:
        yield {
            channel: opened.enter_context(rig_of(channel, study, folder, days=2))
            for vendor, study in studies.items() for channel in CHANNELS[vendor]
        }  # fmt: skip


def test_the_lake_survives_every_fault(tmp_path: Path) -> None:
    """Pins a gap that nobody is told of, an error that names nothing, and a kind of fault that is no longer tried."""
    steps: list[float] = []
    found = run("small", tmp_path, lambda line, share: steps.append(share))
    trials, mixtures = found.tables["trials"], found.tables["mixtures"]
    assert trials.filter(~pl.col("held"))["ends"].to_list() == []
    assert mixtures.filter(~pl.col("held"))["ends"].to_list() == []
    assert found.status == HELD
    assert found.score == 1.0
    assert found.tables["faults"].height >= 60
    assert set(trials["vendor"]) == {channel for channels in CHANNELS.values() for channel in channels}
    assert trials["injected"].min() > 0
    assert trials["rows"].min() > 0
    assert steps == sorted(steps)


def first_page_only(self: Any, spec: Any, params: Any) -> tuple[pl.DataFrame, bool, int]:
    """The pages of a client that does not ask for a second one."""
    page = self._client.call(spec, params)
    return spec.parse(page.fields, page.items), False, 1


def never_dated(spec: Any, rows: pl.DataFrame, table: Any) -> pl.Series:
    """A lake that forgets when it last looked: whatever comes is as old as its rule says."""
    return pl.Series([None] * rows.height, dtype=pl.Datetime("us", "UTC"))


def everything_complete(spec: Any, rows: Any, sessions: Any, codes: Any, answers: Any) -> tuple[Any, tuple[str, ...]]:
    """A source that takes an empty answer for a day without rows."""
    return tuple(sessions), ()


def everything_whole(spec: Any, frames: Any, days: Any, codes: Any, now: Any) -> tuple[Any, Any, list[str]]:
    """The same for candles: no gaps, no days without rows."""
    return spec.settle(pl.concat([spec.empty(), *frames])), tuple(days), []


def tried_once(sleep: Any) -> Callable[..., Any]:
    """A client without patience."""
    return lambda call, *arguments: call(*arguments)


@pytest.mark.parametrize(
    ("channel", "kind", "place", "name", "instead", "seen"),
    [
        (TUSHARE, "row cap reached", resources.tushare.TushareSource, "_pages", first_page_only, "silent gap"),
        (TUSHARE, "open session without rows", resources.tushare, "completeness", everything_complete, "silent gap"),
        (TUSHARE, "row that the vendor adds later", resources.lake, "watched_since", never_dated, "dated back"),
        (TUSHARE, "gateway error with an HTML body", resources.tushare, "retrying", tried_once, "VendorUnavailable"),
        (INTERFACE, "candle that cannot be", binance_rows, "check_klines", lambda *rows: None, "silent gap"),
        (INTERFACE, "startTime ignored", resources.binance, "whole_days", everything_whole, "silent gap"),
        (ARCHIVE, "minute that the vendor adds later", resources.binance, "_gap_notes", lambda *a: [], "silent gap"),
        (ARCHIVE, "checksum of other bytes", resources.binance_archive.ArchiveClient, "_download", None, "equal"),
    ],
)
def test_a_check_that_is_taken_away_breaks_the_proof(
    rigs: dict[str, Rig], monkeypatch: pytest.MonkeyPatch,
    channel: str, kind: str, place: Any, name: str, instead: Any, seen: str,
) -> None:  # fmt: skip
    """Pins a proof that holds whatever the house does."""
    monkeypatch.setattr(place, name, instead or unverified)
    trials = [trial for trial, _ in alone(rigs[channel], False, lambda fault: fault.kind == kind)]
    ends = [trial.judged.ends for trial in trials if not trial.held]
    assert ends
    assert all(seen in end for end in ends), ends
    assert finding(trials, [], []).status == BROKEN


def unverified(self: Any, file: Any, place: Path, published: str) -> bool:
    """A download that is taken as it comes."""
    place.parent.mkdir(parents=True, exist_ok=True)
    return bool(self._stream(file, place))


def test_an_untried_fault_breaks_the_proof(rigs: dict[str, Rig]) -> None:
    """Pins a fault that no request reaches any more and counts as survived."""
    fault: Fault = next(fault for fault in rigs[TUSHARE].faults() if fault.kind == "token refused")
    trials = [trial for trial, _ in alone(rigs[TUSHARE], False, lambda other: other.kind == fault.kind)]
    assert finding(trials, [], []).status == HELD
    assert finding(trials, [], [fault]).status == BROKEN
    assert finding([], [], []).status == BROKEN


def test_fair_weather_alone_is_the_truth(rigs: dict[str, Rig]) -> None:
    """Pins a difference that the rig itself makes, which every fault would then be blamed for."""
    for rig in rigs.values():
        calm = Fault("none", rig.channel, lambda asked, truth: None, lambda spec: "equal")
        for spec in rig.specs:
            judged = rig.alone(spec, calm)
            assert (judged.ends, judged.injected, judged.retries, judged.stamped) == ("equal", 0, 0, 0), judged
