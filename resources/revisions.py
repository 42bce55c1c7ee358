"""From a fetch to versions: which rows are new, revised or late, and since when each could be known.

Pure frames in, frames out; the lake reads what is stored and keeps what is decided here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import polars as pl

from pipeline.errors import BadInput, SchemaError
from pipeline.fingerprints import hash_json, session_hashes
from pipeline.frames import canonical
from pipeline.tables.spec import TableSpec
from resources.manifest import WHOLE, TableManifest

UTC_MICROSECONDS = pl.Datetime("us", "UTC")
# ISO day of a row's event, beside the vendor's columns while a fetch is compared.
DAY = "event:day"
STAMPS = {
    "known_at": UTC_MICROSECONDS, "ingested_at": UTC_MICROSECONDS, "knowledge": pl.String(),
    "request": pl.String(),
}


@dataclass(frozen=True)
class Revision:
    """The versions that a fetch adds, and how its rows compared with what was stored."""

    versions: pl.DataFrame
    new: int
    revised: int
    unchanged: int
    late: int
    observed: int


def day_of(spec: TableSpec) -> pl.Expr:
    """ISO day of a row's event; "" in a snapshot."""
    day = spec.event_day().cast(pl.String) if spec.layout == "session" else pl.repeat(WHOLE, pl.len())
    return day.alias(DAY)


def code_column(spec: TableSpec) -> str | None:
    """The column of the codes that a table is fetched by; None where one request covers every code."""
    if spec.fetch_by not in ("instrument", "index"):
        return None
    return next(name for name in spec.key if name != spec.event)


def watched_since(spec: TableSpec, rows: pl.DataFrame, table: TableManifest | None) -> pl.Series:
    """For each row, when its day (and code) was last fetched completely; null where never."""
    code = code_column(spec)
    days = rows.select(day_of(spec)).to_series().unique().to_list() if table else []
    found = [
        (day, name, datetime.fromisoformat(scope.complete[day]))
        for scope in (table.coverage.values() if table else ()) for day in days if day in scope.complete
        for name in scope.codes or ("",)
    ]
    schema: dict[str, pl.DataType] = {DAY: pl.String(), "code": pl.String(), "watched": UTC_MICROSECONDS}
    fetched = pl.DataFrame(found, schema=schema, orient="row")
    by_key = rows.select(day_of(spec), (pl.col(code) if code else pl.repeat("", pl.len())).alias("code"))
    latest = fetched.group_by(DAY, "code").agg(pl.col("watched").max())
    return by_key.join(latest, on=[DAY, "code"], how="left", maintain_order="left")["watched"]


def vanished(
    spec: TableSpec, rows: pl.DataFrame, stored: pl.DataFrame, days: Collection[str], codes: Collection[str]
) -> int:
    """How many stored rows of completely fetched days (and codes) a fetch no longer has."""
    held = newest(stored, spec.key).with_columns(day_of(spec)).filter(pl.col(DAY).is_in(list(days)))
    code = code_column(spec)
    if code is not None:
        held = held.filter(pl.col(code).is_in(list(codes)))
    return held.join(rows, on=list(spec.key), how="anti", nulls_equal=True).height


def settled(spec: TableSpec, rows: pl.DataFrame, days: Collection[str]) -> dict[str, datetime]:
    """For each day the instant after which an absent row is late: the newest rule instant among its rows.

    A day without rows settles two natural days later, after any vendor's publication hour in any zone.
    """
    due = {day: datetime.combine(date.fromisoformat(day) + timedelta(days=2), time(), UTC) for day in days}
    by_day = spec.known_at(rows).group_by(day_of(spec)).agg(pl.col("known_at").max()).drop_nulls()
    return {**due, **{day: at for day, at in by_day.iter_rows() if day in due}}


