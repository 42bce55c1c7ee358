"""Append-only records of what was decided, as CSV files with stable columns.

    daily_top10_records/trade_date=YYYYMMDD/top10_record.csv      the selection of a session; created once
    daily_top10_records/trade_date=YYYYMMDD/no_selection_NN.csv   a refusal of a session; created once
    daily_top10_records/top10_history.csv, top10_latest.csv       derived
    selections/all_selections.csv, latest_selection_row.csv       derived, one row a session

    minute_decisions/trade_date=YYYYMMDD/decisions.csv            the entries of a UTC day; created once
    minute_decisions/trade_date=YYYYMMDD/no_selection_NN.csv      a refusal of a day; created once
    minute_decisions/decisions_history.csv, decisions_latest.csv  derived
    decision_days/all_days.csv, latest_day_row.csv                derived, one row a day

A session may be refused several times and then be selected: each refusal stays in the history under its own attempt
number, and the selection is the last attempt. A selection stands: the same one again changes nothing, another one is
a conflict, and a refusal after it is not recorded. A day of minutes on which nothing was to be entered is no refusal:
its record is one row of status NO_ENTRY.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl

from pipeline.errors import BadInput
from pipeline.frames import require_columns
from pipeline.serving.record_files import NO_SELECTION as NO_SELECTION  # beside the other two, for readers
from pipeline.serving.record_files import RecordBook, record, refuse

SELECTED, NO_ENTRY = "SELECTED", "NO_ENTRY"
DAILY, MINUTE_DECISIONS = "daily_top10_records", "minute_decisions"
RANKED = ("code", "weight", "score", "board", "industry")
RANKS = 10  # columns of all_selections.csv; more only if a policy selects more
INSTANT = "%Y-%m-%dT%H:%M:%SZ"


def _one_row_a_session(history: pl.DataFrame) -> pl.DataFrame:
    """The last attempt of every session: copy-ready codes, then each rank's code, weight, score and tags."""
    standing = history.filter(pl.col("attempt") == pl.col("attempt").max().over("trade_date"))
    names = pl.col("code").drop_nulls()
    ranks = range(1, max(RANKS, *standing["rank"].fill_null(0)) + 1)
    wide = [
        pl.col(column)
        .filter(pl.col("rank") == rank)
        .first()
        .alias(f"{'rank' if column == 'code' else column}_{rank:02d}")
        for column in RANKED
        for rank in ranks
    ]
    return standing.group_by("trade_date", maintain_order=True).agg(
        pl.col("status").first(),
        pl.col("bundle").first(),
        names.len().alias("names"),
        pl.when(names.len() > 0).then(names.str.join(",")).alias("codes"),
        pl.when(names.len() > 0).then(names.str.head(6).str.join(",")).alias("plain_codes"),
        *wide,
        pl.col("reason").first(),
    )


def _one_row_a_day(history: pl.DataFrame) -> pl.DataFrame:
    """The last attempt of every day: how many entries, of which sides, from when to when, how large."""
    standing = history.filter(pl.col("attempt") == pl.col("attempt").max().over("trade_date"))
    return standing.group_by("trade_date", maintain_order=True).agg(
        pl.col("status").first(),
        pl.col("bundle").first(),
        pl.col("rank").count().alias("entries"),
        (pl.col("side") == "LONG").sum().alias("long_entries"),
        (pl.col("side") == "SHORT").sum().alias("short_entries"),
        pl.col("minute").first().alias("first_minute"),
        pl.col("minute").last().alias("last_minute"),
        pl.col("weight").mean().alias("mean_weight"),
        pl.col("weight").max().alias("max_weight"),
        pl.col("score").mean().alias("mean_score"),
        pl.col("reason").first(),
    )


TOP10 = RecordBook(
    folder=DAILY,
    record="top10_record.csv",
    history="top10_history.csv",
    latest="top10_latest.csv",
    every="selections/all_selections.csv",
    newest="selections/latest_selection_row.csv",
    columns={
        "trade_date": pl.String,
        "status": pl.String,
        "bundle": pl.String,
        "rank": pl.Int32,
        "code": pl.String,
        "instrument": pl.String,
        "weight": pl.Float64,
        "score": pl.Float64,
        "board": pl.String,
        "industry": pl.String,
        "reason": pl.String,
    },
    summarise=_one_row_a_session,
)
MINUTES = RecordBook(
    folder=MINUTE_DECISIONS,
    record="decisions.csv",
    history="decisions_history.csv",
    latest="decisions_latest.csv",
    every="decision_days/all_days.csv",
    newest="decision_days/latest_day_row.csv",
    columns={
        "trade_date": pl.String,
        "status": pl.String,
        "bundle": pl.String,
        "rank": pl.Int32,
        "instrument": pl.String,
        "minute": pl.String,
        "side": pl.String,
        "weight": pl.Float64,
        "score": pl.Float64,
        "price": pl.Float64,
        "target_price": pl.Float64,
        "stop_price": pl.Float64,
        "entry_prob": pl.Float64,
        "direction_prob": pl.Float64,
        "market_risk_prob": pl.Float64,
        "reason": pl.String,
    },
    summarise=_one_row_a_day,
    idle=NO_ENTRY,
)
BOOKS = {"top_k": TOP10, "position_manager": MINUTES}
"""Family of a study's policy -> where its decisions are recorded."""


@dataclass(frozen=True)
class Selection:
    """What a bundle selected for a session.

    Parameters
    ----------
    day : date
    bundle : str
        Hash of the bundle.
    ranked : DataFrame
        `rank` from 1 and the columns of the book between `bundle` and `reason`; empty only where the book says so.
    book : RecordBook
    """

    day: date
    bundle: str
    ranked: pl.DataFrame
    book: RecordBook = TOP10


def write_selection(root: Path, selection: Selection) -> Path:
    """Record a selection and rebuild what is derived; the same one again changes no byte.

    Returns
    -------
    Path
        The session's record.

    Raises
    ------
    RecordConflict
        The session has another selection; nothing was changed.
    BadInput
        No names where there must be some, or ranks that are not 1, 2, ….
    """
    return record(root, selection.book, selection.day, _record(selection))


def write_no_selection(root: Path, day: date, reason: str, book: RecordBook = TOP10) -> Path:
    """Record that a session has no selection, and why; then the latest files say so.

    The same reason as the refusal before changes nothing; neither does a refusal of a session that has its
    selection.

    Returns
    -------
    Path
        The session's newest record.
    """
    return refuse(root, book, day, reason)


def _record(selection: Selection) -> pl.DataFrame:
    """One row a rank, or the one row that says that nothing was to be entered."""
    ranked, columns = selection.ranked, selection.book.columns
    given = [column for column in columns if column not in ("trade_date", "status", "bundle", "reason")]
    require_columns(ranked, given, "a selection")
    said = {"trade_date": f"{selection.day:%Y%m%d}", "bundle": selection.bundle, "reason": None}
    if ranked.is_empty() and selection.book.idle:
        return pl.DataFrame([said | {"status": selection.book.idle}], schema=columns)
    if ranked.is_empty() or ranked["rank"].to_list() != list(range(1, len(ranked) + 1)):
        raise BadInput("a selection has ranks 1, 2, …", ranked["rank"].to_list(), "record the session as NO_SELECTION")
    instants = pl.selectors.datetime().dt.strftime(INSTANT)
    stated = [pl.lit(value, pl.String).alias(name) for name, value in (said | {"status": SELECTED}).items()]
    return ranked.select(*given).with_columns(instants).with_columns(stated).select(*columns)
