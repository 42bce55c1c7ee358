"""LightGBM, one deterministic booster per head, kept and scored as its native text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from pipeline.models.examples import PROBABILITY_EDGE, Examples, Head
from pipeline.models.family import Fitted, Objective, Predict, Progress
from pipeline.models.inputs import Inputs
from pipeline.models.spec import BoostedSpec, TrainingSpec


def fit(
    spec: BoostedSpec,
    training: TrainingSpec,
    examples: Examples,
    *,
    workdir: Path,
    objective: Objective | None,
    progress: Progress,
) -> Fitted:
    """One booster per learned head on its labelled fit rows: log loss for probabilities, squared error else.

    Features are binned once; heads with the same labelled rows share one dataset and only swap the label.
    """
    fit_rows, learned = examples.rows("fit"), examples.learned
    targets = examples.targets[fit_rows]
    parameters = _parameters(spec, training)
    whole = lightgbm.Dataset(examples.inputs.take(fit_rows).x, params=parameters).construct()
    files: dict[str, bytes] = {}
    for known, columns in _by_mask(targets, learned):
        dataset = whole if known.all() else whole.subset(np.flatnonzero(known)).construct()
        for column in columns:
            head = examples.heads[column]
            dataset.set_label(targets[known, column])
            booster = lightgbm.train(
                parameters | {"objective": "binary" if head.kind == "probability" else "regression"},
                dataset,
                num_boost_round=spec.rounds,
            )
            files[_file(head)] = booster.model_to_string().encode()
            progress(f"boosted {head.name}", len(files) / len(learned))
    return Fitted(files)


def load(files: Mapping[str, bytes], heads: tuple[Head, ...], batch: int) -> Predict:
    """Boosters from text. They add up a row's own leaves, so neither batch nor threads touch its bits."""
    boosters = [lightgbm.Booster(model_str=files[_file(head)].decode()) for head in heads]

    def predict(inputs: Inputs) -> NDArray[np.float32]:
        out = np.empty((len(inputs), len(heads)), np.float32)
        for column, (head, booster) in enumerate(zip(heads, boosters, strict=True)):
            raw = booster.predict(inputs.x, num_threads=1) if len(inputs) else np.empty(0)
            if head.kind == "probability":
                raw = np.clip(raw, PROBABILITY_EDGE, 1.0 - PROBABILITY_EDGE)
            out[:, column] = raw
        return out

    return predict


def _file(head: Head) -> str:
    return f"{head.name}.lightgbm.txt"


def _parameters(spec: BoostedSpec, training: TrainingSpec) -> dict[str, Any]:
    return {
        "num_leaves": spec.leaves,
        "learning_rate": spec.learning_rate,
        "max_bin": spec.max_bin,
        "min_data_in_leaf": spec.min_rows_in_leaf,
        "feature_fraction": spec.column_share,
        "bagging_fraction": spec.row_share,
        "bagging_freq": 1,
        "seed": training.seed,
        "num_threads": training.threads,
        "deterministic": True,
        "force_row_wise": True,
        "feature_pre_filter": False,  # would drop columns by the first head's label count
        "verbosity": -1,
    }


def _by_mask(targets: NDArray[np.float32], learned: NDArray[np.int64]) -> list[tuple[NDArray[np.bool_], list[int]]]:
    """Labelled rows -> the heads that have exactly these."""
    groups: dict[bytes, tuple[NDArray[np.bool_], list[int]]] = {}
    for column in learned:
        known = ~np.isnan(targets[:, column])
        groups.setdefault(known.tobytes(), (known, []))[1].append(int(column))
    return list(groups.values())
