"""What may serve, and serving it: candidate, champion, inference, parity."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from pipeline.calibration.calibrators import Calibrators, fit_calibrators
from pipeline.errors import BadInput, FoldgateError, IncompleteTables, PromotionRefused
from pipeline.fingerprints import canonical_json, hash_bytes
from pipeline.folds.spec import LOCKED, PRODUCTION
from pipeline.folds.splits import production_folds, roles
from pipeline.gates.evaluate import Evidence, evaluate
from pipeline.gates.promotion import Judgement, reasons_to_refuse
from pipeline.gates.statistics import spearman
from pipeline.models.members import FittedMember, fit_member
from pipeline.models.scoring import Scorer, load_member
from pipeline.positions.policy import choose_policy
from pipeline.reports.figures import verdicts_figure
from pipeline.serving.bundle import Bundle, load_bundle, write_bundle
from pipeline.serving.infer import Inference, infer
from pipeline.serving.parity import compare
from pipeline.serving.records import write_no_selection, write_selection
from pipeline.stages.contract import Reader, Stage, StageResult, months
from pipeline.stages.evaluation import evaluation_hash
from pipeline.stages.market import ROW, study_plan
from pipeline.stages.research import (
    PIN_FILE,
    PINNED,
    average_calibrated,
    head_objective,
    prepared_inputs,
    read_labels,
    tune_objective,
)
from pipeline.study import Study

REPLAY_SESSIONS = 20
BUNDLE_FILE = "bundle.json"
PARITY_TABLES = ("panel", "features", "tensors", "scores", "predictions", "orders")


def run_candidate(study: Study, read: Reader, _: str) -> StageResult:
    """Refit every member on all pinned history, pack the bundle, and judge it."""
    labels, heads = read_labels(read), study.labels.heads
    cutoff = read.calendar.latest(min(read.now.date(), read.calendar.known_until))
    folds = production_folds(labels, read.calendar, study.folds, cutoff)
    rows = labels.select(ROW).with_columns(role=roles(folds, PRODUCTION, labels))
    fitted, calibrators = dict[str, FittedMember](), dict[str, Calibrators]()
    for i, member in enumerate(study.members):
        read.progress(f"refit {member.name}", i / len(study.members))
        workdir = read.workdir / member.name
        workdir.mkdir(parents=True, exist_ok=True)
        fitted[member.name] = fit_member(
            member,
            study.training,
            heads,
            prepared_inputs(study, read),
            labels,
            rows,
            workdir=workdir,
            objective=head_objective(study, read),
            progress=read.progress,
        )
        calibrators[member.name] = fit_calibrators(_tune(fitted[member.name]), labels, heads, study.calibration)
    tuned = average_calibrated(study, {name: calibrators[name].apply(_tune(f)) for name, f in fitted.items()})
    policy, search = choose_policy(tuned, study.policy, tune_objective(study, read), origin=PRODUCTION)
    files = {f"members/{name}/{file}": data for name, f in fitted.items() for file, data in f.files.items()}
    files |= {f"calibrators/{name}.json": c.to_json() for name, c in calibrators.items()}
    files["policy.json"] = canonical_json(policy).encode()
    files["study.json"] = canonical_json(study).encode()
    bundle = write_bundle(read.stores.bundles, files, _manifest(study, read, fitted))
    verdicts = evaluate(_candidate_evidence(study, read, bundle, fitted), study.promotion, side="candidate")
    return StageResult(
        tables={"verdicts": verdicts, "search": search, "certificate": folds.certificate},
        keys={"verdicts": ("gate",), "certificate": ("split",)},
        files={BUNDLE_FILE: canonical_json({"bundle": bundle.hash, "evaluation": evaluation_hash(read)}).encode()},
        metadata={
            "bundle": bundle.hash,
            "judged_at": read.now.isoformat(),
            "verdicts": verdicts.select("gate", "status", "value", "bound", "detail").to_dicts(),
        },
        figures={"gates": partial(verdicts_figure, verdicts)},
    )


def _tune(fitted: FittedMember) -> pl.DataFrame:
    return fitted.scores.filter(pl.col("role") == "tune")


def _manifest(study: Study, read: Reader, fitted: Mapping[str, FittedMember]) -> dict[str, Any]:
    """What the bundle says of itself: where it came from and how it must be served."""
    plan = study_plan(study)
    return {
        "study": study.name,
        "schema": list(plan.schema),
        "schema_hash": plan.schema_hash,
        "lookback": plan.lookback,
        "weights": {name: {file: hash_bytes(data) for file, data in f.files.items()} for name, f in fitted.items()},
        "lineage": {
            "evaluation": evaluation_hash(read),
            "pin": json.loads(read.file("folds", PIN_FILE)),
            "ledger_head": read.stores.ledger.head(),
        },
        "serving_batch": study.training.serving_batch,
    }


def _candidate_evidence(study: Study, read: Reader, bundle: Bundle, fitted: Mapping[str, FittedMember]) -> Evidence:
    """Replay through the bundle as it lies on disk, compared with what the training run recorded."""
    loaded = load_bundle(read.stores.bundles, bundle.hash)
    prepared, replay_differences, weights = prepared_inputs(study, read), 0, 0
    correlations = []
    for name, f in fitted.items():
        scorer = load_member(loaded.member_files(name))
        recorded = f.scores.filter(
            pl.col("session").is_in(f.scores["session"].unique().sort().tail(REPLAY_SESSIONS).implode())
        )
        replayed = scorer.score_inputs(scorer.prepared_inputs(prepared, recorded["session"].unique().sort().to_list()))
        replay_differences += _differences(recorded, replayed)
        weights += sum(
            hash_bytes(loaded.files[f"members/{name}/{file}"]) != hash_bytes(data) for file, data in f.files.items()
        )
        correlations.append(_refit_correlation(study, read, name, scorer))
    return Evidence(
        subject=bundle.hash,
        facts={
            "replay_differences": float(replay_differences),
            "weights_differences": float(weights),
            "refit_correlation": float(np.mean(correlations)),
        },
    )


def _differences(recorded: pl.DataFrame, replayed: pl.DataFrame) -> int:
    """Values of any head that differ in any bit, rows missing on either side included."""
    heads = [c for c in recorded.columns if c.endswith("_head")]
    both = recorded.join(replayed, on=list(ROW), how="left", suffix="_again")
    return sum(
        int(
            (both[h].reinterpret(dtype=pl.UInt32) != both[f"{h}_again"].reinterpret(dtype=pl.UInt32))
            .fill_null(True)
            .sum()
        )
        for h in heads
    )


def _refit_correlation(study: Study, read: Reader, name: str, scorer: Scorer) -> float:
    """Mean rank correlation per session with the newest split model, on that split's last tested sessions."""
    split = LOCKED if LOCKED in study.folds.splits else study.folds.splits[-1]
    head = study.policy.alpha.removesuffix("_pred") + "_head"
    scores = read.table("models", "scores", partitions=[f"{split}|{name}"]).filter(pl.col("role") == "test")
    # The newest sessions hold only names whose entry was blocked, and one or two names have no ranking.
    ranked = scores.filter(pl.len().over("session") >= study.policy.top_k)
    sessions = ranked["session"].unique().sort().tail(REPLAY_SESSIONS).to_list()
    again = scorer.score_inputs(scorer.prepared_inputs(prepared_inputs(study, read), sessions))
    both = ranked.join(again.select(*ROW, again=head), on=list(ROW))
    return float(
        np.mean([spearman(part[head].to_numpy(), part["again"].to_numpy()) for part in both.partition_by("session")])
    )


