"""Book snapshots -> one book a minute: what a snapshot must have, which one stands for its minute, missing levels.

Rebuilding snapshots from a feed of changes is in `depth_feed.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numba import njit

from pipeline.errors import SchemaError
from pipeline.frames import require_columns
from pipeline.tables.binance import BOOK_1M, BOOK_LEVELS, level_names
from pipeline.tables.epochs import instant

BEST = ("bid_0_price", "bid_0_size", "ask_0_price", "ask_0_size")
SIDES = ("bid", "ask")


@dataclass(frozen=True)
class BookCounts:
    """What became of a stretch of snapshots, in rows; levels in level sides.

    Parameters
    ----------
    snapshots : int
        Rows read.
    no_time, no_best_quotes, crossed : int
        Dropped, each under the first that applies. A best quote without size is none; a bid at or above the ask is
        crossed.
    minutes : int
        Rows kept.
    missing_levels : int
        Levels of kept rows without price or size, or with a size of zero.
    disordered_levels : int
        Levels of kept rows that do not lie behind the one before, and all behind them: made missing.
    """

    snapshots: int
    no_time: int
    no_best_quotes: int
    crossed: int
    minutes: int
    missing_levels: int
    disordered_levels: int

    @property
    def faultless(self) -> bool:
        """Nothing was dropped for a fault, and no level is missing."""
        return not any((self.no_time, self.no_best_quotes, self.crossed, self.missing_levels, self.disordered_levels))

    def __str__(self) -> str:
        seen = {name: count for name, count in vars(self).items() if count and name not in ("snapshots", "minutes")}
        details = "".join(f", {count} {name}" for name, count in seen.items())
        return f"{self.minutes} minutes of {self.snapshots} snapshots{details}"


def last_of_minutes(best: pl.DataFrame) -> tuple[pl.Series, dict[str, int]]:
    """Positions of the snapshots that stand for their minutes: the last valid one inside each.

    Parameters
    ----------
    best : DataFrame
        `origin_time` (instants, or integers since 1970) and the best quotes, in order of arrival: of equal times
        the later row stands.

    Returns
    -------
    (Series, dict)
        Row positions by minute, and the counts `no_time`, `no_best_quotes`, `crossed`.
    """
    require_columns(best, ("origin_time", *BEST), "book snapshots")
    quoted = pl.all_horizontal(_positive(name) for name in BEST)
    states = best.with_row_index("position").select(
        "position", _origin(best).alias("at"),
        quoted.alias("quoted"), (pl.col("bid_0_price") >= pl.col("ask_0_price")).alias("crossed"),
    )
    timed = states.filter(pl.col("at").is_not_null())
    whole = timed.filter("quoted")
    valid = whole.filter(~pl.col("crossed"))
    counts = {
        "no_time": states.height - timed.height, "no_best_quotes": timed.height - whole.height,
        "crossed": whole.height - valid.height,
    }
    ordered = valid.with_columns(pl.col("at").dt.truncate("1m").alias("minute")).sort("minute", "at", "position")
    return ordered.group_by("minute", maintain_order=True).last()["position"], counts


def minute_books(snapshots: pl.DataFrame, symbol: str) -> tuple[pl.DataFrame, BookCounts]:
    """The book of each minute, as rows of `book_1m`.

    Parameters
    ----------
    snapshots : DataFrame
        `origin_time` and `{bid,ask}_{0..19}_{price,size}`, in order of arrival; other columns are passed by.

    Raises
    ------
    SchemaError
        Missing columns.
    """
    chosen, counts = last_of_minutes(snapshots)
    return settle(snapshots[chosen], symbol, counts, snapshots.height)


def settle(
    chosen: pl.DataFrame, symbol: str, counts: dict[str, int], snapshots: int
) -> tuple[pl.DataFrame, BookCounts]:
    """Rows of `book_1m` from the snapshots that `last_of_minutes` chose, with levels that are none made null."""
    require_columns(chosen, level_names(), "book snapshots")
    levels, missing, disordered = _without_damage(chosen)
    origin = _origin(chosen)
    # A NaN becomes null where the rows are typed.
    rows = BOOK_1M.typed(levels.with_columns(
        chosen.select(pl.lit(symbol).alias("symbol"), origin.dt.truncate("1m").alias("minute"),
                      origin.alias("origin_time")),
    ))
    BOOK_1M.check(rows)
    return rows, BookCounts(snapshots=snapshots, **counts, minutes=rows.height, missing_levels=missing,
                            disordered_levels=disordered)


def level_arrays(books: pl.DataFrame) -> pl.DataFrame:
    """Rows of `book_1m` with a side as one array: what feature code reads.

    Returns
    -------
    DataFrame
        instrument, minute (UTC), bid_price, bid_size, ask_price, ask_size (Array(Float64, 20), NaN for a missing
        level).
    """
    arrays = [
        pl.concat_arr([pl.col(f"{side}_{i}_{what}").fill_null(float("nan")) for i in range(BOOK_LEVELS)])
        .alias(f"{side}_{what}")
        for side in SIDES for what in ("price", "size")
    ]
    return books.select(
        pl.col("symbol").alias("instrument"), pl.col("minute").dt.replace_time_zone("UTC"), *arrays
    )


def _origin(frame: pl.DataFrame) -> pl.Expr:
    """The snapshot's instant, naive UTC; null where the exchange gave none (null, or zero)."""
    dtype = frame.schema["origin_time"]
    column = pl.col("origin_time")
    if dtype.is_integer():
        return pl.when(column > 0).then(instant("origin_time"))
    if not isinstance(dtype, pl.Datetime):
        raise SchemaError("origin_time holds instants or integers since 1970", str(dtype), "convert the column")
    if dtype.time_zone is not None:
        column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return pl.when(column.dt.epoch("s") > 0).then(column.dt.cast_time_unit("us"))


