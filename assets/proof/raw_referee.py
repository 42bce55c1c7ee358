"""The referee of fills: whether a trade could have happened, from raw vendor rows and dated rules, one by one.

It reads the lake's rows as the vendor sent them, in their newest versions, and `exchange_rules`. No panel, no block
flag, no limit that the house computed, no kernel and no calendar of ours enters.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, Protocol

import polars as pl

from assets.proof.exchange_rules import Standing, board_of, first_day, price_limits

Side = Literal["open", "close"]
Broken = Iterator[tuple[str, object]]

ST_NAMES = ("ST", "*ST", "SST", "S*ST")
HALF_A_CENT = 0.005
SAME = 1e-9  # relative: both sides multiply the same two doubles
FLOAT_NOISE = 1e-6  # CNY by which a quote may leave the day's range

OPEN_DAY = "the exchange is open"
LISTED = "the security is listed"
NOT_SUSPENDED = "the security is not suspended"
TRADED = "the security trades that day"
IN_RANGE = "the price lies in the day's range"
NOT_AT_UPPER = "the price is not at the upper limit"
NOT_AT_LOWER = "the price is not at the lower limit"
NEXT_OPEN = "it is bought at the open after its decision"
OPEN_PRICE = "it is bought at the open, adjusted"
CLOSE_PRICE = "it is sold at the close, adjusted"
T_PLUS_ONE = "what is bought today is sold tomorrow or later"
AT_TARGET = "it is not sold before its target"
FIRST_CLOSE = "it is sold at the first close that can be sold at"
DELISTED = "a position is written off when its security is gone"
HAIRCUT = "a written-off position pays its last close less the haircut"
RETURN = "its return is that of its two prices"


class RawTables(Protocol):
    """What of a lake is read."""

    def tables(self) -> Sequence[str]: ...
    def scan(self, table: str) -> pl.DataFrame: ...


@dataclass(frozen=True)
class Bar:
    """One row of `daily`, in the vendor's units."""

    open: float
    high: float
    low: float
    close: float
    pre_close: float | None
    vol: float
    amount: float


