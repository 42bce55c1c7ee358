"""Pictures of positions under a price plan: edge beyond a random minute, and how trades ended. No numbers are made."""

from __future__ import annotations

from typing import Any

import polars as pl

from pipeline.reports.figures import INK, MUTED, SERIES, _figure, _legend

EXITS = {"target": "#2b8a3e", "stop": "#c92a2a", "time or trail": "#868e96"}


def excess_figure(excess: pl.DataFrame) -> bytes:
    """Net edge beyond a random minute of the same book, in bps of capital: by day as bars, summed up as lines.

    Parameters
    ----------
    excess : DataFrame
        `book`, `session`, `excess` as a fraction of capital; the paths are averaged.
    """
    kind = pl.when(pl.col("book") == "locked").then(pl.lit("sealed stretches")).otherwise(pl.lit("paths, mean"))
    daily = (
        excess.with_columns(kind=kind).group_by("kind", "session").agg(pl.col("excess").mean() * 1e4).sort("session")
    )

    def draw(axes: Any) -> None:
        other = axes.twinx()
        for name, color in zip(("paths, mean", "sealed stretches"), SERIES, strict=False):
            part = daily.filter(kind=name)
            if part.is_empty():
                continue
            axes.bar(part["session"].to_numpy(), part["excess"], color=color, alpha=0.35, width=0.8)
            other.plot(part["session"].to_numpy(), part["excess"].cum_sum(), color=color, label=f"{name}, summed up")
        axes.axhline(0.0, color=MUTED, linewidth=0.8)
        axes.set_ylabel("a day, bps of capital", color=INK)
        other.set_ylabel("summed up, bps", color=INK)
        other.tick_params(colors=MUTED, labelsize=8)
        other.spines[["top"]].set_visible(False)
        _legend_of(axes, other)

    return _figure(draw)


def exits_figure(mix: pl.DataFrame) -> bytes:
    """How trades ended, one stacked bar a row, the first on top.

    Parameters
    ----------
    mix : DataFrame
        `name`, `trades`, and the shares `target`, `stop`, `time or trail`.
    """
    places = list(range(len(mix)))[::-1]
    names = [f"{name} ({trades})" for name, trades in mix.select("name", "trades").iter_rows()]

    def draw(axes: Any) -> None:
        left = [0.0] * len(mix)
        for way, color in EXITS.items():
            shares = [100 * share for share in mix[way]]
            axes.barh(places, shares, left=left, color=color, alpha=0.8, height=0.62, label=way)
            left = [a + b for a, b in zip(left, shares, strict=True)]
        axes.set_yticks(places, names, fontsize=8)
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of trades", color=INK)
        _legend(axes, above=True)

    return _figure(draw, 1.1 + 0.3 * max(len(mix), 1))


def _legend_of(axes: Any, other: Any) -> None:
    """The legend of the right axis, under the plot."""
    handles, labels = other.get_legend_handles_labels()
    axes.legend(handles, labels, fontsize=7, frameon=False, ncols=2, loc="upper left", bbox_to_anchor=(0.0, -0.1))
