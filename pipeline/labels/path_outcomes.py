"""What a price plan started at each minute would have earned on both sides, from the minutes that followed.

Looks forward by design and therefore reads `Hindsight` only. What the outcomes mean for a label is
`minute_heads`; the loops are `path_kernels`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from pipeline.errors import BadInput, KeyViolation, SchemaError
from pipeline.frames import MINUTE_ROW as KEY
from pipeline.frames import Hindsight, hindsight, in_key_order, require_columns
from pipeline.labels.path_kernels import (
    dynamic_exits,
    fixed_exits,
    moves_ahead,
    quantile_ahead,
    rank_in_past,
)
from pipeline.labels.price_plan import FIXED, PricePlan

SIDES: Final = ("LONG", "SHORT")
READS: Final = (*KEY, "high", "low", "close", "spread_bps")
FLAGS: Final = ("target_hit", "stop_hit", "timeout_hit", "ambiguous_hit")
TIMES: Final = ("time_to_target_ms", "time_to_stop_ms", "time_to_exit_ms")
MOVES: Final = ("gross_edge_bps", "future_return_bps", "mfe_bps", "mae_bps")
SHARED: Final = ("future_spread_p80", "future_realized_vol_bps")
PER_SIDE: Final = (*FLAGS, *TIMES, *MOVES)
COLUMNS: Final = (*KEY, *(f"{side.lower()}_{name}" for side in SIDES for name in PER_SIDE), *SHARED)

_MINUTE_US = 60_000_000
_SIGN = {"LONG": 1.0, "SHORT": -1.0}
_SPREAD_SHARE = 0.8
_DAY, _PRESENT_OF_DAY = 1440, 0.9


@dataclass(frozen=True)
class MinutePaths:
    """Checked bars, each instrument's minutes in time order and cut into segments without a gap.

    `keys` is the key of each row; `high`, `low`, `close`, `spread` float64 [n] (spread NaN where missing);
    `segments` int64 [k, 2], first row and row count of each; `in_order` whether rows are in key order as they lie.
    """

    keys: pl.DataFrame
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray
    spread: np.ndarray
    segments: np.ndarray
    in_order: bool

    @classmethod
    def from_bars(cls, bars: Hindsight) -> MinutePaths:
        """Check one-minute bars and cut them into segments: at a gap, and between instruments.

        Raises
        ------
        SchemaError, KeyViolation, BadInput
            Missing columns; null or doubled keys; minutes out of order or off the minute; a session that is not the
            minute's UTC day; a price that is not positive or outside low .. high; a negative or infinite spread.
        """
        frame = hindsight(bars)
        require_columns(frame, READS, "path outcomes")
        frame = _in_time_order(frame.select(READS))
        _check_values(frame)
        instant = frame["minute"].to_physical().to_numpy()
        names, new = frame["instrument"], np.diff(instant) != _MINUTE_US
        alone = frame.is_empty() or names[0] == names[-1]  # rows lie by instrument
        if not alone:
            new |= (names != names.shift()).fill_null(True).to_numpy()[1:]
        starts = np.flatnonzero(np.concatenate([[True], new])) if frame.height else np.empty(0, np.int64)
        segments = np.column_stack([starts, np.diff(np.append(starts, frame.height))]).astype(np.int64)
        spread = frame["spread_bps"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        high, low, close = (frame[name].cast(pl.Float64).to_numpy() for name in ("high", "low", "close"))
        return cls(frame.select(KEY), high, low, close, np.abs(spread),  # abs: a zero has one sign
                   segments, alone or in_key_order(frame, KEY))

    def runs(self, horizon: int) -> np.ndarray:
        """Rows with `horizon` bars ahead in their segment: int64 [k, 3] of first row, rows, place in the output."""
        rows = self.segments[:, 1] - horizon
        kept = rows > 0
        rows = rows[kept]
        return np.column_stack([self.segments[kept, 0], rows, np.cumsum(rows) - rows]).astype(np.int64)

    def keys_of(self, runs: np.ndarray) -> pl.DataFrame:
        """The keys of the rows of some runs."""
        parts = [self.keys.slice(first, rows) for first, rows, _ in runs.tolist()]
        return pl.concat(parts) if parts else self.keys.clear()

    def gathered(self, values: np.ndarray, runs: np.ndarray) -> np.ndarray:
        """Values of the rows of some runs."""
        return np.concatenate([values[:0], *(values[first : first + rows] for first, rows, _ in runs.tolist())])


@dataclass(frozen=True)
class Ahead:
    """What does not depend on the plan: the next `horizon` bars of each row of `runs`, float64 [n] each, in bps.

    `rise` and `fall` are the best and worst moves of a LONG, and so the worst and best of a SHORT.
    """

    horizon: int
    runs: np.ndarray
    rise: np.ndarray
    fall: np.ndarray
    returns: Mapping[str, np.ndarray]
    spread_p80: np.ndarray
    volatility: np.ndarray

    def excursions(self, side: str) -> tuple[np.ndarray, np.ndarray]:
        """MFE and MAE of a side, bps."""
        return (self.rise, self.fall) if side == "LONG" else (self.fall, self.rise)


def path_outcomes(bars: Hindsight, plan: PricePlan, horizon: int | None = None) -> pl.DataFrame:
    """Outcomes of a plan entered at the close of every minute, both sides.

    Parameters
    ----------
    bars : Hindsight
        session, instrument, minute (its OPEN, UTC), high, low, close, spread_bps (null where unknown).
    plan : PricePlan
        Method and barriers.
    horizon : int, optional
        Bars looked at instead of the plan's own `max_hold_minutes`.

    Returns
    -------
    pl.DataFrame
        `COLUMNS`, in key order: one row per minute whose next `horizon` bars lie in its own segment; none at all
        for a series no longer than that. Per side, with the prefix `long_` or `short_` (`of_side` takes it off):
        `target_hit, stop_hit, timeout_hit, ambiguous_hit` Int8 (dynamic: target = take 1 happened, stop = stopped
        before it, timeout = something was left at the horizon);
        `time_to_target_ms, time_to_stop_ms` (-1 when not hit), `time_to_exit_ms` Int64, bars x 60,000;
        `gross_edge_bps, future_return_bps`: a ratio seen from the side that gains;
        `mfe_bps, mae_bps`: best and worst over all bars, also after the exit, at least 0.
        Of the minute: `future_spread_p80`, the quantile of the spreads ahead that are present, null for none;
        `future_realized_vol_bps`, the root mean square of the one-minute log returns ahead.

    Raises
    ------
    BadInput
        Bars that `MinutePaths` refuses, or a horizon that is not positive.
    """
    paths = MinutePaths.from_bars(bars)
    return outcomes_of(paths, plan, look_ahead(paths, plan.max_hold_minutes if horizon is None else horizon))


def look_ahead(paths: MinutePaths, horizon: int) -> Ahead:
    """The windows of `horizon` bars, once for every plan with this horizon."""
    if horizon < 1:
        raise BadInput("a horizon is at least one minute", horizon, "look at one or more bars ahead")
    runs = paths.runs(horizon)
    n = int(runs[:, 1].sum())
    rise, fall, long_return, short_return, volatility, spread = (np.empty(n) for _ in range(6))
    moves_ahead(paths.high, paths.low, paths.close, runs, horizon, rise, fall, long_return, short_return, volatility)
    quantile_ahead(paths.spread, runs, horizon, _SPREAD_SHARE, spread)
    return Ahead(horizon, runs, rise, fall, {"LONG": long_return, "SHORT": short_return}, spread, volatility)


@dataclass(frozen=True)
class SideExits:
    """Where one side's trades end: `flags` int8 [4, n], `times` int64 [3, n] in ms, `gross` float64 [n] in bps."""

    flags: np.ndarray
    times: np.ndarray
    gross: np.ndarray


