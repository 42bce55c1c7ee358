"""Leaks between labels and folds: spans that lie, and splits that do not ask them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import date
from typing import Any

import numpy as np
import polars as pl

from assets.proof.leaks.catchers import AHEAD, FIT_ROWS, FOLDS, SPANS
from assets.proof.leaks.contract import Leak, replaced
from pipeline.calendars import Calendar
from pipeline.folds import splits
from pipeline.folds.purging import KEPT, purge
from pipeline.folds.sessions import FIT, TEST, TUNE, session_blocks
from pipeline.frames import Hindsight
from pipeline.labels.executable import executable_labels
from pipeline.labels.spec import LabelSpec
from pipeline.stages import research, sessions

ROWS = 60  # rows on either side of a test block that purging by rows drops
PLANNED = 4  # sessions that a label is planned to look at, its own included


def _planned(labels: pl.DataFrame, calendar: Calendar, spread: int) -> pl.DataFrame:
    """Spans that end when the exit was planned, whenever it came."""
    at = calendar.ordinals(labels["session"]) + spread
    planned = pl.Series(calendar.days[np.minimum(at, len(calendar.days) - 1)]).cast(pl.Date)
    known = pl.col("label_end").is_not_null()
    return labels.with_columns(label_end=pl.when(known).then(pl.min_horizontal("label_end", planned)))


def _planned_labels() -> AbstractContextManager[None]:
    def labels(market: Hindsight, calendar: Calendar, days: Sequence[date], spec: LabelSpec) -> pl.DataFrame:
        return _planned(executable_labels(market, calendar, days, spec), calendar, PLANNED)

    return replaced(sessions, "executable_labels", labels)


def _planned_folds() -> AbstractContextManager[None]:
    def folds(labels: pl.DataFrame, calendar: Calendar, spec: Any) -> splits.Folds:
        return splits.make_folds(_planned(labels, calendar, PLANNED), calendar, spec)

    return replaced(research, "make_folds", folds)


def _one_session_folds() -> AbstractContextManager[None]:
    def folds(labels: pl.DataFrame, calendar: Calendar, spec: Any) -> splits.Folds:
        return splits.make_folds(_planned(labels, calendar, 1), calendar, spec)

    return replaced(research, "make_folds", folds)


def _known_label() -> AbstractContextManager[None]:
    """The head q says whether the name rose today, which every feature knows."""

    def labels(market: Hindsight, calendar: Calendar, days: Sequence[date], spec: LabelSpec) -> pl.DataFrame:
        rows = market.frame.select("session", "instrument", rose=(pl.col("close") > pl.col("pre_close")))
        made = executable_labels(market, calendar, days, spec).join(rows, on=["session", "instrument"], how="left",
                                                                    maintain_order="left")  # fmt: skip
        return made.with_columns(q=pl.col("rose").cast(pl.Float32)).drop("rose")

    return replaced(sessions, "executable_labels", labels)


def _no_purge() -> AbstractContextManager[None]:
    def nothing(start: np.ndarray, *rest: Any) -> np.ndarray:
        return np.zeros(len(start), np.int8)

    return replaced(splits, "purge", nothing)


def _purge_by_rows() -> AbstractContextManager[None]:
    """So many rows before and after the test rows go, whatever their spans."""

    def by_rows(start: np.ndarray, end: np.ndarray, train: np.ndarray, block: np.ndarray, *rest: Any) -> np.ndarray:
        cause, tested = np.zeros(len(start), np.int8), np.flatnonzero(block >= 0)
        near = np.zeros(len(start), np.bool_)
        for edge in tested[np.diff(tested, prepend=-9) > 1]:
            near[max(0, edge - ROWS // 30) : edge] = True
        for edge in tested[np.diff(tested, append=len(start) + 9) > 1]:
            near[edge + 1 : edge + 1 + ROWS // 30] = True
        cause[near & train] = 1
        return cause

    return replaced(splits, "purge", by_rows)


def _no_embargo() -> AbstractContextManager[None]:
    def without(start: Any, end: Any, train: Any, block: Any, embargo: int, length: int) -> np.ndarray:
        return purge(start, end, train, block, 0, length)

    return replaced(splits, "purge", without)


def _fit_meets_tune() -> AbstractContextManager[None]:
    """Fit rows are purged against test rows and never against tune rows."""

    def against_tests(start: Any, end: Any, train: Any, block: Any, embargo: int, length: int) -> np.ndarray:
        if not embargo:
            return np.full(len(start), KEPT, np.int8)
        return purge(start, end, train, block, embargo, length)

    return replaced(splits, "purge", against_tests)


def _random_folds() -> AbstractContextManager[None]:
    """Random k-fold over sessions, as a library's default would."""
    real = splits._purge_split

    def roles(groups: np.ndarray, split: str, spec: Any) -> np.ndarray:
        draw = np.random.default_rng(1).random(len(groups))
        return np.select([draw < 0.5, draw < 0.7], [FIT, TUNE], TEST).astype(np.int8)

    def unpurged(spans: Any, at: Any, used: Any, role: np.ndarray, stress: Any, embargo: int) -> Any:
        made = real(spans, at, used, role, stress, embargo)
        assert session_blocks(role == TEST).max() > 0
        return made[0], np.zeros_like(made[1])

    class Both:
        """Two functions replaced together: random roles are what makes the missing purge matter."""

        def __enter__(self) -> None:
            self.held = [replaced(splits, "session_roles", roles), replaced(splits, "_purge_split", unpurged)]
            for context in self.held:
                context.__enter__()

        def __exit__(self, *raised: Any) -> None:
            for context in reversed(self.held):
                context.__exit__(*raised)

    return Both()


LABEL_LEAKS = (
    Leak("realised span ignored by the labels", "labels.executable: spans end at the planned exit", SPANS,
         _planned_labels),
    Leak("realised span ignored by the folds", "stages.research: folds divide by planned spans", FIT_ROWS,
         _planned_folds),
    Leak("folds purge a fixed session", "stages.research: folds divide by spans of one session", FIT_ROWS,
         _one_session_folds),
    Leak("label equal to an input of its day", "labels.executable: q says whether today rose", AHEAD, _known_label),
    Leak("no purge", "folds.purging.purge: nothing goes", FOLDS, _no_purge),
    Leak("purge by rows", "folds.purging.purge: neighbours by count, not by span", FOLDS, _purge_by_rows),
    Leak("embargo off", "folds.purging.purge: embargo 0", FOLDS, _no_embargo),
    Leak("fit rows meet tune rows", "folds.purging.purge: only against test rows", FOLDS, _fit_meets_tune),
    Leak("random k-fold", "folds.sessions.session_roles: sessions drawn at random", FOLDS, _random_folds),
)  # fmt: skip
