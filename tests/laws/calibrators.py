"""Laws that every registered calibration method obeys. Each red names the method and both values."""

from __future__ import annotations

import numpy as np

from pipeline.calibration.methods import METHODS

GRID = np.concatenate([[1e-6, 1e-4], np.linspace(0.001, 0.999, 997), [1 - 1e-4, 1 - 1e-6]])


def check_map_is_monotone_and_a_probability(name: str, p: np.ndarray, y: np.ndarray) -> None:
    """On all of (0, 1), also where tune had no row."""
    served = METHODS[name].apply(GRID, METHODS[name].fit(p, y))
    assert np.isfinite(served).all(), f"{name}: not finite"
    assert served.min() >= 0.0, f"{name}: {served.min()}"
    assert served.max() <= 1.0, f"{name}: {served.max()}"
    falls = np.flatnonzero(np.diff(served) < 0.0)
    if falls.size:
        at = falls[0]
        raise AssertionError(f"{name} falls from {served[at]} to {served[at + 1]} after p = {GRID[at]}")


def check_map_does_not_depend_on_the_batch(name: str, p: np.ndarray, y: np.ndarray) -> None:
    """A value alone, or among others, is served with the same bits."""
    method = METHODS[name]
    parameters = method.fit(p, y)
    whole = method.apply(GRID, parameters)
    order = np.random.default_rng(0).permutation(len(GRID))
    parts = np.empty_like(whole)
    for start, size in zip((0, 1, 4, 17, 300), (1, 3, 13, 283, len(GRID) - 300), strict=True):
        index = order[start : start + size]
        parts[index] = method.apply(GRID[index], parameters)
    changed = np.flatnonzero(parts.view(np.uint64) != whole.view(np.uint64))
    if changed.size:
        at = changed[0]
        raise AssertionError(f"{name} serves {GRID[at]} as {whole[at]!r} or {parts[at]!r} with its batch")
