"""Fitting one member on one split: roles and labels in, files and out-of-sample raw scores out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.labels.spec import HeadSpec
from pipeline.models.examples import SCORED_ROLES, Examples, learnable_heads, roles_of, targets_of
from pipeline.models.family import Fitted, Objective, Progress, trainer
from pipeline.models.inputs import Prepared, fit_normaliser
from pipeline.models.metrics import Metrics, member_metrics
from pipeline.models.normaliser import Normaliser
from pipeline.models.scoring import MEMBER_FILE, NORMALISER_FILE, Card, Scorer, load_member
from pipeline.models.spec import MemberSpec, TrainingSpec


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
        `epoch`, `loss`, `objective`; empty for families without epochs.
    """

    files: dict[str, bytes]
    scores: pl.DataFrame
    metrics: dict[str, dict[str, Metrics]]
    curves: pl.DataFrame


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
        Of `inputs.prepare`; the same for every split and member.
    labels : DataFrame
        `session`, `instrument` and one column per head; null where there is no truth.
    roles : DataFrame
        `session`, `instrument`, `role`; a row without one is not read.
    workdir : Path
        Where an interrupted training may be resumed from.
    objective : callable, optional
        Tune scores -> what epoch selection maximises; the mean rank IC of the first head by default.

    Raises
    ------
    BadInput
        No fit rows, an unknown family, or labels that break their head's kind.
    """
    chosen = trainer(spec.family)
    role, targets = roles_of(prepared, roles), targets_of(prepared, labels, heads)
    normaliser = fit_normaliser(prepared, role == "fit")
    described = learnable_heads(targets[role == "fit"], heads)
    inputs = prepared.inputs(normaliser, None, spec.window, spec.sequence_features)
    examples = Examples(inputs, targets, described, role)
    fitted = Fitted({})
    if examples.learned.size:
        fitted = chosen.fit(spec, training, examples, workdir=workdir, objective=objective, progress=progress)
    card = Card(spec.name, spec.family, described, spec.window, spec.sequence_features, training.serving_batch)
    files = _with_card(fitted, card, normaliser)
    scores, metrics = _served(load_member(files), examples)
    return FittedMember(files, scores, metrics, fitted.curves)


def _with_card(fitted: Fitted, card: Card, normaliser: Normaliser) -> dict[str, bytes]:
    return {**fitted.files, MEMBER_FILE: card.to_json(), NORMALISER_FILE: normaliser.to_json()}


def _served(scorer: Scorer, examples: Examples) -> tuple[pl.DataFrame, dict[str, Any]]:
    index = examples.rows(*SCORED_ROLES)
    scored = scorer.score_inputs(examples.inputs.take(index))
    role = examples.role[index]
    values = scored.select(pl.selectors.ends_with("_head")).to_numpy()
    metrics = {
        name: member_metrics(examples, index[role == name], values[role == name])
        for name in SCORED_ROLES
        if (role == name).any()
    }
    named = pl.Series("role", role.astype(np.str_).tolist(), pl.String)
    return scored.insert_column(2, named), metrics
