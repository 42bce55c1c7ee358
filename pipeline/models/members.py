"""Fitting one member on one split: roles and labels in, files and out-of-sample raw scores out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.errors import BadInput
from pipeline.frames import row_key
from pipeline.labels.spec import HeadSpec
from pipeline.models.examples import SCORED_ROLES, Examples, learnable_heads, roles_of, spans_of, targets_of
from pipeline.models.family import Fitted, Objective, Progress, trainer
from pipeline.models.heads.metrics import model_metrics
from pipeline.models.heads.populations import HeadRows, on_fit_rows
from pipeline.models.inputs import fit_normaliser, inputs_of
from pipeline.models.metrics import Metrics, member_metrics
from pipeline.models.normaliser import Normaliser
from pipeline.models.prepared import Prepared
from pipeline.models.scoring import MEMBER_FILE, NORMALISER_FILE, Card, Scorer, load_member
from pipeline.models.spec import MemberSpec, MultiPathNetSpec, TrainingSpec


@dataclass(frozen=True)
class FittedMember:
    """A member of one split.

    Parameters
    ----------
    files : dict
        Name -> bytes; everything `load_member` needs.
    scores : DataFrame
        Table `scores`: `session`, `instrument`, `role`, `<head>_head` of the tune and test rows.
    metrics : dict
        Role -> head -> metric -> value.
    curves : DataFrame
        `epoch`, `loss`, `tune_loss`, `objective`; empty for families without epochs.
    checkpoints : dict
        Name -> bytes of what every epoch would serve.
    notes : dict
        Plain facts about the training.
    """

    files: dict[str, bytes]
    scores: pl.DataFrame
    metrics: dict[str, dict[str, Metrics]]
    curves: pl.DataFrame
    checkpoints: dict[str, bytes] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


def fit_member(
    spec: MemberSpec,
    training: TrainingSpec,
    heads: Sequence[HeadSpec],
    prepared: Prepared,
    labels: pl.DataFrame,
    roles: pl.DataFrame,
    *,
    workdir: Path,
    objective: Objective | None = None,
    progress: Progress = lambda what, share: None,
) -> FittedMember:
    """Fit on `fit` rows, select on `tune` rows, score tune and test rows from the serving form.

    Parameters
    ----------
    prepared : Prepared
        Of `preparing`; the same for every split and member.
    labels : DataFrame
        `session`, `instrument` and one column per head; null where there is no truth. `label_start` and `label_end`,
        and columns of populations, where the member or a head reads them.
    roles : DataFrame
        `session`, `instrument`, `role`; a row without one is not read.
    workdir : Path
        Where an interrupted training may be resumed from.
    objective : callable, optional
        Tune scores -> what epoch selection maximises; the mean rank IC of the first head by default.

    Raises
    ------
    BadInput
        No fit rows, an unknown family, labels that break their head's kind, or a path without data on the fit rows.
    """
    chosen = trainer(spec.family)
    spec, lost = _with_paths_that_exist(spec, prepared)
    role = roles_of(prepared, roles)
    known = targets_of(prepared, labels, heads)
    targets, trained_on = on_fit_rows(known, role == "fit", prepared, labels, heads, training.row_cap)
    normaliser = fit_normaliser(prepared, role == "fit", spec.layout)
    described = learnable_heads(targets[role == "fit"], heads)
    inputs = inputs_of(prepared, normaliser, spec.layout)
    examples = Examples(inputs, targets, described, role, spans_of(prepared, labels))
    fitted = Fitted({})
    if examples.learned.size:
        fitted = chosen.fit(spec, training, examples, workdir=workdir, objective=objective, progress=progress)
    card = Card(spec.name, spec.family, described, spec.layout, training.serving_batch)
    files = _with_card(fitted, card, normaliser)
    scores, metrics = _served(load_member(files), examples)
    notes = fitted.notes | lost | {"heads": _head_notes(trained_on, fitted)}
    return FittedMember(files, scores, metrics, fitted.curves, fitted.checkpoints, notes)


def _head_notes(trained_on: dict[str, HeadRows], fitted: Fitted) -> dict[str, dict[str, Any]]:
    """Per head the rows that it trained on, and what its family says of it."""
    said = fitted.notes.get("heads", {})
    return {name: rows._asdict() | said.get(name, {}) for name, rows in trained_on.items()}


def _with_paths_that_exist(spec: MemberSpec, prepared: Prepared) -> tuple[MemberSpec, dict[str, str]]:
    """The member without Path A where the market has no minutes at all, and a note that says so."""
    if not isinstance(spec, MultiPathNetSpec) or spec.intraday is None or prepared.has_bars:
        return spec, {}
    if spec.daily is None and not spec.towers:
        raise BadInput(
            f"{spec.name} reads minute bars and nothing else",
            "the market has no minutes",
            "switch on its daily path or its towers",
        )
    return spec.model_copy(update={"intraday": None}), {"switched_off": "Path A: the market has no minute bars"}


def _with_card(fitted: Fitted, card: Card, normaliser: Normaliser) -> dict[str, bytes]:
    return {**fitted.files, MEMBER_FILE: card.to_json(), NORMALISER_FILE: normaliser.to_json()}


def _served(scorer: Scorer, examples: Examples) -> tuple[pl.DataFrame, dict[str, Any]]:
    index = examples.rows(*SCORED_ROLES)
    scored = scorer.score_inputs(examples.inputs.take(index))
    role = examples.role[index]
    values = scored.select(pl.selectors.ends_with("_head")).to_numpy()
    metrics = {
        name: member_metrics(examples, index[role == name], values[role == name])
        | model_metrics(examples, index[role == name], values[role == name])
        for name in SCORED_ROLES
        if (role == name).any()
    }
    named = pl.Series("role", role.astype(np.str_).tolist(), pl.String)
    return scored.insert_column(len(row_key(scored)), named), metrics
