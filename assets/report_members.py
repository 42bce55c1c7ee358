"""The report's part on members: what each is worth alone, how the nets learned, and what weighs what."""

from __future__ import annotations

from typing import Any

import polars as pl

from pipeline.reports import figures
from pipeline.reports.html import Section
from pipeline.study import Study
from resources.environments import Environment
from resources.versions import Version

WORDS = (
    "Rank IC of the alpha's head with the executable return, over the splits. Epochs of a net are chosen on tune rows: "
    "by the execution-aware objective or by the loss, whichever the study says; both choices are shown."
)
TRAINING_NOTES = (
    "paths", "switched_off", "device", "precision", "selected_by", "epoch", "epoch_by_objective", "epoch_by_loss",
)  # fmt: skip


def members_section(environment: Environment) -> Section | None:
    """None before any member was fitted."""
    study, artifacts = environment.study, environment.artifacts
    versions = artifacts.current(study.name, "models")
    if not versions:
        return None
    pictures, epochs = dict[str, bytes](), []
    for member in study.members:
        mine = {part: version for part, version in versions.items() if part.endswith(f"|{member.name}")}
        curves = [
            artifacts.table(study.name, "models", "curves", partitions=[part]).with_columns(split=pl.lit(part))
            for part in mine
        ]
        learned = pl.concat(curves) if curves else pl.DataFrame()
        if len(learned):
            pictures[f"{member.name}: loss and objective by epoch, mean over splits"] = figures.curves_figure(learned)
            epochs += [_epochs(part, version) for part, version in mine.items()]
    tables = {"by member": pl.concat([_worth(study, member.name, versions) for member in study.members])}
    weights = _weights(environment)
    if weights is not None:
        tables["weights in the ensemble"] = weights
    if epochs:
        tables["training of the nets"] = pl.DataFrame(epochs, infer_schema_length=None)
    return Section("Members", WORDS, pictures=pictures, tables=tables)


def _worth(study: Study, member: str, versions: dict[str, Version]) -> pl.DataFrame:
    """One row per role: mean rank IC over splits, and how much splits differ."""
    head = study.policy.alpha.removesuffix("_pred")
    rows: list[dict[str, Any]] = [
        {"member": member, "rows": role, "rank_ic": measured[head]["rank_ic"]}
        for part, version in versions.items()
        if part.endswith(f"|{member}")
        for role, measured in version.metadata["metrics"].items()
        if measured[head].get("rank_ic") is not None
    ]
    schema = {"member": pl.String, "rows": pl.String, "rank_ic": pl.Float64}
    value = pl.col("rank_ic")
    return (
        pl.DataFrame(rows, schema=schema)
        .group_by("member", "rows")
        .agg(splits=pl.len(), mean_rank_ic=value.mean(), between_splits=value.std(), worst=value.min())
        .sort("member", "rows", descending=[False, True])
    )


def _epochs(partition: str, version: Version) -> dict[str, Any]:
    notes = dict(version.metadata["training"])
    notes["paths"] = " ".join(notes.get("paths", ()))
    return {"split": partition, **{name: notes.get(name) for name in TRAINING_NOTES}}


def _weights(environment: Environment) -> pl.DataFrame | None:
    """Mean weight over splits, and the rule that gave it."""
    study = environment.study
    if not environment.artifacts.current(study.name, "calibrators"):
        return None
    table = environment.artifacts.table(study.name, "calibrators", "weights")
    return (
        table.group_by("member", maintain_order=True)
        .agg(pl.col("weight").mean(), pl.col("rank_ic").mean().alias("tune_rank_ic"), pl.col("reason").first())
        .with_columns(champion_holds=pl.lit(study.ensemble.splits))
    )
