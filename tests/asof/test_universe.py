"""Who is listed, under which code, in which state: always as of the day, never by today's names."""

from __future__ import annotations

from datetime import date, timedelta

import polars as pl
import pytest

from pipeline.asof import universe
from pipeline.asof.certificate import require_listed
from pipeline.asof.panel import summary
from pipeline.asof.spec import UniverseSpec
from pipeline.errors import LookAheadError
from tests.asof.markets import UNIVERSE, Market, at, cell, faults, reasons

WEEK = Market.over(date(2024, 1, 1), date(2024, 1, 5))
MON, TUE, WED, THU, FRI = WEEK.sessions
CODE = "000001.SZ"


def held(market: Market, instrument: str = CODE) -> list[date]:
    frame = market.build().panel.frame
    return frame.filter(pl.col("instrument") == instrument)["session"].to_list()


def test_rows_run_from_listing_to_delisting_with_or_without_a_bar():
    """Pins: survivorship (a delisted name missing from its past), and rows only where a bar is."""
    assert held(WEEK.lists(CODE, TUE, FRI)) == [TUE, WED, THU]


def test_without_delist_information_a_silent_name_stays_listed():
    """Pins: a name dropped because its bars stop, which only hindsight can know."""
    assert held(WEEK.lists(CODE).trades(CODE, [MON])) == [MON, TUE, WED, THU, FRI]


def test_a_delisting_learned_late_ends_the_rows_only_then():
    """Pins: yesterday's panel shortened by a delisting that was learned today."""
    market = WEEK.lists(CODE).lists(CODE, delisted=TUE, known=at(WED, 12))
    assert held(market) == [MON, TUE]


def test_a_listing_learned_late_begins_only_then():
    """Pins: a name that trades in panels made before anyone had heard of it."""
    assert held(WEEK.lists(CODE, known=at(WED, 21))) == [THU, FRI]


def test_listing_age_and_seasoning_count_sessions():
    """Pins: seasoning in natural days, and an off-by-one at its end."""
    tables = (
        WEEK.lists(CODE, MON)
        .trades(CODE)
        .build(universe=UNIVERSE.model_copy(update={"seasoning_sessions": 3}))
    )
    assert [cell(tables, day, CODE)["listing_age"] for day in WEEK.sessions] == [0, 1, 2, 3, 4]
    assert [cell(tables, day, CODE)["exclusion"] for day in WEEK.sessions] == ["seasoning"] * 3 + [None] * 2


def test_weekdays_stand_in_before_the_calendar_begins():
    """Pins: an old name counted as new because the calendar is short."""
    market = Market.over(MON, FRI, history=MON).lists(CODE, date(2023, 12, 18)).trades(CODE)
    assert cell(market.build(), TUE, CODE)["listing_age"] == 11


def test_bse_codes_are_one_instrument_before_and_after_the_switch():
    """Pins: a rename that splits a history in two, or a new code shown before its day."""
    market = Market.over(date(2025, 10, 8), date(2025, 10, 9)).lists("838163.BJ", date(2020, 7, 27))
    market = market.lists("920163.BJ", date(2020, 7, 27), known=at(date(2025, 10, 9), 8))
    market = market.add("bse_mapping", known=at(date(2020, 7, 27)), o_code="838163.BJ", n_code="920163.BJ")
    old, new = market.sessions
    tables = market.trades("838163.BJ", [old]).trades("920163.BJ", [new], price=10.0).build()
    assert tables.panel.frame.select("session", "instrument", "code", "close").rows() == [
        (old, "838163.BJ", "838163.BJ", 10.0),
        (new, "838163.BJ", "920163.BJ", 10.0),
    ]


@pytest.mark.parametrize(("day", "code"), [(date(2025, 5, 5), "833819.BJ"), (date(2025, 5, 6), "920819.BJ")])
def test_pilot_codes_switched_earlier(day, code):
    """Pins: one switch date for all, five months late for the six pilots."""
    market = Market.over(day, day).lists("920819.BJ", date(2022, 1, 4)).trades("920819.BJ")
    market = market.add("bse_mapping", known=at(day), o_code="833819.BJ", n_code="920819.BJ")
    assert cell(market.build(), day, "833819.BJ")["code"] == code


def test_history_served_again_under_the_new_code_merges():
    """Pins: two rows, or a doubled bar, for a day that the vendor serves under both codes."""
    market = WEEK.lists("838163.BJ", date(2022, 1, 4)).trades("838163.BJ").trades("920163.BJ", [MON])
    market = market.add("bse_mapping", known=at(MON), o_code="838163.BJ", n_code="920163.BJ")
    tables = market.build()
    assert tables.panel.frame["instrument"].unique().to_list() == ["838163.BJ"]
    assert tables.patches.is_empty()


