"""Tables against each other, and minutes folded into days: what fails is named, what holds is silent."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta

import numpy as np
import polars as pl
import pytest

from pipeline.errors import BadInput
from tests.asof.markets import MARKET, Market, at, cell, faults

WEEK = Market.over(date(2024, 1, 1), date(2024, 1, 5))
MON, TUE, WED, THU, FRI = WEEK.sessions
CODE = "000001.SZ"


def test_reference_price_against_factor():
    """Pins: an ex-date whose factor did not move, or a factor that moved alone."""
    market = WEEK.lists(CODE).trades(CODE, [MON]).trades(CODE, [TUE], price=5.0, factor=2.0)
    market = market.trades(CODE, [WED], price=4.0, factor=2.0).trades(CODE, [THU], price=4.0, factor=3.0)
    assert faults(market.trades(CODE, [FRI], price=4.0, factor=3.0).build()) == [
        (WED, CODE, "daily", "pre_close_against_factor"),
        (THU, CODE, "daily", "pre_close_against_factor"),
    ]


def test_reference_price_across_a_suspension_and_a_missing_bar():
    """Pins: a comparison skipped after a suspension, or invented over a day whose bar is only late."""
    market = WEEK.lists(CODE).trades(CODE, [MON]).trades(CODE, [WED, FRI], price=9.0)
    halted = market.add("suspend_d", known=at(TUE), ts_code=CODE, trade_date=TUE, suspend_type="S")
    assert faults(halted.build()) == [(WED, CODE, "daily", "pre_close_against_factor")]


def test_the_first_session_is_reconciled_with_its_context():
    """Pins: one session in each month that no check looks at."""
    market = WEEK.lists(CODE).trades(CODE, [MON, TUE]).trades(CODE, [WED], price=9.0)
    assert faults(market.build([WED])) == [(WED, CODE, "daily", "pre_close_against_factor")]


@pytest.mark.parametrize(("rate", "found"), [(2.5, []), (2.52, []), (2.6, ["turnover_against_shares"])])
def test_turnover_against_shares(rate, found):
    """Pins: a float share count of another day, or a tolerance that flags rounding."""
    market = (
        WEEK.lists(CODE)
        .trades(CODE, [MON])
        .add(
            "daily_basic",
            known=at(MON, 19),
            ts_code=CODE,
            trade_date=MON,
            turnover_rate=rate,
            float_share=40.0,
        )
    )
    assert [rule for *_, rule in faults(market.build())] == found


@pytest.mark.parametrize("table", ["adj_factor", "daily_basic", "moneyflow"])
def test_a_stock_missing_from_another_table(table):
    """Pins: a stock that dropped off a page, unseen."""
    market = WEEK.lists(CODE).trades(CODE, [MON]).lists("600000.SH").trades("600000.SH", [MON])
    row = {"adj_factor": 1.0} if table == "adj_factor" else {}
    market = market.without(table).add(table, known=at(MON, 19), ts_code=CODE, trade_date=MON, **row)
    assert (MON, "600000.SH", table, "missing_row") in faults(market.build())
    assert (MON, CODE, table, "missing_row") not in faults(market.build())


def test_money_flow_never_covers_the_bse():
    """Pins: hundreds of BSE rows a day reported for a table that never has them."""
    market = WEEK.lists("920002.BJ", date(2023, 1, 3)).trades("920002.BJ", [MON])
    market = market.add("moneyflow", known=at(MON, 19), ts_code=CODE, trade_date=MON)
    assert faults(market.build()) == []


def test_a_bar_on_a_suspended_day_and_a_bar_on_a_closed_day():
    """Pins: two tables that contradict each other, and rows outside the calendar."""
    saturday = date(2024, 1, 6)
    market = (
        WEEK.lists(CODE)
        .trades(CODE, [MON])
        .add("suspend_d", known=at(MON), ts_code=CODE, trade_date=MON, suspend_type="S")
    )
    assert faults(market.build()) == [(MON, CODE, "suspend_d", "bar_while_suspended")]
    inside = Market.over(FRI, date(2024, 1, 8)).lists(CODE).trades(CODE, [saturday], known=at(saturday, 17))
    assert faults(inside.build()) == [(saturday, CODE, "daily", "not_a_session")]


def test_negative_volume_is_nulled_and_named():
    """Pins: a negative volume that cancels against others in a sum."""
    tables = WEEK.lists(CODE).trades(CODE, [MON], vol=-5.0).build()
    assert (cell(tables, MON, CODE)["volume"], faults(tables)) == (
        None,
        [(MON, CODE, "daily", "negative_volume")],
    )


def bar_ends(minutes: int = 5) -> list[time]:
    starts = (datetime(2024, 1, 1, 9, 30), datetime(2024, 1, 1, 13, 0))
    return [
        (start + timedelta(minutes=minutes * (i + 1))).time()
        for start in starts
        for i in range(120 // minutes)
    ]


def with_minutes(
    market: Market,
    day: date = MON,
    *,
    auction: bool = False,
    ends: list[time] | None = None,
    **changes: float,
) -> Market:
    """48 equal bars that add up to the day's 10,000 shares and 1,000,000 CNY at price 10."""
    stamps = [time(9, 30), *bar_ends()] if auction else ends or bar_ends()
    for stamp in stamps:
        bar = {
            "open": 10.0,
            "high": 10.0,
            "low": 10.0,
            "close": 10.0,
            "vol": 10_000 / len(stamps),
            "amount": 1e6 / len(stamps),
        }
        if stamp == stamps[0]:
            bar |= changes
        market = market.add(
            "stk_mins", known=at(day, 20), ts_code=CODE, trade_time=datetime.combine(day, stamp), **bar
        )
    return market


