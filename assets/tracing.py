"""`foldgate trace`: from a number to its origin.

The number, the version it is stored in, the panel rows its decision saw, and the vendor rows behind those. Why a name
was or was not selected is in `explaining.py`; which vendor column makes which panel column, in `asof/origins.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from zoneinfo import ZoneInfo

import polars as pl

from assets import arguments
from assets.console import cell, table
from assets.raw_rows import print_raw
from pipeline.asof.patches import apply_patches
from pipeline.errors import BadInput
from pipeline.features.laws import FeatureInputs, calculate_features
from pipeline.features.plan import Plan, plan
from pipeline.features.spec import Feature
from pipeline.stages.contract import months
from pipeline.study import Study
from resources.artifacts import Version
from resources.environments import Environment

TRACED = {"panel": "panel", "features": "features", "labels": "labels", "predictions": "predictions",
          "inference": "predictions"}  # fmt: skip
KEY = ("session", "instrument")
SHOWN_PARENTS = 12
LABEL_INPUTS = ("open", "close", "factor", "open_block", "close_block")


@dataclass(frozen=True)
class Window:
    """What a column reads: panel columns of the sessions `first..last`, as known at `decision` (None: in hindsight)."""

    inputs: tuple[str, ...]
    first: date
    last: date
    decision: datetime | None


def trace_value(environment: Environment, asset: str, code: str, session: str, column: str, rows: int = 10) -> int:
    """Print a value and everything it came from; 1 when the stored panel no longer gives it.

    Parameters
    ----------
    asset : str
        One of `TRACED`.
    code, session, column : str
        As typed.
    rows : int
        Newest rows shown of each table; 0 shows all. Rows that came later or were replaced are always shown.

    Raises
    ------
    BadInput
        A name that does not exist, or a row that is not there.
    """
    study, day = environment.study, arguments.session(environment, session)
    if rows < 0:
        raise BadInput("--rows counts the rows shown", rows, "0 shows all")
    arguments.one_of("a trace starts at an asset with one row a name", asset, list(TRACED))
    instrument = arguments.instrument(environment, code)
    version = _version(environment, study, asset, day)
    stored = environment.artifacts.table(study.name, asset, TRACED[asset], partitions=[version.partition])
    arguments.one_of(f"a column of {asset}", column, [name for name in stored.columns if name not in (*KEY, "split")])
    found = stored.filter((pl.col("instrument") == instrument) & (pl.col("session") == day))
    if found.is_empty():
        unstored = f"no {asset} of {instrument} on {day}"
        raise BadInput("the row is stored", unstored, f"`foldgate why {code} {day}` says why")
    for row in found.iter_rows(named=True):
        split = f" in split {row['split']}" if "split" in row else ""
        print(f"{asset}.{column} of {instrument} on {day}{split} = {row[column]}")
    if asset == "labels":
        _print_label(found.row(0, named=True))
    _print_version(version, found["split"].to_list() if "split" in found.columns else [])
    window = _window(environment, study, asset, column, found, day)
    _print_window(study, window)
    exact = True
    if asset == "features":
        feature = next(f for f in plan(study.features).features if f.name == column)
        _print_panel(environment, instrument, window, rows)
        exact = _print_rebuilt(environment, feature, instrument, window, found[column][0])
    elif asset in ("predictions", "inference"):
        _print_members(environment, asset, instrument, day, found)
    print_raw(environment, instrument, window.inputs, (window.first, window.last), window.decision, rows)
    return 0 if exact else 1


def _version(environment: Environment, study: Study, asset: str, day: date) -> Version:
    """The version of the partition that holds the session."""
    held = environment.artifacts.current(study.name, asset)
    for partition in (day.isoformat(), f"{day:%Y-%m}", ""):
        if partition in held:
            return held[partition]
    stored = f"{asset} holds {min(held)}..{max(held)}" if held else f"{asset} was never made"
    raise BadInput(f"{asset} of {day} is stored", stored, f"materialise {asset}, or trace a session that it holds")


def _print_label(row: dict[str, object]) -> None:
    for side in ("entry", "exit"):
        print(f"{side:<11} {cell(row[f'{side}_session'])} at {cell(row[f'{side}_price'])} (adjusted)")
    print(f"status      {row['status']}, exit {cell(row['exit_delay'])} sessions late; span [{row['label_start']}, "
          f"{cell(row['label_end'])})")  # fmt: skip


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


def _window(environment: Environment, study: Study, asset: str, column: str, found: pl.DataFrame, day: date) -> Window:
    decision = study.market.decided_at(day)
    if asset == "panel":
        return Window((column,), day, day, decision)
    if asset == "labels":
        return Window(LABEL_INPUTS, day, _last_looked_at(environment, found["label_end"][0]), None)
    features = plan(study.features).features
    chosen = [f for f in features if f.name == column] if asset == "features" else list(features)
    sequences = 1 if asset == "features" else max(getattr(member, "window", 1) for member in study.members)
    lookback = max(f.lookback for f in chosen) + sequences - 1
    calendar = environment.calendar()
    first = calendar.session(max(calendar.ordinal(day) - lookback + 1, 0))
    return Window(tuple(sorted({name for f in chosen for name in f.inputs})), first, day, decision)


def _last_looked_at(environment: Environment, label_end: date | None) -> date:
    """A span ends the session after the last one looked at; an open one reaches today."""
    calendar = environment.calendar()
    return calendar.shift(label_end, -1) if label_end else calendar.latest(environment.clock.now().date())


def _print_window(study: Study, window: Window) -> None:
    if window.decision is None:
        print("known       in hindsight: a label reads the newest version of what happened after its decision")
    else:
        local = window.decision.astimezone(ZoneInfo(study.market.zone))
        print(f"decided     {local:%Y-%m-%d %H:%M} {study.market.zone}; reads only what was known by then")
    print(f"window      {window.first}..{window.last}")
    print(f"inputs      {', '.join(window.inputs)}")


def _panel(environment: Environment, window: Window) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Panel rows of the window, and the corrections to them."""
    name, artifacts = environment.study.name, environment.artifacts
    calendar, held = environment.calendar(), artifacts.current(environment.study.name, "panel")
    part = [month for month in months(calendar.between(window.first, window.last)) if month in held]
    inside = pl.col("session").is_between(window.first, window.last)
    panel = artifacts.table(name, "panel", "panel", partitions=part).filter(inside)
    return panel, artifacts.table(name, "panel", "patches", partitions=part).filter(inside)


