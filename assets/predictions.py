"""Predictions: calibrated out-of-sample scores on every path."""

import dagster as dg

from assets.builders import described, every_partition_of
from assets.keys import stage_key
from assets.partitions import Partitions
from assets.stage_runner import run_stage
from pipeline.stages.research import PREDICTIONS
from pipeline.study import Study
from resources.environments import Environment


def build_predictions(study: Study, partitions: Partitions) -> dg.AssetsDefinition:
    deps = [*(every_partition_of(stage_key(study, name)) for name in ("models", "calibrators"))]

    @dg.asset(**described(PREDICTIONS, study, partitions, deps, {"polars"}))
    def predictions(
        context: dg.AssetExecutionContext, environment: dg.ResourceParam[Environment]
    ) -> dg.MaterializeResult:
        return run_stage(context, environment, PREDICTIONS, study)

    return predictions
