"""Hand-written stand-ins for what lies outside: vendors and time. They speak the real protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import polars as pl

TOKEN = "0123456789abcdef0123456789abcdef0123456789abcdef01234567"
Answer = httpx.Response | Exception


@dataclass
class FakeTime:
    """A clock that moves only when someone sleeps."""

    at: datetime = datetime(2024, 1, 31, 13, 0, tzinfo=UTC)
    slept: list[float] = field(default_factory=list)

    def now(self) -> datetime:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += timedelta(seconds=seconds)


def error(message: str, code: int = 40203, status: int = 200) -> httpx.Response:
    """An application error as the vendor sends it: HTTP 200, data null."""
    return httpx.Response(status, json={"request_id": "x", "code": code, "msg": message, "data": None})


class FakeTushare(httpx.BaseTransport):
    """Answers the documented protocol from frames of raw vendor values.

    Parameters
    ----------
    tables : mapping
        Vendor table -> rows with dates as `YYYYMMDD` text, newest first as the vendor sends them.
    cap : int
        Most rows in one answer.
    """

    def __init__(self, tables: Mapping[str, pl.DataFrame], cap: int = 10_000, pages: bool = True) -> None:
        self.tables, self.cap, self.pages = dict(tables), cap, pages
        self.requests: list[dict[str, object]] = []
        self.paths: list[str] = []
        self.next: list[Answer] = []
        self.before: Callable[[FakeTushare], None] = lambda fake: None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.requests.append(body)
        self.paths.append(request.url.path)
        self.before(self)
        if self.next:
            answer = self.next.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        if body["token"] != TOKEN:
            return error("您的token不对，请确认。", 40101)
        if body["api_name"] not in self.tables:
            return error("请指定正确的接口名", -2001)
        return self._page(self.tables[body["api_name"]], body["params"], body["fields"].split(","))

    def _page(self, rows: pl.DataFrame, params: Mapping[str, str], fields: list[str]) -> httpx.Response:
        for name, value in params.items():
            if name in rows.columns and value:
                rows = rows.filter(pl.col(name).cast(pl.String).is_in(value.split(",")))
        day = next((c for c in ("trade_date", "trade_time") if c in rows.columns), None)
        if day and "start_date" in params:
            first, last = pl.lit(params["start_date"]), pl.lit(params["end_date"])
            rows = rows.filter(pl.col(day).is_between(first, last))
        offset = int(params.get("offset", 0)) if self.pages else 0
        page = rows.slice(offset, min(int(params.get("limit", self.cap)), self.cap))
        # The server's own column order, and only what was asked for.
        page = page.select([name for name in rows.columns if name in fields])
        return httpx.Response(200, json={
            "request_id": "x", "code": 0, "msg": "",
            "data": {"fields": page.columns, "items": [list(row) for row in page.rows()],
                     "has_more": offset + page.height < rows.height, "count": -1},
        })


class Watched(httpx.BaseTransport):
    """Another transport, with every request noted and something done before each answer.

    Parameters
    ----------
    inner : httpx.BaseTransport
    before : callable
        Given the request's JSON body; may move a clock, or raise what the network would.
    """

    def __init__(
        self, inner: httpx.BaseTransport, before: Callable[[dict[str, Any]], None] = lambda asked: None
    ) -> None:
        self.inner, self.before = inner, before
        self.requests: list[dict[str, Any]] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.read())
        self.requests.append(asked)
        self.before(asked)
        return self.inner.handle_request(request)