def _print_panel(environment: Environment, instrument: str, window: Window, rows: int) -> None:
    """The instrument's panel rows with every correction that the decision knew."""
    columns = [name for name in window.inputs if name != "bars"]
    panel, patches = (frame.filter(pl.col("instrument") == instrument) for frame in _panel(environment, window))
    if not columns or panel.is_empty():
        return
    seen = apply_patches(panel, patches, until=window.last).sort("session", descending=True)
    known = patches.filter(pl.col("effective_session") <= window.last)
    seen = seen.with_columns(corrected=pl.col("session").is_in(known["session"].implode()))
    corrected = int(seen["corrected"].sum())
    print(f"\npanel rows as this decision saw them: {len(seen)}, {corrected} corrected since their own day")
    shown = seen.head(rows) if rows else seen
    cells = [[str(row["session"]), *(cell(row[name]) for name in columns), "corrected" if row["corrected"] else ""]
             for row in shown.iter_rows(named=True)]  # fmt: skip
    table(["session", *columns, ""], cells)
    if len(shown) < len(seen):
        print(f"  … and {len(seen) - len(shown)} earlier rows (--rows 0 shows all)")


def _print_rebuilt(environment: Environment, feature: Feature, instrument: str, window: Window, stored: object) -> bool:
    """Compute the feature again from the stored panel, and say whether every bit is the same."""
    family = next(f for f in plan(environment.study.features).families if f.name == feature.family)
    panel, patches = _panel(environment, window)
    minutes = environment.artifacts.table(
        environment.study.name, "panel", "intraday", partitions=[f"{window.last:%Y-%m}"]
    ).filter(pl.col("session") == window.last)
    again = calculate_features(FeatureInputs(panel, patches, minutes), Plan((family,)), [window.last])
    value = again.filter(pl.col("instrument") == instrument)[feature.name][0]
    scope = "" if feature.scope == "instrument" else f"; scope {feature.scope}: the other names' rows were read too"
    verdict = "equal bit for bit" if value == stored else "DIFFERENT"
    print(f"\nrebuilt     {value} from the panel stored now: {verdict}{scope}")
    return bool(value == stored)


def _print_members(environment: Environment, asset: str, instrument: str, day: date, found: pl.DataFrame) -> None:
    """Raw scores of every member behind a calibrated average."""
    study, artifacts = environment.study, environment.artifacts
    mine = (pl.col("instrument") == instrument) & (pl.col("session") == day)
    if asset == "inference":
        scores = [artifacts.table(study.name, "inference", "scores", partitions=[day.isoformat()]).filter(mine)]
        scores[0].insert_column(0, pl.Series("split", ["live"] * len(scores[0]), pl.String))
    else:
        pairs = [f"{split}|{member.name}" for split in found["split"] for member in study.members]
        scores = [artifacts.table(study.name, "models", "scores", partitions=[pair]).filter(mine) for pair in pairs]
    raw = pl.concat(scores)
    heads = [name for name in raw.columns if name.endswith("_head")]
    print("\nraw scores of the members, before calibration and averaging")
    cells = [[row["split"], row["member"], *(cell(row[head]) for head in heads)] for row in raw.iter_rows(named=True)]
    table(["split", "member", *heads], cells)
    print(f"they read all {len(plan(study.features).schema)} features; trace one: "
          f"foldgate trace features {instrument} {day} FEATURE")  # fmt: skip
