"""The world as vendor tables: shape, versions, codes, and what was served when."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import polars as pl
import pytest

from pipeline.clock import instant
from pipeline.errors import BadInput
from pipeline.simulation.market import SimulatedMarket, simulate
from pipeline.simulation.profiles import PROFILES, Faults
from pipeline.tables.tushare import TABLES

END = datetime(2027, 1, 15, tzinfo=UTC)
FAULTY = ("daily", "adj_factor", "daily_basic", "moneyflow")


def test_tables_have_the_declared_columns_and_pass_their_own_checks(demo: SimulatedMarket) -> None:
    """Pins a table that the pipeline's specs would refuse: types, order, null or doubled keys, days off calendar."""
    for name in demo.tables:
        spec, rows = TABLES[name], demo.table_at(name, END)
        assert dict(rows.drop("published_at").schema) == dict(spec.schema), name
        spec.check(rows.drop("published_at"), today=date(2026, 12, 31), calendar=demo.calendar)


def test_nothing_is_published_before_it_happened_or_after_the_rule(demo: SimulatedMarket) -> None:
    """Pins a row served before its session's event, and an ordinary row later than the publication rule says."""
    for name in demo.tables:
        spec = TABLES[name]
        if spec.layout != "session":
            continue
        rows = spec.known_at(demo.tables[name])
        day = (
            pl.col("trade_date")
            .cast(pl.Datetime("us"))
            .dt.replace_time_zone("Asia/Shanghai")
            .dt.convert_time_zone("UTC")
        )
        assert rows.filter(pl.col("published_at") < day).is_empty(), name
        on_time = rows.filter(pl.col("published_at") <= pl.col("known_at")).height
        assert on_time >= rows.height * (0.99 if name in FAULTY else 1.0), name


def test_table_at_equals_the_newest_version_by_brute_force(tiny: SimulatedMarket) -> None:
    """Pins the vendor's view against a loop over every version of every row."""
    for name in FAULTY:
        for day in tiny.sessions[-12::3]:
            now = instant(day, time(20, 30))
            newest: dict[tuple[object, object], tuple[object, ...]] = {}
            for row in tiny.tables[name].sort("published_at").iter_rows(named=True):
                if row["published_at"] <= now:
                    newest[row["trade_date"], row["ts_code"]] = tuple(row.values())
            assert tiny.table_at(name, now).rows() == [newest[key] for key in sorted(newest)]  # type: ignore[type-var]


def test_late_rows_and_revisions_are_met_by_advancing(demo: SimulatedMarket) -> None:
    """Pins a demo whose last sessions hold no fault, and faults that lie outside the stretch."""
    faults = demo.faults
    laggard = (pl.col("table") == "adj_factor") & pl.col("session").is_between(date(2025, 10, 9), date(2026, 2, 1))
    assert faults.filter(~laggard)["session"].min() >= demo.sessions[-30]
    for name in FAULTY:
        mine = faults.filter(pl.col("table") == name)
        assert mine["late"].sum() + mine["revised"].sum() > 0, name
    name, session = faults.filter(~laggard & (pl.col("late") > 0)).select("table", "session").row(0)
    following = demo.calendar.shift(session, 1)
    before = demo.table_at(name, instant(session, time(20, 30)), session, session)
    after = demo.table_at(name, instant(following, time(10)), session, session)
    assert before.height < after.height


def test_a_revision_changes_values_and_keeps_the_row(demo: SimulatedMarket) -> None:
    """Pins a correction that is a new row, or that changes nothing."""
    table, session = demo.faults.filter(pl.col("revised") > 0).select("table", "session").row(0)
    versions = demo.tables[table].filter(pl.col("trade_date") == session)
    code = versions.filter(pl.col("ts_code").is_duplicated())["ts_code"][0]
    first, second = versions.filter(pl.col("ts_code") == code).rows(named=True)
    assert first["published_at"] < second["published_at"]
    assert {k: v for k, v in first.items() if k != "published_at"} != {
        k: v for k, v in second.items() if k != "published_at"
    }


