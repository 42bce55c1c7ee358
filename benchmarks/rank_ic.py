"""Rank IC at four horizons with quantile returns beside alphalens-reloaded, 278,390 rows.

    python benchmarks/rank_ic.py [--peer-python PATH]

Both start from prices and a factor and end with per-session rank ICs and quantile mean returns; the values are
compared before a ratio is printed. alphalens-reloaded needs its own environment; name its interpreter, or nothing is
compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SESSIONS, NAMES, HORIZONS, QUANTILES = 970, 287, (1, 5, 10, 20), 5


def best_of(call: Callable[[], Any], times: int = 3) -> float:
    """Shortest wall time in seconds, after one warm-up."""
    call()
    laps = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        laps.append(time.perf_counter() - start)
    return min(laps)


def sample(seed: int = 0) -> dict[str, np.ndarray]:
    """Closes and a factor rounded to three digits so that ties occur, both [S, N]."""
    rng = np.random.default_rng(seed)
    moves = rng.normal(0, 0.02, (SESSIONS, NAMES))
    factor = (np.roll(moves, -1, axis=0) * 0.05 + rng.normal(0, 0.02, moves.shape)).round(3)
    return {"closes": 10 * np.exp(np.cumsum(moves, axis=0)), "factor": factor}


def peer(folder: Path) -> None:
    """alphalens' side; runs under the peer's interpreter."""
    import alphalens
    import pandas as pd
    from alphalens import performance
    from alphalens.utils import get_clean_factor_and_forward_returns

    data = np.load(folder / "sample.npz")
    days = pd.bdate_range("2018-01-01", periods=SESSIONS)
    names = [f"{i:06d}" for i in range(NAMES)]
    prices = pd.DataFrame(data["closes"], days, names)
    factor = pd.DataFrame(data["factor"], days, names).stack()
    factor.index.names = ["date", "asset"]

    def run() -> tuple[Any, Any]:
        clean = get_clean_factor_and_forward_returns(
            factor, prices, quantiles=QUANTILES, periods=HORIZONS, filter_zscore=None, max_loss=1.0
        )
        means, _ = performance.mean_return_by_quantile(clean, by_date=True, demeaned=False)
        return performance.factor_information_coefficient(clean), means

    ic, means = run()
    wide = np.stack([means[c].unstack("factor_quantile").to_numpy() for c in means.columns], axis=1)
    np.savez(folder / "peer.npz", ic=ic.to_numpy(), means=wide)
    timing = {"seconds": best_of(run, 1), "version": alphalens.__version__}
    (folder / "peer.json").write_text(json.dumps(timing))


def ours(data: dict[str, np.ndarray]) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """A call that returns rank ICs [S, H] and quantile means [S, H, Q] from a market and a factor frame."""
    import polars as pl

    from pipeline.backtests.ic import forward_returns, information_coefficients
    from pipeline.backtests.market import Market

    shape, sessions = (NAMES, SESSIONS), np.datetime64("2018-01-01") + np.arange(SESSIONS)
    names = np.array([f"{i:06d}" for i in range(NAMES)])
    closes, free = np.ascontiguousarray(data["closes"].T), np.zeros(shape, np.int8)
    market = Market(
        sessions,
        names,
        np.full(NAMES, "main"),
        closes,
        closes,
        np.ones(shape),
        np.ones(shape),
        free,
        free,
        np.full(NAMES, SESSIONS - 1, np.int32),
    )
    factor = pl.DataFrame(
        {
            "session": pl.Series(np.repeat(sessions, NAMES)).cast(pl.Date),
            "instrument": np.tile(names, SESSIONS),
            "factor": data["factor"].ravel(),
        }
    )

    def run() -> tuple[np.ndarray, np.ndarray]:
        found = information_coefficients(factor, forward_returns(market, HORIZONS), QUANTILES)
        shape = (SESSIONS, len(HORIZONS))
        means = found.quantiles["mean_return"].to_numpy().reshape(*shape, QUANTILES)
        return found.ic["rank_ic"].to_numpy().reshape(shape), means

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="interpreter of an environment with alphalens-reloaded")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        peer(arguments.peer)
        return
    data = sample()
    run = ours(data)
    seconds = best_of(run, 10)
    print(f"ours: {1e3 * seconds:.0f} ms for {SESSIONS * NAMES:,} rows at horizons {HORIZONS}")
    if not arguments.peer_python:
        print("alphalens-reloaded: not compared (name its interpreter with --peer-python)")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "sample.npz", **data)
        subprocess.run([arguments.peer_python, __file__, "--peer", name], check=True)
        theirs, timing = np.load(folder / "peer.npz"), json.loads((folder / "peer.json").read_text())
        complete = len(theirs["ic"])  # alphalens drops sessions without a return at the longest horizon
        gaps = [np.abs(a[:complete] - b).max() for a, b in zip(run(), (theirs["ic"], theirs["means"]), strict=True)]
    if not max(gaps) < 1e-12:
        sys.exit(f"rank ICs or quantile means differ by {gaps}: no ratio is printed for different answers")
    print(f"same values as alphalens {timing['version']} on {complete} sessions: largest differences {gaps}")
    print(f"alphalens: {timing['seconds']:.2f} s; ratio {timing['seconds'] / seconds:.0f}")


if __name__ == "__main__":
    main()
