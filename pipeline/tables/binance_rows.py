"""Binance's files and answers -> rows of its tables, and what a minute series may not be. Nothing is fetched.

Out-of-order, doubled or impossible minutes are refused by name; missing ones are no error but are reported, because
an outage of the exchange leaves real holes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from typing import Any

import polars as pl

from pipeline.errors import BadInput, KeyViolation, SchemaError
from pipeline.tables.binance import EXCHANGE_INFO, FUNDING_RATE, KLINES_1M
from pipeline.tables.epochs import instant
from pipeline.tables.spec import TableSpec

KLINE_FIELDS = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count", "taker_buy_volume",
    "taker_buy_quote_volume", "ignore",
)
FUNDING_FIELDS = ("calc_time", "funding_interval_hours", "last_funding_rate")
_INTEGERS = ("open_time", "close_time", "count", "calc_time", "funding_interval_hours")
_MINUTE = pl.duration(minutes=1)
DEFAULT_FUNDING_HOURS = 8
# Gaps longer than this between settlements are missing rows, not an interval.
LONGEST_FUNDING_HOURS = 8
GAPS = {
    "symbol": pl.String(), "first_missing": pl.Datetime("us"), "last_missing": pl.Datetime("us"), "minutes": pl.Int64(),
}

# exchangeInfo's own field -> ours.
_CONTRACT = {
    "symbol": "symbol", "pair": "pair", "contractType": "contract_type", "status": "status",
    "onboardDate": "onboard_date", "deliveryDate": "delivery_date", "baseAsset": "base_asset",
    "quoteAsset": "quote_asset", "marginAsset": "margin_asset", "pricePrecision": "price_precision",
    "quantityPrecision": "quantity_precision",
}
_FILTERS = {
    ("PRICE_FILTER", "tickSize"): "tick_size", ("PRICE_FILTER", "minPrice"): "min_price",
    ("PRICE_FILTER", "maxPrice"): "max_price", ("LOT_SIZE", "stepSize"): "step_size",
    ("LOT_SIZE", "minQty"): "min_qty", ("LOT_SIZE", "maxQty"): "max_qty",
    ("MARKET_LOT_SIZE", "stepSize"): "market_step_size", ("MARKET_LOT_SIZE", "minQty"): "market_min_qty",
    ("MARKET_LOT_SIZE", "maxQty"): "market_max_qty", ("MIN_NOTIONAL", "notional"): "min_notional",
}


def csv_columns(content: bytes, fields: Sequence[str], name: str) -> pl.DataFrame:
    """An archive's CSV, with its header or, as old files and all spot files are, without.

    Parameters
    ----------
    content : bytes
        Uncompressed text.
    fields : sequence of str
        The file's columns; a header must name exactly these.
    name : str
        For errors.

    Raises
    ------
    SchemaError
        Other columns, or a value of another type.
    """
    headed = not content[:1].isdigit() and content[:1] != b"-"
    first = content[: content.find(b"\n")] if b"\n" in content else content
    seen = [part.strip() for part in first.decode("utf-8", "replace").split(",")]
    if (headed and seen != list(fields)) or len(seen) != len(fields):
        raise SchemaError(f"{name} must have the columns {list(fields)}", seen,
                          "the vendor changed the file: declare the new form")
    schema = {field: pl.Int64() if field in _INTEGERS else pl.Float64() for field in fields}
    try:
        return pl.read_csv(BytesIO(content), has_header=headed, schema=schema)
    except pl.exceptions.PolarsError as error:
        raise SchemaError(f"{name} must hold numbers in every column", str(error).splitlines()[0],
                          "the file is cut or damaged; fetch it again") from None


def kline_rows(raw: pl.DataFrame, symbol: str, spec: TableSpec = KLINES_1M) -> pl.DataFrame:
    """Raw candles of one symbol, in the vendor's order, as rows of the table.

    Parameters
    ----------
    raw : DataFrame
        The archive's columns (`ignore` may be absent); instants as integers of any unit.

    Raises
    ------
    SchemaError, KeyViolation, BadInput
        Missing columns; doubled minutes; minutes out of order or off the grid, candles of another length, and
        prices or volumes that cannot be.
    """
    stamped = raw.select(pl.exclude("ignore")).with_columns(
        pl.lit(symbol).alias("symbol"), instant("open_time"), instant("close_time")
    )
    rows = spec.typed(stamped)
    check_klines(rows, spec)
    return rows


def kline_json(answer: Sequence[Sequence[Any]], symbol: str, spec: TableSpec = KLINES_1M) -> pl.DataFrame:
    """The interface's rows of twelve values."""
    if not answer:
        return spec.empty()
    wrong = [row for row in answer if not isinstance(row, list) or len(row) != len(KLINE_FIELDS)]
    if wrong:
        raise SchemaError(f"{spec.name}: a candle has {len(KLINE_FIELDS)} values", wrong[0],
                          "the vendor changed the answer")
    columns = zip(KLINE_FIELDS, zip(*answer, strict=True), strict=True)
    raw = pl.DataFrame([_number(field, values, spec.name) for field, values in columns])
    return kline_rows(raw, symbol, spec)


