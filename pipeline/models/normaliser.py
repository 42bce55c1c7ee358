"""What the input builder must remember of a split's fit rows: schema, normalisers, vocabularies. Frozen in bundles."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.errors import BadInput, SchemaError
from pipeline.fingerprints import canonical_json
from pipeline.frames import require_columns, row_key

KEY = ("session", "instrument")
RANKED = ("instrument", "cross_section")  # comparable within a session
SCOPES = (*RANKED, "market", "series")  # one value a session; one instrument's own series by the minute
CLIP = np.float32(5.0)
UNKNOWN = 0  # the code of a category's value that no fit row had, and of a missing one


@dataclass(frozen=True)
class Normaliser:
    """Everything that inputs take from the fit rows.

    Parameters
    ----------
    schema : tuple of str
        Feature columns in order.
    scopes : tuple of str
        Scope of each feature: `RANKED` ones are ranked within the session, the others standardised.
    mean, scale : tuple of float
        float32 values of the standardised features, in schema order; a scale of 0 (constant on the fit rows)
        switches the feature off.
    channels : tuple of str
        Of a minute bar, in order; empty where the member reads none.
    channel_mean, channel_scale : tuple of float
        The same for them.
    bars : int
        Bars a session.
    vocabulary : mapping
        Category -> its values on the fit rows, sorted; value i has code i + 1, anything else code 0.
    """

    schema: tuple[str, ...]
    scopes: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    channels: tuple[str, ...] = ()
    channel_mean: tuple[float, ...] = ()
    channel_scale: tuple[float, ...] = ()
    bars: int = 0
    vocabulary: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def standardised(self) -> NDArray[np.int64]:
        """Positions of the features that are not ranked."""
        return np.flatnonzero(~np.isin(self.scopes, RANKED))

    @cached_property
    def feature_terms(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and scale of every feature for the gathering kernel; a scale of NaN takes a rank as it is."""
        mean, scale = np.zeros(len(self.schema), np.float32), np.full(len(self.schema), np.nan, np.float32)
        mean[self.standardised], scale[self.standardised] = self.mean, self.scale
        return mean, scale

    @cached_property
    def channel_terms(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean and scale of every channel."""
        return np.array(self.channel_mean, np.float32), np.array(self.channel_scale, np.float32)

    def codes_of(self, category: str, levels: Sequence[str]) -> NDArray[np.int64]:
        """Codes of a store's levels, and 0 for its missing value, which is its last place (index -1)."""
        place = {value: code for code, value in enumerate(self.vocabulary[category], start=1)}
        return np.array([*(place.get(level, UNKNOWN) for level in levels), UNKNOWN], np.int64)

    def to_json(self) -> bytes:
        """Canonical JSON; float32 values survive it exactly."""
        return canonical_json(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Normaliser:
        raw: dict[str, Any] = json.loads(data)
        lists = {name: tuple(value) for name, value in raw.items() if isinstance(value, list)}
        return cls(**raw | lists | {"vocabulary": {name: tuple(v) for name, v in raw["vocabulary"].items()}})


def feature_schema(features: pl.DataFrame, scopes: Mapping[str, str]) -> tuple[str, ...]:
    """Feature columns in order; an error naming those that are mistyped, without a scope, or infinite."""
    key = row_key(features)
    require_columns(features, key, "features")
    schema = tuple(c for c in features.columns if c not in key)
    types = features.schema  # made anew by every access: 1.5 ms at 70 features
    mistyped = {c: str(types[c]) for c in schema if types[c] != pl.Float32}
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
