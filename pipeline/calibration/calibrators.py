"""One calibrator per probability head, chosen and fitted on a split's tune rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.calibration.methods import METHODS, Floats, Parameters
from pipeline.calibration.spec import CalibrationSpec
from pipeline.errors import BadInput
from pipeline.fingerprints import canonical_json
from pipeline.frames import require_columns, require_unique, row_key
from pipeline.labels.spec import HeadSpec


@dataclass(frozen=True)
class HeadCalibrator:
    """How one head's raw score becomes its `<head>_pred`.

    Parameters
    ----------
    method : str
        Name in `METHODS`.
    parameters : dict
        float64 values; identity has none.
    reason : str
        Why this method.
    rarer_class : int
        Tune rows of the rarer class.
    brier : dict
        Cross-fitted Brier score of every method that was tried.
    """

    name: str
    kind: str
    method: str
    parameters: Parameters
    reason: str
    rarer_class: int = 0
    brier: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Calibrators:
    """The calibrators of one member on one split."""

    heads: tuple[HeadCalibrator, ...]

    def apply(self, scores: pl.DataFrame) -> pl.DataFrame:
        """`scores` with every `<head>_head` replaced by `<head>_pred` Float64; other heads pass unchanged."""
        raw = [f"{head.name}_head" for head in self.heads]
        require_columns(scores, (*row_key(scores), *raw), "scores")
        served = [
            pl.Series(
                f"{head.name}_pred",
                METHODS[head.method].apply(scores[column].cast(pl.Float64).to_numpy(), head.parameters),
                pl.Float64,
            )
            for head, column in zip(self.heads, raw, strict=True)
        ]
        return scores.drop(raw).hstack(served)

    def to_json(self) -> bytes:
        """Canonical JSON; float64 values survive it exactly."""
        return canonical_json([asdict(head) for head in self.heads]).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Calibrators:
        heads = tuple(HeadCalibrator(**head) for head in json.loads(data))
        _require_known([head.method for head in heads])
        return cls(heads)


def fit_calibrators(
    scores: pl.DataFrame, labels: pl.DataFrame, heads: Sequence[HeadSpec], spec: CalibrationSpec
) -> Calibrators:
    """Choose a method per probability head by cross-fitted Brier score, then fit it on all tune rows.

    Parameters
    ----------
    scores : DataFrame
        Tune rows of the table `scores`; rows with another `role` are an error.
    labels : DataFrame
        `session`, `instrument` and the heads' label columns.
    heads : sequence of HeadSpec
    spec : CalibrationSpec

    Raises
    ------
    BadInput
        Rows that are not of the tune group, or an unknown method.
    """
    _require_known(spec.methods)
    names = [head.name for head in heads]
    key = row_key(scores)
    require_columns(scores, (*key, *(f"{name}_head" for name in names)), "scores")
    require_columns(labels, (*key, *(head.label for head in heads)), "labels")
    require_unique(scores, key, "scores")
    if "role" in scores.columns and not scores["role"].cast(pl.String).is_in(["tune"]).all():
        observed = scores["role"].unique().sort().to_list()
        raise BadInput("calibrators see tune rows only", observed, "filter role = tune")
    truth = labels.select(*key, *(pl.col(head.label).alias(head.name) for head in heads))
    rows = scores.sort(key).join(truth, on=key, how="left", maintain_order="left")
    return Calibrators(tuple(_fit_head(rows, head, spec) for head in heads))


def _fit_head(rows: pl.DataFrame, head: HeadSpec, spec: CalibrationSpec) -> HeadCalibrator:
    if head.kind != "probability":
        return HeadCalibrator(head.name, head.kind, "identity", {}, f"a {head.kind} head is not calibrated")
    known = rows.filter(pl.col(head.name).is_not_nan().fill_null(False))
    p = known[f"{head.name}_head"].cast(pl.Float64).to_numpy()
    y = known[head.name].cast(pl.Float64).to_numpy()
    rare = int(min(y.sum(), len(y) - y.sum())) if len(y) else 0
    if rare < spec.min_positives:
        reason = f"{rare} rows of the rarer class in tune, {spec.min_positives} needed"
        return HeadCalibrator(head.name, head.kind, "identity", {}, reason, rare)
    blocks = _blocks(known["session"], spec.cross_fit_blocks)
    brier = {name: _cross_fitted_brier(name, p, y, blocks) for name in spec.methods}
    best = min(spec.methods, key=lambda name: brier[name])  # ties go to the earlier, simpler method
    reason = f"lowest cross-fitted Brier score over {len(np.unique(blocks))} session blocks"
    return HeadCalibrator(head.name, head.kind, best, METHODS[best].fit(p, y), reason, rare, brier)


def _blocks(session: pl.Series, count: int) -> NDArray[np.int64]:
    """Contiguous blocks of whole sessions, by equal numbers of sessions: rows of a day share its shock."""
    place = session.rank("dense").to_numpy().astype(np.int64) - 1
    return place * count // (int(place.max()) + 1)


def _cross_fitted_brier(name: str, p: Floats, y: Floats, blocks: NDArray[np.int64]) -> float:
    """Mean squared error of each block's rows under a map fitted on the other blocks."""
    method = METHODS[name]
    served = np.empty_like(p)
    for block in np.unique(blocks):
        held = blocks == block
        others = ~held if (~held).any() else held  # a tune group of one session has no others
        served[held] = method.apply(p[held], method.fit(p[others], y[others]))
    return float(np.mean((served - y) ** 2))


def _require_known(methods: Sequence[str]) -> None:
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise BadInput("calibration methods are registered", unknown or "none", f"some of {sorted(METHODS)}")
