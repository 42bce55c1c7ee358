"""Scorecard: the verdict of every gate as data. The checks in the UI only show it."""

import dagster as dg

from assets.builders import described
from assets.keys import stage_key
from assets.partitions import Partitions
from assets.stage_runner import run_stage
from pipeline.stages.evaluation import SCORECARD
from pipeline.study import Study
from resources.environments import Environment


def build_scorecard(study: Study, partitions: Partitions) -> dg.AssetsDefinition:
    deps = [*(stage_key(study, name) for name in ("folds", "predictions", "backtest"))]

    @dg.asset(**described(SCORECARD, study, partitions, deps, {"polars"}))
    def scorecard(
        context: dg.AssetExecutionContext, environment: dg.ResourceParam[Environment]
    ) -> dg.MaterializeResult:
        return run_stage(context, environment, SCORECARD, study)

    return scorecard
