"""Calibrators: one asset per study, by split."""

import dagster as dg

from assets.builders import described, members_of_split
from assets.keys import stage_key
from assets.partitions import Partitions
from assets.stage_runner import run_stage
from pipeline.stages.research import CALIBRATORS
from pipeline.study import Study
from resources.environments import Environment


def build_calibrators(study: Study, partitions: Partitions) -> dg.AssetsDefinition:
    deps = [stage_key(study, "folds"), members_of_split(stage_key(study, "models"))]

    @dg.asset(**described(CALIBRATORS, study, partitions, deps, {"polars"}))
    def calibrators(
        context: dg.AssetExecutionContext, environment: dg.ResourceParam[Environment]
    ) -> dg.MaterializeResult:
        return run_stage(context, environment, CALIBRATORS, study)

    return calibrators
