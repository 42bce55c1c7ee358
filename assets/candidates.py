"""Candidate: the bundle refitted for production, with verdicts of its own."""

import dagster as dg

from assets.builders import described
from assets.keys import stage_key
from assets.partitions import Partitions
from assets.stage_runner import run_stage
from pipeline.stages.candidates import CANDIDATE
from pipeline.study import Study
from resources.environments import Environment


def build_candidate(study: Study, partitions: Partitions) -> dg.AssetsDefinition:
    deps = [stage_key(study, "scorecard")]

    @dg.asset(**described(CANDIDATE, study, partitions, deps, {"onnx"}))
    def candidate(
        context: dg.AssetExecutionContext, environment: dg.ResourceParam[Environment]
    ) -> dg.MaterializeResult:
        return run_stage(context, environment, CANDIDATE, study)

    return candidate
