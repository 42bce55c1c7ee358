"""What every stage's asset shares: key, group, partitions, code version and description."""

from __future__ import annotations

from typing import Any

import dagster as dg

from assets.keys import stage_key
from assets.partitions import SPLIT, Partitions
from pipeline.stages.contract import Stage
from pipeline.study import Study


def described(
    stage: Stage, study: Study, partitions: Partitions, deps: list[dg.AssetDep | dg.AssetKey], kinds: set[str]
) -> dict[str, Any]:
    """Keyword arguments of `dg.asset` for one stage of one study."""
    partitions_def = partitions.of(stage.partition, study)
    return {
        "key": stage_key(study, stage),
        "group_name": study.name,
        "partitions_def": partitions_def,
        "backfill_policy": dg.BackfillPolicy.single_run() if partitions_def else None,
        "code_version": stage.code_version(study),
        "description": stage.summary,
        "deps": deps,
        "kinds": kinds,
    }


def months_of(stage_key: dg.AssetKey, before: int = 0, after: int = 0) -> dg.AssetDep:
    """A monthly upstream whose neighbours are read too, where they exist."""
    mapping = dg.TimeWindowPartitionMapping(
        start_offset=-before, end_offset=after, allow_nonexistent_upstream_partitions=True
    )
    return dg.AssetDep(stage_key, partition_mapping=mapping)


def every_partition_of(stage_key: dg.AssetKey) -> dg.AssetDep:
    """All partitions of an upstream; the reader decides which exist."""
    return dg.AssetDep(stage_key, partition_mapping=dg.AllPartitionMapping())


def members_of_split(stage_key: dg.AssetKey) -> dg.AssetDep:
    """The members of the same split."""
    return dg.AssetDep(stage_key, partition_mapping=dg.MultiToSingleDimensionPartitionMapping(SPLIT))
