"""An environment of minutes: the vendor's rows arrive whole through the real clients, and every day is a session."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.errors import BadInput, MissingTable, TokenRejected
from pipeline.simulation.perpetual import PerpetualMarket
from resources.environments import Environment, Settings, create_environment
from resources.freshness import incomplete_sessions, latest_decided
from resources.ingestion import IngestReport, ingest
from tests.minute_home import MINUTE_STUDY, minute_environment

STAMPS = ["known_at", "ingested_at", "knowledge", "request"]


def ingest_all(environment: Environment) -> dict[str, IngestReport]:
    sessions = environment.calendar().between(date(2026, 6, 1), date(2026, 6, 30))
    specs = [environment.tables[name] for name in environment.study.table_names]
    return {spec.name: ingest(environment, environment.study, spec, sessions) for spec in specs}


def test_every_table_comes_back_as_the_market_made_it(tmp_path: Path) -> None:
    """Pins a loss on the way market -> ZIP, interface or snapshot file -> client -> lake, and a shifted time."""
    environment = minute_environment(tmp_path / "home", market={"faults": {"republished": 0, "outages": 1}})
    market: PerpetualMarket = environment.simulated
    days = market.days[:-1]
    reports = ingest_all(environment)
    for table, made in (("klines_1m", market.klines), ("funding_rate", market.funding), ("book_1m", market.books)):
        held, truth = environment.lake.scan(table), made("BTCUSDT", days[0], days[-1])
        key = list(environment.tables[table].key)
        assert_frame_equal(held.drop(STAMPS).sort(key), truth.drop("published_at").sort(key), check_exact=True)
        assert reports[table].new == held.height > 0
        assert held["knowledge"].unique().to_list() == ["rule"]
    candles = environment.lake.scan("klines_1m")
    opened = candles["open_time"].dt.replace_time_zone("UTC")
    assert (candles["known_at"] - opened).unique().to_list() == [timedelta(minutes=1)]


def test_asking_again_changes_nothing(tmp_path: Path) -> None:
    """Pins a scope of coverage that is never found again: every run would fetch half a year."""
    environment = minute_environment(tmp_path / "home", refetch_sessions=0)
    ingest_all(environment)
    head = environment.lake.head()
    again = ingest_all(environment)
    assert environment.lake.head() == head
    assert again["klines_1m"].asked == again["funding_rate"].asked == 0
    bookless = environment.simulated.faults.filter(pl.col("kind") == "bookless")["day"].to_list()
    assert again["book_1m"].incomplete == bookless
    assert incomplete_sessions(environment, environment.study) == {
        "klines_1m": [], "funding_rate": [], "book_1m": bookless,
    }  # fmt: skip


def test_a_corrected_day_is_seen_by_the_window(tmp_path: Path) -> None:
    """Pins corrections that no later ingestion asks for: the archive's first file of a day lacks 80 minutes."""
    market = {"days": 12, "faults": {"outages": 0, "missing_book_days": 0}}
    environment = minute_environment(tmp_path / "home", market=market, first_session=date(2026, 6, 19))
    (day,) = environment.simulated.faults.filter(pl.col("kind") == "republished")["day"]
    spec, home = environment.tables["klines_1m"], tmp_path / "early"
    early = create_environment(home, environment.settings, home / "none")
    for session in [day + timedelta(days=i) for i in range(1, 5)]:
        early.move_clock(early.study.market.decided_at(session))
        report = ingest(early, early.study, spec, early.calendar().between(date(2026, 6, 19), session))
    assert report.late == 80
    rows = early.lake.scan("klines_1m", start=day, end=day)
    assert rows.height == 1440
    assert rows.filter(pl.col("knowledge") == "observed")["known_at"].unique().to_list() == [early.clock.now()]


def test_a_month_without_books_is_told_not_raised(tmp_path: Path) -> None:
    """Pins a backfill that dies because recording began later than history."""
    environment = minute_environment(tmp_path / "home")
    (day,) = environment.simulated.faults.filter(pl.col("kind") == "bookless")["day"]
    spec = environment.tables["book_1m"]
    ingest(environment, environment.study, spec, [day + timedelta(days=1)])
    report = ingest(environment, environment.study, spec, [day])
    assert report.incomplete == [day]
    assert any("must have books on at least one day" in note for note in report.notes)


