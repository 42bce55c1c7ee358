"""The manager's thresholds: which of a grid are best on tune rows, and how much of that is optimism.

Sealed rows never come in here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import polars as pl

from pipeline.errors import BadInput, KeyViolation
from pipeline.folds.named import SEALED_SPLITS as SEALED_SPLITS
from pipeline.frames import require_columns
from pipeline.positions.manager import KEY, MINUTE_MS, direction_margin, gates, planned_ratio, run, side_value
from pipeline.positions.manager_kernels import STATISTICS
from pipeline.positions.manager_kernels import search as search_kernel
from pipeline.positions.manager_spec import (
    SIDE_OFF,
    SIDES,
    AddThresholds,
    ManagerConfig,
    OpenThresholds,
    PlanNumbers,
    SearchGrid,
    SideThresholds,
)
from pipeline.positions.trades import TradeMetrics, trade_metrics
from pipeline.spec import Spec

AXES = ("long_direction", "short_direction", "entry", "market_risk", "edge", "margin")
COUNTS = ("trade_count", "longest_losing_run")


@dataclass(frozen=True)
class SearchResult:
    """A search: every candidate, and the one it chose.

    Parameters
    ----------
    table : pl.DataFrame
        One row a `candidate` in grid order: its thresholds (`AXES`), the trade metrics, `score`, `chosen`.
    config : ManagerConfig
        The first of the best, with the search's single-leg cap: `run` with it gives the row's metrics.
    metrics : TradeMetrics
        Of the chosen candidate, on the rows searched.
    """

    table: pl.DataFrame
    config: ManagerConfig
    metrics: TradeMetrics

    @property
    def trading_candidates(self) -> int:
        """How many candidates trade at all; 0 means that the choice is empty."""
        return int((self.table["trade_count"] > 0).sum())


def candidate_config(base: ManagerConfig, grid: SearchGrid, point: dict[str, float]) -> ManagerConfig:
    """The configuration of one grid point: its risk, entry and edge go into `add` and `sizing` too.

    Parameters
    ----------
    base : ManagerConfig
        Gives version, cooldown and the sizing that the grid does not set.
    grid : SearchGrid
        Gives the single-leg cap.
    point : dict
        A value for each of `AXES`.
    """
    sides = {
        side: SideThresholds(min_direction_prob=point[f"{side}_direction"], min_entry_prob=point["entry"],
                             min_edge_bps=point["edge"])
        for side in ("long", "short")
    }
    return ManagerConfig(
        version=base.version,
        open=OpenThresholds(**sides, min_direction_margin=point["margin"], max_market_risk=point["market_risk"]),
        add=AddThresholds(max_market_risk=point["market_risk"], min_entry_prob=point["entry"],
                          min_edge_bps=point["edge"], cooldown_minutes=base.add.cooldown_minutes),
        sizing=base.sizing.model_copy(update={"min_edge_bps": point["edge"],
                                              "max_single_leg_ratio": grid.max_single_leg_ratio}),
    )


def switched_off(config: ManagerConfig) -> ManagerConfig:
    """The same manager with both sides off: what a search adopts when its best candidate loses on its own rows."""
    sides = {side: config.open.side(side).model_copy(update={"min_direction_prob": SIDE_OFF}) for side in SIDES}
    named = {side.lower(): thresholds for side, thresholds in sides.items()}
    return config.model_copy(update={"open": config.open.model_copy(update=named)})


def _loosest(base: ManagerConfig, grid: SearchGrid) -> ManagerConfig:
    point = {axis: min(getattr(grid, axis)) for axis in AXES} | {"market_risk": max(grid.market_risk)}
    return candidate_config(base, grid, point)


def _refuse_sealed(rows: pl.DataFrame, tune_splits: Sequence[str]) -> None:
    require_columns(rows, [*KEY, "split_id", "long_held_ms", "short_held_ms"], "a search")
    allowed = [split for split in tune_splits if split not in SEALED_SPLITS]
    seen = [split for split in rows["split_id"].unique().sort() if split not in allowed]
    if seen or rows.is_empty():
        raise BadInput(f"thresholds are searched on rows of {allowed} only", seen or "no rows",
                       "hand in the tune rows; the chosen configuration runs once on the sealed pair")


def _passed(rows: pl.DataFrame, side: str, grid: SearchGrid) -> np.ndarray:
    """One bit per threshold value that a row passes, [N]: the common axes first, then the side's directions."""
    prefix = side.lower()
    values = {
        "entry": pl.col(f"{prefix}_entry_prob"),
        "market_risk": pl.col("market_risk_prob"),
        "edge": pl.col(f"{prefix}_predicted_edge_bps"),
        "margin": direction_margin(),
        f"{prefix}_direction": pl.col(f"direction_{prefix}_prob"),
    }
    columns = rows.select(**values)
    bits, place = np.zeros(rows.height, np.int64), 0
    for axis in values:
        value = columns[axis].to_numpy()
        for threshold in getattr(grid, axis):
            passes = value < threshold if axis == "market_risk" else value > threshold
            bits |= passes.astype(np.int64) << place
            place += 1
    return bits


