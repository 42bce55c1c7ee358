"""Binance's archive and REST interfaces as one in-process transport, over made-up minutes."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import numpy as np

from pipeline.clock import FixedClock

MINUTE_MS = 60_000
KLINES = {"/fapi/v1/klines": 1500, "/api/v3/klines": 1000}
UM_HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)


def ms(at: datetime) -> int:
    """Milliseconds since 1970 of a naive UTC instant."""
    return int(at.replace(tzinfo=UTC).timestamp() * 1000)


def candles(start: datetime, minutes: int, seed: int = 0) -> list[list[Any]]:
    """The interface's rows of twelve values; every number but ids and times is text."""
    rng = np.random.default_rng(seed)
    close = np.round(100 + np.cumsum(rng.normal(0, 0.05, minutes)), 2)
    open_ = np.r_[100.0, close[:-1]]
    volume = np.round(rng.uniform(1, 9, minutes), 3)
    rows = []
    for i in range(minutes):
        at = ms(start) + i * MINUTE_MS
        high, low = max(open_[i], close[i]) + 0.01, min(open_[i], close[i]) - 0.01
        taker = round(volume[i] / 2, 4)
        rows.append([
            at, f"{open_[i]:.2f}", f"{high:.2f}", f"{low:.2f}", f"{close[i]:.2f}", f"{volume[i]:.3f}",
            at + MINUTE_MS - 1, f"{volume[i] * close[i]:.4f}", 10 + i % 7, f"{taker:.4f}", f"{taker * close[i]:.4f}",
            "0",
        ])
    return rows


def csv(rows: Sequence[Sequence[Any]], header: str = "") -> bytes:
    """Rows as the archive writes them."""
    lines = [header] if header else []
    return "\n".join([*lines, *(",".join(map(str, row)) for row in rows), ""]).encode()


def zipped(member: str, content: bytes) -> bytes:
    """A ZIP of one file."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(member), content, zipfile.ZIP_DEFLATED)
    return held.getvalue()


class FakeBinance(httpx.BaseTransport):
    """Answers like the vendor at the clock's now.

    Parameters
    ----------
    clock : FixedClock

    Attributes
    ----------
    files, checksums : dict
        Archive path -> bytes; path -> text of its CHECKSUM where it is not the true one.
    candles : dict
        Symbol -> rows, ascending, those of the running minute included.
    next : list
        Answers (or exceptions) given before anything else.
    """

    def __init__(self, clock: FixedClock) -> None:
        self.clock = clock
        self.files: dict[str, bytes] = {}
        self.checksums: dict[str, str] = {}
        self.candles: dict[str, list[list[Any]]] = {}
        self.funding: dict[str, list[dict[str, Any]]] = {}
        self.funding_hours: dict[str, int] = {}
        self.contracts: list[dict[str, Any]] = []
        self.next: list[httpx.Response | Exception] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.ranges: list[str] = []
        self.weight = 0
        self.before: Callable[[str], None] = lambda path: None

    def publish(self, path: str, content: bytes) -> None:
        """Put a CSV into the archive under its ZIP's path."""
        name = path.rpartition("/")[2]
        self.files[path] = zipped(name.removesuffix(".zip") + ".csv", content)

    def asked(self, ending: str) -> list[dict[str, str]]:
        """The parameters of the requests whose path ends so."""
        return [params for path, params in self.requests if path.endswith(ending)]

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        path, params = request.url.path, dict(request.url.params)
        self.requests.append((path, params))
        self.before(path)
        if self.next:
            answer = self.next.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        if path.startswith("/data/"):
            return self._file(path.removeprefix("/"), request.headers.get("Range"))
        self.weight += 1
        body = self._answer(path, params)
        return httpx.Response(200, json=body, headers={"X-MBX-USED-WEIGHT-1M": str(self.weight)})

    def _file(self, path: str, wanted: str | None) -> httpx.Response:
        held = self.files.get(path.removesuffix(".CHECKSUM"))
        if held is None:
            return httpx.Response(404, text="<Error><Code>NoSuchKey</Code></Error>")
        if path.endswith(".CHECKSUM"):
            zip_path = path.removesuffix(".CHECKSUM")
            true = f"{hashlib.sha256(held).hexdigest()}  {zip_path.rpartition('/')[2]}\n"
            return httpx.Response(200, text=self.checksums.get(zip_path, true))
        if wanted:
            self.ranges.append(wanted)
            begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
            return httpx.Response(206, content=held[begin:]) if begin < len(held) else httpx.Response(416)
        return httpx.Response(200, content=held)

    def _answer(self, path: str, params: dict[str, str]) -> Any:
        now = int(self.clock.now().timestamp() * 1000)
        if path.endswith("/time"):
            return {"serverTime": now}
        if path in KLINES:
            first, last = int(params["startTime"]), int(params["endTime"])
            inside = [row for row in self.candles.get(params["symbol"], []) if first <= row[0] <= min(last, now)]
            return inside[: min(int(params["limit"]), KLINES[path])]
        if path.endswith("/fundingRate"):
            first, last = int(params["startTime"]), int(params["endTime"])
            rows = [row for row in self.funding.get(params["symbol"], []) if first <= row["fundingTime"] <= last]
            return rows[: min(int(params["limit"]), 1000)]
        if path.endswith("/fundingInfo"):
            return [{"symbol": s, "fundingIntervalHours": h} for s, h in self.funding_hours.items()]
        limits = [{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 1200}]
        return {"timezone": "UTC", "serverTime": now, "rateLimits": limits, "symbols": self.contracts}


def contract(symbol: str, **other: Any) -> dict[str, Any]:
    """A contract of exchangeInfo, with fields that nobody declared."""
    return {
        "symbol": symbol, "pair": symbol, "contractType": "PERPETUAL", "deliveryDate": 4133404800000,
        "onboardDate": 1569398400000, "status": "TRADING", "baseAsset": symbol.removesuffix("USDT"),
        "quoteAsset": "USDT", "marginAsset": "USDT", "pricePrecision": 2, "quantityPrecision": 3,
        "filters": [
            {"filterType": "PRICE_FILTER", "tickSize": "0.10", "minPrice": "556.80", "maxPrice": "4529764"},
            {"filterType": "LOT_SIZE", "stepSize": "0.001", "minQty": "0.001", "maxQty": "1000"},
            {"filterType": "MIN_NOTIONAL", "notional": "100"},
        ],
        "someNewField": [1, 2], **other,
    }


def day_path(market: str, symbol: str, day: date) -> str:
    """A day's candles in the archive."""
    folder = {"um": "data/futures/um", "spot": "data/spot"}[market]
    return f"{folder}/daily/klines/{symbol}/1m/{symbol}-1m-{day}.zip"


def settlements(start: datetime, count: int, hours: int, jitter: Sequence[int] = (0, 7, 3)) -> list[dict[str, Any]]:
    """Funding rows of the interface; stamps jitter by milliseconds."""
    return [
        {"symbol": "X", "fundingTime": ms(start + timedelta(hours=hours * i)) + jitter[i % len(jitter)],
         "fundingRate": "0.00010000", "markPrice": "" if i == 0 else "42300.0"}
        for i in range(count)
    ]
