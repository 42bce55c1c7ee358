"""Calibrators: laws per method, choice by cross-fitted Brier, refusals; reliability; averaging. Weights: see beside."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from pipeline.calibration.averaging import average_members
from pipeline.calibration.calibrators import Calibrators, fit_calibrators
from pipeline.calibration.methods import METHODS, Method, logit, sigmoid
from pipeline.calibration.reliability import (
    brier_score,
    expected_calibration_error,
    reliability,
    reliability_before_after,
)
from pipeline.calibration.spec import CalibrationSpec
from pipeline.errors import BadInput
from pipeline.labels.spec import HeadSpec
from tests.laws.calibrators import (
    check_map_does_not_depend_on_the_batch,
    check_map_is_monotone_and_a_probability,
)

HEADS = (
    HeadSpec(name="rank", kind="rank"),
    HeadSpec(name="q", kind="probability"),
    HeadSpec(name="loss", kind="regression"),
)
every_method = pytest.mark.parametrize("name", sorted(METHODS))


def outcomes(seed: int = 0, n: int = 4000, slope: float = 2.0, shift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Raw probabilities whose true logit is (raw logit - shift) / slope."""
    draw = np.random.default_rng(seed)
    z = draw.standard_normal(n) * 2
    y = (draw.random(n) < sigmoid((z - shift) / slope)).astype(float)
    return sigmoid(z), y


def tables(p: np.ndarray, y: np.ndarray, names: int = 40) -> tuple[pl.DataFrame, pl.DataFrame]:
    sessions = len(p) // names
    days = np.repeat(np.array([date(2024, 1, 1) + timedelta(days=i) for i in range(sessions)], "M8[D]"), names)
    keys = pl.DataFrame({"session": days, "instrument": [f"{i:03d}" for i in range(names)] * sessions})
    raw = pl.Series(p, dtype=pl.Float32)
    scores = keys.with_columns(role=pl.lit("tune"), rank_head=raw * 7, q_head=raw, loss_head=raw * -2)
    truth = pl.Series(y, dtype=pl.Float32)
    return scores, keys.with_columns(rank=truth, q=truth, loss=truth)


@every_method
@pytest.mark.parametrize("case", ["plain", "reversed", "perfect", "constant", "one_class", "edges"])
def test_laws_of_the_maps(name: str, case: str) -> None:
    """Pins maps that reorder a head, leave [0, 1], or run away where tune is degenerate."""
    p, y = outcomes(n=400)
    p, y = {
        "plain": (p, y),
        "reversed": (1 - p, y),
        "perfect": (p, (p > 0.5).astype(float)),
        "constant": (np.full_like(p, 0.3), y),
        "one_class": (p, np.zeros_like(y)),
        "edges": (np.round(p), y),
    }[case]
    check_map_is_monotone_and_a_probability(name, p, y)
    check_map_does_not_depend_on_the_batch(name, p, y)


def test_the_laws_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pins laws that pass whatever they are given."""
    p, y = outcomes(n=100)
    monkeypatch.setitem(METHODS, "falling", Method(lambda p, y: {}, lambda p, parameters: 1 - p))
    monkeypatch.setitem(METHODS, "batched", Method(lambda p, y: {}, lambda p, parameters: p - p.mean()))
    with pytest.raises(AssertionError, match="falling falls"):
        check_map_is_monotone_and_a_probability("falling", p, y)
    with pytest.raises(AssertionError, match="with its batch"):
        check_map_does_not_depend_on_the_batch("batched", p, y)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 5.0), st.floats(-3.0, 3.0))
def test_platt_and_temperature_are_maximum_likelihood(seed: int, slope: float, shift: float) -> None:
    """Pins a Newton or bisection that stops early, against scipy's minimiser."""
    p, y = outcomes(seed, 500, slope, shift)
    z = logit(p)
    target = np.where(y == 1, (y.sum() + 1) / (y.sum() + 2), 1 / (len(y) - y.sum() + 2))

    def loss(theta: np.ndarray, truth: np.ndarray) -> float:
        raw = theta[0] * z + theta[1]
        return float(np.sum(np.logaddexp(0, raw) - truth * raw))

    platt = METHODS["platt"].fit(p, y)
    found = np.array([platt["slope"][0], platt["intercept"][0]])
    best = minimize(loss, found + 0.1, args=(target,), method="BFGS").x
    if best[0] > 0:
        assert loss(found, target) <= loss(best, target) + 1e-6
    temperature = METHODS["temperature"].fit(p, y)["temperature"][0]
    grid = min(loss(np.array([s, 0.0]), y) for s in np.geomspace(0.05, 20, 400))
    assert loss(np.array([1 / temperature, 0.0]), y) <= grid + 1e-9


