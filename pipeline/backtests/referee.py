"""A second opinion on every trade, from raw quotes and limits; it reads no block flags and no kernel."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from pipeline.frames import require_columns

HALF_TICK = 0.005
"""CNY; a price nearer than this to a daily limit is at it (A-share tick 0.01)."""


_PANEL = ("session", "instrument", "open", "close", "factor", "amount", "up_limit", "down_limit", "suspended")


def impossible_fills(trades: pl.DataFrame, panel: pl.DataFrame, haircut: float = 0.5) -> pl.DataFrame:
    """Trades that could not have happened as written.

    Parameters
    ----------
    trades : pl.DataFrame
        session, instrument, status, entry_session, entry_price, exit_session, exit_price (`book` is kept).
    panel : pl.DataFrame
        Panel rows in final truth: session, instrument, open, close, factor, amount, up_limit, down_limit,
        suspended.
    haircut : float
        What a delisted name must have lost on its last known close.

    Returns
    -------
    pl.DataFrame
        [book,] session (decision), instrument, day, rule, observed: one row per broken rule, empty when all
        is well. Rules: entry after the decision, exit after the entry; a row, no suspension, a positive
        amount and price, not at a daily limit, and the price of that open (close) times the factor; a
        delisting exit has no later row and pays the haircut price.
    """
    require_columns(panel, _PANEL, "impossible_fills")
    id_columns = [c for c in trades.columns if c in ("book", "session", "instrument")]
    quotes = panel.select(_PANEL).rename({"session": "day"})
    sold = pl.col("status").is_in(["filled", "carried"])
    entered = trades.filter(pl.col("entry_session").is_not_null())
    entries = entered.with_columns(day="entry_session", price="entry_price", after="session")
    exits = entered.filter(sold).with_columns(day="exit_session", price="exit_price", after="entry_session")
    delisted = entered.filter(pl.col("status") == "delisted")
    found = [
        _judge(entries, quotes, "open", id_columns),
        _judge(exits, quotes, "close", id_columns),
        _judge_delisted(delisted, quotes, haircut, id_columns),
    ]
    return pl.concat(found).sort(*id_columns, "day", "rule")


def _judge(fills: pl.DataFrame, quotes: pl.DataFrame, side: str, ids: Sequence[str]) -> pl.DataFrame:
    """Broken rules of fills at one side of the day; `price` was paid on `day`, which comes after `after`."""
    joined = fills.select(*ids, "day", "price", "after").join(
        quotes.with_columns(present=pl.lit(True)), on=["instrument", "day"], how="left"
    )
    raw, limit = (
        pl.col(side),
        {name: (pl.col(side) - pl.col(name)).abs() for name in ("up_limit", "down_limit")},
    )
    adjusted = raw * pl.col("factor")
    rules = {
        "the day must come after the one before it": (pl.col("day") > pl.col("after"), pl.col("after")),
        "the name must be listed": (pl.col("present"), pl.col("day")),
        "the name must not be suspended": (~pl.col("suspended"), pl.col("suspended")),
        "the amount must be positive": (pl.col("amount") > 0, pl.col("amount")),
        f"the {side} must be positive": (raw > 0, raw),
        f"the {side} must not be at the upper limit": (limit["up_limit"].fill_null(1.0) >= HALF_TICK, raw),
        f"the {side} must not be at the lower limit": (limit["down_limit"].fill_null(1.0) >= HALF_TICK, raw),
        f"the price must be {side} x factor": (
            ((pl.col("price") - adjusted).abs() <= 1e-9 * adjusted) & pl.col("price").is_finite(),
            pl.col("price"),
        ),
    }
    return _broken(joined, rules, ids)


def _judge_delisted(fills: pl.DataFrame, quotes: pl.DataFrame, haircut: float, ids: Sequence[str]) -> pl.DataFrame:
    """A forced exit: no row from that day on; the last known close (or the entry price) less the haircut."""
    joined = fills.select(*ids, "entry_session", "entry_price", day="exit_session", price="exit_price").with_row_index(
        "fill"
    )
    held = joined.select("fill", "instrument", "entry_session").join(quotes, on="instrument")
    held = held.filter(pl.col("day") >= pl.col("entry_session"))
    last = (
        held.sort("fill", "day")
        .group_by("fill")
        .agg(
            last_row=pl.col("day").max(),
            known=(pl.col("close") * pl.col("factor")).filter(pl.col("close") > 0).last(),
        )
    )
    judged = joined.join(last, on="fill", how="left")
    due = pl.coalesce("known", "entry_price") * (1 - haircut)
    return _broken(
        judged,
        {
            "a delisted name has no later row": (pl.col("last_row") < pl.col("day"), pl.col("last_row")),
            "a delisting pays the last close less the haircut": (
                (pl.col("price") - due).abs() <= 1e-9 * due.abs(),
                pl.col("price"),
            ),
        },
        ids,
    )


def _broken(frame: pl.DataFrame, rules: dict[str, tuple[pl.Expr, pl.Expr]], ids: Sequence[str]) -> pl.DataFrame:
    """Rows that break a rule; a rule that cannot be judged for want of a value counts as broken."""
    return pl.concat(
        frame.filter(~holds.fill_null(False)).select(*ids, "day", rule=pl.lit(rule), observed=observed.cast(pl.String))
        for rule, (holds, observed) in rules.items()
    )
