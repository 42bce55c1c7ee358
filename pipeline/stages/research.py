"""From pinned features and labels to out-of-sample predictions: folds, models, calibrators, positions, predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import polars as pl

from pipeline.calibration.averaging import average_members
from pipeline.calibration.calibrators import Calibrators, fit_calibrators
from pipeline.calibration.reliability import reliability_before_after
from pipeline.calibration.weights import EnsembleWeights, ensemble_weights
from pipeline.fingerprints import canonical_json
from pipeline.folds.splits import fit_rows, make_folds
from pipeline.models.members import fit_member
from pipeline.reports.figures import curves_figure, folds_figure, reliability_figure
from pipeline.spec import Spec
from pipeline.stages.contract import Reader, Stage, StageResult
from pipeline.stages.decisions import decisions
from pipeline.stages.pinned import FOLD_TABLES, PIN_FILE, PINNED, read_folds, read_labels, scored
from pipeline.stages.stored_inputs import prepared_inputs
from pipeline.study import Study

WEIGHTS_FILE = "weights.json"


def run_folds(study: Study, read: Reader, _: str) -> StageResult:
    """Pin what exists now, split it, and certify the splits."""
    features = read.versions("features")
    pin = {
        stage: {part: digest for part, digest in read.versions(stage).items() if part in features} for stage in PINNED
    }
    labels = read.table("labels", "labels", columns=[*study.row_key, "label_start", "label_end"])
    folds = make_folds(scored(study, read, labels), read.calendar, study.folds)
    return StageResult(
        tables={name: getattr(folds, name) for name in FOLD_TABLES},
        keys={
            "split_sessions": ("split", "session"),
            "purged": ("split", *study.row_key),
            "paths": ("path", "group"),
            "certificate": ("split",),
        },
        files={PIN_FILE: canonical_json({"stages": pin}).encode()},
        metadata={"certificate": folds.certificate.to_dicts()},
        figures={"splits": partial(folds_figure, folds.split_sessions)},
    )


def run_models(study: Study, read: Reader, partition: str) -> StageResult:
    """Fit one member on one split and score its tune and test rows through the serving form."""
    split, name = partition.split("|")
    member = next(member for member in study.members if member.name == name)
    labels = read_labels(study, read)
    rows = fit_rows(read_folds(read), split, labels)
    fitted = fit_member(
        member,
        study.training,
        study.labels.heads,
        prepared_inputs(study, read),
        labels,
        rows,
        workdir=read.workdir,
        objective=decisions(study).head_objective(study, read),
        progress=read.progress,
    )
    return StageResult(
        tables={
            "scores": fitted.scores.with_columns(split=pl.lit(split), member=pl.lit(name)),
            "curves": fitted.curves,
        },
        keys={"scores": study.row_key, "curves": ("epoch",)},
        files=fitted.files | {f"checkpoints/{name}": data for name, data in fitted.checkpoints.items()},
        metadata={"metrics": fitted.metrics, "training": fitted.notes},
        figures={"learning curve": partial(curves_figure, fitted.curves)} if len(fitted.curves) else {},
    )


def member_scores(read: Reader, split: str, role: str, members: Iterable[str]) -> dict[str, pl.DataFrame]:
    """Member name -> its raw scores on a split's rows of one role."""
    return {
        name: read.table("models", "scores", partitions=[f"{split}|{name}"]).filter(pl.col("role") == role)
        for name in members
    }


def run_calibrators(study: Study, read: Reader, split: str) -> StageResult:
    """Per member and probability head, and the ensemble's weights, fitted on the split's tune group alone."""
    labels, fitted, curves = read_labels(study, read), dict[str, Calibrators](), []
    tune = member_scores(read, split, "tune", [member.name for member in study.members])
    for name, scores in tune.items():
        fitted[name] = fit_calibrators(scores, labels, study.labels.heads, study.calibration)
        curves.append(_reliability(study, fitted[name], scores, labels).with_columns(member=pl.lit(name)))
    table, weights = pl.concat(curves), weighed(study, tune, labels)
    return StageResult(
        tables={"reliability": table, "weights": weights.to_frame()},
        keys={"reliability": ("member", "head", "stage", "bin"), "weights": ("member",)},
        files={f"{name}.json": calibrators.to_json() for name, calibrators in fitted.items()}
        | {WEIGHTS_FILE: weights.to_json()},
        metadata={
            "weights": weights.to_frame().to_dicts(),
            "chosen": [
                {"member": name, "head": head.name, "method": head.method, "reason": head.reason}
                for name, c in fitted.items()
                for head in c.heads
                if head.kind == "probability"
            ],
        },
        figures={"reliability": partial(reliability_figure, table)},
    )


def weighed(study: Study, tune: Mapping[str, pl.DataFrame], labels: pl.DataFrame) -> EnsembleWeights:
    """What each member of the ensemble weighs, by its scores of tune rows."""
    chosen = {name: tune[name] for name in study.ensemble_names}
    alpha = next(head for head in study.labels.heads if f"{head.name}_pred" == study.policy.alpha)
    truths = labels.select(*study.row_key, pl.col(alpha.label).alias(alpha.name))
    return ensemble_weights(chosen, truths, alpha.name, study.ensemble)


