"""The sleeve protocol: against the plain ledger, and rule by rule."""

from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.backtests.books import random_orders
from pipeline.backtests.engine import run_book, run_books
from pipeline.backtests.referee import impossible_fills
from pipeline.backtests.spec import ExecutionSpec
from pipeline.errors import BadInput, KeyViolation
from tests.backtests.cases import flat_panel, market_of, orders_of, panel_of, row, weekdays
from tests.oracles.sleeve_ledger import sleeve_ledger

KINDS = ["normal"] * 6 + [
    "suspended",
    "no_amount",
    "invalid",
    "open_up",
    "open_down",
    "close_up",
    "close_down",
]
NAMES = ["A", "B", "C", "D"]
SPEC = ExecutionSpec()
FREE = ExecutionSpec(buy_cost_bps=0, sell_cost_bps=0)


@st.composite
def markets(draw: st.DrawFn) -> tuple[list[date], pl.DataFrame, pl.DataFrame, ExecutionSpec]:
    """Listings, delistings, suspensions, limits, splits; orders with gaps and repeats; odd sleeve counts."""
    days = weekdays(draw(st.integers(4, 14)))
    rows = []
    for name in NAMES:
        first = draw(st.sampled_from([0, 0, 0, 2]))
        last = draw(st.sampled_from([len(days)] * 3 + [len(days) - 1, len(days) // 2]))
        for day in days[first:last]:
            kind = draw(st.sampled_from(KINDS))
            prices = draw(st.tuples(st.integers(500, 1500), st.integers(500, 1500), st.sampled_from([1.0, 1.1, 2.0])))
            rows.append(row(day, name, kind, prices[0] / 100, prices[1] / 100, prices[2]))
    top_k = draw(st.integers(1, 4))
    chosen = {
        day: draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1, max_size=top_k))
        for day in days[: draw(st.integers(1, len(days)))]
        if draw(st.sampled_from([True, True, True, False]))
    }
    chosen = chosen or {days[0]: ["A"]}
    exit_session = draw(st.integers(2, 4))
    spec = ExecutionSpec(
        exit_session=exit_session,
        sleeves=exit_session + draw(st.integers(0, 1)),
        delisting_haircut=draw(st.sampled_from([0.0, 0.5, 1.0])),
    )
    named = {r["instrument"] for r in rows}
    chosen = {day: [n for n in names if n in named] for day, names in chosen.items()}
    seen = sorted({r["session"] for r in rows})
    window = [day for day in days if seen[0] <= day <= seen[-1]]
    chosen = {day: names for day, names in chosen.items() if names and day in window}
    if not chosen:
        chosen = {window[0]: sorted(named)[:1]}
    return window, panel_of(rows), orders_of(chosen, top_k), spec


def ledger(days: list[date], panel: pl.DataFrame, orders: pl.DataFrame, spec: ExecutionSpec, net: bool) -> tuple:
    quotes = {(r["instrument"], r["session"]): r for r in panel.to_dicts()}
    return sleeve_ledger(
        days,
        quotes,
        orders.to_dicts(),
        sleeves=spec.sleeves,
        exit_session=spec.exit_session,
        buy_bps=spec.buy_cost_bps if net else 0.0,
        sell_bps=spec.sell_cost_bps if net else 0.0,
        haircut=spec.delisting_haircut,
    )


@settings(max_examples=150, deadline=None)
@given(markets())
def test_the_kernel_agrees_with_a_plain_ledger(case: tuple) -> None:
    """A fill, a mark, a sleeve's turn or a cost that the kernels handle unlike the protocol's prose."""
    days, panel, orders, spec = case
    result = run_book(orders, market_of(panel, days), spec)
    for curve in ("gross", "net"):
        expected, trades = ledger(days, panel, orders, spec, net=curve == "net")
        assert result.equity["session"].to_list() == [day for day, _ in expected]
        np.testing.assert_allclose(result.equity[curve], [nav for _, nav in expected], rtol=1e-12, atol=1e-12)
        for trade in result.trades.to_dicts():
            truth = trades[trade["session"], trade["rank"]]
            for name in ("status", "entry_session", "exit_session", "exit_delay"):
                assert trade[name] == truth[name], name
            for name, other in (
                ("entry_price", "entry_price"),
                ("exit_price", "exit_price"),
                (f"{curve}_stake", "stake"),
                (f"{curve}_return", "ret"),
            ):
                value = truth[other]
                assert trade[name] == (None if value is None else pytest.approx(value, rel=1e-12, abs=1e-12)), name


@settings(max_examples=60, deadline=None)
@given(markets())
def test_the_referee_finds_no_impossible_fill(case: tuple) -> None:
    """A fill on a suspended, unquoted, untraded or locked session, or at a price that was not quoted."""
    days, panel, orders, spec = case
    trades = run_book(orders, market_of(panel, days), spec).trades
    assert impossible_fills(trades, panel, spec.delisting_haircut).rows() == []


def test_440_signals_give_442_curve_sessions() -> None:
    """A curve that starts at the decision or drops the last exit: the published 440 signals have 442."""
    days = weekdays(450)
    orders = orders_of({day: ["A"] for day in days[3:443]}, 1)
    equity = run_book(orders, market_of(flat_panel(days, ["A"]), days), SPEC).equity
    assert equity.height == 442
    assert equity["session"][0] == days[4]
    assert equity["session"][-1] == days[445]


def test_each_sleeve_compounds_its_own_third() -> None:
    """Sleeves that share cash: a doubling in one sleeve must not be reinvested by another."""
    days = weekdays(12)
    special = {("A", place): {"close": 20.0, "open": 20.0} for place in range(3, 12)}
    panel = flat_panel(days, ["A", "B"], special=special)
    chosen = {days[0]: ["A"], days[1]: ["B"], days[2]: ["B"], days[3]: ["B"]}
    result = run_book(orders_of(chosen, 1), market_of(panel, days), FREE)
    assert result.trades["gross_stake"].to_list() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 2 / 3])
    assert result.equity["gross"][-1] == pytest.approx(4 / 3)


