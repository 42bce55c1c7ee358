"""Versions of vendor rows by the minute: placed in time, broken ones set aside, the newest one picked.

Not here: what the values mean (minutes.py).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date

import polars as pl

from pipeline.frames import in_key_order, require_columns, require_unique
from pipeline.tables.binance import MINUTE_SECONDS, TABLES

SERIES = ("instrument", "minute")
KEY = ("session", *SERIES)
QUARANTINE = {
    "session": pl.Date(), "instrument": pl.String(), "minute": pl.Datetime("us", "UTC"),
    "table": pl.String(), "rule": pl.String(), "observed": pl.String(),
}  # fmt: skip
LONGEST_FUNDING_HOURS = 8
_OBSERVED = {
    "klines_1m": ("open_time",), "book_1m": ("origin_time",),
    "funding_rate": ("calc_time", "last_funding_rate", "funding_interval_hours"),
}  # fmt: skip

IN_TIME = pl.col("known_at") <= pl.col("minute") + pl.duration(seconds=MINUTE_SECONDS)
"""Known at the decision of the row's own minute: its close."""


@dataclass(frozen=True)
class Placed:
    """One table's versions and what was set aside.

    Parameters
    ----------
    versions : DataFrame
        session (UTC day), instrument, minute (open, UTC), known_at, and the vendor's columns but the symbol.
    quarantine : DataFrame
        `QUARANTINE`, over the sessions being built.
    """

    versions: pl.DataFrame
    quarantine: pl.DataFrame


def place(rows: pl.DataFrame, table: str, sessions: Collection[date]) -> Placed:
    """Versions of a vendor table that break no rule, as far as known by the end of the last of `sessions`.

    Raises
    ------
    SchemaError, KeyViolation
        A missing column; a null key, or two versions of one row known at the same instant.
    """
    spec = TABLES[table]
    stamp = str(spec.event)
    require_columns(rows, [*(c.name for c in spec.columns if c.required), "known_at"], table)
    opened = pl.col(stamp).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    placed = rows.with_columns(
        opened.alias(stamp), known_at=pl.col("known_at").dt.convert_time_zone("UTC").dt.cast_time_unit("us"),
    ).with_columns(
        session=pl.col(stamp).dt.date(), instrument=pl.col("symbol"), minute=pl.col(stamp).dt.truncate("1m"),
    )  # fmt: skip
    rules = _rules(table, stamp)
    broken = placed.select(first_broken(rules)).to_series()
    sound = placed.filter(broken.is_null() & (IN_TIME | (pl.col("known_at").dt.date() <= max(sessions))))
    require_unique(sound, (*SERIES, "known_at"), f"versions of {table}")
    aside = placed.with_columns(rule=broken).filter(pl.col("rule").is_not_null(), pl.col("session").is_in(sessions))
    versions = sound.select(*KEY, "known_at", pl.exclude(*KEY, "known_at", "symbol"))
    return Placed(versions, _quarantined(aside, table))


def newest(versions: pl.DataFrame, counted: pl.Expr) -> pl.DataFrame:
    """The newest of the counted versions of each (instrument, minute), in that order."""
    stamps = versions.select(*SERIES, "known_at", counted=counted).with_row_index("at").filter("counted")
    if not in_key_order(stamps, (*SERIES, "known_at")):
        stamps = stamps.sort(*SERIES, "known_at")
    return versions[stamps.unique(SERIES, keep="last", maintain_order=True)["at"]]


def newest_of(targets: pl.DataFrame, versions: pl.DataFrame, *, same_day: bool) -> pl.DataFrame:
    """The versions that each target row (effective_session, key) knew, in the targets' order; null without one.

    What was in time for its own decision is always known; the rest from the day on which it came (`same_day`), or
    from the day after.
    """
    day, until = pl.col("known_at").dt.date(), pl.col("effective_session")
    held = targets.join(versions, on=list(KEY)).filter(IN_TIME | ((day <= until) if same_day else (day < until)))
    last = held.sort("known_at").unique(["effective_session", *KEY], keep="last", maintain_order=True)
    return targets.join(last, on=["effective_session", *KEY], how="left", maintain_order="left")


def too_late(placed: Placed, table: str, sessions: Collection[date]) -> pl.DataFrame:
    """Quarantine rows of those first known after the decision of their minute, so that it went without them."""
    inside = placed.versions.filter(pl.col("session").is_in(sessions)).select(
        *KEY, "known_at", *_OBSERVED[table], in_time=IN_TIME
    )
    met = inside.filter("in_time").select(KEY)
    first = inside.join(met, on=list(KEY), how="anti").sort(*KEY, "known_at").unique(KEY, keep="first")
    return _quarantined(first.with_columns(rule=pl.lit("a row is known by the decision of its minute")), table)


def first_broken(rules: dict[str, pl.Expr]) -> pl.Expr:
    """Name of the first rule that a row breaks; null for a sound row. A rule that cannot be told is broken."""
    return pl.coalesce(
        [pl.when(~holds.fill_null(False)).then(pl.lit(name)) for name, holds in rules.items()]
    ).alias("rule")


def _rules(table: str, stamp: str) -> dict[str, pl.Expr]:
    known, closed = pl.col("known_at"), pl.col("minute") + pl.duration(seconds=MINUTE_SECONDS)
    if table == "funding_rate":
        hours = pl.col("funding_interval_hours")
        return {
            "a rate is known no earlier than settled": known >= pl.col(stamp),
            "a funding rate is finite": pl.col("last_funding_rate").is_finite(),
            f"a funding interval lies in (0, {LONGEST_FUNDING_HOURS}] hours": (hours > 0)
            & (hours <= LONGEST_FUNDING_HOURS),
        }
    whole = {"a minute is named by its open, a whole minute": pl.col(stamp) == pl.col("minute")}
    if table == "book_1m":
        taken = pl.col("origin_time").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        return whole | {
            "a snapshot lies inside its minute": taken.dt.truncate("1m") == pl.col("minute"),
            "a snapshot is known no earlier than taken": known >= taken,
        }
    # An earlier stamp means the running candle: its high, low and volume still move.
    return whole | {"a candle is known no earlier than its close": known >= closed}


def _quarantined(rows: pl.DataFrame, table: str) -> pl.DataFrame:
    """Rows with `rule` and the columns that the table's rules read, as a table of `QUARANTINE`."""
    seen = [
        pl.concat_str(pl.lit(f"{name} "), pl.col(name).cast(pl.String).fill_null("null"))
        for name in (*_OBSERVED[table], "known_at")
    ]
    observed = pl.concat_str(seen, separator=", ")
    frame = rows.select(*KEY, table=pl.lit(table), rule="rule", observed=observed)
    return frame.cast(pl.Schema(QUARANTINE))
