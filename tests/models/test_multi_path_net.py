"""The multi-path net: what each switch removes, what an absent bar may reach, and the bits that are served."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import onnxruntime
import pytest
import torch
from lightgbm import LGBMRegressor
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.errors import BadInput, SchemaError
from pipeline.models.export import network_graph
from pipeline.models.losses import ic_loss
from pipeline.models.metrics import session_rank_ic
from pipeline.models.nets.blocks import AttentionPool, BarEncoder, FiLM
from pipeline.models.nets.multi_path import MultiPathNet, Shape
from pipeline.models.nets.served import Served
from pipeline.models.spec import FILM_PLACES, DailyPathSpec, IntradayPathSpec, MultiPathNetSpec, TowerSpec

FEATURES, CHANNELS, BATCH = 12, 5, 64
COLUMNS = {f"f{i}": i for i in range(FEATURES)}
INTRADAY = IntradayPathSpec(sessions=2, kernels=(1, 5), width=4)
DAILY = DailyPathSpec(window=6, features=("f0", "f3", "f4"))
TOWERS = (
    TowerSpec(name="flow", features=("f1", "f2")),
    TowerSpec(name="context", features=("f5",), categories=("board", "industry")),
    TowerSpec(name="event", categories=("industry",)),
)
EXECUTION, REGIME = ("f6", "f7"), ("f10", "f11")
EVERYTHING: dict[str, object] = {
    "intraday": INTRADAY, "daily": DAILY, "towers": TOWERS, "execution": EXECUTION, "regime": REGIME, "hidden": 16,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads spin where other processes use the cores: these tests then take ten times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def shape(bars: int = 16) -> Shape:
    return Shape(FEATURES, COLUMNS, 4, bars, CHANNELS, {"industry": 7, "board": 3}, 6)


def rows(network: MultiPathNet, n: int = 40, bars: int = 16, seed: int = 0) -> tuple[Tensor, ...]:
    """Random rows with gaps: bars, stock-days and sessions that are absent; the first row has no bar at all."""
    draw = torch.Generator().manual_seed(seed)
    seen = torch.rand(n, 2, bars, generator=draw) > 0.2
    seen[0], seen[1, 0] = False, False
    bar = torch.randn(n, 2, bars, CHANNELS, generator=draw).clamp(-5, 5) * seen.unsqueeze(-1)
    bar[..., -1] = seen
    listed = torch.rand(n, 6, generator=draw) > 0.2
    listed[:, -1] = True
    window = torch.randn(n, 6, 4, generator=draw) * listed.unsqueeze(-1)
    window[..., -1] = listed
    codes = torch.stack([torch.randint(0, size, (n,), generator=draw) for size in (7, 3)], dim=1)
    parts = {"x": torch.randn(n, FEATURES, generator=draw), "daily": window, "bars": bar, "codes": codes}
    return tuple(parts[name] for name in network.inputs)


def build(spec: MultiPathNetSpec, bars: int = 16, seed: int = 3) -> MultiPathNet:
    torch.manual_seed(seed)
    return MultiPathNet(spec, shape(bars))


def disturbed(network: MultiPathNet) -> MultiPathNet:
    """Weights away from their zeros, so that every block has a say."""
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return network.eval()


def served_graph(network: MultiPathNet, example: tuple[Tensor, ...]) -> tuple[Served, bytes]:
    served = Served(network, [False, True] * 3, np.zeros(6, np.float32), np.full(6, 2.0, np.float32)).eval()
    return served, network_graph(served, tuple(torch.zeros_like(part[:BATCH]) for part in example), network.inputs)


def run(graph: bytes, names: tuple[str, ...], parts: tuple[Tensor, ...], order: NDArray[np.int64]) -> NDArray:
    """Scores of `parts[order]`, in calls of one batch padded with zero rows."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    out = []
    for start in range(0, len(order), BATCH):
        index = order[start : start + BATCH]
        feed = {}
        for name, part in zip(names, parts, strict=True):
            feed[name] = np.zeros((BATCH, *part.shape[1:]), part.numpy().dtype)
            feed[name][: len(index)] = part.numpy()[index]
        out.append(session.run(None, feed)[0][: len(index)])
    return np.concatenate(out)


SWITCHES = [
    dict(zip(("intraday", "daily", "towers", "execution"), choice, strict=True))
    for choice in product((None, INTRADAY), (None, DAILY), ((), TOWERS), ((), EXECUTION))
    if any(choice[:3])
]


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda s: "+".join(name for name, part in s.items() if part))
@pytest.mark.parametrize("film", [(), FILM_PLACES], ids=["plain", "film"])
def test_every_combination_of_blocks_learns(switch: dict[str, object], film: tuple[str, ...]) -> None:
    """Pins a switch that leaves a block without gradient, or a NaN where a stock-day has no bar."""
    network = build(MultiPathNetSpec.model_validate({**EVERYTHING, **switch, "film": film, "dropout": 0.0}))
    parts = rows(network)
    target = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(10):
        optimiser.zero_grad()
        loss = (network(*parts) - target).square().mean()
        loss.backward()
        losses.append(loss.item())
        assert all(w.grad is not None and torch.isfinite(w.grad).all() for w in network.parameters())
        optimiser.step()
    assert losses[-1] < 0.98 * losses[0]


