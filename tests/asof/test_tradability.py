"""What could be traded, what a bar must look like, and factors where one is missing."""

from __future__ import annotations

from datetime import date

import polars as pl
import pytest

from pipeline.asof.adjustment import adjusted
from tests.asof.markets import Market, at, cell, faults, reasons

WEEK = Market.over(date(2024, 1, 1), date(2024, 1, 5))
MON, TUE, WED, THU, FRI = WEEK.sessions
CODE = "000001.SZ"
BAR = {
    "open": 10.0,
    "high": 10.5,
    "low": 9.5,
    "close": 10.2,
    "pre_close": 10.0,
    "vol": 100.0,
    "amount": 1000.0,
}


def one_bar(**changes: float | None) -> Market:
    return WEEK.lists(CODE).trades(CODE, [MON], **BAR | changes)


@pytest.mark.parametrize(
    ("changes", "open_block", "close_block"),
    [
        ({}, None, None),
        ({"open": 11.0, "high": 11.0}, "limit_up", None),
        ({"close": 11.0, "high": 11.0}, None, "limit_up"),
        ({"open": 9.0, "low": 9.0}, "limit_down", None),
        ({"close": 9.0, "low": 9.0}, None, "limit_down"),
        ({"close": 10.99, "high": 11.0}, None, None),
        ({"amount": 0.0}, "no_amount", "no_amount"),
        ({"amount": None}, "no_amount", "no_amount"),
        ({"low": -1.0}, "invalid_quote", "invalid_quote"),
    ],
)
def test_blocks_of_the_open_and_the_close(changes, open_block, close_block):
    """Pins: a fill at a locked price, at no turnover, or at an impossible quote; a tick inside is free."""
    row = cell(one_bar(**changes).build(), MON, CODE)
    assert (row["open_block"], row["close_block"]) == (open_block, close_block)


@pytest.mark.parametrize(("percent_price", "block"), [(11.0, None), (11.55, None)])
def test_no_lock_on_a_day_without_limits(percent_price, block):
    """Pins: an ordinary limit applied to a registration-system listing day."""
    market = Market.over(MON, MON, date(2023, 12, 1)).lists("603001.SH", MON)
    row = cell(market.trades("603001.SH", price=percent_price, pre_close=10.5).build(), MON, "603001.SH")
    assert row["open_block"] is block


@pytest.mark.parametrize(
    "changes",
    [
        {"open": 0.0},
        {"high": -10.5},
        {"low": None},
        {"close": float("nan")},
        {"close": float("inf")},
        {"high": 9.0},
        {"open": 10.6},
        {"close": 9.4},
        {"pre_close": 0.0},
        {"pre_close": -10.0},
    ],
)
def test_impossible_quotes_lose_their_values_and_are_quarantined(changes):
    """Pins: a non-positive or contradictory price that reaches a feature."""
    tables = one_bar(**changes).build()
    row = cell(tables, MON, CODE)
    assert [row[c] for c in BAR if c != "vol"] + [row["volume"], row["up_limit"]] == [None] * 8
    assert (row["exclusion"], row["eligible"]) == ("invalid_quote", False)
    assert faults(tables) == [(MON, CODE, "daily", "invalid_quote")]


def test_a_first_day_without_a_reference_price_is_valid():
    """Pins: a null `pre_close`, which first days may have, read as a broken bar."""
    row = cell(one_bar(pre_close=None).build(), MON, CODE)
    assert (row["close"], row["up_limit"], row["eligible"]) == (10.2, None, True)


def test_float_noise_of_converted_feeds_is_no_broken_bar():
    """Pins: 10.2 above a high of 10.199999999."""
    assert cell(one_bar(close=10.5 + 1e-9).build(), MON, CODE)["eligible"]


def test_suspensions_whole_day_only():
    """Pins: an intraday halt or a resumption read as a suspended day."""
    market = WEEK.lists(CODE).trades(CODE, [TUE, WED, THU])
    for day, kind, timing in ((MON, "S", None), (TUE, "S", "09:30-10:00"), (WED, "R", None)):
        market = market.add(
            "suspend_d", known=at(day), ts_code=CODE, trade_date=day, suspend_type=kind, suspend_timing=timing
        )
    tables = market.build()
    assert [cell(tables, day, CODE)["suspended"] for day in WEEK.sessions] == [
        True,
        False,
        False,
        False,
        False,
    ]
    assert cell(tables, MON, CODE)["open_block"] == "suspended"
    assert reasons(tables, MON, CODE) == ["no_factor", "suspended"]
    assert reasons(tables, FRI, CODE) == ["no_bar"]


