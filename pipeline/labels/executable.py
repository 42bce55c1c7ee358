"""The label family `executable`: what a name bought at the next open returned, and what stood in the way.

Looks forward by design and therefore reads `Hindsight` only. What may be traded at an open or a close was
decided in the panel (`open_block`, `close_block`); this module only waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
import polars as pl

from pipeline.asof.dense import dense
from pipeline.calendars import Calendar
from pipeline.errors import BadInput
from pipeline.frames import Hindsight, hindsight, require_columns, require_unique
from pipeline.labels.outcomes import FREE, LIMIT_DOWN, OTHER, STATUSES, SUSPENDED, Outcomes, trade_outcomes
from pipeline.labels.spec import LabelSpec

HEADS = ("rank", "q", "buy_block", "downlock", "fragility", "intraday_aux")
COLUMNS = ("session", "instrument", "label_start", "label_end", "entry_session", "exit_session",
           "entry_price", "exit_price", "exit_delay", "status", "ret", *HEADS)
_BLOCKS = {"limit_down": LIMIT_DOWN, "suspended": SUSPENDED}
READS = ("session", "instrument", "open", "low", "close", "factor", "open_block", "close_block", "eligible")


def executable_labels(
    market: Hindsight, calendar: Calendar, sessions: Sequence[date], spec: LabelSpec
) -> pl.DataFrame:
    """Label every panel row of some decision sessions.

    A decision of session T buys at the adjusted open of T+1 and sells at the adjusted close of session
    T+`exit_session`, or at the first later close that can be traded. Its span `[label_start, label_end)` runs
    from T to the session after the last one looked at.

    Parameters
    ----------
    market : Hindsight
        Panel rows in final truth: every session from the first decision to the last known one.
    calendar : Calendar
        The market's sessions, announced ones included: the last span may end on the next session.
    sessions : sequence of date
        Decision sessions.
    spec : LabelSpec
        Exit session, longest delay and tail share.

    Returns
    -------
    pl.DataFrame
        Table `labels`, in key order. `ret` is `exit_price / entry_price - 1`. Status:
        `filled`;
        `entry_blocked`: the open of T+1 could not be bought, the span ends after that attempt;
        `censored`: no tradable close within `max_exit_delay` sessions of the target (or no adjusted price at
        an open that could be bought), the span ends after the last session looked at;
        `open`: not yet known, no span end.

        Heads, for eligible rows, null without truth:
        `rank`: average-tie rank of `ret` among the session's filled eligible rows, from -0.5 to 0.5;
        `q`: 1 in the upper `tail` of that order;
        `buy_block`: 1 if the open of T+1 could not be bought;
        `downlock`: 1 if a close from T+1 to the exit was locked at limit-down, or if a suspension blocked the
        target exit and the exit then came below the last close that could have been sold at; null if a
        suspension, and no limit-down, held a censored position: its loss is unknown;
        `fragility`: `1 - min(adjusted low, T+1 .. exit) / entry_price`, at least 0;
        `intraday_aux`: rank of close over open within T+1 among rows that could be bought, from -0.5 to 0.5.

    Raises
    ------
    BadInput
        Missing sessions, an unknown head, or a tradable quote without a price.
    CalendarError
        A decision day that is no session, or a span end past the announced calendar.
    """
    unknown = [head.name for head in spec.heads if head.name not in HEADS]
    if unknown:
        raise BadInput(f"the family `executable` has the heads {list(HEADS)}", unknown, "drop or rename them")
    if not sessions:
        raise BadInput("labels need at least one decision session", 0, "choose sessions of the panel")
    rows = _market_rows(market, calendar, sessions, spec)
    days = _known_days(rows, calendar, sessions)
    first = calendar.ordinal(days[0])
    decided = rows.filter(pl.col("session").is_in(pl.Series(sessions, dtype=pl.Date).implode()))
    outcomes = trade_outcomes(
        decided["instrument"].to_physical().to_numpy().astype(np.int64),
        calendar.ordinals(decided["session"]) - first,
        *_market_arrays(rows, days), spec.exit_session, spec.max_exit_delay,
    )
    return _with_heads(_table(decided, outcomes, first, calendar), spec.tail).select(COLUMNS)


def _market_rows(
    market: Hindsight, calendar: Calendar, sessions: Sequence[date], spec: LabelSpec
) -> pl.DataFrame:
    """The rows that labels of these sessions can look at, in key order; instruments as an enumeration."""
    last = calendar.ordinal(max(sessions)) + spec.exit_session + spec.max_exit_delay
    frame = hindsight(market)
    require_columns(frame, READS, "labels")
    frame = frame.select(READS).filter(
        pl.col("session").is_between(min(sessions), calendar.sessions[min(last, len(calendar.sessions) - 1)])
    )
    instrument = pl.Enum(frame["instrument"].unique().sort())
    frame = frame.with_columns(pl.col("instrument").cast(instrument)).sort("session", "instrument")
    doubled = (pl.col("session") == pl.col("session").shift()) & (
        pl.col("instrument") == pl.col("instrument").shift()
    )
    if frame.select(doubled.any() | pl.col("instrument").is_null().any()).item():
        require_unique(frame, ["session", "instrument"], "the panel")
    for price, block in (("open", "open_block"), ("close", "close_block")):
        wrong = frame.filter(pl.col(block).is_null() & ~(pl.col(price) > 0).fill_null(False))
        if not wrong.is_empty():
            raise BadInput(f"a session without {block} must have a positive {price}",
                           wrong.select("session", "instrument", price).row(0),
                           "rebuild the panel: it blocks such a row as `invalid_quote`")
    return frame


def _known_days(rows: pl.DataFrame, calendar: Calendar, sessions: Sequence[date]) -> list[date]:
    """The sessions that the market knows, from the first decision on; an error for a hole among them."""
    present = rows["session"].unique().to_list()
    days = calendar.between(min(sessions), max([*present, *sessions]))
    missing = sorted({*days, *sessions} - set(present))
    if missing:
        raise BadInput("the market must have rows on every session from the first decision to the last known",
                       f"none on {missing[0]}; {len(missing)} sessions missing",
                       "materialise the panel of these sessions")
    return days


def _market_arrays(rows: pl.DataFrame, days: list[date]) -> tuple[np.ndarray, ...]:
    """Adjusted open, low, close and the codes of both blocks, [instruments, sessions]; no row: suspended."""
    prices, blocks = ("open", "low", "close"), ("open_block", "close_block")
    coded = rows.select(
        "session", "instrument", *(pl.col(price) * pl.col("factor") for price in prices),
        *(pl.when(pl.col(block).is_null()).then(FREE).otherwise(
            pl.col(block).replace_strict(_BLOCKS, default=OTHER, return_dtype=pl.UInt8)).alias(block)
          for block in blocks),
    )
    values = dense(coded, (*prices, *blocks), sessions=days).values
    return (
        *(values[price] for price in prices),
        *(np.where(np.isnan(values[block]), SUSPENDED, values[block]).astype(np.uint8) for block in blocks),
    )


def _table(decided: pl.DataFrame, outcomes: Outcomes, first: int, calendar: Calendar) -> pl.DataFrame:
    """Outcomes as columns beside the key; still without the heads that rank a cross-section."""
    return (
        decided.select("session", pl.col("instrument").cast(pl.String), "eligible")
        .with_columns(
            pl.col("session").alias("label_start"),
            _dates("label_end", outcomes.end, first, calendar),
            _dates("entry_session", outcomes.entry, first, calendar),
            _dates("exit_session", outcomes.exit, first, calendar),
            pl.Series("exit_delay", outcomes.delay, dtype=pl.Int16),
            pl.Series("status", STATUSES, dtype=pl.String).gather(outcomes.status),
            *(pl.Series(name, getattr(outcomes, name), nan_to_null=True)
              for name in ("entry_price", "exit_price", "downlock", "adverse", "intraday")),
        )
        .with_columns(pl.when(pl.col("exit_delay") >= 0).then(pl.col("exit_delay")),
                      (pl.col("exit_price") / pl.col("entry_price") - 1).alias("ret"))
    )


def _dates(name: str, columns: np.ndarray, first: int, calendar: Calendar) -> pl.Series:
    """Sessions of market columns, null for -1; an error past the announced calendar."""
    if len(columns):
        calendar.session(max(first, first + int(columns.max())))
    days = np.where(columns >= 0, calendar.days[first + np.maximum(columns, 0)], np.datetime64("NaT", "D"))
    return pl.Series(name, days, dtype=pl.Date)


def _with_heads(table: pl.DataFrame, tail: float) -> pl.DataFrame:
    """The six heads of the eligible rows."""
    eligible = pl.col("eligible").fill_null(False)
    ret = pl.when(eligible).then(pl.col("ret"))
    intraday = pl.when(eligible).then(pl.col("intraday"))
    blocked = pl.col("status") == "entry_blocked"
    attempted = blocked | pl.col("label_end").is_not_null() | pl.col("entry_session").is_not_null()
    place, n = ret.rank("average").over("session"), ret.count().over("session")
    heads = {
        "rank": _centred_rank(ret),
        "q": n - place < tail * n - 1e-9,  # 0.28 * 25 is 7.000000000000001 in binary: no eighth name for that
        "buy_block": pl.when(eligible & attempted).then(blocked),
        "downlock": pl.when(eligible).then(pl.col("downlock")),
        "fragility": pl.when(eligible).then(pl.col("adverse")),
        "intraday_aux": _centred_rank(intraday),
    }
    return table.with_columns(head.cast(pl.Float32).alias(name) for name, head in heads.items())


def _centred_rank(value: pl.Expr) -> pl.Expr:
    """Average-tie rank within the session, from -0.5 to 0.5 (0 for a single row); null stays null."""
    n = value.count().over("session")
    spread = (value.rank("average").over("session") - 1) / (n - 1).clip(1)
    return spread - pl.when(n > 1).then(0.5).otherwise(0.0)
