"""What Dagster shows of a study that decides by the minute: every day a session, at five past midnight."""

from __future__ import annotations

import io
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from assets import commands
from assets.arguments import instrument, session
from assets.console import Console
from assets.daily import deadline_passed
from assets.definitions import build_definitions
from assets.doctor import examine
from assets.keys import stage_key, table_key
from assets.runs import Runner
from assets.schedules import SESSION_TAG, build_schedules
from pipeline.errors import BadInput, CalendarError, IncompleteTables
from resources.environments import Environment
from tests.minute_home import MINUTE_STUDY, minute_environment


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return minute_environment(tmp_path / "home")


def partitions(environment: Environment, key: dg.AssetKey) -> list[str]:
    definition = build_definitions(environment).get_repository_def().asset_graph.get(key).partitions_def
    assert definition is not None
    return list(definition.get_partition_keys())


def test_sundays_are_partitions(environment: Environment) -> None:
    """Pins a graph of weekdays: two days a week could never be inferred."""
    days = [f"2026-06-{day}" for day in range(25, 31)]
    assert partitions(environment, stage_key(MINUTE_STUDY, "inference")) == days
    assert date(2026, 6, 28).weekday() == 6
    assert partitions(environment, table_key("binance", "klines_1m")) == ["2026-06"]


def test_the_vendors_tables_hang_on_nothing(environment: Environment) -> None:
    """Pins a minute table that waits for a trading calendar or a list of shares that its vendor does not have."""
    graph = build_definitions(environment).get_repository_def().asset_graph
    for name in MINUTE_STUDY.table_names:
        assert not graph.get(table_key("binance", name)).parent_keys


@pytest.mark.parametrize(("at", "day"), [("2026-06-29T00:05", "2026-06-28"), ("2026-07-01T00:05", "2026-06-30")])
def test_a_tick_runs_the_day_that_has_just_ended(environment: Environment, at: str, day: str) -> None:
    """Pins the day of the tick taken for the session: at five past midnight it has five minutes."""
    (schedule,) = build_schedules(MINUTE_STUDY)
    assert schedule.cron_schedule == "5 0 * * *"
    assert schedule.execution_timezone == "UTC"
    scheduled, resources = datetime.fromisoformat(at).replace(tzinfo=UTC), {"environment": environment}
    with dg.build_schedule_context(scheduled_execution_time=scheduled, resources=resources) as context:
        (request,) = schedule.evaluate_tick(context).run_requests
    assert request.run_key == day
    assert request.tags[SESSION_TAG] == day


def test_a_day_before_history_is_skipped(environment: Environment) -> None:
    """Pins a run for a day of which there are no rows."""
    (schedule,) = build_schedules(MINUTE_STUDY)
    scheduled, resources = datetime(2026, 6, 25, 0, 5, tzinfo=UTC), {"environment": environment}
    with dg.build_schedule_context(scheduled_execution_time=scheduled, resources=resources) as context:
        assert "no open session" in str(schedule.evaluate_tick(context).skip_message)


def test_five_past_midnight_of_a_new_month_is_still_the_old_one(tmp_path: Path) -> None:
    """Pins a backfill that asks for a month in which no day has ended."""
    environment = minute_environment(tmp_path / "home", date(2026, 6, 30), last_session=date(2026, 7, 5))
    with dg.DagsterInstance.ephemeral() as instance:
        runner = Runner(environment, instance, build_definitions)
        assert environment.clock.now().month == 7
        assert runner._span(None, None) == ["2026-06"]


def test_ingestion_needs_no_snapshots_first(environment: Environment) -> None:
    """Pins a job of snapshots that a vendor without any does not have."""
    told: list[str] = []
    with dg.DagsterInstance.ephemeral() as instance:
        runner = Runner(environment, instance, build_definitions, lambda step, seconds: told.append(step))
        runner.ingest()
        assert told == ["vendor tables 2026-06..2026-06"]
        assert environment.lake.tables() == sorted(MINUTE_STUDY.table_names)
        assert instance.has_asset_key(table_key("binance", "manifest"))
    out = io.StringIO()
    assert examine(environment.home, out) == 0
    report = out.getvalue()
    assert "open every day, from 2026-06-25" in report
    assert "token" not in report
    assert "1 published sessions incomplete" in report  # the day without books


def test_incomplete_tables_are_asked_for_until_the_hour_of_the_deciding_day(environment: Environment) -> None:
    """Pins a deadline on the session's own day, which has passed before the session is decided."""
    day = date(2026, 6, 30)
    environment.move_clock(MINUTE_STUDY.market.decided_at(day))
    assert not deadline_passed(environment, MINUTE_STUDY, day)
    environment.move_clock(datetime(2026, 7, 1, 23, 0, tzinfo=UTC))
    assert deadline_passed(environment, MINUTE_STUDY, day)


def test_what_a_person_types(environment: Environment) -> None:
    """Pins commands that look a symbol up in a list of shares, or refuse a Sunday."""
    assert instrument(environment, " btcusdt") == "BTCUSDT"
    assert session(environment, "2026-06-28") == date(2026, 6, 28)
    with pytest.raises(BadInput, match="close: BTCUSDT"):
        instrument(environment, "BTCUSD")
    with pytest.raises(CalendarError, match="2026-06-25"):
        session(environment, (date(2026, 6, 25) - timedelta(days=1)).isoformat())


def test_a_demo_goes_on_past_a_day_whose_books_never_come(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pins a demo that dies on one incomplete day, one that tells nothing of it, and a day that is never recorded."""
    days = [date(2026, 6, 29), date(2026, 6, 30), date(2026, 7, 1)]
    asked: list[tuple[date, datetime]] = []
    checked: list[date] = []

    def run_session(runner: Runner, day: date) -> None:
        asked.append((day, environment.clock.now()))
        if day == days[1]:
            raise IncompleteTables("complete", f"{day}: book_1m", "")

    monkeypatch.setattr("assets.daily.run_session", run_session)
    monkeypatch.setattr("assets.daily.check_session", lambda runner, day: checked.append(day))
    runner = Runner(environment, dg.DagsterInstance.ephemeral(), build_definitions)
    assert commands._live(runner, days, Console("demo")) == [days[0], days[2]] == checked
    assert "no selection, incomplete: 2026-06-30: book_1m" in capsys.readouterr().out
    decided = MINUTE_STUDY.market.decided_at
    until = datetime(2026, 7, 1, 23, 0, tzinfo=UTC)
    assert asked == [(days[0], decided(days[0])), (days[1], decided(days[1])), (days[1], until),
                     (days[2], decided(days[2]))]  # fmt: skip