def check_klines(rows: pl.DataFrame, spec: TableSpec = KLINES_1M) -> None:
    """Refuse candles of one or several symbols that cannot be true; rows in the vendor's order."""
    _check_order(rows, spec)
    spec.check(rows)
    opened, closed = pl.col("open_time"), pl.col("close_time")
    prices = [pl.col(name) for name in ("open", "high", "low", "close")]
    sizes = [pl.col(name) for name in ("volume", "quote_volume", "count", "taker_buy_volume", "taker_buy_quote_volume")]
    rules = {
        "candles open on whole minutes": opened.dt.truncate("1m") != opened,
        # Not exactly 59.999 s: the last candle before the outage of 2023-03-24 closes at 41.646 s.
        "candles close inside the minute they open in": closed.dt.truncate("1m") != opened,
        "prices are finite and above zero": pl.any_horizontal(~(p.is_finite() & (p > 0)) for p in prices),
        "high and low enclose open and close": (pl.max_horizontal(prices) > pl.col("high"))
        | (pl.min_horizontal(prices) < pl.col("low")),
        "volumes and counts are finite and not below zero": pl.any_horizontal(
            ~(s.is_finite() & (s >= 0)) for s in sizes
        ),
        "takers do not buy more than was traded": pl.col("taker_buy_volume") > pl.col("volume"),
    }
    found = rows.select(rule.any().alias(name) for name, rule in rules.items()).row(0, named=True)
    for name, broken in found.items():
        if broken:
            bad = rows.filter(rules[name])
            raise BadInput(f"{spec.name}: {name}", f"{bad.height} rows, first {bad.row(0, named=True)}",
                           "fetch the file again, or report it to the vendor")


def _check_order(rows: pl.DataFrame, spec: TableSpec) -> None:
    """Minutes ascend inside a symbol; a repeat and a step back are told apart."""
    before = pl.col("open_time").shift().over("symbol")
    for name, bad, kind in (
        ("must not repeat", pl.col("open_time") == before, KeyViolation),
        ("must ascend", pl.col("open_time") < before, BadInput),
    ):
        wrong = rows.filter(bad)
        if not wrong.is_empty():
            raise kind(f"{spec.name}: minutes {name}", f"{wrong.height} rows, first {wrong.select(spec.key).row(0)}",
                       "the file is damaged or was put together from several; fetch it again")


def minute_gaps(rows: pl.DataFrame, start: date | None = None, end: date | None = None) -> pl.DataFrame:
    """Runs of minutes without a candle.

    Parameters
    ----------
    rows : DataFrame
        `symbol`, `open_time`.
    start, end : date, optional
        Days (UTC, inclusive) that should be full; None: from the first or to the last candle of each symbol.

    Returns
    -------
    DataFrame
        symbol, first_missing, last_missing (naive UTC), minutes; by symbol and time.
    """
    times = rows.select("symbol", "open_time")
    minute, symbols = timedelta(minutes=1), rows["symbol"].unique()
    edges = []
    if start is not None:
        edges.append(datetime.combine(start, datetime.min.time()) - minute)
    if end is not None:
        edges.append(datetime.combine(end, datetime.min.time()) + timedelta(days=1))
    posts = [pl.DataFrame({"symbol": symbols}).with_columns(pl.lit(at, dtype=pl.Datetime("us")).alias("open_time"))
             for at in edges]
    ordered = pl.concat([times, *posts]).sort("symbol", "open_time")
    step = pl.col("open_time") - pl.col("before")
    holes = ordered.with_columns(pl.col("open_time").shift().over("symbol").alias("before")).filter(step > minute)
    return holes.select(
        "symbol",
        (pl.col("before") + _MINUTE).alias("first_missing"),
        (pl.col("open_time") - _MINUTE).alias("last_missing"),
        (step.dt.total_minutes() - 1).alias("minutes"),
    ).cast(GAPS)  # type: ignore[arg-type]


def closed_before(rows: pl.DataFrame, server_ms: int) -> pl.DataFrame:
    """Candles that were final when the server told its time: the newest one of an answer usually is not."""
    now = datetime.fromtimestamp(server_ms / 1000, UTC).replace(tzinfo=None)
    return rows.filter(pl.col("close_time") < now)


