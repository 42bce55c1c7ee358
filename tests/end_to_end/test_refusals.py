"""Inference says no rather than guess: the latest files name the session and the reason, never yesterday's list."""

from __future__ import annotations

from datetime import time, timedelta
from pathlib import Path

import polars as pl
import pytest
from dagster._core.errors import DagsterUnknownPartitionError

from assets.daily import run_session
from pipeline.clock import instant
from pipeline.errors import CalendarError, IncompleteTables, PromotionRefused
from resources.environments import Environment
from tests.tiny import Tiny, contents, copy_of, live_session

pytestmark = pytest.mark.xdist_group("tiny")

# The vendor serves no money flow of the live sessions until the evening after each.
NO_MONEYFLOW = {"faults": {"missing_sessions": 3, "stretch": 4, "late_rate": 0, "revision_rate": 0}}


def latest(environment: Environment) -> list[dict[str, str]]:
    """Both files that people act on, which must agree on session and status."""
    root = environment.records(environment.study.name)
    rows = pl.read_csv(root / "daily_top10_records" / "top10_latest.csv", infer_schema=False)
    line = pl.read_csv(root / "selections" / "latest_selection_row.csv", infer_schema=False).row(0, named=True)
    assert {(row["trade_date"], row["status"]) for row in rows.iter_rows(named=True)} == {
        (line["trade_date"], line["status"])
    }
    return rows.to_dicts()


def test_without_a_champion_nothing_is_selected(tiny: Tiny, tmp_path: Path) -> None:
    """Pins a selection by a bundle that nobody promoted."""
    runner = copy_of(tiny.eve, tmp_path / "home")
    (runner.environment.home / "champions").rename(tmp_path / "champions")
    with pytest.raises(PromotionRefused, match="only a champion serves"):
        live_session(runner, tiny.live[0])
    (row,) = latest(runner.environment)
    assert (row["trade_date"], row["status"]) == (f"{tiny.live[0]:%Y%m%d}", "NO_SELECTION")
    assert "only a champion serves" in row["reason"]
    assert row["code"] is None


def test_a_table_that_the_vendor_has_not_filled_stops_the_day(tiny: Tiny, tmp_path: Path) -> None:
    """Pins scores on a missing table, and yesterday's list left as the latest when the day has failed."""
    runner = copy_of(tiny.eve, tmp_path / "home")
    live_session(runner, tiny.live[0])
    runner = copy_of(runner.environment.home, tmp_path / "faulty", market=NO_MONEYFLOW)
    environment, session = runner.environment, tiny.live[1]
    yesterday = latest(environment)
    assert {row["status"] for row in yesterday} == {"SELECTED"}
    with pytest.raises(IncompleteTables, match=f"{session}: moneyflow;"):
        live_session(runner, session)
    assert latest(environment) == yesterday, "until the hour in the settings the day is open"
    environment.move_clock(instant(session, time(23, 30)))
    with pytest.raises(IncompleteTables):
        run_session(runner, session)
    (row,) = latest(environment)
    assert (row["trade_date"], row["status"]) == (f"{session:%Y%m%d}", "NO_SELECTION")
    assert "moneyflow" in row["reason"]


def test_inference_by_hand_refuses_an_incomplete_session(tiny: Tiny, tmp_path: Path) -> None:
    """Pins the stage trusting whoever started it: panel and features exist, a table has not come."""
    runner = copy_of(tiny.eve, tmp_path / "home", market=NO_MONEYFLOW)
    environment, session = runner.environment, tiny.live[0]
    environment.move_clock(instant(session, time(20, 30)))
    month = f"{session:%Y-%m}"
    runner.ingest(month, month)
    runner.stages(["panel", "features"], first=month)
    with pytest.raises(IncompleteTables, match=f"{session}: moneyflow;"):
        runner.stages(["inference"], first=session.isoformat())
    (row,) = latest(environment)
    assert (row["trade_date"], row["status"]) == (f"{session:%Y%m%d}", "NO_SELECTION")
    # The evening after, the table is there: the refused session can still be scored, and its refusal stays on record.
    environment.move_clock(instant(tiny.live[1], time(17, 45)))
    run_session(runner, session)
    assert {row["status"] for row in latest(environment)} == {"SELECTED"}
    history = environment.records(runner.study.name) / "daily_top10_records" / "top10_history.csv"
    attempts = pl.read_csv(history, infer_schema=False).filter(trade_date=f"{session:%Y%m%d}")
    assert attempts.group_by("attempt", "status").len().sort("attempt").rows() == [
        ("1", "NO_SELECTION", 1),
        ("2", "SELECTED", 10),
    ]


def test_before_publication_every_absent_table_is_named(tiny: Tiny, tmp_path: Path) -> None:
    """Pins a table that counts as complete because its hour has not come."""
    runner = copy_of(tiny.eve, tmp_path / "home", now=instant(tiny.live[0], time(18, 0)))
    with pytest.raises(IncompleteTables) as refused:
        run_session(runner, tiny.live[0])
    assert refused.value.observed == f"{tiny.live[0]}: daily_basic, moneyflow, stk_mins, suspend_d"


@pytest.mark.parametrize("holiday", [False, True])
def test_days_off_the_calendar_leave_no_record(tiny: Tiny, tmp_path: Path, holiday: bool) -> None:
    """Pins a list, or a NO_SELECTION, for a Saturday or a holiday."""
    runner = copy_of(tiny.environment.home, tmp_path / "home")
    calendar, records = runner.environment.calendar(), runner.environment.records(runner.study.name)
    days = [tiny.live[-1] - timedelta(days=i) for i in range(120)]
    closed = next(day for day in days if day not in calendar and (day.weekday() < 5) == holiday)
    before = contents(records)
    nearest = f"{calendar.latest(closed)} and {calendar.shift(calendar.latest(closed), 1)}"
    with pytest.raises(CalendarError, match=nearest):
        run_session(runner, closed)
    with pytest.raises(DagsterUnknownPartitionError, match=closed.isoformat()):
        runner.stages(["inference"], first=closed.isoformat())
    assert contents(records) == before
