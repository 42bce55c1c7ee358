"""Binance's public market data over REST, USD-M and spot: pages, weights and waits. No key is needed or sent.

What an answer means is in `binance_protocol.py`; rows are made in `pipeline/tables/binance_rows.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import httpx
import polars as pl

from pipeline.clock import Clock, SystemClock
from pipeline.errors import BadInput, SchemaError, VendorUnavailable
from pipeline.tables.binance import FUNDING_RATE, KLINES_1M, SPOT_KLINES_1M
from pipeline.tables.binance_rows import (
    DEFAULT_FUNDING_HOURS,
    closed_before,
    exchange_info_json,
    funding_json,
    funding_times,
    kline_json,
)
from pipeline.tables.spec import TableSpec
from resources.binance_protocol import WeightBudget, error_of, read_json
from resources.rate_limit import SlidingWindow
from resources.retrying import retry_after, retrying

Market = Literal["um", "spot"]
Params = Mapping[str, str | int]
# 500 calls of either funding interface in five minutes.
FUNDING_CALLS_A_MINUTE = 100
_MINUTE_MS = 60_000


@dataclass(frozen=True)
class Interface:
    """What differs between the two markets."""

    base_url: str
    prefix: str
    klines: TableSpec
    weight_limit: int


INTERFACES: dict[str, Interface] = {
    "um": Interface("https://fapi.binance.com", "/fapi/v1", KLINES_1M, 2400),
    "spot": Interface("https://api.binance.com", "/api/v3", SPOT_KLINES_1M, 6000),
}


class BinanceRest:
    """Asks one market's interface and waits as it is told.

    Parameters
    ----------
    market : {"um", "spot"}
    base_url : str, optional
        In place of the documented address.
    transport : httpx transport, optional
        In place of the network.
    clock, sleep
        For the weight of a minute and the pauses between tries.
    timeout : float
        Seconds.
    """

    def __init__(
        self, market: Market = "um", base_url: str = "", transport: httpx.BaseTransport | None = None,
        clock: Clock | None = None, sleep: Callable[[float], None] = time.sleep, timeout: float = 30.0,
    ) -> None:
        self.market, self._interface = market, INTERFACES[market]
        self._base_url = (base_url or self._interface.base_url).rstrip("/")
        self.clock: Clock = clock or SystemClock()
        self._http = httpx.Client(transport=transport, timeout=timeout)
        self.budget = WeightBudget(self._interface.weight_limit, self.clock, sleep)
        self._funding_calls = SlidingWindow(self.clock, sleep)
        self._retrying = retrying(sleep)
        self.calls = 0

    def __repr__(self) -> str:
        return f"BinanceRest({self.market!r}, base_url={self._base_url!r})"

    def get(self, path: str, params: Params, weight: int) -> Any:
        """The JSON of one answer.

        Parameters
        ----------
        path : str
            Behind the market's prefix, e.g. `/klines`.
        weight : int
            What the vendor counts for it; the true count is read from the answer.

        Raises
        ------
        VendorError
            Permanent ones at once, retryable ones after the last try.
        """
        return self._retrying(self._try, path, params, weight)

    def server_time(self) -> int:
        """The vendor's clock, in milliseconds."""
        answer = self.get("/time", {}, 1)
        told = answer.get("serverTime") if isinstance(answer, dict) else None
        if not isinstance(told, int):
            raise SchemaError("/time: the answer has an integer serverTime", str(answer)[:100], "check the base URL")
        return told

    def klines(self, symbol: str, start: datetime, end: datetime) -> pl.DataFrame:
        """One-minute candles that open at `start <= open_time < end` (naive UTC) and are final.

        The candle of the running minute comes too and changes until it closes: what closes at or after the server's
        time, asked before the first page, is dropped.
        """
        now, spec = self.server_time(), self._interface.klines
        cursor, last = _ms(start), _ms(end) - 1
        pages = [spec.empty()]
        while cursor <= last:
            span = {"startTime": cursor, "endTime": last, "limit": spec.row_cap}
            params: Params = {"symbol": symbol, "interval": "1m", **span}
            answer = self._list("/klines", params, self._kline_weight(spec.row_cap))
            pages.append(kline_json(answer, symbol, spec))
            # Not a short page: a vendor that lowers its cap would end the series there.
            if not answer:
                break
            newest = int(answer[-1][0])
            if newest < cursor:
                raise VendorUnavailable("klines: a page lies at or after its startTime", newest, "try again later")
            cursor = newest + _MINUTE_MS
        rows = closed_before(pl.concat(pages), now)
        if rows.select(spec.key).is_duplicated().any():
            raise VendorUnavailable("klines: pages do not overlap", rows.height, "try again later")
        return rows

    def funding(self, symbol: str, start: datetime, end: datetime) -> pl.DataFrame:
        """Settled funding rates at `start <= calc_time < end` (naive UTC), with the hours since the one before."""
        if self.market != "um":
            raise BadInput("only futures have funding", self.market, "ask the USD-M interface")
        # The row before the first one wanted tells its interval.
        cursor, last, answer = _ms(start - timedelta(hours=24)), _ms(end) - 1, list[Any]()
        while cursor <= last:
            self._funding_calls.wait("funding", FUNDING_CALLS_A_MINUTE)
            params: Params = {"symbol": symbol, "startTime": cursor, "endTime": last, "limit": FUNDING_RATE.row_cap}
            page = self._list("/fundingRate", params, 1)
            answer += page
            if not page:
                break
            newest = funding_times(page)[-1]
            if newest < cursor:
                raise VendorUnavailable("fundingRate: a page lies at or after its startTime", newest, "try again later")
            cursor = newest + 1
        rows = funding_json(answer, symbol, self._funding_hours(symbol) if answer else DEFAULT_FUNDING_HOURS)
        return rows.filter(pl.col("calc_time").is_between(start, end, closed="left"))

    def exchange_info(self) -> pl.DataFrame:
        """Rows of `exchange_info` as they are now; the weight limit that it names is kept to from then on."""
        if self.market != "um":
            raise BadInput("exchange_info holds USD-M contracts", self.market, "ask the USD-M interface")
        answer = self.get("/exchangeInfo", {}, 1)
        rows = exchange_info_json(answer)
        self.budget.learn(answer)
        return rows

    def _funding_hours(self, symbol: str) -> int:
        """The symbol's interval now: only adjusted symbols are listed."""
        self._funding_calls.wait("funding", FUNDING_CALLS_A_MINUTE)
        listed = self._list("/fundingInfo", {}, 1)
        if not all(isinstance(row, dict) for row in listed):
            raise SchemaError("/fundingInfo: a row is an object", str(listed)[:100], "the vendor changed the answer")
        hours = [row.get("fundingIntervalHours") for row in listed if row.get("symbol") == symbol]
        return int(hours[0] or DEFAULT_FUNDING_HOURS) if hours else DEFAULT_FUNDING_HOURS

    def _kline_weight(self, limit: int) -> int:
        if self.market == "spot":
            return 2
        return 1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1000 else 10

    def _list(self, path: str, params: Params, weight: int) -> list[Any]:
        answer = self.get(path, params, weight)
        if not isinstance(answer, list):
            raise VendorUnavailable(f"{path}: the answer must be a list", str(answer)[:100], "check the base URL")
        return answer

    def _try(self, path: str, params: Params, weight: int) -> Any:
        self.budget.wait(weight)
        self.calls += 1
        try:
            answer = self._http.get(f"{self._base_url}{self._interface.prefix}{path}", params=dict(params))
        except httpx.RequestError as error:
            raise VendorUnavailable(f"{path}: the vendor must answer", type(error).__name__,
                                    "check the network") from None
        self.budget.read(answer.headers.get("X-MBX-USED-WEIGHT-1M"))
        if answer.status_code != 200:
            after = retry_after(answer.headers.get("Retry-After"), self.clock)
            raise error_of(path, answer.status_code, answer.content, after, self.clock.now())
        return read_json(path, answer.content)


def _ms(at: datetime) -> int:
    """Milliseconds since 1970 of a naive UTC instant."""
    return int((at - datetime(1970, 1, 1)) / timedelta(milliseconds=1))
