"""Labels: one asset per study, by month; the next month holds the exits."""

import dagster as dg

from assets.builders import described, months_of
from assets.keys import stage_key
from assets.partitions import Partitions
from assets.stage_runner import run_stage
from pipeline.stages.market import LABELS
from pipeline.study import Study
from resources.environments import Environment


def build_labels(study: Study, partitions: Partitions) -> dg.AssetsDefinition:
    deps = [months_of(stage_key(study, "panel"), after=1)]

    @dg.asset(**described(LABELS, study, partitions, deps, {"numba"}))
    def labels(
        context: dg.AssetExecutionContext, environment: dg.ResourceParam[Environment]
    ) -> dg.MaterializeResult:
        return run_stage(context, environment, LABELS, study)

    return labels