def test_no_faults_means_one_version_on_time(tiny: SimulatedMarket) -> None:
    """Pins faults that a clean profile still carries, and rows that faults changed for good."""
    clean = simulate(PROFILES["tiny"].model_copy(update={"faults": Faults(late_rate=0, revision_rate=0)}))
    for name in FAULTY:
        assert not clean.tables[name].select("trade_date", "ts_code").is_duplicated().any()
        final, wanted = (m.table_at(name, END).drop("published_at") for m in (tiny, clean))
        assert final.equals(wanted)


def test_missing_sessions_arrive_the_next_evening() -> None:
    """Pins the fault 'missing days': the whole table of a session is absent at its decision time."""
    profile = PROFILES["tiny"].model_copy(update={"faults": Faults(missing_sessions=2, late_rate=0, revision_rate=0)})
    market = simulate(profile)
    empty = [
        day
        for day in market.sessions[-30:]
        if market.table_at("moneyflow", instant(day, time(20, 30)), day, day).is_empty()
    ]
    assert len(empty) == 2
    for day in empty:
        evening = instant(market.calendar.shift(day, 1), time(20, 30))
        assert market.table_at("moneyflow", evening, day, day).height > 20


def test_beijing_codes_switch_on_their_days(demo: SimulatedMarket) -> None:
    """Pins old codes served after the switch, new ones before it, and a history that the switch cuts in two."""
    pairs = demo.tables["bse_mapping"].select("o_code", "n_code").rows()
    pilot = ("833819.BJ", "920819.BJ")
    assert pilot in pairs
    for switch, some in ((date(2025, 5, 6), [pilot]), (date(2025, 10, 9), [p for p in pairs if p != pilot][:3])):
        before = demo.table_at("daily", instant(demo.calendar.shift(switch, -1), time(20, 30)))
        after = demo.table_at("daily", instant(switch, time(20, 30)))
        for old, new in some:
            assert old in before["ts_code"]
            assert new not in before["ts_code"]
            assert new in after["ts_code"]
            assert old not in after["ts_code"]
            history = after.filter(pl.col("ts_code") == new)["trade_date"]
            assert history.min() < switch
            assert history.max() == switch
    stored = demo.tables["daily"]
    assert stored.filter((pl.col("ts_code") == pilot[0]) & (pl.col("trade_date") >= date(2025, 5, 6))).is_empty()


def test_one_beijing_name_has_late_factors_under_its_old_code(demo: SimulatedMarket) -> None:
    """Pins the laggard of the code switch: factors stay away for 60 sessions, then come back complete."""
    switch = date(2025, 10, 9)
    soon, later = demo.calendar.shift(switch, 30), demo.calendar.shift(switch, 60)
    at_soon = demo.table_at("adj_factor", instant(soon, time(20, 30)))
    old = dict(demo.tables["bse_mapping"].select("o_code", "n_code").iter_rows())
    lagging = at_soon.filter(pl.col("ts_code").is_in(list(old)))["ts_code"].unique().to_list()
    assert len(lagging) == 1
    assert at_soon.filter(pl.col("ts_code") == lagging[0])["trade_date"].max() < switch
    caught_up = demo.table_at("adj_factor", instant(later, time(20, 30))).filter(pl.col("ts_code") == old[lagging[0]])
    assert caught_up["trade_date"].max() == later
    assert caught_up.height == demo.calendar.ordinal(later) - demo.calendar.ordinal(demo.sessions[0]) + 1


def test_names_agree_with_the_daily_st_list_and_are_announced_ahead(demo: SimulatedMarket) -> None:
    """Pins ST intervals that disagree with `stock_st`, intervals never closed, and announcements after the fact."""
    names = demo.table_at("namechange", END)
    special = names.filter(pl.col("name").str.contains(r"^\*?ST"))
    assert (special["ann_date"] < special["start_date"]).all()
    listed = demo.table_at("stk_limit", END).select("ts_code", "trade_date")
    valid = (pl.col("trade_date") >= pl.col("start_date")) & (
        pl.col("end_date").is_null() | (pl.col("trade_date") <= pl.col("end_date"))
    )
    expected = listed.join(special.select("ts_code", "start_date", "end_date"), on="ts_code").filter(valid)
    daily = demo.table_at("stock_st", END)
    key = ["trade_date", "ts_code"]
    assert expected.select(key).sort(key).equals(daily.select(key).sort(key))
    assert names.group_by("ts_code").agg(pl.col("end_date").is_null().sum())["end_date"].max() == 1


