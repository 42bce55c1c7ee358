"""What a family fits on: inputs joined with targets and roles. Built for every family in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import BadInput
from pipeline.frames import require_columns, require_unique, row_key
from pipeline.labels.spec import HeadSpec
from pipeline.models.inputs import Inputs
from pipeline.models.prepared import Prepared

SCORED_ROLES = ("tune", "test")
PROBABILITY_EDGE = 1e-6  # raw probabilities stay inside (1e-6, 1 - 1e-6): logits exist, in float32 too


@dataclass(frozen=True)
class Head:
    """A head and, where there is nothing to learn, the constant that stands in for a model.

    Parameters
    ----------
    name, kind : str
        As in `HeadSpec`.
    baseline : float
        Mean of the fit rows' labels (the prevalence, for a probability): the constant predictor.
    reason : str
        Why the head *is* that constant; empty when it is learned.
    model, softmax : str
        As in `HeadSpec`.
    """

    name: str
    kind: str
    baseline: float
    reason: str = ""
    model: str = ""
    softmax: str = ""

    @property
    def learned(self) -> bool:
        return not self.reason


class Spans(NamedTuple):
    """What each row's labels looked at: [start, end) as datetime64 [n], NaT where a row has no label."""

    start: NDArray[np.datetime64]
    end: NDArray[np.datetime64]


@dataclass(frozen=True)
class Examples:
    """Inputs of n rows with their truth.

    Parameters
    ----------
    inputs : Inputs
    targets : float32 [n, H]
        NaN where a head has no truth, and on fit rows that it does not train on.
    heads : tuple of Head
    role : object [n]
        `fit`, `tune`, `test` or anything else, which is not read.
    spans : Spans or None
        None where the labels carry none.
    """

    inputs: Inputs
    targets: NDArray[np.float32]
    heads: tuple[Head, ...]
    role: NDArray[np.object_]
    spans: Spans | None = None

    def rows(self, *roles: str) -> NDArray[np.int64]:
        """Positions of the rows with one of `roles`, in key order."""
        return np.flatnonzero(np.isin(self.role, roles))

    @property
    def learned(self) -> NDArray[np.int64]:
        """Positions of the heads that a family has to fit."""
        return np.array([i for i, head in enumerate(self.heads) if head.learned], np.int64)


def roles_of(prepared: Prepared, roles: pl.DataFrame) -> NDArray[np.object_]:
    """Role of each prepared row; `unused` where `roles` is silent. No fit row is an error."""
    key = row_key(prepared.rows)
    require_columns(roles, (*key, "role"), "roles")
    require_unique(roles, key, "roles")
    named = roles.select(*key, pl.col("role").cast(pl.String))
    joined = prepared.rows.join(named, on=key, how="left", maintain_order="left")
    role = joined["role"].fill_null("unused").to_numpy()
    if not (role == "fit").any():
        raise BadInput("a member needs eligible fit rows", 0, "widen the split's training sessions")
    return np.asarray(role, object)


def targets_of(prepared: Prepared, labels: pl.DataFrame, heads: Sequence[HeadSpec]) -> NDArray[np.float32]:
    """float32 [n, H] of the heads' label columns, NaN where there is no truth."""
    names = [head.name for head in heads]
    if not names or len(set(names)) != len(names):
        raise BadInput("heads are named, once each", names, "correct the study's labels")
    joined = label_columns(prepared, labels, [head.label for head in heads])
    targets = np.empty((len(joined), len(names)), np.float32)
    for i, head in enumerate(heads):
        targets[:, i] = joined[head.label].cast(pl.Float32).to_numpy()
    if np.isinf(targets).any():
        named = [name for i, name in enumerate(names) if np.isinf(targets[:, i]).any()]
        raise BadInput("labels are finite or missing", f"infinite values in {named}", "correct the label")
    _require_outcomes(targets, heads)
    return targets


def label_columns(prepared: Prepared, labels: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """Some label columns of each prepared row, null where it has no label."""
    key, wanted = row_key(prepared.rows), list(dict.fromkeys(columns))
    require_columns(labels, (*key, *wanted), "labels")
    require_unique(labels, key, "labels")
    return prepared.rows.join(labels.select(*key, *wanted), on=key, how="left", maintain_order="left").select(wanted)


def spans_of(prepared: Prepared, labels: pl.DataFrame) -> Spans | None:
    """`label_start` and `label_end` of each prepared row; None where the labels carry neither."""
    if not {"label_start", "label_end"} <= set(labels.columns):
        return None
    found = label_columns(prepared, labels, ["label_start", "label_end"])
    return Spans(found["label_start"].to_numpy(), found["label_end"].to_numpy())


def learnable_heads(targets: NDArray[np.float32], heads: Sequence[HeadSpec]) -> tuple[Head, ...]:
    """Each head's constant predictor, and whether the fit rows hold anything to learn beyond it.

    Parameters
    ----------
    targets : float32 [n_fit, H]
    """
    return tuple(_head(targets[:, i], head) for i, head in enumerate(heads))


def _head(values: NDArray[np.float32], head: HeadSpec) -> Head:
    known = values[~np.isnan(values)].astype(np.float64)
    if not known.size:
        nothing = 0.5 if head.kind == "probability" else 0.0
        return Head(head.name, head.kind, nothing, "no fit row has this label", head.model, head.softmax)
    baseline = float(known.mean())
    reason = ""
    if known.min() == known.max():
        what = "class" if head.kind == "probability" else "value"
        reason = f"one {what} only on the fit rows: {known[0]:g}"
    if head.kind == "probability":
        baseline = float(np.clip(baseline, PROBABILITY_EDGE, 1.0 - PROBABILITY_EDGE))
    return Head(head.name, head.kind, baseline, reason, head.model, head.softmax)


def _require_outcomes(targets: NDArray[np.float32], heads: Sequence[HeadSpec]) -> None:
    for i, head in enumerate(heads):
        if head.kind != "probability":
            continue
        odd = targets[~np.isin(targets[:, i], (0.0, 1.0)) & ~np.isnan(targets[:, i]), i]
        if odd.size:
            rule = f"the labels of probability head {head.name} are 0 or 1"
            raise BadInput(rule, odd[:3].tolist(), "correct the label, or the head's kind")
