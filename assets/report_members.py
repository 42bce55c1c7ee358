"""The report's parts on members: what each is worth alone, how the nets learned, what weighs what; calibration."""

from __future__ import annotations

from typing import Any

import polars as pl

from assets.report_stored import Stored
from pipeline.positions.manager import PROBABILITIES
from pipeline.positions.manager_spec import ManagerSpec
from pipeline.reports import figures
from pipeline.reports.html import Section
from pipeline.study import Study
from resources.environments import Environment
from resources.versions import Version

WORDS = "Rank IC of the alpha's head with the executable return, over the splits."
ON_EPOCHS = (
    " Epochs of a net are chosen on tune rows: by the execution-aware objective or by the loss, whichever the study "
    "says; both choices are shown."
)
ON_HEADS = (
    "Heads are measured on test rows, mean over splits, beside the constant of the rows that they were fitted on: a "
    "ratio under 1 is better than the constant."
)
MEASURES = (
    "auc", "brier_ratio", "log_loss_ratio", "mae_ratio", "hit_rate_top", "hit_rate", "positives", "rows",
)  # fmt: skip
TRAINING_NOTES = (
    "paths", "switched_off", "device", "precision", "selected_by", "epoch", "epoch_by_objective", "epoch_by_loss",
)  # fmt: skip
HEADS_SHOWN = 8  # more heads than these drown a picture and a table


def members_section(stored: Stored) -> Section | None:
    """None before any member was fitted."""
    environment, study, artifacts = stored.environment, stored.study, stored.environment.artifacts
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
    worth = pl.concat([_worth(study, member.name, versions) for member in study.members])
    heads = _heads(study, versions)
    tables = {"by member": worth} if len(worth) else {}
    folded = dict[str, pl.DataFrame]()
    if heads is not None:
        tables["heads that decide, on test rows"] = heads.filter(pl.col("head").is_in(deciding_heads(study)))
        folded["every head, on test rows"] = heads
    weights = _weights(environment)
    if weights is not None:
        tables["weights in the ensemble"] = weights
    if epochs:
        tables["training of the nets"] = pl.DataFrame(epochs, infer_schema_length=None)
    return Section("Members", WORDS + ON_EPOCHS if heads is None else ON_HEADS, pictures, tables, folded)


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


def _heads(study: Study, versions: dict[str, Version]) -> pl.DataFrame | None:
    """Per member and head, measures on test rows and what it was fitted on, mean over splits; None without notes."""
    rows = []
    for part, version in versions.items():
        fitted = version.metadata["training"].get("heads")
        if fitted is None:
            continue
        member, measured = part.split("|")[1], version.metadata["metrics"]["test"]
        for head in (head.name for head in study.labels.heads):
            told = {name: measured[head].get(name) for name in MEASURES}
            notes = {name: fitted[head].get(name) for name in ("fit_rows", "fit_row_ratio", "fit_filter")}
            rows.append({"member": member, "head": head} | notes | told)
    if not rows:
        return None
    table = pl.DataFrame(rows, infer_schema_length=None)
    return table.group_by("member", "head", maintain_order=True).agg(
        pl.len().alias("splits"), pl.col("fit_filter").first(), pl.col("fit_rows", "fit_row_ratio", *MEASURES).mean()
    )


def deciding_heads(study: Study) -> tuple[str, ...]:
    """Heads that the policy reads; all of them where it does not say."""
    return PROBABILITIES if isinstance(study.policy, ManagerSpec) else tuple(head.name for head in study.labels.heads)


def calibration_section(stored: Stored) -> Section | None:
    """None before any head was calibrated."""
    table = stored.table("calibrators", "reliability")
    if table is None:
        return None
    scores = (
        table.group_by("member", "head", "stage")
        .agg(pl.col("brier").mean(), pl.col("ece").mean(), rows=pl.col("rows").sum())
        .sort("member", "head", "stage", descending=[False, False, True])
    )
    pooled = (
        table.group_by("member", "head", "stage", "bin")
        .agg(
            mean_pred=(pl.col("mean_pred") * pl.col("rows")).sum() / pl.col("rows").sum(),
            rate=(pl.col("rate") * pl.col("rows")).sum() / pl.col("rows").sum(),
        )
        .sort("member", "head", "bin")
    )
    words = "Reliability on the tune groups, all splits pooled by bin."
    if table["head"].n_unique() <= HEADS_SHOWN:
        picture = {"observed rate against prediction": figures.reliability_figure(pooled)}
        return Section("Calibration", words, picture, {"Brier score and calibration error": scores})
    mine = pl.col("head").is_in(deciding_heads(stored.study)) & pl.col("member").is_in(stored.study.ensemble_names)
    picture = {
        "observed rate against prediction, after calibration: heads that decide, members that serve":
        figures.reliability_figure(pooled.filter(mine))
    }  # fmt: skip
    beside = scores.pivot(on="stage", index=["member", "head"], values=["brier", "ece"]).sort("member", "head")
    shown = beside.filter(mine)
    return Section("Calibration", words, picture, {"heads that decide": shown}, {"every head": beside})
