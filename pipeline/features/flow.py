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
    """Fill `out` float32 `[12, n_histories, n_sessions - first]` with sum(net) / sum(gross), `net` `[4,
    ...]`."""
    windows = len(_LENGTHS)
    for h in prange(len(start)):
        for t in range(start[h], stop[h]):
            for size in range(len(net)):
                bars, bought, traded = 0, 0.0, 0.0
                k = 0
                for w in range(windows):
                    while k < _LENGTHS[w] and k <= t:
                        if gross[h, t - k] > 0 and not np.isnan(net[size, h, t - k]):
                            bars += 1
                            bought += net[size, h, t - k]
                            traded += gross[h, t - k]
                        k += 1
                    value = bought / traded if bars >= (_LENGTHS[w] + 1) // 2 else np.nan
                    out[size * windows + w, h, t - first] = value


def _compute(history: History) -> np.ndarray:
    v = history.values
    out = history.empty(len(FAMILY.features))
    net = np.stack([v[f"flow_{size}"] for size in _SIZES])
    _imbalance(net, v["flow_gross"], history.start, history.stop, history.first, out)
    return history.at_rows(out)


FAMILY = Family("flow", _features(), _compute)
