"""Single-feature screen and condition pairs: what they find, what they skip, and by which arithmetic."""

from __future__ import annotations

from datetime import timedelta
from itertools import combinations

import numpy as np
import polars as pl
import pytest

from pipeline.diagnostics.minutes.buckets import Buckets, BucketSpec, learn_buckets
from pipeline.diagnostics.minutes.pairs import PairsSpec, condition_pairs
from pipeline.diagnostics.minutes.screens import single_feature_screen
from pipeline.errors import BadInput, KeyViolation, SchemaError
from tests.diagnostics.minutes.planted import FEATURES, GAP, minutes

EVALUATION = ("E1", "E2", "E3")
EDGE = "long_actual_plan_net_edge_bps"


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    return minutes()


def test_a_planted_bucket_is_found_and_noise_is_not(frame: pl.DataFrame) -> None:
    """Pins a screen that misses an effect in one decile, or calls a feature without one promising."""
    found = single_feature_screen(frame, FEATURES)
    usable = found.tables["candidates"].filter("usable")
    assert found.status == "PROMISING_SINGLE_FEATURE"
    assert set(usable["side"]) == {"long"}
    assert "signal" in usable["feature"].to_list()
    assert not usable["feature"].is_in(["noise"]).any()
    assert single_feature_screen(frame, ["noise"]).status == "NO_STABLE_SINGLE_FEATURE"
    assert found.text.startswith("Diagnostic only")


def test_an_effect_of_the_picking_block_alone_is_not_confirmed(frame: pl.DataFrame) -> None:
    """Pins a candidate that is called usable because it was picked: E2 and E3 must agree."""
    early = pl.col("block").is_in(["fit_inner", "E1"])
    only = frame.with_columns(pl.when(early).then(EDGE).otherwise(-5.0).alias(EDGE))
    candidates = single_feature_screen(only, ["signal"]).tables["candidates"]
    assert candidates["picked"].any()
    assert not candidates["usable"].any()


def test_bucket_scores_equal_a_row_by_row_computation(frame: pl.DataFrame) -> None:
    """Pins the arithmetic of edge, lift, min, mean and score, on quantile edges of the fit rows."""
    found = single_feature_screen(frame, ["signal"]).tables["candidates"].filter(pl.col("side") == "long")
    edges = np.quantile(frame.filter(pl.col("block") == "fit_inner")["signal"].to_numpy(), np.arange(1, 10) / 10)
    for row in found.iter_rows(named=True):
        means, lifts, counts = [], [], []
        for block in EVALUATION:
            own = frame.filter(pl.col("block") == block)
            inside = [e for x, e in own.select("signal", EDGE).iter_rows() if sum(x >= edges) == row["bucket"]]
            means.append(sum(inside) / len(inside))
            lifts.append(means[-1] - own[EDGE].mean())
            counts.append(len(inside))
        score = min(means) + 0.25 * sum(means) / 3 + 2 * all(x > 0 for x in lifts) + (min(counts) >= 300)
        assert row["min_lift_bps"] == pytest.approx(min(lifts), abs=1e-9)
        assert row["mean_edge_bps"] == pytest.approx(sum(means) / 3, abs=1e-9)
        assert row["min_rows"] == min(counts)
        assert row["score"] == pytest.approx(score, abs=1e-9)
    assert found["score"].is_sorted(descending=True)


def test_an_event_feature_has_a_bucket_of_no_event() -> None:
    """Pins zeros spread over deciles, and an event feature of too few events measured anyway."""
    values = np.concatenate([np.zeros(4_000), np.linspace(1, 6, 300)])
    found = learn_buckets(values, BucketSpec())
    assert isinstance(found, Buckets)
    assert (found.kind, found.count) == ("event", 6)
    codes = found.codes(values)
    assert (codes[:4_000] == 0).all()
    assert np.bincount(codes)[1:].tolist() == [60] * 5
    assert learn_buckets(values[:-1], BucketSpec()) == "0 distinct edges and 299 non-zero fit values, 300 needed"
    assert learn_buckets(np.full(900, 2.0), BucketSpec()) == "one value on all fit rows"


