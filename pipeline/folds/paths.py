"""Paths: full-length out-of-sample series put together from the splits. Predictions come from outside."""

from __future__ import annotations

import polars as pl

from pipeline.errors import BadInput
from pipeline.folds.spec import LOCKED, FoldSpec
from pipeline.frames import require_columns

PATHS_SCHEMA = {"path": pl.String, "group": pl.Int16, "split": pl.String}


def paths_of(spec: FoldSpec) -> pl.DataFrame:
    """Which split supplies each group of each path: columns `path`, `group`, `split`.

    Path j takes, for every group, the j-th split that tests it (Lopez de Prado 2018, section 12.4); the
    locked stretch is a path of its own, `locked`, which the stress stretch continues.
    """
    seen: dict[int, int] = {}
    found = []
    for split, groups in spec.test_groups.items():
        for group in groups:
            turn = seen.get(group, 0)
            seen[group] = turn + 1
            found.append((LOCKED if split == LOCKED else f"path_{turn:02d}", group, split))
    return pl.DataFrame(found, schema=PATHS_SCHEMA, orient="row").sort("path", "group")


def recombine(paths: pl.DataFrame, split_sessions: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of all splits as rows of all paths.

    Parameters
    ----------
    paths, split_sessions : pl.DataFrame
        Tables of `Folds`.
    rows : pl.DataFrame
        `split`, `session` and anything else, such as predictions; rows outside a split's test sessions are
        dropped.

    Returns
    -------
    pl.DataFrame
        `path` before the columns of `rows`; every tested session comes once a path, from the one split that
        supplies its group.

    Raises
    ------
    BadInput
        A split of the paths has no rows: the series would have a hole.
    """
    require_columns(rows, ["split", "session"], "recombine")
    absent = sorted(set(paths["split"]) - set(rows["split"].unique()))
    if absent:
        raise BadInput("every split of a path must supply rows", f"none from {absent}",
                       "materialise the predictions of all splits")
    tested = split_sessions.filter(pl.col("role") == "test").select("split", "session", "group")
    supply = paths.join(tested, on=["split", "group"]).select("path", "split", "session")
    return (
        supply.join(rows, on=["split", "session"], how="inner", maintain_order="right")
        .select("path", *rows.columns)
        .sort("path", "session", maintain_order=True)
    )