class RawMarket:
    """The vendor's rows of a market, as dictionaries.

    Parameters
    ----------
    lake : RawTables
        Vendor rows in all versions; the newest of each key counts.
    """

    def __init__(self, lake: RawTables) -> None:
        self._lake = lake
        self.first_code: dict[str, str] = {new: old for old, new in self._rows("bse_mapping", ["o_code"], ["n_code"])}
        opened = self._rows("trade_cal", ["exchange", "cal_date"], ["is_open"])
        self.days = sorted(day for exchange, day, is_open in opened if exchange == "SSE" and is_open == 1)
        self.open_days = frozenset(self.days)
        self.bars = {(code, day): Bar(*values) for code, day, *values in self._keyed(
            "daily", ["open", "high", "low", "close", "pre_close", "vol", "amount"])}  # fmt: skip
        self.vendor_limits = {(c, d): (down, up) for c, d, down, up in
                              self._keyed("stk_limit", ["down_limit", "up_limit"])}  # fmt: skip
        self.listing = {self._first(code): (listed, gone) for code, listed, gone in self._rows(
            "stock_basic", ["ts_code"], ["list_date", "delist_date"]) if board_of(code)}  # fmt: skip
        self.suspended = {(self._first(code), day) for day, code, kind, timing in self._rows(
            "suspend_d", ["trade_date", "ts_code", "suspend_type", "suspend_timing"], [])
            if kind == "S" and not (timing or "").strip()}  # fmt: skip
        self.special = {(code, day) for code, day in self._keyed("stock_st", [])}
        self._st_days = {day for _, day in self.special}
        self._factors = self._in_time(self._keyed("adj_factor", ["adj_factor"]))
        self._names = self._in_time(
            (self._first(code), start, (end, name)) for code, start, name, end in
            self._rows("namechange", ["ts_code", "start_date", "name"], ["end_date"]))  # fmt: skip
        self.last_day = max(day for _, day in self.bars)
        self._verdicts: dict[tuple[str, date, Side], list[tuple[str, object]]] = {}

    def _rows(self, table: str, key: list[str], values: list[str]) -> Iterator[tuple[Any, ...]]:
        """The newest version of every row: the key's columns, then the values'."""
        if table not in self._lake.tables():
            return iter(())
        held = self._lake.scan(table).sort("known_at", maintain_order=True)
        return held.unique(key, keep="last", maintain_order=True).select(*key, *values).iter_rows()

    def _keyed(self, table: str, values: list[str]) -> list[tuple[Any, ...]]:
        """Rows by security and day: one security's day may be served under its old and under its new code."""
        if table not in self._lake.tables():
            return []
        held = self._lake.scan(table).sort("known_at", maintain_order=True)
        first = held.with_columns(ts_code=pl.col("ts_code").replace(self.first_code))
        newest = first.unique(["ts_code", "trade_date"], keep="last", maintain_order=True)
        return list(newest.select("ts_code", "trade_date", *values).iter_rows())

    def _first(self, code: str) -> str:
        return self.first_code.get(code, code)

    @staticmethod
    def _in_time(rows: Any) -> dict[str, tuple[list[date], list[Any]]]:
        """code -> days ascending, and what is valid from each on."""
        held: dict[str, list[tuple[date, Any]]] = {}
        for code, day, value in rows:
            held.setdefault(code, []).append((day, value))
        ordered = {code: sorted(part, key=lambda item: item[0]) for code, part in held.items()}
        return {code: ([day for day, _ in part], [value for _, value in part]) for code, part in ordered.items()}

    def listed(self, code: str, day: date) -> bool:
        """Whether it could be traded here that day, suspended or not."""
        if code not in self.listing:
            return False
        start, gone = self.listing[code]
        return first_day(code, start) <= day and (gone is None or day < gone)

    def factor(self, code: str, day: date) -> float | None:
        """The adjustment factor of the day, or the newest before it."""
        days, values = self._factors.get(code, ([], []))
        at = bisect_right(days, day)
        return values[at - 1] if at else None

    def standing(self, code: str, day: date) -> Standing:
        """Where it stands that day: ST by the day's list, where there is one, else by its name."""
        start = self.listing[code][0]
        early = start < self.days[0]
        since = 10_000 if early else bisect_right(self.days, day) - bisect_left(self.days, start) - 1
        name, named = self._name(code, day)
        leaving = "退" in name
        special = (code, day) in self.special if day in self._st_days else name.startswith(ST_NAMES)
        return Standing(start, since, special and not leaving, self.session_from(named) if leaving and named else None)

    def _name(self, code: str, day: date) -> tuple[str, date | None]:
        days, values = self._names.get(code, ([], []))
        at = bisect_right(days, day)
        if not at:
            return "", None
        end, name = values[at - 1]
        plain = unicodedata.normalize("NFKC", name).replace(" ", "")
        return (plain, days[at - 1]) if end is None or day <= end else ("", None)

    def session_from(self, day: date) -> date:
        """The day itself, or the first open one after it."""
        return self.days[min(bisect_left(self.days, day), len(self.days) - 1)]

    def limits(self, code: str, day: date, reference: float | None) -> list[tuple[float, float]]:
        """The day's lower and upper limit by the dated rules and by the vendor: one, both or none."""
        own = price_limits(code, day, reference, self.standing(code, day)) if reference else None
        sent = self.vendor_limits.get((code, day))
        told = sent is not None and None not in sent and sent[1] < 10_000  # the vendor's sentinel for none
        return [pair for pair in (own, sent if told else None) if pair is not None]

    def why_not(self, code: str, day: date, side: Side) -> list[tuple[str, object]]:
        """Rules that forbid a fill at a day's open or close; empty where it was possible."""
        at = (code, day, side)
        if at not in self._verdicts:
            self._verdicts[at] = list(self._judged(code, day, side))
        return self._verdicts[at]

    def _judged(self, code: str, day: date, side: Side) -> Broken:
        if day not in self.open_days:
            yield OPEN_DAY, day
        if not self.listed(code, day):
            yield LISTED, self.listing.get(code)
            return
        if (code, day) in self.suspended:
            yield NOT_SUSPENDED, day
        bar = self.bars.get((code, day))
        if bar is None or not bar.vol > 0 or not bar.amount > 0:
            yield TRADED, bar
            return
        price = getattr(bar, side)
        if not (price > 0 and bar.low - FLOAT_NOISE <= price <= bar.high + FLOAT_NOISE):
            yield IN_RANGE, (price, bar.low, bar.high)
        for lower, upper in self.limits(code, day, bar.pre_close):
            if abs(price - upper) < HALF_A_CENT:
                yield NOT_AT_UPPER, price
            if abs(price - lower) < HALF_A_CENT:
                yield NOT_AT_LOWER, price

    def price(self, code: str, day: date, side: Side) -> float | None:
        """The day's raw price times its factor; None without either."""
        bar, factor = self.bars.get((code, day)), self.factor(code, day)
        return None if bar is None or factor is None else getattr(bar, side) * factor


