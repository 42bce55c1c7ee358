"""Impossible fills, made on purpose: what a careless or dishonest backtest would write down. No judge here."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import islice
from typing import Any

import polars as pl

from assets.proof import raw_referee as rule
from assets.proof.raw_referee import RawMarket

Trade = dict[str, Any]
Forge = Callable[[Trade, RawMarket], Trade | None]


@dataclass(frozen=True)
class Forgery:
    """One kind.

    Parameters
    ----------
    kind : str
    among : polars expression
        Trades of the house that it is made from.
    forge : callable
        (honest trade, market) -> the forged one; None where this trade lends itself to none.
    breaks : str
        The rule that must be reported broken; others may break too.
    """

    kind: str
    among: pl.Expr
    forge: Forge
    breaks: str


def forged(forgery: Forgery, trades: pl.DataFrame, market: RawMarket, exit_session: int, most: int) -> pl.DataFrame:
    """Up to `most` forgeries of a kind, from trades drawn at random, each in a book of its own.

    Parameters
    ----------
    trades : pl.DataFrame
        What the house made of one book, with blocked and carried orders among them.
    exit_session : int
        Sessions from the decision to the target close.
    """
    drawn = trades.filter(forgery.among).sample(fraction=1.0, shuffle=True, seed=0)
    targets = (_ahead(market, day, exit_session) for day in drawn["session"])
    honest = (trade | {"target": target} for trade, target in zip(drawn.iter_rows(named=True), targets, strict=True))
    made = (forgery.forge(trade, market) for trade in honest)
    kept = list(islice((trade for trade in made if trade is not None), most))
    named = [{name: trade[name] for name in trades.columns} | {"book": f"forged {i}"} for i, trade in enumerate(kept)]
    return pl.DataFrame(named, schema=trades.schema)


def _ahead(market: RawMarket, day: date, sessions: int) -> date | None:
    """The session so far ahead, if it has rows."""
    place = bisect_left(market.days, day) + sessions
    found = market.days[place] if place < len(market.days) else None
    return found if found is not None and found <= market.last_day else None


def _return(trade: Trade) -> Trade:
    """The return that the forged prices would give."""
    return trade | {"gross_return": trade["exit_price"] / trade["entry_price"] - 1.0}


def _last_close(market: RawMarket, code: str, place: int) -> float | None:
    """The newest adjusted close before a session."""
    held = (market.price(code, market.days[i], "close") for i in range(place - 1, max(place - 60, -1), -1))
    return next((price for price in held if price is not None), None)


def _locked_open(trade: Trade, market: RawMarket) -> Trade | None:
    """Bought at the open that was refused, or at the last close where there is none; sold as soon as possible."""
    code, day = trade["instrument"], _ahead(market, trade["session"], 1)
    if day is None:
        return None
    place = bisect_left(market.days, day)
    price = market.price(code, day, "open") or _last_close(market, code, place)
    later = [] if trade["target"] is None else market.days[bisect_left(market.days, trade["target"]) :]
    out = next((later_day for later_day in later if not market.why_not(code, later_day, "close")), None)
    sold = None if out is None else market.price(code, out, "close")
    if price is None or sold is None:
        return None
    return _return(trade | {
        "status": "filled" if out == trade["target"] else "carried", "entry_session": day, "entry_price": price,
        "exit_session": out, "exit_price": sold})  # fmt: skip


def _locked_close(trade: Trade, market: RawMarket) -> Trade | None:
    """Sold at the target close although it was carried on; at the last close where there is none."""
    day, code = trade["target"], trade["instrument"]
    price = market.price(code, day, "close") or _last_close(market, code, bisect_left(market.days, day))
    if price is None:
        return None
    return _return(trade | {"status": "filled", "exit_session": day, "exit_price": price})


def _a_cent_better(trade: Trade, market: RawMarket) -> Trade | None:
    factor = market.factor(trade["instrument"], trade["entry_session"])
    return None if factor is None else _return(trade | {"entry_price": trade["entry_price"] - 0.01 * factor})


def _the_close_before(trade: Trade, market: RawMarket) -> Trade | None:
    price = market.price(trade["instrument"], trade["session"], "close")
    return None if price in (None, trade["entry_price"]) else _return(trade | {"entry_price": price})


def _distribution_missed(trade: Trade, market: RawMarket) -> Trade | None:
    """Sold at the raw close under the factor of the entry, across a change of the factor."""
    code, left = trade["instrument"], trade["exit_session"]
    before, after = market.factor(code, trade["entry_session"]), market.factor(code, left)
    if before is None or after is None or before == after:
        return None
    return _return(trade | {"exit_price": trade["exit_price"] / after * before})


def _moved(trade: Trade, market: RawMarket, decided: int, out: int) -> Trade | None:
    """The same security decided on at another place, at prices of its first or last bar."""
    if decided < 0 or out >= len(market.days):
        return None
    return _return(trade | {
        "session": market.days[decided], "entry_session": market.days[decided + 1], "exit_session": market.days[out],
        "status": "filled"})  # fmt: skip


def _before_listing(trade: Trade, market: RawMarket) -> Trade | None:
    """Bought on the session before its listing day, at the price of a later open."""
    start = market.listing[trade["instrument"]][0]
    place = bisect_left(market.days, start)
    return None if start <= market.days[2] else _moved(trade, market, place - 2, place + 1)


def _after_delisting(trade: Trade, market: RawMarket) -> Trade | None:
    """Bought on the day after its last one."""
    gone = market.listing[trade["instrument"]][1]
    place = None if gone is None else bisect_left(market.days, gone)
    return None if place is None else _moved(trade, market, place, place + 3)


def _sold_same_day(trade: Trade, market: RawMarket) -> Trade | None:
    day = trade["entry_session"]
    price = market.price(trade["instrument"], day, "close")
    return None if price is None else _return(trade | {"exit_session": day, "exit_price": price})


def _sold_early(trade: Trade, market: RawMarket) -> Trade | None:
    day = market.days[bisect_left(market.days, trade["target"]) - 1]
    price = market.price(trade["instrument"], day, "close")
    return None if price is None else _return(trade | {"exit_session": day, "exit_price": price})


def _better_close(trade: Trade, market: RawMarket) -> Trade | None:
    """Sold at the highest of the next five closes instead of the first one."""
    code, place = trade["instrument"], bisect_left(market.days, trade["exit_session"])
    days = market.days[place + 1 : place + 6]
    priced = [(price, day) for day in days if (price := market.price(code, day, "close")) is not None]
    if not priced or max(priced)[0] <= trade["exit_price"]:
        return None
    return _return(trade | {"status": "carried", "exit_price": max(priced)[0], "exit_session": max(priced)[1]})


def _no_haircut(trade: Trade, market: RawMarket) -> Trade | None:
    price = _last_close(market, trade["instrument"], bisect_left(market.days, trade["exit_session"]))
    return None if price is None else _return(trade | {"exit_price": price})


def _forgotten(trade: Trade, market: RawMarket) -> Trade | None:
    """Still in the book when its security is long gone."""
    return trade | {"status": "open", "exit_session": None, "exit_price": None, "gross_return": None}


def _sold_after_delisting(trade: Trade, market: RawMarket) -> Trade | None:
    price = _last_close(market, trade["instrument"], bisect_left(market.days, trade["exit_session"]))
    return None if price is None else _return(trade | {"status": "carried", "exit_price": price})


def _closed_day(trade: Trade, market: RawMarket) -> Trade | None:
    """Bought on the first day after the decision on which the exchange is shut."""
    shut = next(day for i in range(1, 10) if (day := trade["session"] + timedelta(days=i)) not in market.open_days)
    return trade | {"entry_session": shut}


def _later_open(trade: Trade, market: RawMarket) -> Trade | None:
    place = bisect_right(market.days, trade["entry_session"])
    price = market.price(trade["instrument"], market.days[place], "open")
    return None if price is None else _return(
        trade | {"entry_session": market.days[place], "entry_price": price})  # fmt: skip


_STATUS, _ENTRY, _EXIT = pl.col("status"), pl.col("entry_block"), pl.col("exit_block")
_FILLED, _GONE = _STATUS == "filled", _STATUS == "delisted"

FORGERIES = (
    Forgery("limit-up open bought", _ENTRY == "limit_up", _locked_open, rule.NOT_AT_UPPER),
    Forgery("limit-down open bought", _ENTRY == "limit_down", _locked_open, rule.NOT_AT_LOWER),
    Forgery("bought while suspended", _ENTRY == "suspended", _locked_open, rule.NOT_SUSPENDED),
    Forgery("limit-down close sold", _EXIT == "limit_down", _locked_close, rule.NOT_AT_LOWER),
    Forgery("limit-up close sold", _EXIT == "limit_up", _locked_close, rule.NOT_AT_UPPER),
    Forgery("sold while suspended", _EXIT == "suspended", _locked_close, rule.NOT_SUSPENDED),
    Forgery("bought a cent cheaper", _FILLED, _a_cent_better, rule.OPEN_PRICE),
    Forgery("bought at the close it was decided on", _FILLED, _the_close_before, rule.OPEN_PRICE),
    Forgery("bought a session later", _FILLED, _later_open, rule.NEXT_OPEN),
    Forgery("bought on a closed day", _FILLED, _closed_day, rule.OPEN_DAY),
    Forgery("bought before its listing", _FILLED, _before_listing, rule.LISTED),
    Forgery("bought after its delisting", _FILLED, _after_delisting, rule.LISTED),
    Forgery("sold on the day of its purchase", _FILLED, _sold_same_day, rule.T_PLUS_ONE),
    Forgery("sold a session early", _FILLED, _sold_early, rule.AT_TARGET),
    Forgery("a better close waited for", _FILLED, _better_close, rule.FIRST_CLOSE),
    Forgery("sold at a price without its distribution", _FILLED, _distribution_missed, rule.CLOSE_PRICE),
    Forgery("a delisted position without its haircut", _GONE, _no_haircut, rule.HAIRCUT),
    Forgery("a delisted position forgotten", _GONE, _forgotten, rule.DELISTED),
    Forgery("a delisted position sold", _GONE, _sold_after_delisting, rule.LISTED),
)
"""The rule that each breaks is the one without which it would look like an honest trade."""
