"""Laws that every minute feature must obey, on any stored minutes, bit for bit. Each red is a `LawBroken`.

Not here: which minutes, how many cuts, and what a person is shown. Features are found by their registration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

import polars as pl

from pipeline.errors import LawBroken
from pipeline.features.laws import differing
from pipeline.features.minutes.compute import minute_features
from pipeline.features.minutes.schema import lookback, select
from pipeline.frames import MINUTE_ROW as KEY

Difference = tuple[str, str, datetime, object, object]
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class MinuteInputs:
    """The frames that `minute_features` reads."""

    bars: pl.DataFrame
    books: pl.DataFrame
    funding: pl.DataFrame

    def cut(self, first: datetime | None, last: datetime) -> MinuteInputs:
        """As if nothing had been known before minute `first` opened, or after minute `last` had closed."""
        inside, known = pl.col("minute") <= last, pl.col("funding_time") <= last + _MINUTE
        if first is not None:
            inside, known = inside & (pl.col("minute") >= first), known & (pl.col("funding_time") >= first)
        return MinuteInputs(self.bars.filter(inside), self.books.filter(inside), self.funding.filter(known))

    def only(self, instruments: pl.Series) -> MinuteInputs:
        """As if no other instrument had been stored."""
        inside = pl.col("instrument").is_in(instruments.implode())
        return MinuteInputs(*(frame.filter(inside) for frame in (self.bars, self.books, self.funding)))

    def shuffled(self, seed: int) -> MinuteInputs:
        """The same rows in another order."""
        frames = (self.bars, self.books, self.funding)
        return MinuteInputs(*(frame.sample(fraction=1, shuffle=True, seed=seed) for frame in frames))


Calculate = Callable[[MinuteInputs, Sequence[str]], pl.DataFrame]


def calculate_features(inputs: MinuteInputs, names: Sequence[str]) -> pl.DataFrame:
    """The library's own `minute_features`; a law may be handed another function to judge."""
    return minute_features(inputs.bars, inputs.books, inputs.funding, names)


def differences(expected: pl.DataFrame, found: pl.DataFrame, columns: Iterable[str]) -> list[Difference]:
    """The first differing row of each column: (column, instrument, minute, expected, found); bits count."""
    return differing(expected, found, columns, KEY, KEY[1:])


def _require_equal(
    subject: MinuteSubject, law: str, what: str, remedy: str, found: pl.DataFrame, columns: Sequence[str]
) -> None:
    broken = differences(subject.whole, found, columns)
    if broken:
        name, instrument, minute, a, b = broken[0]
        others = f"; {len(broken)} columns: {', '.join(row[0] for row in broken[:8])}" if broken[1:] else ""
        raise LawBroken(law, f"{name} of {instrument} at {minute} is {a!r}, but {b!r} with {what}{others}", remedy)


@dataclass(frozen=True)
class MinuteSubject:
    """What stands under the laws.

    Parameters
    ----------
    inputs : MinuteInputs
    cuts : tuple of datetime
        Minutes (opens) at which history is cut.
    names : tuple of str
        Features that are judged; all of the schema by default.
    calculate : callable
    compare : callable
        (subject, law, what was changed, remedy, rows found, columns): what a law does with each comparison. By default
        the first difference is a `LawBroken`; a certificate counts them.
    """

    inputs: MinuteInputs
    cuts: tuple[datetime, ...]
    names: tuple[str, ...] = ()
    calculate: Calculate = calculate_features
    compare: Callable[[MinuteSubject, str, str, str, pl.DataFrame, Sequence[str]], None] = _require_equal

    @cached_property
    def judged(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in select(self.names or None))

    @cached_property
    def first(self) -> datetime:
        """The first minute stored."""
        return self.inputs.bars["minute"].min()  # type: ignore[return-value]

    @cached_property
    def whole(self) -> pl.DataFrame:
        """The features of every minute, with everything stored."""
        return self.calculate(self.inputs, self.judged)

    def window(self, cut: datetime, minutes: int, names: Sequence[str]) -> pl.DataFrame:
        """The features of minute `cut`, with only `minutes` minutes up to it stored."""
        part = self.inputs.cut(cut - (minutes - 1) * _MINUTE, cut)
        return self.calculate(part, names).filter(pl.col("minute") == cut)