def test_blocked_entry_leaves_its_cash_idle() -> None:
    """A substitute or a heavier remainder after a blocked entry: half of the sleeve must earn nothing."""
    days = weekdays(8)
    special = {("A", 1): {"kind": "open_up"}, ("B", 3): {"close": 11.0}}
    result = run_book(
        orders_of({days[0]: ["A", "B"]}, 2),
        market_of(flat_panel(days, ["A", "B"], special=special), days),
        FREE,
    )
    assert result.trades["status"].to_list() == ["entry_blocked", "filled"]
    assert result.trades["entry_block"].to_list() == ["limit_up", None]
    assert result.trades["gross_stake"].to_list() == pytest.approx([0.0, 1 / 6])
    assert result.equity["gross"][-1] == pytest.approx(1 + 0.1 / 6)


def test_carried_cash_is_missing_from_the_next_round() -> None:
    """Money spent twice: a name that cannot be sold must not finance the sleeve's next decision."""
    days = weekdays(12)
    special = {("A", 3): {"kind": "close_down"}, ("A", 4): {"kind": "suspended"}}
    panel = flat_panel(days, ["A", "B"], special=special)
    result = run_book(orders_of({days[0]: ["A", "B"], days[3]: ["B"]}, 2), market_of(panel, days), FREE)
    carried, _, later = result.trades.rows(named=True)
    assert (carried["status"], carried["exit_block"], carried["exit_delay"]) == ("carried", "limit_down", 2)
    assert carried["exit_session"] == days[5]
    assert later["gross_stake"] == pytest.approx(0.5 / 6)


