"""From pinned features and labels to out-of-sample predictions: folds, models, calibrators, positions, predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import polars as pl

from pipeline.asof.patches import latest
from pipeline.backtests.engine import run_book
from pipeline.backtests.market import Market
from pipeline.backtests.metrics import execution_objective
from pipeline.calibration.averaging import average_members
from pipeline.calibration.calibrators import Calibrators, fit_calibrators
from pipeline.calibration.reliability import reliability_before_after
from pipeline.calibration.weights import EnsembleWeights, ensemble_weights
from pipeline.fingerprints import canonical_json
from pipeline.folds.splits import Folds, make_folds, roles
from pipeline.frames import AsOf
from pipeline.models.members import fit_member
from pipeline.positions.policy import Policy, choose_policy, select
from pipeline.reports.figures import curves_figure, folds_figure, reliability_figure
from pipeline.stages.contract import Reader, Stage, StageResult
from pipeline.stages.market import ROW
from pipeline.stages.stored_inputs import prepared_inputs
from pipeline.study import Study

PIN_FILE = "pin.json"
PINNED = ("panel", "features", "labels")
WEIGHTS_FILE = "weights.json"
FOLD_TABLES = ("split_sessions", "purged", "paths", "certificate")


def run_folds(study: Study, read: Reader, _: str) -> StageResult:
    """Pin what exists now, split it, and certify the splits."""
    features = read.versions("features")
    pin = {
        stage: {part: digest for part, digest in read.versions(stage).items() if part in features} for stage in PINNED
    }
    labels = read.table("labels", "labels", columns=[*ROW, "label_start", "label_end"])
    folds = make_folds(_scored(read, labels), read.calendar, study.folds)
    return StageResult(
        tables={name: getattr(folds, name) for name in FOLD_TABLES},
        keys={
            "split_sessions": ("split", "session"),
            "purged": ("split", *ROW),
            "paths": ("path", "group"),
            "certificate": ("split",),
        },
        files={PIN_FILE: canonical_json({"stages": pin}).encode()},
        metadata={"certificate": folds.certificate.to_dicts()},
        figures={"splits": partial(folds_figure, folds.split_sessions)},
    )


def _scored(read: Reader, labels: pl.DataFrame) -> pl.DataFrame:
    """Labels of the rows that may be scored: the only ones that train, tune and test."""
    return labels.join(read_eligible(read).filter("eligible"), on=list(ROW), how="semi")


def read_folds(read: Reader) -> Folds:
    return Folds(*(read.table("folds", name) for name in FOLD_TABLES))


def read_labels(read: Reader) -> pl.DataFrame:
    """Labels of the eligible rows."""
    return read.once("labels", lambda: _scored(read, read.table("labels", "labels")))


def read_eligible(read: Reader) -> pl.DataFrame:
    return read.once("eligible", lambda: read.table("panel", "panel", columns=[*ROW, "eligible"]))


def read_market(read: Reader) -> Market:
    """Prices and tradability in final truth, for fills only."""

    def build() -> Market:
        panel, patches = read.table("panel", "panel"), read.table("panel", "patches")
        return Market.from_hindsight(latest(AsOf(panel), patches), read.calendar)

    return read.once("market", build)


def tune_objective(study: Study, read: Reader) -> Callable[[pl.DataFrame], float]:
    """Execution-aware value of scored rows: the study's own protocol on them, net of costs."""

    def objective(orders: pl.DataFrame) -> float:
        return execution_objective(run_book(orders, read_market(read), study.execution).equity)

    return objective


def head_objective(study: Study, read: Reader) -> Callable[[pl.DataFrame], float]:
    """The same for raw scores: rank by the alpha's own head, no filters."""
    head, value = study.policy.alpha.removesuffix("_pred") + "_head", tune_objective(study, read)
    plain = Policy(top_k=study.policy.top_k, alpha=study.policy.alpha)
    return lambda scores: value(select(scores.rename({head: study.policy.alpha}), plain))


def run_models(study: Study, read: Reader, partition: str) -> StageResult:
    """Fit one member on one split and score its tune and test rows through the serving form."""
    split, name = partition.split("|")
    member = next(member for member in study.members if member.name == name)
    labels = read_labels(read)
    rows = labels.select(ROW).with_columns(role=roles(read_folds(read), split, labels))
    fitted = fit_member(
        member,
        study.training,
        study.labels.heads,
        prepared_inputs(study, read),
        labels,
        rows,
        workdir=read.workdir,
        objective=head_objective(study, read),
        progress=read.progress,
    )
    return StageResult(
        tables={
            "scores": fitted.scores.with_columns(split=pl.lit(split), member=pl.lit(name)),
            "curves": fitted.curves,
        },
        keys={"scores": ROW, "curves": ("epoch",)},
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
    labels, fitted, curves = read_labels(read), dict[str, Calibrators](), []
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
    return ensemble_weights(chosen, labels, study.policy.alpha.removesuffix("_pred"), study.ensemble)


def _reliability(study: Study, calibrators: Calibrators, scores: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """Reliability of every probability head before and after, on the rows with truth."""
    heads = {head.name: head.label for head in study.labels.heads if head.kind == "probability"}
    both = calibrators.apply(scores).join(scores.select(*ROW, *(f"{h}_head" for h in heads)), on=list(ROW))
    truths = labels.select(*ROW, *(pl.col(label).alias(name) for name, label in heads.items()))
    rows = both.join(truths, on=list(ROW))
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
    policy, search = choose_policy(calibrated(study, read, split, "tune"), study.policy, tune_objective(study, read))
    return StageResult(
        tables={"search": search},
        keys={"search": ("candidate",)},
        files={"policy.json": canonical_json(policy).encode()},
        metadata={"policy": policy.model_dump(mode="json"), "candidates": len(search)},
    )


def read_policy(read: Reader, split: str) -> Policy:
    return Policy.model_validate_json(read.file("positions", "policy.json", split))


def run_predictions(study: Study, read: Reader, _: str) -> StageResult:
    """Calibrated scores of every split's test rows: together they cover every path and the locked stretch."""
    parts = [calibrated(study, read, split, "test") for split in study.folds.splits]
    predictions = pl.concat(parts).select("split", *ROW, pl.selectors.ends_with("_pred"), "score")
    return StageResult(
        tables={"predictions": predictions},
        keys={"predictions": ("split", *ROW)},
        metadata={"rows_per_split": predictions.group_by("split").len().sort("split").to_dicts()},
    )


_LIBRARY = ("pipeline.models", "pipeline.labels.spec")
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
    _LIBRARY,
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
    ("pipeline.positions", "pipeline.backtests"),
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
