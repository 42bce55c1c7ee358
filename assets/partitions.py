"""Partition definitions. Months for tables, because each asset-partition costs about 12 ms of events."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from typing import NamedTuple

import dagster as dg

from pipeline.stages.contract import PartitionKind
from pipeline.study import Study

SPLIT, MEMBER = "split", "member"


class Stretch(NamedTuple):
    """The natural days an environment covers; `last` is None while it follows the clock."""

    first: date
    last: date | None


def month_partitions(stretch: Stretch, zone: str) -> dg.TimeWindowPartitionsDefinition:
    first = stretch.first.replace(day=1)
    end = (stretch.last.replace(day=1) + timedelta(days=32)).replace(day=1) if stretch.last else None
    return dg.TimeWindowPartitionsDefinition(
        cron_schedule="0 0 1 * *",
        start=f"{first:%Y-%m}",
        end=f"{end:%Y-%m}" if end else None,
        fmt="%Y-%m",
        timezone=zone,
        end_offset=0 if end else 1,
    )


def session_partitions(
    stretch: Stretch, zone: str, holidays: list[date], every_day: bool = False
) -> dg.TimeWindowPartitionsDefinition:
    """Open sessions: every day, or weekdays less the calendar's holidays. Exclusions are instants, not strings."""
    return dg.TimeWindowPartitionsDefinition(
        cron_schedule="0 0 * * *" if every_day else "0 0 * * 1-5",
        start=stretch.first.isoformat(),
        end=(stretch.last + timedelta(days=1)).isoformat() if stretch.last else None,
        fmt="%Y-%m-%d",
        timezone=zone,
        end_offset=0 if stretch.last else 1,
        exclusions=[datetime.combine(day, time()) for day in holidays] or None,
    )


def split_partitions(study: Study) -> dg.StaticPartitionsDefinition:
    return dg.StaticPartitionsDefinition(list(study.folds.splits))


def split_member_partitions(study: Study) -> dg.MultiPartitionsDefinition:
    members = dg.StaticPartitionsDefinition([member.name for member in study.members])
    return dg.MultiPartitionsDefinition({SPLIT: split_partitions(study), MEMBER: members})


class Partitions(NamedTuple):
    """The partition definitions of one environment."""

    stretch: Stretch
    zone: str
    holidays: list[date]
    every_day: bool = False

    def of(self, kind: PartitionKind, study: Study) -> dg.PartitionsDefinition | None:
        """The definition for a stage's partition kind; None for a whole."""
        return {
            "month": lambda: month_partitions(self.stretch, self.zone),
            "session": lambda: session_partitions(self.stretch, self.zone, self.holidays, self.every_day),
            "split": lambda: split_partitions(study),
            "split_member": lambda: split_member_partitions(study),
            "whole": lambda: None,
        }[kind]()