def test_edges_come_from_the_fit_rows_alone(frame: pl.DataFrame) -> None:
    """Pins edges that move with the rows they are judged on."""
    moved = frame.with_columns(pl.when(pl.col("block") == "fit_inner").then("signal").otherwise(pl.col("signal") * 3))
    same = [single_feature_screen(f, ["signal"], BucketSpec(min_bucket_rows=1)).tables["candidates"]
            .select("bucket", "lower", "upper").unique().sort("bucket") for f in (frame, moved)]
    assert same[0].equals(same[1])


def test_skipped_buckets_and_features_say_why(frame: pl.DataFrame) -> None:
    """Pins candidates that vanish: too few rows on E1, none on a later block, no buckets at all."""
    rare = frame.with_columns(
        rare=pl.when(pl.int_range(pl.len()) < 100).then(1.0).otherwise(0.0),
        gone=pl.when((pl.col("block") == "E3") & (pl.col("signal") > 0.5)).then(0.0).otherwise("signal"),
    )
    skipped = single_feature_screen(rare, ["rare", "gone"]).tables["skipped"].filter(pl.col("side") == "long")
    reasons = dict(skipped.select("candidate", "reason").iter_rows())
    assert reasons["rare"] == "0 distinct edges and 100 non-zero fit values, 300 needed"
    assert reasons["gone bucket 9"] == "E3 has 0 rows, 1 needed"
    strict = single_feature_screen(frame, ["signal"], BucketSpec(min_bucket_rows=3_000))
    assert strict.score is None
    assert strict.tables["skipped"]["reason"].str.contains("E1 has .* rows, 3000 needed").all()


def test_a_planted_pair_is_found_and_beats_its_halves(frame: pl.DataFrame) -> None:
    """Pins pairs that miss an interaction of an event with another feature."""
    spec = PairsSpec(buckets=4, min_bucket_rows=100, min_pair_rows=20)
    found = condition_pairs(frame, ["event", "partner", "noise"], spec)
    best = found.tables["candidates"].row(0, named=True)
    assert found.status == "PROMISING_CONDITION_PAIR"
    assert {best["feature_a"], best["feature_b"]} == {"event", "partner"}
    assert best["usable"]
    assert condition_pairs(frame, ["noise", "partner"]).status == "NO_STABLE_CONDITION_PAIR"


def test_pairs_equal_a_loop_over_pairs_and_rows(frame: pl.DataFrame) -> None:
    """Pins the matrix products against counting row by row, and pairs within one feature."""
    spec = PairsSpec(buckets=4, per_feature=2, per_side=4, min_pair_rows=10)
    found = condition_pairs(frame, ["signal", "partner", "noise"], spec)
    conditions = found.tables["conditions"]
    fit = frame.filter(pl.col("block") == "fit_inner")
    edges = {f: np.quantile(fit[f].to_numpy(), [0.25, 0.5, 0.75]) for f in ("signal", "partner", "noise")}
    for side in ("long", "short"):
        own = conditions.filter(pl.col("side") == side)
        assert own.height == 4
        assert own["feature"].value_counts()["count"].max() <= 2
        pairs = [(a, b) for a, b in combinations(own.select("feature", "bucket").rows(), 2) if a[0] != b[0]]
        measured = found.tables["metrics"].filter(pl.col("side") == side)
        assert measured.height == 3 * len(pairs)
        label = f"{side}_actual_plan_net_edge_bps"
        for (fa, ka), (fb, kb) in pairs:
            for block in EVALUATION:
                rows = frame.filter(pl.col("block") == block)
                inside = [e for x, y, e in rows.select(fa, pl.col(fb).alias("_b"), label).iter_rows()
                          if sum(x >= edges[fa]) == ka and sum(y >= edges[fb]) == kb]
                row = measured.filter(
                    (pl.col("feature_a") == fa) & (pl.col("bucket_a") == ka) & (pl.col("feature_b") == fb)
                    & (pl.col("bucket_b") == kb) & (pl.col("block") == block)).row(0, named=True)
                assert row["rows"] == len(inside)
                assert row["edge_bps"] == pytest.approx(sum(inside) / len(inside), abs=1e-9)
                assert row["lift_bps"] == pytest.approx(sum(inside) / len(inside) - rows[label].mean(), abs=1e-9)


