"""The settings of a new environment: a simulated market, a folder of someone's own tables, or the vendor itself.

Who makes and fills the home is `commands.py`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from assets.arguments import day as day_of
from assets.arguments import hour, one_of
from pipeline.asof.minutes import BOOKS, FUNDING, KLINES
from pipeline.errors import BadInput
from pipeline.features.minutes.plan import MinutePlan
from pipeline.features.minutes.spec import Source as FeatureSource
from pipeline.features.plan import plan
from pipeline.studies import STUDIES
from pipeline.study import Study
from resources.environments import Settings, open_every_day
from resources.vendors import VENDORS, Vendor

DEFAULT_STUDY = next(iter(STUDIES))
READ_FROM: dict[FeatureSource, str] = {"bars": KLINES, "spread": BOOKS, "books": BOOKS, "funding": FUNDING}


@dataclass(frozen=True)
class Sizes:
    """What a demo takes where nothing is asked.

    Parameters
    ----------
    live_sessions : int
        Sessions inferred one by one.
    history : int
        Sessions that must come before them.
    imported_sessions : int or None
        Newest sessions of a folder; None takes all.
    tiny_market, tiny : mapping
        Fields of the tiny market and of the study that make the tiny profile small enough.
    """

    live_sessions: int
    history: int
    imported_sessions: int | None
    tiny_market: Mapping[str, Any]
    tiny: Mapping[str, Any]


SIZES = {
    "session": Sizes(
        live_sessions=10, history=100, imported_sessions=None, tiny_market={},
        tiny={
            "folds.n_groups": 4, "execution.random_books": 40, "members.2.epochs": 1, "members.1.rounds": 30,
            "promotion.bootstrap_samples": 300,
        },
    ),
    # Six days are too few for four groups and two sealed stretches; half a year fits two cores and six minutes.
    "minute": Sizes(
        live_sessions=3, history=7, imported_sessions=183, tiny_market={"days": 16},
        tiny={"members.1.rounds": 20, "training.row_cap": 5_000, "promotion.bootstrap_samples": 300},
    ),
}  # fmt: skip


def study_of(arguments: argparse.Namespace) -> Study:
    """The registered study that was asked for, else the default one."""
    return STUDIES[one_of("a study is one of those registered", arguments.study or DEFAULT_STUDY, list(STUDIES))]


def sizes_of(study: Study) -> Sizes:
    """The sizes of a demo, by how often the study decides."""
    return SIZES[study.market.decides]


def vendor_of(study: Study) -> Vendor:
    """The vendor of a study's market."""
    return VENDORS[study.market.vendor]


def demo_home(arguments: argparse.Namespace) -> str:
    """Folder of a demo: by study, and by profile or import."""
    what = "imported" if arguments.data else arguments.profile
    if arguments.study in ("", DEFAULT_STUDY):
        return str(what)
    return str(arguments.study) if what == "demo" else f"{arguments.study}_{what}"


def import_home(arguments: argparse.Namespace) -> str:
    """Folder of an imported environment."""
    return "imported" if arguments.study in ("", DEFAULT_STUDY) else f"{arguments.study}_imported"


def live_home(arguments: argparse.Namespace) -> str:
    """Folder of an environment that asks the vendor: the vendor's name."""
    study = STUDIES.get(arguments.study or DEFAULT_STUDY)
    return study.market.vendor if study else "unknown"


def simulated_settings(arguments: argparse.Namespace) -> Settings:
    """Of a demo on a simulated market."""
    study, tiny = study_of(arguments), arguments.profile == "tiny"
    sizes, vendor = sizes_of(study), vendor_of(study)
    asked = {"signal": 0.0 if arguments.null else None, "seed": arguments.seed}
    chosen = {name: value for name, value in asked.items() if value is not None}
    market = {**(sizes.tiny_market if tiny else {}), **chosen}
    sessions = vendor.market_sessions(vendor.market(arguments.profile, market))
    return Settings(
        source="simulated",
        study=study.name,
        profile=arguments.profile,
        market=market,
        first_session=sessions[0],
        last_session=sessions[-1],
        workers=1 if tiny else _workers(),
        overrides=sizes.tiny if tiny else {},
    )


