"""Vendor rows behind a number: which version was used, which had been replaced, and which came later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime

import polars as pl

from assets import arguments
from assets.console import cell, table
from pipeline.asof.identity import original_code
from pipeline.asof.origins import origin
from pipeline.tables.spec import TableSpec
from resources.environments import Environment

USED, REPLACED, LATER = "used", "replaced", "later"
CODES = ("ts_code", "n_code", "o_code")


def print_raw(
    environment: Environment, instrument: str, inputs: Sequence[str], span: tuple[date, date],
    decision: datetime | None, rows: int,
) -> None:  # fmt: skip
    """One block a vendor table, newest events first.

    Parameters
    ----------
    inputs : sequence of str
        Panel columns; their origins are the tables and columns shown.
    span : (first, last) session
    decision : datetime, optional
        What counts as known; without one the newest version does.
    rows : int
        Newest used rows shown; 0 shows all.
    """
    zone, renames = environment.study.market.zone, arguments.renames(environment)
    print(
        f"\nvendor rows of {instrument} (times in {zone}; knowledge: `rule` of the table, or `observed` at the fetch)"
    )
    origins = origin(inputs)
    if not origins:
        print("  none: the market's own clock and calendar say it")
    for name, columns in origins.items():
        if name not in environment.lake.tables():
            print(f"\n{name}: the lake holds no such table")
            continue
        spec = environment.tables[name]
        # Minutes only ever describe the session itself; everything else reads the whole window.
        first = span[1] if name == "stk_mins" else span[0]
        versions = versions_of(environment, spec, instrument, renames, (first, span[1]), decision)
        _print_table(spec, columns, versions, zone, rows, decision is None)


def versions_of(
    environment: Environment, spec: TableSpec, instrument: str, renames: Mapping[str, str], span: tuple[date, date],
    decision: datetime | None,
) -> pl.DataFrame:  # fmt: skip
    """All versions of an instrument's rows in a span, newest event first, each with its `use`."""
    bounds = {"start": span[0], "end": span[1]} if spec.layout == "session" else {}
    rows = environment.lake.scan(spec.name, **bounds)
    code = next(name for name in CODES if name in rows.columns)
    rows = rows.filter(original_code(rows[code], renames) == instrument)
    seen = pl.col("known_at") <= (decision or environment.clock.now())
    newest = pl.col("known_at") == pl.col("known_at").filter(seen).max().over(list(spec.key))
    use = pl.when(~seen).then(pl.lit(LATER)).when(newest).then(pl.lit(USED)).otherwise(pl.lit(REPLACED))
    return rows.with_columns(use=use).sort(*_order(spec), descending=True)


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
    keys = [name for name in ([spec.event] if spec.event else []) if name not in columns]
    lacking = [name for name in columns if name not in versions.columns]
    heads = [*keys, "ts_code", *(name for name in columns if name in versions.columns and name != "ts_code")]
    heads = [name for name in dict.fromkeys(heads) if name in versions.columns]
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
    return rows.with_columns(pl.col("known_at").dt.convert_time_zone(zone).dt.strftime("%Y-%m-%d %H:%M"))
