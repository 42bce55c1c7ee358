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
