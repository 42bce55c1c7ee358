"""Folds: the pin that all later research reads through, and the certified splits."""

import dagster as dg

from assets.builders import described, every_partition_of
from assets.keys import stage_key
from assets.partitions import Partitions
from assets.stage_runner import run_stage
from pipeline.stages.research import FOLDS
from pipeline.study import Study
from resources.environments import Environment


def build_folds(study: Study, partitions: Partitions) -> dg.AssetsDefinition:
    deps = [*(every_partition_of(stage_key(study, name)) for name in FOLDS.reads)]

    @dg.asset(**described(FOLDS, study, partitions, deps, {"numba"}))
    def folds(
        context: dg.AssetExecutionContext, environment: dg.ResourceParam[Environment]
    ) -> dg.MaterializeResult:
        return run_stage(context, environment, FOLDS, study)

    return folds
