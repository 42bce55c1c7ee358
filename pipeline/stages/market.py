"""From raw rows to panel, features and labels: the stages that grow with every session.

How they are made differs with how often a study decides: `sessions` and `minutes`. This is the one place that chooses.
"""

from __future__ import annotations

from types import ModuleType

from pipeline.stages import minutes, sessions
from pipeline.stages.contract import Reader, Stage, StageResult
from pipeline.study import Study

BY_DECISION: dict[str, ModuleType] = {"session": sessions, "minute": minutes}
_HERE = tuple(module.__name__ for module in BY_DECISION.values())


def run_panel(study: Study, read: Reader, month: str) -> StageResult:
    """One month of the honest panel, and the corrections that became known in it."""
    result: StageResult = BY_DECISION[study.market.decides].run_panel(study, read, month)
    return result


def run_features(study: Study, read: Reader, month: str) -> StageResult:
    """Features of one month, each row from what its own decision knew."""
    result: StageResult = BY_DECISION[study.market.decides].run_features(study, read, month)
    return result


def run_labels(study: Study, read: Reader, month: str) -> StageResult:
    """Labels of one month in final truth, with their realised spans."""
    result: StageResult = BY_DECISION[study.market.decides].run_labels(study, read, month)
    return result


PANEL = Stage(
    "panel",
    "month",
    (),
    run_panel,
    ("market", "tables", "universe"),
    ("pipeline.asof", "pipeline.tables", "pipeline.features.minutes.quality", *_HERE),
    summary="One row per listed instrument and decision time: eligibility, tradability, adjustment, all as known.",
)
FEATURES = Stage(
    "features",
    "month",
    ("panel",),
    run_features,
    ("features",),
    ("pipeline.features", *_HERE),
    summary="Window-local float32 columns in schema order.",
)
LABELS = Stage(
    "labels",
    "month",
    ("panel",),
    run_labels,
    ("labels",),
    ("pipeline.labels", *_HERE),
    summary="What happened after each decision, with the span of everything it looked at.",
)