@pytest.mark.parametrize(
    "switch",
    [switch for switch in SWITCHES if sum(map(bool, switch.values())) != 2],  # a trace takes a second
    ids=lambda s: "+".join(name for name, part in s.items() if part),
)
def test_every_block_alone_or_switched_off_exports_to_the_values_of_torch(switch: dict[str, object]) -> None:
    """Pins an operator that the exporter traces into something else, and inputs bound in another order."""
    network = disturbed(build(MultiPathNetSpec.model_validate({**EVERYTHING, **switch})))
    parts = rows(network, BATCH)
    served, graph = served_graph(network, parts)
    with torch.no_grad():
        expected = served(*parts).numpy()
    assert np.abs(run(graph, network.inputs, parts, np.arange(BATCH)) - expected).max() < 1e-5
    assert np.ptp(expected, axis=0).min() > 1e-3


@pytest.mark.parametrize("bars", [48, 16])
def test_a_served_row_has_the_same_bits_in_any_batch(bars: int) -> None:
    """Pins a kernel whose sums depend on a row's place or neighbours: live and offline scores would then differ."""
    network = disturbed(build(MultiPathNetSpec.model_validate(EVERYTHING), bars))
    parts = rows(network, 3 * BATCH + 17, bars)
    graph = served_graph(network, parts)[1]
    everyone = np.arange(len(parts[0]))
    expected = run(graph, network.inputs, parts, everyone)
    shuffled = np.random.default_rng(0).permutation(everyone)
    np.testing.assert_array_equal(run(graph, network.inputs, parts, shuffled), expected[shuffled])
    for row in (0, 1, 63, 64, 150, 208):
        np.testing.assert_array_equal(run(graph, network.inputs, parts, np.array([row])), expected[[row]])


def test_two_specs_do_not_share_a_traced_graph() -> None:
    """Pins the cache of traces: the same sizes with other columns selected are another architecture."""
    for execution in (("f6", "f7"), ("f8", "f9")):
        spec = MultiPathNetSpec.model_validate({**EVERYTHING, "intraday": None, "execution": execution})
        network = disturbed(build(spec))
        parts = rows(network, BATCH)
        served, graph = served_graph(network, parts)
        with torch.no_grad():
            expected = served(*parts).numpy()
        assert np.abs(run(graph, network.inputs, parts, np.arange(BATCH)) - expected).max() < 1e-5


@pytest.mark.parametrize("place", FILM_PLACES)
def test_fresh_film_changes_no_bit_and_trained_film_does(place: str) -> None:
    """Pins a modulation that starts away from the identity, draws from the seed, or is wired to no place."""
    plain = build(MultiPathNetSpec.model_validate({**EVERYTHING, "film": ()})).eval()
    modulated = build(MultiPathNetSpec.model_validate({**EVERYTHING, "film": (place,)})).eval()
    parts = rows(plain)
    with torch.no_grad():
        expected = plain(*parts)
        assert torch.equal(modulated(*parts), expected)
        films = [module for module in modulated.modules() if isinstance(module, FiLM)]
        assert films
        for film in films:
            film.weight += 0.5 * torch.randn_like(film.weight)
        assert (modulated(*parts) != expected).any(dim=1).all()


def test_film_stays_in_its_bounds() -> None:
    """Pins an outlier of the market's state that multiplies or flips an embedding."""
    film = FiLM(3, 8, bound=0.5)
    torch.manual_seed(0)
    with torch.no_grad():
        film.weight.normal_(std=50.0)
    regime, x = torch.randn(100, 3), torch.randn(100, 4, 8)
    shift = film(torch.zeros_like(x), regime)
    scale = film(torch.ones_like(x), regime) - shift
    assert shift.abs().max() <= 0.5
    assert scale.min() >= 0.5 - 1e-6
    assert scale.max() <= 1.5 + 1e-6
    assert scale.max() - scale.min() > 0.9
    assert torch.equal(shift, shift[:, :1].expand_as(shift))


def test_absent_steps_weigh_nothing() -> None:
    """Pins attention that reads padding: what an absent step holds must not matter."""
    torch.manual_seed(0)
    pool = AttentionPool(6, heads=2)
    x, present = torch.randn(5, 9, 6), torch.rand(5, 9) > 0.4
    present[:, -1] = True
    noise = torch.where(present.unsqueeze(-1), x, 100.0 * torch.randn_like(x))
    assert torch.equal(pool(x, present), pool(noise, present))
    heads = [
        torch.stack([torch.softmax(pool.score(x[i][present[i]])[:, h], 0) @ x[i][present[i]] for i in range(5)])
        for h in range(2)
    ]
    torch.testing.assert_close(pool(x, present), torch.cat(heads, dim=1))


