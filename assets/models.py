"""Models: one asset per study, split x member, resumable at that granularity."""

import dagster as dg

from assets.builders import described
from assets.keys import stage_key
from assets.partitions import Partitions
from assets.stage_runner import run_stage
from pipeline.stages.research import MODELS
from pipeline.study import Study
from resources.environments import Environment


def build_models(study: Study, partitions: Partitions) -> dg.AssetsDefinition:
    deps = [stage_key(study, "folds")]

    @dg.asset(**described(MODELS, study, partitions, deps, {"lightgbm", "torch", "onnx"}))
    def models(
        context: dg.AssetExecutionContext, environment: dg.ResourceParam[Environment]
    ) -> dg.MaterializeResult:
        return run_stage(context, environment, MODELS, study)

    return models
