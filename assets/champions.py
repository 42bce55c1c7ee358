"""Champion: moves the pointer, or refuses with reasons."""

import dagster as dg

from assets.builders import described
from assets.keys import stage_key
from assets.partitions import Partitions
from assets.stage_runner import run_stage
from pipeline.stages.serving import CHAMPION
from pipeline.study import Study
from resources.environments import Environment


def build_champion(study: Study, partitions: Partitions) -> dg.AssetsDefinition:
    deps = [stage_key(study, "scorecard"), stage_key(study, "candidate")]

    @dg.asset(**described(CHAMPION, study, partitions, deps, {"json"}))
    def champion(
        context: dg.AssetExecutionContext, environment: dg.ResourceParam[Environment]
    ) -> dg.MaterializeResult:
        return run_stage(context, environment, CHAMPION, study)

    return champion
