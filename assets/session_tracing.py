"""Where a number of a session's row comes from.

Which vendor column makes which panel column is in `asof/origins.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from assets import arguments
from assets.console import cell, table
from assets.raw_rows import Read, known_by, print_raw
from pipeline.asof.origins import origin
from pipeline.asof.patches import apply_patches
from pipeline.features.laws import FeatureInputs, calculate_features
from pipeline.features.plan import Plan, plan
from pipeline.stages.contract import months
from pipeline.study import Study
from resources.environments import Environment

LABEL_INPUTS = ("open", "close", "factor", "open_block", "close_block")


@dataclass(frozen=True)
class Window:
    """What a column reads: panel columns of the sessions `first..last`, as known at `decision` (None: in hindsight)."""

    inputs: tuple[str, ...]
    first: date
    last: date
    decision: datetime | None


def session_plan(study: Study) -> Plan:
    """The feature plan of a study that decides by the session."""
    made = plan(study.features)
    assert isinstance(made, Plan)
    return made


class SessionTrace:
    """One name on one session."""

    def __init__(self, environment: Environment, code: str, session: str) -> None:
        self.environment = environment
        self.day = arguments.session(environment, session)
        self.instrument = arguments.instrument(environment, code)
        self.key: dict[str, Any] = {"session": self.day, "instrument": self.instrument}
        self.where, self.typed = f"of {self.instrument} on {self.day}", f"{code} {self.day}"

    def print_label(self, row: Mapping[str, Any]) -> None:
        """Entry, exit, status and span."""
        for side in ("entry", "exit"):
            print(f"{side:<11} {cell(row[f'{side}_session'])} at {cell(row[f'{side}_price'])} (adjusted)")
        print(f"status      {row['status']}, exit {cell(row['exit_delay'])} sessions late; span [{row['label_start']}, "
              f"{cell(row['label_end'])})")  # fmt: skip

    def print_window(self, asset: str, column: str, row: Mapping[str, Any]) -> None:
        """When the decision falls, and the sessions that the number reads."""
        window, market = self._window(asset, column, row), self.environment.study.market
        if window.decision is None:
            print("known       in hindsight: a label reads the newest version of what happened after its decision")
        else:
            local = window.decision.astimezone(ZoneInfo(market.zone))
            print(f"decided     {local:%Y-%m-%d %H:%M} {market.zone}; reads only what was known by then")
        print(f"window      {window.first}..{window.last}")
        print(f"inputs      {', '.join(window.inputs)}")

    def rebuilt(self, column: str, stored: object, rows: int) -> bool:
        """The panel rows that the decision saw, and the feature computed from them again."""
        window = self._window("features", column, {})
        self._print_panel(window, rows)
        return self._print_rebuilt(column, window, stored)

    def print_raw(self, asset: str, column: str, row: Mapping[str, Any], rows: int) -> None:
        """Vendor rows of the window."""
        window = self._window(asset, column, row)
        seen = known_by(window.decision or self.environment.clock.now())
        # Minutes only ever describe the session itself; everything else reads the whole window.
        reads = {
            name: Read(columns, window.last if name == "stk_mins" else window.first, window.last, seen)
            for name, columns in origin(window.inputs).items()
        }
        print_raw(self.environment, self.instrument, reads, rows, hindsight=window.decision is None)

    def _window(self, asset: str, column: str, row: Mapping[str, Any]) -> Window:
        study, day = self.environment.study, self.day
        decision = study.market.decided_at(day)
        if asset == "panel":
            return Window((column,), day, day, decision)
        if asset == "labels":
            return Window(LABEL_INPUTS, day, self._last_looked_at(row["label_end"]), None)
        features = session_plan(study).features
        chosen = [f for f in features if f.name == column] if asset == "features" else list(features)
        sequences = 1 if asset == "features" else max(getattr(member, "window", 1) for member in study.members)
        lookback = max(f.lookback for f in chosen) + sequences - 1
        calendar = self.environment.calendar()
        first = calendar.session(max(calendar.ordinal(day) - lookback + 1, 0))
        return Window(tuple(sorted({name for f in chosen for name in f.inputs})), first, day, decision)

    def _last_looked_at(self, label_end: date | None) -> date:
        """A span ends the session after the last one looked at; an open one reaches today."""
        calendar = self.environment.calendar()
        return calendar.shift(label_end, -1) if label_end else calendar.latest(self.environment.clock.now().date())

    def _panel(self, window: Window) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Panel rows of the window, and the corrections to them."""
        name, artifacts = self.environment.study.name, self.environment.artifacts
        calendar, held = self.environment.calendar(), artifacts.current(name, "panel")
        part = [month for month in months(calendar.between(window.first, window.last)) if month in held]
        inside = pl.col("session").is_between(window.first, window.last)
        panel = artifacts.table(name, "panel", "panel", partitions=part).filter(inside)
        return panel, artifacts.table(name, "panel", "patches", partitions=part).filter(inside)

    def _print_panel(self, window: Window, rows: int) -> None:
        """The instrument's panel rows with every correction that the decision knew."""
        columns = [name for name in window.inputs if name != "bars"]
        panel, patches = (frame.filter(instrument=self.instrument) for frame in self._panel(window))
        if not columns or panel.is_empty():
            return
        seen = apply_patches(panel, patches, until=window.last).sort("session", descending=True)
        known = patches.filter(pl.col("effective_session") <= window.last)
        seen = seen.with_columns(corrected=pl.col("session").is_in(known["session"].implode()))
        corrected = int(seen["corrected"].sum())
        print(f"\npanel rows as this decision saw them: {len(seen)}, {corrected} corrected since their own day")
        shown = seen.head(rows) if rows else seen
        cells = [
            [str(row["session"]), *(cell(row[name]) for name in columns), "corrected" if row["corrected"] else ""]
            for row in shown.iter_rows(named=True)
        ]
        table(["session", *columns, ""], cells)
        if len(shown) < len(seen):
            print(f"  … and {len(seen) - len(shown)} earlier rows (--rows 0 shows all)")

    def _print_rebuilt(self, column: str, window: Window, stored: object) -> bool:
        """Compute the feature again from the stored panel, and say whether every bit is the same."""
        study = self.environment.study
        made = session_plan(study)
        feature = next(f for f in made.features if f.name == column)
        family = next(f for f in made.families if f.name == feature.family)
        panel, patches = self._panel(window)
        minutes = self.environment.artifacts.table(
            study.name, "panel", "intraday", partitions=[f"{window.last:%Y-%m}"]
        ).filter(pl.col("session") == window.last)
        again = calculate_features(FeatureInputs(panel, patches, minutes), Plan((family,)), [window.last])
        value = again.filter(pl.col("instrument") == self.instrument)[feature.name][0]
        scope = "" if feature.scope == "instrument" else f"; scope {feature.scope}: the other names' rows were read too"
        verdict = "equal bit for bit" if value == stored else "DIFFERENT"
        print(f"\nrebuilt     {value} from the panel stored now: {verdict}{scope}")
        return bool(value == stored)
