"""What is particular to a family: the ridge's algebra, binning, the net's graph, losses, epoch selection."""

from __future__ import annotations

import math
from pathlib import Path

import lightgbm
import numpy as np
import onnx
import polars as pl
import pytest
import torch
from scipy.optimize import minimize

from pipeline.errors import BadInput
from pipeline.models.boosted import _parameters
from pipeline.models.examples import Examples, learnable_heads, roles_of, targets_of
from pipeline.models.export import network_graph
from pipeline.models.inputs import fit_normaliser, inputs_of
from pipeline.models.linear import _to_logit, ridge
from pipeline.models.members import fit_member
from pipeline.models.metrics import auc, session_rank_ic
from pipeline.models.nets.fitting import network_of
from pipeline.models.nets.served import Served
from pipeline.models.onnx_runtime import load_graph
from pipeline.models.spec import Layout
from tests.models.small_market import HEADS, MEMBERS, TRAINING, small_market

LINEAR, BOOSTED, NET = MEMBERS[:3]
MARKET = small_market()
PREPARED = MARKET.prepared


def examples(layout: Layout | None = None) -> Examples:
    role, targets = roles_of(PREPARED, MARKET.roles), targets_of(PREPARED, MARKET.labels, HEADS)
    read = layout or Layout()
    inputs = inputs_of(PREPARED, fit_normaliser(PREPARED, role == "fit", read), read)
    return Examples(inputs, targets, learnable_heads(targets[role == "fit"], HEADS), role)


def fit(spec, folder: Path, **extra):
    return fit_member(spec, TRAINING, HEADS, PREPARED, MARKET.labels, MARKET.roles, workdir=folder, **extra)


@pytest.mark.parametrize("seed", range(3))
def test_ridge_equals_an_augmented_least_squares_per_head(seed: int) -> None:
    """Pins masks that mix up rows between heads, a penalised intercept, and block borders."""
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((300, 5)).astype(np.float32)
    y = draw.standard_normal((300, 4)).astype(np.float32)
    y[draw.random(300) < 0.3, :2] = np.nan
    y[draw.random(300) < 0.3, 3] = np.nan
    found = ridge(x, y, 0.05)
    for head in range(4):
        known = ~np.isnan(y[:, head])
        root = np.sqrt(0.05 * known.sum())
        design = np.column_stack([x[known], np.ones(known.sum())]).astype(np.float64)
        augmented = np.vstack([design, root * np.eye(5, 6)])
        target = np.append(y[known, head].astype(np.float64), np.zeros(5))
        expected = np.linalg.lstsq(augmented, target, rcond=None)[0]
        np.testing.assert_allclose(found[:, head], expected, atol=1e-10)


def test_ridge_scores_equal_the_solution_in_memory(tmp_path: Path) -> None:
    """Pins a transposed weight, a lost intercept or a wrong logit in the exported graph."""
    member, ex = fit(LINEAR, tmp_path), examples()
    rows = ex.rows("fit")
    weights = ridge(ex.inputs.x[rows], ex.targets[rows], LINEAR.penalty)
    scored = ex.rows("tune", "test")
    linear = ex.inputs.x[scored].astype(np.float64) @ weights[:-1] + weights[-1]
    for column, head in enumerate(ex.heads):
        expected = linear[:, column]
        if head.kind == "probability":
            seen = ex.inputs.x[rows].astype(np.float64) @ weights[:-1, column] + weights[-1, column]
            slope, intercept = _likeliest(seen, ex.targets[rows, column].astype(np.float64))
            expected = 1 / (1 + np.exp(-(slope * expected + intercept)))
        np.testing.assert_allclose(member.scores[f"{head.name}_head"].to_numpy(), expected, atol=1e-4)


