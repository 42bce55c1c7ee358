"""Money flow of one instrument by order size, as imbalance in [-1, 1]. Null without `moneyflow`."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from pipeline.features.history import History
from pipeline.features.returns import enough
from pipeline.features.spec import Family, Feature

_SIZES = ("small", "medium", "large", "extra_large")
_LENGTHS = np.array([1, 5, 20])


def _features() -> tuple[Feature, ...]:
    return tuple(
        Feature(
            f"flow_{size}_{n}",
            "flow",
            (f"flow_{size}", "flow_gross"),
            n,
            enough(n),
            "instrument",
            "ratio",
            f"net buying by {size.replace('_', ' ')} orders over all flow, {n} sessions",
        )
        for size in _SIZES
        for n in _LENGTHS.tolist()
    )


@njit(cache=True, parallel=True, error_model="numpy")
def _imbalance(
    net: np.ndarray, gross: np.ndarray, start: np.ndarray, stop: np.ndarray, first: int, out: np.ndarray
) -> None:
    """Fill `out` float32 `[3, n_histories, n_sessions - first]` with sum(net) / sum(gross)."""
    for h in prange(len(start)):
        for t in range(start[h], stop[h]):
            bars, bought, traded = 0, 0.0, 0.0
            k = 0
            for w in range(len(_LENGTHS)):
                while k < _LENGTHS[w] and k <= t:
                    if gross[h, t - k] > 0 and not np.isnan(net[h, t - k]):
                        bars += 1
                        bought += net[h, t - k]
                        traded += gross[h, t - k]
                    k += 1
                out[w, h, t - first] = bought / traded if bars >= (_LENGTHS[w] + 1) // 2 else np.nan


def _compute(history: History) -> np.ndarray:
    v = history.values
    windows = len(_LENGTHS)
    out = np.empty((len(FAMILY.features), len(history.start), history.n_sessions - history.first), np.float32)
    for i, size in enumerate(_SIZES):
        _imbalance(
            v[f"flow_{size}"],
            v["flow_gross"],
            history.start,
            history.stop,
            history.first,
            out[i * windows : (i + 1) * windows],
        )
    return history.at_rows(out)


FAMILY = Family("flow", _features(), _compute)
