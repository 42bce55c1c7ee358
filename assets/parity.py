"""Parity: the recorded session rebuilt by the research path, bit for bit."""

import dagster as dg

from assets.builders import described
from assets.keys import stage_key
from assets.partitions import Partitions
from assets.stage_runner import run_stage
from pipeline.stages.serving import PARITY
from pipeline.study import Study
from resources.environments import Environment


def build_parity(study: Study, partitions: Partitions) -> dg.AssetsDefinition:
    deps = [stage_key(study, "inference")]

    @dg.asset(**described(PARITY, study, partitions, deps, {"polars"}))
    def parity(
        context: dg.AssetExecutionContext, environment: dg.ResourceParam[Environment]
    ) -> dg.MaterializeResult:
        return run_stage(context, environment, PARITY, study)

    return parity
