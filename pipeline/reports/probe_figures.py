"""Pictures of probes as PNG bytes: grouped bars by block, and lines over ordered bins. No numbers are made here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.reports.figures import INK, MUTED, SERIES, _figure, _legend


def grouped_bars_figure(names: Sequence[str], groups: Mapping[str, Sequence[float | None]], axis: str) -> bytes:
    """Horizontal bars: for each name, the first on top, one bar a group; nothing where a value is missing."""
    places, width = np.arange(len(names))[::-1], 0.8 / max(len(groups), 1)

    def draw(axes: Any) -> None:
        for i, (group, values) in enumerate(groups.items()):
            at = places + width * ((len(groups) - 1) / 2 - i)
            axes.barh(at, np.array(values, np.float64), height=width, color=SERIES[i], alpha=0.8, label=group)
        axes.axvline(0.0, color=MUTED, linewidth=0.8)
        axes.set_yticks(places, names, fontsize=7)
        axes.set_xlabel(axis, color=INK)
        _legend(axes, above=True)

    return _figure(draw, 1.2 + 0.34 * max(len(names), 1))


def bins_figure(lines: Mapping[str, Sequence[float | None]], bins: str, axis: str) -> bytes:
    """One line a series over bins 0, 1, 2 ...; a missing value leaves a hole."""

    def draw(axes: Any) -> None:
        for i, (name, values) in enumerate(lines.items()):
            axes.plot(range(len(values)), np.array(values, np.float64), color=SERIES[i % len(SERIES)], marker="o",
                      markersize=3, linewidth=1.2, label=name)
        axes.axhline(0.0, color=MUTED, linewidth=0.8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel(bins, color=INK)
        axes.set_ylabel(axis, color=INK)
        _legend(axes, above=True)

    return _figure(draw)
