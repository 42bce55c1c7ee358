"""Laws that every feature must obey, on any stored market, bit for bit. Each red is a `LawBroken`.

Not here: which markets, how many cuts, and what a person is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from pipeline.errors import LawBroken
from pipeline.features.compute import compute
from pipeline.features.history import KEY
from pipeline.features.plan import Plan
from pipeline.frames import AsOf

Difference = tuple[str, date, str, object, object]


@dataclass(frozen=True)
class FeatureInputs:
    """The tables that `compute` reads, with their columns as in `docs/architecture.md`."""

    panel: pl.DataFrame
    patches: pl.DataFrame
    intraday: pl.DataFrame

    @property
    def sessions(self) -> list[date]:
        return self.panel["session"].unique().sort().to_list()

    @property
    def as_of(self) -> AsOf:
        return AsOf(self.panel)

    def cut(self, first: date, last: date) -> FeatureInputs:
        """As if nothing before `first` or after `last` had been stored."""
        inside = pl.col("session").is_between(first, last)
        return FeatureInputs(
            self.panel.filter(inside),
            self.patches.filter(inside & (pl.col("effective_session") <= last)),
            self.intraday.filter(inside),
        )

    def only(self, instruments: pl.Series) -> FeatureInputs:
        """As if no other instrument had been stored."""
        inside = pl.col("instrument").is_in(instruments.implode())
        return FeatureInputs(*(table.filter(inside) for table in (self.panel, self.patches, self.intraday)))

    def shuffled(self, seed: int) -> FeatureInputs:
        """The same rows in another order."""
        tables = (self.panel, self.patches, self.intraday)
        return FeatureInputs(*(table.sample(fraction=1, shuffle=True, seed=seed) for table in tables))


Calculate = Callable[[FeatureInputs, Plan, Sequence[date]], pl.DataFrame]


def calculate_features(inputs: FeatureInputs, plan: Plan, sessions: Sequence[date]) -> pl.DataFrame:
    """The library's own `compute`; a law may be handed another function to judge."""
    return compute(inputs.as_of, inputs.patches, inputs.intraday, plan, sessions)


def differences(expected: pl.DataFrame, found: pl.DataFrame, columns: Iterable[str]) -> list[Difference]:
    """The first differing row of each column: (column, session, instrument, expected, found); bits count."""
    return differing(expected, found, columns, KEY, KEY)


def differing(
    expected: pl.DataFrame, found: pl.DataFrame, columns: Iterable[str], key: Sequence[str], shown: Sequence[str]
) -> list[Any]:
    """The same for rows of any key: the column, the `shown` part of the key, both values.

    Rows of `expected` that `found` lacks are left out, so that a part can be held against the whole.
    """
    expected = expected.join(found.select(key), on=list(key), how="semi").sort(key)
    found = found.sort(key)
    if not expected.select(key).equals(found.select(key)):
        return [(", ".join(shown), *found.select(shown).row(0), "the same rows", "other rows")]
    out = []
    for name in columns:
        wrong = differing_rows(expected[name], found[name])
        if len(wrong):
            at = int(wrong[0])
            out.append((name, *found.select(shown).row(at), expected[name][at], found[name][at]))
    return out


def differing_rows(expected: pl.Series, found: pl.Series) -> np.ndarray:
    """Positions at which two float columns of one length differ in any bit; null is NaN."""
    a, b = (column.fill_null(float("nan")).to_numpy() for column in (expected, found))
    bits = f"u{a.itemsize}"
    return np.flatnonzero(a.view(bits) != b.view(bits))


def _require_equal(
    subject: Subject, law: str, what: str, remedy: str, found: pl.DataFrame, columns: Sequence[str]
) -> None:
    broken = differences(subject.whole, found, columns)
    if broken:
        name, session, instrument, a, b = broken[0]
        others = f"; {len(broken)} columns: {', '.join(row[0] for row in broken[:8])}" if broken[1:] else ""
        raise LawBroken(law, f"{name} of {instrument} on {session} is {a!r}, but {b!r} with {what}{others}", remedy)


