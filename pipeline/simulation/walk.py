"""The arrays that a walk fills: one value per session and instrument."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Walk(NamedTuple):
    """[sessions, instruments]; prices in ticks, volume in lots, amount in CNY; 0 where nothing traded."""

    traded: np.ndarray
    open: np.ndarray
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray  # carried through suspensions
    reference: np.ndarray  # ex-right previous close, carried through suspensions
    lots: np.ndarray
    amount: np.ndarray
    factor: np.ndarray  # cumulative adjustment
    multiple: np.ndarray  # shares now per share at the first session
    signal: np.ndarray  # the planted signal, NaN where it has too little past
    regime: np.ndarray  # [sessions]: the state that multiplies the planted signal; 1 in a market of one regime
    path: np.ndarray  # [sessions, instruments, 4]: what `minutes.fill_day` needs to make the same bars again


def empty_walk(shape: tuple[int, int]) -> Walk:
    """A walk in which nothing traded yet; 50 bytes per session and instrument."""

    def ticks() -> np.ndarray:
        return np.zeros(shape, dtype=np.int32)

    return Walk(
        traded=np.zeros(shape, dtype=np.bool_), open=ticks(), high=ticks(), low=ticks(), close=ticks(),
        reference=ticks(), lots=ticks(), amount=np.zeros(shape, dtype=np.int64), factor=np.zeros(shape),
        multiple=np.zeros(shape, dtype=np.float32), signal=np.full(shape, np.nan, dtype=np.float32),
        regime=np.ones(shape[0]), path=np.zeros((*shape, 4), dtype=np.float32),
    )  # fmt: skip