def _reliability(study: Study, calibrators: Calibrators, scores: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """Reliability of every probability head before and after, on the rows with truth."""
    heads = {head.name: head.label for head in study.labels.heads if head.kind == "probability"}
    key = study.row_key
    both = calibrators.apply(scores).join(scores.select(*key, *(f"{h}_head" for h in heads)), on=list(key))
    truths = labels.select(*key, *(pl.col(label).alias(name) for name, label in heads.items()))
    rows = both.join(truths, on=list(key))
    parts = []
    for head in heads:
        known = rows.drop_nulls(head)
        if known.is_empty():
            continue
        before, after, truth = (known[c].cast(pl.Float64).to_numpy() for c in (f"{head}_head", f"{head}_pred", head))
        parts.append(reliability_before_after(before, after, truth).with_columns(head=pl.lit(head)))
    return pl.concat(parts)


def read_calibrators(read: Reader, split: str, member: str) -> Calibrators:
    return Calibrators.from_json(read.file("calibrators", f"{member}.json", split))


def read_weights(read: Reader, split: str) -> EnsembleWeights:
    return EnsembleWeights.from_json(read.file("calibrators", WEIGHTS_FILE, split))


def calibrated_members(study: Study, read: Reader, split: str, role: str, weights: Mapping[str, float]) -> pl.DataFrame:
    """Calibrated scores averaged over some members, on a split's rows of one role."""
    scores = member_scores(read, split, role, weights)
    parts = {name: read_calibrators(read, split, name).apply(raw) for name, raw in scores.items()}
    return average_calibrated(study, parts, weights).with_columns(split=pl.lit(split))


def average_calibrated(study: Study, parts: Mapping[str, pl.DataFrame], weights: Mapping[str, float]) -> pl.DataFrame:
    """The ensemble of calibrated members, in the order of their weights."""
    frames = [parts[name] for name in weights]
    return average_members(frames, study.labels.heads, study.policy.alpha, list(weights.values()))


def calibrated(study: Study, read: Reader, split: str, role: str) -> pl.DataFrame:
    """The same over the whole ensemble, with the split's recorded weights."""
    return calibrated_members(study, read, split, role, read_weights(read, split).by_member)


def run_positions(study: Study, read: Reader, split: str) -> StageResult:
    """Choose the split's policy on its tune group; the whole search table is kept."""
    policy, search = decisions(study).choose(study, read, calibrated(study, read, split, "tune"), "tune")
    return StageResult(
        tables={"search": search},
        keys={"search": ("candidate",)},
        files={"policy.json": canonical_json(policy).encode()},
        metadata={"policy": policy.model_dump(mode="json"), "candidates": len(search)},
    )


def read_policy(study: Study, read: Reader, split: str) -> Spec:
    return decisions(study).read_policy(read.file("positions", "policy.json", split))


def run_predictions(study: Study, read: Reader, _: str) -> StageResult:
    """Calibrated scores of every split's test rows: together they cover every path and the locked stretch."""
    parts = [calibrated(study, read, split, "test") for split in study.folds.splits]
    predictions = pl.concat(parts).select("split", *study.row_key, pl.selectors.ends_with("_pred"), "score")
    return StageResult(
        tables={"predictions": predictions},
        keys={"predictions": ("split", *study.row_key)},
        metadata={"rows_per_split": predictions.group_by("split").len().sort("split").to_dicts()},
    )


_OBJECTIVE = ("pipeline.backtests", "pipeline.positions.policy", "pipeline.positions.spec", "pipeline.asof.patches")
FOLDS = Stage(
    "folds",
    "whole",
    ("panel", "features", "labels"),
    run_folds,
    ("folds",),
    ("pipeline.folds",),
    summary="The pin, splits and paths, and a certificate that no training row saw a test row's span.",
)
MODELS = Stage(
    "models",
    "split_member",
    ("folds",),
    run_models,
    ("members", "training", "labels", "policy.top_k", "policy.alpha", "execution"),
    (
        "pipeline.models", "pipeline.labels.spec", "pipeline.folds", "pipeline.features.plan",
        "pipeline.features.compute", *_OBJECTIVE,
    ),
    pinned=True,
    resumes=True,
    parallel=True,
    summary="One member fitted on one split; raw scores of its tune and test rows through the serving form.",
)
CALIBRATORS = Stage(
    "calibrators",
    "split",
    ("folds", "models"),
    run_calibrators,
    ("calibration", "labels", "members", "ensemble.members", "ensemble.weights", "policy.alpha"),
    ("pipeline.calibration",),
    pinned=True,
    summary="Probability heads calibrated, and members weighed, on the tune group.",
)
POSITIONS = Stage(
    "positions",
    "split",
    ("folds", "models", "calibrators"),
    run_positions,
    ("policy", "execution", "members", "labels"),
    (
        "pipeline.positions", "pipeline.backtests", "pipeline.calibration", "pipeline.folds.named", "pipeline.labels",
        "pipeline.asof.patches",
    ),
    pinned=True,
    summary="The policy chosen on the tune group, with its whole search table.",
)
PREDICTIONS = Stage(
    "predictions",
    "whole",
    ("folds", "models", "calibrators"),
    run_predictions,
    ("members", "labels", "policy"),
    ("pipeline.calibration",),
    pinned=True,
    summary="Calibrated out-of-sample scores on every path.",
)
