"""Asset checks. They display stored verdicts and counts; what decides is the champion stage, which re-reads them."""

import dagster as dg
import polars as pl

from assets.keys import manifest_key, stage_key
from pipeline.gates.spec import GateSpec
from pipeline.study import Study
from pipeline.tables.spec import TableSpec
from resources.environments import Environment
from resources.freshness import incomplete_sessions

GREEN = ("pass", "not_applicable")


def build_checks(study: Study, tables: list[TableSpec]) -> list[dg.AssetChecksDefinition]:
    """Completeness of the lake, an error per gate, and the parity of the newest session."""
    gates = [build_gate_check(study, gate) for gate in study.promotion.gates]
    return [build_completeness_check(study, tables), build_parity_check(study), *gates]


def build_completeness_check(study: Study, tables: list[TableSpec]) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=manifest_key(study.market.vendor),
        name="complete",
        description="Every required table holds every published session.",
    )
    def complete(environment: dg.ResourceParam[Environment]) -> dg.AssetCheckResult:
        gaps = incomplete_sessions(environment, study)
        shown = {name: [day.isoformat() for day in days[-5:]] for name, days in gaps.items() if days}
        return dg.AssetCheckResult(
            passed=not shown,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"incomplete": dg.MetadataValue.json(shown)},
        )

    return complete


def build_gate_check(study: Study, gate: GateSpec) -> dg.AssetChecksDefinition:
    stage = "scorecard" if gate.applies_to == "evaluation" else "candidate"

    @dg.asset_check(
        asset=stage_key(study, stage),
        name=gate.name,
        blocking=True,
        description=f"Shows the stored verdict of {gate.name}.",
    )
    def verdict(environment: dg.ResourceParam[Environment]) -> dg.AssetCheckResult:
        rows = environment.artifacts.table(study.name, stage, "verdicts").filter(pl.col("gate") == gate.name)
        unjudged = {"status": "missing", "rule": gate.name, "detail": f"not judged; materialise {stage} again"}
        row = rows.row(0, named=True) if len(rows) else unjudged
        return dg.AssetCheckResult(
            passed=row["status"] in GREEN,
            description=f"{row['rule']}: {row['detail']}",
            metadata={k: v for k, v in row.items() if v is not None},
        )

    return verdict


def build_parity_check(study: Study) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=stage_key(study, "parity"),
        name="exact",
        description="Live inputs, scores and orders equal the research path's, bit for bit.",
    )
    def exact(environment: dg.ResourceParam[Environment]) -> dg.AssetCheckResult:
        reports = environment.artifacts.table(study.name, "parity", "report")
        broken = reports.filter(~pl.col("exact"))
        return dg.AssetCheckResult(
            passed=broken.is_empty() and not reports.is_empty(),
            metadata={
                "sessions": reports["session"].n_unique(),
                "different": len(broken),
                "first": dg.MetadataValue.json(
                    broken.head(1).with_columns(pl.col("session").cast(pl.String)).to_dicts()
                ),
            },
        )

    return exact
