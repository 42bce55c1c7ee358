"""Minute rows as arrays: checked, in (instrument, minute) order, cut into segments, with their snapshots and funding.

Not here: any feature. A segment is a run of minutes of one instrument without a gap; midnight is no gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from pipeline.errors import BadInput, SchemaError
from pipeline.features.minutes import books as book
from pipeline.features.minutes import windows
from pipeline.frames import in_key_order, require_columns, require_unique

SERIES = ("instrument", "minute")
MINUTE = pl.Datetime("us", "UTC")
PRICES = ("open", "high", "low", "close")
VOLUMES = ("volume", "quote_volume", "trades", "taker_buy_volume")
BAR_COLUMNS = (*SERIES, *PRICES, *VOLUMES)
SIDES = ("bid_price", "bid_size", "ask_price", "ask_size")
FUNDING_COLUMNS = ("instrument", "funding_time", "rate", "interval_hours")

MINUTE_US = 60_000_000
LONGEST_FUNDING_HOURS = 8

_USED_SHARE_OF_DAY = 0.9
_DAY = 1440


def bar_fault() -> pl.Expr:
    """`INVALID_PRICE` or `INVALID_VOLUME` of a bar; null for a sound one."""
    prices = [pl.col(name).cast(pl.Float64) for name in PRICES]
    volumes = [pl.col(name).cast(pl.Float64) for name in VOLUMES]
    priced = pl.all_horizontal(*(price.is_finite() & (price > 0) for price in prices)).fill_null(False)
    enclosed = (pl.col("low") <= pl.min_horizontal("open", "close")) & (
        pl.col("high") >= pl.max_horizontal("open", "close")
    )
    counted = pl.all_horizontal(*(volume.is_finite() & (volume >= 0) for volume in volumes)).fill_null(False)
    return (
        pl.when(~(priced & enclosed.fill_null(False)))
        .then(pl.lit("INVALID_PRICE"))
        .when(~(counted & (pl.col("taker_buy_volume") <= pl.col("volume")).fill_null(False)))
        .then(pl.lit("INVALID_VOLUME"))
    )


@dataclass(frozen=True)
class MinuteHistory:
    """What families read. Arrays are float64 `[n_rows]` in (instrument, minute) order, NaN where missing.

    Parameters
    ----------
    rows : polars.DataFrame
        session, instrument, minute.
    values : dict of str to numpy.ndarray
        The bars' columns, and `spread_bps`, NaN where it is absent or no finite number >= 0.
    held : numpy.ndarray
        int64; rows of the row's segment up to and with it.
    at : numpy.ndarray
        int64; place of the row's snapshot in `levels`, -1 where there is none.
    levels : tuple of numpy.ndarray
        Bid price, bid size, ask price, ask size, `[n_books, 20]`; zero snapshots without books.
    funding_rate, minutes_to_funding : numpy.ndarray
        The newest rate settled before the decision and the minutes until the next one; NaN when older
        than its own interval.
    """

    rows: pl.DataFrame
    values: dict[str, np.ndarray]
    held: np.ndarray
    at: np.ndarray
    levels: tuple[np.ndarray, ...]
    funding_rate: np.ndarray
    minutes_to_funding: np.ndarray

    @cached_property
    def book_state(self) -> np.ndarray:
        """State of each row's snapshot, see `books`."""
        return book.states(self.at, *self.levels)

    @cached_property
    def book_held(self) -> np.ndarray:
        """Usable snapshots minute after minute up to each row: a minute without one is a gap in the book."""
        return book.usable_run(self.book_state, self.held)

    @cached_property
    def depths(self) -> tuple[np.ndarray, np.ndarray]:
        """Notional at 1, 5 and 20 levels: of both sides, and bids less asks; `[3, n_rows]` each."""
        return book.depths(self.at, self.book_state, *self.levels)

    @cached_property
    def microprice_basis(self) -> np.ndarray:
        """Bps of the size-weighted mid over the mid."""
        return book.microprice_basis(self.at, self.book_state, *self.levels)

    @cached_property
    def taker_imbalance(self) -> dict[int, np.ndarray]:
        """Minutes -> (taker bought - taker sold) / volume over them; NaN without volume."""
        out = {}
        for length in (1, 5, 15):
            bought = windows.sums(self.values["taker_buy_volume"], self.held, length)
            volume = windows.sums(self.values["volume"], self.held, length)
            with np.errstate(invalid="ignore", divide="ignore"):
                out[length] = np.where(volume > 0, (2.0 * bought - volume) / volume, np.nan)
        return out

    @cached_property
    def spread_rank(self) -> np.ndarray:
        """Rank of the spread among the last 1440 minutes, in (0, 1]; at least 90 % of them must have one."""
        return windows.ranks(self.values["spread_bps"], self.held, _DAY, int(_USED_SHARE_OF_DAY * _DAY))


def build(bars: pl.DataFrame, books: pl.DataFrame | None, funding: pl.DataFrame | None) -> MinuteHistory:
    """The arrays of the bars' rows; see `compute.minute_features` for the frames and the errors."""
    ordered = _ordered_bars(bars)
    rows = ordered.select(session=pl.col("minute").dt.date(), instrument="instrument", minute="minute")
    floats = ordered.select(pl.col(*PRICES, *VOLUMES).cast(pl.Float64))
    values = {name: np.array(floats[name].to_numpy()) for name in floats.columns}
    values["spread_bps"] = usable_spread(ordered)
    at, levels = snapshots(rows, books)
    return MinuteHistory(rows, values, segment_places(rows), at, levels, *funding_state(rows, funding))


