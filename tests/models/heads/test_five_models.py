"""The heads of the five models against the labels that exist, and calibrated on their own label columns."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest

from pipeline.calibration.calibrators import fit_calibrators
from pipeline.calibration.spec import CalibrationSpec
from pipeline.features.minutes.compute import minute_features
from pipeline.features.minutes.schema import ORDER, order_hash
from pipeline.frames import Hindsight
from pipeline.labels.minute_heads import minute_labels
from pipeline.labels.minute_models import five_models
from pipeline.labels.minute_spec import MinuteLabelSpec
from pipeline.labels.price_plan import PricePlan
from pipeline.models.heads.outputs import ModelCard
from pipeline.models.members import fit_member
from pipeline.models.preparing import prepare
from tests.labels.test_path_outcomes import bars_of
from tests.models.heads.small_minutes import KEY, LINEAR, TRAINING, TREES, fit, small_minutes

MARKET = small_minutes()


def labels_of(bars: pl.DataFrame, features: pl.DataFrame) -> pl.DataFrame:
    needed = features.select(*KEY, "ret_15m_bps", "realized_vol_15m_bps")
    return minute_labels(Hindsight(bars), needed, PricePlan(), MinuteLabelSpec())


def test_every_head_has_its_label_column() -> None:
    """Pins a head whose column nobody makes: the fit would stop hours after labels were made."""
    close = 100 + np.cumsum(np.random.default_rng(0).standard_normal(120)) / 50
    bars = bars_of(close + 0.05, close - 0.05, close)
    features = bars.select(KEY).with_columns(ret_15m_bps=pl.lit(1.0), realized_vol_15m_bps=pl.lit(1.0))
    made = set(labels_of(bars, features).columns)
    for population in ("none", "direction_label", "side_opportunity"):
        for head in five_models(population):
            assert head.label in made, head.name
            assert head.population is None or head.population.column in made


def test_the_five_models() -> None:
    """Pins lost heads, regression heads that train on anything but the actual plan edge, and side-blind filters."""
    heads = {head.name: head for head in five_models("side_opportunity", 25.0)}
    assert Counter(head.model for head in heads.values()) == {
        "direction": 3, "entry": 4, "continue": 4, "exit": 7, "risk": 8,
    }  # fmt: skip
    assert {head.softmax for head in heads.values()} == {"direction", ""}
    assert heads["short_expected_net_edge_bps"].label == "short_actual_plan_net_edge_bps"
    assert heads["market_risk_prob"].label == "market_risk_target"
    assert heads["short_entry_prob"].fit_filter == "SIDE_OPPORTUNITY_SHORT_GE_25_BPS_FIT_ROWS"
    assert {name for name, head in heads.items() if head.population} == {
        name for name, head in heads.items() if head.model == "entry"
    }


def test_the_cards_order_hash_is_the_schemas() -> None:
    """Pins two hashes of one order: a bundle could not tell that its models read its features."""
    assert f'"featureOrderHash":"{order_hash()}"' in ModelCard.of("m", (), ORDER, 64).to_json().decode()


@pytest.mark.parametrize("spec", [LINEAR, TREES], ids=lambda spec: spec.name)
def test_probability_heads_are_calibrated_on_their_labels(spec, tmp_path: Path) -> None:
    """Pins a calibrator that looks for a label column named like the head."""
    member = fit(spec, MARKET, tmp_path)
    tune = member.scores.filter(role="tune")
    fitted = fit_calibrators(tune, MARKET.labels, MARKET.heads, CalibrationSpec())
    served = fitted.apply(tune.drop("role"))
    truth = tune.join(MARKET.labels, on=KEY, maintain_order="left")["long_entry_target"].to_numpy()
    assert served["long_entry_prob_pred"].mean() == pytest.approx(truth.mean(), abs=0.01)


@cache
def real_minutes(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Features and labels of 30,000 minutes of BTCUSDT."""
    rows = pl.read_parquet(folder / "binance" / "klines_1m" / "BTCUSDT.parquet").head(30_000)
    minute = pl.from_epoch("open_time", "ms").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    prices = ["open", "high", "low", "close", "volume", "quote_volume", "taker_buy_volume"]
    bars = rows.select(
        minute.dt.date().alias("session"),
        pl.lit("BTCUSDT").alias("instrument"),
        minute.alias("minute"),
        *prices,
        trades=pl.col("count").cast(pl.Int64),
        spread_bps=pl.lit(None, pl.Float64),
    )
    features = minute_features(bars.drop("spread_bps")).drop_nulls()
    return features, labels_of(bars, features)


@pytest.mark.realdata
@pytest.mark.parametrize("spec", [LINEAR, TREES], ids=lambda spec: spec.name)
def test_real_minutes(spec, realdata: Path) -> None:
    """Pins graphs that leave their float64 solution where raw features are large, and families that only fit noise."""
    features, labels = real_minutes(realdata)
    names = [c for c in features.columns if c not in KEY]
    prepared = prepare(features, features.select(*KEY, eligible=pl.lit(True)), dict.fromkeys(names, "series"))
    place = pl.int_range(pl.len())
    role = pl.when(place < 18_000).then(pl.lit("fit")).when(place < 18_046).then(pl.lit("purged"))
    roles = features.select(*KEY, role=role.when(place < 22_000).then(pl.lit("tune")).otherwise(pl.lit("test")))
    with TemporaryDirectory() as folder:
        member = fit_member(spec, TRAINING, five_models(), prepared, labels, roles, workdir=Path(folder))
    assert member.notes.get("onnx_largest_difference", 0.0) <= 1e-6
    test = member.metrics["test"]
    assert test["market_drawdown_prob"]["auc"] > 0.6
    assert test["exit_stagnation_prob"]["brier_ratio"] < 1.0