def check_future_cut(subject: MinuteSubject) -> None:
    """Values are the same when nothing after their minute's close is stored."""
    for cut in subject.cuts:
        subject.compare(
            subject,
            "a value is the same without the future",
            f"nothing stored after the close of {cut}",
            "read what is known one minute after the open only",
            subject.calculate(subject.inputs.cut(None, cut), subject.judged),
            subject.judged,
        )


def check_past_cut(subject: MinuteSubject) -> None:
    """A value is the same when nothing before its declared look-back is stored."""
    features = select(subject.judged)
    for minutes in sorted({feature.lookback for feature in features}):
        names = [feature.name for feature in features if feature.lookback == minutes]
        for cut in (cut for cut in subject.cuts if cut - minutes * _MINUTE >= subject.first):
            subject.compare(
                subject,
                "a value is the same without what lies before its look-back",
                f"only {minutes} minutes stored",
                "declare a longer lookback, or give the window a fixed length",
                subject.window(cut, minutes, names),
                names,
            )


def check_batch_range(subject: MinuteSubject) -> None:
    """A value is the same whichever other minutes are computed with it, given its warm-up."""
    warm_up = lookback(subject.judged) * _MINUTE
    for start, end in zip(subject.cuts[:-1], subject.cuts[1:], strict=True):
        found = subject.calculate(subject.inputs.cut(start - warm_up, end), subject.judged)
        subject.compare(
            subject,
            "a value is the same in any batch of minutes",
            f"minutes from {start} to {end} asked for",
            "compute nothing over the minutes of the batch",
            found.filter(pl.col("minute") >= start),
            subject.judged,
        )


def check_batch_order(subject: MinuteSubject) -> None:
    """A value is the same in whatever order rows arrive."""
    subject.compare(
        subject,
        "a value is the same in any order of rows",
        "rows shuffled",
        "read in key order, and let ties be decided by the key",
        subject.calculate(subject.inputs.shuffled(seed=5), subject.judged),
        subject.judged,
    )


def check_universe(subject: MinuteSubject) -> None:
    """A value is the same whichever other instruments are stored."""
    names = subject.inputs.bars["instrument"].unique().sort()
    for kept in (names[:1], names[1:]):
        if len(kept):
            subject.compare(
                subject,
                "a value is the same in any universe",
                f"{len(kept)} of {len(names)} instruments",
                "read no other instrument",
                subject.calculate(subject.inputs.only(kept), subject.judged),
                subject.judged,
            )


LAWS: tuple[Callable[[MinuteSubject], None], ...] = (
    check_future_cut,
    check_past_cut,
    check_batch_range,
    check_batch_order,
    check_universe,
)


def measured_lookbacks(subject: MinuteSubject) -> dict[str, int]:
    """Feature -> the fewest minutes of history with which its values at the cuts keep their bits.

    One bisection for all features at once: a history length is computed once, whoever asks for it.
    """
    names = subject.judged
    most = int((max(subject.cuts) - subject.first) / _MINUTE) + 1
    low, high = dict.fromkeys(names, 1), dict.fromkeys(names, most)
    while open_ := [name for name in names if low[name] < high[name]]:
        middle = {name: (low[name] + high[name]) // 2 for name in open_}
        for minutes in set(middle.values()):
            asked = [name for name in open_ if middle[name] == minutes]
            short = _changed(subject, minutes, asked)
            low |= dict.fromkeys(short, minutes + 1)
            high |= {name: minutes for name in asked if name not in short}
    return low


def _changed(subject: MinuteSubject, minutes: int, names: list[str]) -> set[str]:
    """Features of which some value at a cut differs with only `minutes` minutes stored."""
    changed: set[str] = set()
    for cut in subject.cuts:
        rest = [name for name in names if name not in changed]
        if rest:
            changed |= {row[0] for row in differences(subject.whole, subject.window(cut, minutes, rest), rest)}
    return changed
