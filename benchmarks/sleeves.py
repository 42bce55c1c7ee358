"""The sleeve backtest beside vectorbt's grouped target-percent run, 970 sessions x 300 names.

    python benchmarks/sleeves.py [--peer-python PATH]

First both are run on a market where everything can be traded (two bars a session, one column a name and sleeve, so
that vectorbt can express the protocol) and must give the same gross curve. Then ours is timed with every rule on a
market with blocks, and vectorbt on its plain case: daily target percents at the close, one group. vectorbt needs its
own environment; name its interpreter, or nothing is compared.
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

SESSIONS, NAMES, TOP_K, SLEEVES, EXIT = 970, 300, 10, 3, 3


def best_of(call: Callable[[], Any], times: int = 5) -> float:
    """Shortest wall time in seconds, after one warm-up."""
    call()
    laps = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        laps.append(time.perf_counter() - start)
    return min(laps)


def market_data(seed: int = 0) -> dict[str, np.ndarray]:
    """Opens, closes [S, N] and the names each decision chose [S - 4, k]."""
    rng = np.random.default_rng(seed)
    closes = 10 * np.exp(np.cumsum(rng.normal(0, 0.02, (SESSIONS, NAMES)), axis=0))
    opens = closes * np.exp(rng.normal(0, 0.005, closes.shape))
    chosen = np.array([rng.permutation(NAMES)[:TOP_K] for _ in range(SESSIONS - EXIT - 1)])
    return {"opens": opens, "closes": closes, "chosen": chosen}


def ours(data: dict[str, np.ndarray], blocked: bool) -> tuple[Any, Any, Any]:
    """Market, orders and execution of our side."""
    import polars as pl

    from pipeline.backtests.market import Market
    from pipeline.backtests.spec import ExecutionSpec

    rng = np.random.default_rng(1)
    shape = (NAMES, SESSIONS)
    share = (0.014, 0.07) if blocked else (0.0, 0.0)
    blocks = [np.where(rng.random(shape) < p, 4, 0).astype(np.int8) for p in share]
    names = np.array([f"{i:06d}" for i in range(NAMES)])
    sessions = np.datetime64("2020-01-01") + np.arange(SESSIONS)
    market = Market(
        sessions,
        names,
        np.full(NAMES, "main"),
        np.ascontiguousarray(data["opens"].T),
        np.ascontiguousarray(data["closes"].T),
        np.ones(shape),
        np.full(shape, 1e8),
        *blocks,
        np.full(NAMES, SESSIONS - 1, np.int32),
    )
    decisions = len(data["chosen"])
    orders = pl.DataFrame(
        {
            "session": pl.Series(np.repeat(sessions[:decisions], TOP_K)).cast(pl.Date),
            "rank": pl.Series(np.tile(np.arange(1, TOP_K + 1), decisions), dtype=pl.Int32),
            "instrument": names[data["chosen"].ravel()],
            "weight": np.full(decisions * TOP_K, 1 / TOP_K),
        }
    )
    return market, orders, ExecutionSpec(sleeves=SLEEVES, exit_session=EXIT)


def peer(folder: Path) -> None:
    """vectorbt's side; runs under the peer's interpreter and needs numpy and vectorbt alone."""
    import vectorbt as vbt

    data = dict(np.load(folder / "market.npz"))
    opens, closes, chosen = data["opens"], data["closes"], data["chosen"]
    bars = np.repeat(closes, 2, axis=0)
    bars[0::2] = opens
    size = np.full((2 * SESSIONS, SLEEVES, NAMES), np.nan)
    for t, names in enumerate(chosen):
        size[2 * (t + 1), t % SLEEVES, names] = 1 / TOP_K
        size[2 * (t + EXIT) + 1, t % SLEEVES, names] = 0.0
    wide = np.tile(bars, (1, SLEEVES))
    book = vbt.Portfolio.from_orders(
        wide,
        size.reshape(2 * SESSIONS, -1),
        size_type="targetpercent",
        group_by=np.repeat(np.arange(SLEEVES), NAMES),
        cash_sharing=True,
        init_cash=1 / SLEEVES,
        fees=0.0,
        freq="1D",
    )
    np.save(folder / "peer.npy", np.asarray(book.value()).sum(axis=1)[1::2])
    daily = np.zeros((SESSIONS, NAMES))
    np.put_along_axis(daily[1 : len(chosen) + 1], chosen, 1 / TOP_K, axis=1)

    def plain() -> None:
        vbt.Portfolio.from_orders(
            closes,
            daily,
            size_type="targetpercent",
            group_by=True,
            cash_sharing=True,
            call_seq="auto",
            fees=0.0015,
            freq="1D",
        ).value()

    (folder / "peer.json").write_text(json.dumps({"seconds": best_of(plain), "version": vbt.__version__}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="interpreter of an environment with vectorbt")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        peer(arguments.peer)
        return
    from pipeline.backtests.engine import run_book

    data = market_data()
    market, orders, spec = ours(data, blocked=True)
    seconds = best_of(lambda: run_book(orders, market, spec), 20)
    print(f"ours, every rule, gross and net curve, trades: {1e3 * seconds:.1f} ms ({orders.height} orders)")
    if not arguments.peer_python:
        print("vectorbt: not compared (name its interpreter with --peer-python)")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "market.npz", **data)
        subprocess.run([arguments.peer_python, __file__, "--peer", name], check=True)
        theirs, timing = np.load(folder / "peer.npy"), json.loads((folder / "peer.json").read_text())
    market, orders, spec = ours(data, blocked=False)
    gross = run_book(orders, market, spec).equity["gross"].to_numpy()
    gap = np.abs(gross / theirs[1 : len(gross) + 1] - 1).max()
    if gap > 1e-9:
        sys.exit(f"the gross curves differ by {gap:.2e}: no ratio is printed for different answers")
    print(f"same gross curve as vectorbt {timing['version']}: largest relative difference {gap:.1e}")
    print(
        f"vectorbt, plain grouped target percents: {1e3 * timing['seconds']:.1f} ms; "
        f"ratio {timing['seconds'] / seconds:.1f}"
    )


if __name__ == "__main__":
    main()
