"""The Tushare client against a fake that speaks its protocol: failures must be told apart and said."""

from __future__ import annotations

import logging
import traceback
from datetime import date, timedelta

import httpx
import polars as pl
import pytest

from pipeline.errors import (
    BadInput,
    KeyViolation,
    PermissionMissing,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    SchemaError,
    TokenRejected,
    VendorError,
    VendorUnavailable,
)
from pipeline.tables.tushare import TABLES
from resources.retrying import ATTEMPTS
from resources.tushare import TushareClient, TushareSource
from tests.fakes import TOKEN, FakeTime, FakeTushare, error

DAYS = [date(2024, 1, 2), date(2024, 1, 3), date(2024, 1, 4)]
FACTOR = TABLES["adj_factor"]
MINUTE_LIMIT = "抱歉，您每分钟最多访问该接口{}次，权限的具体详情访问：https://tushare.pro/document/1?doc_id=108。"


def factors(days: list[date] = DAYS, codes: int = 3) -> pl.DataFrame:
    """Newest first, as the vendor sends them."""
    rows = [(f"{i:06d}.SZ", f"{day:%Y%m%d}", 1.0 + i) for day in reversed(days) for i in range(codes)]
    return pl.DataFrame(rows, schema=["ts_code", "trade_date", "adj_factor"], orient="row")


class Setup:
    """A fake vendor, a fake time, and the source under test."""

    def __init__(self, tables: dict[str, pl.DataFrame] | None = None, token: str = TOKEN, **kwargs) -> None:
        fake = {k: kwargs.pop(k) for k in ("cap", "pages") if k in kwargs}
        self.vendor = FakeTushare(tables if tables is not None else {"adj_factor": factors()}, **fake)
        self.time = FakeTime()
        self.client = TushareClient(
            token, transport=self.vendor, clock=self.time, sleep=self.time.sleep, **kwargs
        )
        self.source = TushareSource(self.client)


def test_a_day_is_one_call_with_every_column_named():
    """Without names the vendor leaves out its non-default columns, such as delist_date."""
    setup = Setup()
    fetched = setup.source.fetch(FACTOR, DAYS)
    assert [r["params"] for r in setup.vendor.requests] == [{"trade_date": f"{d:%Y%m%d}"} for d in DAYS]
    assert {r["fields"] for r in setup.vendor.requests} == {",".join(FACTOR.names)}
    assert fetched.rows["trade_date"].to_list() == [d for d in DAYS for _ in range(3)]
    assert fetched.complete == tuple(DAYS)
    assert fetched.notes == ()
    assert fetched.request.startswith("tushare adj_factor 2024-01-02..2024-01-04 3 calls #")


@pytest.mark.parametrize(("base_url", "path"), [
    ("http://api.tushare.pro", "/"), ("https://api.tushare.pro/", "/"),
    ("http://api.waditu.com/dataapi", "/dataapi/adj_factor"),
])
def test_both_documented_addresses_work(base_url: str, path: str):
    """The documentation and the vendor's own package post to different paths."""
    setup = Setup(base_url=base_url)
    setup.source.fetch(FACTOR, DAYS[:1])
    assert setup.vendor.paths == [path]


PERMANENT = [
    ("您的token不对，请确认。", 2002, TokenRejected),
    ("抱歉，您没有接口访问权限，权限的具体详情访问：https://tushare.pro", 40203, PermissionMissing),
    ("抱歉，您没有访问该接口的权限", -2001, PermissionMissing),
    ("抱歉，您每小时最多访问该接口10次", 40203, QuotaExhausted),
    ("抱歉，您每天最多访问该接口8000次", 40203, QuotaExhausted),
    ("请指定正确的接口名", 40101, RequestRejected),
    ("必填参数", 2002, RequestRejected),
    ("unheard of", 2002, PermissionMissing),
    ("unheard of", 40101, TokenRejected),
]