def newest(versions: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """The last row of each run of equal keys; rows must be in order of key and `known_at`."""
    last = pl.lit(False)
    for name in key:
        last = last | pl.col(name).ne_missing(pl.col(name).shift(-1))
    final = pl.int_range(pl.len()) == pl.len() - 1
    return versions.filter(last | final)


def revise(
    spec: TableSpec, rows: pl.DataFrame, stored: pl.DataFrame, watched: pl.Series, *, request: str,
    ingested_at: datetime,
) -> Revision:
    """Compare a fetch with the newest stored version of each key.

    A row that was never stored is known by the table's rule, unless its session had been fetched completely
    after the rule's instant: then it came late, and was known when it was seen. A changed row is a new
    version, known when it was seen. A version is never known at or before the one it replaces, so (key,
    `known_at`) is unique.

    Parameters
    ----------
    rows : DataFrame
        Typed rows, unique by key.
    stored : DataFrame
        All stored versions of the sessions that `rows` touches, in order of key and `known_at`.
    watched : Series of Datetime
        For each row the last complete fetch, before this one, that should have held it; null where none.
    """
    values = [name for name in spec.names if name not in spec.key]
    same = (pl.col(name).eq_missing(pl.col(f"before:{name}")) for name in values)
    before = newest(stored, spec.key).select(
        *spec.key, pl.col("known_at").alias("before"), *(pl.col(v).alias(f"before:{v}") for v in values)
    )
    seen_now = pl.lit(ingested_at).cast(UTC_MICROSECONDS)
    compared = (
        rows.with_columns(spec.known_at(rows)["known_at"].alias("rule"), watched.alias("watched"))
        .join(before, on=list(spec.key), how="left", nulls_equal=True, maintain_order="left")
        .with_columns(
            is_stored=pl.col("before").is_not_null(),
            is_same=pl.all_horizontal(pl.lit(True), *same),
            is_late=pl.col("before").is_null() & (pl.col("rule") <= pl.col("watched")).fill_null(False),
        )
        .with_columns(is_revised=pl.col("is_stored") & ~pl.col("is_same"))
        # A row that no rule can date is known when it was seen.
        .with_columns(is_observed=pl.col("is_revised") | pl.col("is_late") | pl.col("rule").is_null())
    )
    added = compared.filter(~pl.col("is_stored") | pl.col("is_revised"))
    seen = pl.max_horizontal("rule", seen_now, pl.col("before") + pl.duration(microseconds=1))
    versions = added.select(
        *spec.names,
        known_at=pl.when("is_observed").then(seen).otherwise("rule"),
        ingested_at=seen_now,
        knowledge=pl.when("is_observed").then(pl.lit("observed")).otherwise(pl.lit("rule")),
        request=pl.lit(request),
    )
    revised = int(added["is_revised"].sum())
    return Revision(
        versions, added.height - revised, revised, rows.height - added.height, int(added["is_late"].sum()),
        int(added["is_observed"].sum()),
    )


def checked(spec: TableSpec, rows: pl.DataFrame, ingested_at: datetime) -> pl.DataFrame:
    """Rows in declared column order and canonical form, or an error."""
    if ingested_at.tzinfo is None:
        raise BadInput("ingested_at must be an aware instant", ingested_at, "take it from a Clock")
    if set(rows.columns) != set(spec.names) or any(rows.schema[c] != t for c, t in spec.schema.items()):
        raise SchemaError(f"{spec.name} has the columns {spec.schema}", dict(rows.schema),
                          "type the rows with spec.parse or spec.typed")
    if spec.layout == "session" and spec.event not in spec.key:
        raise BadInput(f"{spec.name}: the event must be part of the key, or a revision could move its row",
                       spec.key, "declare the event in the key")
    spec.check(rows)
    return canonical(rows.select(spec.names), ())


def complete_days(spec: TableSpec, rows: pl.DataFrame, complete: Sequence[date]) -> list[str]:
    """Days of a fetch that count as complete; an empty snapshot is no answer."""
    if spec.layout == "session":
        return sorted({day.isoformat() for day in complete})
    return [WHOLE] if rows.height else []


def asked_codes(spec: TableSpec, rows: pl.DataFrame, codes: Sequence[str]) -> list[str]:
    """The codes that a fetch covers; none where one request covers every code."""
    column = code_column(spec)
    if column is None:
        return []
    return sorted(set(codes)) or rows[column].unique().sort().to_list()


def coverage(
    spec: TableSpec, table: TableManifest | None, rows: pl.DataFrame, days: Sequence[str],
    codes: Sequence[str], ingested_at: datetime,
) -> dict[str, object] | None:
    """The completeness worth recording: days not covered yet, or only before their rows were due.

    A snapshot has no due time, so each later fetch counts: a row may appear whose rule instant lies between
    two fetches, and only the later one tells that it was not there yet.
    """
    scope = hash_json(list(codes))[:16] if codes else WHOLE
    held = table.coverage[scope].complete if table and scope in table.coverage else {}
    at = ingested_at.astimezone(UTC)
    due = settled(spec, rows, days) if spec.layout == "session" else dict.fromkeys(days, at)
    news = [day for day in days if day not in held or datetime.fromisoformat(held[day]) < min(at, due[day])]
    if not news or (code_column(spec) is not None and not codes):
        return None
    return {"scope": scope, "codes": list(codes), "days": news, "at": at.isoformat(timespec="microseconds")}


def day_hashes(spec: TableSpec, stored: pl.DataFrame, added: pl.DataFrame) -> dict[str, str]:
    """Hashes, over all versions, of the days that gain some; when and how they were fetched is no content."""
    if added.is_empty():
        return {}
    versions = pl.concat([stored.select(added.columns), added]).with_columns(day_of(spec))
    touched = added.select(day_of(spec)).to_series().unique()
    content = versions.filter(pl.col(DAY).is_in(touched.implode())).drop("ingested_at", "request")
    return session_hashes(content, [*spec.key, "known_at"], by=DAY)