def bars(market: Market, day: date = MON) -> np.ndarray:
    frame = market.build().intraday.filter(pl.col("session") == day)
    assert frame["instrument"].to_list() == [CODE]
    return frame["bars"].to_numpy().reshape(48, 5)


def test_forty_eight_bars_in_time_order():
    """Pins: bars sorted by arrival, or the afternoon put after a gap."""
    market = WEEK.lists(CODE).trades(CODE, [MON])
    for i, stamp in reversed(list(enumerate(bar_ends()))):
        market = market.add(
            "stk_mins",
            known=at(MON, 20),
            ts_code=CODE,
            trade_time=datetime.combine(MON, stamp),
            open=i + 1.0,
            high=i + 2.0,
            low=i + 0.5,
            close=i + 1.5,
            vol=1.0,
            amount=float(i),
        )
    table = bars(market)
    assert np.array_equal(table[:, 0], np.arange(48) + 1.0)
    assert np.array_equal(table[:, 4], np.arange(48.0))
    assert table[7].tolist() == [8.0, 9.0, 7.5, 8.5, 7.0]


def test_a_separate_auction_bar_is_folded_into_the_first():
    """Pins: 49 bars shifted by one, or an auction whose turnover is lost."""
    market = with_minutes(WEEK.lists(CODE).trades(CODE, [MON]), auction=True, open=9.9, low=9.8, close=9.95)
    table = bars(market)
    assert table[0].tolist() == pytest.approx([9.9, 10.0, 9.8, 10.0, 2e6 / 49])
    assert table[1:, 4].sum() + table[0, 4] == pytest.approx(1e6)