@pytest.mark.parametrize(("message", "code", "kind"), PERMANENT)
def test_the_message_decides_and_permanent_errors_are_final(message: str, code: int, kind: type[VendorError]):
    """Codes differ between accounts of the vendor; retrying a wrong token can get an address barred."""
    setup = Setup()
    setup.vendor.next = [error(message, code)]
    with pytest.raises(kind, match="adj_factor"):
        setup.source.fetch(FACTOR, DAYS)
    assert len(setup.vendor.requests) == 1
    assert setup.time.slept == []


def test_a_wrong_token_is_rejected_by_the_protocol_itself():
    """The fake refuses tokens as the vendor does; a client that sends none would pass everything else."""
    with pytest.raises(TokenRejected):
        Setup(token="wrong").source.fetch(FACTOR, DAYS)


def test_a_missing_permission_stops_only_its_table():
    """One table without permission must not take the others with it."""
    setup = Setup()
    setup.vendor.before = lambda fake: fake.next.extend(
        [error("抱歉，您没有接口访问权限", 2002)] if fake.requests[-1]["api_name"] == "moneyflow" else []
    )
    with pytest.raises(PermissionMissing, match=r"moneyflow.*without this table"):
        setup.source.fetch(TABLES["moneyflow"], DAYS)
    assert setup.source.fetch(FACTOR, DAYS).complete == tuple(DAYS)


TRANSIENT = [
    httpx.Response(502, html="<html>Bad Gateway</html>"),
    httpx.Response(200, html="<html>maintenance</html>"),
    httpx.Response(200, content=b'{"code": 0, "msg": "", "data": {"fields": ["ts_code"], "items": [["0000'),
    httpx.Response(200, json={"code": 0, "msg": "", "data": None}),
    httpx.ReadTimeout("slow"), httpx.ConnectError("refused"),
    error("抱歉，系统内部错误", 50101),
]


@pytest.mark.parametrize("answer", TRANSIENT, ids=lambda a: type(a).__name__)
def test_transient_failures_are_tried_again_with_growing_pauses(answer: httpx.Response | Exception):
    """A gateway's HTML, a cut body or a time-out mistaken for an empty day would be a hole in the lake."""
    setup = Setup()
    setup.vendor.next = [answer, answer]
    assert setup.source.fetch(FACTOR, DAYS).complete == tuple(DAYS)
    first, second = setup.time.slept
    assert 1 <= first <= 2
    assert 2 <= second <= 3


@pytest.mark.parametrize("answer", TRANSIENT, ids=lambda a: type(a).__name__)
def test_retries_end_with_the_vendors_answer(answer: httpx.Response | Exception):
    """Endless retries hang the daily job; a bare RetryError hides what the vendor said."""
    setup = Setup()
    setup.vendor.next = [answer] * ATTEMPTS
    with pytest.raises(VendorUnavailable, match="adj_factor"):
        setup.source.fetch(FACTOR, DAYS)
    assert len(setup.vendor.requests) == ATTEMPTS


@pytest.mark.parametrize(("header", "pause"), [("7", 7.0), ("Wed, 31 Jan 2024 13:00:30 GMT", 30.0)])
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(header: str, pause: float, status: int):
    """A gateway that names a pause and is not obeyed extends the ban."""
    setup = Setup()
    setup.vendor.next = [httpx.Response(status, headers={"Retry-After": header})]
    setup.source.fetch(FACTOR, DAYS[:1])
    assert setup.time.slept == [pause]


def test_a_client_error_of_http_is_not_retried():
    """A wrong base_url answers 404 for ever."""
    setup = Setup()
    setup.vendor.next = [httpx.Response(404)]
    with pytest.raises(RequestRejected, match=r"404.*base_url"):
        setup.source.fetch(FACTOR, DAYS)


def test_the_minute_limit_is_waited_for_and_learned():
    """The limit's message also speaks of permission; taken for that, the table would be given up."""
    setup = Setup(calls_per_minute=500)
    setup.vendor.next = [error(MINUTE_LIMIT.format(2))]
    fetched = setup.source.fetch(FACTOR, DAYS)
    assert fetched.complete == tuple(DAYS)
    # The refused call's window passes, then two calls a minute.
    assert setup.time.slept == [60.0, 60.0]


