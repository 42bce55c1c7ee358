"""A bundle of three small members, the rows of its last window, and what research made of them."""

from __future__ import annotations

import json
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
from pipeline.fingerprints import canonical_json, hash_bytes, hash_json
from pipeline.models.members import FittedMember, fit_member
from pipeline.positions.policy import Policy, select
from pipeline.serving.parts import Part, ensemble_file
from tests.models.small_market import HEADS, MEMBERS, TRAINING, SmallMarket, small_market

POLICY = Policy(top_k=10, alpha="rank_pred", max_buy_block=0.9)
WINDOW = 4


@dataclass(frozen=True)
class Research:
    """What the research stages would have written."""

    market: SmallMarket
    panel: pl.DataFrame
    fitted: dict[str, FittedMember]
    calibrators: dict[str, Calibrators]

    @property
    def day(self) -> date:
        return self.market.days[-1]

    @property
    def predictions(self) -> pl.DataFrame:
        """Calibrated and averaged test rows."""
        parts = [
            self.calibrators[name].apply(f.scores.filter(pl.col("role") == "test")) for name, f in self.fitted.items()
        ]
        return average_members(parts, HEADS, POLICY.alpha)

    @property
    def orders(self) -> pl.DataFrame:
        return select(self.predictions, POLICY)

    def window(self, frame: pl.DataFrame, day: date | None = None) -> pl.DataFrame:
        """The rows of the sessions that scoring `day` reads."""
        last = self.market.days.index(day or self.day)
        return frame.filter(pl.col("session").is_in(self.market.days[last - WINDOW + 1 : last + 1]))


@cache
def research() -> Research:
    market = small_market()
    prepared = market.prepared
    with TemporaryDirectory() as folder:
        fitted = {
            spec.name: fit_member(spec, TRAINING, HEADS, prepared, market.labels, market.roles, workdir=Path(folder))
            for spec in MEMBERS
        }
    calibrators = {
        name: fit_calibrators(
            f.scores.filter(pl.col("role") == "tune"), market.labels, HEADS, CalibrationSpec(min_positives=10)
        )
        for name, f in fitted.items()
    }
    panel = market.eligible.with_columns(
        code=pl.col("instrument"), industry=pl.lit("银行, 保险"), close=pl.lit(10.0)
    )
    return Research(market, panel, fitted, calibrators)


def parts() -> list[Part]:
    return [Part(spec.name, "production", 1 / len(MEMBERS)) for spec in MEMBERS]


def bundle_files() -> dict[str, bytes]:
    made = research()
    files = {part.file(name): data for part in parts() for name, data in made.fitted[part.member].files.items()}
    files |= {part.calibrators: made.calibrators[part.member].to_json() for part in parts()}
    study = {
        "members": [{"name": spec.name} for spec in MEMBERS],
        "labels": {"heads": [head.model_dump(mode="json") for head in HEADS]},
        "policy": {"family": "top_k"},
    }
    return files | {
        "ensemble.json": ensemble_file(parts(), {}),
        "policy.json": canonical_json(POLICY).encode(),
        "study.json": canonical_json(study).encode(),
    }


def bundle_manifest() -> dict[str, Any]:
    made = research()
    schema = [c for c in made.market.features.columns if c not in ("session", "instrument")]
    weights = {
        part.name: {file: hash_bytes(data) for file, data in made.fitted[part.member].files.items()} for part in parts()
    }
    return {
        "study": "small",
        "schema": schema,
        "schema_hash": hash_json(schema),
        "weights": weights,
        "lineage": {"ledger_head": "0" * 64},
    }


def with_policy(files: dict[str, bytes], **changes: object) -> dict[str, bytes]:
    """The same files under another policy."""
    policy = json.loads(files["policy.json"]) | changes
    return files | {"policy.json": canonical_json(policy).encode()}
