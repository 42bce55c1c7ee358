"""What a decision could know: base values, patches, and the promise that corrections never rewrite."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from itertools import permutations, product

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.asof.panel import MEASURES, PanelTables, apply_patches, build_panel, latest, revised_sessions
from pipeline.errors import BadInput, CalendarError, MissingTable
from pipeline.fingerprints import hash_frame
from pipeline.frames import canonical
from tests.asof.markets import MARKET, UNIVERSE, Market, at, cell, faults
from tests.oracles.asof_bruteforce import measures

CODES = ("000001.SZ", "600000.SH")
EMPTY = Market.over(date(2024, 1, 2), date(2024, 1, 5))
FIRST, SECOND, THIRD, FOURTH = EMPTY.sessions
WAITS = [
    timedelta(hours=17),
    timedelta(hours=20, minutes=30),
    timedelta(hours=20, minutes=30, microseconds=1),
    timedelta(days=1, hours=3),
    timedelta(days=1, hours=20, minutes=30),
    timedelta(days=2, hours=9),
    timedelta(days=9),
]


def decision(session: date) -> datetime:
    return at(session, 20, 30)


def month(market: Market, sessions: Sequence[date]) -> PanelTables:
    """One build as its caller makes it: the sessions' own rows, and the revised earlier sessions in full."""
    raw = market.raw()
    days = {*sessions, *revised_sessions(raw, market.calendar, sessions, MARKET)}
    own = {
        name: rows.filter(pl.col("trade_date").is_in(list(days))) if "trade_date" in rows.columns else rows
        for name, rows in raw.items()
    }
    return build_panel(own, market.calendar, sessions, MARKET, UNIVERSE)


def seen(panel: pl.DataFrame, patches: pl.DataFrame, until: date, columns: Sequence[str]) -> dict:
    """(session, instrument) -> measures as the decision of `until` reads them."""
    frame = apply_patches(panel.filter(pl.col("session") <= until), patches, until=until)
    return {
        (row["session"], row["instrument"]): {c: row[c] for c in columns}
        for row in frame.iter_rows(named=True)
    }


def listed() -> Market:
    return EMPTY.lists(CODES[0]).lists(CODES[1])


cells = st.tuples(st.sampled_from(CODES), st.sampled_from(EMPTY.sessions), st.sampled_from(WAITS))
versions = st.lists(
    st.tuples(
        st.sampled_from(["daily", "adj_factor", "daily_basic", "suspend_d"]), cells, st.integers(100, 9999)
    ),
    max_size=25,
    unique_by=lambda item: (item[0], item[1]),
)


@settings(max_examples=60, deadline=None)
@given(versions, st.integers(1, 3), st.randoms(use_true_random=False))
def test_base_and_patches_equal_a_brute_force_as_of_at_every_decision(drawn, cut, shuffler):
    """Pins: a version read before its time or after it was replaced, and a patch lost between two builds."""
    market = listed()
    for code, session in product(CODES, market.sessions):
        market = market.add("adj_factor", known=at(session), ts_code=code, trade_date=session, adj_factor=1.0)
    shuffler.shuffle(drawn)
    for table, (code, session, wait), ticks in drawn:
        price = ticks / 100
        values = {
            "daily": {
                "open": price,
                "high": price,
                "low": price,
                "close": price,
                "pre_close": price,
                "vol": 3.0,
                "amount": float(ticks),
            },
            "adj_factor": {"adj_factor": float(ticks)},
            "daily_basic": {"total_mv": float(ticks)},
            "suspend_d": {"suspend_type": "S", "suspend_timing": None},
        }[table]
        market = market.add(table, known=at(session, 0) + wait, ts_code=code, trade_date=session, **values)
    builds = [month(market, market.sessions[:cut]), month(market, market.sessions[cut:])]
    panel = pl.concat([build.panel.frame for build in builds])
    patches = pl.concat([build.patches for build in builds])
    for until in market.sessions:
        wanted = {
            (session, code): measures(market.rows, code, session, decision(until))
            for session in market.sessions
            if session <= until
            for code in CODES
        }
        columns = list(next(iter(wanted.values())))
        assert seen(panel, patches, until, columns) == wanted


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
@pytest.mark.parametrize("waits", list(permutations(WAITS[:5], 2)))
def test_every_ordering_of_two_corrections_against_the_decisions(waits, order):
    """Pins: an ordering of own version, correction and its own correction that picks the wrong one."""
    own = (timedelta(hours=16), 10.0)
    facts = [own, (waits[0], 11.0), (waits[1], 12.0)]
    market = listed().trades(CODES[0], [SECOND, THIRD]).without("daily")
    for position in order:
        wait, price = facts[position]
        market = market.add(
            "daily",
            known=at(FIRST, 0) + wait,
            ts_code=CODES[0],
            trade_date=FIRST,
            open=price,
            high=price,
            low=price,
            close=price,
            pre_close=price,
            vol=1.0,
            amount=1.0,
        )
    tables = market.build()
    for until in market.sessions:
        wanted = measures(market.rows, CODES[0], FIRST, decision(until))["close"]
        assert seen(tables.panel.frame, tables.patches, until, ["close"])[FIRST, CODES[0]] == {
            "close": wanted
        }


