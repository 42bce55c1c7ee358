"""Ways to change what must not be seen: vendor rows published later, another future, other rows' truths and inputs.

Nothing here judges; `laws` compares what the stages make of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from pipeline.frames import MINUTE, row_key
from pipeline.stages.rehearsal import Change, Place, Rehearsal, Vendored
from pipeline.tables.spec import TableSpec

STORED = ("known_at", "ingested_at", "knowledge", "request")
LATER = timedelta(minutes=1)
RARE = 0.5  # rows a name and session below which a table holds states that are rare
BEFALLEN = 5  # sessions on which every name is in such a state
PRICES = ("open", "high", "low", "close", "pre_close")


def known_by(vendored: Vendored, cut: datetime) -> Vendored:
    """As if the vendor had published nothing after an instant."""
    return vendored.changed({table: rows.filter(pl.col("known_at") <= cut) for table, rows in vendored.rows.items()})


def contradicted(
    vendored: Vendored, cut: datetime, settled: Sequence[str], *, future: bool, seed: int = 0
) -> Vendored:
    """The same past published anew right after an instant, otherwise; and another future, if asked for.

    Every row known by then has a new version with what another row had said: prices, factors, names, industries,
    listings and delistings. In another future rows published later say what others of them said, and states that are
    rare befall every name. `settled` tables say which instrument is which and are left alone.
    """
    changed = dict[str, pl.DataFrame]()
    for table in (name for name in vendored.rows if name not in settled):
        rows, spec = vendored.rows[table], vendored.specs[table]
        known, later = rows.filter(pl.col("known_at") <= cut), rows.filter(pl.col("known_at") > cut)
        newest = known.sort("known_at").unique(list(spec.key), keep="last").sort(list(spec.key))
        stamp = pl.lit(cut + LATER).cast(rows.schema["known_at"])
        anew = _exchanged(vendored, newest, spec, seed).with_columns(
            known_at=stamp, ingested_at=stamp, knowledge=pl.lit("observed").cast(rows.schema["knowledge"])
        )
        if future:
            later = pl.concat([_exchanged(vendored, later, spec, seed), _befalling(vendored, table, cut)])
        changed[table] = pl.concat([known, anew, later])
    return vendored.changed(changed)


def _exchanged(vendored: Vendored, rows: pl.DataFrame, spec: TableSpec, seed: int) -> pl.DataFrame:
    """What the rows say in one another's places; whom they are of and their times stay."""
    payload = [name for name in rows.columns if name not in (_code(vendored, spec), spec.event, *STORED)]
    return rows.with_columns(pl.col(payload).gather(np.random.default_rng(seed).permutation(len(rows))))


def _code(vendored: Vendored, spec: TableSpec) -> str:
    """The key column that says whom a row is of: the one that most tables share."""
    keys = [name for other in vendored.specs.values() for name in other.key]
    return max((name for name in spec.key if name != spec.event), key=keys.count)


def _befalling(vendored: Vendored, table: str, cut: datetime) -> pl.DataFrame:
    """Rows of a table of rare states for every name on the sessions after an instant; none for other tables."""
    rows, spec = vendored.rows[table], vendored.specs[table]
    code = _code(vendored, spec)
    if spec.event is None or rows.schema[spec.event] != pl.Date or rows.is_empty():
        return rows.clear()
    days = [day for day in vendored.calendar.sessions if day > cut.date()][:BEFALLEN]
    names = pl.concat(frame[code] for frame in vendored.rows.values() if code in frame.columns).unique().sort()
    if len(rows) > RARE * len(names) * rows[spec.event].n_unique():
        return rows.clear()
    cells = pl.DataFrame({code: names}).join(pl.DataFrame({spec.event: days}), how="cross")
    new = cells.join(rows.select(code, spec.event), on=[code, spec.event], how="anti")
    said = rows.drop(code, spec.event)[np.random.default_rng(0).integers(len(rows), size=len(new))]
    drawn = new.hstack(said).select(rows.columns).sort(spec.event, code)
    return drawn.with_columns(spec.known_at(drawn)["known_at"].cast(rows.schema["known_at"]))


