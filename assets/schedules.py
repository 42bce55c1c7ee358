"""The daily schedule, derived from the market: one run per open session at the decision time."""

from zoneinfo import ZoneInfo

import dagster as dg

from pipeline.study import Study
from resources.environments import Environment

SESSION_TAG = "foldgate/session"


def build_schedules(study: Study) -> list[dg.ScheduleDefinition]:
    market = study.market
    at = market.decision_time

    @dg.schedule(
        name=f"{study.name}_daily",
        job_name=f"{study.name}_daily",
        cron_schedule=f"{at.minute} {at.hour} * * 1-5",
        execution_timezone=market.zone,
        description="On open sessions: fetch, refresh, infer. Skips days off the calendar.",
    )
    def daily(
        context: dg.ScheduleEvaluationContext, environment: dg.ResourceParam[Environment]
    ) -> dg.RunRequest | dg.SkipReason:
        day = context.scheduled_execution_time.astimezone(ZoneInfo(market.zone)).date()
        if day not in environment.calendar():
            return dg.SkipReason(f"{day} is no open session of {market.exchange}")
        return dg.RunRequest(run_key=day.isoformat(), tags={SESSION_TAG: day.isoformat()})

    return [daily]
