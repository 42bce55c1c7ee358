"""numba kernels that several families share: gathers and sums in a fixed order. No feature is defined here.

Sums run one after the other in key order, so that a value's bits depend on its inputs alone.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange


@njit(cache=True, parallel=True, error_model="numpy")
def gather(dense: np.ndarray, history: np.ndarray, column: np.ndarray) -> np.ndarray:
    """float32 `[F, n_rows]` from `[F, n_histories, n_columns]`."""
    out = np.empty((dense.shape[0], len(history)), np.float32)
    for f in prange(dense.shape[0]):
        for r in range(len(history)):
            out[f, r] = dense[f, history[r], column[r]]
    return out


@njit(cache=True, parallel=True, error_model="numpy")
def settle(block: np.ndarray) -> np.ndarray:
    """Make every -0.0 of float32 `[F, n_rows]` 0.0 in place; bool `[F]`: which rows hold an infinity."""
    infinite = np.zeros(len(block), np.bool_)
    for f in prange(len(block)):
        for r in range(block.shape[1]):
            block[f, r] += np.float32(0.0)
            infinite[f] |= math.isinf(block[f, r])
    return infinite


@njit(cache=True, error_model="numpy")
def ln(values: np.ndarray) -> np.ndarray:
    """Natural logarithm; NumPy's differs between instruction sets, this one does not."""
    out = np.empty_like(values)
    for i in range(len(values)):
        out[i] = math.log(values[i]) if values[i] > 0 else np.nan
    return out


@njit(cache=True, error_model="numpy")
def session_moments(values: np.ndarray, use: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (ddof 1) per session of the used, present values.

    `values` float64 and `use` bool `[n_rows]`; `starts` `[n_sessions + 1]` row offsets. Two passes.
    """
    n = len(starts) - 1
    mean, deviation = np.full(n, np.nan), np.full(n, np.nan)
    for s in range(n):
        count, total = 0, 0.0
        for r in range(starts[s], starts[s + 1]):
            if use[r] and not math.isnan(values[r]):
                count += 1
                total += values[r]
        if count == 0:
            continue
        mean[s] = total / count
        squares = 0.0
        for r in range(starts[s], starts[s + 1]):
            if use[r] and not math.isnan(values[r]):
                squares += (values[r] - mean[s]) ** 2
        if count > 1:
            deviation[s] = math.sqrt(squares / (count - 1))
    return mean, deviation


@njit(cache=True, error_model="numpy")
def group_moments(
    values: np.ndarray, use: np.ndarray, groups: np.ndarray, n_groups: int, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and count of each row's own group in its session, over used, present values."""
    mean, size = np.full(len(values), np.nan), np.zeros(len(values))
    for s in range(len(starts) - 1):
        total, count = np.zeros(n_groups), np.zeros(n_groups)
        for r in range(starts[s], starts[s + 1]):
            if use[r] and not math.isnan(values[r]):
                total[groups[r]] += values[r]
                count[groups[r]] += 1
        for r in range(starts[s], starts[s + 1]):
            size[r] = count[groups[r]]
            if size[r] > 0:
                mean[r] = total[groups[r]] / size[r]
    return mean, size


@njit(cache=True, parallel=True, error_model="numpy")
def percentiles(columns: np.ndarray, use: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Average-tie rank over count, in (0, 1], among a session's used and present values; NaN elsewhere.

    `columns` float64 `[n_columns, n_rows]`; ranks are exact, so the order of the rows cannot matter.
    """
    out = np.full(columns.shape, np.nan)
    n_sessions = len(starts) - 1
    for task in prange(len(columns) * n_sessions):
        values, ranks, s = columns[task // n_sessions], out[task // n_sessions], task % n_sessions
        rows = np.empty(starts[s + 1] - starts[s], np.int64)
        n = 0
        for r in range(starts[s], starts[s + 1]):
            if use[r] and not math.isnan(values[r]):
                rows[n] = r
                n += 1
        rows = rows[:n][np.argsort(values[rows[:n]])]
        i = 0
        while i < n:
            j = i
            while j + 1 < n and values[rows[j + 1]] == values[rows[i]]:
                j += 1
            for m in range(i, j + 1):
                ranks[rows[m]] = (0.5 * (i + j) + 1.0) / n
            i = j + 1
    return out
