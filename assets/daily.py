"""One live session, end to end: fetch, refresh, infer, check the one before. For the schedule and the CLI."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from assets import arguments
from assets.runs import Build, Runner
from assets.schedules import SESSION_TAG
from pipeline.clock import instant
from pipeline.errors import IncompleteTables, RetryableVendorError
from pipeline.serving.records import BOOKS, write_no_selection
from pipeline.stages.contract import months
from pipeline.study import Study
from resources.environments import Environment
from resources.freshness import incomplete_sessions
from resources.notification import notify

RETRY_SECONDS = 300
MAX_RETRIES = 1000  # the hour in the settings ends the retries, not this count
RETRIED = (IncompleteTables, RetryableVendorError)  # what asking again later can cure


def run_session(runner: Runner, session: date) -> None:
    """Everything of one live session. Inference itself fetches nothing and refuses on incomplete tables."""
    _require_open(runner.environment, session)
    month = f"{session:%Y-%m}"
    with _no_selection_on_failure(runner, session):
        runner.ingest(month, month)
        _require_complete(runner.environment, runner.study, session)
        runner.stages(["panel", "features"], first=month, last=month, step=f"panel, features {month}")
    runner.stages(["inference"], first=session.isoformat(), step=f"inference {session}")
    _refresh_labels(runner, session)


def _refresh_labels(runner: Runner, session: date) -> None:
    """Labels of the decisions that this session may have ended: what was recorded meets what happened."""
    labels, calendar = runner.study.labels, runner.environment.calendar()
    oldest = calendar.session(max(calendar.ordinal(session) - labels.reach, 0))
    built = runner.environment.artifacts.current(runner.study.name, "panel")
    span = [month for month in months(calendar.between(oldest, session)) if month in built]
    runner.stages(["labels"], first=span[0], last=span[-1], step=f"labels {span[0]}..{span[-1]}")


def _require_open(environment: Environment, session: date) -> None:
    """A day that the calendar knows to be closed is refused before anything is fetched or recorded."""
    if environment.knows_calendar and session <= environment.calendar().known_until:
        arguments.session(environment, session.isoformat())


@contextmanager
def _no_selection_on_failure(runner: Runner, session: date) -> Iterator[None]:
    """The latest files never show yesterday's list for today; a session that is still retried is not written yet."""
    environment, study = runner.environment, runner.study
    try:
        yield
    except Exception as failure:
        retried = isinstance(failure, RETRIED) and not deadline_passed(environment, study, session)
        if not retried:
            write_no_selection(
                environment.records(study.name), session, str(failure).splitlines()[0], BOOKS[study.policy.family]
            )
        raise


def _require_complete(environment: Environment, study: Study, session: date) -> None:
    gaps = incomplete_sessions(environment, study, session)
    missing = sorted(table for table, days in gaps.items() if days)
    if missing:
        raise IncompleteTables(
            "a session is scored on complete tables",
            f"{session}: {', '.join(missing)}",
            f"asked again until {environment.settings.retry_until:%H:%M}; then the day fails",
        )


def check_session(runner: Runner, session: date) -> None:
    """Compare a recorded session with the research path, rebuilt from the raw tables as they are now.

    A later session's ingestion has rebuilt the month already, unless this session was its last one or nothing came
    after it: comparing stored tables with themselves would prove nothing.
    """
    month = f"{session:%Y-%m}"
    if not _rebuilt_since(runner, session, month):
        runner.stages(["panel", "features"], first=month, last=month, step=f"rebuild panel, features {month}")
    runner.stages(["parity"], first=session.isoformat(), step=f"parity {session}")


def _rebuilt_since(runner: Runner, session: date, month: str) -> bool:
    """Whether the month's panel and features were stored after the session's inference."""
    artifacts, name = runner.environment.artifacts, runner.study.name
    inferred = artifacts.current(name, "inference").get(session.isoformat())
    built = [artifacts.current(name, stage).get(month) for stage in ("panel", "features")]
    return inferred is not None and all(version and version.sequence > inferred.sequence for version in built)


def deadline(environment: Environment, study: Study, session: date) -> datetime:
    """The instant from which incomplete tables fail a session: the set hour of the day that decides it."""
    market = study.market
    day = session + timedelta(days=market.decision_days_later)
    return instant(day, environment.settings.retry_until, ZoneInfo(market.zone))


def deadline_passed(environment: Environment, study: Study, session: date) -> bool:
    """Whether incomplete tables fail the day by now."""
    return environment.clock.now() >= deadline(environment, study, session)


def build_daily_job(study: Study, build: Build) -> dg.JobDefinition:
    """The op job that the schedule starts: retries while tables are incomplete, then fails loudly."""

    @dg.failure_hook(required_resource_keys={"environment"}, name=f"{study.name}_notify")
    def tell(context: dg.HookContext) -> None:
        environment: Environment = context.resources.environment
        notify(environment.settings.notify, f"{study.name}: the daily job failed: {context.op_exception}")

    @dg.op(name=f"{study.name}_session", tags={"dagster/concurrency_key": study.name})
    def session(context: dg.OpExecutionContext, environment: dg.ResourceParam[Environment]) -> None:
        day = date.fromisoformat(context.run.tags[SESSION_TAG])
        runner = Runner(
            environment, context.instance, build, lambda step, took: context.log.info(f"{step}: {took:.1f} s")
        )
        try:
            run_session(runner, day)
        except RETRIED as absent:
            if not deadline_passed(environment, study, day):
                raise dg.RetryRequested(max_retries=MAX_RETRIES, seconds_to_wait=RETRY_SECONDS) from absent
            raise

    @dg.job(name=f"{study.name}_daily", hooks={tell}, description="Fetch, refresh and infer one open session.")
    def daily() -> None:
        session()

    return daily
