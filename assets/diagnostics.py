"""Diagnostics: one unpartitioned asset each, in a group of their own beside the study's; nothing depends on them."""

import dagster as dg

from assets.builders import described
from assets.keys import diagnostics_group, stage_key
from assets.partitions import Partitions
from assets.stage_runner import run_stage
from pipeline.stages.diagnostics import Diagnostic
from pipeline.stages.registry import DIAGNOSTICS
from pipeline.study import Study
from resources.environments import Environment


def build_diagnostics(study: Study, partitions: Partitions) -> list[dg.AssetsDefinition]:
    """Every registered diagnostic that applies to the study."""
    return [build_diagnostic(each, study, partitions) for each in DIAGNOSTICS if each.applies_to(study)]


def build_diagnostic(diagnostic: Diagnostic, study: Study, partitions: Partitions) -> dg.AssetsDefinition:
    stage = diagnostic.stage
    deps = [stage_key(study, name) for name in stage.reads]
    arguments = described(stage, study, partitions, deps, {"diagnostic"})

    @dg.asset(**arguments | {"group_name": diagnostics_group(study)})
    def diagnose(
        context: dg.AssetExecutionContext, environment: dg.ResourceParam[Environment]
    ) -> dg.MaterializeResult:
        return run_stage(context, environment, stage, study)

    return diagnose
