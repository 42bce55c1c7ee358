"""The simulated market as others see it: tables at any instant, minutes on demand, the oracle."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from functools import cached_property
from zoneinfo import ZoneInfo

import numba
import numpy as np
import polars as pl

from pipeline.calendars import Calendar
from pipeline.errors import BadInput
from pipeline.simulation import draws
from pipeline.simulation.faults import fault_counts
from pipeline.simulation.limits import limit_ticks
from pipeline.simulation.listings import SNAPSHOT_TABLES
from pipeline.simulation.minutes import BAR_ENDS, BARS, fill_day
from pipeline.simulation.oracle import calibrated_strength, mean_rank_ic, oracle_frame
from pipeline.simulation.prices import PATH
from pipeline.simulation.profiles import Profile
from pipeline.simulation.session_tables import MINUTES_AT, SESSION_TABLES, laggard_factor
from pipeline.simulation.world import World, make_world
from pipeline.tables.tushare import TABLES

SHANGHAI = ZoneInfo("Asia/Shanghai")
BLOCK_SESSIONS = 64
CACHED_ROWS = 8_000_000  # of session tables kept built; about 1 GB at 15 columns


def simulate(profile: Profile) -> SimulatedMarket:
    """The market of a profile; equal profiles give equal markets."""
    return SimulatedMarket(make_world(profile, calibrated_strength(profile)))


class SimulatedMarket:
    """A made-up A-share market told as Tushare's tables.

    Attributes
    ----------
    profile : Profile
    calendar : Calendar
        Sessions from a year before the sample to the end of the announced calendar.
    sessions : tuple of date
        The sample: sessions for which session tables have rows.
    tables : Mapping of str to DataFrame
        All versions of every table but `stk_mins` (see `minutes`), in the types and order of
        `pipeline.tables.tushare.TABLES` plus `published_at` (Datetime us UTC): when the vendor began to serve
        the version. Rows carry the code valid on their own session.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._blocks: OrderedDict[tuple[str, int], pl.DataFrame] = OrderedDict()
        self._snapshots: dict[str, pl.DataFrame] = {}
        self.profile: Profile = world.profile
        self.calendar: Calendar = world.calendar
        self.sessions: tuple[date, ...] = tuple(world.days)
        self.tables: Mapping[str, pl.DataFrame] = _Tables(self)

    @property
    def strength(self) -> float:
        """Drift over three sessions per unit of the planted signal; 0 when nothing is planted."""
        return self._world.strength

    @property
    def regime(self) -> pl.DataFrame:
        """session, regime: the state in [-1, 1] that multiplies the planted signal; 1 but for a regime plant."""
        return pl.DataFrame({"session": self.sessions, "regime": self._world.walk.regime})

    @cached_property
    def oracle(self) -> pl.DataFrame:
        """session, instrument (first code), signal, ret (T+1 open to T+3 close; null where blocked)."""
        return oracle_frame(self._world)

    @cached_property
    def oracle_rank_ic(self) -> float:
        """Mean over sessions of the rank correlation between the planted signal and the executable return."""
        return mean_rank_ic(self.oracle, "signal")

    @cached_property
    def faults(self) -> pl.DataFrame:
        """table, session, late, revised: where rows come late or are corrected."""
        return fault_counts(self._world, {name: self.tables[name] for name in SESSION_TABLES})

    def rows(self, name: str, start: date, end: date) -> pl.DataFrame:
        """All versions of a session table's rows with start <= day <= end."""
        lo, hi = self._ordinals(start, end)
        blocks = [self._block(name, b) for b in range(lo // BLOCK_SESSIONS, (hi - 1) // BLOCK_SESSIONS + 1)]
        if hi <= lo or not blocks:
            return self._block(name, 0).clear()
        days = blocks[0]["trade_date"] if len(blocks) == 1 else None
        if days is not None:
            first = days.search_sorted(self.sessions[lo], side="left")
            return blocks[0].slice(first, days.search_sorted(self.sessions[hi - 1], side="right") - first)
        return pl.concat(blocks).filter(pl.col("trade_date").is_between(self.sessions[lo], self.sessions[hi - 1]))

    def table_at(self, name: str, now: datetime, start: date | None = None, end: date | None = None) -> pl.DataFrame:
        """What the vendor answers at `now`: per key the newest version, under the codes of that day.

        Parameters
        ----------
        name : str
            Any table but `stk_mins`.
        start, end : date, optional
            Days wanted of a session table; both ends included.
        """
        self._require(name)
        spec = TABLES[name]
        rows = (
            self._snapshot(name)
            if name in SNAPSHOT_TABLES
            else self.rows(name, start or self.sessions[0], end or self.sessions[-1])
        )
        served = rows.filter(pl.col("published_at") <= now)
        if served.height > 1:
            newest = ~served.select((pl.struct(spec.key) == pl.struct(spec.key).shift(-1)).fill_null(False)).to_series()
            served = served.filter(newest)
        return self._renamed(name, served, now)

    def minutes(
        self, codes: Sequence[str] | None = None, start: date | None = None, end: date | None = None
    ) -> pl.DataFrame:
        """Five-minute bars made on demand: `stk_mins` columns, the codes asked for, `published_at`.

        They add up exactly to the daily bar. Every first code when `codes` is None.
        """
        lo, hi = self._ordinals(start or self.sessions[0], end or self.sessions[-1])
        wanted = list(codes) if codes is not None else self._world.securities.code.tolist()
        if len(wanted) * (hi - lo) > 600_000:
            raise BadInput(
                "minutes are made for at most 600,000 instrument-days at once",
                len(wanted) * (hi - lo),
                "ask for fewer codes or sessions",
            )
        known = [(code, self._places[code]) for code in wanted if code in self._places]
        places = np.array([place for _, place in known], dtype=np.int64)
        k, t = np.nonzero(self._world.walk.traded[lo:hi][:, places].T)
        t += lo
        world = self._world
        bars = _fill_days(
            world.profile.seed, t, places[k], world.walk.path, world.walk.reference, world.securities.bands
        )
        return self._minute_frame(pl.Series("ts_code", [code for code, _ in known], dtype=pl.String).gather(k), t, bars)

    def published_minutes(self, now: datetime) -> date | None:
        """The last session whose minutes the vendor serves at `now`; None before the first."""
        instants = self._world.published(np.arange(len(self.sessions)), MINUTES_AT)
        count = int(instants.search_sorted(now, side="right"))
        return self.sessions[count - 1] if count else None

    def _minute_frame(self, codes: pl.Series, t: np.ndarray, bars: np.ndarray) -> pl.DataFrame:
        stamps = (self._days[t][:, None] + BAR_ENDS.astype("timedelta64[m]")).ravel()
        repeated = np.repeat(np.arange(len(t)), BARS)
        price = {name: bars[:, :, c].ravel() / 100 for c, name in enumerate(("open", "high", "low", "close"))}
        frame = pl.DataFrame(
            {
                "ts_code": codes.gather(repeated),
                "trade_time": stamps,
                **price,
                "vol": bars[:, :, 4].ravel() * 100.0,
                "amount": bars[:, :, 5].ravel().astype(np.float64),
            }
        ).select(TABLES["stk_mins"].names)
        return frame.with_columns(self._world.published(t, MINUTES_AT).gather(repeated).alias("published_at"))

    @cached_property
    def _places(self) -> dict[str, int]:
        """Every code a security ever had -> its position."""
        s = self._world.securities
        return {code: i for codes in (s.code, s.later_code) for i, code in enumerate(codes.tolist()) if code}

    @cached_property
    def _days(self) -> np.ndarray:
        return np.array(self.sessions, dtype="datetime64[us]")

    def _ordinals(self, start: date, end: date) -> tuple[int, int]:
        """Half-open range of session ordinals inside two natural days, both included."""
        return bisect_left(self.sessions, start), bisect_right(self.sessions, end)

    def _require(self, name: str) -> None:
        if name not in self.tables:
            raise BadInput(f"the simulated vendor has the tables {sorted(self.tables)}", name, "minutes: use `minutes`")

    def _snapshot(self, name: str) -> pl.DataFrame:
        if name not in self._snapshots:
            self._snapshots[name] = SNAPSHOT_TABLES[name](self._world)
        return self._snapshots[name]

    def _block(self, name: str, number: int) -> pl.DataFrame:
        """`BLOCK_SESSIONS` sessions of a table, built once and kept while they are among the latest used."""
        key = (name, number)
        if key not in self._blocks:
            start = number * BLOCK_SESSIONS
            stop = min(start + BLOCK_SESSIONS, len(self.sessions))
            order = [*TABLES[name].key, "published_at"]
            self._blocks[key] = SESSION_TABLES[name](self._world, start, stop).sort(order, maintain_order=True)
        self._blocks.move_to_end(key)
        while len(self._blocks) > 1 and sum(block.height for block in self._blocks.values()) > CACHED_ROWS:
            self._blocks.popitem(last=False)
        return self._blocks[key]

    def _renamed(self, name: str, rows: pl.DataFrame, now: datetime) -> pl.DataFrame:
        """Switched Beijing codes: all history comes under the new code, a laggard's factors excepted."""
        if "ts_code" not in rows.columns:
            return rows
        renames = self._renames(now.astimezone(SHANGHAI).date())
        laggard, until = laggard_factor(self._world)
        if name == "adj_factor" and laggard >= 0 and now.astimezone(SHANGHAI).date() < self.sessions[until]:
            renames = {k: v for k, v in renames.items() if k != self._world.securities.code[laggard]}
        if not renames:
            return rows
        renamed = rows.with_columns(pl.col("ts_code").replace(renames))
        if "symbol" in rows.columns:
            renamed = renamed.with_columns(pl.col("ts_code").str.slice(0, 6).alias("symbol"))
        return renamed.sort(TABLES[name].key, maintain_order=True)

    def _renames(self, day: date) -> dict[str, str]:
        s = self._world.securities
        done = np.flatnonzero(s.switched <= np.datetime64(day))
        return {str(s.code[i]): str(s.later_code[i]) for i in done}


class _Tables(Mapping[str, pl.DataFrame]):
    """Whole tables, built when asked for; a large market is better read by `rows`."""

    def __init__(self, market: SimulatedMarket) -> None:
        self._market = market

    def __getitem__(self, name: str) -> pl.DataFrame:
        if name in SNAPSHOT_TABLES:
            return self._market._snapshot(name)
        if name not in SESSION_TABLES:
            raise KeyError(name)
        return self._market.rows(name, self._market.sessions[0], self._market.sessions[-1])

    def __contains__(self, name: object) -> bool:
        return name in SNAPSHOT_TABLES or name in SESSION_TABLES

    def __iter__(self) -> Iterator[str]:
        return iter((*SNAPSHOT_TABLES, *SESSION_TABLES))

    def __len__(self) -> int:
        return len(SNAPSHOT_TABLES) + len(SESSION_TABLES)


@numba.njit(cache=True)
def _fill_days(
    seed: int, t: np.ndarray, i: np.ndarray, path: np.ndarray, reference: np.ndarray, bands: np.ndarray
) -> np.ndarray:
    """int64 [pairs, 48, 6]: the bars of many instrument-days, the same ones the walk summed."""
    out = np.empty((len(t), BARS, 6), dtype=np.int64)
    for k in range(len(t)):
        lower, upper = limit_ticks(reference[t[k], i[k]], bands[t[k], i[k]])
        inputs = path[t[k], i[k]]
        fill_day(
            draws.stream(seed, PATH, t[k], i[k]),
            inputs[0],
            inputs[1],
            inputs[2],
            inputs[3],
            lower,
            upper,
            out[k],
        )
    return out
