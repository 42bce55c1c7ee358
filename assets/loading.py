"""`load(...)` for notebooks: any stage's table as a polars frame, today or as a past decision knew it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import polars as pl

from assets import arguments
from pipeline.asof.patches import apply_patches
from pipeline.errors import BadInput
from resources.environments import HOME_VARIABLE, Environment

DEFAULT_HOME = Path(__file__).resolve().parent.parent / "dagster_home" / "demo"
KEY = ("session", "instrument")
KNOWN_AT_THEIR_SESSION = {"panel", "patches", "exclusions", "quarantine", "intraday", "summary", "features", "paths"}
LIVE_STAGE = "inference"


def load(
    study: str,
    stage: str,
    table: str = "",
    *,
    as_of: date | str | None = None,
    home: str | Path = "",
    columns: Sequence[str] | None = None,
) -> pl.DataFrame:
    """A stage's table, in key order.

    Parameters
    ----------
    study, stage : str
        For example `"panel"`, `"features"`, `"labels"`, `"predictions"`, `"backtest"`.
    table : str
        May be left out where the stage has a table of its own name, or only one.
    as_of : date or str, optional
        What the decision of that session could know: panel rows up to it with the corrections known by then, features
        up to it as they were computed on their own days, labels whose span had ended. Without it, everything stored.
        Results of research (folds to scorecard) read the whole pinned history, so they have no such view.
    home : path
        The environment; else `$FOLDGATE_HOME`, else the demo's.
    columns : sequence of str, optional
        Columns to read; all by default.

    Raises
    ------
    BadInput
        An unknown study, stage or table; a stage that did not run; a view that a table does not have.
    SchemaError
        A column that the table does not have.

    Examples
    --------
    >>> load(study, "features", as_of="2026-09-15", columns=["session", "instrument", "MA20"])  # doctest: +SKIP
    """
    environment = Environment(Path(home or os.environ.get(HOME_VARIABLE, "") or DEFAULT_HOME))
    name = _table_name(environment, study, stage, table)
    if as_of is None:
        return environment.artifacts.table(study, stage, name, columns=columns)
    until = arguments.day(as_of) if isinstance(as_of, str) else as_of
    frame = _known(environment, study, stage, name, until, columns)
    return frame.select(columns) if columns else frame


def _table_name(environment: Environment, study: str, stage: str, table: str) -> str:
    arguments.one_of("a registered study", study, list(environment.studies))
    made = sorted({version.stage for version in environment.artifacts.versions() if version.study == study})
    if not made:
        raise BadInput("a stage is loaded after it has run", f"{environment.home} holds no stage", "`make demo` first")
    arguments.one_of(f"a stage of {study} that has run", stage, made)
    tables = sorted(
        {name for version in environment.artifacts.current(study, stage).values() for name in version.tables}
    )
    if not tables:
        raise BadInput(
            "only stages with tables can be loaded", f"{stage} keeps files only", "see the stage in the web UI"
        )
    if not table and stage not in tables and len(tables) > 1:
        raise BadInput(
            "a stage of several tables needs to be told which", f"{stage} has {', '.join(tables)}", "name one"
        )
    return arguments.one_of(f"a table of {stage}", table or (stage if stage in tables else tables[0]), tables)


def _known(
    environment: Environment, study: str, stage: str, name: str, until: date, columns: Sequence[str] | None
) -> pl.DataFrame:
    """The table as the decision of a session knew it, with the columns asked for and those that decide it."""
    if stage not in ("labels", LIVE_STAGE) and name not in KNOWN_AT_THEIR_SESSION:
        raise BadInput(
            "as_of needs rows that were known at their own session",
            f"{stage}.{name} was made from the whole pinned history",
            "load it without as_of, and filter by session if that is what you mean",
        )
    known_by = {"labels": "label_end", "patches": "effective_session"}.get(name, "session")
    corrected = (stage, name) == ("panel", "panel")
    needed = list(dict.fromkeys([*columns, known_by, *(KEY if corrected else ())])) if columns else None
    artifacts = environment.artifacts
    held = artifacts.current(study, stage)
    part = [partition for partition in held if partition[:7] <= f"{until:%Y-%m}"]
    if not part:
        raise BadInput(f"{stage} holds a session by {until}", f"it begins in {min(held)}", "ask for a later day")
    frame = artifacts.table(study, stage, name, partitions=part, columns=needed).filter(pl.col(known_by) <= until)
    if not corrected:
        return frame
    return apply_patches(frame, artifacts.table(study, "panel", "patches", partitions=part), until=until)