def test_an_endless_minute_limit_ends():
    """Another process on the same token may keep the window full."""
    setup = Setup()
    setup.vendor.next = [error(MINUTE_LIMIT.format(200))] * ATTEMPTS
    with pytest.raises(RateLimited):
        setup.source.fetch(FACTOR, DAYS[:1])


def test_no_window_of_a_minute_holds_more_calls_than_allowed():
    """A limiter that counts by calendar minute lets twice the quota through around the full minute."""
    days = [date(2024, 1, 1) + timedelta(i) for i in range(30)]
    setup = Setup({"adj_factor": factors(days)}, calls_per_minute=4)
    at: list[float] = []
    setup.vendor.before = lambda fake: (at.append(setup.time.now().timestamp()), setup.time.sleep(1.7))
    setup.source.fetch(FACTOR, days)
    assert len(at) == 30
    assert all(later - earlier >= 60 for earlier, later in zip(at, at[4:], strict=False))


def test_limits_are_counted_for_each_interface():
    """The quota is per interface: one counter for all would make a day take fourteen times as long."""
    setup = Setup({"adj_factor": factors(), "stock_st": factors().drop("adj_factor").with_columns(
        name=pl.lit("ST"), type=pl.lit("ST"), type_name=pl.lit("x"))}, calls_per_minute=3)
    setup.source.fetch(FACTOR, DAYS)
    setup.source.fetch(TABLES["stock_st"], DAYS)
    assert setup.time.slept == []


def test_pages_at_the_cap_are_followed():
    """A day cut at the row cap loses names without any error."""
    setup = Setup({"adj_factor": factors(DAYS[:1], 25)}, cap=10)
    fetched = setup.source.fetch(FACTOR, DAYS[:1])
    assert fetched.rows.height == 25
    assert fetched.complete == (DAYS[0],)
    assert [r["params"].get("offset") for r in setup.vendor.requests] == [None, "10", "20"]


def test_a_full_page_without_a_flag_is_followed():
    """`has_more` is not documented: a page as long as the cap must be doubted without it."""
    rows = factors(DAYS[:1], FACTOR.row_cap + 5)
    setup = Setup({"adj_factor": rows}, cap=FACTOR.row_cap)
    honest = setup.vendor.handle_request

    def without_flag(request: httpx.Request) -> httpx.Response:
        answer = honest(request).json()
        del answer["data"]["has_more"]
        return httpx.Response(200, json=answer)

    setup.vendor.handle_request = without_flag
    assert setup.source.fetch(FACTOR, DAYS[:1]).rows.height == FACTOR.row_cap + 5


def test_a_vendor_that_ignores_offset_leaves_the_day_incomplete():
    """`daily` is said not to page: repeating the first page must end, and not count as the whole day."""
    setup = Setup({"adj_factor": factors(DAYS, 25)}, cap=10, pages=False)
    fetched = setup.source.fetch(FACTOR, DAYS)
    assert fetched.complete == ()
    assert "cut at 6000 rows" in " ".join(fetched.notes)


def test_rows_repeated_across_pages_are_dropped():
    """Offset paging has no snapshot: the same row on two pages would be a doubled key."""
    rows = factors(DAYS[:1], 12)
    setup = Setup({"adj_factor": pl.concat([rows.slice(0, 10), rows.slice(9, 3)])}, cap=10)
    fetched = setup.source.fetch(FACTOR, DAYS[:1])
    assert fetched.rows.height == 12
    assert "1 repeated rows dropped" in fetched.notes[0]


def test_pages_that_disagree_are_read_again():
    """A revision between two pages gives two values for one key; the second reading has the new one only."""
    setup = Setup({"adj_factor": factors(DAYS[:1], 15)}, cap=10)
    honest = setup.vendor.handle_request

    def disagree(request: httpx.Request) -> httpx.Response:
        answer = honest(request).json()
        if len(setup.vendor.requests) == 2:
            answer["data"]["items"].append(["000000.SZ", "20240102", 99.0])
        return httpx.Response(200, json=answer)

    setup.vendor.handle_request = disagree
    fetched = setup.source.fetch(FACTOR, DAYS[:1])
    assert fetched.rows.height == 15
    assert "read again" in fetched.notes[0]


