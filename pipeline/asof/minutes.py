"""Vendor rows of minutes -> the honest panel by the minute: each row with what its own decision knew.

The decision of a minute falls at its close. Here: which version counts, what comes too late, what is corrected.
Not here: features and the rules of quality (a floor above: handed in), gaps (a minute without a row), labels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from typing import Protocol

import polars as pl

from pipeline.asof.minute_versions import IN_TIME, KEY, QUARANTINE, SERIES, Placed, newest, newest_of, place, too_late
from pipeline.errors import BadInput, MissingTable
from pipeline.frames import AsOf, require_columns
from pipeline.tables.binance import BOOK_1M, MINUTES_A_DAY
from pipeline.tables.books import level_arrays

KLINES, BOOKS, FUNDING = "klines_1m", "book_1m", "funding_rate"
BARS = ("open", "high", "low", "close", "volume", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote")
MINUTE_MEASURES = (*BARS, "spread_bps")
"""Columns that a patch may change; flag and eligibility stay what they were at the decision."""
PANEL_COLUMNS = (*KEY, "sample_id", *MINUTE_MEASURES, "data_quality_flag", "eligible")
PATCH_COLUMNS = ("effective_session", *KEY, *MINUTE_MEASURES)
LATE, NOT_NAMED = "late", "not_named"


class QualityRule(Protocol):
    """Bars, level arrays and funding -> session, instrument, minute, data_quality_flag of every bar."""

    def __call__(
        self, bars: pl.DataFrame, books: pl.DataFrame | None = None, funding: pl.DataFrame | None = None
    ) -> pl.DataFrame: ...


@dataclass(frozen=True)
class MinuteTables:
    """What the panel stage of a minute study stores.

    Parameters
    ----------
    panel : AsOf
        `PANEL_COLUMNS`, one row per minute of which a candle was known at its close; key order.
    books : DataFrame
        instrument, minute and `level_arrays` of the snapshots known at the close; no rows without the table.
    funding : DataFrame
        instrument, funding_time (UTC, never before it was known), rate (fraction), interval_hours.
    exclusions : DataFrame
        session, instrument, minute, reason: `late` (no panel row), the flag that may not train, `not_named`.
    quarantine : DataFrame
        session, instrument, minute, table, rule, observed: vendor rows that broke a rule, and were not used.
    patches : DataFrame
        `PATCH_COLUMNS`: the measures as known when UTC day `effective_session` ended, where that day changed them.
    summary : DataFrame
        session and counts over the named symbols: minutes, eligible, missing (of 1,440 a symbol; a gap), late (those
        of the missing that came after their decision), patched (panel rows that a patch here corrects).
    """

    panel: AsOf
    books: pl.DataFrame
    funding: pl.DataFrame
    exclusions: pl.DataFrame
    quarantine: pl.DataFrame
    patches: pl.DataFrame
    summary: pl.DataFrame


def sample_id() -> pl.Expr:
    """`BTCUSDT:1704067200000`: instrument, colon, the minute's open in UTC milliseconds; the same for good."""
    stamp = pl.col("minute").dt.epoch("ms").cast(pl.String)
    return pl.concat_str("instrument", stamp, separator=":").alias("sample_id")


def build_minute_panel(
    raw: Mapping[str, pl.DataFrame],
    symbols: Collection[str],
    sessions: Sequence[date],
    flag: QualityRule,
    trainable: Collection[str],
) -> MinuteTables:
    """Panel, books, funding, exclusions, quarantine, patches and summary of some UTC days.

    Parameters
    ----------
    raw : mapping of table to DataFrame
        All versions of `klines_1m`, `book_1m` (optional) and `funding_rate` (optional) with `known_at`: rows of
        `sessions`; funding also of the day before; and, of earlier days, every version of the minutes of which one
        became known within `sessions`. Other symbols than the named ones stay in the panel, not eligible.
    symbols : collection of str
        Symbols that may be scored.
    sessions : sequence of date
        Consecutive UTC days. Knowledge counts up to the end of the last one, and its last minute's decision.
    flag : callable
        The rule of quality: `features.minutes.quality.data_quality_flag`.
    trainable : collection of str
        The flags that may train.

    Raises
    ------
    MissingTable
        Without `klines_1m`.
    BadInput, KeyViolation
        No symbol, days with gaps, or two versions of a row known at one instant.
    """
    days = _consecutive(sessions)
    if KLINES not in raw:
        raise MissingTable(f"a minute panel needs the table {KLINES}", f"have {sorted(raw)}", f"fetch {KLINES}")
    if not symbols:
        raise BadInput("a minute panel names its symbols", list(symbols), "name at least one")
    placed = {table: place(raw[table], table, days) for table in (KLINES, BOOKS, FUNDING) if table in raw}
    candles, snapshots = placed[KLINES].versions, placed[BOOKS].versions if BOOKS in placed else None
    own = IN_TIME & pl.col("session").is_in(days)
    levels = None if snapshots is None else newest(snapshots, own)
    bars = _with_spread(newest(candles, own).select(*KEY, *_bars()), levels)
    books = None if levels is None else level_arrays(levels.with_columns(
        symbol=pl.col("instrument"), minute=pl.col("minute").dt.replace_time_zone(None)))
    funding = _funding(placed.get(FUNDING))
    panel = _judged(bars, flag(bars, books, funding), symbols, trainable)
    late = candles.filter(pl.col("session").is_in(days)).select(KEY).unique().join(panel, on=list(KEY), how="anti")
    patches = _patches(candles, snapshots, days)
    return MinuteTables(
        AsOf(panel),
        _no_books() if books is None else books,
        _no_funding() if funding is None else funding,
        _exclusions(panel, late, symbols, trainable),
        _quarantine(placed, days),
        patches,
        _summary(panel, late, patches, symbols, days),
    )