def test_a_limit_blocks_on_both_sides_at_open_and_close() -> None:
    """Buying at a limit-down open or selling at a limit-up close: the protocol blocks either side of both."""
    days = weekdays(8)
    for kind in ("open_up", "open_down"):
        panel = flat_panel(days, ["A"], special={("A", 1): {"kind": kind}})
        assert (
            run_book(orders_of({days[0]: ["A"]}, 1), market_of(panel, days), SPEC).trades["status"][0]
            == "entry_blocked"
        )
    for kind in ("close_up", "close_down"):
        panel = flat_panel(days, ["A"], special={("A", 3): {"kind": kind}})
        assert run_book(orders_of({days[0]: ["A"]}, 1), market_of(panel, days), SPEC).trades["exit_delay"][0] == 1


def test_an_open_limit_does_not_block_the_close() -> None:
    """A limit flag that reads the day's close while filling at the open, or the reverse."""
    days = weekdays(8)
    special = {("A", 1): {"kind": "close_up", "close": 11.0}, ("A", 3): {"kind": "open_down", "open": 9.0}}
    trades = run_book(
        orders_of({days[0]: ["A"]}, 1), market_of(flat_panel(days, ["A"], special=special), days), SPEC
    ).trades
    assert trades["status"].to_list() == ["filled"]


def test_delisting_pays_the_last_close_less_the_haircut() -> None:
    """A held name that vanishes must neither keep its value for ever nor pay a price of before its fall."""
    days = weekdays(10)
    special = {("A", place): None for place in range(5, 10)}
    special |= {
        ("A", 3): {"kind": "close_down", "close": 8.0},
        ("A", 4): {"kind": "close_down", "close": 6.0},
    }
    result = run_book(
        orders_of({days[0]: ["A"]}, 1), market_of(flat_panel(days, ["A", "B"], special=special), days), FREE
    )
    trade = result.trades.row(0, named=True)
    assert (trade["status"], trade["exit_session"], trade["exit_price"]) == ("delisted", days[5], 3.0)
    assert result.equity["gross"].to_list() == pytest.approx([1, 1, 1 - 0.2 / 3, 1 - 0.4 / 3, 1 - 0.7 / 3])


def test_a_missing_day_is_marked_at_the_last_known_close() -> None:
    """A suspension marked at zero, at the entry price or at a later close."""
    days = weekdays(8)
    special = {("A", 1): {"close": 12.0}, ("A", 2): {"kind": "suspended"}, ("A", 3): {"close": 9.0}}
    equity = run_book(
        orders_of({days[0]: ["A"]}, 1), market_of(flat_panel(days, ["A"], special=special), days), FREE
    ).equity
    assert equity["gross"].to_list() == pytest.approx([1 + 0.2 / 3, 1 + 0.2 / 3, 1 - 0.1 / 3])


def test_an_ex_date_is_no_loss() -> None:
    """Raw instead of adjusted prices: a 2-for-1 split while held must leave the NAV alone."""
    days = weekdays(8)
    special = {("A", place): {"open": 5.0, "close": 5.0, "factor": 2.0} for place in range(2, 8)}
    equity = run_book(
        orders_of({days[0]: ["A"]}, 1), market_of(flat_panel(days, ["A"], special=special), days), FREE
    ).equity
    assert equity["gross"].to_list() == pytest.approx([1.0] * 3)


def test_costs_are_paid_on_the_traded_value_of_each_side() -> None:
    """Costs on one side only, or on the stake instead of the value: one flat round trip has a closed form."""
    days = weekdays(8)
    result = run_book(orders_of({days[0]: ["A"]}, 1), market_of(flat_panel(days, ["A"]), days), SPEC)
    kept = (1 - 17.6e-4) / (1 + 12.6e-4)
    assert result.trades["net_return"][0] == pytest.approx(kept - 1, rel=1e-12)
    assert result.equity["net"].to_list() == pytest.approx(
        [2 / 3 + 1 / 3 / (1 + 12.6e-4)] * 2 + [2 / 3 + kept / 3], rel=1e-12
    )
    assert result.equity["gross"].to_list() == pytest.approx([1.0] * 3, rel=1e-12)


