"""What the input builder must know beyond a row's own session: the feature schema and the market normaliser."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import BadInput, SchemaError
from pipeline.fingerprints import canonical_json
from pipeline.frames import require_columns

KEY = ("session", "instrument")
SCOPES = ("instrument", "cross_section", "market")
MARKET_CLIP = np.float32(5.0)


@dataclass(frozen=True)
class Normaliser:
    """What the input builder must remember of the fit rows; frozen in the bundle.

    Parameters
    ----------
    schema : tuple of str
        Feature columns in order.
    scopes : tuple of str
        Scope of each feature; `market` ones are standardised, all others ranked within the session.
    mean, scale : tuple of float
        float32 values of the market features, in schema order; a scale of 0 (constant on the fit rows)
        switches the feature off.
    """

    schema: tuple[str, ...]
    scopes: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]

    @property
    def market(self) -> NDArray[np.int64]:
        """Positions of the market features."""
        return np.flatnonzero(np.array(self.scopes) == "market")

    def to_json(self) -> bytes:
        """Canonical JSON; float32 values survive it exactly."""
        return canonical_json(
            {"schema": self.schema, "scopes": self.scopes, "mean": self.mean, "scale": self.scale}
        ).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Normaliser:
        raw = json.loads(data)
        return cls(*(tuple(raw[field]) for field in ("schema", "scopes", "mean", "scale")))


def standardise(values: NDArray[np.float32], normaliser: Normaliser) -> NDArray[np.float32]:
    """Market features in place as (v - mean) / scale in float32, clipped; missing and switched-off ones 0."""
    for place, column in enumerate(normaliser.market):
        mean, scale = np.float32(normaliser.mean[place]), np.float32(normaliser.scale[place])
        if scale == 0.0:
            values[:, column] = 0.0
            continue
        scaled = np.clip((values[:, column] - mean) / scale, -MARKET_CLIP, MARKET_CLIP)
        values[:, column] = np.nan_to_num(scaled, nan=0.0)
    return values


def feature_schema(features: pl.DataFrame, scopes: Mapping[str, str]) -> tuple[str, ...]:
    """Feature columns in order; an error naming those that are mistyped, without a scope, or infinite."""
    require_columns(features, KEY, "features")
    schema = tuple(c for c in features.columns if c not in KEY)
    mistyped = {c: str(features.schema[c]) for c in schema if features.schema[c] != pl.Float32}
    if mistyped:
        raise SchemaError("features are Float32", mistyped, "rebuild the features stage")
    unscoped = {c: scopes.get(c) for c in schema if scopes.get(c) not in SCOPES}
    if unscoped or not schema:
        rule = f"there are features, each with a scope of {SCOPES}"
        raise BadInput(rule, unscoped or "no features", "take the scopes from the plan")
    infinite = features.select(pl.col(schema).is_infinite().any()).row(0, named=True)
    named = [c for c, found in infinite.items() if found]
    if named:
        rule = "features are finite or missing"
        raise BadInput(rule, f"infinite values in {named}", "guard the feature's division")
    return schema


def require_schema(observed: tuple[str, ...], expected: tuple[str, ...]) -> None:
    """An error naming the columns that are missing and those that are too many; order is the caller's."""
    missing = [c for c in expected if c not in observed]
    unexpected = [c for c in observed if c not in expected]
    if missing or unexpected:
        raise SchemaError(
            "features must be the columns that the normaliser was fitted on",
            f"missing {missing}, unexpected {unexpected}",
            "score with the schema of the bundle, or refit",
        )
