"""Leaks of features and model inputs: values that move with what comes after their row."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from assets.proof.leaks.catchers import FUTURE_CUT, LATER
from assets.proof.leaks.contract import Leak, replaced
from pipeline.features.compute import compute
from pipeline.features.history import History
from pipeline.features.plan import FAMILIES
from pipeline.frames import AsOf, Hindsight, as_of
from pipeline.labels.executable import executable_labels
from pipeline.labels.spec import LabelSpec
from pipeline.models import preparing
from pipeline.stages import sessions

Dense = Callable[[np.ndarray], np.ndarray]
BACK, AHEAD = 2, 2


def _from_prices(make: Dense) -> Callable[[], AbstractContextManager[None]]:
    """The first feature of `returns` becomes a function of the whole adjusted close, [histories, sessions]."""

    def apply() -> AbstractContextManager[None]:
        real = FAMILIES["returns"]

        def careless(history: History) -> np.ndarray:
            values = real.compute(history).copy()
            close = history.values["close"] * history.values["factor"]
            values[0] = history.take(make(close)).astype(np.float32)
            return values

        return replaced(FAMILIES, "returns", replace(real, compute=careless))

    return apply


def _shifted(close: np.ndarray) -> np.ndarray:
    """Negative shift: the next session's return."""
    return np.concatenate([close[:, 1:] / close[:, :-1] - 1.0, np.full((len(close), 1), np.nan)], axis=1)


def _centred(close: np.ndarray) -> np.ndarray:
    """Mean of a window around the session."""
    padded = np.pad(close, ((0, 0), (BACK, AHEAD)), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, BACK + AHEAD + 1, axis=1)
    return np.nansum(windows, axis=2) / np.maximum((~np.isnan(windows)).sum(axis=2), 1)


def _swing(close: np.ndarray) -> np.ndarray:
    """A swing high marked at its own bar, which only the two bars after it reveal."""
    out = np.zeros_like(close)
    inner = close[:, BACK:-AHEAD]
    sides = [close[:, BACK + i : close.shape[1] - AHEAD + i] for i in (-2, -1, 1, 2)]
    out[:, BACK:-AHEAD] = np.logical_and.reduce([inner >= side for side in sides])
    return out


def _standardised(close: np.ndarray) -> np.ndarray:
    """Global z-score: mean and deviation of the whole sample."""
    return (close - np.nanmean(close)) / np.nanstd(close)


def _ranked(close: np.ndarray) -> np.ndarray:
    """Rank among all sessions of the instrument."""
    return close.argsort(axis=1).argsort(axis=1) / close.shape[1]


def _backfilled(close: np.ndarray) -> np.ndarray:
    reverse = pl.DataFrame(close[:, ::-1].T.copy()).with_columns(pl.all().fill_nan(None).forward_fill())
    return reverse.to_numpy().T[:, ::-1]


def _label_among_features() -> AbstractContextManager[None]:
    """The stage computes the label early and stores it under a feature's name."""

    def leaking(panel: AsOf, patches: pl.DataFrame, intraday: pl.DataFrame, made: Any, days: Any) -> pl.DataFrame:
        features = compute(panel, patches, intraday, made, days)
        known = as_of(panel)["session"].unique().sort().to_list()
        calendar = sessions.Calendar(tuple(known), known[-1])
        spec = LabelSpec(family="executable", exit_session=1, max_exit_delay=0, heads=())
        labels = executable_labels(Hindsight(as_of(panel)), calendar, [day for day in days if day < known[-2]], spec)
        joined = features.join(labels.select("session", "instrument", "ret"), on=["session", "instrument"], how="left",
                               maintain_order="left")  # fmt: skip
        return joined.with_columns(return_1=pl.col("ret").cast(pl.Float32)).drop("ret")

    return replaced(sessions, "compute", leaking)


def _ranked_over_all_sessions() -> AbstractContextManager[None]:
    """Model inputs ranked over every row at hand instead of within their session."""
    real = preparing.centred_ranks

    def over_all(values: np.ndarray, starts: np.ndarray, out: np.ndarray) -> None:
        real(values, np.array([starts[0], starts[-1]], starts.dtype), out)

    return replaced(preparing, "centred_ranks", over_all)


FEATURE_LEAKS = (
    Leak("negative shift", "features.returns: the next session's return", FUTURE_CUT, _from_prices(_shifted)),
    Leak("centred window", "features.returns: a mean over two sessions on either side", FUTURE_CUT,
         _from_prices(_centred)),
    Leak("swing point at its own bar", "features.returns: a high that the bars after it reveal", FUTURE_CUT,
         _from_prices(_swing)),
    Leak("global z-score", "features.returns: mean and deviation of the whole sample", FUTURE_CUT,
         _from_prices(_standardised)),
    Leak("rank over an instrument's whole history", "features.returns", FUTURE_CUT, _from_prices(_ranked)),
    Leak("bfill in a feature", "features.returns: a suspended session takes the next close", FUTURE_CUT,
         _from_prices(_backfilled)),
    Leak("label among features", "features.compute: the return that follows, as return_1", LATER,
         _label_among_features),
    Leak("inputs ranked over all sessions", "models.preparing.centred_ranks", LATER, _ranked_over_all_sessions),
)  # fmt: skip
