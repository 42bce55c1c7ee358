"""The plan of a study that decides by the minute: ordered schema, what it reads, how many sessions of warm-up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pipeline.errors import BadInput
from pipeline.features.minutes import schema
from pipeline.features.minutes.history import BAR_COLUMNS, SERIES
from pipeline.features.minutes.spec import MinuteFamily, MinuteFeature, Source

FAMILIES: dict[str, MinuteFamily] = {family.name: family for family in schema.FAMILIES}
MINUTES_A_SESSION = 1440
READS: dict[Source, tuple[str, ...]] = {
    "bars": tuple(name for name in BAR_COLUMNS if name not in SERIES),
    "spread": ("spread_bps",),
    "books": ("books",),
    "funding": ("funding",),
}
"""Panel columns behind each source; `books` and `funding` stand for the tables of that name."""


@dataclass(frozen=True)
class MinutePlan:
    """The minute features of a study, in the one order of the schema whatever order the families are named in.

    Raises
    ------
    BadInput
        No family, or one that is named twice.
    """

    families: tuple[MinuteFamily, ...]

    def __post_init__(self) -> None:
        names = [family.name for family in self.families]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled or not names:
            raise BadInput(
                "a minute plan needs families, each named once",
                doubled or "no family",
                f"name each of {sorted(FAMILIES)} at most once",
            )

    @cached_property
    def features(self) -> tuple[MinuteFeature, ...]:
        """Look-backs of the features themselves are minutes."""
        return schema.select([feature.name for family in self.families for feature in family.features])

    @property
    def schema(self) -> tuple[str, ...]:
        """Column names in stored order."""
        return tuple(feature.name for feature in self.features)

    @property
    def schema_hash(self) -> str:
        """The order hash of the names."""
        return schema.order_hash(self.schema)

    @property
    def lookback(self) -> int:
        """Sessions that one decision session needs, itself included: its first minute looks back into those before."""
        return -(-schema.lookback(self.schema) // MINUTES_A_SESSION) + 1

    @property
    def inputs(self) -> tuple[str, ...]:
        """What is read, sorted; see `READS`."""
        sources = {source for feature in self.features for source in feature.sources}
        return tuple(sorted(name for source in sources for name in READS[source]))

    @property
    def scopes(self) -> dict[str, str]:
        """Feature name -> `series`."""
        return {feature.name: feature.scope for feature in self.features}
