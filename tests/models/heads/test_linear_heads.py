"""The linear family: its algebra against scikit-learn, the folded scaler, and graphs that others can read."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import polars as pl
import pytest
from scipy.special import expit, softmax
from sklearn.linear_model import HuberRegressor, LogisticRegression
from sklearn.preprocessing import StandardScaler

from pipeline.errors import BadInput, SchemaError
from pipeline.fingerprints import hash_json
from pipeline.models.heads.huber import LEAST_SCALE, fit_huber
from pipeline.models.heads.linear import standardise
from pipeline.models.heads.runtime import open_model, run
from pipeline.models.heads.weights import linear_head
from pipeline.models.members import FittedMember
from pipeline.models.scoring import load_member
from pipeline.models.spec import LinearHeadsSpec
from tests.models.heads.small_minutes import FEATURES, LINEAR, TRAINING, fit, small_minutes

MARKET = small_minutes()
MODELS = ("direction", "entry", "continue", "exit", "risk")
BATCH = TRAINING.serving_batch


@cache
def member() -> FittedMember:
    with TemporaryDirectory() as folder:
        return fit(LINEAR, MARKET, Path(folder))


def rows(role: str, frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(MARKET.roles["role"] == role)


def raw(role: str) -> np.ndarray:
    return rows(role, MARKET.features).select(FEATURES).to_numpy()


def test_every_tune_row_equals_a_plain_pipeline_in_float64() -> None:
    """Pins the scaler's folding, swapped classes, a lost intercept, and more than 1e-5 between graph and Python."""
    scaler = StandardScaler().fit(raw("fit").astype(np.float64))
    seen, asked = scaler.transform(raw("fit")), scaler.transform(raw("tune"))
    labels, scores = rows("fit", MARKET.labels), member().scores.filter(role="tune")
    direction = labels.select("long_target", "short_target", "neutral_target").to_numpy().argmax(axis=1)
    model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-8).fit(seen, direction)
    served = scores.select(f"direction_{way}_prob_head" for way in ("long", "short", "neutral")).to_numpy()
    np.testing.assert_allclose(served, model.predict_proba(asked), atol=2e-5)
    known = labels["long_exit_target"].is_not_nan().to_numpy()
    model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-8)
    model.fit(seen[known], labels["long_exit_target"].to_numpy()[known])
    np.testing.assert_allclose(scores["long_exit_prob_head"], model.predict_proba(asked)[:, 1], atol=2e-5)
    edge = HuberRegressor(epsilon=1.35, alpha=1e-3, max_iter=500, tol=1e-9)
    edge.fit(seen, labels["long_actual_plan_net_edge_bps"].to_numpy().astype(np.float64))
    served = scores["long_expected_net_edge_bps_head"].to_numpy()
    np.testing.assert_allclose(served, edge.predict(asked), atol=1e-4, rtol=1e-5)
    assert member().notes["onnx_largest_difference"] <= 1e-5


def test_heads_are_read_without_a_runtime() -> None:
    """Pins initialisers in standardised units, a bias elsewhere, and fields that are not `prediction`'s columns."""
    x = raw("test")
    scores = member().scores.filter(role="test")
    for model in MODELS:
        card = json.loads(member().files[f"{model}.json"])
        session, parsed = open_model(member().files, model, BATCH)
        prediction = run(session, x, BATCH)
        assert parsed.fields == tuple(card["fields"])
        assert card["features"] == list(FEATURES)
        assert card["featureOrderHash"] == hash_json(list(FEATURES))
        for head in card["heads"]:
            weights, bias = linear_head(member().files[f"{model}.onnx"], head["name"], len(FEATURES))
            linear = x @ weights + bias
            rise = {"softmax": lambda z: softmax(z, axis=1), "logistic": expit, "linear": lambda z: z}[head["kind"]]
            clip = (-np.inf, np.inf) if head["kind"] == "linear" else (1e-6, 1 - 1e-6)
            columns = [card["fields"].index(name) for name in head["fields"]]
            np.testing.assert_allclose(prediction[:, columns], np.clip(rise(linear), *clip), atol=1e-5)
        for i, name in enumerate(card["fields"]):
            np.testing.assert_allclose(prediction[:, i], scores[f"{name}_head"], atol=1e-6)


def test_cards_name_every_field_once_and_the_constants() -> None:
    """Pins a head that is in no model or in two, and a constant that a reader takes for a fitted head."""
    cards = [json.loads(member().files[f"{model}.json"]) for model in MODELS]
    fields = [name for card in cards for name in card["fields"]]
    assert sorted(fields) == sorted(head.name for head in MARKET.heads)
    constants = {name: why for card in cards for head in card["heads"] for name, why in head["constants"].items()}
    assert constants == {"liquidity_deterioration_prob": "one class only on the fit rows: 0"}
    assert set(member().files) == {f"{m}.{end}" for m in MODELS for end in ("json", "onnx")} | {
        "member.json",
        "normaliser.json",
    }


def test_graphs_keep_to_their_contract() -> None:
    """Pins a graph without its fixed batch, with other names, or with a path of the training machine in it."""
    for model in MODELS:
        data = member().files[f"{model}.onnx"]
        graph = onnx.load_from_string(data).graph
        (given,), (answer,) = graph.input, graph.output
        assert (given.name, answer.name) == ("x", "prediction")
        assert [d.dim_value for d in given.type.tensor_type.shape.dim] == [BATCH, len(FEATURES)]
        assert given.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        assert b".py" not in data


