"""The code location. Building is a function of an environment; importing does nothing."""

from datetime import date, timedelta

import dagster as dg

from assets.checks import build_checks
from assets.daily import build_daily_job
from assets.jobs import build_jobs
from assets.partitions import Partitions, Stretch
from assets.proofs import build_proofs
from assets.schedules import build_schedules
from assets.study_graph import build_study
from assets.vendor_tables import build_manifest, build_vendor_table
from pipeline.calendars import Calendar
from resources.environments import Environment, current_environment, open_every_day
from resources.warehouse import duckdb_resource

FALLBACK_FIRST = date(2016, 1, 1)  # stock_st begins here


def build_definitions(environment: Environment) -> dg.Definitions:
    """A fresh `Definitions` of one environment: its vendor's tables and its study's stages."""
    study = environment.study
    partitions = _partitions(environment)
    tables = [environment.tables[name] for name in study.table_names]
    assets = [build_vendor_table(study, spec, partitions) for spec in tables]
    assets += [build_manifest(study, tables), *build_study(study, partitions), *build_proofs()]
    return dg.Definitions(
        assets=assets,
        asset_checks=build_checks(study, tables),
        jobs=[*build_jobs(study, tables), build_daily_job(study, build_definitions)],
        schedules=build_schedules(study),
        resources={"environment": environment, "duckdb": duckdb_resource()},
    )


def _partitions(environment: Environment) -> Partitions:
    """Partition definitions from the settings, and holidays from the lake once it knows the calendar."""
    settings = environment.settings
    stretch = Stretch(settings.first_session or FALLBACK_FIRST, settings.last_session)
    zone = environment.study.market.zone
    if open_every_day(environment.study.market):
        return Partitions(stretch, zone, [], every_day=True)
    return Partitions(stretch, zone, _holidays(environment.calendar(), stretch) if environment.knows_calendar else [])


def _holidays(calendar: Calendar, stretch: Stretch) -> list[date]:
    """Weekdays of the stretch on which the market is closed."""
    last = min(stretch.last or calendar.known_until, calendar.known_until)
    days = (stretch.first + timedelta(days=i) for i in range((last - stretch.first).days + 1))
    return [day for day in days if day.weekday() < 5 and day not in calendar]


@dg.definitions
def definitions() -> dg.Definitions:
    return build_definitions(current_environment())
