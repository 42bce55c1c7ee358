"""Pictures of stage results as PNG bytes: shown on the assets in the UI and in the report. No numbers are made here."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl

WIDTH, HEIGHT, DPI = 8.0, 3.6, 110
INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
SERIES = ("#0b7285", "#d9480f", "#5f3dc4", "#2b8a3e", "#a61e4d", "#e8590c", "#1864ab", "#5c940d")
STATUS = {"pass": "#2b8a3e", "fail": "#c92a2a", "missing": "#868e96", "not_applicable": "#adb5bd"}
ROLES = {"unused": "#f1f3f5", "fit": "#74c0fc", "tune": "#ffd43b", "test": "#ff8787"}


def _figure(draw: Callable[[Any], None], height: float = HEIGHT) -> bytes:
    """Draw on one axes and return PNG bytes; matplotlib is imported late, it costs 0.4 s."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, labelsize=8)
    draw(axes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": ""})
    return buffer.getvalue()


def _legend(axes: Any, columns: int = 4, above: bool = False) -> None:
    """Outside the plot; above it where the ticks' names or an axis label take the room below."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            handles,
            labels,
            fontsize=7,
            frameon=False,
            ncols=columns,
            loc="lower left" if above else "upper left",
            bbox_to_anchor=(0.0, 1.0 if above else -0.1),
        )


def exclusions_figure(summary: pl.DataFrame, counted: str = "names") -> bytes:
    """Names (or minutes) per session: eligible, and those excluded by their first reason."""
    reasons = [c for c in summary.columns if c not in ("session", "listed", "eligible")]
    present = [c for c in reasons if summary[c].sum()]

    def draw(axes: Any) -> None:
        days = summary["session"].to_numpy()
        stack = [summary[c].to_numpy().astype(float) for c in ("eligible", *present)]
        axes.stackplot(days, *stack, labels=["eligible", *present], colors=["#d0ebff", *SERIES], linewidth=0)
        axes.set_ylabel(counted, color=INK)
        _legend(axes)

    return _figure(draw)


def folds_figure(split_sessions: pl.DataFrame) -> bytes:
    """Role of every session in every split."""
    splits = split_sessions["split"].unique().sort().to_list()
    names = list(ROLES)
    wide = split_sessions.with_columns(
        code=pl.col("role").replace_strict(names, range(len(names)), return_dtype=pl.Int32)
    )
    grid = (
        wide.pivot(on="split", index="session", values="code", sort_columns=True)
        .sort("session")
        .select(splits)
        .to_numpy()
        .T
    )

    def draw(axes: Any) -> None:
        from matplotlib.colors import ListedColormap
        from matplotlib.patches import Patch

        axes.imshow(
            grid,
            aspect="auto",
            interpolation="nearest",
            cmap=ListedColormap(list(ROLES.values())),
            vmin=-0.5,
            vmax=len(names) - 0.5,
        )
        axes.set_yticks(range(len(splits)), splits, fontsize=7)
        axes.set_xlabel("session", color=INK)
        axes.grid(False)
        axes.legend(
            handles=[Patch(color=c, label=r) for r, c in ROLES.items()],
            fontsize=7,
            frameon=False,
            ncols=4,
            loc="upper left",
            bbox_to_anchor=(0.0, -0.15),
        )

    return _figure(draw)


def curves_figure(curves: pl.DataFrame) -> bytes:
    """Loss of fit and tune rows and the execution-aware objective by epoch, with the epoch that either rule chooses.

    Parameters
    ----------
    curves : DataFrame
        `epoch`, `loss`, `tune_loss`, `objective`; with a column `split`, the means over splits.
    """
    means = curves.group_by("epoch").agg(pl.col("loss", "tune_loss", "objective").mean()).sort("epoch")

    def draw(axes: Any) -> None:
        epochs = means["epoch"] + 1
        axes.plot(epochs, means["loss"], color=SERIES[0], marker="o", label="loss, fit rows")
        axes.plot(epochs, means["tune_loss"], color=SERIES[2], marker="o", label="loss, tune rows")
        axes.set_xlabel("epoch", color=INK)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylabel("loss", color=INK)
        other = axes.twinx()
        other.plot(epochs, means["objective"], color=SERIES[1], marker="s", label="objective on tune (right)")
        other.tick_params(colors=MUTED, labelsize=8)
        for cost, colour in ((means["tune_loss"], SERIES[2]), (-means["objective"], SERIES[1])):
            if cost.is_not_null().any():
                axes.axvline(epochs[int(cost.arg_min() or 0)], color=colour, linestyle=":", linewidth=1.2)
        lines = [line for side in (axes, other) for line in side.get_lines() if not line.get_label().startswith("_")]
        axes.legend(lines, [line.get_label() for line in lines], fontsize=7, frameon=False, loc="best")

    return _figure(draw)


def reliability_figure(table: pl.DataFrame) -> bytes:
    """Observed rate against predicted probability per head, after calibration; the diagonal is perfect."""
    after = table.filter(pl.col("stage") == "after")
    alone = after["member"].n_unique() == 1

    def draw(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle="--")
        for color, ((member, head), part) in zip(
            SERIES * 4, after.partition_by("member", "head", as_dict=True).items(), strict=False
        ):
            axes.plot(
                part["mean_pred"],
                part["rate"],
                color=color,
                marker="o",
                markersize=3,
                linewidth=1,
                label=head if alone else f"{member} {head}",
            )
        axes.set_xlabel("predicted", color=INK)
        axes.set_ylabel("observed", color=INK)
        _legend(axes, above=True)

    return _figure(draw, 4.2)


def equity_figure(equity: pl.DataFrame) -> bytes:
    """Net NAV of paths and locked stretch, gross mean of the paths, benchmarks; random books as a band."""
    random = equity.filter(pl.col("book").str.starts_with("random_"))
    books = equity.filter(~pl.col("book").str.starts_with("random_"))

    def draw(axes: Any) -> None:
        if not random.is_empty():
            band = (
                random.group_by("session")
                .agg(low=pl.col("net").quantile(0.05), high=pl.col("net").quantile(0.95))
                .sort("session")
            )
            axes.fill_between(
                band["session"].to_numpy(),
                band["low"],
                band["high"],
                color="#dee2e6",
                label="random books, 5-95%",
            )
        for book, part in _by(books, "book"):
            path = book.startswith("path_")
            color = {"locked": SERIES[1], "index": SERIES[2], "equal_weight": SERIES[3]}.get(book, SERIES[0])
            label = book if not path else ("paths, net" if book == "path_00" else None)
            axes.plot(
                part["session"].to_numpy(),
                part["net"],
                color=color,
                linewidth=0.9,
                alpha=0.6 if path else 1.0,
                label=label,
            )
        gross = (
            books.filter(pl.col("book").str.starts_with("path_"))
            .group_by("session")
            .agg(pl.col("gross").mean())
            .sort("session")
        )
        if not gross.is_empty():
            axes.plot(
                gross["session"].to_numpy(),
                gross["gross"],
                color=SERIES[0],
                linestyle=":",
                label="paths, mean gross",
            )
        axes.set_yscale("log")
        # Books that hardly move (0.998 to 1.001) need more digits, or every tick reads 1.
        low, high = axes.get_ylim()
        digits = 2 if high > 1.1 * low else 5
        for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            axis(lambda value, _: f"{value:.{digits}g}")
        axes.tick_params(axis="y", which="minor", colors=MUTED, labelsize=8)
        axes.set_ylabel("NAV", color=INK)
        _legend(axes, 3)

    return _figure(draw, 4.2)


def drawdown_figure(equity: pl.DataFrame) -> bytes:
    """Net drawdown of the paths, the locked stretch and the benchmarks."""
    books = equity.filter(~pl.col("book").str.starts_with("random_"))

    def draw(axes: Any) -> None:
        for book, part in _by(books, "book"):
            nav = part["net"].to_numpy()
            path = book.startswith("path_")
            color = {"locked": SERIES[1], "index": SERIES[2], "equal_weight": SERIES[3]}.get(book, SERIES[0])
            axes.plot(
                part["session"].to_numpy(),
                nav / np.maximum.accumulate(np.maximum(nav, 1.0)) - 1,
                color=color,
                linewidth=0.9,
                alpha=0.6 if path else 1.0,
                label=book if not path else ("paths" if book == "path_00" else None),
            )
        axes.set_ylabel("drawdown", color=INK)
        _legend(axes, 4)

    return _figure(draw)


def ic_figure(rank_ic: pl.DataFrame) -> bytes:
    """Rank IC by session (mean of the paths), its 20-session mean, and the locked stretch."""
    paths = (
        rank_ic.filter(pl.col("path") != "locked")
        .group_by("session")
        .agg(pl.col("rank_ic").mean())
        .sort("session")
    )
    locked = rank_ic.filter(pl.col("path") == "locked").sort("session")

    def draw(axes: Any) -> None:
        for part, color, name in ((paths, SERIES[0], "paths"), (locked, SERIES[1], "locked")):
            if part.is_empty():
                continue
            values = part["rank_ic"].fill_nan(None)
            axes.bar(part["session"].to_numpy(), values.fill_null(0.0), color=color, alpha=0.25, width=1.0)
            axes.plot(
                part["session"].to_numpy(),
                values.rolling_mean(20, min_samples=5),
                color=color,
                label=f"{name}, 20-session mean",
            )
        axes.axhline(0.0, color=MUTED, linewidth=0.8)
        axes.set_ylabel("rank IC", color=INK)
        _legend(axes)

    return _figure(draw)


def verdicts_figure(verdicts: pl.DataFrame) -> bytes:
    """One row a gate: its status, value and bound."""

    def draw(axes: Any) -> None:
        axes.set_axis_off()
        for i, row in enumerate(verdicts.sort("gate").iter_rows(named=True)):
            value = "" if row["value"] is None else f"{row['value']:.4g}"
            axes.text(0.0, -i, "\u25cf", color=STATUS[row["status"]], fontsize=12, va="center")
            axes.text(0.04, -i, row["gate"], color=INK, fontsize=8, va="center")
            axes.text(0.34, -i, f"{row['status']}", color=STATUS[row["status"]], fontsize=8, va="center")
            axes.text(0.48, -i, f"{value}  (bound {row['bound']:g})", color=MUTED, fontsize=8, va="center")
        axes.set_xlim(0, 1)
        axes.set_ylim(-max(len(verdicts), 1), 1)

    return _figure(draw, 0.4 + 0.26 * max(len(verdicts), 1))


def blocks_figure(metrics: pl.DataFrame) -> bytes:
    """Entry and target-exit block rates by book."""
    wanted = metrics.filter(
        pl.col("name").is_in(["entry_block_rate", "exit_block_rate"])
        & ~pl.col("book").str.starts_with("random_")
    ).drop_nulls("value")
    books = wanted["book"].unique().sort().to_list()

    def draw(axes: Any) -> None:
        for k, name in enumerate(("entry_block_rate", "exit_block_rate")):
            values = dict(wanted.filter(pl.col("name") == name).select("book", "value").iter_rows())
            axes.bar(
                np.arange(len(books)) + 0.4 * k,
                [100 * values.get(b, 0.0) for b in books],
                width=0.38,
                color=SERIES[k],
                label=name.replace("_", " "),
            )
        axes.set_xticks(np.arange(len(books)) + 0.2, books, rotation=30, fontsize=7)
        axes.set_ylabel("% of orders", color=INK)
        _legend(axes, above=True)

    return _figure(draw)


def bars_figure(names: Sequence[str], values: Sequence[float], errors: Sequence[float | None], axis: str) -> bytes:
    """One horizontal bar a name, the first on top, with whiskers of +- its error where it has one."""
    places, whiskers = np.arange(len(names))[::-1], np.array(errors, np.float64)

    def draw(axes: Any) -> None:
        axes.barh(places, values, xerr=whiskers, color=SERIES[0], alpha=0.75, height=0.62, ecolor=INK, capsize=3)
        axes.axvline(0.0, color=MUTED, linewidth=0.8)
        axes.set_yticks(places, names, fontsize=8)
        axes.set_xlabel(axis, color=INK)

    return _figure(draw, 0.9 + 0.3 * max(len(names), 1))


def _by(frame: pl.DataFrame, column: str) -> list[tuple[str, pl.DataFrame]]:
    return [
        (str(part[column][0]), part.sort("session"))
        for part in frame.sort(column).partition_by(column, maintain_order=True)
    ]