def usable_spread(bars: pl.DataFrame) -> np.ndarray:
    """`spread_bps` as float64, NaN where absent, negative or infinite."""
    if "spread_bps" not in bars.columns:
        return np.full(bars.height, np.nan)
    spread = bars["spread_bps"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return np.where((spread >= 0) & np.isfinite(spread), spread, np.nan)


def require_minutes(frame: pl.DataFrame, what: str) -> None:
    """An error unless (instrument, minute) is unique and every minute is a whole one, UTC in microseconds."""
    if frame.schema["minute"] != MINUTE:
        raise SchemaError(f"{what}: minute is {MINUTE}", frame.schema["minute"], "cast the minute's open to UTC")
    require_unique(frame, SERIES, what)
    broken = frame.filter(pl.col("minute").dt.epoch("us") % MINUTE_US != 0)
    if len(broken):
        raise BadInput(
            f"{what}: a minute is named by its open, a whole minute",
            f"{len(broken)} rows, first {broken['minute'][0]} of {broken['instrument'][0]}",
            "truncate the open time; was it read in another unit?",
        )


def _ordered_bars(bars: pl.DataFrame) -> pl.DataFrame:
    require_columns(bars, BAR_COLUMNS, "minute features: bars")
    require_minutes(bars, "minute features: bars")
    faults = bars.select(*SERIES, fault=bar_fault()).filter(pl.col("fault").is_not_null())
    if len(faults):
        row = faults.row(0, named=True)
        raise BadInput(
            "a bar has positive finite prices, low and high around open and close, "
            "and finite volumes with taker volume <= volume",
            f"{len(faults)} bars, first {row['fault']} of {row['instrument']} at {row['minute']}",
            "drop the minutes that data_quality_flag rejects: the gap then starts a new segment",
        )
    return bars if in_key_order(bars, SERIES) else bars.sort(SERIES)


def segment_places(rows: pl.DataFrame) -> np.ndarray:
    """int64; place of each ordered row in its run of minutes of one instrument without a gap, from 1."""
    follows = rows.select(
        (pl.col("instrument") == pl.col("instrument").shift())
        & (pl.col("minute").diff().dt.total_microseconds() == MINUTE_US)
    ).to_series()
    starts = np.flatnonzero(~follows.fill_null(False).to_numpy())
    return np.arange(1, len(rows) + 1) - np.repeat(starts, np.diff(np.append(starts, len(rows))))


def snapshots(rows: pl.DataFrame, books: pl.DataFrame | None) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Place of each row's snapshot, and the four `[n_books, 20]` arrays."""
    if books is None:
        return np.full(len(rows), -1), tuple(_read_only(np.empty((0, book.LEVELS))) for _ in SIDES)
    require_columns(books, (*SERIES, *SIDES), "minute features: books")
    for name in SIDES:
        if books.schema[name] != pl.Array(pl.Float64, book.LEVELS):
            raise SchemaError(
                f"books: {name} is an Array(Float64, {book.LEVELS})", books.schema[name], "pad with NaN"
            )
    require_minutes(books, "minute features: books")
    places = books.select(*SERIES, at=pl.int_range(pl.len(), dtype=pl.Int64))
    at = rows.select(SERIES).join(places, on=list(SERIES), how="left", maintain_order="left")["at"]
    levels = tuple(_read_only(books[name].to_numpy().reshape(-1, book.LEVELS)) for name in SIDES)
    return np.array(at.fill_null(-1).to_numpy()), levels


def _read_only(levels: np.ndarray) -> np.ndarray:
    """Whether polars lends its memory or copies it, one type for the kernels: each type is compiled anew."""
    view = np.ascontiguousarray(levels).view()
    view.flags.writeable = False
    return view


def funding_state(rows: pl.DataFrame, funding: pl.DataFrame | None) -> tuple[np.ndarray, np.ndarray]:
    """Rate and minutes to the next funding of each ordered row; NaN without one that is still in force.

    A settlement at the very instant of a decision is not known to it: its stamp lies some milliseconds later, and a day
    that ends at midnight is scored without the next day's rows.
    """
    if funding is None or funding.is_empty():
        return np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    known = _checked_funding(funding)
    decisions = rows.select("instrument", decision=pl.col("minute") + pl.duration(minutes=1))
    joined = decisions.join_asof(
        known,
        left_on="decision",
        right_on="funding_time",
        by="instrument",
        allow_exact_matches=False,
        check_sortedness=False,
    ).select(
        "rate",
        left=(pl.col("funding_time") - pl.col("decision")).dt.total_microseconds() / MINUTE_US
        + pl.col("interval_hours") * 60,
    )
    rate, left = (joined[name].fill_null(float("nan")).to_numpy() for name in ("rate", "left"))
    return np.where(left >= 0, rate, np.nan), np.where(left >= 0, left, np.nan)


def _checked_funding(funding: pl.DataFrame) -> pl.DataFrame:
    require_columns(funding, FUNDING_COLUMNS, "minute features: funding")
    require_unique(funding, ("instrument", "funding_time"), "minute features: funding")
    known = funding.select(
        "instrument", pl.col("funding_time").cast(MINUTE), pl.col("rate", "interval_hours").cast(pl.Float64)
    )
    hours = pl.col("interval_hours")
    sound = pl.col("rate").is_finite() & (hours > 0) & (hours <= LONGEST_FUNDING_HOURS)
    broken = known.filter(~sound.fill_null(False))
    if len(broken):
        raise BadInput(
            f"funding has a finite rate and an interval in (0, {LONGEST_FUNDING_HOURS}] hours",
            f"{len(broken)} rows, first {broken.row(0)}",
            "take the interval that the vendor ships with the rate",
        )
    return known.sort("funding_time")