def imported_settings(arguments: argparse.Namespace, folder: Path) -> Settings:
    """Of a folder of vendor tables: the newest sessions, and what can be made without the tables that it lacks."""
    study = study_of(arguments)
    vendor, wanted = vendor_of(study), arguments.sessions or sizes_of(study).imported_sessions
    source = vendor.imported(folder, study.universe)
    first, last = source.span(vendor.bars)
    if wanted is not None and not open_every_day(study.market):
        raise BadInput("only a market without holidays is cut to its newest sessions", f"--sessions {wanted}",
                       "leave it out, and cut the folder's tables instead")
    if wanted is not None:
        first = max(first, last - timedelta(days=wanted - 1))
    return Settings(
        source="imported",
        study=study.name,
        folder=str(folder.resolve()),
        first_session=first,
        last_session=last,
        workers=_workers(),
        overrides=without_absent(study, source.tables()),
    )


def live_settings(arguments: argparse.Namespace) -> Settings:
    """Of an environment that asks the vendor, and a folder of one's own for what the vendor does not sell."""
    study = study_of(arguments)
    vendor, books = vendor_of(study), arguments.books
    if books and not (vendor.brought and Path(books).is_dir()):
        raise BadInput("--books names a folder of book snapshots, for a study that reads them", books,
                       f"tables of one's own that {study.name} reads: {list(vendor.brought) or 'none'}")
    return Settings(
        source=study.market.vendor,  # type: ignore[arg-type]  # the vendors are the live sources
        study=study.name,
        books=str(Path(books).resolve()) if books else "",
        first_session=day_of(arguments.first_session),
        notify=arguments.notify,
        retry_until=hour(arguments.retry_until),
        overrides=without_absent(study, sold(vendor, books)),
    )


def sold(vendor: Vendor, books: str) -> set[str]:
    """The tables that a live environment gets: the vendor's, and those of a folder of one's own."""
    return {*vendor.tables} - (set() if books else {*vendor.brought})


def lost_families(study: Study, present: Collection[str]) -> dict[str, list[str]]:
    """Absent table -> families of minute features that cannot be made without it; features of sessions become null."""
    made, lost = plan(study.features), dict[str, list[str]]()
    if isinstance(made, MinutePlan):
        for family in made.families:
            reads = {READ_FROM[source] for feature in family.features for source in feature.sources}
            for table in sorted(reads - set(present)):
                lost.setdefault(table, []).append(family.name)
    return lost


def without_absent(study: Study, present: Collection[str]) -> dict[str, Any]:
    """The override that drops what absent tables take with them: a minute whose features are not all there is no row.

    Raises
    ------
    BadInput
        When no feature is left.
    """
    gone = {family for families in lost_families(study, present).values() for family in families}
    if not gone:
        return {}
    left = [family for family in study.features if family not in gone]
    if not left:
        absent = sorted(set(study.table_names) - {*present})
        raise BadInput("a study keeps some of its features", f"none without {absent}", "add these tables")
    return {"features": left}


def absences(study: Study, present: Collection[str]) -> list[str]:
    """A sentence for each table of a registered study that a source lacks: what goes, and how many features."""
    lost, whole = lost_families(study, present), plan(study.features)
    told = []
    for use in study.tables:
        if use.table in present:
            continue
        text = f"table {use.table} is absent: the study loses {use.loses}"
        if use.table in lost and isinstance(whole, MinutePlan):
            names = lost[use.table]
            count = sum(len(family.features) for family in whole.families if family.name in names)
            text += f" (families {', '.join(names)}: {count} of {len(whole.schema)} features)"
        told.append(text)
    return told


def _workers() -> int:
    """Two processes where there are two cores: each holds its own inputs, 0.1 GB at the size of the demo."""
    return min(2, os.cpu_count() or 1)
