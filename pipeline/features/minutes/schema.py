"""The one list of minute features: 54 of the market, 16 of order flow, their order and its hash."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict

import polars as pl

from pipeline.errors import BadInput
from pipeline.features.minutes import flow, order_flow, price, state
from pipeline.features.minutes.spec import SOURCES, MinuteFamily, MinuteFeature, Source
from pipeline.fingerprints import hash_json

FAMILIES: tuple[MinuteFamily, ...] = (
    price.FAMILY, flow.VOLUME, flow.SPREAD, state.BOOK, state.FUNDING, state.CLOCK, order_flow.FAMILY
)  # fmt: skip
SCHEMA: tuple[MinuteFeature, ...] = tuple(feature for family in FAMILIES for feature in family.features)
ORDER: tuple[str, ...] = tuple(feature.name for feature in SCHEMA)
ORDER_FLOW: tuple[str, ...] = tuple(feature.name for feature in order_flow.FAMILY.features)
MARKET: tuple[str, ...] = ORDER[: -len(ORDER_FLOW)]


def select(names: Sequence[str] | None = None) -> tuple[MinuteFeature, ...]:
    """The named features in schema order, all of them by default; an unknown or doubled name is an error."""
    if names is None:
        return SCHEMA
    wrong = sorted({name for name in names if name not in ORDER or list(names).count(name) > 1})
    if wrong:
        raise BadInput("a minute feature is in the schema and named once", wrong, "see schema_table()")
    return tuple(feature for feature in SCHEMA if feature.name in set(names))


def order_hash(names: Sequence[str] | None = None) -> str:
    """sha256 of the names in schema order, as a compact JSON array of strings."""
    return hash_json([feature.name for feature in select(names)])


def lookback(names: Sequence[str] | None = None) -> int:
    """Minutes, the decision's own included, that the named features need: the warm-up of a live feed."""
    return max(feature.lookback for feature in select(names))


def available_features(sources: Collection[Source], names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Those of the named features that `sources` can make, in schema order."""
    return tuple(feature.name for feature in select(names) if not lost_sources(feature, sources))


def lost_features(sources: Collection[Source], names: Sequence[str] | None = None) -> dict[str, tuple[Source, ...]]:
    """The named features that `sources` cannot make -> the sources each of them lacks."""
    return {f.name: lost for f in select(names) if (lost := lost_sources(f, sources))}


def lost_sources(feature: MinuteFeature, sources: Collection[Source]) -> tuple[Source, ...]:
    """What a feature reads beyond `sources`; an unknown source is an error."""
    unknown = sorted(set(sources) - set(SOURCES))
    if unknown:
        raise BadInput(f"sources are {SOURCES}", unknown, "name what the study reads")
    return tuple(source for source in feature.sources if source not in sources)


def schema_table(names: Sequence[str] | None = None) -> pl.DataFrame:
    """One row per feature: position and every declared field."""
    rows = [{"position": i, **asdict(feature)} for i, feature in enumerate(select(names))]
    return pl.DataFrame(rows).with_columns(pl.col("sources").list.join(", "))
