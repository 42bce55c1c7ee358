"""Laws that every feature must obey: each function raises `LawBroken` with column, cut, values and remedy.

They compare stored values bit for bit on all rows of a market. `calculate` is the function under the law; the
default is the library's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import date

import numpy as np
import polars as pl

from pipeline.features.compute import compute
from pipeline.features.plan import Plan
from pipeline.features.spec import Family, Feature
from pipeline.frames import AsOf
from tests.features.panels import Market

KEY = ["session", "instrument"]
Calculate = Callable[[Market, Plan, Sequence[date]], pl.DataFrame]


class LawBroken(AssertionError):
    """A feature's value changed with something it must not depend on."""


def calculate_features(market: Market, plan: Plan, sessions: Sequence[date]) -> pl.DataFrame:
    return compute(AsOf(market.panel), market.patches, market.intraday, plan, sessions)


def cut(market: Market, first: date, last: date) -> Market:
    """The market as if nothing before `first` or after `last` had been stored."""
    inside = pl.col("session").is_between(first, last)
    return Market(
        market.panel.filter(inside),
        market.patches.filter(inside & (pl.col("effective_session") <= last)),
        market.intraday.filter(inside),
    )


def differences(expected: pl.DataFrame, found: pl.DataFrame, columns: Iterable[str]) -> list[tuple]:
    """(column, session, instrument, expected, found) of the first differing row of each column; bits
    count."""
    expected = expected.join(found.select(KEY), on=KEY, how="semi").sort(KEY)
    found = found.sort(KEY)
    if not expected.select(KEY).equals(found.select(KEY)):
        return [("session, instrument", *found.row(0)[:2], "the same rows", "other rows")]
    out = []
    for name in columns:
        a, b = (frame[name].fill_null(float("nan")).to_numpy() for frame in (expected, found))
        wrong = np.flatnonzero(a.view(np.uint32) != b.view(np.uint32))
        if len(wrong):
            out.append(
                (name, *found.select(KEY).row(int(wrong[0])), expected[name][int(wrong[0])], b[wrong[0]])
            )
    return out


def _require_equal(
    law: str, what: str, remedy: str, expected: pl.DataFrame, found: pl.DataFrame, columns
) -> None:
    broken = differences(expected, found, columns)
    if broken:
        name, session, instrument, a, b = broken[0]
        raise LawBroken(
            f"{law}: {name} of {instrument} on {session} is {a!r}, but {b!r} with {what}; "
            f"columns: {[row[0] for row in broken]}; remedy: {remedy}"
        )


def check_future_cut(plan: Plan, market: Market, calculate: Calculate = calculate_features) -> None:
    """A value is the same when nothing after its session exists."""
    sessions = market.sessions
    whole = calculate(market, plan, sessions)
    for last in sessions:
        part = calculate(cut(market, sessions[0], last), plan, [last])
        _require_equal(
            "cut the future",
            f"nothing stored after {last}",
            "read sessions at or before the decision",
            whole,
            part,
            plan.schema,
        )


def check_past_cut(plan: Plan, market: Market, calculate: Calculate = calculate_features) -> None:
    """A value is the same when nothing before its declared look-back exists."""
    sessions = market.sessions
    for family in plan.families:
        whole = calculate(market, Plan((family,)), sessions)
        for lookback in sorted({f.lookback for f in family.features}):
            names = [f.name for f in family.features if f.lookback == lookback]
            for t in range(lookback, len(sessions)):
                first = sessions[t - lookback + 1]
                part = calculate(cut(market, first, sessions[t]), Plan((family,)), [sessions[t]])
                _require_equal(
                    "cut the past",
                    f"nothing stored before {first}, {lookback} sessions",
                    "declare a longer lookback, or make the window fixed",
                    whole,
                    part,
                    names,
                )


