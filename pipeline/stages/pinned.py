"""What every later stage reads through the pin: folds, and labels of the rows that may be scored."""

from __future__ import annotations

import polars as pl

from pipeline.folds.splits import Folds
from pipeline.stages.contract import Reader
from pipeline.study import Study

PIN_FILE = "pin.json"
PINNED = ("panel", "features", "labels")
FOLD_TABLES = ("split_sessions", "purged", "paths", "certificate")


def read_folds(read: Reader) -> Folds:
    return Folds(*(read.table("folds", name) for name in FOLD_TABLES))


def read_labels(study: Study, read: Reader) -> pl.DataFrame:
    """Labels of the scored rows."""
    return read.once("labels", lambda: scored(study, read, read.table("labels", "labels")))


def scored(study: Study, read: Reader, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows that may be scored: eligible, with features. Only these train, tune and test."""
    eligible = read_eligible(study, read).filter("eligible")
    featured = read.once("featured", lambda: read.table("features", "features", columns=study.row_key))
    key = list(study.row_key)
    return rows.join(eligible, on=key, how="semi").join(featured, on=key, how="semi")


def read_eligible(study: Study, read: Reader) -> pl.DataFrame:
    """The key and `eligible` of every panel row."""
    return read.once("eligible", lambda: read.table("panel", "panel", columns=[*study.row_key, "eligible"]))
