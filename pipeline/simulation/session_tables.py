"""The world's days as Tushare's session tables: vendor columns, units, codes, and publication instants.

Every builder takes a stretch [start, stop) of session ordinals, so that a large market never has to stand in
memory as tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import time
from functools import lru_cache

import numpy as np
import polars as pl

from pipeline.simulation import draws, limits
from pipeline.simulation.faults import with_faults
from pipeline.simulation.fundamentals import valuation
from pipeline.simulation.listings import st_names
from pipeline.simulation.world import World
from pipeline.tables.tushare import TABLES

LIMITS_AT, FACTORS_AT, ST_AT, SUSPENSIONS_AT = time(8, 40), time(9, 20), time(9, 20), time(8, 30)
BARS_AT, RATIOS_AT, FLOWS_AT, MINUTES_AT = time(16, 30), time(18, 30), time(18, 50), time(19, 40)

BENCHMARK = "000300.SH"
NO_LIMIT_SENTINEL = (100_000.0, 0.01)  # up, down: what several vendors put on days without limits
FLOW_SIZES = ("sm", "md", "lg", "elg")
FLOW = 20  # first of eight stream names
LAGGARD_SESSIONS = 60


def _pairs(mask: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Ordinals and instruments of the marked rows, session by session."""
    t, i = np.nonzero(mask)
    return t + start, i


def _frame(
    table: str, world: World, t: np.ndarray, i: np.ndarray, at: time, columns: Mapping[str, object]
) -> pl.DataFrame:
    """Key columns, the given ones in the spec's order, and `published_at`."""
    spec = TABLES[table]
    frame = pl.DataFrame({"ts_code": world.codes(t, i), "trade_date": world.dates(t), **columns})
    lacking = [pl.lit(None, dtype=c.dtype).alias(c.name) for c in spec.columns if c.name not in frame.columns]
    typed = frame.with_columns(lacking).select([pl.col(c.name).cast(c.dtype) for c in spec.columns])
    return typed.with_columns(world.published(t, at).alias("published_at"))


def daily(world: World, start: int, stop: int) -> pl.DataFrame:
    """Daily bars; `pre_close` is the ex-right reference, `vol` in lots, `amount` in 1,000 CNY."""
    walk = world.walk
    t, i = _pairs(walk.traded[start:stop], start)
    close, reference = walk.close[t, i], walk.reference[t, i]
    frame = _frame(
        "daily",
        world,
        t,
        i,
        BARS_AT,
        {
            "open": walk.open[t, i] / 100,
            "high": walk.high[t, i] / 100,
            "low": walk.low[t, i] / 100,
            "close": close / 100,
            "pre_close": reference / 100,
            "change": (close - reference) / 100,
            "pct_chg": np.round((close - reference) * 100.0 / reference, 4),
            "vol": walk.lots[t, i].astype(np.float64),
            "amount": walk.amount[t, i] / 1000,
        },
    )
    return with_faults(world, "daily", frame, t, i)


def adj_factor(world: World, start: int, stop: int) -> pl.DataFrame:
    """Factors, also on suspended days; those of one BSE name are 60 sessions late after its switch."""
    t, i = _pairs(world.listed[start:stop], start)
    frame = _frame("adj_factor", world, t, i, FACTORS_AT, {"adj_factor": world.walk.factor[t, i]})
    laggard, until = laggard_factor(world)
    waiting = (i == laggard) & (t >= world.switched[i]) & (t < until)
    if waiting.any():
        back = world.published(np.full(len(t), until), FACTORS_AT)
        frame = frame.with_columns(
            pl.when(pl.Series(waiting)).then(back).otherwise(pl.col("published_at")).alias("published_at")
        )
    return with_faults(world, "adj_factor", frame, t, i)


def laggard_factor(world: World) -> tuple[int, int]:
    """The BSE instrument whose factors lag its new code, and when they catch up; (-1, 0) for none."""
    late = world.switched + LAGGARD_SESSIONS
    found = np.flatnonzero((world.switched > 0) & (late < world.profile.sessions))
    return (int(found[-1]), int(late[found[-1]])) if len(found) else (-1, 0)


def daily_basic(world: World, start: int, stop: int) -> pl.DataFrame:
    """Turnover, ratios and share counts of traded rows; `pe` is null on losses."""
    t, i = _pairs(world.walk.traded[start:stop], start)
    frame = _frame("daily_basic", world, t, i, RATIOS_AT, valuation(world, t, i))
    filled = frame.with_columns(pl.col(pl.Float64).fill_nan(None))
    return with_faults(world, "daily_basic", filled, t, i)


def stk_limit(world: World, start: int, stop: int) -> pl.DataFrame:
    """Limits of every listed name; a sentinel where there is none. The vendor leaves `pre_close` null."""
    t, i = _pairs(world.listed[start:stop], start)
    lower, upper = world.limits(t, i)
    free = world.securities.bands[t, i] == limits.NO_LIMIT
    return _frame(
        "stk_limit",
        world,
        t,
        i,
        LIMITS_AT,
        {
            "up_limit": np.where(free, NO_LIMIT_SENTINEL[0], upper / 100),
            "down_limit": np.where(free, NO_LIMIT_SENTINEL[1], lower / 100),
        },
    )


