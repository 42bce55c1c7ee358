"""The as-of panel: one asset per study, by month."""

import dagster as dg

from assets.builders import described
from assets.keys import manifest_key
from assets.partitions import Partitions
from assets.stage_runner import run_stage
from pipeline.stages.market import PANEL
from pipeline.study import Study
from resources.environments import Environment


def build_panel(study: Study, partitions: Partitions) -> dg.AssetsDefinition:
    deps = [manifest_key(study.market.vendor)]

    @dg.asset(**described(PANEL, study, partitions, deps, {"polars"}))
    def panel(
        context: dg.AssetExecutionContext, environment: dg.ResourceParam[Environment]
    ) -> dg.MaterializeResult:
        return run_stage(context, environment, PANEL, study)

    return panel
