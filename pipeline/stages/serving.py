"""What may serve, and serving it: champion, inference, parity."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime

import polars as pl

from pipeline.errors import BadInput, FoldgateError, IncompleteTables, PromotionRefused, Tampered
from pipeline.fingerprints import canonical_json
from pipeline.gates.promotion import Judgement, reasons_to_refuse
from pipeline.serving.bundle import Bundle, load_bundle
from pipeline.serving.infer import Inference, infer
from pipeline.serving.parity import compare
from pipeline.serving.records import BOOKS, write_no_selection, write_selection
from pipeline.stages.candidates import BUNDLE_FILE
from pipeline.stages.contract import Reader, Stage, StageResult, months
from pipeline.stages.evaluation import evaluation_hash
from pipeline.stages.pinned import PIN_FILE, PINNED
from pipeline.study import Study

SHOWN_ORDERS = 20
CHAMPION_FILE = "champion.json"
PARITY_TABLES = ("panel", "features", "paths", "tensors", "scores", "predictions", "orders")


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
        files={CHAMPION_FILE: canonical_json(body).encode()},
        metadata={"bundle": chosen["bundle"], "promoted_at": body["at"]},
    )


def _reasons(study: Study, read: Reader, chosen: Mapping[str, str]) -> list[str]:
    """Everything against the candidate; bundle and ledger are verified on the way."""
    bundle = load_bundle(read.stores.bundles, chosen["bundle"])
    anchor = bundle.manifest["lineage"]["ledger_head"]
    # A chain does not see a cut tail, so every head that was ever anchored in a champion's record must still be there.
    for head in (anchor, *(record["ledger_head"] for record in read.stores.champions.history())):
        if head:
            read.stores.ledger.verify(head)
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
    """The bundle that may serve; verified file by file.

    The pointer's chain is not keyed: who rewrites a row can hash it again. So the stage's own results are asked too.
    """
    serving = read.stores.champions.current()
    if serving is None:
        raise PromotionRefused("only a champion serves", "none was promoted", "see the scorecard's verdicts")
    if serving["bundle"] not in read.stores.promoted():
        raise Tampered(
            "the pointer names a bundle that the champion stage has promoted",
            f"{serving['bundle'][:16]}, which no result of the stage names",
            "materialise champion; if it refuses, restore the champions folder",
        )
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
        write_no_selection(read.stores.records, day, str(refusal), BOOKS[study.policy.family])
        raise
    return StageResult(
        tables={name: getattr(made, name) for name in PARITY_TABLES},
        keys={
            "panel": study.row_key,
            "features": study.row_key,
            "paths": study.row_key,
            "tensors": ("member", "session"),
            "scores": ("member", *study.row_key),
            "predictions": study.row_key,
            "orders": ("session", "rank"),
        },
        files={"record.json": canonical_json({"bundle": bundle.hash, "session": session}).encode()},
        metadata={
            "bundle": bundle.hash,
            "names": len(made.predictions),
            "selected": made.orders.drop("session").head(SHOWN_ORDERS).to_dicts(),
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
    paths = read.table("features", "paths", partitions=part).filter(inside)
    if features.filter(pl.col("session") == day).is_empty():
        raise BadInput(
            "a session's features exist before it is scored",
            day.isoformat(),
            "materialise panel and features first",
        )
    return infer(bundle, features, panel, day, paths)


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


CHAMPION = Stage(
    "champion",
    "whole",
    ("scorecard", "candidate"),
    run_champion,
    ("promotion",),
    ("pipeline.gates", "pipeline.serving.bundle"),
    pinned=True,
    verifies=True,
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
