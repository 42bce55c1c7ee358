"""From raw rows to panel, features and labels: the stages that grow with every session.

How they are made differs with how often a study decides: `sessions` and `minutes`. This is the one place that chooses.
"""

from __future__ import annotations

from typing import Protocol

from pipeline.stages import minutes, sessions
from pipeline.stages.contract import Reader, Stage, StageResult
from pipeline.study import Study


class Decided(Protocol):
    """Panel, features and labels of decisions of one kind, a month at a time."""

    def run_panel(self, study: Study, read: Reader, month: str) -> StageResult:
        """The honest panel, and the corrections that became known in the month."""

    def run_features(self, study: Study, read: Reader, month: str) -> StageResult:
        """Features, each row from what its own decision knew."""

    def run_labels(self, study: Study, read: Reader, month: str) -> StageResult:
        """Labels in final truth, with their realised spans."""


BY_DECISION: dict[str, Decided] = {"session": sessions, "minute": minutes}


def run_panel(study: Study, read: Reader, month: str) -> StageResult:
    """One month of the honest panel, and the corrections that became known in it."""
    return BY_DECISION[study.market.decides].run_panel(study, read, month)


def run_features(study: Study, read: Reader, month: str) -> StageResult:
    """Features of one month, each row from what its own decision knew."""
    return BY_DECISION[study.market.decides].run_features(study, read, month)


def run_labels(study: Study, read: Reader, month: str) -> StageResult:
    """Labels of one month in final truth, with their realised spans."""
    return BY_DECISION[study.market.decides].run_labels(study, read, month)


PANEL = Stage(
    "panel",
    "month",
    (),
    run_panel,
    ("market", "tables", "universe"),
    ("pipeline.asof", "pipeline.tables", "pipeline.features.minutes.quality"),
    summary="One row per listed instrument and decision time: eligibility, tradability, adjustment, all as known.",
)
FEATURES = Stage(
    "features",
    "month",
    ("panel",),
    run_features,
    ("features",),
    ("pipeline.features", "pipeline.asof"),
    summary="Window-local float32 columns in schema order.",
)
LABELS = Stage(
    "labels",
    "month",
    ("panel",),
    run_labels,
    ("labels",),
    ("pipeline.labels", "pipeline.asof", "pipeline.features.minutes", "pipeline.positions.manager"),
    summary="What happened after each decision, with the span of everything it looked at.",
)