def funding_rows(raw: pl.DataFrame, symbol: str) -> pl.DataFrame:
    """Rows of the archive's monthly funding file; settlements to the second.

    A dump without `funding_interval_hours` gets the hours since the settlement before; it must ascend.
    """
    stamped = raw.with_columns(pl.lit(symbol).alias("symbol"), instant("calc_time").dt.round("1s"))
    known = "funding_interval_hours" in raw.columns
    rows = FUNDING_RATE.typed(stamped if known else stamped.with_columns(_interval(DEFAULT_FUNDING_HOURS)))
    _check_funding(rows)
    return rows


def funding_json(answer: Sequence[Mapping[str, Any]], symbol: str, hours: int = DEFAULT_FUNDING_HOURS) -> pl.DataFrame:
    """The interface's funding history, ascending. It names no interval: the hours since the settlement before.

    Parameters
    ----------
    hours : int
        The symbol's interval now, for the first row and after a hole.
    """
    if not answer:
        return FUNDING_RATE.empty()
    funding_times(answer)
    columns = {"calc_time": "fundingTime", "last_funding_rate": "fundingRate", "mark_price": "markPrice"}
    raw = pl.DataFrame([
        _number(name, [row.get(theirs) for row in answer], FUNDING_RATE.name) for name, theirs in columns.items()
    ])
    settled = raw.with_columns(instant("calc_time").dt.round("1s"))
    rows = FUNDING_RATE.typed(settled.with_columns(pl.lit(symbol).alias("symbol"), _interval(hours)))
    _check_funding(rows)
    return rows


def funding_times(answer: Sequence[Any]) -> list[int]:
    """The settlements of the interface's rows, in milliseconds.

    Raises
    ------
    SchemaError
        A row that is no object, or names no instant.
    """
    times = [row.get("fundingTime") if isinstance(row, Mapping) else None for row in answer]
    wrong = [row for row, at in zip(answer, times, strict=True) if not isinstance(at, int)]
    if wrong:
        raise SchemaError("funding_rate: a row is an object with an integer fundingTime", wrong[0],
                          "the vendor changed the answer")
    return [at for at in times if at is not None]


def _interval(hours: int) -> pl.Expr:
    """Hours since the settlement before; `hours` for the first row and after a hole."""
    since = pl.col("calc_time").diff().dt.total_seconds()
    plain = (since % 3600 == 0) & since.is_between(3600, LONGEST_FUNDING_HOURS * 3600)
    return pl.when(plain).then(since // 3600).otherwise(hours).alias("funding_interval_hours")


def _check_funding(rows: pl.DataFrame) -> None:
    FUNDING_RATE.check(rows)
    hours = pl.col("funding_interval_hours")
    bad = rows.filter(~pl.col("last_funding_rate").is_finite() | (hours < 1) | (hours > 24))
    if not bad.is_empty():
        raise BadInput("funding_rate: a rate is finite and its interval 1 to 24 hours", bad.row(0, named=True),
                       "fetch the file again, or report it to the vendor")


def exchange_info_json(answer: Mapping[str, Any]) -> pl.DataFrame:
    """USD-M `exchangeInfo`: one row a contract, its order filters beside it; unknown fields are passed by."""
    contracts = answer.get("symbols") if isinstance(answer, Mapping) else None
    if not isinstance(contracts, list) or not contracts or not all(isinstance(c, Mapping) for c in contracts):
        raise SchemaError("exchange_info: the answer lists symbols", str(answer)[:100], "check the base URL")
    columns: dict[str, list[Any]] = {ours: [c.get(theirs) for c in contracts] for theirs, ours in _CONTRACT.items()}
    filters = [{f.get("filterType"): f for f in c.get("filters", ())} for c in contracts]
    for (kind, field), ours in _FILTERS.items():
        columns[ours] = [held.get(kind, {}).get(field) for held in filters]
    numbers = {c.name for c in EXCHANGE_INFO.columns if c.dtype != pl.String}
    raw = pl.DataFrame([
        _number(name, values, EXCHANGE_INFO.name) if name in numbers else pl.Series(name, values, dtype=pl.String)
        for name, values in columns.items()
    ])
    rows = EXCHANGE_INFO.typed(raw.with_columns(instant("onboard_date"), instant("delivery_date"))).sort("symbol")
    EXCHANGE_INFO.check(rows)
    return rows


def _number(name: str, values: Sequence[Any], table: str) -> pl.Series:
    """JSON numbers, which the vendor mostly writes as text; empty text is absent."""
    whole = all(isinstance(value, int) or value is None for value in values)
    if whole:
        return pl.Series(name, values, dtype=pl.Int64)
    text = pl.Series(name, [None if value in (None, "") else str(value) for value in values], dtype=pl.String)
    try:
        return text.cast(pl.Float64)
    except pl.exceptions.InvalidOperationError:
        raise SchemaError(f"{table}: {name} must hold numbers", str(values[0]),
                          "the vendor changed the answer") from None