def test_a_pair_of_too_few_rows_is_skipped_with_its_count(frame: pl.DataFrame) -> None:
    """Pins small pairs that win by luck."""
    found = condition_pairs(frame, ["signal", "noise"], PairsSpec(min_pair_rows=2_000))
    assert found.tables["candidates"].is_empty()
    assert found.tables["skipped"]["reason"].str.contains("E1 has .* rows, 2000 needed").all()
    assert len(found.tables["skipped"]) == 8


@pytest.mark.parametrize("probe", [single_feature_screen, condition_pairs])
def test_one_feature_or_no_bucket_gives_an_empty_answer(frame: pl.DataFrame, probe) -> None:  # type: ignore[no-untyped-def]
    """Pins a crash where nothing can be measured."""
    flat = frame.with_columns(flat=pl.lit(0.0))
    found = probe(flat, ["flat"])
    assert found.score is None
    assert found.status.startswith("NO_STABLE")
    assert found.tables["skipped"].height == 2


def test_bad_input_is_named(frame: pl.DataFrame) -> None:
    """Pins probes that drop, fill or guess: each bad input has an error that names it."""
    with pytest.raises(SchemaError, match="absent"):
        single_feature_screen(frame, ["absent"])
    with pytest.raises(SchemaError, match="short_actual_plan_net_edge_bps"):
        single_feature_screen(frame.drop("short_actual_plan_net_edge_bps"), ["signal"])
    with pytest.raises(SchemaError, match="a label is no feature"):
        single_feature_screen(frame, ["signal", "long_mae_bps"])
    with pytest.raises(SchemaError, match="each once"):
        single_feature_screen(frame, ["signal", "signal"])
    with pytest.raises(SchemaError, match="numbers"):
        single_feature_screen(frame, ["instrument"])
    first = pl.int_range(pl.len()) == 0
    for bad in (float("nan"), float("inf"), None):
        broken = frame.with_columns(pl.when(first).then(bad).otherwise("noise").alias("noise"))
        with pytest.raises(BadInput, match=r"\{'noise': 1\}"):
            single_feature_screen(broken, ["signal", "noise"])
    with pytest.raises(KeyViolation):
        single_feature_screen(pl.concat([frame, frame.head(1)]), ["signal"])


def test_sealed_absent_and_unpurged_blocks_are_refused(frame: pl.DataFrame) -> None:
    """Pins a probe that reads the sealed pair, or blocks whose labels reach into each other."""
    sealed = frame.with_columns(pl.col("block").replace("E3", "validation_locked"))
    with pytest.raises(BadInput, match=r"unknown \['validation_locked'\], absent \['E3'\]"):
        single_feature_screen(sealed, ["signal"])
    with pytest.raises(BadInput, match="E1 begins 61 minutes after the last row of fit_inner"):
        single_feature_screen(frame, ["signal"], BucketSpec(purge_minutes=GAP + 2))
    swapped = frame.with_columns(pl.col("block").replace({"E1": "E2", "E2": "E1"}))
    with pytest.raises(BadInput, match="follow each other"):
        single_feature_screen(swapped, ["signal"])


def test_order_of_rows_does_not_matter(frame: pl.DataFrame) -> None:
    """Pins a dependence on the order in which rows come."""
    shuffled = frame.sample(fraction=1.0, shuffle=True, seed=1).sort(pl.col("minute") + timedelta(0), descending=True)
    one, two = (condition_pairs(f, FEATURES[:2]).tables["candidates"] for f in (frame, shuffled))
    assert one.equals(two)