def test_minutes_that_add_up_are_silent_and_missing_bars_are_nan():
    """Pins: false alarms on good days, and a missing bar read as zero."""
    market = with_minutes(WEEK.lists(CODE).trades(CODE, [MON]))
    assert faults(market.build()) == []
    table = bars(with_minutes(WEEK.lists(CODE).trades(CODE, [MON]), ends=bar_ends()[:10]))
    assert np.isnan(table[10:]).all()
    assert not np.isnan(table[:10]).any()


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ({"vol": 0.0}, ["minutes_volume"]),
        ({"amount": 0.0}, ["minutes_amount"]),
        ({"high": 10.02}, ["minutes_high"]),
        ({"low": 9.98}, ["minutes_low"]),
    ],
)
def test_minutes_that_do_not_add_up_to_the_day(changes, rules):
    """Pins: a feed that lost a bar or carries a bad tick."""
    found = faults(with_minutes(WEEK.lists(CODE).trades(CODE, [MON]), **changes).build())
    assert found == [(MON, CODE, "stk_mins", rule) for rule in rules]


def test_a_stray_minute_is_named_and_a_late_one_is_not_seen():
    """Pins: a bar at no bar's time that shifts the others, and minutes read before they were out."""
    market = with_minutes(WEEK.lists(CODE).trades(CODE, [MON, TUE]))
    stray = market.add(
        "stk_mins",
        known=at(MON, 20),
        ts_code=CODE,
        trade_time=datetime(2024, 1, 1, 9, 31),
        open=99.0,
        high=99.0,
        low=99.0,
        close=99.0,
        vol=0.0,
        amount=0.0,
    )
    assert faults(stray.build()) == [(MON, CODE, "stk_mins", "bar_time")]
    assert bars(stray)[:, 1].max() == 10.0
    late = market.add(
        "stk_mins",
        known=at(TUE, 21),
        ts_code=CODE,
        trade_time=datetime(2024, 1, 2, 9, 35),
        open=1.0,
        high=1.0,
        low=1.0,
        close=1.0,
        vol=0.0,
        amount=0.0,
    )
    assert late.build().intraday.equals(market.build().intraday)


def test_the_newest_known_version_of_a_bar_wins():
    """Pins: a doubled bar that is summed, or the older one kept."""
    market = with_minutes(WEEK.lists(CODE).trades(CODE, [MON])).add(
        "stk_mins",
        known=at(MON, 20, 15),
        ts_code=CODE,
        trade_time=datetime(2024, 1, 1, 9, 35),
        open=10.0,
        high=10.0,
        low=10.0,
        close=10.0,
        vol=1.0,
        amount=7.0,
    )
    assert bars(market)[0].tolist() == [10.0, 10.0, 10.0, 10.0, 7.0]


def test_bars_that_do_not_divide_the_session_are_refused():
    """Pins: a bar across the lunch break."""
    with pytest.raises(BadInput, match="240-minute"):
        WEEK.lists(CODE).build(market=MARKET.model_copy(update={"bars_per_session": 50}))


@pytest.mark.parametrize(("sold", "expected"), [(5, 16), (15, 48), (30, 48), (1, 48)])
def test_bars_of_another_length_are_refused(sold, expected):
    """Pins: 15-minute bars that fill every third of 48 places and add up to the day, and rows nearly all strays."""
    market = with_minutes(WEEK.lists(CODE).trades(CODE, [MON]), ends=bar_ends(sold))
    other = MARKET.model_copy(update={"bars_per_session": expected})
    with pytest.raises(BadInput, match=f"set market.bars_per_session to {240 // sold}"):
        market.build(market=other)
    held = market.build(market=MARKET.model_copy(update={"bars_per_session": 240 // sold}))
    assert faults(held) == []


def test_a_feed_with_gaps_is_no_other_bar_length():
    """Pins: a halted day, or one whose bars lost their places, that stops the whole build."""
    halted = with_minutes(WEEK.lists(CODE).trades(CODE, [MON]), ends=bar_ends()[2:9:3])
    assert faults(halted.build()) == []
    dirty = with_minutes(WEEK.lists(CODE).trades(CODE, [MON]), ends=[*bar_ends(15), time(9, 35), time(9, 40)])
    assert faults(dirty.build()) == []
