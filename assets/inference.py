"""Inference: scores and selections of one session, and their append-only records. Fetches nothing."""

import dagster as dg

from assets.builders import described, every_partition_of
from assets.keys import stage_key
from assets.partitions import Partitions
from assets.stage_runner import run_stage
from pipeline.stages.serving import INFERENCE
from pipeline.study import Study
from resources.environments import Environment


def build_inference(study: Study, partitions: Partitions) -> dg.AssetsDefinition:
    deps = [*(every_partition_of(stage_key(study, name)) for name in ("panel", "features"))]

    @dg.asset(**described(INFERENCE, study, partitions, deps, {"onnx"}))
    def inference(
        context: dg.AssetExecutionContext, environment: dg.ResourceParam[Environment]
    ) -> dg.MaterializeResult:
        return run_stage(context, environment, INFERENCE, study)

    return inference
