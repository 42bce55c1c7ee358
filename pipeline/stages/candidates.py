"""The candidate: fits of the ensemble's members packed into a bundle, and judged. Who may serve: `serving`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from pipeline.calibration.calibrators import Calibrators, fit_calibrators
from pipeline.calibration.weights import EnsembleWeights
from pipeline.features.plan import plan
from pipeline.fingerprints import canonical_json, hash_bytes
from pipeline.folds.spec import LOCKED, PRODUCTION
from pipeline.folds.splits import Folds, fit_rows, production_folds
from pipeline.gates.evaluate import Evidence, evaluate
from pipeline.gates.statistics import spearman
from pipeline.models.members import FittedMember, fit_member
from pipeline.models.scoring import Scorer
from pipeline.reports.figures import verdicts_figure
from pipeline.serving.bundle import ENSEMBLE, POLICY, STUDY, Bundle, load_bundle, write_bundle
from pipeline.serving.contract import check_conformance, contract_files
from pipeline.serving.parts import Part, ensemble_file
from pipeline.spec import Spec
from pipeline.stages.contract import Reader, Stage, StageResult
from pipeline.stages.decisions import decisions
from pipeline.stages.evaluation import evaluation_hash
from pipeline.stages.pinned import PIN_FILE, read_labels, scored
from pipeline.stages.research import average_calibrated, read_calibrators, read_policy, read_weights, weighed
from pipeline.stages.stored_inputs import prepared_inputs
from pipeline.study import Study

REPLAY_SESSIONS = 20
VECTORS = 64
BUNDLE_FILE = "bundle.json"


@dataclass(frozen=True)
class Trained:
    """A part of the bundle as its training left it.

    Parameters
    ----------
    hashes : mapping
        File -> sha256 that the training run recorded.
    calibrated : str
        sha256 of the calibrators that were fitted on this split's tune rows for this member.
    scores : DataFrame
        Its raw scores of the last `REPLAY_SESSIONS` sessions that it scored; all of them would not fit in memory.
    """

    part: Part
    files: Mapping[str, bytes]
    hashes: Mapping[str, str]
    scores: pl.DataFrame
    calibrators: Calibrators
    calibrated: str


@dataclass(frozen=True)
class Assembled:
    """All that goes into a bundle; `chosen` is split -> weights, `search` how the policy was found."""

    trained: list[Trained]
    chosen: dict[str, EnsembleWeights]
    policy: Spec
    search: pl.DataFrame
    certificate: pl.DataFrame


def run_candidate(study: Study, read: Reader, _: str) -> StageResult:
    """Refit the ensemble on all pinned history, or take every split's fits; pack the bundle, and judge it."""
    made = _refitted(study, read) if study.ensemble.splits == "production" else _kept(study, read)
    files, manifest = _files(study, made), _manifest(study, read, made)
    files |= contract_files(files, manifest, lambda: _spread_rows(study, read))
    bundle = write_bundle(read.stores.bundles, files, manifest)
    verdicts = evaluate(_evidence(study, read, bundle, made), study.promotion, side="candidate")
    return StageResult(
        tables={"verdicts": verdicts, "search": made.search, "certificate": made.certificate},
        keys={"verdicts": ("gate",), "certificate": ("split",)},
        files={BUNDLE_FILE: canonical_json({"bundle": bundle.hash, "evaluation": evaluation_hash(read)}).encode()},
        metadata={
            "bundle": bundle.hash,
            "judged_at": read.now.isoformat(),
            "parts": [{"part": part.name, "weight": part.weight} for part in bundle.parts],
            "verdicts": verdicts.select("gate", "status", "value", "bound", "detail").to_dicts(),
        },
        figures={"gates": partial(verdicts_figure, verdicts)},
    )


