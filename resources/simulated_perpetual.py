"""The simulated exchange: Binance's archive and USD-M interface over a made-up perpetual, as an in-process transport.

It answers at the simulated now: a candle exists from its first trade, a file from its publication. Not here: the
market itself, and what its files hold (`simulated_perpetual_files.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx
import polars as pl

from pipeline.clock import Clock
from pipeline.errors import BadInput
from pipeline.simulation.perpetual import USUAL_HOURS, PerpetualMarket, simulate_perpetual
from pipeline.simulation.perpetual_profiles import MINUTES_A_DAY, PERPETUALS
from resources.binance import BinanceSource
from resources.binance_archive import ArchiveClient
from resources.binance_rest import BinanceRest
from resources.simulated_perpetual_files import PublishedFiles

PREFIX = "/fapi/v1"
WEIGHT_LIMIT = 2400
KLINES_CAP, KLINES_DEFAULT = 1500, 500
FUNDING_CAP, FUNDING_DEFAULT, FUNDING_UNBOUNDED = 1000, 100, 200
MINUTE_MS = 60_000

_FILTERS: dict[str, dict[str, str]] = {
    "PRICE_FILTER": {"minPrice": "min_price", "maxPrice": "max_price", "tickSize": "tick_size"},
    "LOT_SIZE": {"minQty": "min_qty", "maxQty": "max_qty", "stepSize": "step_size"},
    "MARKET_LOT_SIZE": {"minQty": "market_min_qty", "maxQty": "market_max_qty", "stepSize": "market_step_size"},
    "MIN_NOTIONAL": {"notional": "min_notional"},
}
_NAMES = {
    "symbol": "symbol", "pair": "pair", "contractType": "contract_type", "status": "status",
    "baseAsset": "base_asset", "quoteAsset": "quote_asset", "marginAsset": "margin_asset",
    "pricePrecision": "price_precision", "quantityPrecision": "quantity_precision",
}


class _Refused(Exception):
    """An answer that is not HTTP 200."""

    def __init__(self, status: int, code: int, message: str, retry_after: int | None = None) -> None:
        self.status, self.body = status, {"code": code, "msg": message}
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(message)


def simulated_perpetual(profile: str, overrides: Mapping[str, Any] | None = None) -> PerpetualMarket:
    """The market of a named profile with some of its fields replaced, e.g. ``{"signal": 0.0, "seed": 7}``.

    Raises
    ------
    BadInput
        For an unknown profile.
    """
    if profile not in PERPETUALS:
        raise BadInput("the profile must be one of the simulated perpetuals", profile,
                       f"choose from {sorted(PERPETUALS)}")
    values = PERPETUALS[profile].model_dump() | dict(overrides or {})
    return simulate_perpetual(type(PERPETUALS[profile]).model_validate(values))


def simulated_source(
    market: PerpetualMarket, clock: Clock, folder: Path, watch: Callable[[str], None] = lambda line: None
) -> BinanceSource:
    """The real source over the simulated exchange.

    Parameters
    ----------
    folder : Path
        Copies of archive files go there.
    watch : callable
        Told a line after each file and each span.
    """
    vendor = SimulatedExchange(market, clock)
    archive = ArchiveClient(folder, transport=vendor, clock=clock, sleep=vendor.wait)
    return BinanceSource(archive, {"um": BinanceRest("um", transport=vendor, clock=clock, sleep=vendor.wait)}, clock,
                         watch)


class SimulatedExchange(httpx.BaseTransport):
    """Answers below `/data/` like the archive and below `/fapi/v1/` like the interface, at the clock's now.

    Parameters
    ----------
    market : PerpetualMarket
    clock : Clock
        Its now decides what was published.
    weight_limit : int
        Weight a minute, above which the interface answers 429.
    """

    def __init__(self, market: PerpetualMarket, clock: Clock, weight_limit: int = WEIGHT_LIMIT) -> None:
        self._market, self._clock, self._limit = market, clock, weight_limit
        self._files = PublishedFiles(market)
        self._waited, self._minute, self._used = 0.0, -1, 0
        self._answers: dict[str, Callable[[dict[str, str]], Any]] = {
            "ping": lambda params: {}, "time": lambda params: {"serverTime": self._now_ms()}, "klines": self._klines,
            "fundingRate": self._funding, "fundingInfo": self._funding_info, "exchangeInfo": self._exchange_info,
        }

    def wait(self, seconds: float) -> None:
        """A sleep for the clients: time passes for the weights alone, the simulated now stands still."""
        self._waited += seconds

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path.startswith("/data/"):
            return self._file(path.removeprefix("/"), request.headers.get("Range"))
        used: dict[str, str] = {}
        try:
            prefix, _, name = path.rpartition("/")
            if prefix != PREFIX or name not in self._answers:
                raise _Refused(404, -5000, f"Path {path}, Method GET is invalid")
            params = dict(request.url.params)
            late = self._weigh(name, params)
            used["X-MBX-USED-WEIGHT-1M"] = str(self._used)
            if late is not None:
                raise _Refused(429, -1003, f"Too many requests; the limit is {self._limit} weight per 1 MINUTE.", late)
            return httpx.Response(200, headers=used, json=self._answers[name](params))
        except _Refused as refusal:
            return httpx.Response(refusal.status, headers={**used, **refusal.headers}, json=refusal.body)

    def _file(self, path: str, wanted: str | None) -> httpx.Response:
        """A file of the archive, the rest of one from a byte on, or its checksum."""
        zip_path = path.removesuffix(".CHECKSUM")
        content = self._files.at(zip_path, self._clock.now())
        if content is None:
            return httpx.Response(404, text="<Error><Code>NoSuchKey</Code></Error>")
        if path != zip_path:
            name = zip_path.rpartition("/")[2]
            return httpx.Response(200, text=f"{hashlib.sha256(content).hexdigest()}  {name}\n")
        begin = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if begin >= len(content):
            return httpx.Response(416)
        return httpx.Response(206 if wanted else 200, content=content[begin:])

    def _weigh(self, name: str, params: Mapping[str, str]) -> int | None:
        """Count a request into the running minute; seconds until the next one where the limit is passed."""
        at = self._clock.now().timestamp() + self._waited
        if int(at // 60) != self._minute:
            self._minute, self._used = int(at // 60), 0
        limit = _whole(params, "limit", KLINES_DEFAULT) if name == "klines" else 0
        self._used += 1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1000 else 10
        return 60 - int(at % 60) if self._used > self._limit else None

    def _klines(self, params: dict[str, str]) -> list[list[Any]]:
        """Ascending, both ends included; without a start the newest ones. The running minute comes as it began."""
        symbol = self._symbol(params)
        if params.get("interval") != "1m":
            raise _Refused(400, -1120, "Invalid interval.")
        now, limit = self._now_ms(), min(_whole(params, "limit", KLINES_DEFAULT), KLINES_CAP)
        last = min(_whole(params, "endTime", now), now)
        # Outages are shorter than a day, so that one more day surely holds a full page.
        reach = (limit + MINUTES_A_DAY) * MINUTE_MS
        first = _whole(params, "startTime", max(last - reach, 0))
        days = (_day(max(first, self._opening_ms())), _day(min(last, max(first, self._opening_ms()) + reach)))
        rows = self._market.klines(symbol, *days)
        inside = rows.filter(pl.col("open_time").dt.epoch("ms").is_between(first, last))
        page = inside.head(limit) if "startTime" in params else inside.tail(limit)
        return _candle_rows(_as_running(page, now))

    def _funding(self, params: dict[str, str]) -> list[dict[str, Any]]:
        """Ascending, from the start; without start and end the newest ones."""
        symbol, now = self._symbol(params), self._now_ms()
        open_ended = not params.keys() & {"startTime", "endTime"}
        limit = min(_whole(params, "limit", FUNDING_UNBOUNDED if open_ended else FUNDING_DEFAULT), FUNDING_CAP)
        first, last = _whole(params, "startTime", 0), min(_whole(params, "endTime", now), now)
        rows = self._market.funding(symbol).with_columns(pl.col("published_at").dt.epoch("ms").alias("at"))
        inside = rows.filter(pl.col("at").is_between(first, last))
        page = inside.head(limit) if "startTime" in params else inside.tail(limit)
        columns = zip(*(page[name] for name in ("at", "last_funding_rate", "mark_price")), strict=True)
        return [
            {"symbol": symbol, "fundingTime": at, "fundingRate": f"{rate:.8f}", "markPrice": f"{mark:.8f}"}
            for at, rate, mark in columns
        ]

    def _funding_info(self, params: dict[str, str]) -> list[dict[str, Any]]:
        """Symbols whose interval is not the usual one."""
        hours = self._market.funding_hours(self._clock.now())
        adjusted = self._market.profile.symbols if hours != USUAL_HOURS else ()
        return [{"symbol": symbol, "fundingIntervalHours": hours, "disclaimer": False} for symbol in adjusted]

    def _exchange_info(self, params: dict[str, str]) -> dict[str, Any]:
        limits = [{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": self._limit}]
        contracts = [_contract(row) for row in self._market.exchange_info().to_dicts()]
        return {"timezone": "UTC", "serverTime": self._now_ms(), "rateLimits": limits, "symbols": contracts}

    def _symbol(self, params: Mapping[str, str]) -> str:
        if "symbol" not in params:
            raise _Refused(400, -1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
        if params["symbol"] not in self._market.profile.symbols:
            raise _Refused(400, -1121, "Invalid symbol.")
        return params["symbol"]

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)

    def _opening_ms(self) -> int:
        return int((self._market.days[0] - date(1970, 1, 1)).total_seconds() * 1000)


def _as_running(candles: pl.DataFrame, now_ms: int) -> pl.DataFrame:
    """The candle of the running minute with nothing in it but its first price: the rest has not happened yet."""
    running = pl.col("close_time").dt.epoch("ms") >= now_ms
    empty = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")
    return candles.with_columns(
        *(pl.when(running).then("open").otherwise(name).alias(name) for name in ("high", "low", "close")),
        *(pl.when(running).then(0.0).otherwise(name).alias(name) for name in empty),
        pl.when(running).then(0).otherwise("count").alias("count"),
    )


def _candle_rows(candles: pl.DataFrame) -> list[list[Any]]:
    """Rows of twelve values; every number but times and the count is text."""
    texts = ("open", "high", "low", "close", "volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")
    wire = candles.with_columns(
        pl.col("open_time", "close_time").dt.epoch("ms"), pl.col(texts).cast(pl.String), pl.lit("0").alias("ignore")
    )
    return [list(row) for row in wire.drop("symbol", "published_at").iter_rows()]


def _contract(row: Mapping[str, Any]) -> dict[str, Any]:
    """One symbol of exchangeInfo, with a field that nobody declared."""
    filters = [
        {"filterType": kind, **{theirs: str(row[ours]) for theirs, ours in fields.items()}}
        for kind, fields in _FILTERS.items()
    ]
    dates = {theirs: int(row[ours].replace(tzinfo=UTC).timestamp() * 1000)
             for theirs, ours in (("onboardDate", "onboard_date"), ("deliveryDate", "delivery_date"))}
    return {theirs: row[ours] for theirs, ours in _NAMES.items()} | dates | {"filters": filters, "liquidationFee": "0"}


def _whole(params: Mapping[str, str], key: str, default: int) -> int:
    if key not in params:
        return default
    if not params[key].isdigit():
        raise _Refused(400, -1100, f"Illegal characters found in parameter '{key}'.")
    return int(params[key])


def _day(at_ms: int) -> date:
    return datetime.fromtimestamp(at_ms / 1000, UTC).date()