def test_isotonic_equals_pool_adjacent_violators() -> None:
    """Pins knots that lose a step of the fitted function."""
    p, y = outcomes(n=300)
    order = np.argsort(p)
    blocks: list[list[float]] = []
    for value in y[order]:
        blocks.append([value, 1.0])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (b, m), (a, n) = blocks.pop(), blocks.pop()
            blocks.append([(a * n + b * m) / (n + m), n + m])
    expected = np.concatenate([np.full(int(count), mean) for mean, count in blocks])
    served = METHODS["isotonic"].apply(p, METHODS["isotonic"].fit(p, y))
    np.testing.assert_allclose(served[order], expected, atol=1e-12)


def test_a_miscalibrated_head_is_repaired_on_unseen_rows() -> None:
    """Pins a chooser that keeps identity, or that improves tune only."""
    calibrators = fit_calibrators(*tables(*outcomes(1)), HEADS, CalibrationSpec())
    q = calibrators.heads[1]
    assert q.method == "platt"
    assert q.brier["platt"] == min(q.brier.values())
    scores, labels = tables(*outcomes(2))
    served = calibrators.apply(scores)
    truth, before = labels["q"].cast(pl.Float64).to_numpy(), scores["q_head"].cast(pl.Float64).to_numpy()
    after = served["q_pred"].to_numpy()
    assert expected_calibration_error(after, truth) < 0.3 * expected_calibration_error(before, truth)
    assert brier_score(after, truth) < brier_score(before, truth)


def test_a_calibrated_head_is_left_alone_when_nothing_is_gained() -> None:
    """Pins noise fitted over an honest head: ties and losses go to identity."""
    p, y = outcomes(4, 4000, 1.0, 0.0)
    spec = CalibrationSpec(methods=("identity", "isotonic"))
    assert fit_calibrators(*tables(p, y), HEADS, spec).heads[1].method == "identity"


@pytest.mark.parametrize(("positives", "method"), [(49, "identity"), (50, "isotonic")])
@pytest.mark.parametrize("flip", [False, True])
def test_too_few_of_the_rarer_class_means_identity_with_the_reason(positives: int, method: str, flip: bool) -> None:
    """Pins a calibrator of noise: limit-down locks are 0.3% of rows."""
    p, y = outcomes(3)[0], np.zeros(4000)
    y[:positives] = 1.0
    y = 1 - y if flip else y
    head = fit_calibrators(*tables(p, y), HEADS, CalibrationSpec(methods=("isotonic",))).heads[1]
    assert (head.method, head.rarer_class) == (method, positives)
    if method == "identity":
        assert head.reason == "49 rows of the rarer class in tune, 50 needed"
        assert head.brier == {}