def test_bse_starts_with_its_exchange():
    """Pins: Select-layer sessions before 2021-11-15 let in by the vendor's older `list_date`."""
    market = Market.over(date(2021, 11, 11), date(2021, 11, 16)).lists("830799.BJ", date(2020, 7, 27))
    tables = market.trades("830799.BJ").build()
    assert tables.panel.frame.select("session", "listing_age").rows() == [
        (date(2021, 11, 15), 0),
        (date(2021, 11, 16), 1),
    ]
    assert faults(tables) == [(day, "830799.BJ", "daily", "not_listed") for day in market.sessions[:2]]


def test_a_row_before_its_board_opened_is_refused(monkeypatch):
    """Pins: a universe that lets Select-layer sessions in, and a panel that nobody holds against the dated rules."""
    monkeypatch.setattr(universe, "BSE_OPENING", date(1990, 1, 1))
    market = Market.over(date(2021, 11, 11), date(2021, 11, 16)).lists("830799.BJ", date(2020, 7, 27))
    with pytest.raises(LookAheadError, match="2 of 4 rows before its board opened"):
        market.trades("830799.BJ").build()


def test_a_row_before_its_listing_or_after_its_delisting_is_refused():
    """Pins: a referee that repeats what the universe decided; it is handed rows that the universe never made."""
    market = WEEK.lists("600000.SH", MON, delisted=FRI).trades("600000.SH")
    panel, raw = market.build().panel.frame, market.raw()
    require_listed(panel, raw)
    for moved, what in ((-30, "before its listing"), (30, "after its delisting")):
        with pytest.raises(LookAheadError, match=what):
            require_listed(panel.with_columns(pl.col("session") + pl.duration(days=moved)), raw)


def test_boards_outside_the_universe_are_rows_with_a_reason():
    """Pins: a silent filter by board."""
    market = WEEK.lists("688001.SH").trades("688001.SH").lists(CODE).trades(CODE)
    tables = market.build(universe=UniverseSpec(boards=("main",), seasoning_sessions=0))
    assert (cell(tables, MON, "688001.SH")["exclusion"], cell(tables, MON, CODE)["exclusion"]) == (
        "board",
        None,
    )


def test_unknown_prefixes_stay_out_and_are_named():
    """Pins: a B share or a fund that enters as some board by default."""
    tables = WEEK.lists("900901.SH").trades("900901.SH", [MON]).lists(CODE).build()
    assert tables.panel.frame["instrument"].unique().to_list() == [CODE]
    assert faults(tables) == [(MON, "900901.SH", "daily", "unknown_code")]


def named(
    market: Market, name: str, start: date, end: date | None = None, announced: date | None = None
) -> Market:
    return market.add(
        "namechange",
        known=at(announced or start, 20),
        ts_code=CODE,
        name=name,
        start_date=start,
        end_date=end,
    )


def st_days(market: Market) -> list[bool]:
    tables = market.trades(CODE).build()
    return [bool(cell(tables, day, CODE)["is_st"]) for day in market.sessions]


@pytest.mark.parametrize("name", ["ST某某", "*ST某某", "SST某某", "S*ST某", "＊ＳＴ某某", " * ST 某某"])
def test_st_names_of_every_spelling(name):
    """Pins: full-width letters, spaces and share-reform prefixes that hide ST."""
    assert st_days(named(WEEK.lists(CODE), name, date(2023, 6, 1))) == [True] * 5


def test_st_by_name_begins_and_ends_with_its_interval():
    """Pins: today's name applied to the past, and an inclusive end read as exclusive."""
    market = named(named(WEEK.lists(CODE), "某某", date(2000, 1, 4), MON), "ST某某", TUE, WED)
    assert st_days(named(market, "某某", THU)) == [False, True, True, False, False]


def test_an_st_name_is_known_from_its_announcement():
    """Pins: a name that starts on Tuesday but was announced on Thursday, read on Tuesday."""
    market = named(named(WEEK.lists(CODE), "某某", date(2000, 1, 4)), "ST某某", TUE, announced=THU)
    assert st_days(market) == [False, False, False, True, True]


