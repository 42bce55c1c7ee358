"""All 158 columns of Alpha158: ours beside qlib's own expressions (or plain pandas where pyqlib is not
installed).

Prints rows per second of both and their ratio, after checking that both give the same numbers. The peer
runs on
a few names only, in one process, on bars already in memory. Ours is timed from the panel to the finished
table.

    python -m benchmarks.alpha158 [--names 10] [--repeats 5]

Bars: `tushare_csi300` under FOLDGATE_REALDATA (default ../shared/data) when present, else a random walk of
its size.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numba
import numpy as np
import pandas as pd
import polars as pl

from pipeline.features.compute import compute
from pipeline.features.plan import plan
from pipeline.frames import AsOf

PLAN = plan(["alpha158"])
BAR = ["open", "high", "low", "close", "volume", "amount", "factor"]
Peer = Callable[[pd.DataFrame], pd.DataFrame]


def real_panel(folder: Path) -> pl.DataFrame:
    daily = pl.read_parquet(folder / "daily.parquet")
    factor = pl.read_parquet(folder / "adj_factor.parquet")
    rows = factor.join(daily, on=["ts_code", "trade_date"], how="left")
    return rows.select(
        pl.col("trade_date").str.to_date("%Y%m%d").alias("session"),
        pl.col("ts_code").alias("instrument"),
        *BAR[:4],
        volume=pl.col("vol") * 100,
        amount=pl.col("amount") * 1000,
        factor="adj_factor",
    )


def random_panel(n_instruments: int = 298, n_sessions: int = 934) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    shape = (n_instruments, n_sessions)
    close = 20 * np.exp(np.cumsum(rng.normal(0, 0.02, shape), axis=1))
    spread = rng.exponential(0.01, (2, *shape))
    volume = np.round(rng.lognormal(13, 0.5, shape))
    bars = {
        "open": close * (1 - spread[0] / 2), "high": close * (1 + spread[1]), "low": close * (1 - spread[0]),
        "close": close, "volume": volume, "amount": volume * close, "factor": np.ones(shape),
    }  # fmt: skip
    days = [date(2020, 1, 1) + timedelta(days=i) for i in range(n_sessions)]
    names = np.repeat([f"{i:06d}" for i in range(n_instruments)], n_sessions)
    keys = {"session": days * n_instruments, "instrument": names}
    return pl.DataFrame(keys | {name: x.ravel() for name, x in bars.items()})


def ours(panel: pl.DataFrame) -> pl.DataFrame:
    empty = panel.clear().select("session", "instrument")
    patches = empty.with_columns(effective_session=pl.lit(None, dtype=pl.Date))
    return compute(AsOf(panel), patches, empty, PLAN, panel["session"].unique().to_list())


def qlib_peer() -> Peer:
    """qlib's own expression strings and operators, on bars handed in instead of its binary store."""
    import qlib.data.ops as ops
    from qlib.config import C
    from qlib.contrib.data.loader import Alpha158DL
    from qlib.data.base import Feature
    from qlib.data.cache import H
    from qlib.utils import parse_field

    ops.register_all_ops(C)
    fields, names = Alpha158DL.get_feature_config()
    scope = {"Feature": Feature, "Operators": ops.Operators}
    expressions = [eval(parse_field(field), scope) for field in fields]

    def run(bars: pd.DataFrame) -> pd.DataFrame:
        f = bars["factor"]
        series = {name: bars[name] * f for name in BAR[:4]}
        series |= {"volume": bars["volume"] / f, "vwap": bars["amount"] / bars["volume"] * f}
        Feature._load_internal = lambda self, *_: series[self._name]
        H["f"].clear()
        columns = (expression.load("x", 0, len(bars), "day") for expression in expressions)
        return pd.DataFrame(dict(zip(names, columns, strict=True)))

    return run


def peer() -> tuple[str, Peer]:
    try:
        return "qlib expressions", qlib_peer()
    except ImportError:
        from tests.oracles.alpha158_pandas import alpha158

        return "plain pandas", lambda bars: alpha158(bars, skip_missing=False)


def largest_difference(found: pl.DataFrame, expected: pd.DataFrame, whole: np.ndarray) -> tuple[float, int]:
    """Over rows whose longest window misses no bar: largest |difference| over (|value| + 1e-3), and
    missing on one side."""
    worst, one_sided = 0.0, 0
    for name in PLAN.schema:
        x = found[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()[whole]
        y = expected[name].to_numpy(float)[whole]
        one_sided += int((np.isnan(x) != np.isnan(y)).sum())
        worst = max(worst, float(np.nanmax(np.abs(x - y) / (np.abs(y) + 1e-3))))
    return worst, one_sided


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--names", type=int, default=10)
    options.add_argument("--repeats", type=int, default=5)
    chosen = options.parse_args()
    folder = Path(os.environ.get("FOLDGATE_REALDATA", "../shared/data")) / "tushare_csi300"
    panel = real_panel(folder) if folder.exists() else random_panel()
    panel = panel.with_columns(eligible=pl.col("close").is_not_null()).sort("session", "instrument")
    ours(panel)
    seconds = []
    for _ in range(chosen.repeats):
        begin = time.perf_counter()
        table = ours(panel)
        seconds.append(time.perf_counter() - begin)
    our_rate = len(table) / min(seconds)
    print(f"ours: {len(table):,} rows x 158 in {min(seconds):.3f} s (median {np.median(seconds):.3f}), "
          f"{numba.get_num_threads()} threads, {our_rate:,.0f} rows/s")  # fmt: skip

    label, run = peer()
    names = panel["instrument"].unique().sort().head(chosen.names)
    rows, spent, worst, one_sided = 0, 0.0, 0.0, 0
    for name in names:
        bars = panel.filter(pl.col("instrument") == name).select(BAR).to_pandas()
        begin = time.perf_counter()
        expected = run(bars)
        spent += time.perf_counter() - begin
        rows += len(bars)
        whole = bars["close"].isna().rolling(61, 1).sum().to_numpy() == 0
        w, n = largest_difference(table.filter(pl.col("instrument") == name), expected, whole)
        worst, one_sided = max(worst, w), one_sided + n
    if worst > 1e-5 or one_sided:
        raise SystemExit(f"not equal: worst {worst:.2e}, {one_sided} values missing on one side only")
    print(f"{label}: {rows:,} rows x 158 in {spent:.2f} s, {rows / spent:,.0f} rows/s")
    print(f"largest relative difference {worst:.1e}")
    print(f"ours / {label}: {our_rate / (rows / spent):,.0f} x")


if __name__ == "__main__":
    main()