def run_champion(study: Study, read: Reader, _: str) -> StageResult:
    """Re-read every stored verdict and move the pointer, or refuse with every reason."""
    if not read.versions("candidate"):
        raise PromotionRefused("only a judged candidate is promoted", "there is none", "materialise candidate first")
    chosen = json.loads(read.file("candidate", BUNDLE_FILE))
    try:
        reasons, head = _reasons(study, read, chosen), read.stores.ledger.head()
    except FoldgateError as broken:  # tampered bytes say nothing, so they are a reason and recorded like one
        reasons, head = [f"{type(broken).__name__}: {broken.rule}: {broken.observed}"], ""
    body = read.stores.champions.promote(
        chosen["bundle"], reasons, evaluation=chosen["evaluation"], ledger_head=head, now=read.now
    )
    return StageResult(
        files={"champion.json": canonical_json(body).encode()},
        metadata={"bundle": chosen["bundle"], "promoted_at": body["at"]},
    )


def _reasons(study: Study, read: Reader, chosen: Mapping[str, str]) -> list[str]:
    """Everything against the candidate; bundle and ledger are verified on the way."""
    bundle = load_bundle(read.stores.bundles, chosen["bundle"])
    anchor = bundle.manifest["lineage"]["ledger_head"]
    read.stores.ledger.verify(anchor)
    subjects = {"evaluation": ("scorecard", evaluation_hash(read)), "candidate": ("candidate", bundle.hash)}
    judgements = {
        side: Judgement(read.table(stage, "verdicts"), subject, _judged_at(read, stage))
        for side, (stage, subject) in subjects.items()
        if read.versions(stage)
    }
    reasons = reasons_to_refuse(judgements, study.promotion, now=read.now, rewritten=_rewritten(read))
    if chosen["evaluation"] != evaluation_hash(read):
        reasons.append("candidate: was refitted under another evaluation")
    if anchor != read.stores.ledger.head():
        reasons.append("stale: the ledger has grown since the candidate was judged")
    return reasons


