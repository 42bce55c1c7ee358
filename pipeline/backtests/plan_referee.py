"""A second opinion on every trade under a price plan: its bars walked one by one, with no code of the labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import polars as pl

from pipeline.errors import BadInput
from pipeline.frames import MINUTE_ROW as _KEY
from pipeline.frames import Hindsight, hindsight, require_columns, require_unique
from pipeline.labels.price_plan import DYNAMIC, FIXED, PricePlan

TOLERANCE = 1e-9
"""Bps, and relative above 1 bp: both sides compute in float64, perhaps in another order."""

MINUTE = timedelta(minutes=1)
_BARS: Final = (*_KEY, "high", "low", "close")
_TRADE: Final = (
    *_KEY, "side", "entry_at", "exit_at", "gross_edge_bps", "actual_edge_bps", "planned_ratio", "weighted_edge_bps",
    "target_hit", "stop_hit", "timeout_hit", "minutes_to_exit", "price_plan_hash",
)  # fmt: skip

Prices = Mapping[datetime, tuple[float, float, float]]
Broken = Iterator[tuple[str, object]]


@dataclass(frozen=True)
class Walked:
    """What the bars say of one trade: minutes to its exit, gross edge in bps, how it ended."""

    minutes: int
    gross: float
    target: bool
    stop: bool
    timeout: bool


def impossible_trades(
    trades: pl.DataFrame, bars: Hindsight, plan: PricePlan, cooldown_minutes: int
) -> pl.DataFrame:
    """Trades that could not have happened as written.

    Parameters
    ----------
    trades : pl.DataFrame
        `positions.trades.TRADE_SCHEMA` (`book` is kept).
    bars : Hindsight
        Panel rows in final truth: session, instrument, minute (its open), high, low, close. A row without all three
        prices is no bar.
    plan : PricePlan
        Its numbers; nothing is asked of it.
    cooldown_minutes : int
        Least wait between an exit and the next entry of a symbol in a book; an entry exactly then is allowed.

    Returns
    -------
    pl.DataFrame
        [book,] session, instrument, minute, side, rule, observed: one row per broken rule, empty when all is well.
        Rules: the plan is this one; the decision minute lies in its session and has a bar; entry at its close; no
        minute is missing until the exit; exit instant, gross, net and weighted edge and the way it ended are those of
        the bars; one position a symbol and book, with the cooldown.

    Raises
    ------
    SchemaError, KeyViolation, BadInput
        A column is absent; a trade's key is null or doubled; the plan's method is unknown here.
    """
    if plan.entry_plan_method not in (FIXED, DYNAMIC):
        raise BadInput("the referee knows how the plan's method ends a trade", plan.entry_plan_method,
                       f"use {FIXED} or {DYNAMIC}")
    require_columns(trades, _TRADE, "impossible_trades")
    frame = hindsight(bars)
    require_columns(frame, _BARS, "impossible_trades")
    ids = [c for c in trades.columns if c in ("book", *_KEY, "side")]
    require_unique(trades, ids, "trades")
    prices = _prices(frame, set(trades["instrument"].unique()))
    found = []
    for trade in trades.iter_rows(named=True):
        broken = _judge(trade, prices.get(trade["instrument"], {}), plan)
        found += [(*(trade[c] for c in ids), rule, str(observed)) for rule, observed in broken]
    for trade, before in _too_soon(trades, timedelta(minutes=cooldown_minutes)):
        found.append((*(trade[c] for c in ids), "a symbol holds one position at a time, with the cooldown between",
                      f"entry {trade['entry_at']}, the one before left at {before}"))
    schema = {c: trades.schema[c] for c in ids} | {"rule": pl.String, "observed": pl.String}
    return pl.DataFrame(found, schema=schema, orient="row").sort(*ids, "rule")


def _prices(bars: pl.DataFrame, instruments: set[str]) -> dict[str, Prices]:
    """Instrument -> minute -> (high, low, close)."""
    whole = pl.all_horizontal(pl.col(c).is_finite() & (pl.col(c) > 0) for c in ("high", "low", "close"))
    asked = bars.select(_BARS).filter(whole, pl.col("instrument").is_in(sorted(instruments)))
    return {
        str(name): dict(zip(part["minute"], zip(part["high"], part["low"], part["close"], strict=True), strict=True))
        for (name,), part in asked.partition_by("instrument", as_dict=True).items()
    }


def _judge(trade: Mapping[str, Any], prices: Prices, plan: PricePlan) -> Broken:
    """Rules that one trade breaks by itself."""
    if trade["price_plan_hash"] != plan.price_plan_hash:
        yield "a trade was made under this plan", trade["price_plan_hash"]
    if trade["side"] not in ("LONG", "SHORT"):
        yield "a side is LONG or SHORT", trade["side"]
        return
    if trade["session"] != trade["minute"].date():
        yield "the session is the UTC day of the decision minute", trade["session"]
    if trade["entry_at"] != trade["minute"] + MINUTE:
        yield "the entry is at the close of the decision minute", trade["entry_at"]
    if trade["minute"] not in prices:
        yield "the decision minute has a bar", trade["minute"]
        return
    walked = _walk(trade["minute"], trade["side"] == "LONG", prices, plan)
    if isinstance(walked, datetime):
        yield "no minute is missing from the entry to the exit", walked
        return
    yield from _compare(trade, walked, plan.cost_bps)


def _compare(trade: Mapping[str, Any], walked: Walked, cost: float) -> Broken:
    """Recorded values that are not those of the bars."""
    left = trade["minute"] + MINUTE * (1 + walked.minutes)
    if trade["exit_at"] != left or not _near(trade["minutes_to_exit"], walked.minutes):
        observed = f"{trade['exit_at']} after {trade['minutes_to_exit']} minutes, the bars say {left}"
        yield "the exit is when the bars reach it", observed
    net = walked.gross - cost
    for name, due in (("gross_edge_bps", walked.gross), ("actual_edge_bps", net)):
        if not _near(trade[name], due):
            yield f"{name} is what the bars and the plan's cost give", f"{trade[name]}, the bars say {due}"
    if not _near(trade["weighted_edge_bps"], trade["actual_edge_bps"] * trade["planned_ratio"]):
        yield "weighted_edge_bps is the net edge times the planned ratio", trade["weighted_edge_bps"]
    ended = {"target_hit": walked.target, "stop_hit": walked.stop, "timeout_hit": walked.timeout}
    said = {name: trade[name] for name in ended}
    if said != ended:
        yield "a trade ends as the bars say", f"{said}, the bars say {ended}"


def _near(value: float | None, due: float) -> bool:
    """Whether a recorded number is the one that is due; no number and NaN are not."""
    return value is not None and math.isclose(value, due, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _too_soon(trades: pl.DataFrame, cooldown: timedelta) -> Iterator[tuple[dict[str, Any], datetime]]:
    """Trades that enter before the latest earlier exit of their book and symbol plus the cooldown, and that exit."""
    by = [c for c in ("book", "instrument") if c in trades.columns]
    timed = trades.drop_nulls(["entry_at", "exit_at"])  # the others break rules of their own
    for part in timed.sort(*by, "entry_at", "minute", "side").partition_by(by):
        latest: datetime | None = None
        for trade in part.iter_rows(named=True):
            if latest is not None and trade["entry_at"] < latest + cooldown:
                yield trade, latest
            latest = trade["exit_at"] if latest is None else max(latest, trade["exit_at"])


def _walk(decided: datetime, long: bool, prices: Prices, plan: PricePlan) -> Walked | datetime:
    """The trade entered at a minute's close, or the first minute it would need and does not find."""
    walk = _fixed if plan.entry_plan_method == FIXED else _dynamic
    return walk(decided, long, prices, plan)


