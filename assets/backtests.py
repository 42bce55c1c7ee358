"""Backtest: what would have happened to the positions, beside their benchmarks."""

import dagster as dg

from assets.builders import described, every_partition_of
from assets.keys import stage_key
from assets.partitions import Partitions
from assets.stage_runner import run_stage
from pipeline.stages.evaluation import BACKTEST
from pipeline.study import Study
from resources.environments import Environment


def build_backtest(study: Study, partitions: Partitions) -> dg.AssetsDefinition:
    deps = [stage_key(study, "predictions"), every_partition_of(stage_key(study, "positions"))]

    @dg.asset(**described(BACKTEST, study, partitions, deps, {"numba"}))
    def backtest(
        context: dg.AssetExecutionContext, environment: dg.ResourceParam[Environment]
    ) -> dg.MaterializeResult:
        return run_stage(context, environment, BACKTEST, study)

    return backtest
