"""Training the multi-path net from stored rows beside a plain PyTorch loop over windows that were built beforehand.

Same net, optimiser, seed, order of sessions and number of threads; each side runs in its own process. Ours is the
library's `train`, which gathers every session's windows from a mapped folder; the other holds all windows as dense
tensors, so that a session is a slice. Losses and weights after every epoch must be the same before a ratio is printed.

    python -m benchmarks.multi_path_dense [--names 800] [--sessions 250] [--epochs 3] [--repeats 2] [--quick]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from benchmarks.nets import (
    GIB,
    STUDY,
    net_of,
    optimiser_of,
    recipe_of,
    scratch,
    some_sessions,
    split_examples,
    status_bytes,
    step,
    write_market,
)
from pipeline.fingerprints import hash_bytes
from pipeline.models.batches import Batch, SessionLoader, sessions_of
from pipeline.models.examples import Examples
from pipeline.models.prepared import open_prepared
from pipeline.models.training import replayable, train

LABELS = "labels.parquet"
SIDES = ("ours", "dense")
QUICK = {"names": 200, "sessions": 60, "epochs": 2, "repeats": 1}
SMALL = (12, 42)  # names, sessions
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("names", 800), ("sessions", 250), ("epochs", 3), ("repeats", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--quick", action="store_true", help=f"a size for a smoke test: {QUICK}")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(_side(arguments.side, arguments.folder, arguments.epochs)))
        return
    if arguments.quick:
        vars(arguments).update(QUICK)
    with scratch(arguments.names, arguments.sessions) as folder:
        write_market(folder, arguments.names, arguments.sessions)[1].write_parquet(folder / LABELS)
        runs = [
            {side: _process(side, folder, arguments.epochs) for side in SIDES} for _ in range(arguments.repeats)
        ]
    _report(runs)


def _process(side: str, folder: Path, epochs: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.multi_path_dense", "--side", side, "--folder", str(folder)]
    run = subprocess.run([*command, "--epochs", str(epochs)], check=True, capture_output=True, text=True)
    return dict(json.loads(run.stdout.splitlines()[-1]))


def _report(runs: list[dict[str, dict[str, Any]]]) -> None:
    ours, dense = runs[0]["ours"], runs[0]["dense"]
    gap = max(abs(a - b) for a, b in zip(ours["losses"], dense["losses"], strict=True))
    same = ours["weights"] == dense["weights"]
    if gap > 1e-6:
        raise SystemExit(f"losses differ by {gap:.1e}: no ratio is printed for different answers")
    print(f"losses of {len(ours['losses'])} epochs differ by {gap:.1e} at most; weights after every epoch "
          f"{'are the same bits' if same else 'differ in their last bits'}")  # fmt: skip
    seconds, busy = (
        {side: min(second for run in runs for second in run[side][clock]) for side in SIDES}
        for clock in ("seconds", "processor")
    )
    memory = {side: min(run[side]["memory"] for run in runs) for side in SIDES}
    for side in SIDES:
        peak = min(run[side]["peak"] for run in runs) / GIB
        print(f"{side:5}: epoch {seconds[side]:.2f} s ({busy[side]:.2f} s of processor time), "
              f"{memory[side] / MIB:,.0f} MiB for data (process {peak:.2f} GiB)")  # fmt: skip
    print(f"ours / dense: {seconds['dense'] / seconds['ours']:.2f} times the speed "
          f"({busy['dense'] / busy['ours']:.2f} by processor time) at "
          f"{memory['ours'] / memory['dense']:.3f} of the memory; targets 1.0 and 0.1")  # fmt: skip


def _side(side: str, folder: Path, epochs: int) -> dict[str, Any]:
    """Seconds of the epochs, losses, hashes of weights, peak memory, and how much of it data took."""
    with replayable(STUDY.training.seed, STUDY.training.net_threads):
        store = open_prepared(folder, folder.name)
        names = len(store) // len(store.sessions)
        _warm_up(names)
        before = status_bytes("VmHWM")
        examples = split_examples(store, pl.read_parquet(folder / LABELS))
        every = [np.arange(low, low + names) for low in range(0, len(store), names)]
        examples = some_sessions(examples, "fit", every)
        found = {"ours": _ours, "dense": _dense}[side](examples, epochs)
    peak = status_bytes("VmHWM")
    return found | {"peak": peak, "memory": peak - before}


def _warm_up(names: int) -> None:
    """What the net itself needs for so many rows, on a market of almost nothing: it is not memory for data."""
    with scratch(*SMALL) as folder:
        examples = split_examples(*write_market(folder, *SMALL))
        rows = sessions_of(examples, "fit")[-1]
        batch = next(iter(SessionLoader(examples, examples.targets, [rows])))
        times = -(-names // len(rows))
        wide = Batch(tuple(part.repeat(times, *[1] * (part.dim() - 1)) for part in batch.inputs),
                     batch.targets.repeat(times, 1))  # fmt: skip
        network, recipe = net_of(examples, 0).network.train(), recipe_of(epochs=1)
        optimiser = optimiser_of(network, recipe)
        for _ in range(2):
            step(network, optimiser, wide, recipe)


def _ours(examples: Examples, epochs: int) -> dict[str, Any]:
    served, recipe, ends = net_of(examples, STUDY.training.seed), recipe_of(epochs), []

    def progress(text: str, share: float) -> None:
        if text.startswith(f"epoch {len(ends) + 1} of {epochs}: "):  # not a line from within an epoch
            ends.append(_clocks())

    with TemporaryDirectory() as folder:
        workdir = Path(folder) / "training"
        found = train(served, examples, examples.targets, recipe, folder=workdir, objective=None, progress=progress)
    return _laps(ends) | {
        "losses": found.curves["loss"].to_list(),
        "weights": [_hash(weights) for weights in found.epochs],
    }


def _dense(examples: Examples, epochs: int) -> dict[str, Any]:
    network, recipe = net_of(examples, STUDY.training.seed).network.train(), recipe_of(epochs)
    optimiser = optimiser_of(network, recipe)
    windows, sessions = _windows(examples), sessions_of(examples, "fit")
    targets = torch.from_numpy(examples.targets)
    ends, losses, weights = [], [], []
    for epoch in range(epochs):
        told = []
        seed = recipe.seed * 100_003 + epoch  # as the library seeds an epoch
        torch.manual_seed(seed)
        for place in np.random.default_rng(seed).permutation(len(sessions)):
            rows = slice(int(sessions[place][0]), int(sessions[place][-1]) + 1)
            batch = Batch(tuple(part[rows] for part in windows), targets[rows])
            told.append(step(network, optimiser, batch, recipe))
        ends.append(_clocks())
        losses.append(float(torch.stack(told).mean()))
        weights.append(_hash(network.state_dict()))
    return _laps(ends) | {"losses": losses, "weights": weights}


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _laps(ends: list[tuple[float, float]]) -> dict[str, list[float]]:
    """Wall and processor seconds of every epoch but the first, which also pays for starting."""
    wall, processor = np.diff(ends, axis=0).T
    return {"seconds": wall.tolist(), "processor": processor.tolist()}


def _windows(examples: Examples) -> list[Tensor]:
    """Every row's windows, in memory at once and filled session by session."""
    inputs = examples.inputs
    first = inputs.tensors(np.arange(1)).values()
    windows = [np.empty((len(inputs), *part.shape[1:]), part.dtype) for part in first]
    for rows in sessions_of(examples, "fit"):
        for whole, part in zip(windows, inputs.tensors(rows).values(), strict=True):
            whole[rows] = part
        inputs.store.release()
    return [torch.from_numpy(whole) for whole in windows]


def _hash(weights: Mapping[str, Tensor]) -> str:
    return hash_bytes(b"".join(value.numpy().tobytes() for value in weights.values()))


if __name__ == "__main__":
    main()