def _positive(name: str) -> pl.Expr:
    """Finite and above zero; false for null and NaN."""
    return (pl.col(name).is_finite() & (pl.col(name) > 0)).fill_null(False)


def _without_damage(chosen: pl.DataFrame) -> tuple[pl.DataFrame, int, int]:
    """The levels as Float64, NaN where one is missing or disordered, and how many of either.

    One pass over numbers: as an expression a level, each built on the one before, a day took 120 ms instead of 3.
    """
    names = level_names()
    numbers = chosen.select(pl.col(names).cast(pl.Float64)).to_numpy(writable=True)
    levels = np.ascontiguousarray(numbers.T).reshape(len(SIDES), BOOK_LEVELS, 2, chosen.height)
    missing, disordered = _blank(levels)
    return pl.DataFrame(levels.reshape(len(names), -1).T, schema=list(names), orient="row"), missing, disordered


@njit(cache=True)
def _blank(levels: np.ndarray) -> tuple[int, int]:
    """Blank, in place, price and size of levels that are none; float64 [side, level, price and size, row].

    A level is missing without a finite price and size above zero. Prices step away from the middle: a level that does
    not lie behind the one before is disordered, and so is all behind it.

    Returns
    -------
    (int, int)
        Missing and disordered levels.
    """
    sides, depth, _, rows = levels.shape
    missing, disordered = 0, 0
    for side in range(sides):
        away = -1.0 if side == 0 else 1.0
        reached = np.full(rows, -np.inf)  # the last level's price, so turned that it grows; inf: nothing lies behind
        for level in range(depth):
            price, size = levels[side, level]
            for row in range(rows):
                if not (0 < price[row] < np.inf and 0 < size[row] < np.inf):
                    missing += 1
                elif away * price[row] > reached[row]:
                    reached[row] = away * price[row]
                    continue
                else:
                    disordered += 1
                    reached[row] = np.inf
                price[row], size[row] = np.nan, np.nan
    return missing, disordered
