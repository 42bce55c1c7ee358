"""The four named splits of a study, and the evaluation blocks on which every choice is made.

They are names for roles of the split `locked`; dividing and purging its rows is `splits.py`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import polars as pl

from pipeline.errors import BadInput
from pipeline.folds.spec import LOCKED
from pipeline.folds.splits import Folds, roles
from pipeline.frames import MINUTE, require_columns, row_key
from pipeline.labels.plan_search import EVALUATION_BLOCKS, REPORTED_BLOCKS

FIT_INNER: Final = REPORTED_BLOCKS[0]
TUNE_INNER: Final = "tune_inner"
SEALED_SPLITS: Final = ("validation_locked", "latest_stress")  # by group: the locked stretch, the stress stretch
NONE: Final = "none"


def named_splits(folds: Folds, rows: pl.DataFrame) -> pl.Series:
    """The named split of each row.

    Parameters
    ----------
    folds : Folds
        With the split `locked`.
    rows : pl.DataFrame
        Key columns of rows of the labels that the folds were made from, in any order.

    Returns
    -------
    pl.Series
        `split_id`, in the order of `rows`: `fit_inner`, `tune_inner`, `validation_locked`, `latest_stress`, or
        `none` for rows that are purged, unused or of a session that the folds do not know.

    Raises
    ------
    BadInput
        The folds lock no stretch.
    """
    groups = folds.paths.filter(split=LOCKED)["group"].sort().to_list()
    group = folds.split_sessions.filter(split=LOCKED).select("session", "group")
    placed = rows.select("session", roles(folds, LOCKED, rows)).join(group, on="session", how="left",
                                                                    maintain_order="left")
    role = pl.col("role")
    named = pl.when(role == "fit").then(pl.lit(FIT_INNER)).when(role == "tune").then(pl.lit(TUNE_INNER))
    for name, tested in zip(SEALED_SPLITS, groups, strict=False):
        named = named.when((role == "test") & (pl.col("group") == tested)).then(pl.lit(name))
    return placed.select(named.otherwise(pl.lit(NONE)).alias("split_id")).to_series()


def evaluation_blocks(folds: Folds, labels: pl.DataFrame) -> pl.DataFrame:
    """Consecutive thirds of `tune_inner` by time, purged by label spans.

    The instants of decision are cut into three runs that differ by at most one; of E1 and E2, rows go whose
    label reaches into the first label of the next block. So consecutive blocks lie the longest label apart.

    Parameters
    ----------
    folds : Folds
        With the split `locked`.
    labels : pl.DataFrame
        The key, `label_start`, `label_end`: the rows that the folds were made from, in any order.

    Returns
    -------
    pl.DataFrame
        The key and `block` (`E1`, `E2`, `E3`), in key order.

    Raises
    ------
    BadInput
        The folds lock no stretch; a block keeps no row.
    """
    require_columns(labels, ["session", "instrument", "label_start", "label_end"], "evaluation blocks")
    key = list(row_key(labels))
    at = MINUTE if MINUTE in key else "session"
    tuned = labels.filter(named_splits(folds, labels) == TUNE_INNER).select(*key, "label_start", "label_end").sort(key)
    third = (pl.col(at).rank("dense") - 1) * len(EVALUATION_BLOCKS) // pl.col(at).n_unique()
    cut = tuned.with_columns(third=third)
    blocks = [cut.filter(third=i) for i in range(len(EVALUATION_BLOCKS))]
    kept = [
        block.filter(pl.col("label_end") <= after["label_start"].min()) for block, after in pairwise(blocks)
    ] + blocks[-1:]
    empty = [name for name, block in zip(EVALUATION_BLOCKS, kept, strict=True) if block.is_empty()]
    if empty:
        raise BadInput("every evaluation block keeps rows whose labels end before the next",
                       f"none in {empty} of {tuned.height} tune rows", "label more sessions, or raise tune_share")
    named = [block.select(*key, block=pl.lit(name)) for name, block in zip(EVALUATION_BLOCKS, kept, strict=True)]
    return pl.concat(named).sort(key)
