"""The simulated vendor's protocol, and that it never serves what was not yet published."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from typing import Any

import httpx
import polars as pl
import pytest

from pipeline.clock import FixedClock, instant
from pipeline.errors import BadInput, RequestRejected, TokenRejected
from pipeline.simulation.market import SimulatedMarket, simulate
from pipeline.simulation.profiles import PROFILES, Faults
from pipeline.tables.tushare import TABLES
from resources.simulated import SIMULATED_TOKEN, SimulatedVendor, simulated_market
from resources.tushare import TushareClient, TushareSource

END = date(2026, 9, 30)


@pytest.fixture(scope="module")
def market() -> SimulatedMarket:
    return simulated_market("tiny")


class Desk:
    """A client that speaks the raw protocol, and a clock that can be set."""

    def __init__(self, market: SimulatedMarket) -> None:
        self.clock = FixedClock(instant(END, time(20, 30)))
        self.http = httpx.Client(transport=SimulatedVendor(market, self.clock), base_url="http://vendor")

    def ask(self, api: str, fields: str = "", token: str = SIMULATED_TOKEN, path: str = "/", **params: str) -> Any:
        body = {"api_name": api, "token": token, "params": params, "fields": fields}
        answer = self.http.post(path, json=body)
        assert answer.status_code == 200
        return answer.json()

    def source(self) -> TushareSource:
        transport = SimulatedVendor(self.http._transport._market, self.clock)  # type: ignore[attr-defined]
        return TushareSource(TushareClient(SIMULATED_TOKEN, transport=transport, clock=self.clock))


@pytest.fixture
def desk(market: SimulatedMarket) -> Iterator[Desk]:
    return Desk(market)


def test_both_addresses_answer_the_same(desk: Desk) -> None:
    """Pins one of the two documented URLs."""
    root = desk.ask("daily", trade_date="20260930")
    assert root == desk.ask("daily", path="/dataapi/daily", trade_date="20260930")
    assert root["code"] == 0
    assert root["data"]["has_more"] is False


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"api": "daily", "token": "wrong"}, "您的token不对，请确认。"),
        ({"api": "dialy"}, "请指定正确的接口名"),
        ({"api": "daily_basic"}, "必填参数"),
        ({"api": "index_daily"}, "必填参数"),
        ({"api": "stk_mins", "ts_code": "600000.SH"}, "必填参数"),
        ({"api": "daily", "trade_date": "2026-09-30"}, "参数校验失败"),
        ({"api": "stk_mins", "ts_code": "600000.SH", "freq": "1min"}, "参数校验失败"),
        ({"api": "daily", "limit": "many"}, "参数校验失败"),
    ],
)
def test_errors_come_as_http_200_with_a_code_and_the_literal_text(
    desk: Desk, request_: dict[str, str], message: str
) -> None:
    """Pins errors that a client could take for data, or whose text the client's patterns do not know."""
    answer = desk.ask(**request_)  # type: ignore[arg-type]
    assert answer["code"] != 0
    assert answer["data"] is None
    assert message in answer["msg"]


def test_columns_come_in_the_servers_order_and_only_the_asked_ones(desk: Desk) -> None:
    """Pins a server that echoes the client's order, or sends non-default columns unasked."""
    data = desk.ask("daily", fields="close,ts_code", trade_date="20260930")["data"]
    assert data["fields"] == ["ts_code", "close"]
    basic = desk.ask("stock_basic")["data"]
    assert "list_status" not in basic["fields"]
    assert "delist_date" not in basic["fields"]
    assert desk.ask("stock_basic", fields="delist_date")["data"]["fields"] == ["delist_date"]