def _spread_rows(study: Study, read: Reader) -> pl.DataFrame:
    """Features of rows spread evenly over the newest pinned month, for vectors that another runtime can replay."""
    newest = list(read.versions("features"))[-1]
    rows = scored(study, read, read.table("features", "features", partitions=[newest]))
    return rows.gather_every(max(len(rows) // VECTORS, 1)).head(VECTORS)


def _refitted(study: Study, read: Reader) -> Assembled:
    """Every member of the ensemble fitted on all pinned history; calibrators, weights and policy from its tune rows."""
    labels, heads = read_labels(study, read), study.labels.heads
    cutoff = read.calendar.latest(min(read.now.date(), read.calendar.known_until))
    folds = production_folds(labels, read.calendar, study.folds, cutoff)
    fitted = _fit(study, read, labels, folds)
    tune = {name: f.scores.filter(pl.col("role") == "tune") for name, f in fitted.items()}
    calibrators = {name: fit_calibrators(scores, labels, heads, study.calibration) for name, scores in tune.items()}
    weights = weighed(study, tune, labels)
    calibrated = {name: calibrators[name].apply(scores) for name, scores in tune.items()}
    tuned = average_calibrated(study, calibrated, weights.by_member)
    policy, search = decisions(study).choose(study, read, tuned, PRODUCTION)
    trained = [
        Trained(
            Part(name, PRODUCTION, weight),
            fitted[name].files,
            {file: hash_bytes(data) for file, data in fitted[name].files.items()},
            _last_sessions(fitted[name].scores),
            calibrators[name],
            hash_bytes(calibrators[name].to_json()),
        )
        for name, weight in weights.by_member.items()
    ]
    return Assembled(trained, {PRODUCTION: weights}, policy, search, folds.certificate)


def _fit(study: Study, read: Reader, labels: pl.DataFrame, folds: Folds) -> dict[str, FittedMember]:
    """Member -> its fit on the production split, in the ensemble's order."""
    rows = fit_rows(folds, PRODUCTION, labels)
    chosen = [member for member in study.members if member.name in study.ensemble_names]
    fitted: dict[str, FittedMember] = {}
    for i, member in enumerate(chosen):
        workdir = read.workdir / member.name
        workdir.mkdir(parents=True, exist_ok=True)

        def progress(text: str, share: float, name: str = member.name, before: int = i) -> None:
            read.progress(f"refit {name}: {text}", (before + share) / len(chosen))

        progress("started", 0.0)
        fitted[member.name] = fit_member(
            member,
            study.training,
            study.labels.heads,
            prepared_inputs(study, read),
            labels,
            rows,
            workdir=workdir,
            objective=decisions(study).head_objective(study, read),
            progress=progress,
        )
    return fitted


def _kept(study: Study, read: Reader) -> Assembled:
    """Every split's own fits, calibrators and weights, and the newest split's policy: nothing is chosen again.

    A policy chosen anew would need rows that no split was fitted on, and there are none.
    """
    newest, chosen = _newest_split(study), {split: read_weights(read, split) for split in study.folds.splits}
    trained = [
        _as_recorded(read, Part(name, split, weight / len(chosen)))
        for split, weights in chosen.items()
        for name, weight in weights.by_member.items()
    ]
    policy = decisions(study).adopted(read_policy(study, read, newest), newest)
    search = read.table("positions", "search", partitions=[newest])
    return Assembled(trained, chosen, policy, search, read.table("folds", "certificate"))


def _as_recorded(read: Reader, part: Part) -> Trained:
    """What the models stage stored of a fit: all but its checkpoints, which serve nowhere."""
    partition = f"{part.split}|{part.member}"
    hashes = {name: h for name, h in read.files("models", partition).items() if not name.startswith("checkpoints/")}
    files = {name: read.file("models", name, partition) for name in hashes}
    scores = _last_sessions(read.table("models", "scores", partitions=[partition]))
    calibrated = read.files("calibrators", part.split)[f"{part.member}.json"]
    return Trained(part, files, hashes, scores, read_calibrators(read, part.split, part.member), calibrated)


def _last_sessions(scores: pl.DataFrame) -> pl.DataFrame:
    return scores.filter(pl.col("session").is_in(scores["session"].unique().sort().tail(REPLAY_SESSIONS).implode()))


def _newest_split(study: Study) -> str:
    return LOCKED if LOCKED in study.folds.splits else study.folds.splits[-1]


def _files(study: Study, made: Assembled) -> dict[str, bytes]:
    files = {each.part.file(name): data for each in made.trained for name, data in each.files.items()}
    files |= {each.part.calibrators: each.calibrators.to_json() for each in made.trained}
    files[ENSEMBLE] = ensemble_file([each.part for each in made.trained], made.chosen)
    files[POLICY] = canonical_json(made.policy).encode()
    files[STUDY] = canonical_json(study).encode()
    return files


def _manifest(study: Study, read: Reader, made: Assembled) -> dict[str, Any]:
    """What the bundle says of itself: where it came from and how it must be served."""
    made_of = plan(study.features)
    return {
        "study": study.name,
        "schema": list(made_of.schema),
        "schema_hash": made_of.schema_hash,
        "lookback": made_of.lookback,
        "weights": {each.part.name: dict(each.hashes) for each in made.trained},
        "lineage": {
            "evaluation": evaluation_hash(read),
            "pin": json.loads(read.file("folds", PIN_FILE)),
            "ledger_head": read.stores.ledger.head(),
        },
        "serving_batch": study.training.serving_batch,
    }


def _evidence(study: Study, read: Reader, bundle: Bundle, made: Assembled) -> Evidence:
    """Every part replayed through the bundle as it lies on disk, compared with what its training run recorded."""
    loaded = load_bundle(read.stores.bundles, bundle.hash)
    replay_differences, weights_differences = 0, 0
    for i, each in enumerate(made.trained):
        read.progress(f"replay {each.part.name}", i / len(made.trained))
        replay_differences += _replay_differences(study, read, loaded.scorers[each.part.name], each.scores)
        weights_differences += sum(
            hash_bytes(loaded.files[each.part.file(name)]) != digest for name, digest in each.hashes.items()
        )
        weights_differences += hash_bytes(loaded.files[each.part.calibrators]) != each.calibrated
    return Evidence(
        subject=bundle.hash,
        facts={
            "replay_differences": float(replay_differences),
            "weights_differences": float(weights_differences),
            "refit_correlation": _correlation(study, read, loaded),
            "conformance_differences": float(len(check_conformance(loaded))),
        },
    )


def _replay_differences(study: Study, read: Reader, scorer: Scorer, recorded: pl.DataFrame) -> int:
    """Values of any head that differ in any bit, rows missing on either side included."""
    sessions = recorded["session"].unique().sort().to_list()
    replayed = scorer.score_inputs(scorer.prepared_inputs(prepared_inputs(study, read), sessions))
    heads = [c for c in recorded.columns if c.endswith("_head")]
    both = recorded.join(replayed, on=list(study.row_key), how="left", suffix="_again")
    return sum(
        int(
            (both[h].reinterpret(dtype=pl.UInt32) != both[f"{h}_again"].reinterpret(dtype=pl.UInt32))
            .fill_null(True)
            .sum()
        )
        for h in heads
    )


def _correlation(study: Study, read: Reader, bundle: Bundle) -> float:
    """Mean over parts of the rank correlation with the newest split's fit, which itself only counts if alone."""
    others = [part for part in bundle.parts if part.split != _newest_split(study)] or list(bundle.parts)
    return float(np.mean([_refit_correlation(study, read, p.member, bundle.scorers[p.name]) for p in others]))


def _refit_correlation(study: Study, read: Reader, member: str, scorer: Scorer) -> float:
    """Mean rank correlation per session with the newest split model, on that split's last tested sessions."""
    head = study.policy.alpha.removesuffix("_pred") + "_head"
    partition = f"{_newest_split(study)}|{member}"
    scores = read.table("models", "scores", partitions=[partition]).filter(pl.col("role") == "test")
    # The newest sessions hold only names whose entry was blocked, and one or two names have no ranking.
    ranked = scores.filter(pl.len().over("session") >= study.policy.fewest)
    sessions = ranked["session"].unique().sort().tail(REPLAY_SESSIONS).to_list()
    again = scorer.score_inputs(scorer.prepared_inputs(prepared_inputs(study, read), sessions))
    both = ranked.join(again.select(*study.row_key, again=head), on=list(study.row_key))
    return float(
        np.mean([spearman(part[head].to_numpy(), part["again"].to_numpy()) for part in both.partition_by("session")])
    )


CANDIDATE = Stage(
    "candidate",
    "whole",
    ("folds", "scorecard"),
    run_candidate,
    ("members", "ensemble", "training", "labels", "calibration", "policy", "execution", "promotion"),
    (
        "pipeline.models", "pipeline.serving", "pipeline.gates", "pipeline.calibration", "pipeline.positions",
        "pipeline.backtests", "pipeline.folds", "pipeline.labels", "pipeline.features", "pipeline.asof.patches",
    ),
    pinned=True,
    summary="The bundle of the ensemble, refitted on all pinned history or of every split, with verdicts of its own.",
)