def test_a_correction_leaves_every_earlier_panel_hash_identical():
    """Pins: a correction that rewrites what an older decision saw instead of becoming a patch."""
    market = listed().trades(CODES[0]).trades(CODES[1], price=20.0)
    before = market.build()
    corrected = market.add(
        "daily",
        known=at(THIRD, 9),
        ts_code=CODES[0],
        trade_date=FIRST,
        open=10.5,
        high=10.5,
        low=10.5,
        close=10.5,
        pre_close=10.0,
        vol=100.0,
        amount=1000.0,
    )
    after = corrected.build()
    for name in ("exclusions", "quarantine", "intraday"):
        assert getattr(before, name).equals(getattr(after, name)), name
    key = ["session", "instrument"]
    assert hash_frame(canonical(before.panel.frame, key)) == hash_frame(canonical(after.panel.frame, key))
    assert before.patches.is_empty()
    assert after.patches.select("effective_session", "session", "instrument", "close").rows() == [
        (THIRD, FIRST, CODES[0], 10.5)
    ]


def test_a_revised_factor_alone_still_writes_the_full_row():
    """Pins: a patch that nulls the columns of tables that were not revised."""
    market = (
        listed()
        .trades(CODES[0])
        .add("adj_factor", known=at(SECOND), ts_code=CODES[0], trade_date=FIRST, adj_factor=2.0)
    )
    patch = market.build().patches.row(0, named=True)
    assert (patch["factor"], patch["close"], patch["up_limit"], patch["amount"]) == (2.0, 10.0, 11.0, 1e6)


def test_knowledge_that_changes_nothing_leaves_no_patch():
    """Pins: thousands of empty patches when a vendor serves a history again under new codes."""
    market = listed().trades(CODES[0]).trades(CODES[0], [FIRST], known=at(THIRD))
    assert market.build().patches.is_empty()


def test_the_newer_version_wins_a_tie_whatever_the_order_of_rows():
    """Pins: an answer that depends on the order in which equal instants were handed in."""
    raw = listed().trades(CODES[0]).raw()
    twin = (
        raw["daily"]
        .filter(pl.col("trade_date") == FIRST)
        .with_columns(close=pl.lit(9.9), low=pl.lit(9.9), knowledge=pl.lit("observed"))
    )
    for rows in (pl.concat([raw["daily"], twin]), pl.concat([twin, raw["daily"]])):
        tables = build_panel(raw | {"daily": rows}, EMPTY.calendar, EMPTY.sessions, MARKET, UNIVERSE)
        assert cell(tables, FIRST, CODES[0])["close"] == 9.9


