"""Leaks of what is fitted and chosen: scalers, models, epochs, calibrators, weights and policies that saw tests."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from assets.proof.leaks.catchers import FIT_ONLY, NET_FIT_ONLY, NET_OTHERS, OTHERS, REPLAY, TRAINED, TUNE_ONLY, WEIGHTS
from assets.proof.leaks.contract import Leak, replaced
from pipeline.calibration.calibrators import Calibrators, fit_calibrators
from pipeline.calibration.weights import EnsembleWeights
from pipeline.models import boosted, linear, members, training
from pipeline.models.examples import Examples
from pipeline.models.family import Fitted
from pipeline.models.inputs import Inputs, fit_normaliser
from pipeline.models.members import FittedMember, fit_member
from pipeline.stages import candidates, pinned, research
from pipeline.stages.contract import Reader
from pipeline.study import Study

Apply = Callable[[], AbstractContextManager[Any]]
SELECTED = 20  # features that a careless selection keeps
TREES = "rank.lightgbm.txt"


def _scaler() -> AbstractContextManager[None]:
    def on_all(prepared: Any, fit: np.ndarray, layout: Any) -> Any:
        return fit_normaliser(prepared, np.ones_like(fit), layout)

    return replaced(members, "fit_normaliser", on_all)


def _vocabulary() -> AbstractContextManager[None]:
    def on_all(prepared: Any, fit: np.ndarray, layout: Any) -> Any:
        every = fit_normaliser(prepared, np.ones_like(fit), layout)
        return replace(fit_normaliser(prepared, fit, layout), vocabulary=every.vocabulary)

    return replaced(members, "fit_normaliser", on_all)


@dataclass(frozen=True)
class _Selected(Inputs):
    """Inputs of which a fit sees some columns only."""

    kept: np.ndarray = None  # type: ignore[assignment]

    @property
    def x(self) -> np.ndarray:  # type: ignore[override]
        return np.where(self.kept, self._x(self.index), np.float32(0))

    def take(self, index: np.ndarray) -> Inputs:
        return replace(self, index=self.index[index])


def _selection() -> AbstractContextManager[None]:
    """The features that go best with the first head over all rows, tested ones included."""
    real = linear.fit

    def selecting(spec: Any, train: Any, examples: Examples, **rest: Any) -> Fitted:
        known = np.flatnonzero(~np.isnan(examples.targets[:, 0]))
        x, y = examples.inputs.take(known).x, examples.targets[known, 0]
        going = np.abs((x - x.mean(axis=0)).T @ (y - y.mean())) / (x.std(axis=0) + 1e-9)
        kept = going >= np.sort(going)[-SELECTED]
        own = examples.inputs
        chosen = _Selected(own.store, own.normaliser, own.layout, own.index, kept)
        return real(spec, train, replace(examples, inputs=chosen), **rest)

    return replaced(linear, "fit", selecting)


def _model_on_tests() -> AbstractContextManager[None]:
    real = boosted.fit

    def fit(spec: Any, train: Any, examples: Examples, **rest: Any) -> Fitted:
        role = np.where(examples.role == "test", "fit", examples.role)
        return real(spec, train, replace(examples, role=role), **rest)

    return replaced(boosted, "fit", fit)


def _purged_rows_fitted() -> AbstractContextManager[None]:
    """Rows that were purged are fitted all the same."""
    real = members.roles_of

    def roles(prepared: Any, named: pl.DataFrame) -> np.ndarray:
        role = real(prepared, named)
        return np.where(role == "purged", "fit", role)

    return replaced(members, "roles_of", roles)


def _epoch() -> AbstractContextManager[None]:
    real = training.sessions_of

    def of_tests(examples: Examples, role: str) -> Any:
        return real(examples, "test" if role == "tune" else role)

    return replaced(training, "sessions_of", of_tests)


def _as_tune(read: Reader, split: str, role: str, names: Any) -> dict[str, pl.DataFrame]:
    """Every scored row, tested ones too, under the role of tune rows."""
    tables = {name: read.table("models", "scores", partitions=[f"{split}|{name}"]) for name in names}
    return {name: rows.with_columns(role=pl.lit("tune")) for name, rows in tables.items()}


def _calibrator_on_tests() -> AbstractContextManager[Any]:
    """Scores of all rows are renamed tune rows before the calibrators are fitted."""
    every: dict[str, pl.DataFrame] = {}
    real, context = research.member_scores, ExitStack()

    def scores(read: Reader, split: str, role: str, names: Any) -> dict[str, pl.DataFrame]:
        names = list(names)
        if role == "tune":
            every.update(_as_tune(read, split, role, names))
        return real(read, split, role, names)

    def fitted(rows: pl.DataFrame, *rest: Any) -> Calibrators:
        mine = next(table for table in every.values() if rows["member"][0] == table["member"][0])
        return fit_calibrators(mine, *rest)

    context.enter_context(replaced(research, "member_scores", scores))
    context.enter_context(replaced(research, "fit_calibrators", fitted))
    return context


def _calibrator_rows_by_role() -> AbstractContextManager[None]:
    """The stage asks for tested rows and does not hide it."""
    real = research.member_scores

    def scores(read: Reader, split: str, role: str, names: Any) -> dict[str, pl.DataFrame]:
        return real(read, split, "test", names)

    return replaced(research, "member_scores", scores)


def _weights_on_tests() -> AbstractContextManager[Any]:
    held: dict[str, pl.DataFrame] = {}
    real_scores, real, context = research.member_scores, research.weighed, ExitStack()

    def scores(read: Reader, split: str, role: str, names: Any) -> dict[str, pl.DataFrame]:
        names = list(names)
        if role == "tune":
            held.update(_as_tune(read, split, role, names))
        return real_scores(read, split, role, names)

    def weighed(study: Study, tune: Mapping[str, pl.DataFrame], labels: pl.DataFrame) -> EnsembleWeights:
        return real(study, held, labels)

    context.enter_context(replaced(research, "member_scores", scores))
    context.enter_context(replaced(research, "weighed", weighed))
    return context


def policy_on_tests() -> AbstractContextManager[None]:
    """Thresholds and filters are chosen on the split's tested rows."""
    real = research.calibrated

    def calibrated(study: Study, read: Reader, split: str, role: str) -> pl.DataFrame:
        return real(study, read, split, "test")

    return replaced(research, "calibrated", calibrated)


