"""The ensemble: calibrated frames of several members become one table of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from math import isfinite
from operator import add

import polars as pl

from pipeline.errors import BadInput
from pipeline.frames import require_columns, require_unique, row_key
from pipeline.labels.spec import HeadSpec


def average_members(
    frames: Sequence[pl.DataFrame], heads: Sequence[HeadSpec], alpha: str, weights: Sequence[float] = ()
) -> pl.DataFrame:
    """Mean over members: of within-session ranks for rank heads, of the values themselves for the others.

    A member's rank head has a free scale, so only its order may enter; hence whole sessions must be given.

    Parameters
    ----------
    frames : sequence of DataFrame
        `session`, `instrument`, `<head>_pred` of `Calibrators.apply`, the same rows from every member.
    heads : sequence of HeadSpec
    alpha : str
        The column that the policy ranks by; becomes `score`.
    weights : sequence of float
        One per frame, none negative; equal by default. Summed in float64 in the order of the frames.

    Returns
    -------
    DataFrame
        `session`, `instrument`, `<head>_pred` Float64 (rank heads in (0, 1)), `score`, in key order.

    Raises
    ------
    BadInput
        No frames, members with different rows, an `alpha` that is no served column, or weights that are not theirs.
    """
    columns = [f"{head.name}_pred" for head in heads]
    if not frames or alpha not in columns:
        raise BadInput("there are members, and alpha is served", (len(frames), alpha), f"one of {columns}")
    shares = _shares(weights or [1.0] * len(frames), len(frames))
    kinds = dict(zip(columns, (head.kind for head in heads), strict=True))
    served = [_comparable(frame, kinds) for frame in frames]
    keys = served[0].select(row_key(served[0]))
    for place, frame in enumerate(served[1:], start=1):
        if not frame.select(row_key(frame)).equals(keys):
            observed = f"member {place} differs from member 0"
            raise BadInput("members score the same rows", observed, "score it again")
    means = [_mean([frame[column] for frame in served], shares) for column in columns]
    return keys.hstack(means).with_columns(pl.col(alpha).alias("score"))


def _shares(weights: Sequence[float], frames: int) -> list[float]:
    """Ones where all weigh the same: then a mean is a sum over a count, whatever the common weight rounds to."""
    if len(weights) != frames or not all(isfinite(w) and w >= 0.0 for w in weights) or not any(weights):
        raise BadInput("weights are one per member, none negative, one positive", list(weights), "choose them on tune")
    return [1.0] * frames if len(set(weights)) == 1 else list(weights)


def _mean(values: Sequence[pl.Series], shares: Sequence[float]) -> pl.Series:
    """Over the sum of shares added up in the same order, so that rounding takes no probability above 1."""
    if len(values) == 1:
        return values[0]
    parts = [values[i] * share for i, share in enumerate(shares)]
    return (reduce(add, parts) / reduce(add, shares)).alias(values[0].name)


def _comparable(frame: pl.DataFrame, kinds: Mapping[str, str]) -> pl.DataFrame:
    """Key order, rank heads as (average rank - 1/2) / n within the session."""
    key = row_key(frame)
    require_columns(frame, (*key, *kinds), "calibrated scores")
    require_unique(frame, key, "calibrated scores")
    ranked = [
        (pl.col(column).rank("average").over("session") - 0.5) / pl.len().over("session")
        for column, kind in kinds.items()
        if kind == "rank"
    ]
    return frame.select(*key, *kinds).sort(key).with_columns(ranked)
