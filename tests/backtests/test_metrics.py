"""Reported numbers, capacity and the profile of what was held."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from pipeline.backtests.capacity import capacity
from pipeline.backtests.engine import run_book, run_books
from pipeline.backtests.metrics import execution_objective, metrics
from pipeline.backtests.profile import selected_profile
from pipeline.backtests.spec import ExecutionSpec
from pipeline.errors import BadInput
from tests.backtests.cases import flat_panel, market_of, orders_of, panel_of, row, weekdays

SPEC = ExecutionSpec()


def named(table: pl.DataFrame, book: str) -> dict[str, float | None]:
    return dict(table.filter(pl.col("book") == book).select("name", "value").rows())


def curve(navs: list[float], net: list[float] | None = None) -> pl.DataFrame:
    days = weekdays(len(navs))
    return pl.DataFrame({"session": days, "gross": navs, "net": net or navs}).with_columns(book=pl.lit("b"))


def no_trades(days: list) -> tuple[pl.DataFrame, object]:
    market = market_of(flat_panel(days, ["A"]), days)
    return run_books(orders_of({days[0]: ["A"]}, 1).with_columns(book=pl.lit("x")), market, SPEC).trades.clear(), market


@pytest.mark.parametrize(("nav", "annual"), [(4.3536, 1.318), (2.9628, 0.860)])
def test_the_published_pair_is_reproduced(nav: float, annual: float) -> None:
    """Annualising over the wrong count of days: 442 curve sessions are 441 returns at 252 a year."""
    trades, market = no_trades(weekdays(6))
    values = named(metrics(curve(np.linspace(1, nav, 442).tolist()), trades, market, SPEC), "b")
    assert values["annualised_return_net"] == pytest.approx(annual, abs=5e-4)


def test_curve_numbers_against_numpy() -> None:
    """Sharpe with the wrong deviation or an invented first return; a drawdown blind to a first loss."""
    navs = [0.9, 0.95, 1.1, 1.0, 1.05]
    trades, market = no_trades(weekdays(6))
    values = named(metrics(curve(navs), trades, market, SPEC), "b")
    returns = np.diff(navs) / navs[:-1]
    assert values["sharpe_gross"] == pytest.approx(returns.mean() / returns.std(ddof=1) * math.sqrt(252), rel=1e-12)
    assert values["max_drawdown_gross"] == pytest.approx(-0.1)
    assert values["positive_days_gross"] == 0.75
    assert values["final_nav_gross"] == 1.05
    assert values["curve_sessions"] == 5
    assert values["curve_start_yyyymmdd"] == 20240101
    assert values["orders"] is None


def test_the_objective_is_half_return_half_sharpe_of_the_net_curve() -> None:
    """An objective on the gross curve would choose the policy that trades most."""
    equity = curve([1.0, 1.5, 2.0, 3.0], [1.0, 1.01, 1.0, 1.02])
    trades, market = no_trades(weekdays(6))
    values = named(metrics(equity, trades, market, SPEC), "b")
    expected = 0.5 * values["annualised_return_net"] + 0.5 * values["sharpe_net"]
    assert execution_objective(equity.drop("book")) == pytest.approx(expected, rel=1e-12)
    assert execution_objective(curve([1.0, 1.0, 1.0]).drop("book")) == 0.0
    with pytest.raises(BadInput, match="three curve sessions"):
        execution_objective(curve([1.0, 1.0]))


def test_rates_count_what_was_attempted() -> None:
    """Blocked exits divided by all orders, or delays averaged over exits that were on time."""
    days = weekdays(14)
    special = {
        ("A", 1): {"kind": "open_up"},
        ("B", 3): {"kind": "suspended"},
        ("B", 4): {"kind": "suspended"},
    }
    market = market_of(flat_panel(days, list("ABCD"), special=special), days)
    orders = orders_of({days[0]: list("ABCD"), days[13]: ["A"]}, 4).with_columns(book=pl.lit("b"))
    values = named(run_books(orders, market, SPEC).metrics, "b")
    assert values["entry_block_rate"] == 1 / 4
    assert values["exit_block_rate"] == 1 / 3
    assert values["delayed_exit_sessions"] == 2
    assert (values["orders"], values["decisions"], values["instruments"]) == (5, 2, 4)
    assert (values["first_signal_yyyymmdd"], values["last_signal_yyyymmdd"]) == (20240101, 20240118)


def test_turnover_of_a_fully_invested_flat_book_is_a_third_a_day() -> None:
    """Turnover counted once for the round trip, or both sides without halving."""
    days = weekdays(303)
    market = market_of(flat_panel(days, ["A"]), days)
    free = ExecutionSpec(buy_cost_bps=0, sell_cost_bps=0)
    orders = orders_of({day: ["A"] for day in days[:-3]}, 1).with_columns(book=pl.lit("b"))
    assert named(run_books(orders, market, free).metrics, "b")["turnover"] == pytest.approx(300 / 3 / 302)


def test_at_the_break_even_cost_nothing_is_left() -> None:
    """A break-even cost per side, per year or per day sold as one per round trip."""
    days, rng = weekdays(120), np.random.default_rng(3)
    price = 10 * np.cumprod(1 + rng.normal(0.004, 0.01, len(days)))
    market = market_of(panel_of([row(day, "A", open=p, close=p) for day, p in zip(days, price, strict=True)]), days)
    orders = orders_of({day: ["A"] for day in days[:-3]}, 1).with_columns(book=pl.lit("b"))
    cost = named(run_books(orders, market, SPEC).metrics, "b")["break_even_round_trip_bps"]
    assert cost > 30.2
    priced = ExecutionSpec(buy_cost_bps=cost / 2, sell_cost_bps=cost / 2)
    assert run_book(orders.drop("book"), market, priced).equity["net"][-1] == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize(
    ("board", "capital", "placed"),
    [
        ("main", 300 * 10 * 199.0, 100 / 199),
        ("chinext", 300 * 10 * 99.0, 0.0),
        ("star", 300 * 10 * 199.0, 0.0),
        ("star", 300 * 10 * 201.5, 201 / 201.5),
        ("bse", 300 * 10 * 101.5, 101 / 101.5),
    ],
)
def test_lots_by_board(board: str, capital: float, placed: float) -> None:
    """One lot rule for all boards: STAR starts at 200 shares and steps by 1, the main board steps by 100."""
    days = weekdays(6)
    panel = flat_panel(days, ["A"]).with_columns(board=pl.lit(board))
    orders = orders_of({days[0]: ["A"]}, 100).with_columns(book=pl.lit("b"))
    market = market_of(panel, days)
    trades = run_books(orders, market, SPEC).trades
    assert capacity(trades, market, SPEC, (capital,))["placed_share"][0] == pytest.approx(placed)


def test_participation_is_capped_by_the_thinner_of_both_sessions() -> None:
    """A cap on the way in only: a name that dries up cannot be sold in the size it was bought."""
    days = weekdays(6)
    special = {("A", 1): {"amount": 1e8}, ("A", 3): {"amount": 2e7, "close": 20.0}}
    market = market_of(flat_panel(days, ["A"], special=special), days)
    trades = run_books(orders_of({days[0]: ["A"]}, 1).with_columns(book=pl.lit("b")), market, SPEC).trades
    found = capacity(trades, market, SPEC, (3e5, 3e6)).to_dicts()
    assert [round(r["placed_share"], 9) for r in found] == [
        1.0,
        0.5,
    ]  # 5% of 2e7 is 1e6 at exit, 5e5 at entry
    assert [r["capped_rate"] for r in found] == [0.0, 1.0]
    assert found[0]["full_capacity_cny"] == pytest.approx(1.5e6)


def test_lots_use_raw_prices() -> None:
    """Adjusted prices in a lot calculation: a factor of 100 would make every order too small."""
    days = weekdays(6)
    market = market_of(flat_panel(days, ["A"]).with_columns(factor=pl.lit(100.0)), days)
    trades = run_books(orders_of({days[0]: ["A"]}, 1).with_columns(book=pl.lit("b")), market, SPEC).trades
    assert capacity(trades, market, SPEC, (3e4,))["placed_share"][0] == pytest.approx(1.0)


def test_a_board_without_a_lot_rule_is_refused() -> None:
    """An unknown board treated as the main board."""
    days = weekdays(6)
    market = market_of(flat_panel(days, ["A"]).with_columns(board=pl.lit("neeq")), days)
    with pytest.raises(BadInput, match="lot rule"):
        run_books(orders_of({days[0]: ["A"]}, 1).with_columns(book=pl.lit("b")), market, SPEC)


def test_the_profile_ranks_caps_among_all_listed_names() -> None:
    """Buckets cut among the selected names only, or missing caps and industries dropped from the shares."""
    days = weekdays(1)
    names = [f"{i:02d}" for i in range(10)]
    caps = [None if i == 9 else 1e9 * (i + 1) for i in range(10)]
    industry = ["BSE unmapped", "Banks", *["Steel"] * 8]
    panel = panel_of([row(days[0], n, total_mv=c, industry=d) for n, c, d in zip(names, caps, industry, strict=True)])
    orders = pl.DataFrame({"book": ["b"] * 4, "session": days * 4, "instrument": ["00", "01", "08", "09"]})
    found = {(s, n): v for _, s, n, v in selected_profile(orders, panel).rows()}
    assert found["stock_days", "count"] == 4
    assert found["market_cap_cny", "median"] == 2e9
    assert found["cap_bucket", "micro"] == 0.5
    assert found["cap_bucket", "large"] == 0.25
    assert found["cap_bucket", "unknown"] == 0.25
    assert found["industry", "Steel"] == 0.5
    assert found["industry", "BSE unmapped"] == 0.25
    assert found["board", "main"] == 1.0
