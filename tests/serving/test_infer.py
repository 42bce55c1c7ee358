"""Serving against research on the same stored rows, and every refusal."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from pipeline.serving.bundle import Bundle, write_bundle
from pipeline.serving.infer import infer
from pipeline.serving.parity import compare
from tests.serving.small_bundle import bundle_files, bundle_manifest, research

KEY = ["session", "instrument"]
ASSETS = ("panel", "features", "tensors", "scores", "predictions", "orders")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bundles"), bundle_files(), bundle_manifest())


def test_serving_scores_are_the_bits_of_research(bundle: Bundle) -> None:
    """Pins a live path that pads, ranks, calibrates or averages in another way than research did."""
    made = research()
    live = infer(bundle, made.window(made.market.features), made.window(made.panel), made.day)
    for name, fitted in made.fitted.items():
        recorded = fitted.scores.filter(pl.col("session") == made.day).drop("role")
        assert live.scores.filter(pl.col("member") == name).drop("member").equals(recorded), name
    expected = made.predictions.filter(pl.col("session") == made.day)
    assert live.predictions.select(expected.columns).equals(expected)
    assert live.orders.select("session", "rank", "instrument", "weight", "score").equals(
        made.orders.filter(pl.col("session") == made.day)
    )


def test_compare_through_storage(bundle: Bundle, tmp_path: Path) -> None:
    """Pins frames that change when they are stored and read: then no session could ever be exact."""
    made = research()
    live = infer(bundle, made.window(made.market.features), made.window(made.panel), made.day)
    for name in ASSETS:
        getattr(live, name).write_parquet(tmp_path / f"{name}.parquet")
    stored = {name: pl.read_parquet(tmp_path / f"{name}.parquet") for name in ASSETS}
    again = infer(bundle, made.window(made.market.features), made.window(made.panel), made.day)
    report = compare(stored, {name: getattr(again, name) for name in ASSETS})
    assert report.exact, report.first_difference
    assert report.rows == sum(len(frame) for frame in stored.values())
