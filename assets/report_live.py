"""The report's part on live sessions: what was decided, whether research agrees bit for bit, what came of it."""

from __future__ import annotations

import polars as pl

from assets.report_stored import Stored
from pipeline.backtests.ic import rank_ic
from pipeline.frames import MINUTE
from pipeline.frames import MINUTE_ROW as KEY
from pipeline.positions.manager_spec import SIDES
from pipeline.reports.html import Section

SHOWN_ENTRIES = 20
REALISED = "actual_plan_net_edge_bps"


def live_section(stored: Stored) -> Section | None:
    """None before any session was inferred."""
    orders, parity = stored.table("inference", "orders"), stored.table("parity", "report")
    if orders is None:
        return None
    by_minute = MINUTE in orders.columns
    tables = _minutes(stored, orders) if by_minute else _latest(orders)
    if parity is not None:
        tables["parity by session"] = (
            parity.group_by("session")
            .agg(exact=pl.col("exact").all(), rows=pl.col("rows").sum(), different=pl.col("different").sum())
            .sort("session")
        )
    realised = _realised_minutes(stored, orders) if by_minute else _realised(stored)
    if realised is not None:
        tables["realised so far"] = realised
    return Section(
        "Live sessions",
        "Each session was inferred with what was known at its decision time and rebuilt later by the research path.",
        tables=tables,
    )


def _latest(orders: pl.DataFrame) -> dict[str, pl.DataFrame]:
    last = orders.filter(pl.col("session") == orders["session"].max())
    return {"latest selection": last.select("session", "rank", "code", "score", "board", "industry")}


def _realised(stored: Stored) -> pl.DataFrame | None:
    """Per recorded session whose labels have ended: rank IC of the live score, mean return of what was selected."""
    predictions, labels = stored.table("inference", "predictions"), stored.table("labels", "labels")
    orders = stored.table("inference", "orders")
    if predictions is None or labels is None or orders is None:
        return None
    known = labels.filter(pl.col("ret").is_not_null()).select("session", "instrument", "ret")
    ic = rank_ic(predictions, known).filter(pl.col("rank_ic").is_not_null())
    selected = orders.join(known, on=["session", "instrument"])
    held = selected.group_by("session").agg(selected_return=pl.col("ret").mean())
    whole = known.group_by("session").agg(all_names_return=pl.col("ret").mean())
    return ic.join(held, on="session", how="left").join(whole, on="session", how="left").sort("session")


def _minutes(stored: Stored, orders: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Days decided live: entries a day, what became of them, and the newest day's list."""
    days = sorted(stored.hashes("inference"))
    every = pl.DataFrame({"session": pl.Series(days, dtype=pl.String).str.to_date()})
    by_day = orders.group_by("session").agg(
        entries=pl.len(),
        **{f"{side.lower()}_entries": (pl.col("side") == side).sum() for side in SIDES},
        first=pl.col(MINUTE).min(),
        last=pl.col(MINUTE).max(),
        mean_ratio=pl.col("weight").mean(),
        mean_predicted_edge_bps=pl.col("score").mean(),
    )
    counts = ("entries", *(f"{side.lower()}_entries" for side in SIDES))
    tables = {
        "minutes at which the manager would open, were it flat": every.join(by_day, on="session", how="left")
        .with_columns(pl.col(counts).fill_null(0))
        .sort("session")
    }
    newest = orders.filter(pl.col("session") == every["session"].max())
    if len(newest):
        shown = newest.sort("rank").head(SHOWN_ENTRIES).drop("session")
        tables[f"entries of {days[-1]}, the first {len(shown)} of {len(newest)}"] = shown
    return tables


def _realised_minutes(stored: Stored, orders: pl.DataFrame) -> pl.DataFrame | None:
    """Per recorded day whose labels have ended: rank IC, net edge of the listed minutes and of all minutes."""
    predictions, labels = stored.table("inference", "predictions"), stored.table("labels", "labels")
    if predictions is None or labels is None:
        return None
    days = predictions["session"].unique()
    known = labels.filter(pl.col("session").is_in(days.implode()), pl.col("ret").is_not_null())
    both = [f"{side.lower()}_{REALISED}" for side in SIDES]
    edges = known.select(*KEY, *both)
    long = pl.col("side") == "LONG"
    listed = (
        orders.join(edges, on=list(KEY))
        .group_by("session")
        .agg(
            listed_minutes=pl.len(),
            listed_net_edge_bps=pl.when(long).then(both[0]).otherwise(both[1]).mean(),
        )
    )
    whole = edges.group_by("session").agg(
        all_long_net_edge_bps=pl.col(both[0]).mean(), all_short_net_edge_bps=pl.col(both[1]).mean()
    )
    ic = rank_ic(predictions, known).filter(pl.col("rank_ic").is_not_null())
    return ic.join(listed, on="session", how="left").join(whole, on="session", how="left").sort("session")
