"""The 22 features of an open position: what it has lived through since its entry, known at the current minute.

Which positions are opened and what came of them is not decided here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import polars as pl
from numba import njit
from pydantic import model_validator

from pipeline.errors import BadInput
from pipeline.features.minutes.history import MINUTE_US
from pipeline.features.minutes.spec import MinuteFeature
from pipeline.fingerprints import hash_json
from pipeline.frames import MINUTE_ROW as KEY
from pipeline.frames import AsOf, as_of, require_columns, require_unique
from pipeline.spec import Spec

SIGN = {"LONG": 1.0, "SHORT": -1.0}
AGES = (5, 15, 30)
"""Minutes after an entry at which a position is looked at."""

NEVER_ADDED_MINUTES = 9999.0
SIDED = (
    "ret_1m_bps", "ret_5m_bps", "taker_imbalance_1m", "taker_imbalance_5m", "book_microprice_basis_bps",
    "book_pressure_taker_1m", "book_pressure_taker_5m",
)  # fmt: skip
"""Market features that a position sees from its own side."""

STATE_KEY = (*KEY, "side", "entry_minute")
ENTRY_COLUMNS = (*KEY, "side", "entry_predicted_edge_bps", "entry_direction_prob")
_PATH = 9
"""Columns that the kernel fills: `unrealized_pnl_bps` to `mfe_mae_ratio`, less the two known at entry."""


def _state(name: str, meaning: str, unit: str, formula: str, missing: str = "never") -> MinuteFeature:
    window = max(AGES) + 1
    return MinuteFeature(name, "position_state", meaning, unit, ("bars",), window, window, formula,
                         "POSITION_STATE_V1", missing)


STATE_SCHEMA: tuple[MinuteFeature, ...] = (
    _state("position_side_sign", "side", "sign", "1 LONG, -1 SHORT"),
    _state("time_in_position_minutes", "age", "minutes", "this minute - entry minute"),
    _state("unrealized_pnl_bps", "move of the side less cost", "bps",
           "LONG (close / entry - 1) * 1e4 - cost; SHORT (entry / close - 1) * 1e4 - cost"),
    _state("mfe_since_entry_bps", "best move from the bar after entry", "bps",
           "max(LONG max high / entry - 1; SHORT entry / min low - 1; 0) * 1e4"),
    _state("mae_since_entry_bps", "worst move from the bar after entry", "bps",
           "max(LONG entry / min low - 1; SHORT max high / entry - 1; 0) * 1e4"),
    _state("distance_to_stop_bps", "room to the stop", "bps",
           "LONG close / stop - 1, SHORT stop / close - 1, * 1e4; below 0 once the stop is passed"),
    _state("distance_to_target_bps", "way to the target", "bps",
           "LONG target / close - 1, SHORT close / target - 1, * 1e4"),
    _state("entry_predicted_edge_bps", "predicted edge at entry", "bps", "of the entry"),
    _state("entry_direction_prob", "side's direction probability at entry", "probability", "of a frozen earlier model"),
    _state("path_efficiency", "result of the way travelled", "ratio", "pnl / (mfe + mae + 1)"),
    _state("giveback_from_mfe_bps", "given back", "bps", "mfe - max(pnl, 0)"),
    _state("recovery_from_mae_bps", "won back", "bps", "pnl + mae"),
    _state("mfe_mae_ratio", "best against worst", "ratio", "mfe / (mae + 1)"),
    *(_state(f"side_{name}", f"{name} seen from the side", "as the feature", f"position_side_sign * {name}",
             f"{name} is missing") for name in SIDED),
    _state("add_count", "additions to the position", "count", "0 for a first position"),
    _state("minutes_since_last_add", "since the last addition", "minutes", "9999 for a first position"),
)  # fmt: skip
STATE_ORDER: tuple[str, ...] = tuple(feature.name for feature in STATE_SCHEMA)


def state_order_hash() -> str:
    """sha256 of the 22 names in order, as a compact JSON array of strings."""
    return hash_json(list(STATE_ORDER))


class Barriers(Spec):
    """What a state reads of a fixed price plan: distances from entry and cost, bps."""

    target_distance_bps: float
    stop_distance_bps: float
    cost_bps: float

    @model_validator(mode="after")
    def _check(self) -> Barriers:
        if not (0 < self.target_distance_bps < 1e4 and 0 < self.stop_distance_bps < 1e4):
            raise BadInput("target and stop lie between 0 and 10,000 bps from entry",
                           (self.target_distance_bps, self.stop_distance_bps), "give the price plan's own distances")
        if not 0 <= self.cost_bps < math.inf:
            raise BadInput("the cost of a trade is not negative", self.cost_bps, "give fee + slippage + funding, bps")
        return self


def position_states(
    bars: AsOf, features: AsOf, entries: pl.DataFrame, barriers: Barriers, ages: Sequence[int] = AGES
) -> pl.DataFrame:
    """States of positions some minutes after their entry.

    Parameters
    ----------
    bars : AsOf
        session, instrument, minute (the open, UTC), high, low, close; any order.
    features : AsOf
        The key and `SIDED`; a minute without a row has null `side_` features.
    entries : pl.DataFrame
        `ENTRY_COLUMNS`, key of the decision minute, at whose close a position is entered; one row per
        (instrument, minute, side). Other columns stay.
    barriers : Barriers
    ages : sequence of int
        Minutes after the entry.

    Returns
    -------
    pl.DataFrame
        `STATE_KEY` (session, instrument, minute of the state), the other columns of `entries`, and `STATE_ORDER` as
        float32, in key order. An age has no row where a minute between is absent or the bars end: the look-back is
        in time, not in rows.

    Raises
    ------
    SchemaError, KeyViolation, BadInput
        Columns are absent; a key is null or doubled; a bar's prices are not positive, finite and in order; an entry
        has no bar, an unknown side or a value at entry that is not finite; an age is not positive.
    """
    prices = _checked_bars(as_of(bars))
    wanted = _checked_entries(entries, ages)
    market = as_of(features)
    require_columns(market, [*KEY, *SIDED], "position states: features")
    require_unique(market, KEY, "position states: features")
    rows = _rows_by_time(prices, wanted, ages)
    arrays = [np.array(prices[name].cast(pl.Float64).to_numpy()) for name in ("high", "low", "close")]
    sign = np.array(rows["side"].replace_strict(SIGN, return_dtype=pl.Float64).to_numpy())
    first, age = (np.array(rows[name].to_numpy()) for name in ("_entry_row", "_age"))
    path = _paths(*arrays, first, age, sign,
                  barriers.target_distance_bps, barriers.stop_distance_bps, barriers.cost_bps)
    seen = rows.with_columns(
        pl.Series("position_side_sign", sign), pl.col("_age").alias("time_in_position_minutes"),
        *(pl.Series(name, path[i]) for i, name in enumerate(_PATH_NAMES)),
        add_count=pl.lit(0.0), minutes_since_last_add=pl.lit(NEVER_ADDED_MINUTES),
    ).join(market.select(*KEY, pl.col(SIDED)), on=list(KEY), how="left", maintain_order="left")
    seen = seen.with_columns((pl.col("position_side_sign") * pl.col(name)).alias(f"side_{name}") for name in SIDED)
    kept = [name for name in entries.columns if name not in (*STATE_KEY, *STATE_ORDER)]
    return seen.select(*STATE_KEY, *kept, pl.col(STATE_ORDER).cast(pl.Float32)).sort(STATE_KEY)


_PATH_NAMES = tuple(
    name for name in STATE_ORDER[2:13] if name not in ("entry_predicted_edge_bps", "entry_direction_prob")
)


@njit(cache=True, error_model="numpy")
def _paths(
    high: np.ndarray, low: np.ndarray, close: np.ndarray, first: np.ndarray, age: np.ndarray, sign: np.ndarray,
    target_bps: float, stop_bps: float, cost_bps: float,
) -> np.ndarray:
    """Float64 [_PATH, n]: `_PATH_NAMES` of positions entered at the close of bar `first`, `age` bars later."""
    out = np.empty((_PATH, len(first)))
    for i in range(len(first)):
        entry, now = close[first[i]], close[first[i] + age[i]]
        top, bottom = -np.inf, np.inf
        # From the bar after entry: the entry bar's own range precedes the fill.
        for j in range(first[i] + 1, first[i] + age[i] + 1):
            top, bottom = max(top, high[j]), min(bottom, low[j])
        up, down = max(top / entry - 1.0, 0.0) * 1e4, max(entry / bottom - 1.0, 0.0) * 1e4
        if sign[i] > 0:
            stop, target = entry * (1.0 - stop_bps * 1e-4), entry * (1.0 + target_bps * 1e-4)
            pnl, mfe, mae = (now / entry - 1.0) * 1e4 - cost_bps, up, down
            to_stop, to_target = (now / stop - 1.0) * 1e4, (target / now - 1.0) * 1e4
        else:
            stop, target = entry * (1.0 + stop_bps * 1e-4), entry * (1.0 - target_bps * 1e-4)
            pnl, mfe, mae = (entry / now - 1.0) * 1e4 - cost_bps, down, up
            to_stop, to_target = (stop / now - 1.0) * 1e4, (now / target - 1.0) * 1e4
        out[0, i], out[1, i], out[2, i], out[3, i], out[4, i] = pnl, mfe, mae, to_stop, to_target
        out[5, i], out[6, i] = pnl / (mfe + mae + 1.0), mfe - max(pnl, 0.0)
        out[7, i], out[8, i] = pnl + mae, mfe / (mae + 1.0)
    return out


def _rows_by_time(prices: pl.DataFrame, entries: pl.DataFrame, ages: Sequence[int]) -> pl.DataFrame:
    """One row per entry and age whose minutes are all there: the bar so many rows on is so many minutes on."""
    places = prices.select("instrument", "minute", _entry_row=pl.int_range(pl.len(), dtype=pl.Int64))
    begun = entries.join(places, on=["instrument", "minute"], how="left", maintain_order="left")
    alone = begun.filter(pl.col("_entry_row").is_null())
    if not alone.is_empty():
        observed = f"{alone.height} without, first {alone.select(KEY).row(0)}"
        raise BadInput("an entry has a bar at its own minute", observed,
                       "hand over the bars that the entries were decided on")
    aged = begun.rename({"minute": "entry_minute"}).drop("session").join(
        pl.DataFrame({"_age": pl.Series(list(ages), dtype=pl.Int64)}), how="cross")
    ahead = prices.select("session", "minute", _name="instrument", _row=pl.int_range(pl.len(), dtype=pl.Int64))
    reached = aged.with_columns(_row=pl.col("_entry_row") + pl.col("_age")).join(ahead, on="_row", how="inner")
    elapsed = (pl.col("minute") - pl.col("entry_minute")).dt.total_microseconds()
    return reached.filter(pl.col("_name") == pl.col("instrument"), elapsed == pl.col("_age") * MINUTE_US)


def _checked_bars(frame: pl.DataFrame) -> pl.DataFrame:
    """Bars by instrument and minute."""
    require_columns(frame, [*KEY, "high", "low", "close"], "position states: bars")
    require_unique(frame, KEY, "position states: bars")
    high, low, close = (pl.col(name).cast(pl.Float64) for name in ("high", "low", "close"))
    sound = (low > 0) & (low <= close) & (close <= high) & high.is_finite()
    broken = frame.filter(~sound.fill_null(False))
    if not broken.is_empty():
        raise BadInput("prices are positive, finite and low <= close <= high",
                       broken.select(*KEY, "high", "low", "close").row(0), "drop the bar: its minute becomes a gap")
    return frame.select(*KEY, "high", "low", "close").sort("instrument", "minute")


def _checked_entries(entries: pl.DataFrame, ages: Sequence[int]) -> pl.DataFrame:
    if not ages or min(ages) < 1 or len(set(ages)) < len(ages):
        raise BadInput("a state is one or more whole minutes after its entry, each age once", list(ages), "see AGES")
    require_columns(entries, ENTRY_COLUMNS, "position states: entries")
    require_unique(entries, [*KEY, "side"], "position states: entries")
    unknown = sorted(set(entries["side"].to_list()) - set(SIGN))
    if unknown:
        raise BadInput(f"a side is one of {list(SIGN)}", unknown, "name the side in capitals")
    for name in ENTRY_COLUMNS[-2:]:
        wrong = entries.filter(~pl.col(name).cast(pl.Float64).is_finite().fill_null(False))
        if not wrong.is_empty():
            raise BadInput(f"{name} is known and finite", f"{wrong.height} rows, first {wrong.select(KEY).row(0)}",
                           "take entries from rows that the models scored")
    return entries
