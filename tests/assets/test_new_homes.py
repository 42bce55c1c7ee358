"""The settings of a new environment: what is asked, what follows from the study, and what absent tables take."""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from assets.cli import build_parser, main
from assets.new_homes import (
    SIZES,
    absences,
    demo_home,
    import_home,
    imported_settings,
    live_home,
    live_settings,
    lost_families,
    simulated_settings,
    without_absent,
)
from pipeline.errors import BadInput, MissingTable
from pipeline.studies import STUDIES
from resources.environments import HOME_VARIABLE, Settings, overridden
from resources.simulated_perpetual import simulated_perpetual
from tests.minute_home import MINUTE_STUDY

SESSIONS = next(study for study in STUDIES.values() if study.market.decides == "session")
MINUTE = MINUTE_STUDY.name


def parsed(*words: str) -> argparse.Namespace:
    return build_parser().parse_args(words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six days of candles and nothing else."""
    place = tmp_path_factory.mktemp("minutes")
    (place / "klines_1m").mkdir()
    rows = simulated_perpetual("tiny", {"signal": 0.0}).klines("BTCUSDT")
    rows.drop("symbol", "published_at").write_parquet(place / "klines_1m" / "BTCUSDT.parquet")
    return place


@pytest.mark.parametrize(
    ("words", "home"),
    [
        (["demo"], "demo"),
        (["demo", "--profile", "tiny"], "tiny"),
        (["demo", "--data", "x"], "imported"),
        (["demo", "--study", SESSIONS.name], "demo"),
        (["demo", "--study", MINUTE], MINUTE),
        (["demo", "--study", MINUTE, "--profile", "tiny"], f"{MINUTE}_tiny"),
        (["demo", "--study", MINUTE, "--data", "x"], f"{MINUTE}_imported"),
    ],
)
def test_every_demo_has_a_home_of_its_own(words: list[str], home: str) -> None:
    """Pins a demo that deletes the home of another one."""
    assert demo_home(parsed(*words)) == home


def test_homes_of_imports_and_of_vendors() -> None:
    """Pins an import of minutes into the home of shares."""
    assert import_home(parsed("import", "x")) == "imported"
    assert import_home(parsed("import", "x", "--study", MINUTE)) == f"{MINUTE}_imported"
    assert live_home(parsed("init", "--first-session", "2026-01-01")) == "tushare"
    assert live_home(parsed("init", "--first-session", "2026-01-01", "--study", MINUTE)) == "binance"


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
@pytest.mark.parametrize("profile", ["tiny", "demo"])
def test_a_simulated_home_holds_its_market_and_fits_its_study(study: Any, profile: str) -> None:
    """Pins sizes that name a field which the study does not have, and a stretch that is not the market's."""
    settings = simulated_settings(parsed("demo", "--study", study.name, "--profile", profile, "--null", "--seed", "5"))
    assert settings.study == study.name
    assert (settings.market["signal"], settings.market["seed"]) == (0.0, 5)
    assert settings.first_session
    assert settings.last_session
    sizes = SIZES[study.market.decides]
    days = (settings.last_session - settings.first_session).days + 1
    assert days > sizes.history + sizes.live_sessions
    overridden(study, settings.overrides)


def test_absent_books_take_their_families(folder: Path) -> None:
    """Pins a study that trains on no row, because every row lacks what the folder never had."""
    settings = imported_settings(parsed("import", str(folder), "--study", MINUTE), folder)
    assert settings.overrides == {"features": ["price", "volume", "clock"]}
    assert overridden(MINUTE_STUDY, settings.overrides).features == ("price", "volume", "clock")
    assert (settings.first_session, settings.last_session) == (date(2026, 6, 25), date(2026, 6, 30))
    funding, books = absences(MINUTE_STUDY, {"klines_1m"})
    assert "table funding_rate is absent: the study loses" in funding
    assert "(families funding: 2 of 70 features)" in funding
    assert "(families spread, book, order_flow: 26 of 70 features)" in books


def test_a_study_of_sessions_keeps_its_features() -> None:
    """Pins families dropped where absent columns are null: an A-share study goes on without money flow."""
    assert lost_families(SESSIONS, {"daily"}) == {}
    assert without_absent(SESSIONS, {"daily"}) == {}
    assert any(told.startswith("table moneyflow is absent") for told in absences(SESSIONS, {"daily"}))


def test_nothing_absent_is_nothing_said() -> None:
    """Pins an override in every home, and a demo that warns of what is there."""
    assert without_absent(MINUTE_STUDY, MINUTE_STUDY.table_names) == {}
    assert absences(MINUTE_STUDY, MINUTE_STUDY.table_names) == []


def test_a_study_without_any_feature_is_refused() -> None:
    """Pins a study of no family, which fails with a name of the library instead of a table's."""
    with pytest.raises(BadInput, match="klines_1m"):
        without_absent(MINUTE_STUDY, set())


def test_the_newest_days_of_a_folder(folder: Path) -> None:
    """Pins an import of the oldest days, and one that asks for more than there are."""
    def first(*words: str) -> date | None:
        return imported_settings(parsed("import", str(folder), "--study", MINUTE, *words), folder).first_session

    assert first("--sessions", "2") == date(2026, 6, 29)
    assert first("--sessions", "999") == date(2026, 6, 25)


def test_sessions_are_counted_only_where_each_day_is_one(tmp_path: Path) -> None:
    """Pins newest sessions cut by natural days, holidays and all."""
    days = pl.DataFrame({"ts_code": ["A"], "trade_date": ["20240102"], "adj_factor": [1.0]})
    for name in ("daily", "adj_factor"):
        days.write_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(BadInput, match="newest sessions"):
        imported_settings(parsed("import", str(tmp_path), "--sessions", "9"), tmp_path)


def test_a_folder_without_a_symbol_or_without_candles(folder: Path, tmp_path: Path) -> None:
    """Pins an import that makes its home before it looks into the folder."""
    (tmp_path / "klines_1m").mkdir()
    (tmp_path / "klines_1m/ETHUSDT.parquet").write_bytes((folder / "klines_1m/BTCUSDT.parquet").read_bytes())
    with pytest.raises(BadInput, match="no BTCUSDT; there are"):
        imported_settings(parsed("import", str(tmp_path), "--study", MINUTE), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingTable, match="one-minute candles"):
        imported_settings(parsed("import", "x", "--study", MINUTE), tmp_path / "empty")


def test_a_live_home_says_what_the_vendor_does_not_sell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pins a live home that waits for books which nobody brings."""
    words = ["init", "--study", MINUTE, "--first-session", "2026-01-01", "--home"]
    assert main([*words, str(tmp_path / "plain")]) == 0
    told = capsys.readouterr().out
    assert "table book_1m is absent" in told
    assert "TUSHARE_TOKEN" not in told
    plain = Settings.model_validate_json((tmp_path / "plain/settings.json").read_text())
    assert (plain.source, plain.study) == ("binance", MINUTE)
    assert "order_flow" not in plain.overrides["features"]
    (tmp_path / "books").mkdir()
    settings = live_settings(parsed(*words[:-1], "--books", str(tmp_path / "books")))
    assert settings.overrides == {}
    assert settings.books == str(tmp_path / "books")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["demo", "--study", "nonsense"], "choose from"),
        (["demo", "--study", MINUTE.replace("_", "")], f"did you mean {MINUTE}"),
        (["demo", "--study", MINUTE, "--profile", "market"], "demo"),
        (["demo", "--study", MINUTE, "--data", "/no/such/folder"], "give the folder"),
        (["import", "/no/such/folder", "--study", MINUTE], "give the folder"),
        (["init", "--first-session", "2026-01-01", "--books", "/tmp"], "tables of one's own"),
        (["init", "--first-session", "2026-01-01", "--study", MINUTE, "--books", "/no/such"], "book_1m"),
    ],
)
def test_nonsense_is_met_by_an_error_that_teaches(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pins a traceback, and a home that was made before the words were looked at."""
    monkeypatch.setenv(HOME_VARIABLE, "unused")
    monkeypatch.setenv("DAGSTER_HOME", "unused")
    assert main([*words, "--home", str(tmp_path / "home")]) == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / "home").exists()