def test_blocks_are_whole_sessions_and_each_is_judged_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pins an in-sample Brier score, and a day that stands on both sides of a cross-fit."""
    p, y = outcomes(5, 400)
    served: list[tuple[int, int]] = []
    fits: list[int] = []

    def memorise(p: np.ndarray, y: np.ndarray) -> dict[str, list[float]]:
        fits.append(len(p))
        return {"seen": p.tolist()}

    def apply(p: np.ndarray, parameters: dict[str, list[float]]) -> np.ndarray:
        served.append((len(p), int(np.isin(p, parameters["seen"]).sum())))
        return p.copy()

    monkeypatch.setitem(METHODS, "memory", Method(memorise, apply))
    fit_calibrators(*tables(p, y), HEADS, CalibrationSpec(methods=("memory",), cross_fit_blocks=3))
    assert [n for n, _ in served] == [160, 120, 120]
    assert all(again == 0 for _, again in served)
    assert fits == [240, 280, 280, 400]


def test_other_heads_pass_and_json_keeps_every_bit() -> None:
    """Pins a rank head squeezed through a probability map, and rounding on the way through the bundle."""
    scores, labels = tables(*outcomes(6))
    for spec in (CalibrationSpec(), CalibrationSpec(methods=("isotonic",))):
        calibrators = fit_calibrators(scores, labels, HEADS, spec)
        again = Calibrators.from_json(calibrators.to_json())
        assert again == calibrators
        served = again.apply(scores)
        assert served.equals(calibrators.apply(scores))
        assert served.columns == ["session", "instrument", "role", "rank_pred", "q_pred", "loss_pred"]
        assert served["rank_pred"].equals(scores["rank_head"].cast(pl.Float64).alias("rank_pred"))
        assert served["loss_pred"].dtype == pl.Float64


def test_rows_without_truth_do_not_count() -> None:
    """Pins null labels of blocked entries that enter as negatives."""
    scores, labels = tables(*outcomes(7))
    hidden = labels.with_columns(q=pl.when(pl.col("instrument") < "010").then(None).otherwise("q"))
    few = fit_calibrators(scores.filter(pl.col("instrument") >= "010"), labels, HEADS, CalibrationSpec())
    assert fit_calibrators(scores, hidden, HEADS, CalibrationSpec()) == few


def test_bad_calibration_is_refused() -> None:
    """Pins calibrators that see test rows, and methods nobody has written."""
    scores, labels = tables(*outcomes(8))
    with pytest.raises(BadInput, match="tune rows only"):
        fit_calibrators(scores.with_columns(role=pl.lit("test")), labels, HEADS, CalibrationSpec())
    with pytest.raises(BadInput, match="beta"):
        fit_calibrators(scores, labels, HEADS, CalibrationSpec(methods=("beta",)))
    with pytest.raises(BadInput, match="q_head"):
        fit_calibrators(scores.drop("q_head"), labels, HEADS, CalibrationSpec())
    with pytest.raises(BadInput, match="outcomes"):
        reliability(np.array([0.1]), np.array([]))


def test_reliability_adds_up_and_keeps_ties_together() -> None:
    """Pins lost rows at bin edges, and equal predictions that fall into two bins."""
    p, y = outcomes(9, 1000)
    p = np.round(p, 1)
    table = reliability(p, y, 15)
    assert table["rows"].sum() == 1000
    assert (table["low"][1:] > table["high"][:-1]).all()
    assert (table["rows"] * table["rate"]).sum() == pytest.approx(y.sum())
    assert (table["rows"] * table["mean_pred"]).sum() == pytest.approx(p.sum())
    assert reliability(np.full(10, 0.3), np.ones(10))["rows"].to_list() == [10]
    assert expected_calibration_error(np.full(10, 0.3), np.ones(10)) == pytest.approx(0.7)
    both = reliability_before_after(p, y.mean() + 0 * p, y)
    assert both.filter(stage="after")["ece"][0] == pytest.approx(0.0, abs=1e-12)
    assert both.filter(stage="before")["brier"][0] == brier_score(p, y)


def calibrated(seed: int) -> pl.DataFrame:
    scores, labels = tables(*outcomes(seed, 400))
    return fit_calibrators(scores, labels, HEADS, CalibrationSpec()).apply(scores).drop("role")


def test_average_of_members() -> None:
    """Pins a rank head averaged by scale: the member with the largest numbers would decide alone."""
    a, b = calibrated(1), calibrated(2)
    mean = average_members([a, b.sample(fraction=1.0, shuffle=True, seed=1)], HEADS, "rank_pred")
    loud = average_members([a.with_columns(pl.col("rank_pred") * 1000 - 5), b], HEADS, "rank_pred")
    assert loud["rank_pred"].equals(mean["rank_pred"])
    assert mean["score"].equals(mean["rank_pred"].alias("score"))
    np.testing.assert_array_equal(mean["q_pred"], (a["q_pred"].to_numpy() + b["q_pred"].to_numpy()) / 2)
    np.testing.assert_array_equal(mean["loss_pred"], (a["loss_pred"].to_numpy() + b["loss_pred"].to_numpy()) / 2)
    place = pl.col("rank_pred").rank().over("session")
    ranks = [(frame.select(place).to_series().to_numpy() - 0.5) / 40 for frame in (a, b)]
    np.testing.assert_array_equal(mean["rank_pred"], (ranks[0] + ranks[1]) / 2)


def test_average_of_a_session_does_not_depend_on_the_others() -> None:
    """Pins live predictions (one session) that differ from research's in a bit."""
    a, b = calibrated(1), calibrated(2)
    whole = average_members([a, b], HEADS, "rank_pred")
    day = a["session"][200]
    alone = average_members([a.filter(session=day), b.filter(session=day)], HEADS, "rank_pred")
    assert alone.equals(whole.filter(session=day))


def test_bad_ensembles_are_refused() -> None:
    """Pins members scored on different rows, an empty ensemble, and an alpha that nobody serves."""
    a, b = calibrated(1), calibrated(2)
    with pytest.raises(BadInput, match="member 1 differs"):
        average_members([a, b[1:]], HEADS, "rank_pred")
    with pytest.raises(BadInput, match="members"):
        average_members([], HEADS, "rank_pred")
    with pytest.raises(BadInput, match="alpha_pred"):
        average_members([a], HEADS, "alpha_pred")
    for weights in ([1.0], [0.5, 0.4, 0.1], [1.5, -0.5], [0.0, 0.0], [float("nan"), 1.0]):
        with pytest.raises(BadInput, match="one per member"):
            average_members([a, b], HEADS, "rank_pred", weights)
