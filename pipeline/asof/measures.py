"""What the vendor measured, in our units: bars, factor, valuation, money flow, and the limits that follow.

One routine serves the panel (each row as of its own decision) and the patches (rows as of a later one).
Not here: which version is picked (knowledge.py) and what excludes a row (tradability.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import polars as pl

from pipeline.asof import rules
from pipeline.asof.adjustment import carried_factor
from pipeline.asof.knowledge import Versions, Window
from pipeline.asof.universe import Listing, Status

BAR = ("open", "high", "low", "close", "pre_close", "volume", "amount")
MEASURES = (
    *BAR, "factor", "up_limit", "down_limit", "suspended", "turnover", "turnover_free", "volume_ratio",
    "pe_ttm", "pb", "ps_ttm", "dividend_yield_pct", "total_mv", "circ_mv", "flow_small", "flow_medium",
    "flow_large", "flow_extra_large", "flow_gross",
)
"""Columns of a patch: all that a vendor measured, and the limits that follow from it."""

QUOTE_TOLERANCE = 1e-6
"""CNY; a bar's open and close may leave [low, high] by this much (float noise of converted feeds)."""

ORDERS = {"flow_small": "sm", "flow_medium": "md", "flow_large": "lg", "flow_extra_large": "elg"}


@dataclass(frozen=True)
class Targets:
    """Rows to measure: listing rows, each as of some decision session.

    Parameters
    ----------
    row : ndarray of int64
        Listing row, which carries the key and the status.
    instrument, ordinal, as_of : ndarray of int32
        Instrument index, session ordinal of the row, session ordinal of the decision that looks.
    """

    row: np.ndarray
    instrument: np.ndarray
    ordinal: np.ndarray
    as_of: np.ndarray


def measured(
    picks: Mapping[str, np.ndarray],
    versions: Mapping[str, Versions],
    targets: Targets,
    listing: Listing,
    status: Status,
    window: Window,
) -> pl.DataFrame:
    """`MEASURES` of the targets, and the audit columns `has_bar`, `valid_bar`, `factor_carried`,
    `limit_known`.

    Parameters
    ----------
    picks : mapping of table to ndarray of int64
        Row of the table's versions for each target, -1 for none.
    """
    frame = pl.concat(
        [
            _bar(
                picked(
                    versions, picks, "daily", ("open", "high", "low", "close", "pre_close", "vol", "amount")
                )
            ),
            _valuation(
                picked(
                    versions,
                    picks,
                    "daily_basic",
                    (
                        "turnover_rate",
                        "turnover_rate_f",
                        "volume_ratio",
                        "pe_ttm",
                        "pb",
                        "ps_ttm",
                        "dv_ttm",
                        "total_mv",
                        "circ_mv",
                    ),
                )
            ),
            _flow(
                picked(
                    versions,
                    picks,
                    "moneyflow",
                    [f"{side}_{size}_amount" for size in ORDERS.values() for side in ("buy", "sell")],
                )
            ),
            _factor(picks, versions, targets),
        ],
        how="horizontal",
    )
    up, down, known = _limits(frame["pre_close"], targets, listing, status, window)
    suspended = picks.get("suspend_d", np.full(len(targets.row), -1)) >= 0
    return frame.with_columns(
        pl.Series("up_limit", up).fill_nan(None),
        pl.Series("down_limit", down).fill_nan(None),
        pl.Series("suspended", suspended),
        pl.Series("limit_known", known),
    )


def picked(
    versions: Mapping[str, Versions],
    picks: Mapping[str, np.ndarray],
    table: str,
    columns: tuple[str, ...] | list[str],
) -> pl.DataFrame:
    """Float64 columns of the picked versions, null where none was picked or the source lacks the column."""
    n = len(next(iter(picks.values())))
    if table not in versions:
        rows, at = pl.DataFrame(), pl.repeat(None, n, dtype=pl.Int64, eager=True)
    else:
        rows, at = versions[table].rows, pl.Series(np.where(picks[table] < 0, np.int64(-1), picks[table]))
        at = at.set(at < 0, None)
    held = [c for c in columns if c in rows.columns]
    values = rows.select(pl.col(c).gather(at).cast(pl.Float64).fill_nan(None) for c in held)
    found = pl.DataFrame({"picked": at.is_not_null()}).with_columns(values.get_columns())
    absent = [pl.lit(None, pl.Float64).alias(c) for c in columns if c not in held]
    return found.select(*held, *absent, "picked")


