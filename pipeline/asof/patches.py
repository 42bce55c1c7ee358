"""Later knowledge as a sparse table, and the panel seen through it.

A correction never rewrites a panel: it is a patch that decisions from its effective session on apply.
"""

from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl

from pipeline.asof.build import Build
from pipeline.asof.knowledge import MEASURED
from pipeline.asof.measures import MEASURES, Targets, measured
from pipeline.asof.tradability import blocks
from pipeline.frames import AsOf, Hindsight, as_of, require_columns


def patches_of(build: Build) -> pl.DataFrame:
    """Full measure rows that a later decision of this window knows and the one before it did not.

    Repeated knowledge (a history served again under a new code, say) changes nothing and leaves no patch.
    """
    keys = _revised_keys(build)
    now = Targets(
        keys["row"].to_numpy(),
        keys["instrument"].to_numpy(),
        keys["ordinal"].to_numpy(),
        keys["as_of"].to_numpy(),
    )
    before = Targets(now.row, now.instrument, now.ordinal, now.as_of - 1)
    new, old = (_measured_as_of(build, targets).select(MEASURES) for targets in (now, before))
    changed = pl.DataFrame({c: new[c].ne_missing(old[c]) for c in MEASURES}).select(
        pl.any_horizontal(pl.all()).alias("changed")
    )
    days = build.window.calendar.days
    patches = pl.DataFrame(
        {
            "effective_session": pl.Series(days[now.as_of]),
            "session": pl.Series(days[now.ordinal]),
            "instrument": build.window.identity.names.gather(now.instrument),
        }
    ).hstack(new)
    return patches.filter(changed["changed"]).sort("effective_session", "session", "instrument")


def apply_patches(panel: pl.DataFrame, patches: pl.DataFrame, *, until: date | None = None) -> pl.DataFrame:
    """Panel rows with the measures that the decision of session `until` knew (None: all patches).

    Only `MEASURES` change; eligibility and blocks stay what they were on the day. A patch without a panel row
    among those handed in is left out.
    """
    require_columns(patches, ["effective_session", "session", "instrument", *MEASURES], "patches")
    held = patches if until is None else patches.filter(pl.col("effective_session") <= until)
    newest = held.sort("effective_session").unique(
        ["session", "instrument"], keep="last", maintain_order=True
    )
    touched = (
        panel.select("session", "instrument")
        .with_row_index("row")
        .filter(
            pl.col("session").is_in(newest["session"].implode()),
            pl.col("instrument").is_in(newest["instrument"].implode()),
        )
    )
    changes = touched.join(newest, on=["session", "instrument"], how="inner").sort("row")
    if changes.is_empty():
        return panel
    present = [c for c in MEASURES if c in panel.columns]
    return panel.with_columns(panel[c].scatter(changes["row"], changes[c]) for c in present)


def latest(panel: AsOf, patches: pl.DataFrame) -> Hindsight:
    """The final truth of the panel's measures, with `open_block` and `close_block` judged from it again."""
    return Hindsight(apply_patches(as_of(panel), patches).with_columns(*blocks()))


def _revised_keys(build: Build) -> pl.DataFrame:
    """(row, instrument, ordinal, as_of) of listed rows with a version known only after their own decision."""
    first, last = build.sessions[0], build.sessions[-1]
    found = []
    for table in MEASURED:
        if table not in build.versions:
            continue
        v = build.versions[table]
        late = (
            (v.known > v.ordinal)
            & (v.known >= first)
            & (v.known <= last)
            & (v.ordinal >= 0)
            & (v.instrument >= 0)
        )
        found.append(
            pl.DataFrame(
                {"instrument": v.instrument[late], "ordinal": v.ordinal[late], "as_of": v.known[late]}
            )
        )
    keys = pl.concat(found).unique()
    cell = build.window.cells(keys["instrument"].to_numpy(), keys["ordinal"].to_numpy())
    row = np.append(build.cell_rows(np.arange(len(build.listing.cells))), -1)[cell]
    return keys.with_columns(row=pl.Series(row)).filter(pl.col("row") >= 0).sort("row", "as_of")


def _measured_as_of(build: Build, targets: Targets) -> pl.DataFrame:
    picks = {
        table: build.versions[table].as_known(targets.instrument, targets.ordinal, targets.as_of)
        for table in MEASURED
        if table in build.versions
    }
    return measured(picks, build.versions, targets, build.listing, build.status, build.window)