def test_values_are_the_markets_exactly(desk: Desk, market: SimulatedMarket) -> None:
    """Pins lossy number text, wrong date formats and nulls that became something else."""
    for name in ("daily_basic", "moneyflow"):
        wanted = market.table_at(name, desk.clock.at, END, END).drop("published_at")
        data = desk.ask(name, fields=",".join(wanted.columns), trade_date="20260930")["data"]
        got = pl.DataFrame(data["items"], schema=wanted.columns, orient="row", infer_schema_length=None)
        numbers = [c for c, t in wanted.schema.items() if t == pl.Float64]
        assert got.select(pl.col(numbers).cast(pl.Float64)).equals(wanted.select(numbers))
        assert set(got["trade_date"]) == {"20260930"}
    is_open = desk.ask("trade_cal", start_date="20261001", end_date="20261009")["data"]["items"]
    assert [row[2] for row in is_open] == [0] * 8 + [1]
    assert (
        desk.ask("trade_cal", is_open="0", start_date="20261001", end_date="20261009")["data"]["items"] == is_open[:8]
    )


def test_a_holiday_is_an_empty_answer_not_an_error(desk: Desk) -> None:
    """Pins an error for a day on which the market is closed."""
    answer = desk.ask("daily", trade_date="20261001")
    assert answer["code"] == 0
    assert answer["data"]["items"] == []


def test_filters_ranges_and_defaults(desk: Desk, market: SimulatedMarket) -> None:
    """Pins parameters that are ignored: comma lists, both ends of a range, statuses, announcement dates."""
    codes = market.table_at("daily", desk.clock.at, END, END)["ts_code"][:2].to_list()
    items = desk.ask("daily", ts_code=",".join(codes), start_date="20260928", end_date="20260930")["data"]["items"]
    assert [row[1] for row in items] == sorted([row[1] for row in items], reverse=True)
    assert {row[0] for row in items} == set(codes)
    assert {row[1] for row in items} == {"20260928", "20260929", "20260930"}
    status = {s: desk.ask("stock_basic", fields="ts_code,list_status", list_status=s)["data"]["items"] for s in "LDP"}
    assert {row[1] for row in status["L"]} == {"L"}
    assert {row[1] for row in status["D"]} == {"D"}
    assert status["P"] == []
    assert desk.ask("stock_basic", fields="ts_code,list_status")["data"]["items"] == status["L"]
    renamed = desk.ask("namechange", start_date="20260301", end_date="20260930")["data"]
    announced = [row[renamed["fields"].index("ann_date")] for row in renamed["items"]]
    assert announced
    assert all("20260301" <= day <= "20260930" for day in announced)


def test_pages_cover_everything_once(desk: Desk) -> None:
    """Pins a page that loses or repeats rows, and a `has_more` that ends too early."""
    whole = desk.ask("daily", trade_date="20260930")["data"]["items"]
    pages, offset = [], 0
    while True:
        data = desk.ask("daily", trade_date="20260930", limit="9", offset=str(offset))["data"]
        pages += data["items"]
        offset += 9
        if not data["has_more"]:
            break
    assert pages == whole


def test_minutes_stop_at_the_cap_newest_first(desk: Desk, market: SimulatedMarket) -> None:
    """Pins answers above the interface's cap, and minutes of an evening that has not come."""
    code = market.table_at("daily", desk.clock.at, END, END)["ts_code"][0]
    data = desk.ask("stk_mins", ts_code=code, freq="5min", start_date="2026-01-01 00:00:00")["data"]
    stamps = [row[1] for row in data["items"]]
    assert len(stamps) <= TABLES["stk_mins"].row_cap
    assert stamps[0] == "2026-09-30 15:00:00"
    assert stamps == sorted(stamps, reverse=True)
    desk.clock.at = instant(END, time(19, 30))
    earlier = desk.ask("stk_mins", ts_code=code, freq="5min", start_date="2026-09-29 14:00:00")["data"]["items"]
    assert earlier[0][1] == "2026-09-29 15:00:00"
    assert earlier[-1][1] == "2026-09-29 14:00:00"


def test_tables_appear_at_their_hours(desk: Desk) -> None:
    """Pins rows served before the vendor has them: the day fills up hour by hour."""
    seen = {}
    for hour in (8, 9, 16, 18, 19):
        desk.clock.at = instant(END, time(hour, 59))
        seen[hour] = [
            name
            for name in ("stk_limit", "stock_st", "adj_factor", "daily", "daily_basic", "moneyflow")
            if desk.ask(name, trade_date="20260930")["data"]["items"]
        ]
    assert seen[8] == ["stk_limit"]
    assert seen[9] == ["stk_limit", "stock_st", "adj_factor"]
    assert seen[16] == [*seen[9], "daily"]
    assert seen[18] == [*seen[16], "daily_basic", "moneyflow"] == seen[19]