def _bar(rows: pl.DataFrame) -> pl.DataFrame:
    """Bars in CNY and shares; a row that fails a quote rule keeps nothing but its audit columns."""
    prices = ["open", "high", "low", "close"]
    sound = pl.all_horizontal(*(pl.col(c).is_finite() & (pl.col(c) > 0) for c in prices))
    inside = pl.all_horizontal(
        *(
            (pl.col(c) >= pl.col("low") - QUOTE_TOLERANCE) & (pl.col(c) <= pl.col("high") + QUOTE_TOLERANCE)
            for c in ("open", "close")
        )
    )
    reference = pl.col("pre_close").is_null() | (pl.col("pre_close").is_finite() & (pl.col("pre_close") > 0))
    valid = (sound & inside & (pl.col("high") >= pl.col("low")) & reference).fill_null(False)
    volume, amount = pl.col("vol") * 100, pl.col("amount") * 1000
    frame = rows.with_columns(
        has_bar=pl.col("picked"), valid_bar=valid
    )
    return frame.select(
        *(pl.when("valid_bar").then(c).alias(c) for c in (*prices, "pre_close")),
        pl.when(pl.col("valid_bar") & (pl.col("vol") >= 0)).then(volume).alias("volume"),
        pl.when(pl.col("valid_bar") & (pl.col("amount") >= 0)).then(amount).alias("amount"),
        "has_bar",
        "valid_bar",
    )


def _valuation(rows: pl.DataFrame) -> pl.DataFrame:
    """`daily_basic`: percent to fractions, 10,000 CNY to CNY."""
    return rows.select(
        turnover=pl.col("turnover_rate") / 100,
        turnover_free=pl.col("turnover_rate_f") / 100,
        volume_ratio=pl.col("volume_ratio"),
        pe_ttm=pl.col("pe_ttm"),
        pb=pl.col("pb"),
        ps_ttm=pl.col("ps_ttm"),
        dividend_yield_pct=pl.col("dv_ttm"),
        total_mv=pl.col("total_mv") * 10_000,
        circ_mv=pl.col("circ_mv") * 10_000,
    )


def _flow(rows: pl.DataFrame) -> pl.DataFrame:
    """`moneyflow`: buy minus sell amount by order size and the gross of both, CNY."""
    net = {
        name: (pl.col(f"buy_{size}_amount") - pl.col(f"sell_{size}_amount")) * 10_000
        for name, size in ORDERS.items()
    }
    legs = [pl.col(f"{side}_{size}_amount") for size in ORDERS.values() for side in ("buy", "sell")]
    gross = reduce(add, legs)  # left to right; how `sum_horizontal` adds depends on the number of threads
    return rows.select(**net, flow_gross=gross * 10_000)


def _factor(
    picks: Mapping[str, np.ndarray], versions: Mapping[str, Versions], targets: Targets
) -> pl.DataFrame:
    """The factor as known; a missing one is the newest earlier one that was handed in, and says so."""
    factor = picked(versions, picks, "adj_factor", ("adj_factor",))["adj_factor"].to_numpy().copy()
    missing = np.flatnonzero(~(np.isfinite(factor) & (factor > 0)))
    factor[missing] = np.nan
    if len(missing) and "adj_factor" in versions:
        factor[missing] = carried_factor(
            versions["adj_factor"],
            targets.instrument[missing],
            targets.ordinal[missing],
            targets.as_of[missing],
        )
    carried = np.zeros(len(factor), dtype=np.bool_)
    carried[missing] = np.isfinite(factor[missing])
    return pl.DataFrame({"factor": pl.Series(factor).fill_nan(None), "factor_carried": carried})


def _limits(
    pre_close: pl.Series, targets: Targets, listing: Listing, status: Status, window: Window
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Daily limits by the dated rules (NaN without one), and whether the rules have an opinion at all."""
    row, session = targets.row, window.calendar.days[targets.ordinal]
    board, exchange = (
        window.identity.boards[targets.instrument],
        window.identity.exchanges[targets.instrument],
    )
    leaving = status.delisting[row]
    percent = np.where(
        leaving,
        rules.delisting_percent(board, exchange, status.delisting_first_day[row], session),
        rules.limit_percent(board, status.is_st[row], session),
    )
    sessions, by_rule = rules.free_sessions(board, listing.list_day[row])
    opening = listing.age_from_list_day[row] < sessions
    percent[opening] = 0
    reference = pre_close.fill_null(np.nan).to_numpy()
    up, down = rules.price_limits(reference, percent, rules.widened(exchange, session))
    return up, down, np.isfinite(up) | (opening & by_rule & ~leaving)
