"""The daily job: one session end to end; while tables are missing it asks again, then it fails and says so."""

from __future__ import annotations

import stat
from datetime import timedelta
from pathlib import Path

import dagster as dg
import httpx
import pytest

from assets import daily
from assets.definitions import build_definitions
from assets.runs import Runner
from assets.schedules import SESSION_TAG
from tests.tiny import Tiny, copy_of, watch

pytestmark = pytest.mark.xdist_group("tiny")

NO_MONEYFLOW = {"faults": {"missing_sessions": 3, "stretch": 4, "late_rate": 0, "revision_rate": 0}}


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job's five minutes between two tries."""
    monkeypatch.setattr(daily, "RETRY_SECONDS", 0)


@pytest.fixture
def hook(tmp_path: Path) -> Path:
    """A command that appends its argument to `<command>.said`."""
    script = tmp_path / "notify"
    script.write_text('#!/bin/sh\nprintf "%s\\n" "$1" >> "$0.said"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


def said(hook: Path) -> list[str]:
    path = hook.with_name("notify.said")
    return path.read_text().splitlines() if path.exists() else []


def run_daily(runner: Runner, session: str) -> dg.ExecuteInProcessResult:
    """As the daemon would start it."""
    job = build_definitions(runner.environment).resolve_job_def(f"{runner.study.name}_daily")
    return job.execute_in_process(instance=runner.instance, tags={SESSION_TAG: session}, raise_on_error=False)


def statuses(runner: Runner) -> list[tuple[str, str]]:
    """Session and status of each record, in order."""
    path = runner.environment.records(runner.study.name) / "selections" / "all_selections.csv"
    return [tuple(line.split(",")[:2]) for line in path.read_text().splitlines()[1:]]


def test_a_session_end_to_end(tiny: Tiny, tmp_path: Path, hook: Path) -> None:
    """Pins a job that works by hand and not under the schedule's tag, and a notification about nothing."""
    session = tiny.live[0]
    runner = copy_of(tiny.eve, tmp_path / "home", now=tiny.runner.study.market.decided_at(session), notify=str(hook))
    assert run_daily(runner, session.isoformat()).success
    assert statuses(runner)[-1] == (f"{session:%Y%m%d}", "SELECTED")
    assert said(hook) == []


def test_missing_tables_are_asked_for_until_the_hour_then_the_day_fails_aloud(
    tiny: Tiny, tmp_path: Path, hook: Path
) -> None:
    """Pins a job that gives up at the first try, one that never gives up, and one that fails in silence."""
    session = tiny.live[0]
    runner = copy_of(
        tiny.eve,
        tmp_path / "home",
        now=tiny.runner.study.market.decided_at(session),
        notify=str(hook),
        market=NO_MONEYFLOW,
    )
    environment = runner.environment

    def an_hour_passes(asked: dict[str, object]) -> None:
        if asked["api_name"] == "trade_cal":  # once a try
            environment.move_clock(environment.clock.now() + timedelta(hours=1))

    vendor = watch(environment, an_hour_passes)
    result = run_daily(runner, session.isoformat())
    assert not result.success
    tries = [asked for asked in vendor.requests if asked["api_name"] == "moneyflow"]
    assert len({id(asked) for asked in tries if asked["params"]["trade_date"] == f"{session:%Y%m%d}"}) == 3
    (message,) = said(hook)
    assert message.startswith(f"{runner.study.name}: the daily job failed:")
    assert f"{session}: moneyflow" in message
    assert statuses(runner)[-1] == (f"{session:%Y%m%d}", "NO_SELECTION")


def test_an_unreachable_vendor_is_asked_again(tiny: Tiny, tmp_path: Path, hook: Path) -> None:
    """Pins a day lost to a gateway that was down for a quarter of an hour."""
    session = tiny.live[0]
    runner = copy_of(tiny.eve, tmp_path / "home", now=tiny.runner.study.market.decided_at(session), notify=str(hook))
    down = iter(range(12))

    def unreachable(asked: dict[str, object]) -> None:
        if next(down, None) is not None:
            raise httpx.ConnectError("no route to host")

    watch(runner.environment, unreachable)
    assert run_daily(runner, session.isoformat()).success
    assert statuses(runner)[-1] == (f"{session:%Y%m%d}", "SELECTED")
    assert said(hook) == []


def test_another_failure_is_not_tried_again(tiny: Tiny, tmp_path: Path, hook: Path) -> None:
    """Pins two hours of tries at something that asking again cannot cure, and a failure without a word."""
    session = tiny.live[0]
    runner = copy_of(tiny.eve, tmp_path / "home", now=tiny.runner.study.market.decided_at(session), notify=str(hook))
    (runner.environment.home / "champions").rename(tmp_path / "champions")
    vendor = watch(runner.environment)
    assert not run_daily(runner, session.isoformat()).success
    assert len([asked for asked in vendor.requests if asked["api_name"] == "bse_mapping"]) == 1
    (message,) = said(hook)
    assert "only a champion serves" in message
    assert statuses(runner)[-1] == (f"{session:%Y%m%d}", "NO_SELECTION")
