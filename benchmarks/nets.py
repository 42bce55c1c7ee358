"""What the benchmarks of the multi-path net share: a made-up store of any size, one split, the net, memory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from pipeline.features.plan import plan
from pipeline.fingerprints import canonical_json
from pipeline.models.batches import Batch
from pipeline.models.examples import Examples, learnable_heads, roles_of, targets_of
from pipeline.models.export import network_graph
from pipeline.models.inputs import fit_normaliser, inputs_of
from pipeline.models.losses import head_losses
from pipeline.models.nets.fitting import network_of
from pipeline.models.nets.served import Served
from pipeline.models.onnx_runtime import FILE
from pipeline.models.prepared import ARRAYS, META, ROWS, Prepared, open_prepared
from pipeline.models.preparing import Part, prepare_folder
from pipeline.models.scoring import MEMBER_FILE, NORMALISER_FILE, Card, Scorer, load_member
from pipeline.models.spec import MultiPathNetSpec
from pipeline.models.training import GRADIENT_NORM, Recipe
from pipeline.stages.stored_inputs import member_reads
from pipeline.studies.ashare_daily import STUDY

NET = next(member for member in STUDY.members if isinstance(member, MultiPathNetSpec))
HEADS = STUDY.labels.heads
READS = member_reads(STUDY, minutes=True)
FEATURES = plan(STUDY.features).features
SCOPES = {feature.name: feature.scope for feature in FEATURES}
BLOCK = 10  # sessions that are made; the others repeat them under their own dates, on blocks of the disk of their own
GIB = 2**30
SPARE = 4 * GIB


def folder_bytes(names: int, sessions: int) -> int:
    """Size of the arrays of a market in which every name is eligible on every session."""
    row = len(SCOPES) + READS.bars * len(READS.channels) + len(READS.categories)
    return 4 * names * sessions * row


@contextmanager
def scratch(names: int, sessions: int) -> Iterator[Path]:
    """A temporary folder with room for a market, gone afterwards; stops before a disk would run full."""
    with TemporaryDirectory(prefix="multi_path_") as name:
        wanted, free = folder_bytes(names, sessions), shutil.disk_usage(name).free
        print(f"{names:,} names x {sessions:,} sessions: {wanted / GIB:.1f} GiB on disk, {free / GIB:.0f} GiB free")
        if free < wanted + SPARE:
            raise SystemExit("not enough: set TMPDIR to a larger disk, or ask for fewer --names or --sessions")
        yield Path(name)


def write_market(folder: Path, names: int, sessions: int, seed: int = 1) -> tuple[Prepared, pl.DataFrame]:
    """A prepared folder of random rows, and labels that a net can learn a little of.

    The first `BLOCK` sessions go through `prepare_folder`, which decides the layout; their bytes are then repeated.

    Returns
    -------
    (Prepared, DataFrame)
        The store, and `session`, `instrument` and one column per head of the study.
    """
    block, days = folder / "block", _weekdays(sessions)
    block.mkdir()
    part = _part(names, days[:BLOCK], seed)
    prepare_folder(block, [part], SCOPES, READS)
    made = min(BLOCK, sessions)
    for name in ARRAYS:
        data = (block / name).read_bytes()
        with (folder / name).open("wb") as file:
            for first in range(0, sessions, made):
                file.write(memoryview(data)[: len(data) // made * min(made, sessions - first)])
            file.flush()
            os.fsync(file.fileno())  # a page that is not yet on disk could not be dropped from the cache
    meta = json.loads((block / META).read_text())
    meta["sessions"] = [day.isoformat() for day in days]
    meta["arrays"] = {name: (kind, [names * sessions, *shape[1:]]) for name, (kind, shape) in meta["arrays"].items()}
    (folder / META).write_text(canonical_json(meta))
    keys = _keys(names, days)
    keys.write_parquet(folder / ROWS)
    truth = _labels(open_prepared(block, "block"), seed)
    shutil.rmtree(block)
    repeated = truth[np.arange(len(keys)) % len(truth)]
    return open_prepared(folder, f"{names} x {sessions}, seed {seed}"), keys.hstack(repeated)


def split_examples(store: Prepared, labels: pl.DataFrame) -> Examples:
    """What `fit_member` builds of a split before it trains: roles, targets, normaliser, heads, inputs."""
    role = roles_of(store, _roles(labels.select("session", "instrument"), store.sessions))
    targets = targets_of(store, labels, HEADS)
    normaliser = fit_normaliser(store, role == "fit", NET.layout)
    heads = learnable_heads(targets[role == "fit"], HEADS)
    return Examples(inputs_of(store, normaliser, NET.layout), targets, heads, role)


def some_sessions(examples: Examples, role: str, rows: Sequence[NDArray[np.int64]]) -> Examples:
    """The same split with `role` kept on the given rows alone, and no other role."""
    kept = np.full(len(examples.role), "unused", object)
    kept[np.concatenate(rows)] = role
    return replace(examples, role=kept)


def net_of(examples: Examples, seed: int) -> Served:
    """The study's net with fresh weights; labels are in their own units."""
    torch.manual_seed(seed)
    flat = np.zeros(len(HEADS), np.float32)
    probability = [head.kind == "probability" for head in examples.heads]
    return Served(network_of(NET, examples), probability, flat, flat + 1.0)


