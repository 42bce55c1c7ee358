"""The daily schedule, derived from the market: one run per open session at the decision time."""

from datetime import timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from pipeline.study import Study
from resources.environments import Environment, open_every_day

SESSION_TAG = "foldgate/session"


def build_schedules(study: Study) -> list[dg.ScheduleDefinition]:
    market = study.market
    at, later = market.decision_time, timedelta(days=market.decision_days_later)
    weekdays = "*" if open_every_day(market) or later else "1-5"

    @dg.schedule(
        name=f"{study.name}_daily",
        job_name=f"{study.name}_daily",
        cron_schedule=f"{at.minute} {at.hour} * * {weekdays}",
        execution_timezone=market.zone,
        description="On open sessions: fetch, refresh, infer. Skips days off the calendar.",
    )
    def daily(
        context: dg.ScheduleEvaluationContext, environment: dg.ResourceParam[Environment]
    ) -> dg.RunRequest | dg.SkipReason:
        day = context.scheduled_execution_time.astimezone(ZoneInfo(market.zone)).date() - later
        if day not in environment.calendar():
            return dg.SkipReason(f"{day} is no open session of {market.exchange}")
        return dg.RunRequest(run_key=day.isoformat(), tags={SESSION_TAG: day.isoformat()})

    return [daily]
