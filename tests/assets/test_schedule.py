"""The daily schedule: one run per open session, at the market's own hour."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

import dagster as dg
import pytest

from assets.definitions import build_definitions
from assets.schedules import SESSION_TAG, build_schedules
from resources.environments import overridden
from tests.tiny import Tiny

pytestmark = pytest.mark.xdist_group("tiny")


def evaluated(tiny: Tiny, at: datetime, schedule: dg.ScheduleDefinition | None = None) -> dg.RunRequest | dg.SkipReason:
    """What the schedule says at an instant."""
    schedule = schedule or build_schedules(tiny.runner.study)[0]
    resources = {"environment": tiny.environment}
    with dg.build_schedule_context(scheduled_execution_time=at, resources=resources) as context:
        data = schedule.evaluate_tick(context)
    return data.run_requests[0] if data.run_requests else dg.SkipReason(data.skip_message)


def test_it_ticks_at_the_decision_time_in_the_markets_zone(tiny: Tiny) -> None:
    """Pins a schedule in UTC or in the machine's zone: eight hours early, on a session without its rows."""
    definitions = build_definitions(tiny.environment)
    (schedule,) = definitions.get_repository_def().schedule_defs
    assert schedule.cron_schedule == "30 20 * * 1-5"
    assert schedule.execution_timezone == "Asia/Shanghai"
    assert schedule.job_name == f"{tiny.runner.study.name}_daily"


def test_an_open_session_asks_for_one_run(tiny: Tiny) -> None:
    """Pins a second run of the same session after a restart of the daemon, and a run that does not know its session."""
    request = evaluated(tiny, datetime.combine(tiny.live[0], time(12, 30), UTC))
    assert isinstance(request, dg.RunRequest)
    assert request.run_key == tiny.live[0].isoformat()
    assert request.tags[SESSION_TAG] == tiny.live[0].isoformat()


@pytest.mark.parametrize("weekday", [True, False])
def test_days_off_the_calendar_are_skipped(tiny: Tiny, weekday: bool) -> None:
    """Pins a failed run on every holiday."""
    calendar = tiny.environment.calendar()
    days = [tiny.live[-1] - timedelta(days=i) for i in range(120)]
    closed = next(day for day in days if day not in calendar and (day.weekday() < 5) == weekday)
    skipped = evaluated(tiny, datetime.combine(closed, time(12, 30), UTC))
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == f"{closed} is no open session of SSE"


def test_the_session_is_the_markets_day(tiny: Tiny) -> None:
    """Pins a decision early in the Shanghai morning that is taken for the day before, which is the day in UTC."""
    early = overridden(tiny.runner.study, {"market.decision_time": "06:00:00"})
    (schedule,) = build_schedules(early)
    assert schedule.cron_schedule == "0 6 * * 1-5"
    request = evaluated(tiny, datetime.combine(tiny.live[0] - timedelta(days=1), time(22, 0), UTC), schedule)
    assert isinstance(request, dg.RunRequest)
    assert request.run_key == tiny.live[0].isoformat()