def recipe_of(epochs: int, accelerator: Literal["cpu", "cuda"] = "cpu", precision: str = "32-true") -> Recipe:
    """The study's own, for so many epochs."""
    return Recipe(
        epochs=epochs,
        learning_rate=NET.learning_rate,
        weight_decay=NET.weight_decay,
        rank_loss=NET.rank_loss,
        quantile=NET.quantile,
        uncertainty_weighting=False,
        select="loss",
        accelerator=accelerator,
        precision=precision,
        seed=STUDY.training.seed,
    )


def optimiser_of(network: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )


def step(network: torch.nn.Module, optimiser: torch.optim.Optimizer, batch: Batch, recipe: Recipe) -> torch.Tensor:
    """One step of plain PyTorch on one session: what training costs without any of our code around it."""
    kinds = [head.kind for head in HEADS]
    raw = network(*batch.inputs)
    losses = head_losses(raw, batch.targets, kinds, rank_loss=recipe.rank_loss, quantile=recipe.quantile)
    loss = losses.values.sum()
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
    optimiser.step()
    return loss.detach()


def serving_form(served: Served, examples: Examples) -> Scorer:
    """The net through its files and onnxruntime, as a bundle serves it."""
    batch = STUDY.training.serving_batch
    first = examples.inputs.tensors(np.zeros(batch, np.int64))
    zeros = tuple(torch.zeros_like(torch.from_numpy(part)) for part in first.values())
    card = Card(NET.name, NET.family, examples.heads, NET.layout, batch)
    graph = network_graph(served.eval(), zeros, tuple(first))
    return load_member(
        {FILE: graph, MEMBER_FILE: card.to_json(), NORMALISER_FILE: examples.inputs.normaliser.to_json()}
    )


def _roles(keys: pl.DataFrame, sessions: Sequence[date]) -> pl.DataFrame:
    """One CPCV(6, 2) split by session: the second and fifth sixth are test, the fourth tunes."""
    sixth = np.arange(len(sessions)) * 6 // len(sessions)
    role = np.where(np.isin(sixth, (1, 4)), "test", np.where(sixth == 3, "tune", "fit"))
    by_session = pl.DataFrame({"session": sessions, "role": role.tolist()})
    return keys.join(by_session, on="session", maintain_order="left")


def status_bytes(field: str) -> int:
    """A field of this process's memory, such as VmHWM (peak), VmRSS, RssAnon or RssFile."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def restart_peak() -> None:
    """Let VmHWM count from now on."""
    Path("/proc/self/clear_refs").write_text("5")


def drop_cache(folder: Path) -> None:
    """Forget the arrays' pages, so that the next reader goes to the disk."""
    for name in ARRAYS:
        with (folder / name).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _weekdays(count: int) -> list[date]:
    days = [date(2014, 1, 1) + timedelta(days=i) for i in range(2 * count + 7)]
    return [day for day in days if day.weekday() < 5][:count]


def _keys(names: int, days: Sequence[date]) -> pl.DataFrame:
    codes = pl.Series("instrument", [f"{i:06d}.SZ" for i in range(names)])
    return pl.DataFrame({"session": days}).join(codes.to_frame(), how="cross")


def _part(names: int, days: Sequence[date], seed: int) -> Part:
    """Normal features (small whole numbers where they are embedded), normal channels, a twentieth missing."""
    rng, keys = np.random.default_rng(seed), _keys(names, days)
    columns = {}
    for feature in FEATURES:
        values = rng.standard_normal(len(keys), np.float32)
        if feature.name in READS.categories:
            values = rng.integers(0, 6, len(keys)).astype(np.float32)
        elif feature.scope == "market":
            values = np.repeat(rng.standard_normal(len(days), np.float32), names)
        else:
            values[rng.random(len(keys), np.float32) < 0.05] = np.nan
        columns[feature.name] = values
    features = keys.hstack(pl.DataFrame(columns))
    held = len(READS.channels)
    bars = rng.standard_normal((len(keys) * READS.bars, held), np.float32)
    bars[rng.random(len(bars), np.float32) < 0.05] = np.nan
    channels = pl.Series(bars.reshape(len(keys), -1), dtype=pl.Array(pl.Float32, READS.bars * held))
    panel = {name: _category(rng, len(keys)) for name in READS.categories if name not in SCOPES}
    standing = keys.with_columns(eligible=pl.lit(True), **panel)
    return Part(features, standing, keys.with_columns(channels=channels))


def _category(rng: np.random.Generator, rows: int) -> pl.Series:
    return pl.Series(np.array([f"kind {i}" for i in range(30)])[rng.integers(0, 30, rows)].tolist())


def _labels(store: Prepared, seed: int) -> pl.DataFrame:
    """Every head follows two features, and mostly chance."""
    rng = np.random.default_rng(seed + 1)
    values = np.asarray(store.values)
    signal = values[:, 0] + values[:, 1] + rng.standard_normal(len(store), np.float32)
    out: dict[str, NDArray[np.float32]] = {}
    for head in HEADS:
        noisy = signal + rng.standard_normal(len(store), np.float32)
        if head.kind == "probability":
            out[head.name] = (noisy > np.quantile(noisy, 0.9)).astype(np.float32)
        else:
            out[head.name] = np.abs(noisy) if head.kind == "regression" else np.tanh(noisy)
    return pl.DataFrame(out)