def test_what_lies_beyond_the_market_is_open_or_pending() -> None:
    """An exit invented past the last known session."""
    days = weekdays(6)
    trades = run_book(
        orders_of({days[3]: ["A"], days[5]: ["A"]}, 1), market_of(flat_panel(days, ["A"]), days), SPEC
    ).trades
    assert trades["status"].to_list() == ["open", "pending"]
    assert trades["exit_session"].to_list() == [None, None]
    assert trades["entry_session"].to_list() == [days[4], None]


def test_books_do_not_touch_each_other() -> None:
    """Cash or marks that leak between books of one call, or rows that depend on the threads."""
    days, names = weekdays(40), [f"{i:02d}" for i in range(12)]
    rng = np.random.default_rng(5)
    panel = panel_of(
        [row(day, name, str(rng.choice(KINDS)), *(5 + 10 * rng.random(2)).round(2)) for day in days for name in names]
    )
    market = market_of(panel, days)
    orders = random_orders(panel.select("session", "instrument"), 3, 20, 1)
    together = run_books(orders, market, SPEC)
    for book in orders["book"].unique():
        alone = run_book(orders.filter(pl.col("book") == book).drop("book"), market, SPEC)
        assert together.equity.filter(pl.col("book") == book).drop("book").equals(alone.equity)
        assert together.trades.filter(pl.col("book") == book).drop("book").equals(alone.trades)


def test_the_curve_does_not_depend_on_the_extent_of_the_market() -> None:
    """Sleeve turns counted from the market's first session: more history must not change a book."""
    days = weekdays(20)
    special = {("A", place): {"close": 10 + place / 7, "open": 10 + place / 9} for place in range(20)}
    panel = flat_panel(days, ["A", "B"], special=special)
    orders = orders_of({day: ["A", "B"] for day in days[5:12]}, 2)
    whole = run_book(orders, market_of(panel, days), SPEC)
    late = run_book(orders, market_of(panel.filter(pl.col("session") >= days[4]), days), SPEC)
    assert whole.equity.equals(late.equity)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda o: o.with_columns(instrument=pl.lit("Z")), BadInput, "instrument must be in the market"),
        (lambda o: o.with_columns(session=pl.lit(date(2030, 1, 1))), BadInput, "inside the market"),
        (lambda o: pl.concat([o, o.with_columns(rank=pl.lit(9, pl.Int32))]), KeyViolation, "once"),
        (lambda o: o.with_columns(weight=pl.lit(1.5)), BadInput, "at most 1"),
        (lambda o: o.with_columns(weight=pl.lit(-0.5)), BadInput, "positive"),
        (lambda o: o.with_columns(weight=pl.lit(None, pl.Float64)), KeyViolation, "null"),
        (lambda o: o.clear(), BadInput, "at least one order"),
    ],
)
def test_bad_orders_are_refused(change, error, words) -> None:
    """Leverage, shorts, doubled or unknown names that would silently become a curve."""
    days = weekdays(8)
    with pytest.raises(error, match=words):
        run_book(change(orders_of({days[0]: ["A"]}, 1)), market_of(flat_panel(days, ["A"]), days), SPEC)


def test_bad_markets_are_refused() -> None:
    """A doubled panel row, an unknown block, an empty panel."""
    days = weekdays(4)
    panel = flat_panel(days, ["A"])
    with pytest.raises(KeyViolation, match="unique"):
        market_of(pl.concat([panel, panel.head(1)]), days)
    with pytest.raises(BadInput, match="known reasons"):
        market_of(panel.with_columns(open_block=pl.lit("holiday")), days)
    with pytest.raises(BadInput, match="at least one panel row"):
        market_of(panel.clear(), days)


@pytest.mark.parametrize("values", [{"exit_session": 1}, {"exit_session": 4, "sleeves": 3}])
def test_impossible_protocols_are_refused(values: dict) -> None:
    """Selling on the day of purchase (T+0), or a sleeve whose turn comes while its cash is tied up."""
    with pytest.raises(ValidationError):
        ExecutionSpec(**values)
