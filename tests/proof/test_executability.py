"""Fills judged from raw rows: the referee's own rules, what it must see, and what turns the proof red."""

from __future__ import annotations

import ast
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from assets.proof import exchange_rules, executability, judged_market, raw_referee
from assets.proof.contract import BROKEN, HELD
from assets.proof.exchange_rules import Standing, board_of, price_limits
from assets.proof.executability import finding, run
from assets.proof.judged_market import EVERYTHING, Judged, MarketPlan, judge
from assets.proof.raw_referee import RawMarket, impossible_fills, possible_refusals
from assets.proof.survivorship import check_universe, listed_pairs, survivors
from pipeline.backtests.market import Market
from pipeline.studies import STUDIES

GOOD = Judged(
    "ashare_daily",
    "made up",
    "session",
    trades={EVERYTHING: (10, 20, 0)},
    forgeries={"any": (5, 5)},
    universe={"pairs": 100, "missing": 0, "surplus": 0, "unseen": 3},
    gains={"every": [0.0, 0.01] * 40},
)


def said(text: str, done: float) -> None:
    """Nobody listens."""


def test_no_fill_of_any_study_is_impossible_and_every_forgery_is_caught(tmp_path: Path) -> None:
    """A fill at a locked, suspended, unlisted or wrong price; a referee that lets forged ones pass; a missing study."""
    found = run("small", tmp_path, said)
    assert found.status == HELD, found.text
    markets = found.tables["markets"]
    assert set(markets["study"]) == set(STUDIES)
    assert markets["fills judged"].sum() > 50_000
    widest = markets.filter(book=EVERYTHING)
    assert widest["entries refused"].sum() > 20, "no order met a block: nothing was tried"
    assert widest["refused though possible"].sum() == 0
    forgeries = found.tables["forged trades"]
    assert forgeries["forged"].min() > 0
    assert forgeries["forged"].equals(forgeries["caught"])


def test_fills_that_ignore_blocks_break_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proof that holds whatever the fills do: here nothing but a missing price stops a trade."""
    real = judged_market.read_market

    def reckless(read: Any) -> Market:
        market = real(read)
        return replace(market, open_block=np.where(market.open > 0, 0, market.open_block).astype(np.int8),
                       close_block=np.where(market.close > 0, 0, market.close_block).astype(np.int8))  # fmt: skip

    monkeypatch.setattr(judged_market, "read_market", reckless)
    market = MarketPlan("reckless", executability._sessions(1, 40, 100), random_books=2)
    found = judge("ashare_daily", market, 20, tmp_path)
    assert finding([found]).status == BROKEN
    rules = " ".join(found.broken)
    assert raw_referee.NOT_AT_UPPER in rules or raw_referee.NOT_AT_LOWER in rules


@pytest.mark.parametrize(
    "change",
    [
        {"trades": {EVERYTHING: (10, 20, 1)}},
        {"forgeries": {"any": (5, 4)}},
        {"forgeries": {"any": (0, 0)}},
        {"universe": {"pairs": 100, "missing": 1, "surplus": 0, "unseen": 3}},
        {"universe": {"pairs": 100, "missing": 0, "surplus": 1, "unseen": 3}},
        {"closed": 1e-6},
    ],
)
def test_each_part_alone_breaks_the_proof(change: dict[str, Any]) -> None:
    """A part of the claim that is published and decides nothing."""
    assert finding([GOOD]).status == HELD
    assert finding([GOOD, replace(GOOD, market="another", **change)]).status == (
        HELD if change.get("forgeries") == {"any": (0, 0)} else BROKEN  # another market forged that kind
    )
    assert finding([replace(GOOD, **change)]).status == BROKEN


def test_a_market_that_was_judged_is_not_judged_again(tmp_path: Path) -> None:
    """An interrupted full run that begins anew, or takes another market's result."""
    market = MarketPlan("40 x 120, again", executability._sessions(1, 40, 120))
    folder = tmp_path / "ashare_daily_40_x_120_again"
    folder.mkdir()
    (folder / "result.json").write_text('{"study": "ashare_daily", "market": "again", "decides": "session"}')
    assert judge("ashare_daily", market, 20, tmp_path).market == "again"


