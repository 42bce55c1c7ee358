"""Books of minute trades: by hand, against plain loops, and the excess of a book that picks at random."""

from __future__ import annotations

import math
from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from pipeline.backtests.metrics import daily_returns
from pipeline.backtests.plan_books import excess_over_random_minutes, plan_equity, plan_metrics, session_returns
from pipeline.errors import BadInput, KeyViolation
from pipeline.labels.price_plan import PricePlan
from pipeline.positions.trades import exit_mix, trade_metrics
from tests.backtests.minute_books import START, market, traded

PLAN = PricePlan(target_distance_bps=4, stop_distance_bps=4, max_hold_minutes=7, fee_bps=0, slippage_bps=0)
DAYS = [START.date() + timedelta(days=i) for i in range(4)]


@pytest.fixture(scope="module")
def made() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Trades of two books, and the rows they were decided on: two UTC days of two symbols."""
    return traded(market(seed=2), PLAN, seed=8, cooldown=1)


def stretch(*books: str, days: int = 4) -> pl.DataFrame:
    """The same sessions for each book; nothing is traded in the later two."""
    rows = [(book, day) for book in books for day in DAYS[:days]]
    return pl.DataFrame(rows, schema={"book": pl.String, "session": pl.Date}, orient="row")


BOTH = stretch("path_00", "locked")


def named(table: pl.DataFrame, book: str) -> dict[str, float | None]:
    return dict(table.filter(book=book).select("name", "value").rows())


def test_a_session_earns_ratio_times_edge_of_its_trades(made: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    """A session without trades left out, a trade booked on the day of its exit, or a cost charged twice or never."""
    trades, _ = made
    found = session_returns(trades, BOTH)
    assert found.select("book", "session").rows() == sorted(BOTH.rows())
    for row in found.iter_rows(named=True):
        mine = [t for t in trades.iter_rows(named=True) if (t["book"], t["session"]) == (row["book"], row["session"])]
        gross = sum(t["planned_ratio"] * t["gross_edge_bps"] for t in mine) / 1e4
        assert row["gross"] == pytest.approx(gross, abs=1e-15)
        assert row["net"] == pytest.approx(sum(t["weighted_edge_bps"] for t in mine) / 1e4, abs=1e-15)
        assert bool(mine) == (row["session"] in DAYS[:2])
    shuffled = session_returns(trades.sample(fraction=1, shuffle=True, seed=1), BOTH)
    assert shuffled.equals(found)  # to the bit: the table is hashed


def test_equity_starts_at_one_and_compounds_by_session(made: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    """A curve that adds instead of compounding, or whose returns are not those of the sessions."""
    returns = session_returns(made[0], BOTH)
    equity = plan_equity(returns)
    for (book,), part in returns.partition_by("book", as_dict=True).items():
        navs = np.cumprod(1 + part["net"].to_numpy())
        np.testing.assert_allclose(equity.filter(book=book)["net"], navs, rtol=1e-15)
    back = daily_returns(equity).join(returns, on=["book", "session"])
    np.testing.assert_allclose(back["net"], back["net_right"], atol=1e-15)


def test_excess_is_over_the_mean_of_the_same_book_symbol_and_side(made: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    """An average over other books' days, the other symbol or side, or over traded rows alone."""
    trades, truth = made
    found = excess_over_random_minutes(trades, truth, BOTH)
    rows = truth.rows(named=True)
    due: dict[tuple, float] = {}
    for trade in trades.iter_rows(named=True):
        name = f"{trade['side'].lower()}_actual_plan_net_edge_bps"
        days = BOTH.filter(book=trade["book"])["session"].to_list()
        same = [r[name] for r in rows if r["session"] in days and r["instrument"] == trade["instrument"]]
        key = (trade["book"], trade["session"])
        over = trade["actual_edge_bps"] - sum(same) / len(same)
        due[key] = due.get(key, 0.0) + trade["planned_ratio"] * over / 1e4
    assert found.select("book", "session").rows() == sorted(BOTH.rows())
    for book, session, excess in found.rows():
        assert excess == pytest.approx(due.get((book, session), 0.0), abs=1e-15)