def test_stock_st_decides_where_it_has_the_session_and_the_name_audits():
    """Pins: the audit that silently wins, and the disagreement nobody sees."""
    market = named(WEEK.lists(CODE), "ST某某", date(2023, 6, 1))
    market = market.add("stock_st", known=at(TUE), ts_code="600000.SH", trade_date=TUE)
    market = market.add("stock_st", known=at(WED), ts_code=CODE, trade_date=WED)
    assert st_days(market) == [True, False, True, True, True]
    assert faults(market.trades(CODE).build()) == [(TUE, CODE, "stock_st", "st_against_name")]


def test_an_st_row_learned_after_the_decision_does_not_count():
    """Pins: a late `stock_st` row that reaches back."""
    market = WEEK.lists(CODE).add("stock_st", known=at(MON, 21), ts_code=CODE, trade_date=MON)
    assert st_days(market) == [False] * 5


def test_st_may_be_admitted_by_the_universe():
    """Pins: the exclusion hard-wired."""
    market = named(WEEK.lists(CODE), "ST某某", date(2023, 6, 1)).trades(CODE)
    assert cell(market.build(), MON, CODE)["exclusion"] == "st"
    row = cell(market.build(universe=UNIVERSE.model_copy(update={"exclude_st": False})), MON, CODE)
    assert (row["is_st"], row["eligible"]) == (True, True)


def test_every_reason_is_a_row_and_the_first_by_priority_shows():
    """Pins: one exclusion hiding another."""
    market = named(WEEK.lists(CODE, MON), "*ST退某", MON)
    tables = market.build(universe=UniverseSpec(boards=("star",), seasoning_sessions=9))
    assert cell(tables, MON, CODE)["exclusion"] == "board"
    assert reasons(tables, MON, CODE) == ["board", "delisting", "no_bar", "no_factor", "seasoning", "st"]


def member(market: Market, name: str, start: date, end: date | None = None, code: str = CODE) -> Market:
    known = at(max(start, date(2021, 7, 30)), 20)
    return market.add(
        "index_member_all", known=known, ts_code=code, l1_name=name, in_date=start, out_date=end
    )


def test_industry_by_date_and_its_buckets():
    """Pins: today's industry in the past, and unmapped names dropped or guessed."""
    market = WEEK.lists(CODE).lists("600000.SH").lists("920002.BJ", date(2023, 1, 3))
    market = member(member(market, "银行", date(2010, 1, 4), WED), "电子", WED)
    tables = market.build()
    assert [cell(tables, day, CODE)["industry"] for day in WEEK.sessions] == ["银行"] * 2 + ["电子"] * 3
    assert cell(tables, MON, "600000.SH")["industry"] == "unmapped"
    assert cell(tables, MON, "920002.BJ")["industry"] == "BSE unmapped"


def test_a_membership_ends_on_its_out_date():
    """Pins: an industry held for one day too long when no other follows."""
    market = member(WEEK.lists(CODE), "银行", date(2010, 1, 4), WED)
    industries = [cell(market.build(), day, CODE)["industry"] for day in WEEK.sessions]
    assert industries == ["银行"] * 2 + ["unmapped"] * 3


@pytest.mark.parametrize(
    ("day", "industry"), [(date(2021, 7, 29), "unmapped (before SW2021)"), (date(2021, 7, 30), "银行")]
)
def test_memberships_mapped_back_are_a_bucket_of_their_own(day, industry):
    """Pins: a classification read before it was published."""
    market = member(Market.over(day, day).lists(CODE), "银行", date(2010, 1, 4))
    assert cell(market.build(), day, CODE)["industry"] == industry


def test_summary_counts_first_reasons():
    """Pins: a plot whose parts do not add up to the listed names."""
    market = (
        WEEK.lists(CODE).trades(CODE).lists("600000.SH").lists("688001.SH", WED).trades("688001.SH", [WED])
    )
    counts = summary(market.build().panel)
    assert counts.select("listed", "eligible", "no_bar").rows() == [
        (2, 1, 1),
        (2, 1, 1),
        (3, 2, 1),
        (3, 1, 2),
        (3, 1, 2),
    ]
    parts = counts.select(pl.sum_horizontal(pl.exclude("session", "listed")))
    assert parts.to_series().to_list() == counts["listed"].to_list()


def test_the_panel_is_in_key_order_and_one_row_per_key():
    """Pins: unsorted or doubled keys that would change hashes."""
    market = (
        WEEK.lists("600000.SH").lists(CODE).trades(CODE).trades(CODE, [MON], known=at(MON + timedelta(0), 18))
    )
    frame = market.build().panel.frame
    assert frame.select("session", "instrument").equals(
        frame.select("session", "instrument").unique().sort(pl.all())
    )
