"""What each member of the ensemble weighs, chosen on tune rows alone. Averaging with weights is `averaging`'s work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import polars as pl

from pipeline.calibration.spec import EnsembleSpec
from pipeline.errors import BadInput
from pipeline.fingerprints import canonical_json
from pipeline.frames import require_columns, row_key
from pipeline.models.metrics import session_rank_ic


@dataclass(frozen=True)
class MemberWeight:
    """One member's share.

    Parameters
    ----------
    weight : float
        At least 0.
    rank_ic : float or None
        Mean rank IC of the alpha's raw head on the tune rows; None where no session has one.
    sessions : int
        Tune sessions with a rank IC.
    """

    member: str
    weight: float
    rank_ic: float | None
    sessions: int


@dataclass(frozen=True)
class EnsembleWeights:
    """Weights of one split, in the ensemble's order; they sum to 1.

    Parameters
    ----------
    reason : str
        Which rule gave them.
    """

    members: tuple[MemberWeight, ...]
    reason: str

    @property
    def by_member(self) -> dict[str, float]:
        """Member -> weight, in the ensemble's order."""
        return {each.member: each.weight for each in self.members}

    def to_frame(self) -> pl.DataFrame:
        """`member`, `weight`, `rank_ic`, `sessions`, `reason`."""
        schema = {"member": pl.String, "weight": pl.Float64, "rank_ic": pl.Float64, "sessions": pl.Int64}
        rows = pl.DataFrame([asdict(each) for each in self.members], schema=schema)
        return rows.with_columns(reason=pl.lit(self.reason))

    def to_json(self) -> bytes:
        """Canonical JSON; float64 values survive it exactly."""
        return canonical_json(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> EnsembleWeights:
        raw = json.loads(data)
        return cls(tuple(MemberWeight(**each) for each in raw["members"]), raw["reason"])


def ensemble_weights(
    tune: Mapping[str, pl.DataFrame], labels: pl.DataFrame, alpha: str, spec: EnsembleSpec
) -> EnsembleWeights:
    """Equal weights, or each member's positive part of its mean tune rank IC over their sum.

    Parameters
    ----------
    tune : mapping
        Member -> tune rows of the table `scores`, in the ensemble's order; rows of another `role` are an error.
    labels : DataFrame
        `session`, `instrument` and the alpha's label column.
    alpha : str
        Head that ranks.
    spec : EnsembleSpec

    Raises
    ------
    BadInput
        No members, or rows that are not of the tune group.
    """
    if not tune:
        raise BadInput("an ensemble has members", "none", "name some of the study's in its ensemble")
    measured = {name: _rank_ic(scores, labels, alpha) for name, scores in tune.items()}
    useful = [max(0.0, ic or 0.0) for ic, _ in measured.values()]
    if spec.weights == "equal":
        shares, reason = [1.0] * len(tune), "equal, as the study says"
    elif not any(useful):
        shares, reason = [1.0] * len(tune), f"equal: no member's {alpha} head has a positive rank IC on tune"
    else:
        shares, reason = useful, f"proportional to the mean rank IC of the {alpha} head on tune, nothing below 0"
    total = sum(shares)
    weights = zip(measured.items(), shares, strict=True)
    return EnsembleWeights(tuple(MemberWeight(name, share / total, *found) for (name, found), share in weights), reason)


def _rank_ic(scores: pl.DataFrame, labels: pl.DataFrame, alpha: str) -> tuple[float | None, int]:
    """Mean over sessions of the Spearman correlation of a raw head with its own label, and their number."""
    head = f"{alpha}_head"
    key = row_key(scores)
    require_columns(scores, (*key, "role", head), "scores")
    require_columns(labels, (*key, alpha), "labels")
    if not scores["role"].cast(pl.String).is_in(["tune"]).all():
        observed = scores["role"].unique().sort().to_list()
        raise BadInput("an ensemble is weighed on tune rows only", observed, "filter role = tune")
    both = scores.select(*key, head).join(labels.select(*key, alpha), on=list(key)).drop_nulls(alpha).sort(key)
    session = both["session"].rank("dense").to_numpy().astype(np.int32)
    truth, score = (both[name].cast(pl.Float32).to_numpy() for name in (alpha, head))
    ic = session_rank_ic(truth, score, session)
    ic = ic[np.isfinite(ic)]
    return (float(ic.mean()), int(ic.size)) if ic.size else (None, 0)