@dataclass(frozen=True)
class Subject:
    """What stands under the laws.

    Parameters
    ----------
    plan : Plan
        Its features are computed together.
    inputs : FeatureInputs
    columns : tuple of str
        Features that are judged; all of the plan's by default.
    cuts : tuple of date
        Sessions at which history is cut; every session by default.
    calculate : callable
    compare : callable
        (subject, law, what was changed, remedy, rows found, columns): what a law does with each comparison. By default
        the first difference is a `LawBroken`; a certificate counts them.
    """

    plan: Plan
    inputs: FeatureInputs
    columns: tuple[str, ...] = ()
    cuts: tuple[date, ...] = ()
    calculate: Calculate = calculate_features
    compare: Callable[[Subject, str, str, str, pl.DataFrame, Sequence[str]], None] = _require_equal

    @cached_property
    def sessions(self) -> list[date]:
        return self.inputs.sessions

    @cached_property
    def judged(self) -> tuple[str, ...]:
        return self.columns or self.plan.schema

    @cached_property
    def cut_at(self) -> list[int]:
        """Positions of the cuts among the sessions."""
        place = {day: i for i, day in enumerate(self.sessions)}
        return [place[day] for day in self.cuts] if self.cuts else list(range(len(self.sessions)))

    @cached_property
    def whole(self) -> pl.DataFrame:
        """The features of every session, with everything stored."""
        return self.calculate(self.inputs, self.plan, self.sessions)

    def window(self, plan: Plan, at: int, lookback: int) -> pl.DataFrame:
        """The features of the session at a position, with only `lookback` sessions up to it stored."""
        first, last = self.sessions[max(at - lookback + 1, 0)], self.sessions[at]
        return self.calculate(self.inputs.cut(first, last), plan, [last])


def check_future_cut(subject: Subject) -> None:
    """A value is the same when nothing after its session is stored."""
    for at in subject.cut_at:
        last = subject.sessions[at]
        subject.compare(
            subject,
            "a value is the same without the future",
            f"nothing stored after {last}",
            "read sessions at or before the decision only",
            subject.window(subject.plan, at, at + 1),
            subject.judged,
        )


def check_past_cut(subject: Subject) -> None:
    """A value is the same when nothing before its declared look-back is stored."""
    for family in subject.plan.families:
        judged = [f for f in family.features if f.name in subject.judged]
        for lookback in sorted({f.lookback for f in judged}):
            names = [f.name for f in judged if f.lookback == lookback]
            for at in (at for at in subject.cut_at if at >= lookback):
                subject.compare(
                    subject,
                    "a value is the same without what lies before its look-back",
                    f"nothing stored before {subject.sessions[at - lookback + 1]}, {lookback} sessions",
                    "declare a longer lookback, or give the window a fixed length",
                    subject.window(Plan((family,)), at, lookback),
                    names,
                )


def check_batch_range(subject: Subject) -> None:
    """A value is the same whichever other sessions are asked for with it."""
    sessions, third = subject.sessions, len(subject.sessions) // 3
    for days in (sessions[:1], sessions[-1:], sessions[third : 2 * third], sessions[5::7], sessions[-2::-9]):
        if days:
            subject.compare(
                subject,
                "a value is the same in any batch of sessions",
                f"{len(days)} sessions from {days[0]} asked for",
                "compute nothing over the sessions of the batch",
                subject.calculate(subject.inputs, subject.plan, days),
                subject.judged,
            )


def check_batch_order(subject: Subject) -> None:
    """A value is the same in whatever order rows arrive."""
    subject.compare(
        subject,
        "a value is the same in any order of rows",
        "rows shuffled",
        "read in key order, and let ties be decided by the key",
        subject.calculate(subject.inputs.shuffled(seed=5), subject.plan, subject.sessions),
        subject.judged,
    )