def _judged_at(read: Reader, stage: str) -> datetime:
    return datetime.fromisoformat(read.metadata(stage)["judged_at"])


def _rewritten(read: Reader) -> list[str]:
    """Pinned partitions whose panel of past decision times is no longer what was pinned."""
    pin = json.loads(read.file("folds", PIN_FILE))["stages"]
    return [
        f"{stage}/{part}"
        for stage in PINNED[:2]
        for part, digest in pin[stage].items()
        if read.rewritten(stage, part, digest)
    ]


def champion_bundle(read: Reader) -> Bundle:
    """The bundle that may serve; verified file by file."""
    serving = read.stores.champions.current()
    if serving is None:
        raise PromotionRefused("only a champion serves", "none was promoted", "see the scorecard's verdicts")
    return load_bundle(read.stores.bundles, serving["bundle"])


def run_inference(study: Study, read: Reader, session: str) -> StageResult:
    """Score one session with the champion and record its selection; on any refusal record NO_SELECTION."""
    day = date.fromisoformat(session)
    try:
        missing = read.incomplete(day)
        if missing:
            raise IncompleteTables(
                "a session is scored on complete tables",
                f"{session}: {', '.join(missing)}",
                "run the daily job again when the vendor has published them",
            )
        bundle = champion_bundle(read)
        made = _infer(study, read, bundle, day)
        record = write_selection(read.stores.records, made.selection(day, bundle.hash))
    except FoldgateError as refusal:
        write_no_selection(read.stores.records, day, str(refusal))
        raise
    return StageResult(
        tables={name: getattr(made, name) for name in PARITY_TABLES},
        keys={
            "panel": ROW,
            "features": ROW,
            "tensors": ("member", "session"),
            "scores": ("member", *ROW),
            "predictions": ROW,
            "orders": ("session", "rank"),
        },
        files={"record.json": canonical_json({"bundle": bundle.hash, "session": session}).encode()},
        metadata={
            "bundle": bundle.hash,
            "names": len(made.predictions),
            "selected": made.orders.select("rank", "code", "score").to_dicts(),
            "record": str(record.name),
        },
    )


def _infer(study: Study, read: Reader, bundle: Bundle, day: date) -> Inference:
    """One builder for live and parity: stored panel and features of the window, then the bundle."""
    first = read.calendar.session(max(read.calendar.ordinal(day) - bundle.window + 1, 0))
    sessions = read.calendar.between(first, day)
    part = months(sessions)
    inside = pl.col("session").is_in(pl.Series(sessions).implode())
    features = read.table("features", "features", partitions=part).filter(inside)
    panel = read.table("panel", "panel", partitions=part).filter(inside)
    if features.filter(pl.col("session") == day).is_empty():
        raise BadInput(
            "a session's features exist before it is scored",
            day.isoformat(),
            "materialise panel and features first",
        )
    return infer(bundle, features, panel, day)


def run_parity(study: Study, read: Reader, session: str) -> StageResult:
    """Rebuild a recorded session from today's research tables: exact, or the first difference."""
    day = date.fromisoformat(session)
    record = json.loads(read.file("inference", "record.json", session))
    bundle = load_bundle(read.stores.bundles, record["bundle"])
    again = _infer(study, read, bundle, day)
    live = {name: read.table("inference", name, partitions=[session]) for name in PARITY_TABLES}
    report = compare(live, {name: getattr(again, name) for name in PARITY_TABLES})
    table = report.to_frame(day)
    if not report.exact:
        read.progress(f"differs first at {report.first_difference}", 1.0)
    return StageResult(
        tables={"report": table},
        keys={"report": ("session", "asset")},
        metadata={
            "exact": report.exact,
            "rows": report.rows,
            "first_difference": str(report.first_difference or ""),
        },
    )


CANDIDATE = Stage(
    "candidate",
    "whole",
    ("folds", "scorecard"),
    run_candidate,
    ("members", "training", "labels", "calibration", "policy", "execution", "promotion"),
    ("pipeline.models", "pipeline.serving"),
    pinned=True,
    summary="The bundle refitted for production on all pinned history, with verdicts of its own.",
)
CHAMPION = Stage(
    "champion",
    "whole",
    ("scorecard", "candidate"),
    run_champion,
    ("promotion",),
    ("pipeline.gates",),
    pinned=True,
    summary="Moves the pointer when every gate of evaluation and candidate is green; else refuses with reasons.",
)
INFERENCE = Stage(
    "inference",
    "session",
    ("panel", "features"),
    run_inference,
    ("policy",),
    ("pipeline.serving",),
    summary="Scores and selections of one session by the champion; append-only records.",
)
PARITY = Stage(
    "parity",
    "session",
    ("inference",),
    run_parity,
    (),
    ("pipeline.serving",),
    summary="The recorded session rebuilt by the research path: exact, or the first difference.",
)
