"""The Binance tables: keys, columns, units, row caps and when a row could be known. Values only.

Columns keep the archive's names. How files and answers become rows is in `binance_rows.py`. Marks behind the
time rules: [C] the vendor's own page or package says so, [H] several independent copies do, (ours) our reading.
"""

from __future__ import annotations

from datetime import time

import polars as pl

from pipeline.tables.known import NEVER, Elapsed, Published
from pipeline.tables.spec import Column, TableSpec

TEXT, REAL, WHOLE, INSTANT = pl.String(), pl.Float64(), pl.Int64(), pl.Datetime("us")
MINUTE_SECONDS = 60
MINUTES_A_DAY = 1440
BOOK_LEVELS = 20


def _symbol() -> Column:
    return Column("symbol", TEXT, nullable=False)


def _reals(unit: str, *names: str) -> tuple[Column, ...]:
    return tuple(Column(name, REAL, unit, nullable=False) for name in names)


def _day_over(column: str) -> Published:
    """From the midnight (UTC) that ends the row's day."""
    return Published(time(0, 0), (column,), days=1)


def _klines(name: str, market: str, row_cap: int, summary: str) -> TableSpec:
    return TableSpec(
        vendor="binance", name=name, summary=summary, zone="UTC",
        key=("symbol", "open_time"), event="open_time",
        # One request covers one symbol: a file of a day or month, or `row_cap` minutes of the interface.
        layout="session", fetch_by="instrument", row_cap=row_cap,
        requests=((("market", market), ("interval", "1m")),),
        # [C] close_time = open_time + 60 s - 1 ms, and a candle before its close is not final. The archive brings
        # the same candle a day later, but what it says was public at the close.
        known=Elapsed("open_time", MINUTE_SECONDS), session_known=_day_over("open_time"),
        columns=(
            _symbol(), Column("open_time", INSTANT, "open of the minute, UTC", nullable=False),
            *_reals("quote a unit of base", "open", "high", "low", "close"),
            *_reals("base", "volume"),
            Column("close_time", INSTANT, "last instant of the minute, UTC", nullable=False),
            *_reals("quote", "quote_volume"),
            Column("count", WHOLE, "trades", nullable=False),
            *_reals("base, taker is the buyer", "taker_buy_volume"),
            *_reals("quote, taker is the buyer", "taker_buy_quote_volume"),
        ),
    )


KLINES_1M = _klines("klines_1m", "um", 1500, "One-minute candles of USD-M futures.")
SPOT_KLINES_1M = _klines("spot_klines_1m", "spot", 1000, "One-minute candles of the spot market.")

FUNDING_RATE = TableSpec(
    vendor="binance", name="funding_rate", zone="UTC",
    summary="Settled funding rates of USD-M perpetuals.",
    key=("symbol", "calc_time"), event="calc_time",
    layout="session", fetch_by="instrument", row_cap=1000, requests=((("market", "um"),),),
    # (ours) The rate is settled at this instant; the stamp jitters by milliseconds [H] and is kept to the second.
    known=Elapsed("calc_time"), session_known=_day_over("calc_time"),
    columns=(
        _symbol(), Column("calc_time", INSTANT, "settlement, UTC, to the second", nullable=False),
        # 8 by default, 4 or 1 on many symbols, and it may switch [H]: never assumed.
        Column("funding_interval_hours", WHOLE, "hours", nullable=False),
        *_reals("fraction of the position's value; longs pay when positive", "last_funding_rate"),
        # The archive has none, and old rows of the interface are empty [H].
        Column("mark_price", REAL, "quote a unit of base", required=False, documented=False),
    ),
)


def _today(name: str, dtype: pl.DataType = TEXT, unit: str = "") -> Column:
    """A value of the day it was asked for: the vendor overwrites it and keeps no history [C]."""
    return Column(name, dtype, unit, known=NEVER)


EXCHANGE_INFO = TableSpec(
    vendor="binance", name="exchange_info", zone="UTC",
    summary="USD-M contracts and their order filters as of the download; ask daily, the vendor keeps no history.",
    key=("symbol",), event=None,
    # One request covers every contract, without paging.
    layout="snapshot", fetch_by="snapshot", row_cap=100_000, requests=((("market", "um"),),),
    known=Elapsed("onboard_date"),
    columns=(
        _symbol(), Column("pair", TEXT), Column("contract_type", TEXT), _today("status"),
        Column("onboard_date", INSTANT, "UTC", nullable=False),
        # 2100-12-25 stands for a perpetual; a delisting moves it.
        _today("delivery_date", INSTANT, "UTC"),
        Column("base_asset", TEXT), Column("quote_asset", TEXT), Column("margin_asset", TEXT),
        # Decimals of the wire format, not tick and step.
        _today("price_precision", WHOLE, "decimals"), _today("quantity_precision", WHOLE, "decimals"),
        *(_today(name, REAL, "quote a unit of base") for name in ("tick_size", "min_price", "max_price")),
        *(_today(name, REAL, "base") for name in ("step_size", "min_qty", "max_qty")),
        *(_today(name, REAL, "base") for name in ("market_step_size", "market_min_qty", "market_max_qty")),
        _today("min_notional", REAL, "quote"),
    ),
)


def level_names(levels: int = BOOK_LEVELS) -> tuple[str, ...]:
    """The book's columns, level by level inside a side: bid price, bid size, ..., ask price, ask size."""
    return tuple(f"{side}_{i}_{what}" for side in ("bid", "ask") for i in range(levels) for what in ("price", "size"))


BOOK_1M = TableSpec(
    vendor="binance", name="book_1m", zone="UTC",
    summary="The last valid book of each minute, 20 levels; a missing level is null in price and size.",
    key=("symbol", "minute"), event="minute",
    # One request covers one symbol's file of a day.
    layout="session", fetch_by="instrument", row_cap=MINUTES_A_DAY, requests=((("market", "um"),),),
    # (ours) The last snapshot inside the minute is at hand when the minute ends; feeds lag by milliseconds.
    known=Elapsed("minute", MINUTE_SECONDS), session_known=_day_over("minute"),
    columns=(
        _symbol(), Column("minute", INSTANT, "open of the minute, UTC", nullable=False),
        Column("origin_time", INSTANT, "of the snapshot at the exchange, UTC", nullable=False),
        *(
            Column(name, REAL, "quote a unit of base" if name.endswith("price") else "base",
                   nullable=not name.startswith(("bid_0_", "ask_0_")))
            for name in level_names()
        ),
    ),
)

TABLES: dict[str, TableSpec] = {
    spec.name: spec for spec in (KLINES_1M, SPOT_KLINES_1M, FUNDING_RATE, EXCHANGE_INFO, BOOK_1M)
}