def check_universe(subject: Subject) -> None:
    """A value of scope `instrument` is the same whichever other instruments exist."""
    columns = [f.name for f in subject.plan.features if f.scope == "instrument" and f.name in subject.judged]
    names = subject.inputs.panel["instrument"].unique().sort()
    for kept in (names[::2], names[1::2], names[:1]):
        if columns and len(kept):
            part = subject.inputs.only(kept)
            subject.compare(
                subject,
                "a value of scope instrument is the same in any universe",
                f"{len(kept)} of {len(names)} instruments",
                "declare scope cross_section or market, or read no other instrument",
                subject.calculate(part, subject.plan, part.sessions),
                columns,
            )


def check_min_bars(subject: Subject) -> None:
    """A value exists only where its look-back holds the declared number of bars."""
    # Late rows would add bars that the panel does not show, so this law looks at the panel alone.
    bare = replace(subject.inputs, patches=subject.inputs.patches.clear())
    values = subject.calculate(bare, subject.plan, subject.sessions)
    panel = bare.panel
    calendar = pl.DataFrame({"session": subject.sessions}).join(panel.select("instrument").unique(), how="cross")
    bars = (
        calendar.join(panel.select(*KEY, bar=pl.col("close").is_not_null()), on=list(KEY), how="left")
        .with_columns(pl.col("bar").fill_null(False).cast(pl.Int32))
        .sort("instrument", "session")
    )
    judged = [f for f in subject.plan.features if f.name in subject.judged and f.scope != "market" and f.min_bars]
    for lookback in sorted({f.lookback for f in judged}):
        held = bars.select(*KEY, held=pl.col("bar").rolling_sum(lookback, min_samples=1).over("instrument"))
        joined = values.join(held, on=list(KEY), how="left")
        for f in (f for f in judged if f.lookback == lookback):
            early = joined.filter(pl.col(f.name).is_not_null() & (pl.col("held") < f.min_bars))
            if len(early):
                row = early.row(0, named=True)
                raise LawBroken(
                    f"a value needs its {f.min_bars} bars",
                    f"{f.name} of {row['instrument']} on {row['session']} is {row[f.name]!r} with "
                    f"{row['held']} bars in {lookback} sessions",
                    "count the bars first, or declare a smaller min_bars",
                )


LAWS: tuple[Callable[[Subject], None], ...] = (
    check_future_cut,
    check_past_cut,
    check_batch_range,
    check_batch_order,
    check_universe,
    check_min_bars,
)


def measured_lookbacks(subject: Subject) -> dict[str, int]:
    """Feature -> the fewest sessions of history with which its values at the cuts keep their bits.

    One bisection for all features at once: a history length is computed once, whoever asks for it.
    """
    found: dict[str, int] = {}
    for family in subject.plan.families:
        plan = Plan((family,))
        names = [name for name in plan.schema if name in subject.judged]
        low, high = dict.fromkeys(names, 1), dict.fromkeys(names, max(subject.cut_at) + 1)
        while open_ := [name for name in names if low[name] < high[name]]:
            middle = {name: (low[name] + high[name]) // 2 for name in open_}
            for lookback in set(middle.values()):
                asked = [name for name in open_ if middle[name] == lookback]
                short = _changed(subject, plan, lookback, asked)
                low |= dict.fromkeys(short, lookback + 1)
                high |= {name: lookback for name in asked if name not in short}
        found |= low
    return found


def _changed(subject: Subject, plan: Plan, lookback: int, names: list[str]) -> set[str]:
    """Features of which some value at a cut differs with only `lookback` sessions stored."""
    changed: set[str] = set()
    for at in subject.cut_at:
        rest = [name for name in names if name not in changed]
        if rest:
            changed |= {row[0] for row in differences(subject.whole, subject.window(plan, at, lookback), rest)}
    return changed