def another_future(base: Rehearsal, cut: datetime, seed: int, jump: float = 1.0) -> dict[Place, Change]:
    """Changes under which every bar after an instant is another bar of that time, and prices have jumped."""
    minute = base.study.market.decides == "minute"
    after = pl.col(MINUTE) >= cut if minute else pl.col("session") > base.calendar.latest(cut.date())

    def change(frame: pl.DataFrame) -> pl.DataFrame:
        key = row_key(frame)
        frame = frame.sort(key)
        before, later = frame.filter(~after), frame.filter(after)
        draw = np.random.default_rng(seed)
        order = draw.permutation(len(later))
        payload = [name for name in later.columns if name not in (*key, "eligible")]
        other = later.with_columns(pl.col(payload).gather(order))
        other = other.with_columns((pl.col(name) * jump).alias(name) for name in PRICES if name in frame.columns)
        return pl.concat([before, other if minute else _blocked(other, draw)])

    def drop(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.filter(~after)

    return {("panel", "panel"): change, ("panel", "patches"): drop}


def _blocked(rows: pl.DataFrame, draw: np.random.Generator) -> pl.DataFrame:
    """A third of the rows locked at a limit: rare events must happen in another future."""
    locked = pl.Series(draw.random(len(rows)) < 1 / 3)
    return rows.with_columns(
        pl.when(locked & pl.col(name).is_null()).then(pl.lit("limit_down")).otherwise(name).alias(name)
        for name in ("open_block", "close_block")
    )


def traded(others: pl.DataFrame, spans: Sequence[str], labels: pl.DataFrame) -> pl.DataFrame:
    """Labels of some rows, null or not, in one another's places; spans stay."""
    key = list(row_key(labels))
    theirs = labels.join(others, on=key, how="semi", maintain_order="left")
    payload = [name for name in labels.columns if name not in (*key, *spans)]
    order = np.random.default_rng(7).permutation(len(theirs))
    exchanged = theirs.with_columns(pl.col(payload).gather(order))
    rest = labels.join(others, on=key, how="anti", maintain_order="left")
    return pl.concat([rest, exchanged]).sort(key)


def other_names(sessions: pl.Series, panel: pl.DataFrame) -> pl.DataFrame:
    """What was measured on some sessions, on other names of the same day; who is eligible stays."""
    key = list(row_key(panel))
    inside = pl.col("session").is_in(sessions.implode())
    there, rest = panel.filter(inside).sort(key), panel.filter(~inside)
    stay = (*key, "eligible", "exclusion", "board", "industry", "is_st", "code", "decision_time")
    payload = [name for name in panel.columns if name not in stay]
    swapped = there.with_columns(pl.col(payload).reverse().over("session"))
    return pl.concat([rest, swapped]).sort(key)


def moved(others: pl.DataFrame, features: pl.DataFrame) -> pl.DataFrame:
    """Features of some rows in another place and on another scale."""
    key = list(row_key(features))
    theirs = features.join(others, on=key, how="semi", maintain_order="left")
    values = [name for name in features.columns if name not in key]
    order = np.random.default_rng(7).permutation(len(theirs))
    scaled = theirs.with_columns((pl.col(values) * 1.5 + 0.25).gather(order)).cast(features.schema)
    rest = features.join(others, on=key, how="anti", maintain_order="left")
    return pl.concat([rest, scaled]).sort(key)


def renamed(others: pl.DataFrame, panel: pl.DataFrame) -> pl.DataFrame:
    """Categories of some rows that no other row has."""
    key, named = list(row_key(panel)), [name for name in ("board", "industry") if name in panel.columns]
    if not named:
        return panel
    marked = panel.join(others.select(*key, other=pl.lit(True)), on=key, how="left", maintain_order="left")
    return marked.with_columns(
        pl.when("other").then(pl.concat_str(name, pl.lit(" of others"))).otherwise(name).alias(name) for name in named
    ).drop("other")