def test_pages_that_go_on_disagreeing_are_refused():
    """Two values for one key, and nothing says which is right."""
    doubled = pl.concat([factors(DAYS[:1]), factors(DAYS[:1]).with_columns(adj_factor=pl.lit(9.0))])
    with pytest.raises(KeyViolation, match="adj_factor"):
        Setup({"adj_factor": doubled}).source.fetch(FACTOR, DAYS[:1])


def test_an_empty_open_session_is_not_complete():
    """An answer before the vendor's update is empty: counted as complete, the day would stay empty."""
    setup = Setup({"adj_factor": factors([DAYS[0], DAYS[2]])})
    fetched = setup.source.fetch(FACTOR, DAYS)
    assert fetched.complete == (DAYS[0], DAYS[2])
    assert fetched.notes == ("adj_factor: no rows on the open 1 session (2024-01-03)",)


def test_a_day_without_suspensions_is_complete():
    """Where no rows is an answer, doubting it would ask for the day again every day."""
    empty = pl.DataFrame(schema=dict.fromkeys(TABLES["suspend_d"].names, pl.String))
    fetched = Setup({"suspend_d": empty}).source.fetch(TABLES["suspend_d"], DAYS)
    assert fetched.complete == tuple(DAYS)


def test_rows_of_another_day_are_refused():
    """A vendor that ignores trade_date answers with its newest rows, every day the same."""
    setup = Setup()
    honest = setup.vendor._page
    setup.vendor._page = lambda rows, params, fields: honest(rows, {}, fields)
    with pytest.raises(BadInput, match="only the session asked for"):
        setup.source.fetch(FACTOR, DAYS[:1])


def test_rows_of_the_future_are_refused():
    """A session after the clock's day: either the clock or the vendor is wrong."""
    late = [date(2024, 2, 1)]
    with pytest.raises(BadInput, match="after today"):
        Setup({"adj_factor": factors(late)}).source.fetch(FACTOR, late)


def test_changed_columns_are_named():
    """A column that the vendor dropped or renamed must stop the table, with its name."""
    with pytest.raises(SchemaError, match="adj_factor"):
        Setup({"adj_factor": factors().drop("adj_factor")}).source.fetch(FACTOR, DAYS)
    setup = Setup()
    data = {"fields": ["ts_code", "new"], "items": []}
    setup.vendor.next = [httpx.Response(200, json={"code": 0, "data": data})]
    with pytest.raises(SchemaError, match=r"unknown \['new'\]"):
        setup.source.fetch(FACTOR, DAYS)


def test_a_snapshot_is_the_union_of_its_requests():
    """The default stock_basic holds survivors only; delisted names come with D alone."""
    spec = TABLES["stock_basic"]
    rows = pl.DataFrame({
        **{n: ["x"] * 3 for n in spec.names}, "ts_code": ["A", "B", "C"], "list_status": ["L", "D", "L"],
        "list_date": ["20200102"] * 3, "delist_date": [None, "20230105", None],
    })
    setup = Setup({"stock_basic": rows})
    fetched = setup.source.fetch(spec, DAYS)
    assert fetched.rows.select("ts_code", "list_status").rows() == [("A", "L"), ("B", "D"), ("C", "L")]
    assert [r["params"]["list_status"] for r in setup.vendor.requests] == ["L", "D", "P"]
    assert fetched.complete == tuple(DAYS)
    setup.vendor.tables["stock_basic"] = rows.filter(pl.col("list_status") == "D")
    with pytest.raises(VendorUnavailable, match="whole"):
        setup.source.fetch(spec, DAYS)


