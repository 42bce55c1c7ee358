"""Tushare over its documented HTTP protocol: a client that asks, waits and retries, and a source on top.

What an answer means lives in `tushare_protocol.py`, which requests make up a table in `tushare_requests.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from zoneinfo import ZoneInfo

import httpx
import polars as pl

from pipeline.clock import Clock, SystemClock
from pipeline.errors import BadInput, RateLimited, RetryableVendorError, VendorUnavailable
from pipeline.tables.spec import TableSpec
from pipeline.tables.tushare import TABLES
from resources.rate_limit import SlidingWindow
from resources.retrying import retry_after, retrying
from resources.source import Fetched
from resources.tushare_protocol import Page, allowed_calls, error_of_status, read_page
from resources.tushare_requests import Answer, Ask, completeness, describe, plan, within


class TushareClient:
    """Calls one interface at a time and gives its page, or a typed error.

    Parameters
    ----------
    token : str
        Sent in the body of each call; it appears in no error, repr or log.
    base_url : str
        The documented address is plain HTTP. One that ends in `/dataapi` gets the interface's name appended,
        as the vendor's own package does.
    transport : httpx transport, optional
        In place of the network: simulations and tests.
    clock, sleep
        For the rate limit and the pauses between tries.
    calls_per_minute : int, optional
        What the account allows for each interface; None: no limit of our own.
    timeout : float
        Seconds.
    """

    def __init__(
        self, token: str, base_url: str = "http://api.tushare.pro",
        transport: httpx.BaseTransport | None = None, clock: Clock | None = None,
        sleep: Callable[[float], None] = time.sleep, calls_per_minute: int | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._token, self._base_url = token, base_url.rstrip("/")
        self.clock: Clock = clock or SystemClock()
        self._http = httpx.Client(transport=transport, timeout=timeout)
        self._window = SlidingWindow(self.clock, sleep)
        self._allowed, self._learned = calls_per_minute, dict[str, int]()
        self._retrying = retrying(sleep)

    def __repr__(self) -> str:
        return f"TushareClient(base_url={self._base_url!r})"

    def call(self, spec: TableSpec, params: Mapping[str, str]) -> Page:
        """One page of a table, with every column asked for by name.

        Raises
        ------
        VendorError
            Permanent ones at once, retryable ones after the last try.
        """
        return self._retrying(self._try, spec, params)

    def _try(self, spec: TableSpec, params: Mapping[str, str]) -> Page:
        limits = (self._allowed, self._learned.get(spec.name), self._allowed and spec.calls_per_minute)
        self._window.wait(spec.name, min((n for n in limits if n is not None), default=None))
        # Raised outside any handler: an httpx error carries the request, and with it the token.
        answer = self._post(spec, params)
        if isinstance(answer, str):
            raise VendorUnavailable(f"{spec.name}: the vendor must answer", answer, "check the network")
        try:
            if answer.status_code != 200:
                raise error_of_status(spec.name, answer.status_code)
            return read_page(spec.name, answer.content.replace(self._token.encode() or b"\0", b"***"))
        except RetryableVendorError as error:
            error.retry_after = retry_after(answer.headers.get("Retry-After"), self.clock)
            if isinstance(error, RateLimited) and error.retry_after is None:
                self._learn(spec.name, allowed_calls(str(error.observed)))
                error.retry_after = self._window.until_free(spec.name)
            raise

    def _post(self, spec: TableSpec, params: Mapping[str, str]) -> httpx.Response | str:
        """The response, or what went wrong on the way."""
        path = f"/{spec.name}" if self._base_url.endswith("/dataapi") else "/"
        fields = ",".join(spec.names)
        body = {"api_name": spec.name, "token": self._token, "params": dict(params), "fields": fields}
        try:
            return self._http.post(self._base_url + path, json=body)
        except httpx.RequestError as error:
            return type(error).__name__

    def _learn(self, name: str, calls: int | None) -> None:
        """The limit that the vendor's message names is the account's true one."""
        if calls is not None:
            self._learned[name] = calls


class TushareSource:
    """Reads tables call by call so that no answer is cut unseen, and says which sessions are complete."""

    def __init__(self, client: TushareClient, tables: Mapping[str, TableSpec] = TABLES) -> None:
        self._client, self._tables = client, frozenset(tables)

    def tables(self) -> frozenset[str]:
        """Every table of the vendor; whether the token may read one, only a call can tell."""
        return self._tables

    def fetch(self, spec: TableSpec, sessions: Sequence[date], codes: Sequence[str] = ()) -> Fetched:
        """Rows of the sessions, each request read to its last page.

        Parameters
        ----------
        spec : TableSpec
        sessions : sequence of date
            Open sessions, ascending; a snapshot only repeats them in `complete`.
        codes : sequence of str
            Vendor codes, for tables by instrument or index.

        Raises
        ------
        VendorError
            The vendor's answer is not data.
        BadInput
            Its rows break the table's spec.
        """
        if spec.fetch_by in ("instrument", "index") and not codes:
            raise BadInput(f"{spec.name} is asked for by code", "no codes", "hand in the codes wanted")
        asks = list(plan(spec, sessions, codes))
        answers = [self._answer(spec, ask) for ask in asks]
        rows = pl.concat([spec.empty(), *(answer.rows for answer in answers)])
        rows = within(spec, rows, sessions).sort(spec.key)
        spec.check(rows, today=self._client.clock.now().astimezone(ZoneInfo(spec.zone)).date())
        complete, notes = completeness(spec, rows, sessions, codes, answers)
        calls = sum(answer.calls for answer in answers)
        return Fetched(rows, describe(spec, sessions, codes, asks, calls), complete, notes)

    def _answer(self, spec: TableSpec, ask: Ask) -> Answer:
        """All pages of some requests; read once more when pages disagree, because paging has no snapshot."""
        first = self._read(spec, ask)
        if not _doubled(spec, first.rows):
            return first
        answer = _settled(spec, first)
        if not _doubled(spec, answer.rows):
            return answer
        answer = _settled(spec, self._read(spec, ask))
        note = f"{spec.name} {ask.requests[0]}: rows of one key differed between pages; read again"
        return replace(answer, calls=first.calls + answer.calls, notes=(note, *answer.notes))

    def _read(self, spec: TableSpec, ask: Ask) -> Answer:
        read = [self._pages(spec, params) for params in ask.requests]
        return Answer(
            ask, pl.concat([rows for rows, _, _ in read]), cut=any(cut for _, cut, _ in read),
            first_empty=read[0][0].is_empty(), calls=sum(calls for _, _, calls in read),
        )

    def _pages(self, spec: TableSpec, params: Mapping[str, str]) -> tuple[pl.DataFrame, bool, int]:
        """Rows of every page until a short one; whether a further page brought nothing new; pages read."""
        frames, offset, distinct = [spec.empty()], 0, 0
        while True:
            paging = {"limit": str(spec.row_cap), "offset": str(offset)} if offset else {}
            page = self._client.call(spec, {**params, **paging})
            frames.append(spec.parse(page.fields, page.items))
            rows = pl.concat(frames)
            if not page.has_more and len(page.items) < spec.row_cap:
                return rows, False, len(frames) - 1
            before, distinct = distinct, rows.n_unique()
            if distinct == before:
                return rows, True, len(frames) - 1
            offset += len(page.items)


def _doubled(spec: TableSpec, rows: pl.DataFrame) -> bool:
    return bool(rows.select(spec.key).is_duplicated().any())


def _settled(spec: TableSpec, answer: Answer) -> Answer:
    """The answer without repeats, which paging makes."""
    rows = spec.settle(answer.rows)
    note = f"{spec.name}: {answer.rows.height - rows.height} repeated rows dropped"
    return replace(answer, rows=rows, notes=(note,) if rows.height < answer.rows.height else ())
