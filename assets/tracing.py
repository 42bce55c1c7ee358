"""`foldgate trace`: from a number to its origin.

The number, the version it is stored in, the panel rows its decision saw, and the vendor rows behind those. What a
decision saw differs with how often a study decides: `session_tracing`, `minute_tracing`. Why a name was or was not
selected is in `explaining.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any, Protocol

import polars as pl

from assets import arguments
from assets.console import cell, table
from assets.minute_tracing import MinuteTrace
from assets.session_tracing import SessionTrace
from pipeline.errors import BadInput
from pipeline.features.plan import plan
from resources.environments import Environment
from resources.versions import Version

TRACED = {"panel": "panel", "features": "features", "labels": "labels", "predictions": "predictions",
          "inference": "predictions"}  # fmt: skip
SHOWN_PARENTS = 12
HEADS_IN_A_ROW = 8  # more do not fit a terminal side by side


class Trace(Protocol):
    """One row of a study, as a person named it, and where its numbers come from."""

    @property
    def key(self) -> Mapping[str, Any]:
        """Key column -> value, session and instrument among them."""
        ...

    @property
    def where(self) -> str:
        """The row in words: `of … on …`."""
        ...

    @property
    def typed(self) -> str:
        """Code and session as a command takes them."""
        ...

    def print_label(self, row: Mapping[str, Any]) -> None:
        """What a label looked at, and how it ended."""
        ...

    def print_window(self, asset: str, column: str, row: Mapping[str, Any]) -> None:
        """When it was decided, and what the number reads."""
        ...

    def rebuilt(self, column: str, stored: object, rows: int) -> bool:
        """Print the panel rows behind a feature and compute it again; whether every bit is the same."""
        ...

    def print_raw(self, asset: str, column: str, row: Mapping[str, Any], rows: int) -> None:
        """The vendor rows behind the number."""
        ...


BY_DECISION: dict[str, Callable[[Environment, str, str], Trace]] = {"session": SessionTrace, "minute": MinuteTrace}


def trace_value(environment: Environment, asset: str, code: str, session: str, column: str, rows: int = 10) -> int:
    """Print a value and everything it came from; 1 when the stored panel no longer gives it.

    Parameters
    ----------
    asset : str
        One of `TRACED`.
    code, session, column : str
        As typed; of a study that decides by the minute, the session is a minute.
    rows : int
        Newest rows shown of each table; 0 shows all. Rows that came later or were replaced are always shown.

    Raises
    ------
    BadInput
        A name that does not exist, or a row that is not there.
    """
    study = environment.study
    trace = BY_DECISION[study.market.decides](environment, code, session)
    if rows < 0:
        raise BadInput("--rows counts the rows shown", rows, "0 shows all")
    arguments.one_of("a trace starts at an asset with one row a name", asset, list(TRACED))
    version = _version(environment, asset, trace.key["session"])
    stored = environment.artifacts.table(study.name, asset, TRACED[asset], partitions=[version.partition])
    arguments.one_of(
        f"a column of {asset}", column, [name for name in stored.columns if name not in (*trace.key, "split")]
    )
    found = stored.filter(**trace.key)
    if found.is_empty():
        raise BadInput("the row is stored", f"no {asset} {trace.where}", f"`foldgate why {trace.typed}` says why")
    for row in found.iter_rows(named=True):
        split = f" in split {row['split']}" if "split" in row else ""
        print(f"{asset}.{column} {trace.where}{split} = {row[column]}")
    first, exact = found.row(0, named=True), True
    if asset == "labels":
        trace.print_label(first)
    _print_version(version, found["split"].to_list() if "split" in found.columns else [])
    trace.print_window(asset, column, first)
    if asset == "features":
        exact = trace.rebuilt(column, first[column], rows)
    elif asset in ("predictions", "inference"):
        _print_members(environment, asset, trace, found)
    trace.print_raw(asset, column, first, rows)
    return 0 if exact else 1


def _version(environment: Environment, asset: str, day: date) -> Version:
    """The version of the partition that holds the session."""
    held = environment.artifacts.current(environment.study.name, asset)
    for partition in (day.isoformat(), f"{day:%Y-%m}", ""):
        if partition in held:
            return held[partition]
    stored = f"{asset} holds {min(held)}..{max(held)}" if held else f"{asset} was never made"
    raise BadInput(f"{asset} of {day} is stored", stored, f"materialise {asset}, or trace a session that it holds")


def _print_version(version: Version, splits: list[str]) -> None:
    """The stored version and what it was made from; of a row of some splits, only their parts."""
    mine = [f"/{split}" for split in splits]
    read = {
        name: digest
        for name, digest in version.lineage.get("read", {}).items()
        if not mine or "/" not in name or any(name.split("|")[0].endswith(part) for part in mine)
    }
    print(f"\nstored in   {version.stage}/{version.partition or '(whole)'}, version {version.hash[:12]}, "
          f"code {str(version.lineage.get('code', ''))[:12]}")  # fmt: skip
    for i, (name, digest) in enumerate(list(read.items())[:SHOWN_PARENTS]):
        print(f"{'made from' if i == 0 else '':<11} {name:<24} {digest[:12]}")
    if len(read) > SHOWN_PARENTS:
        print(f"{'':<11} and {len(read) - SHOWN_PARENTS} more")


def _print_members(environment: Environment, asset: str, trace: Trace, found: pl.DataFrame) -> None:
    """Raw scores of every member behind a calibrated average: a row each, or of many heads a column each."""
    study, artifacts = environment.study, environment.artifacts
    if asset == "inference":
        day = trace.key["session"].isoformat()
        scores = [artifacts.table(study.name, "inference", "scores", partitions=[day]).filter(**trace.key)]
        scores[0].insert_column(0, pl.Series("split", ["live"] * len(scores[0]), pl.String))
    else:
        pairs = [f"{split}|{member.name}" for split in found["split"] for member in study.members]
        scores = [artifacts.table(study.name, "models", "scores", partitions=[pair]).filter(**trace.key)
                  for pair in pairs]  # fmt: skip
    raw = pl.concat(scores)
    heads = [name for name in raw.columns if name.endswith("_head")]
    print("\nraw scores of the members, before calibration and averaging")
    members = [(f"{row['split']}", f"{row['member']}", row) for row in raw.iter_rows(named=True)]
    if len(heads) <= HEADS_IN_A_ROW:
        table(["split", "member", *heads], [[*names, *(cell(row[head]) for head in heads)] for *names, row in members])
    else:
        columns = [" ".join(names) for *names, _ in members]
        table(["head", *columns], [[head, *(cell(row[head]) for *_, row in members)] for head in heads])
    print(f"they read all {len(plan(study.features).schema)} features; trace one: "
          f"foldgate trace features {trace.typed} FEATURE")  # fmt: skip
