"""`load(...)` for notebooks: any stage's table as a polars frame."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import polars as pl

from pipeline.errors import BadInput
from resources.environments import HOME_VARIABLE, Environment


def load(study: str, stage: str, table: str = "", *, as_of: date | None = None, home: str | Path = "",
         columns: list[str] | None = None) -> pl.DataFrame:
    """A stage's table.

    Parameters
    ----------
    study, stage : str
    table : str
        The stage's own name when absent, e.g. `panel` of `panel`, `scores` must be named.
    as_of : date, optional
        Keep sessions up to this one; corrections that became known later are not applied to the panel anyway.
    home : path
        The environment; `$FOLDGATE_HOME`, else `dagster_home/demo` beside the package.

    Examples
    --------
    >>> load(study, "predictions")  # doctest: +SKIP
    """
    default = Path(__file__).resolve().parent.parent / "dagster_home" / "demo"
    environment = Environment(Path(home or os.environ.get(HOME_VARIABLE, "") or default))
    known = environment.artifacts.current(study, stage)
    if not known:
        raise BadInput("a stage is loaded after it has run", f"{study}/{stage}", "materialise it, or check the names")
    tables = sorted(next(iter(known.values())).tables)
    name = table or (stage if stage in tables else tables[0])
    if name not in tables:
        raise BadInput(f"the stage {stage} has the tables {tables}", name, "name one of them")
    frame = environment.artifacts.table(study, stage, name, columns=columns)
    return frame if as_of is None or "session" not in frame.columns else frame.filter(pl.col("session") <= as_of)
