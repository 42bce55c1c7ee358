"""Outcomes of 200,000 minutes x 45, both sides, all outputs, beside the sliding-window NumPy formulation.

Ours: from the frame of bars to the frame of outcomes, checks included. Theirs: columns to arrays over windows of
[rows, 45]; a spread may be missing, so the quantile is `np.nanquantile`. First all outputs must be equal: flags,
times, moves and the spread quantile to the bit, the realised volatility to 1e-12 (NumPy sums pairwise, and its
logarithm is another). Then three readings of theirs are timed: one call a side that makes every output, the shared
outputs made once for both sides, and this with no spread missing and the plain `np.quantile`.

    python -m benchmarks.path_outcomes
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import polars as pl
from numpy.lib.stride_tricks import sliding_window_view

from pipeline.frames import Hindsight
from pipeline.labels.path_outcomes import SIDES, path_outcomes
from pipeline.labels.price_plan import DYNAMIC, PricePlan

N_MINUTES, START_US, MINUTE_US = 200_000, 1_704_067_200_000_000, 60_000_000


def bars() -> pl.DataFrame:
    """A perpetual's minutes at one tick of 0.1, about 5 bps a minute; one spread in a hundred is missing."""
    rng = np.random.default_rng(0)
    close = 50_000 * np.exp(np.cumsum(rng.normal(0, 5e-4, N_MINUTES)))
    before = np.concatenate([close[:1], close[:-1]])
    reach = np.exp(np.abs(rng.normal(0, 3e-4, (2, N_MINUTES))))
    prices = (np.maximum(close, before) * reach[0], np.minimum(close, before) / reach[1], close)
    minute = pl.Series(START_US + MINUTE_US * np.arange(N_MINUTES)).cast(pl.Datetime("us", "UTC"))
    high, low, close = (np.round(price, 1) for price in prices)
    spread = pl.Series(np.where(rng.random(N_MINUTES) < 0.01, np.nan, rng.gamma(2.0, 0.1, N_MINUTES)))
    return pl.DataFrame({"minute": minute, "high": high, "low": low, "close": close,
                         "spread_bps": spread.fill_nan(None)}).select(
        pl.col("minute").dt.date().alias("session"), pl.lit("BTCUSDT").alias("instrument"), pl.all())


def theirs(frame: pl.DataFrame, plan: PricePlan, side: str) -> dict[str, np.ndarray]:
    """One side's outputs of `FIXED_TARGET_STOP_V1` over sliding windows."""
    horizon, long = plan.max_hold_minutes, side == "LONG"
    high, low, close = (frame[name].to_numpy() for name in ("high", "low", "close"))
    entry = close[:-horizon]
    highs, lows, closes = (sliding_window_view(x[1:], horizon) for x in (high, low, close))
    target, stop = plan.target_distance_bps, plan.stop_distance_bps
    if long:
        at_target, at_stop = highs >= (entry * (1 + target / 1e4))[:, None], lows <= (entry * (1 - stop / 1e4))[:, None]
        best, worst, last = highs.max(axis=1) / entry, entry / lows.min(axis=1), closes[:, -1] / entry
    else:
        at_target, at_stop = lows <= (entry * (1 - target / 1e4))[:, None], highs >= (entry * (1 + stop / 1e4))[:, None]
        best, worst, last = entry / lows.min(axis=1), highs.max(axis=1) / entry, entry / closes[:, -1]
    to_target = np.where(at_target.any(axis=1), at_target.argmax(axis=1) + 1, horizon + 1)
    to_stop = np.where(at_stop.any(axis=1), at_stop.argmax(axis=1) + 1, horizon + 1)
    stopped = (to_stop <= to_target) & (to_stop <= horizon)
    hit = (to_target < to_stop) & (to_target <= horizon)
    at_end = (last - 1.0) * 1e4
    exit_ms = np.minimum(np.minimum(to_target, to_stop), horizon) * 60_000
    return {
        "target_hit": hit, "stop_hit": stopped, "timeout_hit": ~(hit | stopped),
        "ambiguous_hit": stopped & (to_stop == to_target),
        "time_to_target_ms": np.where(hit, exit_ms, -1), "time_to_stop_ms": np.where(stopped, exit_ms, -1),
        "time_to_exit_ms": exit_ms, "gross_edge_bps": np.where(hit, target, np.where(stopped, -stop, at_end)),
        "future_return_bps": at_end, "mfe_bps": np.maximum(best - 1.0, 0.0) * 1e4,
        "mae_bps": np.maximum(worst - 1.0, 0.0) * 1e4,
    }


def shared(frame: pl.DataFrame, horizon: int, quantile: Callable[..., np.ndarray]) -> dict[str, np.ndarray]:
    """The two outputs that both sides have in common."""
    close, spread = frame["close"].to_numpy(), frame["spread_bps"].to_numpy()
    returns = sliding_window_view(np.log(close[1:] / close[:-1]), horizon)
    return {
        "future_spread_p80": quantile(sliding_window_view(spread[1:], horizon), 0.8, axis=1),
        "future_realized_vol_bps": np.sqrt(np.mean(returns**2, axis=1)) * 1e4,
    }


def check(frame: pl.DataFrame, plan: PricePlan, quantile: Callable[..., np.ndarray]) -> None:
    """Every output of both sides."""
    ours = path_outcomes(Hindsight(frame), plan)
    outputs = {f"{side.lower()}_{name}": values for side in SIDES for name, values in theirs(frame, plan, side).items()}
    outputs |= shared(frame, plan.max_hold_minutes, quantile)
    for name, values in outputs.items():
        mine, exact = ours[name].to_numpy(), name != "future_realized_vol_bps"
        if not (np.array_equal(mine, values) if exact else np.allclose(mine, values, 1e-12, 0)):
            sys.exit(f"{name} differs")
    print(f"{len(outputs)} columns equal on {ours.height:,} rows")


def fastest(work: Callable[[], object], times: int) -> float:
    """Best of several runs, seconds."""
    took = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        took.append(time.perf_counter() - begin)
    return min(took)


def main() -> None:
    frame, plan = bars(), PricePlan()
    complete = frame.with_columns(pl.col("spread_bps").fill_null(strategy="forward").fill_null(0.0))
    check(frame, plan, np.nanquantile)
    check(complete, plan, np.quantile)
    ours = fastest(lambda: path_outcomes(Hindsight(frame), plan), 20)
    dynamic = fastest(lambda: path_outcomes(Hindsight(frame), PricePlan(entry_plan_method=DYNAMIC)), 10)
    sides = sum(fastest(lambda side=side: theirs(frame, plan, side), 2) for side in SIDES)
    common = fastest(lambda: shared(frame, plan.max_hold_minutes, np.nanquantile), 1)
    plain = fastest(lambda: shared(complete, plan.max_hold_minutes, np.quantile), 2)
    print(f"ours: {ours * 1e3:.1f} ms (dynamic trailing {dynamic * 1e3:.1f} ms)")
    for name, peer in (("one call a side", sides + 2 * common), ("shared outputs once", sides + common),
                       ("and no spread missing", sides + plain)):
        print(f"sliding windows, {name}: {peer:.2f} s; ratio {peer / ours:.0f}")


if __name__ == "__main__":
    main()