def _moved(long: bool, entry: float, price: float) -> float:
    """The move in bps, a ratio seen from the side that gains."""
    return (price / entry - 1.0) * 1e4 if long else (entry / price - 1.0) * 1e4


def _level(long: bool, price: float, better_bps: float) -> float:
    """A price that lies `better_bps` above (LONG) or below (SHORT) another; negative: on the losing side."""
    return price * (1.0 + better_bps / 1e4) if long else price * (1.0 - better_bps / 1e4)


def _fixed(decided: datetime, long: bool, prices: Prices, plan: PricePlan) -> Walked | datetime:
    """First barrier touched; the stop where one bar touches both; else the close of the last minute."""
    entry = prices[decided][2]
    target = _level(long, entry, plan.target_distance_bps)
    stop = _level(long, entry, -plan.stop_distance_bps)
    for k in range(1, plan.max_hold_minutes + 1):
        bar = prices.get(decided + k * MINUTE)
        if bar is None:
            return decided + k * MINUTE
        high, low, close = bar
        if (low <= stop) if long else (high >= stop):
            return Walked(k, -plan.stop_distance_bps, False, True, False)
        if (high >= target) if long else (low <= target):
            return Walked(k, plan.target_distance_bps, True, False, False)
    return Walked(plan.max_hold_minutes, _moved(long, entry, close), False, False, True)


def _dynamic(decided: datetime, long: bool, prices: Prices, plan: PricePlan) -> Walked | datetime:
    """Two takes; the stop is tested first in each bar, and trails the best price of the bars before it after take 1."""
    entry = best = prices[decided][2]
    first, second = (_level(long, entry, bps) for bps in (plan.target_distance_bps, plan.second_target_bps))
    held, banked, took_one, took_two = 1.0, 0.0, False, False
    for k in range(1, plan.max_hold_minutes + 1):
        bar = prices.get(decided + k * MINUTE)
        if bar is None:
            return decided + k * MINUTE
        high, low, close = bar
        stop = _trailing_stop(long, entry, best, plan) if took_one else _level(long, entry, -plan.stop_distance_bps)
        if (low <= stop) if long else (high >= stop):
            return Walked(k, banked + held * _moved(long, entry, stop), took_one, not took_one, False)
        if not took_one and ((high >= first) if long else (low <= first)):
            took_one = True
            banked, held = banked + plan.partial_take1_ratio * plan.target_distance_bps, held - plan.partial_take1_ratio
        if took_one and not took_two and ((high >= second) if long else (low <= second)):
            took_two = True
            part = min(plan.partial_take2_ratio, held)
            banked, held = banked + part * plan.second_target_bps, held - part
        if held <= TOLERANCE:
            return Walked(k, banked, took_one, False, False)
        best = max(best, high) if long else min(best, low)
    return Walked(plan.max_hold_minutes, banked + held * _moved(long, entry, close), took_one, False, True)


def _trailing_stop(long: bool, entry: float, best: float, plan: PricePlan) -> float:
    stop = _level(long, best, -plan.trailing_stop_bps)
    if plan.breakeven_after_first_target:
        stop = max(stop, entry) if long else min(stop, entry)
    return stop
