"""Positions: the policy of every split."""

import dagster as dg

from assets.builders import described, members_of_split
from assets.keys import stage_key
from assets.partitions import Partitions
from assets.stage_runner import run_stage
from pipeline.stages.research import POSITIONS
from pipeline.study import Study
from resources.environments import Environment


def build_positions(study: Study, partitions: Partitions) -> dg.AssetsDefinition:
    deps = [stage_key(study, "calibrators"), members_of_split(stage_key(study, "models"))]

    @dg.asset(**described(POSITIONS, study, partitions, deps, {"numba"}))
    def positions(
        context: dg.AssetExecutionContext, environment: dg.ResourceParam[Environment]
    ) -> dg.MaterializeResult:
        return run_stage(context, environment, POSITIONS, study)

    return positions
