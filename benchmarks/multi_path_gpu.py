"""One full-size split of the multi-path net on a GPU: samples a second, share of the card's peak, memory, equal scores.

Trains through the library's `train` in the precision that the study asks for, then scores one test session with the
weights that came out: on the CPU and the device by torch, and by onnxruntime as in production. Without a GPU it says so
and does the same on the CPU at a small size.

    python -m benchmarks.multi_path_gpu [--names 5400] [--sessions 750] [--epochs 2] [--device auto] [--quick]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.nets import (
    GIB,
    HEADS,
    NET,
    STUDY,
    net_of,
    optimiser_of,
    recipe_of,
    scratch,
    serving_form,
    some_sessions,
    split_examples,
    status_bytes,
    step,
    write_market,
)
from pipeline.models.batches import Batch, sessions_of
from pipeline.models.examples import Examples
from pipeline.models.nets.served import Served
from pipeline.models.training import Recipe, SessionTraining, accelerator_of, precision_of, replayable, train

QUICK = {"names": 300, "sessions": 60}
COUNTED = 64  # rows whose operations are counted; the number grows with the rows
PEAK = {"H200": 989e12, "H100 80GB HBM3": 989e12, "A100": 312e12}  # dense bfloat16 FLOP/s, NVIDIA's data sheets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("names", 5_400), ("sessions", 750), ("epochs", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--quick", action="store_true", help=f"a size for a smoke test: {QUICK}")
    arguments = parser.parse_args()
    if arguments.epochs < 2:
        parser.error("the first epoch also pays for starting: at least 2")
    if arguments.device == "auto" and not torch.cuda.is_available():
        print("no GPU that torch sees: the CPU part only, at a small size")
        arguments.quick = True
    if arguments.quick:
        vars(arguments).update(QUICK)
    accelerator = accelerator_of(arguments.device)
    recipe = recipe_of(arguments.epochs, accelerator, precision_of(NET.precision, accelerator))
    with scratch(arguments.names, arguments.sessions) as folder:
        examples = split_examples(*write_market(folder, arguments.names, arguments.sessions))
        with replayable(STUDY.training.seed, STUDY.training.net_threads):
            served = _train(folder, examples, recipe)
            _compare(served, examples, recipe.accelerator)


def _train(folder: Path, examples: Examples, recipe: Recipe) -> Served:
    """The trained net; prints the fastest epoch after the first."""
    rows = sessions_of(examples, "fit")
    drawn, served, ends = some_sessions(examples, "fit", rows), net_of(examples, recipe.seed), [time.perf_counter()]

    def progress(text: str, share: float) -> None:
        if text.startswith(f"epoch {len(ends)} of {recipe.epochs}: "):  # not a line from within an epoch
            ends.append(time.perf_counter())

    train(served, drawn, examples.targets, recipe, folder=folder / "training", objective=None, progress=progress)
    first, *later = np.diff(ends)
    samples, seconds = sum(map(len, rows)), min(later)
    name = torch.cuda.get_device_name() if recipe.accelerator == "cuda" else "CPU"
    print(f"{name}, {recipe.precision}: {samples:,} stock-sessions in {seconds:.2f} s an epoch (first {first:.2f} s), "
          f"{samples / seconds:,.0f} samples/s, {1e3 * seconds / len(rows):.1f} ms a session")  # fmt: skip
    rate = samples / seconds * _operations(examples, recipe)
    peak = next((value for card, value in PEAK.items() if card in name), None)
    share = f", {rate / peak:.2%} of the card's {peak / 1e12:.0f} TFLOP/s" if peak else ", peak unknown"
    print(f"{rate / 1e12:.3f} TFLOP/s forward and backward{share}")
    gathering = _gathering_seconds(served, drawn, recipe)
    print(f"gathering alone {1e3 * gathering / len(rows):.1f} ms a session, {gathering / seconds:.0%} of the epoch; "
          f"it runs beside the net")  # fmt: skip
    held = f"{torch.cuda.max_memory_allocated() / GIB:.2f} GiB of the device, " if recipe.accelerator == "cuda" else ""
    print(f"peak memory: {held}{status_bytes('VmHWM') / GIB:.2f} GiB of the host")
    return served


def _operations(examples: Examples, recipe: Recipe) -> float:
    """Floating-point operations of products, forward and backward, per stock-session; counted on the CPU."""
    tensors = examples.inputs.tensors(examples.rows("fit")[:COUNTED]).values()
    batch = Batch(tuple(map(torch.from_numpy, tensors)), torch.from_numpy(examples.targets[:COUNTED]))
    network = net_of(examples, 0).network.train()
    with FlopCounterMode(display=False) as counter:
        step(network, optimiser_of(network, recipe), batch, recipe)
    return counter.get_total_flops() / COUNTED


def _gathering_seconds(served: Served, examples: Examples, recipe: Recipe) -> float:
    module = SessionTraining(served, examples, examples.targets, recipe, lambda text, share: None)
    started = time.perf_counter()
    for _ in module.loader(module.sessions):
        pass
    return time.perf_counter() - started


def _compare(served: Served, examples: Examples, accelerator: str) -> None:
    """Scores of one test session: largest differences from onnxruntime's, head by head."""
    inputs = examples.inputs.take(sessions_of(examples, "test")[-1])
    expected = serving_form(served, examples).predict(inputs)
    tensors = tuple(map(torch.from_numpy, inputs.tensors(np.arange(len(inputs))).values()))
    served.eval()
    with torch.no_grad():
        for device in dict.fromkeys(("cpu", accelerator)):
            scores = served.to(device)(*(part.to(device) for part in tensors)).cpu().numpy()
            gaps = np.abs(scores - expected).max(axis=0)
            told = ", ".join(f"{head.name} {gap:.1e}" for head, gap in zip(HEADS, gaps, strict=True))
            print(f"torch on {device} beside onnxruntime, {len(inputs):,} names, largest differences: {told}")
    served.cpu()


if __name__ == "__main__":
    main()