def test_every_minute_of_a_side_has_no_excess(made: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    """Skill found in a book that takes every row: it is the random book itself."""
    truth = made[1]
    everything = pl.concat(
        truth.select(
            "session", "instrument", "minute", book=pl.lit("path_00"), side=pl.lit(side.upper()),
            planned_ratio=pl.lit(0.1), gross_edge_bps=f"{side}_gross_edge_bps",
            actual_edge_bps=f"{side}_actual_plan_net_edge_bps",
        )
        for side in ("long", "short")
    )  # fmt: skip
    found = excess_over_random_minutes(everything, truth, stretch("path_00"))
    assert found["excess"].sum() == pytest.approx(0.0, abs=1e-12)
    assert session_returns(everything, stretch("path_00"))["net"].head(2).abs().min() > 1e-3


def test_buying_after_a_fall_has_no_excess_on_a_random_walk() -> None:
    """Minutes of a trade's own day as what it is compared with: they hold the fall that led to it."""
    days, length, ahead, past = 400, 1440, 45, 240
    steps = np.random.default_rng(5).normal(0.0, 4.0, (days, length + ahead))
    price = steps.cumsum(axis=1)
    later = price[:, ahead : ahead + length] - price[:, :length]
    fell = np.zeros((days, length), bool)
    fell[:, past:] = price[:, past:length] - price[:, : length - past] < -80.0
    day = np.repeat(np.arange(days), length)
    truth = pl.DataFrame({
        "session": pl.Series(day).cast(pl.Int32).cast(pl.Date), "instrument": "X",
        "minute": pl.Series(np.arange(days * length) * 60_000_000).cast(pl.Datetime("us", "UTC")),
        "long_actual_plan_net_edge_bps": later.ravel(), "short_actual_plan_net_edge_bps": -later.ravel(),
    })  # fmt: skip
    trades = truth.filter(pl.Series(fell.ravel())).select(
        "session", "instrument", "minute", book=pl.lit("path_00"), side=pl.lit("LONG"), planned_ratio=pl.lit(0.1),
        gross_edge_bps="long_actual_plan_net_edge_bps", actual_edge_bps="long_actual_plan_net_edge_bps",
    )
    sessions = truth.select(pl.lit("path_00").alias("book"), "session").unique().sort("session")
    excess = excess_over_random_minutes(trades, truth, sessions)["excess"].to_numpy()
    error = excess.std() / math.sqrt(days)
    own_day = truth.group_by("session").agg(pl.col("long_actual_plan_net_edge_bps").mean().alias("day"))
    beyond = trades.join(own_day, on="session").group_by("session").agg(
        (pl.col("actual_edge_bps") - pl.col("day")).sum() * 0.1 / 1e4
    )["actual_edge_bps"].to_numpy()
    assert abs(excess.mean()) < 3 * error
    assert beyond.sum() / days > 5 * error


def test_metrics_are_those_of_the_trades_and_of_the_curve(made: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    """A number under a name that means something else in the sleeve backtest, or of another book."""
    trades, _ = made
    table = plan_metrics(trades, BOTH, sessions_per_year=365)
    assert table.rows() == sorted(table.rows(), key=lambda row: row[:2])
    for book in ("path_00", "locked"):
        mine, values = trades.filter(book=book), named(table, book)
        for name, value in trade_metrics(mine).model_dump().items():
            assert values[name] == value
        for side, mix in exit_mix(mine).items():
            for name, value in mix.model_dump().items():
                assert values[f"{side.lower()}_{name}"] == value
        returns = session_returns(mine, stretch(book))["net"].to_numpy()
        navs = np.cumprod(1 + returns)
        assert values["final_nav_net"] == pytest.approx(navs[-1], rel=1e-15)
        assert values["annualised_return_net"] == pytest.approx(navs[-1] ** (365 / 4) - 1, rel=1e-12)
        assert values["sharpe_net"] == pytest.approx(returns.mean() / returns.std(ddof=1) * math.sqrt(365), rel=1e-12)
        peaks = np.maximum(np.maximum.accumulate(navs), 1.0)
        assert values["max_drawdown_net"] == pytest.approx((navs / peaks - 1).min(), rel=1e-12, abs=1e-15)
        assert values["positive_days_net"] == (returns > 0).mean()
        assert values["turnover"] == pytest.approx(mine["planned_ratio"].sum() / 4, rel=1e-12)
        assert (values["curve_sessions"], values["traded_sessions"]) == (4, 2)
        assert (values["curve_start_yyyymmdd"], values["curve_end_yyyymmdd"]) == (20240101, 20240104)
        assert values["annualised_cost"] == values["annualised_return_gross"] - values["annualised_return_net"] > 0


def test_break_even_is_the_cost_at_which_nothing_is_earned(made: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    """A break-even cost under which the book still gains or already loses."""
    trades, _ = made
    cost = named(plan_metrics(trades, BOTH), "path_00")["break_even_round_trip_bps"]
    charged = trades.with_columns(actual_edge_bps=pl.col("gross_edge_bps") - cost)
    assert session_returns(charged, BOTH).filter(book="path_00")["net"].sum() == pytest.approx(0, abs=1e-15)


def test_a_book_that_never_trades_is_flat(made: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    """A manager that stays out dropped from the tables, so that no gate can refuse it."""
    trades, truth = made
    both = stretch("path_00", "path_01")
    mine = trades.filter(book="path_00")
    assert session_returns(mine, both).filter(book="path_01")["net"].to_list() == [0.0] * 4
    assert excess_over_random_minutes(mine, truth, both).filter(book="path_01")["excess"].to_list() == [0.0] * 4
    values = named(plan_metrics(mine, both), "path_01")
    assert (values["trade_count"], values["final_nav_net"], values["sharpe_net"], values["turnover"]) == (0, 1, 0, 0)
    assert values["break_even_round_trip_bps"] is None
    assert values["long_trade_count"] == values["traded_sessions"] == 0
    none = mine.clear()
    assert set(session_returns(none, both)["net"]) == {0.0}
    assert named(plan_metrics(none, both), "path_00")["score"] == -1_000_000


def test_a_factor_without_a_loss_is_null_not_infinite(made: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    """Infinity in a table that is stored and hashed."""
    winners = made[0].filter(pl.col("weighted_edge_bps") > 0)
    assert named(plan_metrics(winners, BOTH), "locked")["profit_factor"] is None


def test_trades_and_rows_that_do_not_fit_are_named(made: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    """A trade that no session counts, one of a row nobody decided on, an outcome that is none, a session twice."""
    trades, truth = made
    with pytest.raises(BadInput, match="session of its book"):
        session_returns(trades, stretch("path_00", "locked", days=1))
    with pytest.raises(BadInput, match="session of its book"):
        session_returns(trades, stretch("path_00"))
    with pytest.raises(KeyViolation, match="sessions of books"):
        session_returns(trades, pl.concat([BOTH, BOTH]))
    with pytest.raises(BadInput, match="edges and ratios"):
        session_returns(trades.with_columns(gross_edge_bps=pl.lit(None, pl.Float64)), BOTH)
    without = truth.join(trades.head(1), on=["instrument", "minute"], how="anti")
    with pytest.raises(BadInput, match="row that was decided on"):
        excess_over_random_minutes(trades, without, BOTH)
    with pytest.raises(BadInput, match="net edges of rows"):
        excess_over_random_minutes(
            trades, truth.with_columns(short_actual_plan_net_edge_bps=pl.lit(math.nan)), BOTH)
    with pytest.raises(KeyViolation, match="decided on"):
        excess_over_random_minutes(trades, pl.concat([truth, truth.head(1)]), BOTH)
