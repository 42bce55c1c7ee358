"""The two doors of this room: a plan's features and Path A's channels, both for the sessions asked for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
import polars as pl

from pipeline.errors import BadInput
from pipeline.features.channels import CHANNEL_FEATURES, CHANNELS, channels
from pipeline.features.history import KEY, build
from pipeline.features.kernels import settle
from pipeline.features.plan import Plan
from pipeline.frames import AsOf, as_of, require_columns

__all__ = ["CHANNELS", "CHANNEL_FEATURES", "compute", "path_channels"]


def compute(
    panel: AsOf, patches: pl.DataFrame, intraday: pl.DataFrame, plan: Plan, sessions: Sequence[date]
) -> pl.DataFrame:
    """The `features` table of the decision sessions `sessions`.

    Parameters
    ----------
    panel : AsOf
        Panel rows of the sessions and of `plan.lookback - 1` sessions before the first of them; rows after
        the last are ignored. Fewer are allowed (a market's first sessions have no past).
    patches : polars.DataFrame
        Later versions of panel rows; each decision session sees those effective by then.
    intraday : polars.DataFrame
        Minute bars of the sessions; may be empty.
    plan : Plan
        What to compute.
    sessions : sequence of date
        Decision sessions.

    Returns
    -------
    polars.DataFrame
        session, instrument, then float32 columns in schema order, null where missing; one row per panel
        row, in key order.

    Raises
    ------
    BadInput
        A wanted session without panel rows; doubled keys; an absent column of the plan; an infinite value.
    """
    history = build(as_of(panel), patches, intraday, plan.inputs, plan.lookback, sessions)
    columns: dict[str, np.ndarray] = {}
    for family in plan.families:
        names = [feature.name for feature in family.features]
        columns |= dict(zip(names, _settled(family.name, names, family.compute(history)), strict=True))
    values = pl.DataFrame(columns).with_columns(pl.all().fill_nan(None))
    return pl.concat([history.rows.select(KEY), values], how="horizontal")


def _settled(family: str, names: Sequence[str], block: np.ndarray) -> np.ndarray:
    """The block with -0.0 as 0.0; an error naming the columns that hold an infinity."""
    infinite = settle(block)
    if infinite.any():
        raise BadInput(
            "a feature is finite or missing",
            f"{family}: {[name for name, wrong in zip(names, infinite, strict=True) if wrong]}",
            "look for zero prices or amounts in the panel: asof quarantines them",
        )
    return block


def path_channels(intraday: pl.DataFrame, panel: AsOf, sessions: Sequence[date]) -> pl.DataFrame:
    """The `paths` table: Path A's channels for every panel row of `sessions` that has minutes.

    Returns
    -------
    polars.DataFrame
        session, instrument, `channels` Array(Float32, n_bars * len(CHANNELS)), bar-major, NaN where absent.

    Raises
    ------
    BadInput
        A channel with an infinite value, named with its first instrument and session.
    """
    require_columns(intraday, [*KEY, "bars"], "paths: intraday")
    n_bars = intraday.schema["bars"].size // 5  # type: ignore[attr-defined]
    days = pl.Series(sorted(set(sessions)), dtype=pl.Date).implode()
    rows = (
        intraday.filter(pl.col("session").is_in(days))
        .join(as_of(panel).select(KEY), on=list(KEY), how="semi")
        .sort(KEY)
    )
    bars = np.ascontiguousarray(rows["bars"].to_numpy()).reshape(len(rows), n_bars, 5)
    flat = channels(bars).reshape(len(rows), n_bars * len(CHANNELS))
    if settle(flat.reshape(1, -1)).any():
        _refuse_infinite(flat, rows)
    return rows.select(KEY).with_columns(
        pl.Series("channels", flat, dtype=pl.Array(pl.Float32, flat.shape[1]))
    )


def _refuse_infinite(flat: np.ndarray, rows: pl.DataFrame) -> None:
    """Name the first infinite value of bar-major `[n_rows, n_bars * len(CHANNELS)]`."""
    row, place = np.argwhere(np.isinf(flat))[0].tolist()
    bar, channel = divmod(place, len(CHANNELS))
    session, instrument = rows.select(KEY).row(row)
    raise BadInput(
        "a channel is finite or missing",
        f"{CHANNELS[channel]} of {instrument} on {session}, bar {bar}, is {flat[row, place]}",
        "look for an infinite price or amount among the minute rows of that day",
    )