def side_exits(paths: MinutePaths, plan: PricePlan, ahead: Ahead, side: str) -> SideExits:
    """Exits of one side, rows as in `ahead`."""
    sign, n = _SIGN[side], len(ahead.rise)
    favourable, adverse = (paths.high, paths.low) if sign > 0 else (-paths.low, -paths.high)
    exits = SideExits(np.zeros((len(FLAGS), n), np.int8), np.empty((len(TIMES), n), np.int64), np.empty(n))
    prices = (paths.close, favourable, adverse, ahead.runs, ahead.horizon, sign,
              plan.target_distance_bps, plan.stop_distance_bps)
    filled = (ahead.returns[side], exits.flags, exits.times, exits.gross)
    if plan.entry_plan_method == FIXED:
        fixed_exits(*prices, *filled)
    else:
        dynamic_exits(*prices, plan.second_target_bps, plan.trailing_stop_bps, plan.partial_take1_ratio,
                      plan.partial_take2_ratio, plan.breakeven_after_first_target, *filled)
    return exits


def outcomes_of(paths: MinutePaths, plan: PricePlan, ahead: Ahead) -> pl.DataFrame:
    """`path_outcomes` of bars that are checked and looked ahead already."""
    columns: dict[str, np.ndarray] = {}
    for side in SIDES:
        exits = side_exits(paths, plan, ahead, side)
        values = (*exits.flags, *exits.times, exits.gross, ahead.returns[side], *ahead.excursions(side))
        columns |= {f"{side.lower()}_{name}": value for name, value in zip(PER_SIDE, values, strict=True)}
    columns["future_realized_vol_bps"] = ahead.volatility
    table = paths.keys_of(ahead.runs).with_columns(
        *(pl.Series(name, values) for name, values in columns.items()),
        pl.Series("future_spread_p80", ahead.spread_p80, nan_to_null=True),
    ).select(COLUMNS)
    return table if paths.in_order else table.sort(KEY)