def _calibrator_of_another_split() -> AbstractContextManager[None]:
    real = research.read_calibrators

    def read_calibrators(read: Any, split: str, member: str) -> Calibrators:
        splits = read.study.folds.splits
        return real(read, splits[(splits.index(split) + 1) % len(splits)], member)

    return replaced(research, "read_calibrators", read_calibrators)


def _only_filled_rows() -> AbstractContextManager[None]:
    """Rows whose entry was blocked are not scored: nobody knows that when the decision falls."""
    real = pinned.scored

    def scored(study: Study, read: Reader, rows: pl.DataFrame) -> pl.DataFrame:
        kept = real(study, read, rows)
        return kept.filter(pl.col("ret").is_not_null()) if "ret" in kept.columns else kept

    return replaced(pinned, "scored", scored)


def _untrained_files() -> AbstractContextManager[None]:
    """What is packed is a model before its training, beside the hashes of the trained one."""
    real = candidates._files

    def files(study: Study, made: Any) -> dict[str, bytes]:
        return {name: _untrained(name, data) for name, data in real(study, made).items()}

    return replaced(candidates, "_files", files)


def _untrained_member() -> AbstractContextManager[None]:
    """The training hands over a model before its training, and the scores of the trained one."""

    def fit(*arguments: Any, **rest: Any) -> FittedMember:
        made = fit_member(*arguments, **rest)
        return replace(made, files={name: _untrained(name, data) for name, data in made.files.items()})

    return replaced(candidates, "fit_member", fit)


def _untrained(name: str, data: bytes) -> bytes:
    """The trees of one head without what they learned; as long as before, for the text states the length of each."""
    if not name.endswith(TREES):
        return data
    return re.sub(rb"(?m)^leaf_value=.*$", lambda line: re.sub(rb"\d", b"0", line[0]), data)


def _packed_calibrator() -> AbstractContextManager[None]:
    real = candidates.read_calibrators

    def read_calibrators(read: Any, split: str, member: str) -> Calibrators:
        splits = read.study.folds.splits
        return real(read, splits[(splits.index(split) + 1) % len(splits)], member)

    return replaced(candidates, "read_calibrators", read_calibrators)


FIT_LEAKS = (
    Leak("scaler fitted on test rows", "models.inputs.fit_normaliser: all rows", FIT_ONLY, _scaler),
    Leak("vocabulary fitted on test rows", "models.inputs.fit_normaliser: categories of all rows", NET_FIT_ONLY,
         _vocabulary),
    Leak("feature selection on test rows", "models.linear.fit: the columns that go with all labels", OTHERS,
         _selection),
    Leak("model fitted on test rows", "models.boosted.fit: test rows as fit rows", OTHERS, _model_on_tests),
    Leak("purged rows fitted all the same", "models.members.roles_of", OTHERS, _purged_rows_fitted),
    Leak("epoch chosen on the test split", "models.training: tune rows are the tested ones", NET_OTHERS, _epoch),
    Leak("calibrator fitted on test rows", "stages.research: tested scores renamed tune", OTHERS,
         _calibrator_on_tests),
    Leak("calibrator asked for test rows", "stages.research: role test", TUNE_ONLY, _calibrator_rows_by_role),
    Leak("ensemble weights on test rows", "stages.research.weighed: tested scores renamed tune", OTHERS,
         _weights_on_tests),
    Leak("policy chosen on test rows", "stages.research.calibrated: role test for the search", OTHERS,
         policy_on_tests),
    Leak("calibrator of another split", "stages.research.read_calibrators: the next split's", OTHERS,
         _calibrator_of_another_split),
    Leak("only rows that could be bought are scored", "stages.pinned.scored: rows with a return", OTHERS,
         _only_filled_rows),
    Leak("untrained weights in a bundle", "stages.candidates: files of a model before its training", TRAINED,
         _untrained_files),
    Leak("untrained weights under a recorded hash", "stages.candidates: the fit hands over an untrained model", REPLAY,
         _untrained_member),
    Leak("calibrator of another split in a bundle", "stages.candidates.read_calibrators: the next split's", WEIGHTS,
         _packed_calibrator),
)  # fmt: skip
