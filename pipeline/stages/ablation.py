"""The ablation as a diagnostic: every variant of the study's nets fitted on one split, measured on its tune rows.

Choices on tune rows are no trials; a test row enters neither the fit nor the figures. The arithmetic is in
`pipeline/diagnostics/ablation.py`.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from functools import partial
from typing import NamedTuple

import onnx
import polars as pl

from pipeline.backtests.ic import rank_ic
from pipeline.diagnostics.ablation import (
    ERRORS,
    SEEDS,
    Measured,
    Variant,
    compared,
    variants,
    verdict,
    worth_of_blocks,
)
from pipeline.diagnostics.finding import Finding
from pipeline.files import replace_if_changed
from pipeline.fingerprints import canonical_json, hash_json
from pipeline.folds.spec import LOCKED
from pipeline.folds.splits import roles
from pipeline.frames import ROW
from pipeline.labels.spec import LabelSpec
from pipeline.models.family import Progress
from pipeline.models.members import FittedMember, fit_member
from pipeline.models.onnx_runtime import FILE
from pipeline.models.spec import MultiPathNetSpec
from pipeline.reports.figures import bars_figure
from pipeline.stages.contract import Reader
from pipeline.stages.decisions import decisions
from pipeline.stages.diagnostics import Diagnostic
from pipeline.stages.pinned import read_folds, read_labels
from pipeline.stages.research import MODELS
from pipeline.stages.stored_inputs import prepared_inputs
from pipeline.study import Study

TRAINED = "network_"  # how the exported graph names what training set; the rest are constants


class Ground(NamedTuple):
    """The rows of one split that every variant sees, and their labels: fit and tune, nothing else."""

    split: str
    rows: pl.DataFrame
    labels: pl.DataFrame


def run_ablation(study: Study, read: Reader) -> Finding:
    """Fit every variant of every net, and the other members beside them, on the split with the most fit rows."""
    ground = _ground(study, read)
    minutes = prepared_inputs(study, read).has_bars
    nets = [member for member in study.members if isinstance(member, MultiPathNetSpec)]
    others = [member for member in study.members if member not in nets]
    asked = [variant for member in (*nets, *others) for variant in variants(member, minutes=minutes)]
    fits = [(variant, seed) for variant in asked for seed in _seeds(study, variant)]
    found = dict[Variant, list[Measured]]((variant, []) for variant in asked)
    for i, (variant, seed) in enumerate(fits):
        told = partial(_tell, read, f"{variant.member}, {variant.name}, seed {seed}", i, len(fits))
        found[variant].append(_kept(study, read, ground, variant, seed, told))
    finding = _finding(study, ground, compared(list(found.items()), _lags(study)))
    for leftover in read.workdir.glob("*.json"):
        leftover.unlink()
    return finding


def _ground(study: Study, read: Reader) -> Ground:
    """The split with the most fit rows (the last of equals) that is not locked; its test rows are left out whole."""
    folds, labels = read_folds(read), read_labels(study, read)
    open_splits = folds.certificate.filter(pl.col("split") != LOCKED)
    split = open_splits.sort("fit_rows", "split").row(-1, named=True)["split"]
    role = roles(folds, split, labels)
    rows = labels.select(ROW).with_columns(role=role).filter(pl.col("role").is_in(["fit", "tune"]))
    return Ground(split, rows, labels.join(rows, on=list(ROW), how="semi", maintain_order="left"))


def _seeds(study: Study, variant: Variant) -> list[int]:
    """Seeds that a variant is fitted with; another family is fitted as the study fits it."""
    if variant.reason:
        return []
    count = SEEDS if isinstance(variant.spec, MultiPathNetSpec) else 1
    return [study.training.seed + i for i in range(count)]


def _tell(read: Reader, what: str, i: int, n: int, text: str, done: float) -> None:
    read.progress(f"{what}: {text}", (i + done) / n)


def _kept(study: Study, read: Reader, ground: Ground, variant: Variant, seed: int, told: Progress) -> Measured:
    """What was measured, kept until the whole table is made: a killed run goes on at the training where it stopped."""
    identity = hash_json([variant.spec, seed, ground.split, read.versions("folds")])
    path = read.workdir / f"{identity}.json"
    if path.exists():
        told("measured before", 1.0)
        held = json.loads(path.read_bytes())
        return Measured(**held | {name: tuple(held[name]) for name in ("sessions", "rank_ic")})
    found = _measure(study, read, ground, variant, seed, told)
    replace_if_changed(path, canonical_json(asdict(found)).encode())
    return found


def _measure(study: Study, read: Reader, ground: Ground, variant: Variant, seed: int, told: Progress) -> Measured:
    alpha, objective = study.policy.alpha.removesuffix("_pred"), decisions(study).head_objective(study, read)
    assert objective is not None
    fitted = fit_member(
        variant.spec,
        study.training.model_copy(update={"seed": seed}),
        study.labels.heads,
        prepared_inputs(study, read),
        ground.labels,
        ground.rows,
        workdir=read.workdir,
        objective=objective,
        progress=told,
    )
    tune = fitted.scores.filter(pl.col("role") == "tune")
    ic = rank_ic(tune, ground.labels, score=f"{alpha}_head", truth=alpha).drop_nulls("rank_ic").sort("session")
    epoch = fitted.notes.get("epoch")
    return Measured(
        sessions=tuple(day.isoformat() for day in ic["session"]),
        rank_ic=tuple(ic["rank_ic"]),
        parameters=_parameters(fitted) if isinstance(variant.spec, MultiPathNetSpec) else None,
        tune_loss=None if epoch is None else fitted.curves.row(epoch, named=True)["tune_loss"],
        objective=_finite(objective(tune)),
        epoch=epoch,
    )


def _parameters(fitted: FittedMember) -> int:
    """Trained numbers in the graph that is served; none where no head had anything to learn."""
    if FILE not in fitted.files:
        return 0
    weights = onnx.load_from_string(fitted.files[FILE]).graph.initializer
    return sum(math.prod(weight.dims) for weight in weights if weight.name.startswith(TRAINED))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _finding(study: Study, ground: Ground, table: pl.DataFrame) -> Finding:
    blocks = worth_of_blocks(table)
    score, status = verdict(blocks)
    names = pl.when(pl.col("paths") == "").then("member").otherwise(pl.format("{}, {}", "member", "variant"))
    shown = table.filter(pl.col("reason") == "").with_columns(name=names)
    beside = shown.drop_nulls("difference")
    error = f"whiskers: {ERRORS:g} standard errors"
    return Finding(
        score,
        status,
        _text(study, ground, table),
        {"ablation": table, "blocks": blocks},
        {
            "rank IC on tune": partial(_bars, shown, "rank_ic", f"mean rank IC on the tune rows; {error}"),
            "difference to all": partial(_bars, beside, "difference", f"mean rank IC minus that of all; {error}"),
        },
    )


def _bars(table: pl.DataFrame, column: str, axis: str) -> bytes:
    errors = ERRORS * table[f"{column}_se"]
    return bars_figure(table["name"].to_list(), table[column].to_list(), errors.to_list(), axis)


def _text(study: Study, ground: Ground, table: pl.DataFrame) -> str:
    rows = {role: ground.rows.filter(pl.col("role") == role) for role in ("fit", "tune")}
    fit, tune = (f"{len(part):,} rows of {part['session'].n_unique()} sessions" for part in rows.values())
    head, judged = study.policy.alpha.removesuffix("_pred"), table["difference_se"].count()
    return (
        f"Every variant was fitted anew on the fit rows of split {ground.split} ({fit}) with the study's own training "
        f"({SEEDS} seeds a net, averaged), and measured on its tune rows ({tune}) by the rank IC of the raw {head} "
        "head. No row that the split tests was read. The tune rows also chose each net's epoch, in the same way for "
        "every variant: each figure is a little too good, the comparison of nets is fair. Other splits test these "
        "sessions, so whoever changes the study by this table has used them up a little, and no ledger counts that. "
        "Differences are paired session by session. Their standard errors allow for dependence over "
        f"{_lags(study)} sessions and for the nets' seeds, not for what another split would have given. Of the "
        f"{judged} differences that have one, about one in fifteen passes {ERRORS:g} standard errors by chance alone. "
        "The score is the share of the judged blocks whose absence costs that much."
    )


def _lags(study: Study) -> int:
    """Twice the sessions of a label: once because labels overlap, once because scores and markets persist."""
    assert isinstance(study.labels, LabelSpec)
    return 2 * study.labels.exit_session


def _has_net(study: Study) -> bool:
    return any(isinstance(member, MultiPathNetSpec) for member in study.members)


ABLATION = Diagnostic(
    name="ablation",
    title="Ablation of the multi-path net",
    asks="Does each block of the net (minutes A, daily B, towers C, FiLM) earn its place?",
    needs="a member of family multi_path",
    applies_to=_has_net,
    run=run_ablation,
    reads=("folds",),
    parts=("members", "training", "labels", "policy.top_k", "policy.alpha", "execution"),
    modules=(*MODELS.modules, "pipeline.diagnostics.ablation"),
)