def _bits_needed(grid: SearchGrid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bits of each combination of the common axes, of each LONG and of each SHORT direction threshold."""
    *common, directions = np.cumsum([0, *map(len, grid.common)]).tolist()
    axes = [[1 << (start + i) for i in range(len(axis))] for start, axis in zip(common, grid.common, strict=True)]
    long, short = (1 << (directions + np.arange(len(axis))) for axis in (grid.long_direction, grid.short_direction))
    return np.array([sum(bits) for bits in product(*axes)], np.int64), long, short


def _after(rows: pl.DataFrame, cooldown_minutes: int) -> np.ndarray:
    """First row at or after exit + cooldown, per side, [N, 2]; `rows` symbol by symbol, in time order.

    Every symbol has its own stretch of the key, longer than any wait: past its last row stands the next one's first.
    """
    at = rows["minute"].dt.epoch("ms").to_numpy()
    busy = rows.select("long_held_ms", "short_held_ms").to_numpy() + cooldown_minutes * MINUTE_MS
    stretch = at.max(initial=0) - at.min(initial=at.max(initial=0)) + busy.max(initial=0) + 1
    key = at + stretch * rows["instrument"].rank("dense").cast(pl.Int64).to_numpy()
    return np.searchsorted(key, key[:, None] + busy)


def _edges(rows: pl.DataFrame, loosest: ManagerConfig, plan: PlanNumbers) -> np.ndarray:
    """Actual edge, weighted edge, planned ratio of each row's LONG and SHORT in turn, [2 N, 3]."""
    ratios = rows.select(**{side: planned_ratio(side, loosest.sizing, plan) for side in SIDES})
    sides = []
    for side in SIDES:
        actual, ratio = rows[f"{side.lower()}_actual_edge_bps"].to_numpy(), ratios[side].to_numpy()
        sides.append(np.column_stack([actual, actual * ratio, ratio]))
    return np.stack(sides, axis=1).reshape(-1, 3)


def _statistics(rows: pl.DataFrame, loosest: ManagerConfig, plan: PlanNumbers, grid: SearchGrid) -> np.ndarray:
    """`STATISTICS` of every candidate, [C, K]; `rows` are those that pass the loosest gates."""
    entered = rows.sort("minute", "instrument").with_row_index("place")
    walked = entered.sort("instrument", "minute")
    arrays = (
        np.column_stack([_passed(walked, side, grid) for side in SIDES]),
        walked.select(side_value("LONG") >= side_value("SHORT")).to_series().to_numpy(),
        _after(walked, loosest.add.cooldown_minutes),
        walked["place"].cast(pl.Int64).to_numpy(),
    )
    # Writable copies by rows: another layout, or a read-only view, would compile the kernel once more.
    statistics = search_kernel(
        *(np.array(values, order="C") for values in arrays),
        rows["instrument"].n_unique() > 1,
        np.array(_edges(entered, loosest, plan), order="C"),
        *_bits_needed(grid),
    )
    return np.asarray(statistics.reshape(grid.size, len(STATISTICS)))


def search(
    rows: pl.DataFrame,
    plan: PlanNumbers,
    grid: SearchGrid,
    base: ManagerConfig | None = None,
    tune_splits: Sequence[str] = ("tune_inner",),
) -> SearchResult:
    """Every candidate of a grid on the tune rows; the first of the best scores wins.

    Parameters
    ----------
    rows : pl.DataFrame
        As `manager.with_truth` returns them, with `split_id`.
    plan : PlanNumbers
    grid : SearchGrid
    base : ManagerConfig, optional
        What the grid does not set; the defaults when absent.
    tune_splits : sequence of str
        Splits that rows may come from. CPCV folds, whose tune groups lie in the first two splits, name both;
        the sealed pair is refused even when named.

    Returns
    -------
    SearchResult
        When no candidate trades the first one is chosen: `trading_candidates` is 0 and the score -1,000,000.

    Raises
    ------
    SchemaError, BadInput
        A column is absent; there are no rows; a row is of another split.
    """
    _refuse_sealed(rows, tune_splits)
    base = base or ManagerConfig()
    loosest = _loosest(base, grid)
    opens = [pl.all_horizontal(*gates(side, loosest).values(), planned_ratio(side, loosest.sizing, plan) > 0)
             for side in SIDES]
    statistics = _statistics(rows.filter(pl.any_horizontal(opens)), loosest, plan, grid)
    best = int(np.argmax(statistics[:, -1]))
    points = np.array(list(product(*(getattr(grid, axis) for axis in AXES))))
    table = pl.DataFrame(
        {"candidate": np.arange(grid.size, dtype=np.int32)}
        | {axis: points[:, i] for i, axis in enumerate(AXES)}
        | {name: statistics[:, i] for i, name in enumerate(STATISTICS)}
    ).with_columns(pl.col(COUNTS).cast(pl.Int64), chosen=pl.col("candidate") == best)
    chosen = table.row(best, named=True)
    metrics = TradeMetrics.model_validate({name: chosen[name] for name in STATISTICS})
    return SearchResult(table, candidate_config(base, grid, chosen), metrics)


@dataclass(frozen=True)
class Fold:
    """One fold of a path: rows to tune on and rows to test on, each with the predictions of the fold's own models."""

    name: str
    tune: pl.DataFrame
    test: pl.DataFrame


class OptimismGap(Spec):
    """Tuned outside minus nested: what tuning on the judged rows themselves adds to the figures."""

    win_rate: float
    mean_actual_edge_bps: float
    mean_weighted_edge_bps: float
    total_weighted_edge_bps: float
    score: float


@dataclass(frozen=True)
class NestedSearch:
    """A search inside every fold beside one search outside, on the same test rows.

    Parameters
    ----------
    trades : pl.DataFrame
        Of the test rows, each fold under its own choice; `eval_split` is the fold's name.
    configs : dict
        Fold -> its choice.
    nested, outside : TradeMetrics
        Of these trades; of the configuration that is best on all test rows.
    gap : OptimismGap
    """

    trades: pl.DataFrame
    configs: dict[str, ManagerConfig]
    nested: TradeMetrics
    outside: TradeMetrics
    gap: OptimismGap


def optimism_gap(outside: TradeMetrics, nested: TradeMetrics) -> OptimismGap:
    """The difference of two results on the same rows."""
    return OptimismGap(**{name: getattr(outside, name) - getattr(nested, name) for name in OptimismGap.model_fields})


def nested_search(
    folds: Iterable[Fold],
    plan: PlanNumbers,
    grid: SearchGrid,
    base: ManagerConfig | None = None,
    tune_splits: Sequence[str] = ("fit_inner", "tune_inner"),
) -> NestedSearch:
    """Thresholds chosen on each fold's tune rows and run on its test rows, against one choice on all test rows.

    A position ends with its fold: nothing carries over into the next one.

    Raises
    ------
    SchemaError, BadInput, KeyViolation
        As `search`; there is no fold; a row is tested twice (the folds are of one path) or is tuned and tested.
    """
    folds = list(folds)
    if not folds:
        raise BadInput("a nested search needs folds", 0, "hand in the folds of one path")
    tested = pl.concat([fold.test for fold in folds], how="diagonal")
    if tested.select(KEY).is_duplicated().any():
        raise KeyViolation("a path tests every row once", "rows are tested twice", "hand in the folds of one path")
    configs, trades = {}, []
    for fold in folds:
        shared = fold.tune.join(fold.test, on=KEY, how="semi").height
        if shared:
            raise BadInput("rows that are tested are not tuned on", f"{fold.name}: {shared} rows",
                           "purge the tune rows")
        configs[fold.name] = search(fold.tune, plan, grid, base, tune_splits).config
        trades.append(run(fold.test, configs[fold.name], plan, fold.name))
    outside = search(tested, plan, grid, base, tune_splits).metrics
    joined = pl.concat(trades).sort("minute", "instrument")
    nested = trade_metrics(joined)
    return NestedSearch(joined, configs, nested, outside, optimism_gap(outside, nested))
