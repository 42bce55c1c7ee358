"""Paths cover every session once, each group from a split that tested it."""

from __future__ import annotations

import polars as pl
import pytest

from pipeline.errors import BadInput
from pipeline.folds.paths import paths_of, recombine
from pipeline.folds.spec import FoldSpec
from pipeline.folds.splits import make_folds, roles
from tests.folds.panels import unbalanced, weekdays


@pytest.mark.parametrize(
    "spec",
    [
        FoldSpec(),
        FoldSpec(n_groups=8, n_test_groups=3, tune_share=0.1),
        FoldSpec(n_groups=12, n_test_groups=4, tune_share=0.05),
        FoldSpec(scheme="expanding"),
        FoldSpec(scheme="rolling", locked_share=0),
    ],
)
def test_each_path_takes_every_group_once_and_each_split_serves_it_once(spec: FoldSpec) -> None:
    """A path with a hole, with a group twice, or a split's test group used by two paths."""
    paths = paths_of(spec)
    free = paths.filter(pl.col("path") != "locked")
    tested = range(spec.n_groups) if spec.scheme == "cpcv" else range(1, spec.n_groups)
    assert free["path"].n_unique() == spec.n_paths
    for (_,), path in free.partition_by("path", as_dict=True).items():
        assert path["group"].to_list() == list(tested)
    assert not paths.select("group", "split").is_duplicated().any()
    assert {(split, g) for split, groups in spec.test_groups.items() for g in groups} == set(
        paths.select("split", "group").iter_rows()
    )


def test_paths_of_six_choose_two_by_hand() -> None:
    """Path j not made of the j-th occurrence of each group (Lopez de Prado 2018, 12.4, for N = 6, k = 2)."""
    paths = paths_of(FoldSpec(locked_share=0))
    first, last = (paths.filter(pl.col("path") == name)["split"].to_list() for name in ("path_00", "path_04"))
    assert first == ["cpcv_00", "cpcv_00", "cpcv_01", "cpcv_02", "cpcv_03", "cpcv_04"]
    assert last == ["cpcv_04", "cpcv_08", "cpcv_11", "cpcv_13", "cpcv_14", "cpcv_14"]


def test_recombined_predictions_cover_each_row_exactly_once_a_path() -> None:
    """Predictions lost or doubled between splits and paths, or tune rows smuggled into a path."""
    calendar = weekdays(220)
    labels = unbalanced(calendar, 180, 9, seed=2)
    spec = FoldSpec(embargo_sessions=1)
    folds = make_folds(labels, calendar, spec)
    rows = pl.concat(
        [
            labels.select(
                pl.lit(split).alias("split"),
                "session",
                "instrument",
                roles(folds, split, labels).alias("role"),
            ).filter(pl.col("role").is_in(["tune", "test"]))
            for split in spec.splits
        ]
    )
    paths = recombine(folds.paths, folds.split_sessions, rows)
    assert set(paths["role"]) == {"test"}
    assert not paths.select("path", "session", "instrument").is_duplicated().any()
    locked = folds.split_sessions.filter(pl.col("group") == spec.n_groups)["session"].unique()
    n_locked = labels.filter(pl.col("session").is_in(locked.implode())).height
    counts = dict(paths.group_by("path").len().iter_rows())
    assert counts == {f"path_{i:02d}": labels.height - n_locked for i in range(5)} | {"locked": n_locked}
    assert paths.select("path", "session").rows() == sorted(paths.select("path", "session").rows())


def test_a_missing_split_is_an_error() -> None:
    """A path with a silent hole because one split was never predicted."""
    calendar = weekdays(140)
    labels = unbalanced(calendar, 120, 5, seed=2)
    folds = make_folds(labels, calendar, FoldSpec())
    with pytest.raises(BadInput, match="every split of a path"):
        recombine(folds.paths, folds.split_sessions, labels.with_columns(split=pl.lit("cpcv_00")))