def of_side(outcomes: pl.DataFrame, side: str) -> pl.DataFrame:
    """One side's outcomes under their plain names, the shared columns beside them.

    Raises
    ------
    BadInput
        A side that is neither LONG nor SHORT.
    """
    if side not in SIDES:
        raise BadInput("a side is LONG or SHORT", repr(side), "name the side in capitals")
    return outcomes.select(*KEY, *(pl.col(f"{side.lower()}_{name}").alias(name) for name in PER_SIDE), *SHARED)


def future_spread_rank(paths: MinutePaths, ahead: Ahead) -> pl.DataFrame:
    """Where the spread ahead lies among the last day's spreads, by key.

    Returns
    -------
    pl.DataFrame
        The key and `future_spread_rank_24h_pct` in [0, 1], ties half: `future_spread_p80` measured on the ruler of the
        decision minute. Null where the segment is younger than a day, or under 90 % of its minutes have a spread.
    """
    asked, rank = np.full(len(paths.close), np.nan), np.empty(len(paths.close))
    rows = paths.gathered(np.arange(len(paths.close)), ahead.runs)
    asked[rows] = ahead.spread_p80
    rank_in_past(paths.spread, paths.segments, _DAY, int(_PRESENT_OF_DAY * _DAY), asked, rank)
    table = paths.keys_of(ahead.runs).with_columns(
        pl.Series("future_spread_rank_24h_pct", rank[rows], nan_to_null=True))
    return table if paths.in_order else table.sort(KEY)


def _in_time_order(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows by (instrument, minute), their keys checked."""
    if frame.schema["session"] != pl.Date or frame.schema["minute"] != pl.Datetime("us", "UTC"):
        raise SchemaError("bars have a session Date and a minute Datetime(us, UTC)",
                          f"{frame.schema['session']}, {frame.schema['minute']}", "cast them where the bars are read")
    nulls = frame.filter(pl.any_horizontal(pl.col(KEY).is_null()))
    if not nulls.is_empty():
        raise KeyViolation(f"the key {list(KEY)} must not be null", nulls.select(KEY).row(0), "drop the row")
    name, minute = pl.col("instrument"), pl.col("minute")
    same = name == name.shift()
    if frame.select(((name > name.shift()) | (same & (minute > minute.shift()))).slice(1).all()).item():
        return frame
    backward = frame.filter(minute < minute.shift().over(name))
    if not backward.is_empty():
        raise BadInput("the minutes of an instrument ascend", f"out of order: {backward.select(KEY).row(0)}",
                       "sort the bars by instrument and minute, and find out why they were not")
    ordered = frame.sort(name, minute)
    doubled = ordered.filter(same & (minute == minute.shift()))
    if not doubled.is_empty():
        raise KeyViolation("a minute of an instrument has one bar", f"doubled: {doubled.select(KEY).row(0)}",
                           "keep one of the bars")
    return ordered


def _check_values(frame: pl.DataFrame) -> None:
    """An error naming the first row that breaks a rule of one-minute bars."""
    prices = [pl.col(name) for name in ("high", "low", "close")]
    whole = pl.col("minute").to_physical() % _MINUTE_US == 0
    rules: Sequence[tuple[str, pl.Expr, str]] = (
        ("`minute` is a whole minute, the bar's open", whole, "cut seconds off where the bars are read"),
        ("`session` is the minute's UTC day", pl.col("session") == pl.col("minute").dt.date(), "derive it from minute"),
        ("prices are positive and finite", pl.all_horizontal((p > 0) & p.is_finite() for p in prices),
         "drop the bar: its minute becomes a gap"),
        ("low <= close <= high", (pl.col("low") <= pl.col("close")) & (pl.col("close") <= pl.col("high")),
         "drop the bar: its minute becomes a gap"),
        ("a spread is null, or finite and not negative",
         pl.col("spread_bps").is_null() | pl.col("spread_bps").is_nan()
         | ((pl.col("spread_bps") >= 0) & pl.col("spread_bps").is_finite()),
         "leave the spread of a crossed book out"),
    )
    held = frame.select(holds.fill_null(False).all().alias(str(i)) for i, (_, holds, _) in enumerate(rules)).row(0)
    for (rule, holds, remedy), good in zip(rules, held, strict=True):
        if not good:
            broken = frame.filter(~holds.fill_null(False)).row(0, named=True)
            raise BadInput(rule, broken, remedy)
