"""Jobs: the selections that people, the schedule and the command line run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from assets.keys import PROOF_GROUP, manifest_key, stage_key, table_key
from pipeline.study import Study
from pipeline.tables.spec import TableSpec

if TYPE_CHECKING:  # Dagster does not export the type of what `define_asset_job` returns
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

MARKET_STAGES = ("panel", "features", "labels")
RESEARCH_STAGES = (
    "folds",
    "models",
    "calibrators",
    "positions",
    "predictions",
    "backtest",
    "scorecard",
    "candidate",
    "champion",
)


def build_jobs(study: Study, tables: list[TableSpec]) -> list[UnresolvedAssetJobDefinition]:
    """Vendor tables and their manifest, the market stages of a month, one session's inference and parity, proofs."""
    snapshots = [table_key(t.vendor, t.name) for t in tables if t.layout == "snapshot"]
    monthly = [table_key(t.vendor, t.name) for t in tables if t.layout == "session"]
    select = dg.AssetSelection.assets
    whole = dg.define_asset_job(
        f"{study.market.vendor}_snapshots",
        select(*snapshots),
        description="Tables that the vendor ships whole.",
    )
    return [
        *([whole] if snapshots else []),
        dg.define_asset_job(
            f"{study.market.vendor}_tables",
            select(*snapshots, *monthly, manifest_key(study.market.vendor)),
            description="Every vendor table, those that grow by session for one month or a range; then the manifest.",
        ),
        dg.define_asset_job(
            f"{study.market.vendor}_manifest",
            select(manifest_key(study.market.vendor)),
            description="Publish what the lake now holds.",
        ),
        dg.define_asset_job(
            f"{study.name}_market",
            select(*(stage_key(study, s) for s in MARKET_STAGES)),
            description="Panel, features and labels, for one month or a range.",
        ),
        dg.define_asset_job(
            f"{study.name}_inference",
            select(stage_key(study, "inference")),
            description="Scores, selections and records of one session.",
        ),
        dg.define_asset_job(
            f"{study.name}_parity",
            select(stage_key(study, "parity")),
            description="One recorded session against the research path.",
        ),
        dg.define_asset_job(
            PROOF_GROUP,
            dg.AssetSelection.groups(PROOF_GROUP),
            description="Every proof at the size that is published, some three hours on two cores.",
            executor_def=dg.in_process_executor,  # one after the other: some fill both cores and 6 GB by themselves
        ),
    ]