def test_the_clock_alone_moves_late_rows_into_view(desk: Desk, market: SimulatedMarket) -> None:
    """Pins an answer cached across a moved clock: a late row must appear the next morning."""
    table, session = market.faults.filter(pl.col("late") > 0).select("table", "session").row(0)
    day = f"{session:%Y%m%d}"
    desk.clock.at = instant(session, time(20, 30))
    before = len(desk.ask(table, trade_date=day)["data"]["items"])
    desk.clock.at = instant(market.calendar.shift(session, 1), time(20, 30))
    assert len(desk.ask(table, trade_date=day)["data"]["items"]) > before


def test_a_page_may_repeat_the_last_row_of_the_one_before() -> None:
    """Pins the fault 'duplicates across pages': one row more than once, none lost."""
    profile = PROFILES["tiny"].model_copy(update={"signal": 0.0, "faults": Faults(duplicate_rows=True)})
    desk = Desk(simulate(profile))
    whole = desk.ask("daily", trade_date="20260930")["data"]["items"]
    first = desk.ask("daily", trade_date="20260930", limit="10")["data"]["items"]
    second = desk.ask("daily", trade_date="20260930", limit="10", offset="10")["data"]["items"]
    assert second[0] == first[-1]
    assert second[1:] == whole[10:19]


def test_the_real_client_reads_every_table_whole(desk: Desk, market: SimulatedMarket) -> None:
    """Pins any disagreement between the client's protocol and the vendor's, table by table, value by value."""
    source, sessions = desk.source(), market.sessions[-20:]
    codes = market.table_at("stock_basic", desk.clock.at)["ts_code"].to_list()
    for name, spec in TABLES.items():
        asked = {"index": ["000300.SH"], "instrument": codes}.get(spec.fetch_by, [])
        fetched = source.fetch(spec, sessions, asked)
        if name == "stk_mins":
            wanted = market.minutes(codes, sessions[0], sessions[-1])
        elif spec.layout == "session":
            wanted = market.table_at(name, desk.clock.at, sessions[0], sessions[-1])
        else:
            wanted = market.table_at(name, desk.clock.at)
        assert fetched.rows.equals(wanted.drop("published_at").sort(spec.key, nulls_last=True)), name
        assert not fetched.notes, (name, fetched.notes)


def test_the_client_names_the_vendors_refusals(market: SimulatedMarket) -> None:
    """Pins refusals that the client would retry or take for an empty table."""
    clock = FixedClock(datetime(2026, 9, 30, 12, tzinfo=UTC))
    stranger = TushareClient("someone else's", transport=SimulatedVendor(market, clock), clock=clock)
    with pytest.raises(TokenRejected):
        TushareSource(stranger).fetch(TABLES["bse_mapping"], [])
    known = TushareClient(SIMULATED_TOKEN, transport=SimulatedVendor(market, clock), clock=clock)
    with pytest.raises(RequestRejected):
        known.call(TABLES["daily_basic"], {})


def test_profiles_without_minutes_refuse_the_interface() -> None:
    """Pins a purchased interface that answers those who did not buy it."""
    desk = Desk(simulated_market("tiny", {"minutes": False, "signal": 0.0}))
    assert desk.ask("stk_mins", ts_code="600000.SH", freq="5min")["code"] == 2002


def test_unknown_profiles_are_refused() -> None:
    """Pins a misspelt profile."""
    with pytest.raises(BadInput, match="demo"):
        simulated_market("dmeo")


def test_answers_are_json_with_chinese_text_intact(desk: Desk) -> None:
    """Pins an encoding slip in hand-made JSON."""
    body = {"api_name": "stock_basic", "token": SIMULATED_TOKEN, "params": {}, "fields": "name,market"}
    raw = desk.http.post("/", json=body)
    assert raw.headers["content-type"].startswith("application/json")
    assert {row[1] for row in json.loads(raw.content)["data"]["items"]} == {"主板", "创业板", "科创板", "北交所"}
