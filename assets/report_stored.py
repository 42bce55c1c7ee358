"""What the report reads: stored tables of one study, or None where a stage has not run or stores none of that name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from resources.environments import Environment


class Stored:
    """Stage results of an environment's study."""

    def __init__(self, environment: Environment) -> None:
        self.environment, self.study = environment, environment.study

    def table(self, stage: str, name: str) -> pl.DataFrame | None:
        """All partitions of a table; None where no partition holds it."""
        held = self.environment.artifacts.current(self.study.name, stage)
        parts = [partition for partition, version in held.items() if name in version.tables]
        return self.environment.artifacts.table(self.study.name, stage, name, partitions=parts) if parts else None

    def by_partition(self, stage: str, name: str) -> dict[str, pl.DataFrame]:
        """Partition -> its part of a table, in order."""
        held = sorted(self.environment.artifacts.current(self.study.name, stage))
        artifacts = self.environment.artifacts
        return {part: artifacts.table(self.study.name, stage, name, partitions=[part]) for part in held}

    def hashes(self, stage: str) -> dict[str, str]:
        """Partition -> content hash."""
        return {p: v.hash for p, v in self.environment.artifacts.current(self.study.name, stage).items()}

    def metadata(self, stage: str) -> dict[str, Mapping[str, Any]]:
        """Partition -> what the stage said of it."""
        return {p: v.metadata for p, v in self.environment.artifacts.current(self.study.name, stage).items()}