@pytest.mark.parametrize("module", [exchange_rules, raw_referee])
def test_the_referee_shares_no_code_with_what_it_judges(module: Any) -> None:
    """A judge that imports the fills' rules, limits or calendar repeats their mistakes."""
    tree = ast.parse(Path(module.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    ours = {name for name in imported if name and name.split(".")[0] in ("pipeline", "assets", "resources")}
    assert ours <= {"assets.proof.exchange_rules"}


LONG_AGO = date(2010, 1, 4)


@pytest.mark.parametrize(
    ("code", "day", "reference", "standing", "due"),
    [
        # Half up to the cent, where binary rounding fails: the four worked values of the rules' table.
        ("600000.SH", date(2024, 1, 4), 5.35, Standing(LONG_AGO, 999, False, None), (4.82, 5.89)),
        ("600000.SH", date(2024, 1, 4), 5.05, Standing(LONG_AGO, 999, False, None), (4.55, 5.56)),
        ("600000.SH", date(2024, 1, 4), 5.10, Standing(LONG_AGO, 999, True, None), (4.85, 5.36)),
        ("000001.SZ", date(2019, 6, 25), 13.69, Standing(LONG_AGO, 999, False, None), (12.32, 15.06)),
        # ST widened on 2026-07-06 on the main boards; ChiNext's ST follows its reform of 2020-08-24.
        ("600000.SH", date(2026, 7, 3), 10.0, Standing(LONG_AGO, 999, True, None), (9.5, 10.5)),
        ("600000.SH", date(2026, 7, 6), 10.0, Standing(LONG_AGO, 999, True, None), (9.0, 11.0)),
        ("300001.SZ", date(2020, 8, 21), 10.0, Standing(LONG_AGO, 999, True, None), (9.5, 10.5)),
        ("300001.SZ", date(2020, 8, 24), 10.0, Standing(LONG_AGO, 999, True, None), (8.0, 12.0)),
        ("688001.SH", date(2020, 1, 2), 10.0, Standing(date(2019, 7, 22), 99, True, None), (8.0, 12.0)),
        ("830799.BJ", date(2022, 1, 4), 10.0, Standing(date(2020, 7, 27), 99, False, None), (7.0, 13.0)),
        # New listings: five sessions free under registration, one before; one on the BSE.
        ("600000.SH", date(2024, 1, 4), 10.0, Standing(date(2023, 12, 28), 4, False, None), None),
        ("600000.SH", date(2024, 1, 5), 10.0, Standing(date(2023, 12, 28), 5, False, None), (9.0, 11.0)),
        ("600000.SH", date(2022, 1, 5), 10.0, Standing(date(2022, 1, 4), 1, False, None), (9.0, 11.0)),
        ("920002.BJ", date(2024, 5, 30), 10.0, Standing(date(2024, 5, 30), 0, False, None), None),
        # A delisting arrangement: its first day is free since the reform, then the board's width, ST or not.
        ("600000.SH", date(2024, 1, 4), 2.0, Standing(LONG_AGO, 999, False, date(2024, 1, 4)), None),
        ("600000.SH", date(2024, 1, 5), 2.0, Standing(LONG_AGO, 999, False, date(2024, 1, 4)), (1.8, 2.2)),
        # One tick at least: SZSE from 2011, SSE from 2023-04-10 only.
        ("000001.SZ", date(2024, 1, 4), 0.04, Standing(LONG_AGO, 999, False, None), (0.03, 0.05)),
        ("600000.SH", date(2022, 1, 4), 0.04, Standing(LONG_AGO, 999, False, None), (0.04, 0.04)),
    ],
)  # fmt: skip
def test_dated_price_limits(
    code: str, day: date, reference: float, standing: Standing, due: tuple[float, float] | None
) -> None:
    """The referee's own rules are wrong: then the house and the referee could agree on nonsense."""
    assert price_limits(code, day, reference, standing) == due


def test_boards_by_code() -> None:
    """A B share or a fund taken for an A share; a BSE code taken for SSE's B shares."""
    codes = ["600000.SH", "688001.SH", "900901.SH", "000001.SZ", "200002.SZ", "300750.SZ", "920002.BJ", "833819.BJ",
             "510300.SH"]  # fmt: skip
    assert [board_of(code) for code in codes] == [
        "SSE", "STAR", None, "SZSE", None, "CHINEXT", "BSE", "BSE", None]  # fmt: skip


DAYS = [date(2024, 1, day) for day in (2, 3, 4, 5, 8, 9)]
CODE, GONE, OLD, NEW = "600000.SH", "000005.SZ", "833819.BJ", "920819.BJ"


class Rows:
    """Vendor rows at hand, as a lake gives them."""

    def __init__(self, held: dict[str, pl.DataFrame]) -> None:
        self.held = held

    def tables(self) -> list[str]:
        return list(self.held)

    def scan(self, table: str) -> pl.DataFrame:
        return self.held[table]


def versions(rows: list[dict[str, Any]]) -> pl.DataFrame:
    known = datetime(2024, 1, 1, tzinfo=UTC)
    return pl.DataFrame([{"known_at": known, **row} for row in rows], infer_schema_length=None)


def bar(code: str, day: date, open_: float = 10.0, close: float = 10.0, **more: Any) -> dict[str, Any]:
    return {"ts_code": code, "trade_date": day, "open": open_, "high": max(open_, close), "low": min(open_, close),
            "close": close, "pre_close": 10.0, "vol": 5.0, "amount": 5.0, **more}  # fmt: skip


@pytest.fixture
def rows() -> Rows:
    """Three securities over six sessions: one trades on, one is gone from the fifth on, one changed its code."""
    later = datetime(2024, 2, 1, tzinfo=UTC)
    bars = [bar(CODE, day) for day in DAYS if day != DAYS[3]] + [bar(GONE, day) for day in DAYS[:4]]
    bars += [bar(OLD if day < DAYS[3] else NEW, day) for day in DAYS]
    bars += [bar(CODE, DAYS[1], open_=11.0, close=11.0, known_at=later)]  # corrected: it opened at its limit
    return Rows({
        "trade_cal": versions([{"exchange": "SSE", "cal_date": DAYS[0] + timedelta(i), "is_open": int(
            DAYS[0] + timedelta(i) in DAYS)} for i in range(8)]),
        "stock_basic": versions([{"ts_code": CODE, "list_date": LONG_AGO, "delist_date": None},
                                 {"ts_code": GONE, "list_date": LONG_AGO, "delist_date": DAYS[4]},
                                 {"ts_code": OLD, "list_date": date(2020, 7, 27), "delist_date": None}]),
        "bse_mapping": versions([{"o_code": OLD, "n_code": NEW}]),
        "daily": versions(bars),
        "adj_factor": versions([{"ts_code": code, "trade_date": DAYS[0], "adj_factor": 2.0} for code in (CODE, GONE)]
                               + [{"ts_code": OLD, "trade_date": DAYS[0], "adj_factor": 1.0},
                                  {"ts_code": NEW, "trade_date": DAYS[4], "adj_factor": 1.5}]),
        "suspend_d": versions([
            {"trade_date": DAYS[3], "ts_code": CODE, "suspend_type": "S", "suspend_timing": None},
            {"trade_date": DAYS[2], "ts_code": CODE, "suspend_type": "S", "suspend_timing": "09:31-09:41"}]),
    })  # fmt: skip


def trade(code: str, decided: int, out: int | None, status: str = "filled", **more: Any) -> pl.DataFrame:
    """Bought at the next open and sold `out` sessions after the decision, at 10 CNY under a factor of 2."""
    left = None if out is None else DAYS[decided + out]
    price, gain = (None, None) if left is None else (20.0, 0.0)
    row = {"book": "b", "session": DAYS[decided], "rank": 1, "instrument": code, "status": status,
           "entry_session": DAYS[decided + 1], "entry_price": 20.0, "exit_session": left, "exit_price": price,
           "gross_return": gain} | more  # fmt: skip
    return pl.DataFrame([row], schema_overrides={"exit_session": pl.Date, "exit_price": pl.Float64,
                                                 "gross_return": pl.Float64, "entry_session": pl.Date})  # fmt: skip


def rules(trades: pl.DataFrame, rows: Rows) -> set[str]:
    return set(impossible_fills(trades, RawMarket(rows), exit_session=2, haircut=0.5)["rule"])


def test_honest_trades_pass(rows: Rows) -> None:
    """A referee that is always red: a carried sale, a write-off, a new code and a halt of minutes are all possible."""
    assert rules(trade(CODE, 1, 3, "carried"), rows) == set()  # the target, DAYS[3], is a suspension
    assert rules(trade(GONE, 2, 2, "delisted", exit_price=10.0, gross_return=-0.5), rows) == set()
    assert rules(trade(OLD, 2, 2, entry_price=10.0, exit_price=15.0, gross_return=0.5), rows) == set()
    assert rules(trade(CODE, 4, None, "open", exit_session=None), rows) == set()


@pytest.mark.parametrize(
    ("forged", "broken"),
    [
        (trade(CODE, 0, 2, entry_price=22.0, gross_return=20 / 22 - 1), raw_referee.NOT_AT_UPPER),
        (trade(CODE, 1, 2), raw_referee.NOT_SUSPENDED),
        (trade(CODE, 1, 3, "carried", entry_price=10.0, gross_return=1.0), raw_referee.OPEN_PRICE),
        (trade(CODE, 1, 3, "carried", exit_price=20.02, gross_return=0.001), raw_referee.CLOSE_PRICE),
        (trade(CODE, 1, 3, "carried", gross_return=0.001), raw_referee.RETURN),
        (trade(CODE, 1, 1), raw_referee.T_PLUS_ONE),
        (trade(GONE, 3, 2), raw_referee.LISTED),
        (trade(GONE, 2, 2, "delisted"), raw_referee.HAIRCUT),
        (trade(GONE, 2, None, "open", exit_session=None), raw_referee.DELISTED),
        (trade(OLD, 2, 3, "carried", entry_price=10.0, exit_price=15.0, gross_return=0.5), raw_referee.FIRST_CLOSE),
        (trade("999999.SH", 1, 3), raw_referee.LISTED),
    ],
)  # fmt: skip
def test_impossible_trades_are_named(forged: pl.DataFrame, broken: str, rows: Rows) -> None:
    """An impossible fill that passes, or that is called by another name."""
    assert broken in rules(forged, rows)


def test_a_refused_order_that_was_possible_is_counted(rows: Rows) -> None:
    """Zero impossible fills by filling nothing."""
    blocked = {"status": "entry_blocked", "entry_session": None, "entry_price": None, "gross_return": None}
    orders = pl.concat([trade(CODE, 0, 2, **blocked), trade(CODE, 3, 2, **blocked)])
    assert possible_refusals(orders, RawMarket(rows))["session"].to_list() == [DAYS[3]]


def test_a_universe_of_survivors_is_not_whole(rows: Rows) -> None:
    """A universe made from today's list, which lacks the past of what is gone; or one with a name too many."""
    market = RawMarket(rows)
    truth = listed_pairs(market, DAYS)
    assert len(truth) == 6 + 4 + 6
    kept = survivors(truth, market)
    assert check_universe(kept, truth, market).missing == check_universe(truth, truth, market).unseen == 4
    assert check_universe(pl.concat([truth, truth.tail(1).with_columns(session=DAYS[0] - timedelta(9))]), truth,
                          market).surplus == 1  # fmt: skip