def apply_minute_patches(panel: pl.DataFrame, patches: pl.DataFrame, before: date | None = None) -> pl.DataFrame:
    """Panel rows with the measures known when UTC day `before` began (None: all patches).

    Every decision of that day may read them: a patch is whole only when its own day is over. Flag and eligibility
    stay; a patch without a panel row, a late minute's, is left out.
    """
    require_columns(patches, PATCH_COLUMNS, "patches")
    held = patches if before is None else patches.filter(pl.col("effective_session") < before)
    last = held.sort("effective_session", maintain_order=True).unique(KEY, keep="last").drop("effective_session")
    return panel.update(last.select(*KEY, *MINUTE_MEASURES), on=list(KEY), how="left", include_nulls=True)


def revised_minute_days(raw: Mapping[str, pl.DataFrame], sessions: Sequence[date]) -> list[date]:
    """Days before `sessions[0]` of which a candle or a snapshot became known within `sessions`, after its decision.

    A caller that feeds `build_minute_panel` must hand in every version of these days' rows of both tables: a patch
    tells what changed, and a correction without the row that it corrects looks like a late one.
    """
    days, found = _consecutive(sessions), set()
    for table in (KLINES, BOOKS):
        if table in raw:
            versions = place(raw[table], table, days).versions
            since = pl.col("known_at").dt.date() >= days[0]
            found |= set(versions.filter(pl.col("session") < days[0], since, ~IN_TIME)["session"])
    return sorted(found)


def _consecutive(sessions: Sequence[date]) -> list[date]:
    days = list(sessions)
    if not days or any(b - a != timedelta(days=1) for a, b in pairwise(days)):
        raise BadInput(
            "sessions are consecutive UTC days, ascending, at least one",
            f"{len(days)} from {min(days, default=None)} to {max(days, default=None)}",
            "pass every day of the stretch once",
        )
    return days


def _bars() -> list[pl.Expr]:
    vendor = {"trades": "count", "taker_buy_quote": "taker_buy_quote_volume"}
    return [pl.col(vendor.get(name, name)).alias(name) for name in BARS]


def _spread() -> pl.Expr:
    """(ask - bid) / mid in bps of the best quotes; null where there are none, or they are no market."""
    bid, ask = pl.col("bid_0_price"), pl.col("ask_0_price")
    market = bid.is_finite() & ask.is_finite() & (bid > 0) & (ask > bid)
    return pl.when(market).then((ask - bid) / (0.5 * (ask + bid)) * 1e4).alias("spread_bps")


def _with_spread(bars: pl.DataFrame, levels: pl.DataFrame | None) -> pl.DataFrame:
    if levels is None:
        return bars.with_columns(spread_bps=pl.lit(None, pl.Float64))
    quotes = levels.select(*SERIES, _spread())
    return bars.join(quotes, on=list(SERIES), how="left", validate="1:1", maintain_order="left")


def _funding(placed: Placed | None) -> pl.DataFrame | None:
    """Settlements known within their minute; a stamp that was known some seconds later is named by that instant."""
    if placed is None:
        return None
    return newest(placed.versions, IN_TIME).select(
        "instrument",
        funding_time=pl.max_horizontal("calc_time", "known_at"),
        rate=pl.col("last_funding_rate"),
        interval_hours=pl.col("funding_interval_hours").cast(pl.Float64),
    )


