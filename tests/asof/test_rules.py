"""Daily limits: golden roundings, dated percentages, and days without a known limit."""

from __future__ import annotations

from datetime import date
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.asof.rules import price_limits
from tests.asof.markets import Market, cell, faults
from tests.oracles.asof_bruteforce import limit


def limits(pre_close: float, percent: int, one_tick: bool = True) -> tuple[float, float]:
    up, down = price_limits(np.array([pre_close]), np.array([percent]), np.array([one_tick]))
    return float(up[0]), float(down[0])


@pytest.mark.parametrize(
    ("pre_close", "percent", "up", "down"),
    [
        (5.35, 10, 5.89, None),
        (5.05, 10, None, 4.55),
        (5.10, 5, 5.36, None),
        (0.95, 10, 1.05, None),
        (13.65, 10, 15.02, None),
        (13.69, 10, 15.06, 12.32),
    ],
)
def test_golden_half_up_roundings(pre_close, percent, up, down):
    """Pins: Python's round(), which is wrong by a tick in each of these."""
    computed = limits(pre_close, percent)
    assert up in (None, computed[0])
    assert down in (None, computed[1])


@given(st.integers(10, 5_000_000), st.sampled_from([5, 10, 20, 30]))
def test_limits_equal_decimal_arithmetic(cents, percent):
    """Pins: any price at which integer arithmetic and the printed decimals disagree."""
    assert limits(cents / 100, percent, False) == (
        limit(cents / 100, percent, 1),
        limit(cents / 100, percent, -1),
    )


@given(st.integers(1_000, 10_000_000), st.sampled_from([5, 10, 20, 30]))
def test_a_reference_finer_than_the_tick_is_not_rounded_first(scaled, percent):
    """Pins: rounding an off-tick reference to the tick before the percentage is applied."""
    wanted = (Decimal(scaled) / 10_000 * (100 + percent) / 100).quantize(Decimal("0.01"), ROUND_HALF_UP)
    assert limits(scaled / 10_000, percent, False)[0] == float(wanted)


@pytest.mark.parametrize(("one_tick", "expected"), [(True, (0.05, 0.03)), (False, (0.04, 0.04))])
def test_minimum_tick_rule(one_tick, expected):
    """Pins: a limit that equals the reference where the exchange grants one tick."""
    assert limits(0.04, 10, one_tick) == expected


@pytest.mark.parametrize("pre_close", [float("nan"), 0.0, -1.0, float("inf")])
def test_no_limit_without_a_reference(pre_close):
    """Pins: an integer made of NaN."""
    assert all(np.isnan(limits(pre_close, 10)))


def up_limit(code: str, day: date, *, st: bool = False, listed: date = date(2000, 1, 4)) -> object:
    market = Market.over(day, day, listed if listed > date(2019, 1, 1) else None).lists(code, listed)
    market = market.trades(code)
    market = market.add(
        "stock_st",
        known=market.rows["daily"][0]["known_at"],
        ts_code=code if st else "999999.SZ",
        trade_date=day,
    )
    return cell(market.build(), day, code)["up_limit"]


@pytest.mark.parametrize(
    ("code", "day", "st", "up"),
    [
        ("600000.SH", date(2024, 1, 2), False, 11.0),
        ("600000.SH", date(2024, 1, 2), True, 10.5),
        ("000001.SZ", date(2026, 7, 3), True, 10.5),
        ("000001.SZ", date(2026, 7, 6), True, 11.0),
        ("300001.SZ", date(2020, 8, 21), False, 11.0),
        ("300001.SZ", date(2020, 8, 21), True, 10.5),
        ("300001.SZ", date(2020, 8, 24), False, 12.0),
        ("300001.SZ", date(2020, 8, 24), True, 12.0),
        ("688001.SH", date(2024, 1, 2), True, 12.0),
        ("830799.BJ", date(2024, 1, 2), False, 13.0),
        ("830799.BJ", date(2024, 1, 2), True, 13.0),
    ],
)
def test_percent_by_board_state_and_date(code, day, st, up):
    """Pins: today's percentages applied to yesterday (ChiNext 2020-08-24, ST 2026-07-06)."""
    assert up_limit(code, day, st=st) == up


