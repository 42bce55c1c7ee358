"""Vendor rows behind a number: which version was used, which had been replaced, and which came later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import polars as pl

from assets import arguments
from assets.console import cell, table
from pipeline.asof.identity import original_code
from pipeline.tables.spec import TableSpec
from resources.environments import Environment

USED, REPLACED, LATER = "used", "replaced", "later"
CODES = ("ts_code", "n_code", "o_code", "symbol")


@dataclass(frozen=True)
class Read:
    """What a number reads of one vendor table.

    Parameters
    ----------
    columns : sequence of str
    first, last : date
        Sessions of the events, or instants (UTC).
    seen : polars.Expr
        Of a row's version: whether it counts.
    """

    columns: Sequence[str]
    first: date
    last: date
    seen: pl.Expr


def known_by(instant: datetime) -> pl.Expr:
    """Versions that an instant knew."""
    return pl.col("known_at") <= instant


def print_raw(
    environment: Environment, instrument: str, reads: Mapping[str, Read], rows: int, hindsight: bool = False
) -> None:
    """One block a vendor table, newest events first.

    Parameters
    ----------
    reads : mapping
        Table -> what is shown of it.
    rows : int
        Newest used rows shown; 0 shows all.
    hindsight : bool
        Whether what is known now counts, instead of what the decision knew.
    """
    zone, renames = environment.study.market.zone, arguments.renames(environment)
    print(
        f"\nvendor rows of {instrument} (times in {zone}; knowledge: `rule` of the table, or `observed` at the fetch)"
    )
    if not reads:
        print("  none: the market's own clock and calendar say it")
    for name, read in reads.items():
        if name not in environment.lake.tables():
            print(f"\n{name}: the lake holds no such table")
            continue
        spec = environment.tables[name]
        versions = versions_of(environment, spec, instrument, renames, read)
        _print_table(spec, read.columns, versions, zone, rows, hindsight)


def versions_of(
    environment: Environment, spec: TableSpec, instrument: str, renames: Mapping[str, str], read: Read
) -> pl.DataFrame:
    """All versions of an instrument's rows that are read, newest event first, each with its `use`."""
    first, last = (at.date() if isinstance(at, datetime) else at for at in (read.first, read.last))
    lake = environment.lake
    rows = lake.scan(spec.name, start=first, end=last) if spec.layout == "session" else lake.scan(spec.name)
    if isinstance(read.first, datetime) and spec.event:
        rows = rows.filter(pl.col(spec.event).dt.replace_time_zone(spec.zone).is_between(read.first, read.last))
    rows = rows.filter(original_code(rows[_code(rows)], renames) == instrument)
    newest = pl.col("known_at") == pl.col("known_at").filter(read.seen).max().over(list(spec.key))
    use = pl.when(~read.seen).then(pl.lit(LATER)).when(newest).then(pl.lit(USED)).otherwise(pl.lit(REPLACED))
    return rows.with_columns(use=use).sort(*_order(spec), descending=True)


def _code(rows: pl.DataFrame) -> str:
    return next(name for name in CODES if name in rows.columns)


def _order(spec: TableSpec) -> list[str]:
    return [*([spec.event] if spec.event else spec.key), "known_at"]


def _print_table(
    spec: TableSpec, columns: Sequence[str], versions: pl.DataFrame, zone: str, rows: int, hindsight: bool
) -> None:
    if versions.is_empty():
        print(f"\n{spec.name}: no row of this name in the window")
        return
    counts = {use: int((versions["use"] == use).sum()) for use in (USED, REPLACED, LATER)}
    told = "known now" if hindsight else "known at the decision"
    print(
        f"\n{spec.name}: {counts[USED]} used ({told}), {counts[REPLACED]} replaced by then, {counts[LATER]} came later"
    )
    used = versions.filter(pl.col("use") == USED)
    shown = used.head(rows) if rows else used
    code = _code(versions)
    held = [name for name in columns if name in versions.columns]
    lacking = [name for name in columns if name not in versions.columns]
    keys = [name for name in ([spec.event] if spec.event else []) if name not in columns]
    shown_code = [code] if code in ("ts_code", "symbol") else []
    heads = list(dict.fromkeys([*keys, *shown_code, *held]))
    # What was replaced or came later is rare and the point of a trace: it is shown whole.
    marked = pl.concat([shown, versions.filter(pl.col("use") != USED)]).sort(*_order(spec), descending=True)
    cells = [[*(cell(row[name]) for name in heads), row["known_at"], row["knowledge"], row["use"]]
             for row in _local(marked, zone).iter_rows(named=True)]  # fmt: skip
    table([*heads, "known_at", "knowledge", "use"], cells)
    if len(shown) < len(used):
        print(f"  … and {len(used) - len(shown)} earlier rows used (--rows 0 shows all)")
    if lacking:
        print(f"  the source ships no {', '.join(lacking)}")


def _local(rows: pl.DataFrame, zone: str) -> pl.DataFrame:
    """`known_at` as wall time; with seconds where any matter."""
    seconds = ":%S" if (rows["known_at"].dt.second() != 0).any() else ""
    return rows.with_columns(pl.col("known_at").dt.convert_time_zone(zone).dt.strftime(f"%Y-%m-%d %H:%M{seconds}"))