def test_missing_heads_and_wrong_widths_are_refused() -> None:
    """Pins a reader that gets another head's weights, or a graph that runs beside another member's card."""
    files = member().files
    with pytest.raises(BadInput, match=r"nothing.*long_entry_prob"):
        linear_head(files["entry.onnx"], "nothing", len(FEATURES))
    with pytest.raises(SchemaError, match="7 features"):
        linear_head(files["entry.onnx"], "long_entry_prob", 7)
    with pytest.raises(BadInput, match=r"absent.*risk\.onnx"):
        load_member({name: data for name, data in files.items() if name != "risk.onnx"})
    with pytest.raises(SchemaError, match="shapes of its card"):
        load_member(files | {"risk.onnx": files["direction.onnx"]})
    with pytest.raises(SchemaError, match=r"card of risk.*direction"):
        load_member(files | {f"risk.{end}": files[f"direction.{end}"] for end in ("onnx", "json")})
    card = json.loads(files["risk.json"])
    renamed = json.dumps(card | {"fields": ["other", *card["fields"][1:]]}).encode()
    with pytest.raises(BadInput, match=r"the model risk serves its heads.*market_risk_prob"):
        load_member(files | {"risk.json": renamed})
    with pytest.raises(BadInput, match="order hash"):
        load_member(files | {"risk.json": json.dumps(card | {"features": card["features"][::-1]}).encode()})
    with pytest.raises(BadInput, match="format"):
        load_member(files | {"risk.json": json.dumps(card | {"format": 9}).encode()})


def test_a_constant_feature_has_scale_one() -> None:
    """Pins a division by zero, or by the rounding noise of equal values, that a weight then multiplies."""
    x = np.column_stack([np.full(50, 0.1), np.arange(50)]).astype(np.float32)
    scaler = standardise(x)
    assert scaler.scale[0] == 1.0
    assert np.abs(x[:, 0]).max() == 0.0
    np.testing.assert_allclose(x[:, 1].std(), 1.0, rtol=1e-6)
    weights, _ = linear_head(member().files["entry.onnx"], "long_entry_prob", len(FEATURES))
    assert np.abs(weights[FEATURES.index("f5")]).max() == 0.0


def test_fits_that_reach_their_limit_say_so(tmp_path: Path) -> None:
    """Pins a diagnosis that trusts a regressor which did not stop by itself."""
    heads = tuple(head for head in MARKET.heads if head.model == "entry")
    short = fit(LinearHeadsSpec(iterations=1), replace(MARKET, heads=heads), tmp_path).notes["heads"]
    whole = member().notes["heads"]
    for head in heads:
        assert short[head.name]["converged"] is False
        assert whole[head.name]["converged"] is True
        assert 1 < whole[head.name]["iterations"] < LINEAR.iterations


@pytest.mark.parametrize("seed", range(4))
def test_huber_equals_scikit_learns(seed: int) -> None:
    """Pins another objective than Owen's: a fixed scale, a penalty per row, or a penalised intercept."""
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((3_000, 6)).astype(np.float32)
    y = 20 + x[:, :5] @ draw.standard_normal(5) + draw.standard_t(2, 3_000) * 3
    alpha = float(10.0 ** (seed - 1))
    expected = HuberRegressor(epsilon=1.35, alpha=alpha, max_iter=5_000, tol=1e-10).fit(x.astype(np.float64), y)
    found = fit_huber(x, y, alpha=alpha, epsilon=1.35, iterations=500)
    np.testing.assert_allclose(found.weights, expected.coef_, atol=1e-4)
    assert found.bias == pytest.approx(expected.intercept_, abs=1e-4)
    assert found.scale == pytest.approx(expected.scale_, rel=1e-4)
    assert found.converged
    assert found.iterations < 30


def test_huber_shares_a_weight_among_equal_features() -> None:
    """Pins a singular Hessian where one feature is the difference of two others: only the penalty decides there."""
    draw = np.random.default_rng(1)
    x = draw.standard_normal((3_000, 3)).astype(np.float32)
    x[:, 2] = x[:, 0]
    found = fit_huber(x, 4.0 * x[:, 0] + draw.standard_normal(3_000), alpha=1e-3, epsilon=1.35, iterations=500)
    assert found.converged
    assert found.weights[0] == pytest.approx(found.weights[2], rel=1e-3)
    assert found.weights[0] + found.weights[2] == pytest.approx(4.0, abs=0.1)


def test_huber_survives_a_plan_whose_stop_is_most_rows() -> None:
    """Pins a scale that falls to zero where four of five edges are the same stop: the fit would never end."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((20_000, 8)).astype(np.float32)
    y = np.where(draw.random(20_000) < 0.8 - 0.1 * np.tanh(x[:, 0]), -14.5, 5.5)
    found = fit_huber(x, y, alpha=1e-3, epsilon=1.35, iterations=500)
    assert found.converged
    assert found.scale == pytest.approx(LEAST_SCALE * y.std())
    best = _huber_loss(x @ found.weights + found.bias - y, found.scale)
    for _ in range(20):
        step = 0.05 * draw.standard_normal(9)
        moved = x @ (found.weights + step[:8]) + found.bias + step[8] - y
        assert _huber_loss(moved, found.scale) > best


def _huber_loss(residual: np.ndarray, scale: float, epsilon: float = 1.35) -> float:
    z = np.abs(residual) / scale
    return float(scale * np.where(z <= epsilon, z**2, 2 * epsilon * z - epsilon**2).sum())
