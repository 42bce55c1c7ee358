"""A simulated perpetual as others see it: candles, books, funding and contracts as their vendors sell them; the oracle.

Made once: the walk, 50 bytes a minute and symbol. Everything else is made on demand for the days asked for. How the
vendors answer over HTTP and in files is `resources/simulated_perpetual.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from functools import cached_property

import numpy as np
import polars as pl

from pipeline.errors import BadInput
from pipeline.simulation import draws
from pipeline.simulation.perpetual_books import book_levels, stamps
from pipeline.simulation.perpetual_faults import FaultPlaces
from pipeline.simulation.perpetual_oracle import forward_return, make_walks, mean_rank_ic, planted_strength
from pipeline.simulation.perpetual_profiles import MINUTES_A_DAY, PerpetualProfile, contract_of
from pipeline.simulation.perpetual_walk import PerpetualWalk, place
from pipeline.tables.binance import BOOK_1M, EXCHANGE_INFO, FUNDING_RATE, KLINES_1M, level_names
from pipeline.tables.spec import TableSpec

SETTLEMENT, JITTER = 120, 121  # stream names
USUAL_HOURS, LATER_HOURS = 8, 4
INTEREST, CLAMP = 1e-4, 5e-4  # per 8 hours; the vendor's funding formula
PREMIUM, PREMIUM_SETTLEMENTS = 4e-4, 9
SECOND_US, MINUTE_US, HOUR_US = 1_000_000, 60_000_000, 3_600_000_000
CANDLE_US = MINUTE_US - 1_000  # from open to the last millisecond
DELIVERY = datetime(2100, 12, 25, 8)  # stands for a perpetual
CORRECTED_AFTER = timedelta(days=4, hours=9)


def simulate_perpetual(profile: PerpetualProfile) -> PerpetualMarket:
    """The market of a profile; equal profiles give equal markets."""
    return PerpetualMarket(profile, planted_strength(profile))


class PerpetualMarket:
    """A made-up perpetual market; times are UTC, naive in vendor columns.

    Attributes
    ----------
    profile : PerpetualProfile
    strength : float
        Bps that a unit of paying pressure earns over the horizon; 0 when nothing is planted.
    days : tuple of date
    """

    def __init__(self, profile: PerpetualProfile, strength: float) -> None:
        self.profile, self.strength = profile, strength
        self.days = tuple(profile.first_day + timedelta(days=i) for i in range(profile.days))
        self._made: Mapping[str, tuple[PerpetualWalk, FaultPlaces]] = make_walks(profile, strength)

    def klines(self, symbol: str, start: date | None = None, end: date | None = None) -> pl.DataFrame:
        """Candles of `start <= day <= end`: columns of `klines_1m`, and `published_at`, the end of the minute."""
        walk, faults = self._of(symbol)
        at = self._minutes(start, end)
        at = at[faults.sold[at]]
        grid = contract_of(symbol)
        opened = self._epoch_us + at * MINUTE_US
        price = {name: getattr(walk, name)[at] / grid.ticks for name in ("open", "high", "low", "close")}
        volume, taker = walk.volume[at] / grid.steps, walk.taker[at] / grid.steps
        four = sum(getattr(walk, name)[at].astype(np.int64) for name in ("open", "high", "low", "close"))
        mean = four / (4 * grid.ticks)
        return _table(KLINES_1M, symbol, {
            "open_time": _naive(opened), **price, "volume": volume, "close_time": _naive(opened + CANDLE_US),
            "quote_volume": np.round(volume * mean, 6), "count": walk.trades[at].astype(np.int64),
            "taker_buy_volume": taker, "taker_buy_quote_volume": np.round(taker * mean, 6),
        }, opened + MINUTE_US)  # fmt: skip

    def books(self, symbol: str, start: date | None = None, end: date | None = None) -> pl.DataFrame:
        """Books of the minutes' ends: columns of `book_1m`, and `published_at`. Ask for a month: 43,200 rows, 28 MB."""
        walk, faults = self._of(symbol)
        at, grid, seed = self._minutes(start, end), contract_of(symbol), self.profile.seed
        lacking = [(day - self.profile.first_day).days for day in faults.bookless]
        at = at[faults.sold[at] & ~np.isin(at // MINUTES_A_DAY, lacking)]
        levels = book_levels(seed, place(symbol), grid, walk, at)
        sides = {"bid": levels[:2], "ask": levels[2:]}
        values = {}
        for name in level_names():
            side, level, what = name.split("_")
            of, unit = (0, grid.ticks) if what == "price" else (1, grid.steps)
            values[name] = sides[side][of, int(level)] / unit
        opened = self._epoch_us + at * MINUTE_US
        times = {"minute": _naive(opened), "origin_time": _naive(opened + stamps(seed, place(symbol), at))}
        return _table(BOOK_1M, symbol, times | values, opened + MINUTE_US)

    def funding(self, symbol: str, start: date | None = None, end: date | None = None) -> pl.DataFrame:
        """Settlements: columns of `funding_rate`, and `published_at`, the vendor's stamp with its jitter.

        Every 8 hours, from the middle of the sample on every 4; the first one lies a day before the sample.
        """
        self._of(symbol)
        hours, interval = self._settlements
        rate = self._rates(symbol, interval)
        first, last = start or self.days[0] - timedelta(days=1), end or self.days[-1]
        day = self.profile.first_day.toordinal() + hours // 24
        kept = (day >= first.toordinal()) & (day <= last.toordinal())
        settled = self._epoch_us + hours * HOUR_US
        jitter = draws.uniforms(self.profile.seed, JITTER, hours + 24, np.full(len(hours), place(symbol)))
        late = (jitter * (self.profile.faults.funding_jitter_ms + 1)).astype(np.int64) * 1_000
        return _table(FUNDING_RATE, symbol, {
            "calc_time": _naive(settled[kept]), "funding_interval_hours": interval[kept],
            "last_funding_rate": rate[kept], "mark_price": self._marks(symbol, hours)[kept],
        }, (settled + late)[kept])  # fmt: skip

    def exchange_info(self) -> pl.DataFrame:
        """Columns of `exchange_info`, and `published_at`: one row a symbol, the same on every day."""
        rows = []
        onboard = datetime.combine(self.days[0] - timedelta(days=1), time(0))
        for symbol in sorted(self.profile.symbols):
            grid = contract_of(symbol)
            tick, step = 1.0 / grid.ticks, 1.0 / grid.steps
            rows.append({
                "symbol": symbol, "pair": symbol, "contract_type": "PERPETUAL", "status": "TRADING",
                "onboard_date": onboard, "delivery_date": DELIVERY, "base_asset": symbol.removesuffix("USDT"),
                "quote_asset": "USDT", "margin_asset": "USDT", "price_precision": len(str(grid.ticks)) - 1,
                "quantity_precision": len(str(grid.steps)) - 1, "tick_size": tick, "min_price": tick,
                "max_price": 1e6, "step_size": step, "min_qty": step, "max_qty": 1e6, "market_step_size": step,
                "market_min_qty": step, "market_max_qty": 1e5, "min_notional": 5.0,
            })  # fmt: skip
        frame = pl.DataFrame(rows, schema=EXCHANGE_INFO.schema)
        return frame.with_columns(pl.col("onboard_date").dt.replace_time_zone("UTC").alias("published_at"))

    def funding_hours(self, now: datetime) -> int:
        """Hours between settlements at an aware instant."""
        since = (now.replace(tzinfo=None) - datetime.combine(self.profile.first_day, time(0))) / timedelta(hours=1)
        return LATER_HOURS if since >= self.profile.days // 2 * 24 else USUAL_HOURS

    def first_publication(self, symbol: str, day: date, now: datetime) -> tuple[int, int] | None:
        """The minutes of a day, half-open, that its archive files lack at `now`; None where they are whole."""
        _, faults = self._of(symbol)
        if day not in faults.republished or now.replace(tzinfo=None) >= _midnight(day) + CORRECTED_AFTER:
            return None
        return faults.republished[day]

    @cached_property
    def faults(self) -> pl.DataFrame:
        """symbol, kind (outage, republished, bookless), day, minutes: what is imperfect, for a reader who looks."""
        rows = []
        for symbol, (_, places) in self._made.items():
            absent = np.flatnonzero(~places.sold) // MINUTES_A_DAY
            rows += [(symbol, "outage", self.days[day], int((absent == day).sum())) for day in np.unique(absent)]
            rows += [(symbol, "republished", day, hi - lo) for day, (lo, hi) in sorted(places.republished.items())]
            rows += [(symbol, "bookless", day, MINUTES_A_DAY) for day in sorted(places.bookless)]
        schema = {"symbol": pl.String(), "kind": pl.String(), "day": pl.Date(), "minutes": pl.Int64()}
        return pl.DataFrame(rows, schema=schema, orient="row")

    @cached_property
    def oracle(self) -> pl.DataFrame:
        """session, instrument, minute (open, UTC), signal, forward_return_bps: one row a minute that was sold.

        The signal is the pressure, known at the minute's close; the return runs from there over `horizon` minutes and
        is null where they are not all there.
        """
        parts = []
        for symbol in sorted(self._made):
            walk, faults = self._made[symbol]
            at = np.flatnonzero(faults.sold)
            minute = _naive(self._epoch_us + at * MINUTE_US).dt.replace_time_zone("UTC")
            gained = forward_return(walk.close, faults.sold, self.profile.horizon)[at]
            parts.append(pl.DataFrame({
                "session": minute.dt.date(), "instrument": pl.repeat(symbol, len(at), eager=True), "minute": minute,
                "signal": walk.pressure[at], "forward_return_bps": pl.Series(gained, nan_to_null=True),
            }))  # fmt: skip
        return pl.concat(parts).sort("session", "instrument", "minute")

    @cached_property
    def oracle_rank_ic(self) -> float:
        """Mean over symbols of the rank correlation over minutes between the planted signal and what followed."""
        return mean_rank_ic(dict(self._made), self.profile.horizon)

    @cached_property
    def _epoch_us(self) -> int:
        """Microseconds of the first minute since 1970."""
        return (self.profile.first_day - date(1970, 1, 1)).days * MINUTES_A_DAY * MINUTE_US

    @cached_property
    def _settlements(self) -> tuple[np.ndarray, np.ndarray]:
        """Hours from the first midnight at which funding is settled, and the hours since the settlement before."""
        switch, end = self.profile.days // 2 * 24, self.profile.days * 24
        hours = np.concatenate([np.arange(-24, switch + 1, USUAL_HOURS), np.arange(switch + 4, end + 1, LATER_HOURS)])
        hours = hours.astype(np.int64)
        return hours, np.concatenate([[USUAL_HOURS], np.diff(hours)])

    def _rates(self, symbol: str, interval: np.ndarray) -> np.ndarray:
        """(P + clamp(I - P, -0.05 %, 0.05 %)) / (8 / hours); the premium P wanders over `PREMIUM_SETTLEMENTS`."""
        n = len(interval) + PREMIUM_SETTLEMENTS - 1
        drawn = draws.uniforms(self.profile.seed, SETTLEMENT, np.arange(n), np.full(n, place(symbol)))
        window = np.ones(PREMIUM_SETTLEMENTS) / np.sqrt(PREMIUM_SETTLEMENTS)
        premium = PREMIUM * np.sqrt(12.0) * np.convolve(drawn - 0.5, window, mode="valid")
        return np.round((premium + np.clip(INTEREST - premium, -CLAMP, CLAMP)) * interval / 8.0, 8)

    def _marks(self, symbol: str, hours: np.ndarray) -> np.ndarray:
        """Price at each settlement: the close of the minute before, the first open for those before the sample."""
        walk, _ = self._of(symbol)
        before = hours * 60 - 1
        price = np.where(before < 0, walk.open[0], walk.close[np.maximum(before, 0)])
        return np.asarray(price / contract_of(symbol).ticks)

    def _minutes(self, start: date | None, end: date | None) -> np.ndarray:
        """Ordinals of the minutes of some days."""
        first = max(((start or self.days[0]) - self.days[0]).days, 0)
        stop = min(((end or self.days[-1]) - self.days[0]).days + 1, len(self.days))
        return np.arange(first * MINUTES_A_DAY, max(stop, first) * MINUTES_A_DAY)

    def _of(self, symbol: str) -> tuple[PerpetualWalk, FaultPlaces]:
        if symbol not in self._made:
            raise BadInput("the symbol must be one of the simulated ones", symbol,
                           f"choose from {sorted(self._made)}")
        return self._made[symbol]


def _table(spec: TableSpec, symbol: str, columns: Mapping[str, object], published: np.ndarray) -> pl.DataFrame:
    """Rows of one symbol in the spec's columns and types, with `published_at` (Datetime us UTC)."""
    frame = pl.DataFrame({"symbol": pl.repeat(symbol, len(published), eager=True), **columns})
    return spec.typed(frame).with_columns(_naive(published).dt.replace_time_zone("UTC").alias("published_at"))


def _naive(microseconds: np.ndarray) -> pl.Series:
    return pl.Series(np.asarray(microseconds, dtype=np.int64)).cast(pl.Datetime("us"))


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(0))