def minutes(codes: list[str], days: list[date], auction: bool) -> pl.DataFrame:
    bars = [9 * 60 + 35 + 5 * i for i in range(48)]
    ends = ["09:30:00"] * auction + [f"{end // 60:02d}:{end % 60:02d}:00" for end in bars]
    stamps = [f"{day} {end}" for day in days[::-1] for end in ends[::-1]]
    rows = [(code, stamp, 10.0, 10.0, 10.1, 9.9, 100, 1000) for code in codes for stamp in stamps]
    names = ["ts_code", "trade_time", "close", "open", "high", "low", "vol", "amount"]
    return pl.DataFrame(rows, schema=names, orient="row")


@pytest.mark.parametrize("auction", [False, True])
def test_minutes_are_asked_for_by_code_in_ranges_under_the_cap(auction: bool):
    """Whether five-minute days have 48 or 49 bars is not documented: neither may lose one to the cap."""
    days = [date(2023, 1, 1) + timedelta(i) for i in range(200)]
    spec = TABLES["stk_mins"]
    bars = minutes(["A", "B"], days, auction).with_columns(freq=pl.lit("5min"))
    setup = Setup({"stk_mins": bars}, cap=spec.row_cap)
    fetched = setup.source.fetch(spec, days, ["A", "B"])
    assert fetched.rows.height == 2 * 200 * (48 + auction)
    assert fetched.complete == tuple(days)
    assert len(setup.vendor.requests) == 4
    first = setup.vendor.requests[0]["params"]
    assert first == {"freq": "5min", "ts_code": "A", "start_date": "2023-01-01 00:00:00",
                     "end_date": "2023-06-12 23:59:59"}
    with pytest.raises(BadInput, match="no codes"):
        setup.source.fetch(spec, days)


def test_an_index_without_rows_on_a_session_is_not_complete():
    """Two indices, one late: the session is whole for neither reader."""
    spec = TABLES["index_daily"]
    rows = pl.DataFrame([
        {**dict.fromkeys(spec.names, 1.0), "ts_code": c, "trade_date": f"{d:%Y%m%d}"}
        for c in ("000300.SH", "000905.SH") for d in DAYS if not (c == "000905.SH" and d == DAYS[2])
    ])
    fetched = Setup({"index_daily": rows}).source.fetch(spec, [DAYS[0], DAYS[2]], ["000300.SH", "000905.SH"])
    assert fetched.complete == (DAYS[0],)
    assert fetched.rows["trade_date"].unique().to_list() == [DAYS[0], DAYS[2]]
    assert "not every code" in fetched.notes[0]


@pytest.mark.parametrize("answer", [
    httpx.ReadTimeout("slow"), httpx.Response(502, html=f"<p>{TOKEN}</p>"),
    error(f"您的token不对: {TOKEN}", 40101),
    httpx.Response(200, content=f'{{"token": "{TOKEN}"'.encode()), error(f"权限 {TOKEN} 没有权限", 2002),
], ids=range(5))
def test_the_token_is_in_no_error_repr_or_log(
    answer: httpx.Response | Exception, caplog: pytest.LogCaptureFixture
):
    """Errors go to Dagster's event log, and from there to whoever reads the UI."""
    setup = Setup()
    setup.vendor.next = [answer] * ATTEMPTS
    with caplog.at_level(logging.DEBUG), pytest.raises(VendorError) as caught:
        setup.source.fetch(FACTOR, DAYS)
    link: BaseException | None = caught.value
    while link is not None:
        assert TOKEN not in "".join(traceback.format_exception(link)) + repr(vars(link))
        assert not hasattr(link, "request"), "an httpx error carries the request's body"
        link = link.__cause__ or link.__context__
    assert TOKEN not in caplog.text + repr(setup.client) + repr(setup.source)


def test_a_body_that_does_not_unpack_is_tried_again() -> None:
    """httpx raises a damaged gzip as its own error, outside of its transport errors: it carried the token out."""
    setup = FakeTime()
    vendor = FakeTushare({"daily": pl.DataFrame({name: [] for name in TABLES["daily"].names})})
    vendor.next = [httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"no gzip"))]
    client = TushareClient(TOKEN, transport=vendor, clock=setup, sleep=setup.sleep)
    assert client.call(TABLES["daily"], {"trade_date": "20240102"}).items == []
    assert len(vendor.requests) == 2
