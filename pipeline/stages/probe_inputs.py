"""What every probe of minutes is given: rows of fit and tune with block, features and labels; decided rows; bars.

Everything is cut to the fit and tune rows of the split `locked` before a probe sees it. No sealed row is handed out:
that would be an opening, and belongs into the ledger. The probes are `pipeline.diagnostics.minutes`.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from pipeline.diagnostics.minutes.evaluation import BLOCKS, FIT
from pipeline.features.plan import plan as feature_plan
from pipeline.folds.named import FIT_INNER, TUNE_INNER, evaluation_blocks, named_splits
from pipeline.folds.paths import recombine
from pipeline.folds.spec import LOCKED
from pipeline.frames import MINUTE_ROW as KEY
from pipeline.frames import AsOf, Hindsight
from pipeline.labels.minute_spec import PlanLabelSpec
from pipeline.labels.price_plan import price_plan_context
from pipeline.positions.manager_spec import ManagerConfig, PlanNumbers
from pipeline.stages.contract import Reader
from pipeline.stages.minutes import UNUSABLE, bars_in_truth
from pipeline.stages.pinned import read_folds, read_labels
from pipeline.stages.position_manager import decided_rows, read_policy
from pipeline.stages.research import calibrated
from pipeline.study import Study

OUT_OF_SAMPLE = "path_00"
"""The path whose predictions stand in where the locked split's own models were fitted."""


@dataclass(frozen=True)
class ProbeInputs:
    """Fit and tune rows of the split `locked`.

    Parameters
    ----------
    rows : pl.DataFrame
        Labels, `split_id` (fit_inner, tune_inner), `block` (fit_inner, E1, E2, E3; null for a tune row between two
        blocks) and the features, finite in every row.
    features, lost : tuple of str
        Features that have values, in schema order; those of the schema that have none.
    dropped : int
        Rows left out for a missing feature.
    labels : PlanLabelSpec
    numbers : PlanNumbers
        What manager and probes read of the plan.
    """

    rows: pl.DataFrame
    features: tuple[str, ...]
    lost: tuple[str, ...]
    dropped: int
    labels: PlanLabelSpec
    numbers: PlanNumbers

    @property
    def blocks(self) -> pl.DataFrame:
        """The rows that lie in a block."""
        return self.rows.filter(pl.col("block").is_not_null())

    @property
    def purge_minutes(self) -> int:
        """The longest look ahead of a label."""
        return max(self.labels.plan.max_hold_minutes, self.labels.bounds.horizon_minutes)

    def capped(self, rows: int | None) -> pl.DataFrame:
        """The rows that lie in a block, of the fit block the newest `rows`."""
        fit = pl.col("block") == FIT
        return self.blocks if rows is None else pl.concat(
            [self.blocks.filter(fit).sort("minute").tail(rows), self.blocks.filter(~fit)]).sort(KEY)


def probe_inputs(study: Study, read: Reader) -> ProbeInputs:
    """The rows that a probe may see."""
    assert isinstance(study.labels, PlanLabelSpec)
    folds, labels = read_folds(read), read_labels(study, read)
    split = named_splits(folds, labels)
    seen = labels.with_columns(split).filter(pl.col("split_id").is_in([FIT_INNER, TUNE_INNER]))
    blocks = pl.concat([
        seen.filter(pl.col("split_id") == FIT_INNER).select(*KEY, block=pl.lit(FIT)), evaluation_blocks(folds, labels)
    ])
    rows = seen.join(blocks, on=list(KEY), how="left", maintain_order="left")
    names = feature_plan(study.features).schema
    features = read.table("features", "features").join(rows.select(KEY), on=list(KEY), how="semi")
    present = [name for name in names if name in features.columns]
    known = features.select(pl.col(name).cast(pl.Float64).is_finite().any() for name in present)
    held = tuple(name for name in known.columns if known[name].item())
    finite = pl.all_horizontal(pl.col(name).cast(pl.Float64).is_finite().fill_null(False) for name in held)
    whole = features.filter(finite).select(*KEY, *held)
    joined = rows.join(whole, on=list(KEY), how="inner", maintain_order="left", validate="1:1")
    return ProbeInputs(
        joined, held, tuple(name for name in names if name not in held), rows.height - joined.height, study.labels,
        PlanNumbers.from_context(price_plan_context(study.labels.plan)),
    )


def purged_for(rows: pl.DataFrame, minutes: int) -> pl.DataFrame:
    """Key and `block` of rows that lie `minutes` before the next block: for a longer look than the labels'."""
    starts = dict(rows.group_by("block").agg(pl.col("minute").min()).iter_rows())
    reach = pl.col("minute") + pl.duration(minutes=minutes)
    parts = []
    for i, block in enumerate(BLOCKS):
        later = [starts[name] for name in BLOCKS[i + 1 : i + 2]]
        parts.append(rows.filter(pl.col("block") == block, *(reach <= first for first in later)))
    return pl.concat(parts).select(*KEY, "block")


def decided_on_tune(study: Study, read: Reader) -> pl.DataFrame:
    """Tune rows as the manager decided on them: calibrated scores of the split `locked`, and what came of them."""
    return decided_rows(study, read, calibrated(study, read, LOCKED, "tune"))


def decided_out_of_sample(study: Study, read: Reader, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows as models decided on them that were fitted on other rows: the first path's predictions."""
    splits = read.table("folds", "paths"), read.table("folds", "split_sessions")
    paths = recombine(*splits, read.table("predictions", "predictions"))
    own = paths.filter(pl.col("path") == OUT_OF_SAMPLE).drop("path", "split")
    return decided_rows(study, read, own.join(rows.select(KEY), on=list(KEY), how="semi", maintain_order="left"))


def chosen_config(read: Reader) -> ManagerConfig:
    """The thresholds chosen on the tune rows."""
    return read_policy(read.file("positions", "policy.json", LOCKED))


def stored_trades(read: Reader) -> pl.DataFrame:
    """The locked book's trades, as the backtest made them."""
    return read.table("backtest", "trades").filter(pl.col("book") == LOCKED).drop("book")


def seen_bars(read: Reader, rows: pl.DataFrame) -> Hindsight:
    """Bars in final truth of the days of some rows: an outcome that needs a later day is not known here."""
    days = rows["session"].unique().sort().to_list()
    return Hindsight(bars_in_truth(read, days).frame.filter(pl.col("session").is_in(days)))


def bars_as_known(read: Reader, rows: pl.DataFrame) -> AsOf:
    """Bars of the days of some rows, each as known at its own close."""
    panel = read.table("panel", "panel")
    days = rows["session"].unique().implode()
    return AsOf(panel.filter(pl.col("session").is_in(days), ~pl.col("data_quality_flag").is_in(UNUSABLE)))