def _likeliest(linear: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Slope and intercept of the logit with the largest likelihood, found without a gradient."""
    known = ~np.isnan(truth)
    z, y = linear[known], truth[known]
    loss = lambda theta: np.logaddexp(0.0, theta[0] * z + theta[1]).sum() - (y * (theta[0] * z + theta[1])).sum()  # noqa: E731
    found = minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-10, "maxiter": 4000})
    return np.asarray(found.x)


def test_a_rare_probability_head_is_no_worse_than_its_prevalence() -> None:
    """Pins the overshoot of one Newton step: 40 positives of 20,000 and 50 features of noise."""
    draw = np.random.default_rng(3)
    x, y = draw.standard_normal((20_000, 50)).astype(np.float32), np.zeros(20_000, np.float32)
    y[:40] = 1.0
    weights = ridge(x, y[:, None], 1e-3)[:, 0]
    _to_logit(weights, x, y)
    p = 1 / (1 + np.exp(-(x @ weights[:-1] + weights[-1])))
    assert p.mean() == pytest.approx(y.mean(), rel=1e-2)
    assert ((p - y) ** 2).mean() <= ((y.mean() - y) ** 2).mean()


def test_boosters_equal_one_fresh_dataset_per_head(tmp_path: Path) -> None:
    """Pins a label that stays from the head before, a subset of other rows, and a lossy text."""
    member, ex = fit(BOOSTED, tmp_path), examples()
    rows, scored = ex.rows("fit"), ex.rows("tune", "test")
    for column, head in enumerate(ex.heads):
        known = np.flatnonzero(~np.isnan(ex.targets[rows, column]))
        parameters = _parameters(BOOSTED, TRAINING)
        fresh = lightgbm.Dataset(ex.inputs.x[rows], params=parameters).construct().subset(known).construct()
        fresh.set_label(ex.targets[rows[known], column])
        objective = "binary" if head.kind == "probability" else "regression"
        alone = lightgbm.train(parameters | {"objective": objective}, fresh, num_boost_round=BOOSTED.rounds)
        served = member.scores[f"{head.name}_head"].to_numpy()
        np.testing.assert_array_equal(alone.predict(ex.inputs.x[scored]).astype(np.float32), served)


def test_boosted_scores_do_not_depend_on_threads(tmp_path: Path) -> None:
    """Pins scores that change when a study is trained on fewer cores."""
    served = [
        fit_member(
            BOOSTED,
            TRAINING.model_copy(update={"threads": threads}),
            HEADS,
            PREPARED,
            MARKET.labels,
            MARKET.roles,
            workdir=tmp_path,
        ).scores
        for threads in (1, 2)
    ]
    assert served[0].equals(served[1])


def test_exported_net_equals_torch_within_tolerance() -> None:
    """Pins an export that drops a gate, a path or the unit of a regression head."""
    torch.manual_seed(0)
    ex = examples(NET.layout)
    network = network_of(NET, ex)
    served = Served(
        network,
        [False, True, True, False],
        np.array([0, 0, 0, 0.2], np.float32),
        np.array([1, 1, 1, 3], np.float32),
    )
    found = ex.inputs.tensors(np.arange(len(ex.inputs)))
    example = tuple(torch.zeros(64, *part.shape[1:], dtype=torch.from_numpy(part).dtype) for part in found.values())
    graph = network_graph(served, example, tuple(found))
    with torch.no_grad():
        tensors = tuple(torch.from_numpy(part) for part in found.values())
        expected = served.eval()(*tensors).numpy()
        raw = network(*tensors).numpy()
    np.testing.assert_allclose(load_graph(graph, 64)(ex.inputs), expected, atol=1e-5)
    np.testing.assert_allclose(expected[:, 3], raw[:, 3] * 3 + 0.2, rtol=1e-5)
    np.testing.assert_allclose(expected[:, 1], 1 / (1 + np.exp(-raw[:, 1])), atol=1e-6)


def test_graphs_hold_no_paths_and_no_outside_data(tmp_path: Path) -> None:
    """Pins file paths of the training machine in a bundle, and weights in a second file."""
    for spec in (LINEAR, NET):
        data = fit(spec, tmp_path).files["model.onnx"]
        assert b".py" not in data
        assert b"site-packages" not in data
        model = onnx.load_from_string(data)
        assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == TRAINING.serving_batch


def test_the_best_epoch_is_kept(tmp_path: Path) -> None:
    """Pins the last epoch being served whatever the objective says; and what the objective gets to see."""
    values, seen = iter([1.0, 3.0, 2.0]), []

    def objective(scores: pl.DataFrame) -> float:
        seen.append(scores)
        return next(values)

    best = fit(NET, tmp_path, objective=objective)
    assert best.curves["objective"].to_list() == [1.0, 3.0, 2.0]
    assert best.curves["epoch"].to_list() == [0, 1, 2]
    tune = best.scores.filter(role="tune").drop("role")
    assert seen[0].columns == tune.columns
    for column in tune.columns[2:]:
        np.testing.assert_allclose(seen[1][column].to_numpy(), tune[column].to_numpy(), atol=1e-5)
    assert not np.allclose(seen[2]["rank_head"], tune["rank_head"], atol=1e-3)
    losses = best.curves["tune_loss"].to_list()
    assert best.notes["epoch_by_objective"] == best.notes["epoch"] == 1
    assert best.notes["epoch_by_loss"] == losses.index(min(losses))
    assert best.files["model.onnx"] == best.checkpoints["epoch_001.onnx"]
    assert len(best.checkpoints) == 3


def test_the_epoch_of_least_tune_loss_is_kept_where_the_study_says_so(tmp_path: Path) -> None:
    """Pins a rule that is reported and not followed."""
    values = iter([1.0, 3.0, 2.0])
    member = fit(NET.model_copy(update={"select": "loss"}), tmp_path, objective=lambda scores: next(values))
    by_loss = member.notes["epoch_by_loss"]
    assert member.notes["epoch"] == by_loss
    assert member.notes["epoch_by_objective"] == 1
    assert member.files["model.onnx"] == member.checkpoints[f"epoch_{by_loss:03d}.onnx"]


def test_an_objective_that_is_never_finite_keeps_the_last_epoch(tmp_path: Path) -> None:
    """Pins a backtest without trades (NaN) that leaves untrained weights in the bundle."""
    seen: list[pl.DataFrame] = []
    short = NET.model_copy(update={"epochs": 2})
    member = fit(short, tmp_path, objective=lambda scores: seen.append(scores) or math.nan)
    served = member.scores.filter(role="tune")["rank_head"].to_numpy()
    np.testing.assert_allclose(served, seen[1]["rank_head"].to_numpy(), atol=1e-5)
    assert not np.allclose(served, seen[0]["rank_head"].to_numpy(), atol=1e-3)


def test_a_diverging_training_stops_with_its_reason(tmp_path: Path) -> None:
    """Pins NaN weights that are exported as if nothing had happened."""
    with pytest.raises(BadInput, match="training loss is finite"):
        fit(NET.model_copy(update={"learning_rate": 1e30}), tmp_path)


def test_rank_ic_and_auc_equal_plain_definitions() -> None:
    """Pins ties, thin sessions and flat sessions in the reported metrics."""
    from scipy.stats import spearmanr

    draw = np.random.default_rng(0)
    session = np.repeat(np.arange(6), [5, 2, 9, 4, 3, 7]).astype(np.int32)
    truth = draw.integers(0, 5, len(session)).astype(np.float32)
    score = draw.integers(0, 5, len(session)).astype(np.float32)
    score[session == 3] = 1.0
    found = session_rank_ic(truth, score, session)
    expected = [spearmanr(truth[session == s], score[session == s])[0] for s in (0, 2, 4, 5)]
    np.testing.assert_allclose(np.delete(found, 2), expected, atol=1e-6)
    assert np.isnan(found[2])
    y, p = draw.integers(0, 2, 50).astype(float), draw.integers(0, 9, 50).astype(float)
    pairs = [(a > b) + 0.5 * (a == b) for a in p[y == 1] for b in p[y == 0]]
    assert auc(y, p) == pytest.approx(np.mean(pairs))
