"""The position manager's search on 50,000 minutes, beside a pandas loop of the same rules.

The peer masks a DataFrame per candidate and walks the rows that pass; everything that does not depend on the
candidate (edges, sizes, which side leads) it has computed once, as ours has. First every candidate's metrics must be
equal and the same candidate must win; then both are timed, by the clock and in CPU seconds (of all threads; what
counts on a busy machine). The expanded grid is timed alone. Pass a number to give the peer only every n-th candidate
(its time is scaled up); 1 is the whole grid.

    python -m benchmarks.manager_search [1]
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from itertools import product

import numpy as np
import pandas as pd
import polars as pl

from pipeline.positions.manager import MINUTE_MS, planned_ratio, predicted_edges, side_value, with_truth
from pipeline.positions.manager_kernels import STATISTICS
from pipeline.positions.manager_search import AXES, candidate_config, search
from pipeline.positions.manager_spec import EXPANDED_GRID, GRID, SIDES, ManagerConfig, PlanNumbers

N_MINUTES = 50_000
PLAN = PlanNumbers(
    price_plan_id="fixed_h45_t40_s8", price_plan_config_hash="0" * 64, target_distance_bps=40.0,
    stop_distance_bps=8.0, max_hold_minutes=45, cost_bps=6.5, entry_target_method="PRICE_PLAN_OUTCOME_V1",
)


def minutes() -> pl.DataFrame:
    """Decided minutes with truth: probabilities spread over their whole range, so that every gate bites."""
    rng = np.random.default_rng(0)
    opened = np.datetime64("2024-01-01T00:00", "us") + np.arange(N_MINUTES) * np.timedelta64(60, "s")
    direction = rng.dirichlet([1.0, 1.0, 1.0], N_MINUTES)
    frame = pl.DataFrame({
        "minute": pl.Series(opened).dt.replace_time_zone("UTC"), "instrument": ["BTCUSDT"] * N_MINUTES,
        "direction_long_prob": direction[:, 0], "direction_short_prob": direction[:, 1],
        "market_risk_prob": rng.random(N_MINUTES), "long_entry_prob": rng.random(N_MINUTES),
        "short_entry_prob": rng.random(N_MINUTES),
    }).with_columns(session=pl.col("minute").dt.date(), split_id=pl.lit("tune_inner"))
    truth = frame.select("session", "instrument", "minute")
    for side in ("long", "short"):
        hit = rng.random(N_MINUTES) < frame[f"{side}_entry_prob"].to_numpy()
        gross = np.where(hit, PLAN.target_distance_bps, -PLAN.stop_distance_bps)
        truth = truth.with_columns(
            pl.Series(f"{side}_gross_edge_bps", gross),
            pl.Series(f"{side}_time_to_exit_ms", rng.integers(1, 46, N_MINUTES) * MINUTE_MS),
            pl.Series(f"{side}_target_hit", hit), pl.Series(f"{side}_stop_hit", ~hit),
            pl.lit(False).alias(f"{side}_timeout_hit"),
            pl.Series(f"{side}_actual_plan_net_edge_bps", gross - PLAN.cost_bps),
        )
    return with_truth(predicted_edges(frame, PLAN), truth, PLAN)


def prepared(rows: pl.DataFrame) -> pd.DataFrame:
    """The peer's table: one row a minute, with sizes at the grid's lowest edge."""
    loosest = candidate_config(ManagerConfig(), GRID, {axis: min(getattr(GRID, axis)) for axis in AXES})
    return pd.DataFrame(rows.with_columns(
        margin=(pl.col("direction_long_prob") - pl.col("direction_short_prob")).abs(),
        long_leads=side_value("LONG") >= side_value("SHORT"),
        at=pl.col("minute").dt.epoch("ms"),
        **{f"{side.lower()}_ratio": planned_ratio(side, loosest.sizing, PLAN) for side in SIDES},
    ).select(pl.exclude("minute", "session")).to_dict(as_series=False))


def peer_trades(frame: pd.DataFrame, point: dict[str, float]) -> pd.DataFrame:
    """One candidate's trades."""
    shared = (frame["margin"] > point["margin"]) & (frame["market_risk_prob"] < point["market_risk"])
    passes = {
        side: shared & (frame[f"direction_{side}_prob"] > point[f"{side}_direction"])
        & (frame[f"{side}_entry_prob"] > point["entry"]) & (frame[f"{side}_predicted_edge_bps"] > point["edge"])
        for side in ("long", "short")
    }
    long = passes["long"] & (~passes["short"] | frame["long_leads"])
    opened = frame[passes["long"] | passes["short"]]
    long = long[opened.index]
    chosen = pd.DataFrame({
        name: np.where(long, opened[f"long_{name}"], opened[f"short_{name}"])
        for name in ("actual_edge_bps", "ratio", "held_ms")
    } | {"at": opened["at"].to_numpy(), "instrument": opened["instrument"].to_numpy()})
    free: dict[str, float] = {}
    taken = []
    for row in chosen.itertuples():
        if row.ratio > 0 and row.at >= free.get(row.instrument, -np.inf):
            taken.append(row.Index)
            free[row.instrument] = row.at + row.held_ms + 5 * MINUTE_MS
    return chosen.loc[taken]