def suspend_d(world: World, start: int, stop: int) -> pl.DataFrame:
    """Full-day suspensions, resumptions, and the ten-minute halts of listing days without limits."""
    suspended, first = world.securities.suspended, world.securities.first
    before = np.vstack([np.zeros_like(suspended[:1]), suspended[:-1]])
    ordinals = np.arange(start, stop)[:, None]
    halted = (ordinals == first) & (first > 0) & (world.securities.bands[start:stop] == limits.NO_LIMIT)
    parts = [
        (suspended[start:stop], "S", None, SUSPENSIONS_AT),
        (before[start:stop] & world.walk.traded[start:stop], "R", None, SUSPENSIONS_AT),
        (halted, "S", "09:31-09:41", BARS_AT),
    ]
    frames = []
    for mask, kind, timing, at in parts:
        t, i = _pairs(mask, start)
        columns = {
            "suspend_type": pl.Series([kind] * len(t), dtype=pl.String),
            "suspend_timing": pl.Series([timing] * len(t), dtype=pl.String),
        }
        frames.append(_frame("suspend_d", world, t, i, at, columns))
    return pl.concat(frames).sort("trade_date", "ts_code", maintain_order=True)


def stock_st(world: World, start: int, stop: int) -> pl.DataFrame:
    """Names under special treatment, by day; none in a delisting arrangement."""
    t, i = _pairs(world.securities.st[start:stop] & world.listed[start:stop], start)
    return _frame(
        "stock_st",
        world,
        t,
        i,
        ST_AT,
        {
            "name": st_names(world).gather(i),
            "type": pl.Series(["ST"] * len(t), dtype=pl.String),
            "type_name": pl.Series(["风险警示板"] * len(t), dtype=pl.String),
        },
    )


def moneyflow(world: World, start: int, stop: int) -> pl.DataFrame:
    """Bought and sold volume (lots) and amount (10,000 CNY) by order size. Beijing has none."""
    walk = world.walk
    t, i = _pairs(walk.traded[start:stop] & (world.securities.board != limits.BSE), start)
    lots, amount = walk.lots[t, i], walk.amount[t, i]
    push = np.clip((walk.close[t, i] - walk.open[t, i]) / walk.reference[t, i] * 4.0, -0.4, 0.4)
    typical, lean = np.array([0.34, 0.31, 0.21, 0.14]), np.array([-0.5, -0.2, 0.4, 1.0])
    columns: dict[str, object] = {}
    for k, side, sign in ((0, "buy", 1.0), (4, "sell", -1.0)):
        noise = np.stack([draws.uniforms(world.profile.seed, FLOW + k + s, t, i) for s in range(4)], axis=1)
        share = typical * (0.6 + 0.8 * noise) * (1.0 + sign * push[:, None] * lean)
        volume = np.floor(share / share.sum(axis=1, keepdims=True) * lots[:, None])
        volume[:, 0] += lots - volume.sum(axis=1)
        for s, size in enumerate(FLOW_SIZES):
            columns[f"{side}_{size}_vol"] = volume[:, s]
            columns[f"{side}_{size}_amount"] = np.round(volume[:, s] / lots * amount / 1e4, 2)
    active = push + 0.3 * (draws.uniforms(world.profile.seed, FLOW + 8, t, i) - 0.5)
    columns["net_mf_vol"] = np.round(active * 0.2 * lots)
    columns["net_mf_amount"] = np.round(active * 0.2 * amount / 1e4, 2)
    return with_faults(world, "moneyflow", _frame("moneyflow", world, t, i, FLOWS_AT, columns), t, i)


def index_daily(world: World, start: int, stop: int) -> pl.DataFrame:
    """The benchmark: fixed weights over the largest names listed throughout, in points from 4,000."""
    return _benchmark(world).slice(start, stop - start)


@lru_cache(maxsize=4)
def _benchmark(world: World) -> pl.DataFrame:
    walk, weight = world.walk, _index_weights(world)
    chosen = np.flatnonzero(weight)
    traded = walk.traded[:, chosen]
    base = np.where(traded, walk.reference[:, chosen], 1)
    gains = {
        name: np.where(traded, values[:, chosen] / base - 1.0, 0.0) @ weight[chosen]
        for name, values in (
            ("open", walk.open),
            ("high", walk.high),
            ("low", walk.low),
            ("close", walk.close),
        )
    }
    close = np.round(4_000.0 * np.cumprod(1.0 + gains["close"]), 4)
    previous = np.concatenate([[4_000.0], close[:-1]])
    opened, high, low = (np.round(previous * (1.0 + gains[name]), 4) for name in ("open", "high", "low"))
    columns = {
        "close": close,
        "open": opened,
        "pre_close": previous,
        "high": np.maximum.reduce([high, opened, close]),
        "low": np.minimum.reduce([low, opened, close]),
        "change": np.round(close - previous, 4),
        "pct_chg": np.round((close / previous - 1.0) * 100.0, 4),
        "vol": walk.lots[:, chosen].sum(axis=1).astype(np.float64),
        "amount": walk.amount[:, chosen].sum(axis=1) / 1000,
    }
    t = np.arange(world.profile.sessions)
    frame = _frame("index_daily", world, t, np.zeros_like(t), BARS_AT, columns)
    return frame.with_columns(pl.lit(BENCHMARK).alias("ts_code"))


def _index_weights(world: World) -> np.ndarray:
    """Share of float value at the first session: the 300 largest (or larger half of) names throughout."""
    s, c = world.securities, world.character
    value = c.price * c.shares * c.float_share
    value = np.where((s.first == 0) & ~s.delisted & (s.board != limits.BSE), value, 0.0)
    count = min(300, len(s) // 2)
    value[np.argsort(-value, kind="stable")[count:]] = 0.0
    return value / value.sum()


SESSION_TABLES: dict[str, Callable[[World, int, int], pl.DataFrame]] = {
    "daily": daily,
    "adj_factor": adj_factor,
    "daily_basic": daily_basic,
    "stk_limit": stk_limit,
    "suspend_d": suspend_d,
    "stock_st": stock_st,
    "moneyflow": moneyflow,
    "index_daily": index_daily,
}
