"""Numba kernels of the input builder. No polars here, and nothing about models."""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray


@njit(cache=True, parallel=True)
def centred_ranks(bits: NDArray[np.uint32], starts: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """Average-tie ranks within each session, as (rank - 1/2) / n - 1/2, missing as 0.

    Sorts unsigned keys (order-preserving float bits above, row number below): exact, no indirect sort. A rank
    depends on its own session's column only, so any batch of sessions gives the same bits.

    Parameters
    ----------
    bits : uint32 [n, F]
        float32 values seen as integers; NaN is missing, infinities must not occur.
    starts : int64 [S + 1]
        First row of each session, and n.
    out : float32 [n, F]
        Filled with values in (-1/2, 1/2).
    """
    for session in prange(starts.size - 1):
        low, high = starts[session], starts[session + 1]
        keys = np.empty(high - low, np.uint64)
        for column in range(bits.shape[1]):
            present = 0
            for row in range(low, high):
                value = bits[row, column]
                if value & np.uint32(0x7FFFFFFF) > np.uint32(0x7F800000):  # NaN
                    out[row, column] = 0.0
                    continue
                if value == np.uint32(0x80000000):  # -0.0 ties with 0.0
                    value = np.uint32(0)
                ordered = ~value if value >> np.uint32(31) else value | np.uint32(0x80000000)
                keys[present] = (np.uint64(ordered) << np.uint64(32)) | np.uint64(row - low)
                present += 1
            keys[:present].sort()
            first = 0
            while first < present:
                last = first
                tied = keys[first] >> np.uint64(32)
                while last + 1 < present and keys[last + 1] >> np.uint64(32) == tied:
                    last += 1
                rank = 0.5 * (first + last) + 1.0
                for place in range(first, last + 1):
                    row = low + np.int64(keys[place] & np.uint64(0xFFFFFFFF))
                    out[row, column] = np.float32((rank - 0.5) / present - 0.5)
                first = last + 1


@njit(cache=True, nogil=True)
def gather_features(
    values: NDArray[np.float32],
    rows: NDArray[np.int32],
    columns: NDArray[np.int64],
    mean: NDArray[np.float32],
    scale: NDArray[np.float32],
    clip: np.float32,
    out: NDArray[np.float32],
) -> None:
    """Windows of stored features, standardised on the way; absent sessions stay 0.

    Parameters
    ----------
    values : float32 [n, F]
        Ranks; market features as stored.
    rows : int32 [m, W]
        Row of each window's session, -1 where there is none.
    columns : int64 [B]
    mean, scale : float32 [B]
        Scale NaN: a rank, taken as it is. Scale 0: switched off. Otherwise clip((v - mean) / scale), missing 0.
    out : float32 [m, W, B] or [m, W, B + 1]
        The channel beyond the columns is 1 where there is a row.
    """
    presence = out.shape[2] > columns.size
    for i in range(rows.shape[0]):
        for w in range(rows.shape[1]):
            row = rows[i, w]
            if row < 0:
                out[i, w] = 0.0
                continue
            for b in range(columns.size):
                value = values[row, columns[b]]
                if not np.isnan(scale[b]):
                    value = _standardised(value, mean[b], scale[b], clip)
                out[i, w, b] = value
            if presence:
                out[i, w, columns.size] = 1.0


@njit(cache=True, nogil=True)
def gather_bars(
    bars: NDArray[np.float32],
    rows: NDArray[np.int32],
    mean: NDArray[np.float32],
    scale: NDArray[np.float32],
    clip: np.float32,
    out: NDArray[np.float32],
) -> None:
    """Minute bars of recent sessions, standardised on the way; a bar without any channel stays 0.

    Parameters
    ----------
    bars : float32 [n, T, C]
        As stored, NaN missing.
    rows : int32 [m, D]
        Row of each session, -1 where there is none.
    mean, scale : float32 [C]
        A scale of 0 switches a channel off.
    out : float32 [m, D, T, C + 1]
        The last channel is 1 where the bar holds anything.
    """
    count = bars.shape[2]
    for i in range(rows.shape[0]):
        for d in range(rows.shape[1]):
            row = rows[i, d]
            if row < 0:
                out[i, d] = 0.0
                continue
            for t in range(bars.shape[1]):
                held = np.float32(0.0)
                for c in range(count):
                    value = bars[row, t, c]
                    if not np.isnan(value):
                        held = np.float32(1.0)
                    out[i, d, t, c] = _standardised(value, mean[c], scale[c], clip)
                out[i, d, t, count] = held


@njit(cache=True, inline="always")
def _standardised(value: np.float32, mean: np.float32, scale: np.float32, clip: np.float32) -> np.float32:
    if np.isnan(value) or scale == 0.0:
        return np.float32(0.0)
    return np.float32(min(max((value - mean) / scale, -clip), clip))


@njit(cache=True, nogil=True)
def channel_moments(bars: NDArray[np.float32], rows: NDArray[np.int64], out: NDArray[np.float64]) -> None:
    """Add count, sum, sum of squares, least and greatest of each channel over `rows` to `out`.

    Parameters
    ----------
    bars : float32 [n, T, C]
    rows : int64 [m]
    out : float64 [C, 5]
        Start with 0, 0, 0, +inf, -inf.
    """
    for row in rows:
        for t in range(bars.shape[1]):
            for c in range(bars.shape[2]):
                value = np.float64(bars[row, t, c])
                if not np.isnan(value):
                    out[c, 0] += 1.0
                    out[c, 1] += value
                    out[c, 2] += value * value
                    out[c, 3] = min(out[c, 3], value)
                    out[c, 4] = max(out[c, 4], value)