def test_a_required_table_without_rows_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pins candles that are forgiven like books."""
    environment = minute_environment(tmp_path / "home")

    def nothing(*args: object) -> None:
        raise MissingTable("there must be candles", "none", "")

    monkeypatch.setattr(environment.source, "fetch", nothing)
    with pytest.raises(MissingTable, match="must be candles"):
        ingest(environment, environment.study, environment.tables["klines_1m"], [date(2026, 6, 26)])


def test_every_day_is_a_session(tmp_path: Path) -> None:
    """Pins weekends off, and a calendar that ends at today: labels and folds look past it."""
    environment = minute_environment(tmp_path / "home")
    calendar = environment.calendar()
    assert environment.knows_calendar
    assert calendar.sessions[0] == date(2026, 6, 25)
    assert {day.weekday() for day in calendar.sessions[:7]} == set(range(7))
    assert len(calendar.sessions) == (calendar.known_until - calendar.sessions[0]).days + 1
    assert calendar.known_until >= environment.clock.now().date() + timedelta(days=365)


def test_the_latest_decision_is_yesterdays_from_five_past(tmp_path: Path) -> None:
    """Pins a session that counts as decided while its own day still runs."""
    environment = minute_environment(tmp_path / "home")
    assert latest_decided(environment) == date(2026, 6, 29)
    environment.move_clock(environment.study.market.decided_at(date(2026, 6, 30)) - timedelta(minutes=1))
    assert latest_decided(environment) == date(2026, 6, 29)
    environment.move_clock(environment.study.market.decided_at(date(2026, 6, 30)))
    assert latest_decided(environment) == date(2026, 6, 30)


def test_history_has_a_first_session_where_every_day_is_one(tmp_path: Path) -> None:
    """Pins a calendar that begins wherever a default says."""
    settings = Settings(study=MINUTE_STUDY.name, last_session=date(2026, 6, 30))
    environment = create_environment(tmp_path / "home", settings, tmp_path / "none")
    with pytest.raises(BadInput, match="first_session"):
        environment.calendar()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"study": "nonsense"}, "choose from"),
        ({"study": MINUTE_STUDY.name, "source": "tushare"}, "choose binance"),
        ({"source": "binance"}, "choose tushare"),
    ],
)
def test_settings_that_cannot_be(values: dict[str, str], told: str) -> None:
    """Pins a home that is made first and turns out to be impossible when it is used."""
    with pytest.raises(BadInput, match=told):
        Settings.model_validate(values)


def test_a_live_home_of_minutes_needs_no_token(tmp_path: Path) -> None:
    """Pins a secret asked for where the vendor asks for none, and books that are offered without a folder of them."""
    live = {"study": MINUTE_STUDY.name, "source": "binance", "first_session": date(2026, 6, 1)}
    plain = create_environment(tmp_path / "plain", Settings.model_validate(live), tmp_path / "none")
    assert {"klines_1m", "funding_rate"} <= plain.source.tables()
    assert "book_1m" not in plain.source.tables()
    (tmp_path / "books/table=book/exchange=BINANCE_FUTURES").mkdir(parents=True)
    held = Settings.model_validate({**live, "books": str(tmp_path / "books")})
    assert "book_1m" in create_environment(tmp_path / "held", held, tmp_path / "none").source.tables()


def test_the_other_vendors_token_is_still_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pins a live source that starts without its secret and fails at its first call."""
    monkeypatch.delenv("TUSHARE_TOKEN", raising=False)
    environment = create_environment(tmp_path / "home", Settings(source="tushare"), tmp_path / "none")
    with pytest.raises(TokenRejected, match="TUSHARE_TOKEN"):
        _ = environment.source


def test_rows_that_the_vendor_withdraws_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pins rows that only the lake still has, and nobody hears of: they stay, because decisions read them."""
    environment = minute_environment(tmp_path / "home")
    spec, days = environment.tables["klines_1m"], [date(2026, 6, 27)]
    ingest(environment, environment.study, spec, days)
    fetched = environment.source.fetch(spec, days, ["BTCUSDT"])
    shorter = replace(fetched, rows=fetched.rows[3:])
    monkeypatch.setattr(environment.source, "fetch", lambda *asked: shorter)
    report = ingest(environment, environment.study, spec, days)
    assert report.vanished == 3
    assert any("withdrew 3 stored rows" in note for note in report.notes)
    assert environment.lake.latest("klines_1m").height == fetched.rows.height
