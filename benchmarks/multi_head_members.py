"""Multi-head members on 260,000 made-up minutes of 70 features, one thread.

First the Huber fit beside scikit-learn's: the same minimum must be reached, then both are timed. Then all heads of
the five linear models are fitted, and one live minute is scored through their graphs: from its features alone, and
from inputs that are already there.

    python -m benchmarks.multi_head_members
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.linear_model import HuberRegressor
from threadpoolctl import threadpool_limits

from pipeline.labels.minute_models import five_models
from pipeline.models.heads.huber import fit_huber
from pipeline.models.members import fit_member
from pipeline.models.preparing import prepare
from pipeline.models.scoring import load_member
from pipeline.models.spec import LinearHeadsSpec, TrainingSpec

N_FIT, N_TUNE, N_FEATURES = 260_000, 20_000, 70
KEY = ["session", "instrument", "minute"]
SPEC = LinearHeadsSpec()


def fastest(work: Callable[[], object], times: int) -> float:
    """Best of several runs, seconds."""
    took = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        took.append(time.perf_counter() - begin)
    return min(took)


def compare_huber(x: np.ndarray, edge: np.ndarray) -> None:
    """Equal fitted values, then the ratio."""
    options = {"alpha": SPEC.huber_alpha, "epsilon": SPEC.huber_epsilon}
    wide = x.astype(np.float64)
    theirs = HuberRegressor(max_iter=SPEC.iterations, **options).fit(wide, edge)
    ours = fit_huber(x, edge, iterations=SPEC.iterations, **options)
    difference = np.abs(wide @ (ours.weights - theirs.coef_) + ours.bias - theirs.intercept_).max()
    if difference > 1e-2 * edge.std():
        sys.exit(f"Huber fits differ by {difference:.1e} bps")
    print(f"Huber: largest difference {difference:.1e} bps; {ours.iterations} steps beside {theirs.n_iter_}")
    peer = fastest(lambda: HuberRegressor(max_iter=SPEC.iterations, **options).fit(wide, edge), 1)
    own = fastest(lambda: fit_huber(x, edge, iterations=SPEC.iterations, **options), 3)
    print(f"Huber: ours {own:.2f} s, scikit-learn {peer:.2f} s; ratio {peer / own:.1f}")


def minutes(x: np.ndarray, draw: np.random.Generator) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Features and labels of a series of minutes."""
    n = len(x)
    opens = pl.Series(np.datetime64("2024-01-01", "us") + np.arange(n) * np.timedelta64(60, "s"))
    keys = pl.DataFrame({"minute": opens.dt.replace_time_zone("UTC")}).select(
        pl.col("minute").dt.date().alias("session"), pl.lit("BTCUSDT").alias("instrument"), "minute"
    )
    move = 0.3 * x[:, 0] + draw.standard_normal(n)
    columns = {"long_target": move > 0.7, "short_target": move < -0.7, "neutral_target": np.abs(move) <= 0.7}
    for head in five_models():
        edge = 3 * x[:, 1] + 5 * draw.standard_t(3, n)
        columns.setdefault(head.label, edge if head.kind == "regression" else edge > 4)
    labels = keys.hstack(pl.DataFrame({name: np.asarray(v, np.float32) for name, v in columns.items()}))
    return keys.hstack(pl.DataFrame(x, schema=[f"f{i}" for i in range(x.shape[1])])), labels


def main() -> None:
    draw = np.random.default_rng(0)
    x = draw.standard_normal((N_FIT + N_TUNE, N_FEATURES), dtype=np.float32)
    x[:, 5] = x[:, 0] - x[:, 1]
    with threadpool_limits(1):
        compare_huber(x[:N_FIT], 3.0 * x[:N_FIT, 1] + 5.0 * draw.standard_t(3, N_FIT))
    features, labels = minutes(x, draw)
    standing = features.select(*KEY, eligible=pl.lit(True))
    prepared = prepare(features, standing, {name: "series" for name in features.columns if name not in KEY})
    cut = datetime(2024, 1, 1) + timedelta(minutes=N_FIT)
    fit = pl.col("minute").dt.replace_time_zone(None) < cut
    roles = features.select(*KEY, role=pl.when(fit).then(pl.lit("fit")).otherwise(pl.lit("tune")))
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        member = fit_member(SPEC, TrainingSpec(), five_models(), prepared, labels, roles, workdir=Path(folder))
    heads, difference = len(five_models()), member.notes["onnx_largest_difference"]
    print(f"fit, export, check and score {heads} heads: {time.perf_counter() - begin:.1f} s on one thread")
    print(f"graphs and float64 solution differ by {difference:.1e} at most over {N_TUNE:,} rows")
    scorer, row = load_member(member.files), features[-1:]
    live = [row, row.select(*KEY, eligible=pl.lit(True)), row["session"].to_list()]
    inputs = scorer.inputs(*live)
    whole = fastest(lambda: scorer.score(*live), 50)
    graphs = fastest(lambda: scorer.score_inputs(inputs), 50)
    print(f"one live minute: {1e3 * whole:.1f} ms from its features, {1e3 * graphs:.2f} ms of it through five graphs")


if __name__ == "__main__":
    main()