def test_units_are_ours():
    """Pins: lots, thousands and ten-thousands let through as they came."""
    market = one_bar().add(
        "daily_basic",
        known=at(MON, 19),
        ts_code=CODE,
        trade_date=MON,
        turnover_rate=2.5,
        pe_ttm=None,
        total_mv=3.0,
        circ_mv=2.0,
        float_share=0.004,
    )
    flow = {
        f"{side}_{size}_amount": value
        for size, (buy, sell) in {
            "sm": (5.0, 1.0),
            "md": (2.0, 3.0),
            "lg": (7.0, 7.0),
            "elg": (1.0, 0.0),
        }.items()
        for side, value in (("buy", buy), ("sell", sell))
    }
    row = cell(
        market.add("moneyflow", known=at(MON, 19), ts_code=CODE, trade_date=MON, **flow).build(), MON, CODE
    )
    assert (row["volume"], row["amount"]) == (10_000.0, 1_000_000.0)
    assert (row["turnover"], row["total_mv"], row["circ_mv"], row["pe_ttm"]) == (
        0.025,
        30_000.0,
        20_000.0,
        None,
    )
    assert [row[f"flow_{c}"] for c in ("small", "medium", "large", "extra_large", "gross")] == [
        40_000.0,
        -10_000.0,
        0.0,
        10_000.0,
        260_000.0,
    ]


def test_a_missing_factor_is_carried_forward_and_says_so():
    """Pins: a jump to an unadjusted price, or a factor borrowed from the future."""
    market = WEEK.lists(CODE).trades(CODE)
    rows = [row for row in market.rows["adj_factor"] if row["trade_date"] not in (MON, WED)]
    factors = [row | {"adj_factor": float(i + 2)} for i, row in enumerate(rows)]
    tables = Market(market.sessions, market.calendar, {**market.rows, "adj_factor": tuple(factors)}).build()
    assert [cell(tables, day, CODE)["factor"] for day in WEEK.sessions] == [None, 2.0, 2.0, 3.0, 4.0]
    assert cell(tables, MON, CODE)["exclusion"] == "no_factor"
    found = [fault for fault in faults(tables) if fault[2] == "adj_factor"]
    assert found == [
        (MON, CODE, "adj_factor", "missing_row"),
        (WED, CODE, "adj_factor", "factor_carried"),
        (WED, CODE, "adj_factor", "missing_row"),
    ]


def test_a_factor_is_carried_over_the_start_of_a_month():
    """Pins: the first session of a build left without the factor that its context rows hold."""
    market = WEEK.lists(CODE).trades(CODE, [MON, TUE], factor=3.0)
    assert cell(market.build([WED, THU]), WED, CODE)["factor"] == 3.0


def test_adjusted_prices_scale_with_the_factor():
    """Pins: adjusted amounts, or volumes adjusted the wrong way round."""
    frame = pl.DataFrame(
        {"close": [10.0], "volume": [100.0], "amount": [1000.0], "pre_close": [9.0], "factor": [2.0]}
    )
    assert adjusted(frame).row(0) == (20.0, 50.0, 1000.0, 9.0, 2.0)


def test_a_late_factor_is_not_carried_before_it_was_known():
    """Pins: a factor that arrived on Wednesday lent to Tuesday's decision."""
    market = WEEK.lists(CODE).trades(CODE, [MON]).without("adj_factor")
    market = market.add("adj_factor", known=at(WED), ts_code=CODE, trade_date=MON, adj_factor=2.0)
    tables = market.build()
    assert [cell(tables, day, CODE)["factor"] for day in WEEK.sessions] == [None, None, 2.0, 2.0, 2.0]


def test_a_patch_never_borrows_the_factor_of_a_later_session():
    """Pins: Monday, corrected on Wednesday, adjusted with Tuesday's factor for want of its own."""
    market = WEEK.lists(CODE).trades(CODE, [TUE, WED], factor=2.0)
    market = market.add("daily", known=at(WED), ts_code=CODE, trade_date=MON, **BAR)
    patch = market.build().patches.row(0, named=True)
    assert (patch["effective_session"], patch["session"], patch["close"], patch["factor"]) == (WED, MON, 10.2, None)