def _judged(
    bars: pl.DataFrame, flags: pl.DataFrame, symbols: Collection[str], trainable: Collection[str]
) -> pl.DataFrame:
    """The panel's columns in key order."""
    panel = bars.join(flags, on=list(KEY), how="left", validate="1:1").sort(KEY)
    if panel["data_quality_flag"].null_count():
        raise BadInput(
            "the rule of quality flags every bar", f"{panel['data_quality_flag'].null_count()} without a flag",
            "hand in features.minutes.quality.data_quality_flag",
        )  # fmt: skip
    trains = pl.col("data_quality_flag").is_in(list(trainable))
    named = pl.col("instrument").is_in(list(symbols))
    return panel.with_columns(sample_id(), eligible=trains & named).select(PANEL_COLUMNS)


def _patches(candles: pl.DataFrame, snapshots: pl.DataFrame | None, days: Sequence[date]) -> pl.DataFrame:
    """Measures at the end of each day that knew a minute otherwise than the day before it, or its own decision."""
    tables = [candles] if snapshots is None else [candles, snapshots]
    arrived = pl.col("known_at").dt.date()
    targets = pl.concat(
        table.filter(~IN_TIME, arrived.is_between(days[0], days[-1])).select(arrived.alias("effective_session"), *KEY)
        for table in tables
    ).unique().sort("effective_session", *KEY)  # fmt: skip
    now, before = (_measured(targets, candles, snapshots, same_day=same_day) for same_day in (True, False))
    changed = pl.select(pl.any_horizontal(now[c].ne_missing(before[c]) for c in MINUTE_MEASURES)).to_series()
    # A snapshot that came late for a minute without a candle says nothing of a row.
    return now.filter(changed & now["close"].is_not_null()).select(PATCH_COLUMNS)


def _measured(
    targets: pl.DataFrame, candles: pl.DataFrame, snapshots: pl.DataFrame | None, *, same_day: bool
) -> pl.DataFrame:
    """`MINUTE_MEASURES` of each target as known then, beside it."""
    bars = newest_of(targets, candles, same_day=same_day).select(_bars())
    if snapshots is None:
        return targets.hstack(bars).with_columns(spread_bps=pl.lit(None, pl.Float64))
    quotes = snapshots.select(*KEY, "known_at", "bid_0_price", "ask_0_price")
    return targets.hstack(bars).hstack(newest_of(targets, quotes, same_day=same_day).select(_spread()))


def _exclusions(
    panel: pl.DataFrame, late: pl.DataFrame, symbols: Collection[str], trainable: Collection[str]
) -> pl.DataFrame:
    flagged = panel.filter(~pl.col("data_quality_flag").is_in(list(trainable)))
    others = panel.filter(~pl.col("instrument").is_in(list(symbols)))
    return pl.concat([
        late.select(*KEY, reason=pl.lit(LATE)), flagged.select(*KEY, reason="data_quality_flag"),
        others.select(*KEY, reason=pl.lit(NOT_NAMED)),
    ]).sort(*KEY, "reason")  # fmt: skip


def _quarantine(placed: Mapping[str, Placed], days: Sequence[date]) -> pl.DataFrame:
    aside = [part.quarantine for part in placed.values()]
    aside += [too_late(placed[table], table, days) for table in (BOOKS, FUNDING) if table in placed]
    return pl.concat(aside).sort(list(QUARANTINE))


def _summary(
    panel: pl.DataFrame, late: pl.DataFrame, patches: pl.DataFrame, symbols: Collection[str], days: Sequence[date]
) -> pl.DataFrame:
    named = pl.col("instrument").is_in(list(symbols))
    rows = panel.filter(named)
    corrected = patches.select(KEY).unique().join(rows, on=list(KEY), how="semi")
    counts = [
        rows.group_by("session").agg(minutes=pl.len(), eligible=pl.col("eligible").sum()),
        late.filter(named).group_by("session").agg(late=pl.len()),
        corrected.group_by("session").agg(patched=pl.len()),
    ]
    summary = pl.DataFrame({"session": pl.Series(days, dtype=pl.Date)})
    for count in counts:
        summary = summary.join(count, on="session", how="left", maintain_order="left")
    whole = MINUTES_A_DAY * len(set(symbols))
    numbers = summary.with_columns(pl.exclude("session").fill_null(0).cast(pl.Int64))
    return numbers.select(
        "session", "minutes", "eligible", (whole - pl.col("minutes")).alias("missing"), "late", "patched"
    )


def _no_books() -> pl.DataFrame:
    return level_arrays(BOOK_1M.empty())


def _no_funding() -> pl.DataFrame:
    stamp = pl.Datetime("us", "UTC")
    return pl.DataFrame(schema={
        "instrument": pl.String, "funding_time": stamp, "rate": pl.Float64, "interval_hours": pl.Float64,
    })  # fmt: skip