def check_batch_range(plan: Plan, market: Market, calculate: Calculate = calculate_features) -> None:
    """A value is the same whichever other sessions are asked for with it."""
    sessions = market.sessions
    whole = calculate(market, plan, sessions)
    for days in (sessions[:1], sessions[-1:], sessions[30:51], sessions[5:80:7], sessions[-2::-9]):
        _require_equal(
            "change the range",
            f"{len(days)} sessions from {days[0]} asked for",
            "compute nothing over the sessions of the batch",
            whole,
            calculate(market, plan, days),
            plan.schema,
        )


def check_batch_order(plan: Plan, market: Market, calculate: Calculate = calculate_features) -> None:
    """A value is the same in whatever order rows arrive."""
    shuffled = Market(
        *(t.sample(fraction=1, shuffle=True, seed=5) for t in (market.panel, market.patches, market.intraday))
    )
    _require_equal(
        "change the order",
        "rows shuffled",
        "sum in key order",
        calculate(market, plan, market.sessions),
        calculate(shuffled, plan, market.sessions),
        plan.schema,
    )


def check_universe(plan: Plan, market: Market, calculate: Calculate = calculate_features) -> None:
    """A value of scope `instrument` is the same whichever other instruments exist."""
    columns = [f.name for f in plan.features if f.scope == "instrument"]
    whole = calculate(market, plan, market.sessions)
    names = market.panel["instrument"].unique().sort()
    for kept in (names[::2], names[1::2], names[:1]):
        inside = pl.col("instrument").is_in(kept.implode())
        part = Market(*(t.filter(inside) for t in (market.panel, market.patches, market.intraday)))
        _require_equal(
            "change the universe",
            f"{len(kept)} of {len(names)} instruments",
            "declare scope cross_section or market",
            whole,
            calculate(part, plan, part.sessions),
            columns,
        )


def check_min_bars(plan: Plan, market: Market, calculate: Calculate = calculate_features) -> None:
    """A value exists only where its look-back holds the declared number of bars."""
    unpatched = replace(market, patches=market.patches.clear())
    values = calculate(unpatched, plan, market.sessions).sort("instrument", "session")
    calendar = pl.DataFrame({"session": market.sessions}).join(
        market.panel.select("instrument").unique(), how="cross"
    )
    bars = calendar.join(market.panel.select(*KEY, bar=pl.col("close").is_not_null()), on=KEY, how="left")
    bars = bars.with_columns(pl.col("bar").fill_null(False).cast(pl.Int32)).sort("instrument", "session")
    for lookback in sorted({f.lookback for f in plan.features}):
        held = bars.select(*KEY, held=pl.col("bar").rolling_sum(lookback, min_samples=1).over("instrument"))
        joined = values.join(held, on=KEY, how="left")
        for f in (f for f in plan.features if f.lookback == lookback and f.scope != "market"):
            early = joined.filter(pl.col(f.name).is_not_null() & (pl.col("held") < f.min_bars))
            if len(early):
                raise LawBroken(
                    f"min_bars: {f.name} has the value {early[f.name][0]} on {early['session'][0]} with "
                    f"{early['held'][0]} bars, declared {f.min_bars}; remedy: count the bars first"
                )


def measured_lookback(
    family: Family,
    feature: Feature,
    market: Market,
    sessions: Sequence[date],
    calculate: Calculate = calculate_features,
) -> int:
    """The fewest sessions of history with which no value of `feature` on `sessions` changes."""
    days, plan = market.sessions, Plan((family,))
    whole = calculate(market, plan, sessions)

    def unchanged(lookback: int) -> bool:
        for day in sessions:
            t = days.index(day)
            part = calculate(cut(market, days[max(t - lookback + 1, 0)], day), plan, [day])
            if differences(whole, part, [feature.name]):
                return False
        return True

    low, high = 1, max(days.index(day) for day in sessions) + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if unchanged(middle) else (middle + 1, high)
    return low


LAWS = (
    check_future_cut,
    check_past_cut,
    check_batch_range,
    check_batch_order,
    check_universe,
    check_min_bars,
)
