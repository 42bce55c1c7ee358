"""Asset keys and groups: `[vendor, table]` and `[study, stage]`; one group per vendor and per study, one for a
study's diagnostics, and one for the proofs."""

from __future__ import annotations

import dagster as dg

from pipeline.stages.contract import Stage
from pipeline.study import Study

MANIFEST = "manifest"
PROOF_GROUP = "proof"


def table_key(vendor: str, table: str) -> dg.AssetKey:
    return dg.AssetKey([vendor, table])


def manifest_key(vendor: str) -> dg.AssetKey:
    """The unpartitioned asset between monthly vendor tables and everything that reads them."""
    return dg.AssetKey([vendor, MANIFEST])


def stage_key(study: Study, stage: Stage | str) -> dg.AssetKey:
    return dg.AssetKey([study.name, stage if isinstance(stage, str) else stage.name])


def proof_key(name: str) -> dg.AssetKey:
    return dg.AssetKey([PROOF_GROUP, name])


def diagnostics_group(study: Study) -> str:
    return f"{study.name}_diagnostics"
