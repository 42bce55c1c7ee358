"""The named splits and the evaluation blocks: against plain rules over rows, and accepted by those who read them."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import polars as pl
import pytest

from pipeline.errors import BadInput
from pipeline.folds.named import evaluation_blocks, named_splits
from pipeline.folds.spec import FoldSpec
from pipeline.folds.splits import Folds, make_folds
from pipeline.labels.plan_search import _check_blocks
from tests.folds.panels import balanced, unbalanced, weekdays
from tests.folds.test_minute_spans import CALENDAR, KEY, minute_labels

SPEC = FoldSpec(n_groups=3, n_test_groups=2, tune_share=0.4, locked_share=0.2, stress_share=0.1)
BLOCKS = ("E1", "E2", "E3")
MINUTES = pl.Datetime("us", "UTC")
SPLITS = ("fit_inner", "tune_inner", "validation_locked", "latest_stress")


@pytest.fixture(scope="module")
def labels() -> pl.DataFrame:
    return minute_labels(every=12)


@pytest.fixture(scope="module")
def folds(labels: pl.DataFrame) -> Folds:
    return make_folds(labels, CALENDAR, SPEC)


def test_named_splits_follow_each_other_and_share_nothing(folds: Folds, labels: pl.DataFrame) -> None:
    """A named split that overlaps another, in time or by a label, or sealed rows under a name that may be searched."""
    mixed = labels.sample(fraction=1, shuffle=True, seed=3)
    rows = mixed.with_columns(named_splits(folds, mixed.select(KEY)))
    spans = {name: rows.filter(split_id=name).select(pl.col("label_start").min(), pl.col("label_end").max()).row(0)
             for name in SPLITS}
    for earlier, later in pairwise(SPLITS):
        assert spans[earlier][1] <= spans[later][0], (earlier, later)
    counts = dict(rows["split_id"].value_counts().iter_rows())
    facts = folds.certificate.filter(split="locked").row(0, named=True)
    assert counts["fit_inner"] == facts["fit_rows"]
    assert counts["tune_inner"] == facts["tune_rows"]
    assert counts["validation_locked"] + counts["latest_stress"] == facts["test_rows"]
    assert counts["none"] == len(labels) - sum(counts[name] for name in SPLITS)
    assert rows.filter(split_id="latest_stress")["session"].n_unique() == 2  # a tenth of 24 days
    unknown = rows.filter(pl.col("label_end").is_null())
    assert set(unknown["split_id"]) == {"none"}


def test_without_a_stress_stretch_all_sealed_rows_are_validation() -> None:
    """The last group taken for the stress stretch although there is none."""
    calendar = weekdays(120)
    labels = balanced(calendar, 100)
    folds = make_folds(labels, calendar, FoldSpec())
    assert set(named_splits(folds, labels)) == {"fit_inner", "tune_inner", "validation_locked", "none"}
    unlocked = make_folds(labels, calendar, FoldSpec(locked_share=0))
    with pytest.raises(BadInput, match="one of these folds"):
        named_splits(unlocked, labels)


def test_evaluation_blocks_are_thirds_of_tune_inner_less_what_reaches_over(folds: Folds, labels: pl.DataFrame) -> None:
    """Blocks that share a label, that lose more than their ends, or that hold fit or sealed rows."""
    found = evaluation_blocks(folds, labels.sample(fraction=1, shuffle=True, seed=1))
    assert found.columns == [*KEY, "block"]
    tuned = labels.filter(named_splits(folds, labels) == "tune_inner")
    rows = found.join(labels, on=KEY)
    starts = [rows.filter(block=name)["label_start"].min() for name in BLOCKS]
    for name, later in zip(BLOCKS, starts[1:], strict=False):
        assert rows.filter(block=name)["label_end"].max() <= later
    whole = tuned.with_columns(third=sum((pl.col("label_start") >= start).cast(pl.Int32) for start in starts))
    left_out = whole.join(found, on=KEY, how="anti")
    following = left_out["third"].replace_strict(dict(enumerate(starts)), return_dtype=MINUTES)
    assert 0 < len(left_out) < 0.05 * len(tuned)
    assert (left_out["label_end"] > following).all()
    instants = whole.group_by("third").agg(pl.col("minute").n_unique())["minute"]
    assert instants.max() - instants.min() <= 1
    assert found.join(tuned, on=KEY, how="anti").is_empty()
    assert found.rows() == sorted(found.rows())


def test_the_plan_search_takes_the_blocks(labels: pl.DataFrame) -> None:
    """Blocks a minute too near for the horizon that the labels looked at."""
    whole = labels.with_columns(label_end=pl.col("label_start") + timedelta(minutes=45))
    blocks = evaluation_blocks(make_folds(whole, CALENDAR, SPEC), whole)
    _check_blocks(blocks, 45)
    fit = whole.filter(named_splits(make_folds(whole, CALENDAR, SPEC), whole) == "fit_inner")
    _check_blocks(pl.concat([blocks, fit.select(*KEY, block=pl.lit("fit_inner"))]), 45)


def test_blocks_of_sessions_keep_a_session_together() -> None:
    """A cut through the instruments of one decision."""
    calendar = weekdays(240)
    labels = unbalanced(calendar, 200, 9, seed=4)
    folds = make_folds(labels, calendar, FoldSpec(locked_share=0.2))
    found = evaluation_blocks(folds, labels)
    assert found.group_by("session").agg(pl.col("block").n_unique())["block"].max() == 1
    assert found["block"].unique().sort().to_list() == list(BLOCKS)


def test_a_block_without_rows_is_refused() -> None:
    """An empty E2 on which any candidate is confirmed."""
    calendar = weekdays(60)
    labels = balanced(calendar, 40, length=4)
    folds = make_folds(labels, calendar, FoldSpec(n_groups=2, n_test_groups=1, tune_share=0.25, locked_share=0.15))
    with pytest.raises(BadInput, match="every evaluation block keeps rows"):
        evaluation_blocks(folds, labels)