def test_a_stock_day_without_bars_is_the_absent_token() -> None:
    """Pins a mean over no bars, and an absent day that looks like a flat one."""
    torch.manual_seed(0)
    encoder = BarEncoder(bars=8, channels=3, kernels=(3,), width=4, hidden=5)
    with torch.no_grad():
        encoder.absent.normal_()
    bars = torch.zeros(2, 2, 8, 3)
    bars[1, 1, :, -1] = 1.0
    tokens, seen = encoder(bars)
    assert seen.tolist() == [[False, False], [False, True]]
    assert torch.equal(tokens[~seen], encoder.absent.expand(3, 5))
    assert not torch.allclose(tokens[1, 1], encoder.absent)


def test_bars_of_a_day_reach_that_day_only() -> None:
    """Pins tokens on the wrong steps: with the newest D steps of the window cut off, no bar may matter."""
    network = disturbed(build(MultiPathNetSpec.model_validate({**EVERYTHING, "towers": (), "execution": ()})))
    x, daily, bars = rows(network)[:3]
    assert network.daily is not None
    assert network.intraday is not None
    states: list[Tensor] = []
    network.daily.recur.register_forward_hook(lambda _, __, output: states.append(output[0]))
    with torch.no_grad():
        network(x, daily, bars)
        network(x, daily, torch.zeros_like(bars))
    same = (states[0] == states[1]).all(dim=2)
    assert same[:, :4].all()
    assert not same[2:, 4:].any()


def test_what_the_data_lack_is_named() -> None:
    """Pins a KeyError without the feature's name, and bars of sessions that the window has no step for."""
    with pytest.raises(SchemaError, match="f99"):
        build(MultiPathNetSpec.model_validate({**EVERYTHING, "execution": ("f99",)}))
    tower = TowerSpec(name="context", categories=("venue",))
    with pytest.raises(SchemaError, match="venue"):
        build(MultiPathNetSpec.model_validate({**EVERYTHING, "towers": (tower,)}))
    with pytest.raises(BadInput, match="9 sessions of bars in a window of 6"):
        build(MultiPathNetSpec.model_validate({**EVERYTHING, "intraday": IntradayPathSpec(sessions=9)}))


def planted(sessions: int, seed: int, names: int = 150, bars: int = 16) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Bars [S, n, 1, T, 5] whose return x volume share, summed over the day, moves the rank target [S, n] a little.

    Also the noise features [S, n, F] and the oracle's score. The oracle's rank IC is about 0.29.
    """
    draw = np.random.default_rng(seed)
    bar = draw.standard_normal((sessions, names, 1, bars, CHANNELS), np.float32).clip(-5, 5)
    bar[..., -1] = draw.random(bar.shape[:-1]) > 0.05
    bar *= bar[..., -1:]
    returns, share, seen = bar[:, :, 0, :, 0], bar[:, :, 0, :, 1], bar[:, :, 0, :, -1]
    excess = share - (share.sum(axis=2) / seen.sum(axis=2).clip(1))[..., None]
    oracle = (returns * excess * seen).sum(axis=2)
    outcome = 0.3 * oracle / oracle.std() + np.sqrt(1 - 0.3**2) * draw.standard_normal(oracle.shape)
    target = (outcome.argsort(axis=1).argsort(axis=1) + 0.5) / names - 0.5
    x = 0.3 * draw.standard_normal((sessions, names, FEATURES), np.float32)
    return bar, x, target.astype(np.float32), oracle


def mean_rank_ic(score: NDArray, target: NDArray) -> float:
    session = np.repeat(np.arange(len(target)), target.shape[1])
    return float(np.mean(session_rank_ic(target.ravel(), score.ravel(), session)))


def test_a_product_inside_the_bars_is_learned_where_trees_miss_it() -> None:
    """Pins an encoder that averages returns and volumes apart: 80% of the oracle's rank IC after three epochs."""
    bars, x, target, _ = planted(100, seed=0)
    later, later_x, later_target, oracle = planted(40, seed=1)
    spec = MultiPathNetSpec(intraday=IntradayPathSpec(sessions=1), execution=EXECUTION, film=(), hidden=32)
    torch.manual_seed(7)
    network = MultiPathNet(spec, Shape(FEATURES, COLUMNS, 0, bars.shape[3], CHANNELS, {}, 1))
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-4)
    known = torch.ones(target.shape[1], 1, dtype=torch.bool)
    for session in np.random.default_rng(0).permutation(np.tile(np.arange(len(x)), 3)):
        optimiser.zero_grad()
        raw = network(torch.from_numpy(x[session]), torch.from_numpy(bars[session]))
        ic_loss(raw, torch.from_numpy(target[session])[:, None], known).sum().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    with torch.no_grad():
        score = network.eval()(*(torch.from_numpy(part).flatten(0, 1) for part in (later_x, later))).numpy()
    trees = LGBMRegressor(n_estimators=60, num_leaves=31, learning_rate=0.08, n_jobs=1, verbose=-1)
    trees.fit(bars.reshape(target.size, -1), target.ravel())
    flat = trees.predict(later.reshape(later_target.size, -1))
    ceiling = mean_rank_ic(oracle, later_target)
    assert ceiling > 0.25
    assert mean_rank_ic(score[:, 0], later_target) > 0.8 * ceiling
    assert mean_rank_ic(np.asarray(flat), later_target) < 0.6 * ceiling