def peer_statistics(trades: pd.DataFrame) -> list[float]:
    """`STATISTICS` of a candidate's trades."""
    n = len(trades)
    if n == 0:
        return [0.0] * (len(STATISTICS) - 1) + [-1_000_000.0]
    weighted = trades["actual_edge_bps"] * trades["ratio"]
    curve = weighted.cumsum()
    drawdown = (curve.cummax().clip(lower=0) - curve).max()
    losing = weighted < 0
    longest = losing.groupby((~losing).cumsum()).sum().max()
    loss = -weighted[losing].sum()
    total, ratio = weighted.sum(), trades["ratio"]
    score = total / n * n**0.5 + 0.03 * total - 0.20 * drawdown - 2 * max(0, 80 - n)
    return [n, (weighted > 0).mean(), trades["actual_edge_bps"].mean(), total / n, total, drawdown,
            weighted[weighted > 0].sum() / loss if loss else np.inf, longest, ratio.mean(), ratio.min(),
            ratio.median(), ratio.max(), score]


def peer(frame: pd.DataFrame, every: int) -> np.ndarray:
    """Every n-th candidate of the grid."""
    points = [dict(zip(AXES, p, strict=True)) for p in product(*(getattr(GRID, axis) for axis in AXES))]
    return np.array([peer_statistics(peer_trades(frame, point)) for point in points[::every]], dtype=float)


def fastest(work: Callable[[], object], times: int) -> tuple[float, float]:
    """Best of several runs: seconds by the clock, CPU seconds."""
    took = []
    for _ in range(times):
        begin, busy = time.perf_counter(), time.process_time()
        work()
        took.append((time.perf_counter() - begin, time.process_time() - busy))
    clock, cpu = zip(*took, strict=True)
    return min(clock), min(cpu)


def check(table: pl.DataFrame, theirs: np.ndarray, every: int) -> None:
    """Equal metrics; when the peer ran the whole grid, the same choice."""
    ours = table.select(STATISTICS).to_numpy()[::every]
    if not np.allclose(ours, theirs, rtol=1e-9, atol=1e-9):
        sys.exit(f"metrics differ by {np.nanmax(np.abs(ours - theirs))}")
    chosen = int(table["chosen"].arg_max() or 0)
    if every == 1 and int(np.argmax(theirs[:, -1])) != chosen:
        sys.exit("another candidate wins")
    trading = int((ours[:, 0] > 0).sum())
    print(f"{len(ours):,} candidates equal, {trading:,} of them trade, up to {ours[:, 0].max():.0f} times")


def main() -> None:
    every = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    rows = minutes()
    found = search(rows, PLAN, GRID)  # compiles the kernels
    frame = prepared(rows)
    theirs = np.empty(0)

    def slow() -> None:
        nonlocal theirs
        theirs = peer(frame, every)

    peer_clock, peer_cpu = (seconds * GRID.size / len(range(0, GRID.size, every)) for seconds in fastest(slow, 1))
    check(found.table, theirs, every)
    clock, cpu = fastest(lambda: search(rows, PLAN, GRID), 10)
    print(f"{GRID.size:,} candidates on {N_MINUTES:,} minutes: ours {clock:.4f} s, pandas {peer_clock:.1f} s, "
          f"ratio {peer_clock / clock:.0f}; CPU {cpu:.4f} s, {peer_cpu:.1f} s, ratio {peer_cpu / cpu:.0f}")
    clock, cpu = fastest(lambda: search(rows, PLAN, EXPANDED_GRID), 5)
    print(f"{EXPANDED_GRID.size:,} candidates: ours {clock:.3f} s, CPU {cpu:.3f} s")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
