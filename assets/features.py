"""Features: one asset per study, by month; four earlier months hold the 61 sessions of look-back."""

import dagster as dg

from assets.builders import described, months_of
from assets.keys import stage_key
from assets.partitions import Partitions
from assets.stage_runner import run_stage
from pipeline.stages.market import FEATURES
from pipeline.study import Study
from resources.environments import Environment


def build_features(study: Study, partitions: Partitions) -> dg.AssetsDefinition:
    deps = [months_of(stage_key(study, "panel"), before=4)]

    @dg.asset(**described(FEATURES, study, partitions, deps, {"numba"}))
    def features(
        context: dg.AssetExecutionContext, environment: dg.ResourceParam[Environment]
    ) -> dg.MaterializeResult:
        return run_stage(context, environment, FEATURES, study)

    return features