def test_a_late_row_is_missing_on_its_day_and_a_patch_from_the_next():
    """Pins: a bar that arrived after the decision and was used by it."""
    tables = listed().trades(CODES[0], [FIRST], known=decision(FIRST) + timedelta(microseconds=1)).build()
    row = cell(tables, FIRST, CODES[0])
    assert (row["close"], row["exclusion"], row["open_block"]) == (None, "no_bar", "invalid_quote")
    assert tables.patches["effective_session"].to_list() == [SECOND]


def test_the_final_truth_judges_tradability_again():
    """Pins: labels that keep a block which a correction lifted, or miss one that it brought."""
    market = (
        listed()
        .trades(CODES[0])
        .add(
            "daily",
            known=at(THIRD),
            ts_code=CODES[0],
            trade_date=FIRST,
            open=11.0,
            high=11.0,
            low=10.0,
            close=10.0,
            pre_close=10.0,
            vol=1.0,
            amount=1.0,
        )
    )
    tables = market.build()
    final = latest(tables.panel, tables.patches).frame.row(
        by_predicate=(pl.col("session") == FIRST) & (pl.col("instrument") == CODES[0]), named=True
    )
    assert cell(tables, FIRST, CODES[0])["open_block"] is None
    assert (final["open_block"], final["close_block"]) == ("limit_up", None)


def test_half_a_revised_session_is_refused():
    """Pins: a caller that hands in only the revision, so that the patch would null all other tables."""
    market = (
        listed()
        .trades(CODES[0], [FIRST])
        .add("adj_factor", known=at(date(2024, 1, 20)), ts_code=CODES[0], trade_date=FIRST, adj_factor=2.0)
    )
    raw = market.raw()
    raw["daily"] = raw["daily"].clear()
    raw["adj_factor"] = raw["adj_factor"].filter(pl.col("adj_factor") == 2.0)
    with pytest.raises(BadInput, match="revised_sessions"):
        build_panel(raw, EMPTY.calendar, [date(2024, 1, 19), date(2024, 1, 22)], MARKET, UNIVERSE)


@pytest.mark.parametrize(
    ("sessions", "error"),
    [
        ((), BadInput),
        ((FIRST, THIRD), BadInput),
        ((SECOND, FIRST), BadInput),
        ((date(2024, 1, 6),), CalendarError),
    ],
)
def test_sessions_must_be_consecutive_and_open(sessions, error):
    """Pins: a gap or a closed day that shifts effective sessions silently."""
    with pytest.raises(error):
        build_panel(listed().trades(CODES[0]).raw(), EMPTY.calendar, sessions, MARKET, UNIVERSE)


@pytest.mark.parametrize("table", ["stock_basic", "daily", "adj_factor"])
def test_a_required_table_that_is_absent_is_named(table):
    """Pins: a panel without its backbone."""
    raw = listed().trades(CODES[0]).raw()
    del raw[table]
    with pytest.raises(MissingTable, match=table):
        build_panel(raw, EMPTY.calendar, EMPTY.sessions, MARKET, UNIVERSE)


def test_optional_tables_may_be_absent():
    """Pins: a crash, or an invented reason, where a source lacks valuation, flow, limits or minutes."""
    tables = listed().trades(CODES[0]).build()
    row = cell(tables, FIRST, CODES[0])
    absent = [c for c in MEASURES if row[c] is None]
    assert absent == [
        "turnover",
        "turnover_free",
        "volume_ratio",
        "pe_ttm",
        "pb",
        "ps_ttm",
        "dividend_yield_pct",
        "total_mv",
        "circ_mv",
        "flow_small",
        "flow_medium",
        "flow_large",
        "flow_extra_large",
        "flow_gross",
    ]
    assert row["eligible"]
    assert (row["industry"], row["limit_mismatch"]) == ("unmapped", False)
    assert tables.intraday.schema["bars"] == pl.Array(pl.Float64, 240)
    assert faults(tables) == []
