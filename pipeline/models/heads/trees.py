"""LightGBM for multi-head models: a booster per block, stopped early on the purged end of its fit rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BadInput, LookAheadError, SchemaError
from pipeline.folds.certificate import meeting
from pipeline.models.examples import PROBABILITY_EDGE, Examples, Head, Spans
from pipeline.models.family import Fitted, Objective, Predict, Progress
from pipeline.models.heads.outputs import Block, models_of
from pipeline.models.heads.runtime import require_complete
from pipeline.models.inputs import Inputs
from pipeline.models.spec import TrainingSpec, TreeHeadsSpec

OBJECTIVES = {"softmax": "multiclass", "logistic": "binary", "linear": "regression"}


def fit(
    spec: TreeHeadsSpec,
    training: TrainingSpec,
    examples: Examples,
    *,
    workdir: Path,
    objective: Objective | None,
    progress: Progress,
) -> Fitted:
    """A booster per block that has something to learn. Features are binned once.

    Raises
    ------
    BadInput
        A fit row with a missing feature, labels without spans, or nothing left before the stopping rows.
    """
    rows, schema = examples.rows("fit"), examples.inputs.store.schema
    x = examples.inputs.take(rows).raw
    require_complete(x, schema)
    blocks = [block for model in models_of(examples.heads).values() for block in model if block.learned]
    parameters = _parameters(spec, training)
    whole = lightgbm.Dataset(x, params=parameters, feature_name=list(schema)).construct()
    files: dict[str, bytes] = {}
    notes: dict[str, Any] = {}
    for known, group in _by_rows(blocks, examples, rows):
        train, stop = purged_end(examples.spans, rows[known], spec.stopping_share)
        _require_apart(examples.spans, rows[known], train, stop)
        datasets = [whole.subset(known[part]).construct() for part in (train, stop)]
        for block in group:
            truth = _truth(block, examples, rows[known])
            booster = _boosted(spec, block, parameters, datasets, [truth[train], truth[stop]])
            files[_file(block.name)] = booster.model_to_string(num_iteration=booster.best_iteration).encode()
            facts = {"rounds": booster.best_iteration, "grown_rows": len(train), "stopping_rows": len(stop)}
            notes |= {head.name: facts for head in block.learned}
            progress(f"boosted {block.name}", len(files) / len(blocks))
    return Fitted(files, notes={"heads": notes})


def purged_end(
    spans: Spans | None, rows: NDArray[np.int64], share: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions within `rows` that grow trees and those, the newest share, that say when to stop.

    A row whose label looks past the first stopping decision is in neither.
    """
    if spans is None:
        rule = "early stopping purges by the labels' spans"
        raise BadInput(rule, "no label_start and label_end", "hand over labels with their spans")
    start, end = spans.start[rows], spans.end[rows]
    first = np.sort(start)[int(len(start) * (1.0 - share))]
    grown, stopping = np.flatnonzero(end <= first), np.flatnonzero(start >= first)
    if not grown.size or not stopping.size:
        observed = f"{grown.size} and {stopping.size} of {len(rows)} rows"
        raise BadInput("rows remain before the purged end of fit, and in it", observed, "widen the fit rows")
    return grown, stopping


def _require_apart(
    spans: Spans | None, rows: NDArray[np.int64], grown: NDArray[np.int64], stopping: NDArray[np.int64]
) -> None:
    """The referee of early stopping: what says when to stop shares no time with what trees grow on."""
    met = meeting(spans.start[rows], spans.end[rows], grown, stopping) if spans is not None else 0
    if met:
        raise LookAheadError(
            "rows that say when to stop share no time with rows that trees grow on",
            f"{met} of {len(grown)} rows",
            "stop on the purged end of the fit rows",
        )


def load(files: Mapping[str, bytes], heads: tuple[Head, ...], batch: int) -> Predict:
    """Boosters from text. They add up a row's own leaves, so neither batch nor threads touch its bits."""
    column = {head.name: i for i, head in enumerate(heads)}
    served = []
    for block in (block for model in models_of(heads).values() for block in model):
        if _file(block.name) not in files:
            raise BadInput("a member is whole", f"absent: {_file(block.name)}", "fetch the artifact again")
        booster = lightgbm.Booster(model_str=files[_file(block.name)].decode())
        served.append((booster, block, [column[head.name] for head in block.heads]))
    schema = tuple(served[0][0].feature_name())

    def predict(inputs: Inputs) -> NDArray[np.float32]:
        if inputs.store.schema != schema:
            raise SchemaError("inputs are in the order of the boosters' features", inputs.store.schema[:5], "refit it")
        x = inputs.raw
        require_complete(x, schema)
        out = np.empty((len(inputs), len(heads)), np.float32)
        for booster, block, columns in served if len(inputs) else []:
            raw = booster.predict(x, num_threads=1).reshape(len(inputs), -1)
            if block.kind != "linear":
                raw = np.clip(raw, PROBABILITY_EDGE, 1.0 - PROBABILITY_EDGE)
            out[:, columns] = raw
        return out

    return predict


def _boosted(
    spec: TreeHeadsSpec,
    block: Block,
    parameters: Mapping[str, Any],
    datasets: Sequence[lightgbm.Dataset],
    truths: Sequence[NDArray[np.float32]],
) -> lightgbm.Booster:
    for dataset, truth in zip(datasets, truths, strict=True):
        dataset.set_label(truth)
    chosen: dict[str, Any] = {"objective": OBJECTIVES[block.kind]}
    if block.kind == "softmax":
        chosen["num_class"] = len(block.learned)
    return lightgbm.train(
        {**parameters, **chosen},
        datasets[0],
        num_boost_round=spec.rounds,
        valid_sets=[datasets[1]],
        callbacks=[lightgbm.early_stopping(spec.patience, verbose=False)],
    )


def _parameters(spec: TreeHeadsSpec, training: TrainingSpec) -> dict[str, Any]:
    return {
        "num_leaves": spec.leaves,
        "learning_rate": spec.learning_rate,
        "lambda_l2": spec.l2,
        "max_bin": spec.max_bin,
        "min_data_in_leaf": spec.min_rows_in_leaf,
        "seed": training.seed,
        "num_threads": training.threads,
        "deterministic": True,
        "force_row_wise": True,
        "feature_pre_filter": False,  # would drop columns by the first head's label count
        "verbosity": -1,
    }


def _by_rows(
    blocks: Sequence[Block], examples: Examples, rows: NDArray[np.int64]
) -> list[tuple[NDArray[np.int64], list[Block]]]:
    """Positions within the fit rows that have truth -> the blocks that have exactly these."""
    groups: dict[bytes, tuple[NDArray[np.int64], list[Block]]] = {}
    for block in blocks:
        known = ~np.isnan(examples.targets[rows][:, _columns(block, examples)]).any(axis=1)
        groups.setdefault(known.tobytes(), (np.flatnonzero(known), []))[1].append(block)
    return list(groups.values())


def _truth(block: Block, examples: Examples, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """[n] labels of a block: the class's number for a softmax."""
    targets = examples.targets[rows][:, _columns(block, examples)]
    return targets.argmax(axis=1).astype(np.float32) if block.kind == "softmax" else targets[:, 0]


def _columns(block: Block, examples: Examples) -> list[int]:
    """Positions of its learned heads."""
    names = [head.name for head in examples.heads]
    return [names.index(head.name) for head in block.learned]


def _file(block: str) -> str:
    return f"{block}.lightgbm.txt"