def impossible_fills(trades: pl.DataFrame, market: RawMarket, exit_session: int, haircut: float) -> pl.DataFrame:
    """Trades that could not have happened as written.

    Parameters
    ----------
    trades : pl.DataFrame
        As `backtests.engine.run_books` gives them.
    market : RawMarket
    exit_session : int
        Sessions from the decision to the target close.
    haircut : float
        Loss on the last close of a security that is gone.

    Returns
    -------
    pl.DataFrame
        book, session, rank, instrument, rule, observed: one row a broken rule, empty when all is well.
    """
    found = []
    for trade in trades.filter(pl.col("entry_session").is_not_null()).iter_rows(named=True):
        key = (trade["book"], trade["session"], trade["rank"], trade["instrument"])
        found += [(*key, rule, str(observed)) for rule, observed in _broken(trade, market, exit_session, haircut)]
    return pl.DataFrame(found, orient="row", schema={
        "book": pl.String, "session": pl.Date, "rank": pl.Int32, "instrument": pl.String, "rule": pl.String,
        "observed": pl.String})  # fmt: skip


def possible_refusals(trades: pl.DataFrame, market: RawMarket) -> pl.DataFrame:
    """Orders that were not filled although nothing in the raw rows forbids it; columns of the trades."""
    refused = trades.filter(pl.col("status") == "entry_blocked")
    after = [market.days[min(bisect_right(market.days, day), len(market.days) - 1)] for day in refused["session"]]
    open_to = [not market.why_not(code, day, "open")
               for code, day in zip(refused["instrument"], after, strict=True)]  # fmt: skip
    return refused.filter(pl.Series(open_to, dtype=pl.Boolean))


def _broken(trade: Mapping[str, Any], market: RawMarket, exit_session: int, haircut: float) -> Broken:
    code, entry, left = trade["instrument"], trade["entry_session"], trade["exit_session"]
    if code not in market.listing:
        yield LISTED, code
        return
    decided = bisect_left(market.days, trade["session"])
    if decided + 1 >= len(market.days) or market.days[decided + 1] != entry:
        yield NEXT_OPEN, entry
    yield from market.why_not(code, entry, "open")
    if not _same(trade["entry_price"], market.price(code, entry, "open")):
        yield OPEN_PRICE, trade["entry_price"]
    if left is not None and left <= entry:
        yield T_PLUS_ONE, left
    ahead = market.days[decided + exit_session :]
    target = ahead[0] if ahead else date.max
    if trade["status"] in ("filled", "carried"):
        yield from _sold(trade, market, code, left, target)
    elif trade["status"] == "delisted":
        yield from _written_off(trade, market, code, haircut)
    elif (gone := market.listing[code][1]) is not None and gone <= market.last_day:
        yield DELISTED, trade["status"]
    before = ahead[: bisect_left(ahead, left) if left is not None else bisect_right(ahead, market.last_day)]
    missed = next((day for day in before if not market.why_not(code, day, "close")), None)
    if missed is not None:
        yield FIRST_CLOSE, missed
    if left is not None and not _same(1.0 + trade["gross_return"], trade["exit_price"] / trade["entry_price"]):
        yield RETURN, trade["gross_return"]


def _sold(trade: Mapping[str, Any], market: RawMarket, code: str, left: date, target: date) -> Broken:
    yield from market.why_not(code, left, "close")
    if left < target:
        yield AT_TARGET, left
    if not _same(trade["exit_price"], market.price(code, left, "close")):
        yield CLOSE_PRICE, trade["exit_price"]


def _written_off(trade: Mapping[str, Any], market: RawMarket, code: str, haircut: float) -> Broken:
    """Gone on the first open day without it; the newest close since the entry, or the price paid, less the haircut."""
    left, gone = trade["exit_session"], market.listing[code][1]
    if gone is None or market.session_from(gone) != left:
        yield DELISTED, left
        return
    held = [day for day in market.days if trade["entry_session"] <= day < left and (code, day) in market.bars]
    last = market.price(code, held[-1], "close") if held else trade["entry_price"]
    if last is None or not _same(trade["exit_price"], last * (1.0 - haircut)):
        yield HAIRCUT, trade["exit_price"]


def _same(value: float | None, due: float | None) -> bool:
    """Whether a recorded number is the one that is due; an unknown one is not."""
    return value is not None and due is not None and abs(value - due) <= SAME * abs(due)
