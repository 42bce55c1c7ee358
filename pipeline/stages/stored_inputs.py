"""Model inputs of all pinned sessions: prepared once, mapped by every split, member and process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from pipeline.features.compute import CHANNELS
from pipeline.features.plan import plan
from pipeline.fingerprints import hash_sources
from pipeline.models.prepared import Prepared, Reads, open_prepared
from pipeline.models.preparing import Part, prepare_folder
from pipeline.stages.contract import Reader
from pipeline.study import Study

STAGES = ("panel", "features")
CODE = ("pipeline.models.prepared", "pipeline.models.preparing", "pipeline.models.kernels", __name__)


def prepared_inputs(study: Study, read: Reader) -> Prepared:
    """The store of all pinned sessions; nothing in it depends on a split."""
    return read.once("prepared", lambda: _open(study, read))


def member_reads(study: Study, *, minutes: bool) -> Reads:
    """What the study's members want beside the features; no bars where the market has none."""
    layouts = [member.layout for member in study.members]
    wanted = minutes and any(layout.intraday_sessions for layout in layouts)
    categories = dict.fromkeys(name for layout in layouts for name in layout.categories)
    return Reads(CHANNELS if wanted else (), study.market.bars_per_session if wanted else 0, tuple(categories))


def standing_columns(study: Study, categories: tuple[str, ...]) -> list[str]:
    """Panel columns that say who is eligible and what kind of name it is."""
    features = plan(study.features).schema
    return [*study.row_key, "eligible", *(name for name in categories if name not in features)]


def _open(study: Study, read: Reader) -> Prepared:
    months = list(read.versions("features"))
    wanted = any(member.layout.intraday_sessions for member in study.members)
    minutes = wanted and any(len(_paths(read, month, ["session"])) for month in months)
    reads = member_reads(study, minutes=minutes)
    scopes = plan(study.features).scopes
    columns = standing_columns(study, reads.categories)

    def parts() -> Iterator[Part]:
        for i, month in enumerate(months):
            if len(months) > 1:
                read.progress(f"inputs of {month}", i / len(months))
            features = read.table("features", "features", partitions=[month])
            panel = read.table("panel", "panel", partitions=[month], columns=columns)
            standing = panel.join(features, on=list(study.row_key), how="semi", maintain_order="left")
            yield Part(features, standing, _paths(read, month) if minutes else None)

    def build(folder: Path) -> None:
        prepare_folder(folder, parts(), scopes, reads)

    folder = read.folder("inputs", STAGES, [reads, scopes, hash_sources(CODE)], build)
    return open_prepared(folder, folder.name)


def _paths(read: Reader, month: str, columns: list[str] | None = None) -> pl.DataFrame:
    return read.table("features", "paths", partitions=[month], columns=columns)
