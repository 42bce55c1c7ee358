"""The multi-path net on the whole market: memory of one split, and whether gathering keeps up with the net.

Writes a prepared folder (36 GB at full size, deleted afterwards), maps it, builds one split's roles, targets and
normaliser, and trains on whole sessions drawn from all of its history. Everything after writing is the library's own
code; a session's gathering and the net's step are also timed alone. Last, one whole session is scored as in production.

    python -m benchmarks.multi_path_loader [--names 5400] [--sessions 2500] [--train-sessions 40] [--quick]
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.nets import (
    ARRAYS,
    GIB,
    STUDY,
    drop_cache,
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
from pipeline.models.batches import SessionLoader, sessions_of
from pipeline.models.examples import Examples
from pipeline.models.inputs import Inputs
from pipeline.models.training import replayable, train

LIMIT_GIB, LIMIT_SERVING = 10.0, 1.0
STEPS, REPEATS = 5, 3
QUICK = {"names": 300, "sessions": 60, "train_sessions": 8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("names", 5_400), ("sessions", 2_500), ("train-sessions", 40)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--quick", action="store_true", help=f"a size for a smoke test: {QUICK}")
    arguments = parser.parse_args()
    if arguments.quick:
        vars(arguments).update(QUICK)
    with scratch(arguments.names, arguments.sessions) as folder:
        _measure(folder, arguments.names, arguments.sessions, arguments.train_sessions)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    print(f"peak memory of the process: {peak:.2f} GiB, limit {LIMIT_GIB:.0f} GiB: {_verdict(peak < LIMIT_GIB)}")


def _measure(folder: Path, names: int, sessions: int, count: int) -> None:
    started = time.perf_counter()
    store, labels = write_market(folder, names, sessions)
    stored = sum((folder / name).stat().st_size for name in ARRAYS) / GIB
    print(f"written: {stored:.1f} GiB in {time.perf_counter() - started:.0f} s; {_memory()}")
    started = time.perf_counter()
    examples = split_examples(store, labels)
    print(f"one split's roles, targets, normaliser: {time.perf_counter() - started:.0f} s; {_memory()}")
    fit = sessions_of(examples, "fit")
    chosen = np.sort(np.random.default_rng(1).permutation(len(fit))[:count])
    drawn = some_sessions(examples, "fit", [fit[i] for i in chosen])
    with replayable(STUDY.training.seed, STUDY.training.net_threads):
        _train(folder, drawn)
        _serve(folder, examples, fit[-1])


def _train(folder: Path, examples: Examples) -> None:
    sessions = sessions_of(examples, "fit")
    drop_cache(folder)
    gather = lambda: _gather(examples, sessions)  # noqa: E731
    cold, warm = _seconds(gather), min(_seconds(gather) for _ in range(REPEATS))
    served, recipe = net_of(examples, STUDY.training.seed), recipe_of(epochs=2)
    alone = _step_alone(examples, sessions[0]) * len(sessions)
    drop_cache(folder)
    told = [time.perf_counter()]

    def progress(text: str, share: float) -> None:
        if text.startswith(f"epoch {len(told)} of {recipe.epochs}: "):  # not a line from within an epoch
            told.append(time.perf_counter())

    scratch_folder = folder / "training"
    train(served, examples, examples.targets, recipe, folder=scratch_folder, objective=None, progress=progress)
    together = np.diff(told)
    n = len(sessions)
    print(f"{n} sessions, seconds each: gather {cold / n:.3f} from disk, {warm / n:.3f} from the system's cache; "
          f"step {alone / n:.3f} ({STUDY.training.net_threads} thread)")
    print(f"trained, seconds a session: {together[0] / n:.3f} from disk, {together[1] / n:.3f} from cache; {_memory()}")
    print(f"the loader keeps up: {_verdict(cold < alone)}; gather / step {cold / alone:.3f} from disk, "
          f"{warm / alone:.3f} from cache; trained / step {together[0] / alone:.2f} and {together[1] / alone:.2f}")


def _gather(examples: Examples, sessions: list[NDArray[np.int64]]) -> None:
    for _ in SessionLoader(examples, examples.targets, sessions):
        pass


def _step_alone(examples: Examples, rows: NDArray[np.int64]) -> float:
    """Seconds of one step of plain PyTorch on a session that is already in memory."""
    batch = next(iter(SessionLoader(examples, examples.targets, [rows])))
    network, recipe = net_of(examples, 0).network.train(), recipe_of(epochs=1)
    optimiser = optimiser_of(network, recipe)
    step(network, optimiser, batch, recipe)
    return min(_seconds(lambda: step(network, optimiser, batch, recipe)) for _ in range(STEPS))


def _serve(folder: Path, examples: Examples, rows: NDArray[np.int64]) -> None:
    scorer = serving_form(net_of(examples, 0), examples)
    session: Inputs = examples.inputs.take(rows)
    drop_cache(folder)
    cold = _seconds(lambda: scorer.score_inputs(session))
    warm = [_seconds(lambda: scorer.score_inputs(session)) for _ in range(STEPS)]
    met = _verdict(min(warm) < LIMIT_SERVING)
    print(f"one cross-section of {len(rows):,} names scored: {cold:.2f} s from disk, {min(warm):.2f} s from cache "
          f"(median {np.median(warm):.2f}), limit {LIMIT_SERVING:.0f} s: {met}")


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _memory() -> str:
    parts = {name: status_bytes(field) / GIB for name, field in (("peak", "VmHWM"), ("mapped", "RssFile"))}
    return ", ".join(f"{name} {value:.2f} GiB" for name, value in parts.items())


def _verdict(met: bool) -> str:
    return "met" if met else "MISSED"


if __name__ == "__main__":
    main()