@pytest.mark.parametrize(
    ("code", "listed", "day", "up"),
    [
        ("603001.SH", date(2023, 4, 7), date(2023, 4, 7), None),
        ("603001.SH", date(2023, 4, 7), date(2023, 4, 10), 11.0),
        ("603001.SH", date(2023, 4, 10), date(2023, 4, 14), None),
        ("603001.SH", date(2023, 4, 10), date(2023, 4, 17), 11.0),
        ("300999.SZ", date(2020, 8, 21), date(2020, 8, 24), 12.0),
        ("300999.SZ", date(2020, 8, 24), date(2020, 8, 28), None),
        ("688001.SH", date(2023, 1, 2), date(2023, 1, 6), None),
        ("688001.SH", date(2023, 1, 2), date(2023, 1, 9), 12.0),
        ("920002.BJ", date(2024, 5, 6), date(2024, 5, 6), None),
        ("920002.BJ", date(2024, 5, 6), date(2024, 5, 7), 13.0),
    ],
)
def test_sessions_without_a_known_limit_after_listing(code, listed, day, up):
    """Pins: a computed limit on a free day, or a free day too many."""
    assert up_limit(code, day, listed=listed) == up


def test_a_transfer_from_the_select_layer_is_no_new_listing():
    """Pins: the 71 names of 2021-11-15 whose vendor `list_date` is older than the exchange."""
    assert up_limit("830799.BJ", date(2021, 11, 15), listed=date(2020, 7, 27)) == 13.0


@pytest.mark.parametrize(
    ("vendor", "mismatch"),
    [
        ((11.0, 9.0), False),
        ((11.01, 9.0), True),
        ((11.0, 8.99), True),
        ((100_000.0, 0.01), True),
        ((None, None), True),
    ],
)
def test_vendor_limits_are_checked_against_the_rule(vendor, mismatch):
    """Pins: a vendor limit that is a tick off, or "no limit" on a limited day, unseen."""
    day = date(2024, 1, 2)
    market = Market.over(day, day).lists("600000.SH").trades("600000.SH")
    market = market.add(
        "stk_limit",
        known=market.rows["daily"][0]["known_at"],
        ts_code="600000.SH",
        trade_date=day,
        up_limit=vendor[0],
        down_limit=vendor[1],
    )
    tables = market.build()
    assert cell(tables, day, "600000.SH")["limit_mismatch"] is mismatch
    assert faults(tables) == [(day, "600000.SH", "stk_limit", "limit_against_rule")] * mismatch


@pytest.mark.parametrize(
    ("listed", "vendor", "mismatch"),
    [(date(2024, 1, 2), 100_000.0, False), (date(2024, 1, 2), 11.0, True), (date(2022, 1, 4), 14.4, False)],
)
def test_free_days_agree_with_the_sentinel_and_issue_price_days_are_not_compared(listed, vendor, mismatch):
    """Pins: a mismatch on every listing day, or none where the vendor limits a free day."""
    market = Market.over(listed, listed).lists("600000.SH", listed).trades("600000.SH")
    market = market.add(
        "stk_limit",
        known=market.rows["daily"][0]["known_at"],
        ts_code="600000.SH",
        trade_date=listed,
        up_limit=vendor,
        down_limit=6.4,
    )
    assert cell(market.build(), listed, "600000.SH")["limit_mismatch"] is mismatch


@pytest.mark.parametrize(
    ("code", "since", "day", "up"),
    [
        ("600000.SH", date(2021, 3, 1), date(2021, 3, 1), None),
        ("600000.SH", date(2021, 3, 1), date(2021, 3, 2), 11.0),
        ("600000.SH", date(2020, 3, 2), date(2020, 3, 2), 11.0),
        ("300001.SZ", date(2021, 3, 1), date(2021, 3, 2), 12.0),
        ("300001.SZ", date(2020, 9, 1), date(2020, 9, 2), None),
    ],
)
def test_delisting_arrangement_limits(code, since, day, up):
    """Pins: the ST 5 % inside a delisting arrangement, and a limit on its free first day."""
    market = Market.over(day, day).lists(code).trades(code)
    known = market.rows["stock_basic"][0]["known_at"]
    market = market.add("namechange", known=known, ts_code=code, name="*ST某某", start_date=date(2019, 1, 1))
    market = market.add("namechange", known=known, ts_code=code, name="某某退", start_date=since)
    row = cell(market.build(), day, code)
    assert (row["up_limit"], row["exclusion"]) == (up, "delisting")
