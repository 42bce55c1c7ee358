"""Vendor tables: raw rows into the lake, and the manifest that stands between them and their readers."""

from dataclasses import asdict

import dagster as dg

from assets.keys import manifest_key, table_key
from assets.markdown import markdown_table
from assets.partitions import Partitions
from assets.stage_runner import told
from pipeline.stages.contract import sessions_of
from pipeline.study import Study
from pipeline.tables.spec import TableSpec
from resources.environments import Environment
from resources.ingestion import ingest
from resources.vendors import VENDORS


def build_vendor_table(study: Study, spec: TableSpec, partitions: Partitions) -> dg.AssetsDefinition:
    """One vendor table: monthly where rows belong to sessions, whole where the vendor ships a snapshot."""
    monthly = spec.layout == "session"
    vendor = VENDORS[study.market.vendor]
    upstream = [name for name in (vendor.calendar_table, vendor.listing) if monthly and name in study.table_names]

    @dg.asset(
        key=table_key(spec.vendor, spec.name),
        group_name=spec.vendor,
        kinds={"parquet"},
        partitions_def=partitions.of("month" if monthly else "whole", study),
        backfill_policy=dg.BackfillPolicy.single_run() if monthly else None,
        deps=[table_key(spec.vendor, name) for name in upstream],
        description=spec.summary,
    )
    def table(context: dg.AssetExecutionContext, environment: dg.ResourceParam[Environment]) -> dg.MaterializeResult:
        months = list(context.partition_keys) if monthly else []
        sessions = [day for month in months for day in sessions_of(environment.calendar(), month)]
        report = ingest(environment, study, spec, sessions, told(context.log.info, environment.watch))
        for note in report.notes:
            context.log.warning(f"{spec.name}: {note}")
        shown = {**asdict(report), "incomplete": [day.isoformat() for day in report.incomplete[:20]]}
        return dg.MaterializeResult(metadata={k: v for k, v in shown.items() if v not in ([], None)})

    return table


def build_manifest(study: Study, tables: list[TableSpec]) -> dg.AssetsDefinition:
    """The lake's manifest. Unpartitioned, because Dagster's own provenance loses partitions."""
    deps = [
        dg.AssetDep(
            table_key(spec.vendor, spec.name),
            partition_mapping=dg.AllPartitionMapping() if spec.layout == "session" else None,
        )
        for spec in tables
    ]

    @dg.asset(
        key=manifest_key(study.market.vendor),
        group_name=study.market.vendor,
        deps=deps,
        kinds={"json"},
        description="What the lake holds: rows, sessions and completeness of every table.",
    )
    def manifest(environment: dg.ResourceParam[Environment]) -> dg.MaterializeResult:
        content = environment.lake.manifest()
        rows = [
            (name, entry.rows, len(entry.sessions), entry.first_session, entry.last_session)
            for name, entry in sorted(content.tables.items())
        ]
        table = markdown_table(["table", "rows", "sessions", "first", "last"], rows)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(environment.lake.manifest_hash()[:16]),
            metadata={
                "commit": environment.lake.head(),
                "rows": sum(entry.rows for entry in content.tables.values()),
                "tables": dg.MetadataValue.md("\n".join(table)),
            },
        )

    return manifest
