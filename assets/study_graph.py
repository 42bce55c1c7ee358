"""The one place that lists the builders of a study's stages, in order."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg

from assets.backtests import build_backtest
from assets.calibrators import build_calibrators
from assets.candidates import build_candidate
from assets.champions import build_champion
from assets.diagnostics import build_diagnostics
from assets.features import build_features
from assets.folds import build_folds
from assets.inference import build_inference
from assets.labels import build_labels
from assets.models import build_models
from assets.panels import build_panel
from assets.parity import build_parity
from assets.partitions import Partitions
from assets.positions import build_positions
from assets.predictions import build_predictions
from assets.scorecards import build_scorecard
from pipeline.study import Study

BUILDERS: tuple[Callable[[Study, Partitions], dg.AssetsDefinition], ...] = (
    build_panel,
    build_features,
    build_labels,
    build_folds,
    build_models,
    build_calibrators,
    build_positions,
    build_predictions,
    build_backtest,
    build_scorecard,
    build_candidate,
    build_champion,
    build_inference,
    build_parity,
)


def build_study(study: Study, partitions: Partitions) -> list[dg.AssetsDefinition]:
    """Every stage of a study as an asset, and the diagnostics that apply to it."""
    return [*(build(study, partitions) for build in BUILDERS), *build_diagnostics(study, partitions)]
