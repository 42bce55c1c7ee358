"""A bundle of two small members that decide by the minute, the rows of its last day, and what research made of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from pipeline.calibration.averaging import average_members
from pipeline.calibration.calibrators import Calibrators, fit_calibrators
from pipeline.calibration.spec import CalibrationSpec
from pipeline.features.minutes.schema import ORDER, order_hash
from pipeline.fingerprints import canonical_json, hash_bytes
from pipeline.labels.minute_models import five_models
from pipeline.labels.minute_spec import PlanLabelSpec
from pipeline.labels.price_plan import PricePlan
from pipeline.models.members import FittedMember, fit_member
from pipeline.models.preparing import prepare
from pipeline.positions.manager_spec import ManagerConfig, OpenThresholds, SideThresholds, Sizing
from pipeline.serving.parts import Part, ensemble_file
from pipeline.studies.perp_minute import STUDY as REAL
from tests.models.heads.small_minutes import FAMILIES, FEATURES, KEY, TRAINING, SmallMinutes, small_minutes

SIDE = SideThresholds(min_direction_prob=0.4, min_entry_prob=0.5, min_edge_bps=-5.0)
CONFIG = ManagerConfig(
    open=OpenThresholds(long=SIDE, short=SIDE, min_direction_margin=0.02, max_market_risk=0.7),
    sizing=Sizing(min_edge_bps=-1.0),
)
LABELS = PlanLabelSpec(heads=five_models(), plan=PricePlan())  # not the study's own, which may be retuned
STUDY = REAL.model_copy(update={"members": FAMILIES, "labels": LABELS})
SCHEMA = ORDER[: len(FEATURES)]
PARTS = (Part(FAMILIES[0].name, "production", 0.75), Part(FAMILIES[1].name, "production", 0.25))
ALPHA = STUDY.policy.alpha


@dataclass(frozen=True)
class MinuteResearch:
    """What the research stages would have written."""

    market: SmallMinutes
    features: pl.DataFrame
    fitted: dict[str, FittedMember]
    calibrators: dict[str, Calibrators]

    @property
    def day(self) -> date:
        return self.market.days[-1]

    @property
    def panel(self) -> pl.DataFrame:
        """Every minute's row; one in forty is not eligible."""
        place = pl.int_range(pl.len())
        return self.features.select(
            *KEY, close=40_000 + (place % 97).cast(pl.Float64), eligible=place % 40 != 7
        )

    @property
    def predictions(self) -> pl.DataFrame:
        """Calibrated and averaged test rows."""
        parts = [
            self.calibrators[name].apply(f.scores.filter(pl.col("role") == "test")) for name, f in self.fitted.items()
        ]
        return average_members(parts, self.market.heads, ALPHA, [part.weight for part in PARTS])

    def of_day(self, frame: pl.DataFrame, day: date | None = None) -> pl.DataFrame:
        return frame.filter(pl.col("session") == (day or self.day))


@cache
def minute_research() -> MinuteResearch:
    market = small_minutes()
    features = market.features.rename(dict(zip(FEATURES, SCHEMA, strict=True)))
    prepared = prepare(features, market.standing, dict.fromkeys(SCHEMA, "series"))
    with TemporaryDirectory() as folder:
        fitted = {
            spec.name: fit_member(
                spec, TRAINING, market.heads, prepared, market.labels, market.roles, workdir=Path(folder)
            )
            for spec in FAMILIES
        }
    calibrators = {
        name: fit_calibrators(
            f.scores.filter(pl.col("role") == "tune"), market.labels, market.heads, CalibrationSpec(min_positives=10)
        )
        for name, f in fitted.items()
    }
    return MinuteResearch(market, features, fitted, calibrators)


def minute_files(parts: tuple[Part, ...] = PARTS, config: ManagerConfig = CONFIG) -> dict[str, bytes]:
    made = minute_research()
    files = {part.file(name): data for part in parts for name, data in made.fitted[part.member].files.items()}
    files |= {part.calibrators: made.calibrators[part.member].to_json() for part in parts}
    return files | {
        "ensemble.json": ensemble_file(parts, {}),
        "policy.json": canonical_json(config).encode(),
        "study.json": canonical_json(STUDY).encode(),
    }


def minute_manifest(parts: tuple[Part, ...] = PARTS) -> dict[str, Any]:
    made = minute_research()
    return {
        "study": STUDY.name,
        "schema": list(SCHEMA),
        "schema_hash": order_hash(SCHEMA),
        "weights": {
            part.name: {file: hash_bytes(data) for file, data in made.fitted[part.member].files.items()}
            for part in parts
        },
        "lineage": {"ledger_head": "0" * 64, "evaluation": "1" * 64},
    }
