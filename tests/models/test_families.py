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
from pipeline.models.inputs import fit_normaliser, prepare
from pipeline.models.linear import _to_logit, ridge
from pipeline.models.losses import ic_loss, session_loss
from pipeline.models.members import fit_member
from pipeline.models.metrics import _auc, session_rank_ic
from pipeline.models.nets.sequence import SequenceNet, Served
from pipeline.models.onnx_runtime import load_graph
from tests.models.small_market import HEADS, MEMBERS, TRAINING, small_market

LINEAR, BOOSTED, NET = MEMBERS
MARKET = small_market()
PREPARED = prepare(MARKET.features, MARKET.eligible, MARKET.scopes)


def examples(window: int = 1, sequence: tuple[str, ...] = ()) -> Examples:
    role, targets = roles_of(PREPARED, MARKET.roles), targets_of(PREPARED, MARKET.labels, HEADS)
    inputs = PREPARED.inputs(fit_normaliser(PREPARED, role == "fit"), None, window, sequence)
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
    """Pins an export that drops a gate, an activation or the unit of a regression head."""
    torch.manual_seed(0)
    ex = examples(4, ("f0", "market"))
    network = SequenceNet(7, 3, 4, 8, 0.5)
    served = Served(
        network,
        [False, True, True, False],
        np.array([0, 0, 0, 0.2], np.float32),
        np.array([1, 1, 1, 3], np.float32),
    )
    graph = network_graph(served, (torch.zeros(64, 7), torch.zeros(64, 4, 3)), ("x", "sequence"))
    everything = np.arange(len(ex.inputs))
    with torch.no_grad():
        x, sequence = torch.from_numpy(ex.inputs.x), torch.from_numpy(ex.inputs.windows(everything))
        expected = served.eval()(x, sequence).numpy()
        raw = network(x, sequence).numpy()
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


def test_ic_loss_is_one_minus_pearson() -> None:
    """Pins the sign and the scale of the rank heads' loss, and a NaN on flat scores."""
    a, b = torch.tensor([3.0, 1.0, 2.0, 5.0]), torch.tensor([0.1, 0.4, 0.2, 0.9])
    assert float(ic_loss(a, b)) == pytest.approx(1 - np.corrcoef(a, b)[0, 1], abs=1e-6)
    assert float(ic_loss(10 * a - 3, a)) == pytest.approx(0.0, abs=1e-6)
    flat = torch.zeros(4, requires_grad=True)
    ic_loss(flat, b).backward()
    assert torch.isfinite(flat.grad).all()


def test_session_loss_masks_heads() -> None:
    """Pins a head without truth that moves the weights, and NaN targets that poison the sum."""
    raw = torch.randn(5, 3, requires_grad=True)
    nan = float("nan")
    target = torch.tensor([[nan, 1.0, nan]] + [[nan, 0.0, nan]] * 3 + [[nan, nan, 2.0]])
    loss = session_loss(raw, target, ("rank", "probability", "regression"))
    loss.backward()
    probability = torch.nn.functional.binary_cross_entropy_with_logits(raw[:4, 1], target[:4, 1])
    assert loss.item() == pytest.approx((probability + torch.nn.functional.huber_loss(raw[4, 2], target[4, 2])).item())
    assert not raw.grad[:, 0].any()
    assert float(raw.grad[4, 1]) == 0.0
    nothing = torch.zeros(5, 3, requires_grad=True)
    session_loss(nothing, torch.full((5, 3), nan), ("rank", "probability", "regression")).backward()
    assert not nothing.grad.any()


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
    assert _auc(y, p) == pytest.approx(np.mean(pairs))
