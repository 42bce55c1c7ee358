"""Which rows, and so which files, a reader asked for: bounds on events and on when they became known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import polars as pl

from pipeline.errors import BadInput
from resources.manifest import LakeFile, TableManifest

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Bounds:
    """`start <= event day <= end` and `known_after < known_at <= known_until`; None leaves a side open."""

    start: date | None = None
    end: date | None = None
    known_after: datetime | None = None
    known_until: datetime | None = None

    def files(self, table: TableManifest) -> list[LakeFile]:
        """Files that may hold rows inside, by first day."""
        first, last = (self.start or date.min).isoformat(), (self.end or date.max).isoformat()
        low = -(2**63) if self.known_after is None else _microseconds(self.known_after)
        high = 2**63 if self.known_until is None else _microseconds(self.known_until)
        whole = table.layout != "session"
        return sorted(
            (kept for kept in table.files
             if kept.rows and kept.known_until > low and kept.known_from <= high
             and (whole or (kept.last >= first and kept.first <= last))),
            key=lambda kept: kept.first,
        )

    def inside(self, table: TableManifest, schema: Mapping[str, pl.DataType]) -> pl.Expr:
        """Whether a row lies inside."""
        kept = pl.lit(True)
        if table.layout == "session" and table.event is not None:
            event, dtype = pl.col(table.event), schema[table.event]
            if self.start is not None:
                kept &= event >= _midnight(self.start, dtype)
            if self.end is not None and self.end < date.max:
                kept &= event < _midnight(self.end + timedelta(days=1), dtype)
        if self.known_after is not None:
            kept &= pl.col("known_at") > pl.lit(self.known_after).cast(schema["known_at"])
        if self.known_until is not None:
            kept &= pl.col("known_at") <= pl.lit(self.known_until).cast(schema["known_at"])
        return kept


def _microseconds(at: datetime) -> int:
    if at.tzinfo is None:
        raise BadInput("instants must be aware", at, "take it from a Clock or from clock.instant")
    return (at - _EPOCH) // timedelta(microseconds=1)


def _midnight(day: date, dtype: pl.DataType) -> pl.Expr:
    """The first instant of a day, in the event's own type and zone."""
    if not isinstance(dtype, pl.Datetime):
        return pl.lit(day)
    return pl.lit(datetime.combine(day, time())).dt.replace_time_zone(dtype.time_zone).cast(dtype)
