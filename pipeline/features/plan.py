"""From family names to an ordered schema, the columns to load and the warm-up to load them for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.errors import BadInput
from pipeline.features import (
    alpha158,
    context,
    cross_section,
    flow,
    intraday,
    limits,
    regime,
    returns,
)
from pipeline.features.minutes.plan import FAMILIES as MINUTE_FAMILIES
from pipeline.features.minutes.plan import MinutePlan
from pipeline.features.spec import Family, Feature
from pipeline.fingerprints import hash_json

_MODULES = (alpha158, returns, limits, flow, context, cross_section, regime, intraday)
FAMILIES: dict[str, Family] = {module.FAMILY.name: module.FAMILY for module in _MODULES}


@dataclass(frozen=True)
class Plan:
    """The features of a study: what to compute, in which order, from how much history."""

    families: tuple[Family, ...]

    def __post_init__(self) -> None:
        doubled = sorted({name for name in self.schema if self.schema.count(name) > 1})
        if doubled or not self.families:
            raise BadInput(
                "a plan needs families whose feature names differ",
                doubled or "no family",
                f"name each of {sorted(FAMILIES)} at most once",
            )

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        return tuple(feature for family in self.families for feature in family.features)

    @property
    def schema(self) -> tuple[str, ...]:
        """Column names in stored order."""
        return tuple(feature.name for feature in self.features)

    @property
    def schema_hash(self) -> str:
        """Hash of the ordered names: a reordered schema is another schema."""
        return hash_json(self.schema)

    @property
    def lookback(self) -> int:
        """Sessions of history that one decision session needs, itself included."""
        return max(feature.lookback for feature in self.features)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns read, sorted; `bars` stands for the `intraday` table."""
        return tuple(sorted({column for feature in self.features for column in feature.inputs}))

    @property
    def scopes(self) -> dict[str, str]:
        """Feature name -> scope, as the model inputs want it."""
        return {feature.name: feature.scope for feature in self.features}


def plan(families: Sequence[str]) -> Plan | MinutePlan:
    """The plan of a study's feature families, in the study's order; a `MinutePlan` of minute families.

    Raises
    ------
    BadInput
        A family that is not registered, none at all, or families of sessions beside families of minutes.
    """
    unknown = [name for name in families if name not in FAMILIES and name not in MINUTE_FAMILIES]
    if unknown:
        known = sorted({*FAMILIES, *MINUTE_FAMILIES})
        raise BadInput("a study names registered feature families", unknown, f"known: {known}")
    by_minute = [name for name in families if name in MINUTE_FAMILIES]
    if by_minute and len(by_minute) < len(families):
        raise BadInput("a study decides by the session or by the minute", list(families),
                       f"of minutes are {by_minute}; name families of one kind")
    if by_minute:
        return MinutePlan(tuple(MINUTE_FAMILIES[name] for name in families))
    return Plan(tuple(FAMILIES[name] for name in families))
