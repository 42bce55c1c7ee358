"""Where a number of a minute's row comes from: bars, book and funding up to the minute's close, and their vendor rows.

Its decision is `asof/minutes.py`: a minute's own row as known at its close, earlier ones with the corrections of the
days before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any

import polars as pl

from assets import arguments
from assets.console import cell, counted, table
from assets.raw_rows import Read, known_by, print_raw
from pipeline.asof.minutes import BARS, BOOKS, FUNDING, KLINES, MINUTE_MEASURES, apply_minute_patches
from pipeline.errors import BadInput
from pipeline.features.minutes.compute import minute_features
from pipeline.features.minutes.laws import MinuteInputs
from pipeline.features.minutes.plan import READS
from pipeline.features.minutes.spec import Source
from pipeline.frames import MINUTE
from pipeline.stages.contract import months
from pipeline.stages.minutes import UNUSABLE, minute_plan
from resources.environments import Environment

A_MINUTE = timedelta(minutes=1)
A_DAY = timedelta(days=1)
AN_INSTANT = timedelta(microseconds=1)
VENDOR = {"trades": "count", "taker_buy_quote": "taker_buy_quote_volume"}
BEST = tuple(f"{side}_0_{what}" for side in ("bid", "ask") for what in ("price", "size"))
RATE = ("funding_interval_hours", "last_funding_rate")
BAR_COLUMNS = tuple(VENDOR.get(name, name) for name in BARS)
SOURCES: Mapping[Source, tuple[str, tuple[str, ...]]] = {
    "bars": (KLINES, BAR_COLUMNS),
    "spread": (BOOKS, BEST),
    "books": (BOOKS, BEST),
    "funding": (FUNDING, RATE),
}
"""Source of a feature -> vendor table, and the columns shown of it; of a book only its best level, of twenty."""
LABEL_INPUTS = ("high", "low", "close", "spread_bps")


@dataclass(frozen=True)
class Window:
    """What a column reads: sources of the minutes that open from `first` to `last`; labels read in hindsight."""

    sources: tuple[Source, ...]
    inputs: tuple[str, ...]
    first: datetime
    last: datetime
    hindsight: bool = False

    @property
    def minutes(self) -> int:
        return (self.last - self.first) // A_MINUTE + 1


class MinuteTrace:
    """One symbol at one minute; its decision falls when the minute closes."""

    def __init__(self, environment: Environment, code: str, minute: str) -> None:
        self.environment = environment
        self.minute = arguments.minute(environment, minute)
        self.instrument = arguments.instrument(environment, code)
        self.key: dict[str, Any] = {
            "session": self.minute.date(), "instrument": self.instrument, MINUTE: self.minute
        }  # fmt: skip
        self.where = f"of {self.instrument} at {spoken(self.minute)}"
        self.typed = f"{self.instrument} {spoken(self.minute)}"

    def print_label(self, row: Mapping[str, Any]) -> None:
        """How the price plan would have ended on either side, and the span of everything the label looked at."""
        print(f"entry       at the close of the minute, {spoken(self.minute + A_MINUTE)}; plan {row['price_plan_id']}, "
              f"cost {row['cost_bps']:g} bps")  # fmt: skip
        for side in ("long", "short"):
            print(f"{side:<11} {outcome(row, side)}")
        print(f"span        [{spoken(row['label_start'])}, {spoken(row['label_end'])})")

    def print_window(self, asset: str, column: str, row: Mapping[str, Any]) -> None:
        """When the decision falls, and the minutes that the number reads."""
        window = self._window(asset, column, row)
        if window.hindsight:
            print("known       in hindsight: a label reads the newest version of what happened after its decision")
        else:
            print(f"decided     {spoken(self.minute + A_MINUTE)} UTC, when the minute closed; reads only what was "
                  "known by then, and corrections of the days before")  # fmt: skip
        print(f"window      {spoken(window.first)}..{spoken(window.last)}, {counted(window.minutes, 'minute')}")
        print(f"inputs      {', '.join(window.inputs)}")

    def rebuilt(self, column: str, stored: object, rows: int) -> bool:
        """The panel rows that the decision saw, and the feature computed from them alone again."""
        window = self._window("features", column, {})
        inputs = self.inputs(window.first, window.last)
        self._print_panel(inputs.bars, window, rows)
        again = minute_features(inputs.bars, inputs.books, inputs.funding, [column]).filter(**self.key)
        value = again[column][0] if len(again) else None
        verdict = "equal bit for bit" if value == stored else "DIFFERENT"
        print(f"\nrebuilt     {value} from the panel stored now: {verdict}")
        return bool(value == stored)

    def print_raw(self, asset: str, column: str, row: Mapping[str, Any], rows: int) -> None:
        """Vendor rows of the window."""
        window = self._window(asset, column, row)
        reads: dict[str, Read] = {}
        for source in window.sources:
            name, columns = SOURCES[source]
            # Settlements have instants of their own: those before the decision count, one at it does not.
            last = window.last + A_MINUTE - AN_INSTANT if name == FUNDING else window.last
            reads[name] = Read(columns, window.first, last, self._seen(name, window.hindsight))
        print_raw(self.environment, self.instrument, reads, rows, hindsight=window.hindsight)
        if BOOKS in reads and "books" in window.sources:
            print("  the other levels of the book are read too")

    def missing_features(self) -> list[str]:
        """Features of the study that cannot be computed at this minute."""
        made = minute_plan(self.environment.study)
        most = max(feature.lookback for feature in made.features)
        inputs = self.inputs(self.minute - (most - 1) * A_MINUTE, self.minute)
        row = minute_features(inputs.bars, inputs.books, inputs.funding, made.schema).filter(**self.key)
        return [name for name in made.schema if row.is_empty() or row[name][0] is None]

    def inputs(self, first: datetime, last: datetime) -> MinuteInputs:
        """Bars, books and funding of the symbol, of the minutes that open from `first` to `last`, as decided."""
        study, artifacts = self.environment.study, self.environment.artifacts
        days = [first.date() + i * A_DAY for i in range((last.date() - first.date()).days + 1)]
        part = [month for month in months(days) if month in artifacts.current(study.name, "panel")]
        tables = {
            name: artifacts.table(study.name, "panel", name, partitions=part).filter(instrument=self.instrument)
            for name in ("panel", "patches", "books", "funding")
        }
        bars = apply_minute_patches(tables["panel"], tables["patches"], before=self.minute.date())
        usable = bars.filter(~pl.col("data_quality_flag").is_in(UNUSABLE))
        return MinuteInputs(usable, tables["books"].drop("session"), tables["funding"].drop("session")).cut(first, last)

    def _window(self, asset: str, column: str, row: Mapping[str, Any]) -> Window:
        minute = self.minute
        if asset == "panel":
            return Window(_sources_of(column), (column,), minute, minute)
        if asset == "labels":
            return Window(("bars", "spread"), LABEL_INPUTS, minute, row["label_end"] - A_MINUTE, hindsight=True)
        features = minute_plan(self.environment.study).features
        chosen = [f for f in features if f.name == column] if asset == "features" else list(features)
        sources: tuple[Source, ...] = tuple(dict.fromkeys(source for f in chosen for source in f.sources))
        first = minute - (max(f.lookback for f in chosen) - 1) * A_MINUTE
        return Window(sources, _inputs_of(sources), first, minute)

    def _seen(self, name: str, hindsight: bool) -> pl.Expr:
        """Whether a version counts: known at its own minute's close, or corrected before the decision's day."""
        spec = self.environment.tables[name]
        assert spec.event is not None
        event = pl.col(spec.event).dt.replace_time_zone(spec.zone).dt.truncate("1m")
        if hindsight:
            return known_by(self.environment.clock.now())
        in_time = pl.col("known_at") <= event + pl.duration(minutes=1)
        midnight = datetime.combine(self.minute.date(), time(), UTC)
        return in_time | (pl.col("known_at") < midnight) if name != FUNDING else in_time

    def _print_panel(self, bars: pl.DataFrame, window: Window, rows: int) -> None:
        columns = [name for name in window.inputs if name in MINUTE_MEASURES]
        if not columns or bars.is_empty():
            return
        patches = self.environment.artifacts.table(self.environment.study.name, "panel", "patches")
        known = patches.filter(pl.col("effective_session") < self.minute.date(), instrument=self.instrument)
        seen = bars.sort(MINUTE, descending=True).with_columns(corrected=pl.col(MINUTE).is_in(known[MINUTE].implode()))
        gaps = window.minutes - len(seen)
        print(f"\npanel rows as this decision saw them: {len(seen)}, {int(seen['corrected'].sum())} corrected since "
              f"their own close, {counted(gaps, 'minute')} missing")  # fmt: skip
        shown = seen.head(rows) if rows else seen
        cells = [
            [spoken(row[MINUTE]), *(cell(row[name]) for name in columns), "corrected" if row["corrected"] else ""]
            for row in shown.iter_rows(named=True)
        ]
        table([MINUTE, *columns, ""], cells)
        if len(shown) < len(seen):
            print(f"  … and {len(seen) - len(shown)} earlier rows (--rows 0 shows all)")


def spoken(instant: datetime) -> str:
    """An instant in UTC as commands take it."""
    return f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M}"


def outcome(row: Mapping[str, Any], side: str) -> str:
    """How a price plan ended on one side of a labelled minute."""
    ways = {"target_hit": "target", "stop_hit": "stop", "timeout_hit": "held to the end"}
    how = next((words for name, words in ways.items() if row[f"{side}_{name}"]), "trailed out")
    minutes = round(row[f"{side}_time_to_exit_ms"] / 60_000)
    return (f"{how} after {counted(minutes, 'minute')}, gross {row[f'{side}_gross_edge_bps']:.4g} bps, "
            f"net {row[f'{side}_actual_plan_net_edge_bps']:.4g} bps")  # fmt: skip


def _sources_of(column: str) -> tuple[Source, ...]:
    """What makes a panel column: the candle, the best quotes, or all of it for what is judged of a row."""
    if column in BARS:
        return ("bars",)
    if column == "spread_bps":
        return ("spread",)
    if column in ("data_quality_flag", "eligible"):
        return ("bars", "books", "funding")
    if column == "sample_id":
        return ()
    raise BadInput("a panel column has an origin", column, "name it in assets/minute_tracing.py")


def _inputs_of(sources: tuple[Source, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for source in sources for name in READS[source]))