def test_snapshots_tell_only_what_was_true_then(demo: SimulatedMarket) -> None:
    """Pins a list of securities that knows future listings, delistings or names."""
    now = instant(demo.sessions[100], time(12))
    basic, final = demo.table_at("stock_basic", now), demo.table_at("stock_basic", END)
    assert basic["list_date"].max() <= demo.sessions[100]
    assert basic.filter(pl.col("delist_date") > demo.sessions[100]).is_empty()
    assert basic.height < final.height
    names = demo.table_at("namechange", now)
    assert names["ann_date"].max() <= demo.sessions[100]
    assert demo.table_at("trade_cal", now)["cal_date"].max() == date(2025, 12, 31)
    assert demo.table_at("trade_cal", instant(date(2025, 12, 31), time(9)))["cal_date"].max() == date(2026, 12, 31)


def test_an_industry_change_closes_one_membership_and_opens_another(demo: SimulatedMarket) -> None:
    """Pins a membership that ends without a successor, or overlaps it."""
    members = demo.table_at("index_member_all", END)
    closed = members.filter(pl.col("is_new") == "N")
    assert closed.height >= 3
    pairs = closed.join(members.filter(pl.col("is_new") == "Y"), on="ts_code", suffix="_next")
    assert pairs.height == closed.height
    assert (pairs["out_date"] == pairs["in_date_next"]).all()
    assert (pairs["l1_name"] != pairs["l1_name_next"]).all()


def test_vendor_units_agree_with_each_other(demo: SimulatedMarket) -> None:
    """Pins a unit slip: shares against lots, 10,000 shares, thousands and ten thousands of CNY."""
    daily, basic, flow = (demo.table_at(name, END) for name in ("daily", "daily_basic", "moneyflow"))
    both = daily.join(basic, on=["trade_date", "ts_code"], suffix="_basic")
    turnover = pl.col("vol") * 100 / (pl.col("float_share") * 1e4) * 100
    assert both.filter((turnover - pl.col("turnover_rate")).abs() > 1e-3).is_empty()
    assert both.filter((pl.col("close") * pl.col("float_share") / pl.col("circ_mv") - 1).abs() > 1e-6).is_empty()
    change = (pl.col("close") / pl.col("pre_close") - 1) * 100
    assert both.filter((change - pl.col("pct_chg")).abs() > 1e-3).is_empty()
    assert flow.filter(pl.col("ts_code").str.ends_with(".BJ")).is_empty()
    traded = flow.join(daily, on=["trade_date", "ts_code"])
    bought = pl.sum_horizontal(pl.col(r"^buy_.*_vol$"))
    assert traded.filter((bought - pl.col("vol")).abs() > 0).is_empty()
    spent = pl.sum_horizontal(pl.col(r"^sell_.*_amount$")) * 10
    assert traded.filter((spent / pl.col("amount") - 1).abs() > 0.01).is_empty()


def test_days_without_limits_carry_the_sentinel(demo: SimulatedMarket) -> None:
    """Pins newcomers with an ordinary limit in their free sessions."""
    basic = demo.table_at("stock_basic", END)
    code, listed = (
        basic.filter((pl.col("list_date") > demo.sessions[0]) & (pl.col("market") != "北交所"))
        .select("ts_code", "list_date")
        .row(0)
    )
    limits = demo.tables["stk_limit"].filter(pl.col("ts_code") == code).sort("trade_date")
    assert limits["trade_date"][0] == listed
    assert (limits["up_limit"][:5] == 100_000.0).all()
    assert (limits["up_limit"][5:] < 10_000.0).all()


def test_unknown_tables_are_refused_with_the_known_ones(tiny: SimulatedMarket) -> None:
    """Pins an empty answer for a misspelt table."""
    with pytest.raises(BadInput, match="daily_basic"):
        tiny.table_at("dialy", END)


def test_rows_of_a_stretch_equal_the_whole_table(demo: SimulatedMarket) -> None:
    """Pins the seams between blocks of sessions: 64 sessions are built at once."""
    start, end = demo.sessions[60], demo.sessions[70]
    whole = demo.tables["daily_basic"].filter(pl.col("trade_date").is_between(start, end))
    assert demo.rows("daily_basic", start, end).equals(whole)
    assert demo.rows("daily", start - timedelta(days=4000), start - timedelta(days=3000)).is_empty()
