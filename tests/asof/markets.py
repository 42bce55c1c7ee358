"""A hand-made market for this room's tests: vendor tables whose every row a test can name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta

import polars as pl

from pipeline.asof.panel import PanelTables, build_panel
from pipeline.asof.spec import MarketSpec, UniverseSpec
from pipeline.calendars import Calendar

MARKET = MarketSpec(
    vendor="tushare",
    exchange="SSE",
    zone="Asia/Shanghai",
    decision_time=time(20, 30),
    bars_per_session=48,
    benchmark="000300.SH",
)
UNIVERSE = UniverseSpec(boards=("main", "chinext", "star", "bse"), seasoning_sessions=0)
STAMP = pl.Datetime("us", "UTC")
SCHEMAS: dict[str, dict[str, pl.DataType | type[pl.DataType]]] = {
    "stock_basic": {"ts_code": pl.String, "list_date": pl.Date, "delist_date": pl.Date},
    "namechange": {"ts_code": pl.String, "name": pl.String, "start_date": pl.Date, "end_date": pl.Date},
    "bse_mapping": {"o_code": pl.String, "n_code": pl.String},
    "index_member_all": {"ts_code": pl.String, "l1_name": pl.String, "in_date": pl.Date, "out_date": pl.Date},
    "daily": {
        "ts_code": pl.String,
        "trade_date": pl.Date,
        "open": pl.Float64,
        "high": pl.Float64,
        "low": pl.Float64,
        "close": pl.Float64,
        "pre_close": pl.Float64,
        "vol": pl.Float64,
        "amount": pl.Float64,
    },
    "adj_factor": {"ts_code": pl.String, "trade_date": pl.Date, "adj_factor": pl.Float64},
    "daily_basic": {
        "ts_code": pl.String,
        "trade_date": pl.Date,
        "turnover_rate": pl.Float64,
        "pe_ttm": pl.Float64,
        "float_share": pl.Float64,
        "total_mv": pl.Float64,
        "circ_mv": pl.Float64,
    },
    "moneyflow": {"ts_code": pl.String, "trade_date": pl.Date}
    | {f"{side}_{size}_amount": pl.Float64 for size in ("sm", "md", "lg", "elg") for side in ("buy", "sell")},
    "stk_limit": {
        "ts_code": pl.String,
        "trade_date": pl.Date,
        "up_limit": pl.Float64,
        "down_limit": pl.Float64,
    },
    "suspend_d": {
        "ts_code": pl.String,
        "trade_date": pl.Date,
        "suspend_timing": pl.String,
        "suspend_type": pl.String,
    },
    "stock_st": {"ts_code": pl.String, "trade_date": pl.Date},
    "stk_mins": {
        "ts_code": pl.String,
        "trade_time": pl.Datetime("us"),
        "open": pl.Float64,
        "high": pl.Float64,
        "low": pl.Float64,
        "close": pl.Float64,
        "vol": pl.Float64,
        "amount": pl.Float64,
    },
}


def at(day: date, hour: int = 9, minute: int = 0) -> datetime:
    """A Shanghai wall time as UTC."""
    return datetime.combine(day, time(hour, minute), UTC) - timedelta(hours=8)


def weekdays(first: date, last: date) -> list[date]:
    """Every weekday of a stretch: the made-up calendar of these tests."""
    span = (first + timedelta(days=i) for i in range((last - first).days + 1))
    return [day for day in span if day.weekday() < 5]


@dataclass(frozen=True)
class Market:
    """Rows by table; each verb returns a market with one more fact in it."""

    sessions: tuple[date, ...]
    calendar: Calendar
    rows: Mapping[str, tuple[dict[str, object], ...]] = field(default_factory=dict)

    @classmethod
    def over(cls, first: date, last: date, history: date | None = None) -> Market:
        """An empty market whose wanted sessions are the weekdays first..last."""
        days = weekdays(history or first - timedelta(days=150), last + timedelta(days=30))
        wanted = tuple(day for day in days if first <= day <= last)
        return cls(wanted, Calendar(tuple(days), days[-1]))

    def add(self, table: str, *, known: datetime, **row: object) -> Market:
        rows = (*self.rows.get(table, ()), row | {"known_at": known, "knowledge": "rule"})
        return replace(self, rows={**self.rows, table: rows})

    def lists(
        self,
        code: str,
        listed: date = date(2000, 1, 4),
        delisted: date | None = None,
        known: datetime | None = None,
    ) -> Market:
        return self.add(
            "stock_basic", known=known or at(listed, 0), ts_code=code, list_date=listed, delist_date=delisted
        )

    def trades(
        self,
        code: str,
        days: Sequence[date] | None = None,
        price: float = 10.0,
        factor: float = 1.0,
        known: datetime | None = None,
        **bar: float | None,
    ) -> Market:
        """Flat bars with a factor row each; keyword values override columns of `daily`."""
        market = self
        for day in self.sessions if days is None else days:
            row = {
                "open": price,
                "high": price,
                "low": price,
                "close": price,
                "pre_close": price,
                "vol": 100.0,
                "amount": 1000.0,
            } | bar
            market = market.add("daily", known=known or at(day, 17), ts_code=code, trade_date=day, **row)
            market = market.add("adj_factor", known=at(day), ts_code=code, trade_date=day, adj_factor=factor)
        return market

    def without(self, table: str) -> Market:
        return replace(self, rows={name: rows for name, rows in self.rows.items() if name != table})

    def raw(self) -> dict[str, pl.DataFrame]:
        """Frames by table; the three that every panel needs are there even when empty."""
        filled = {"stock_basic": (), "daily": (), "adj_factor": (), **self.rows}
        return {
            table: pl.DataFrame(
                list(rows), schema=SCHEMAS[table] | {"known_at": STAMP, "knowledge": pl.String}
            )
            for table, rows in filled.items()
        }

    def build(
        self,
        sessions: Sequence[date] | None = None,
        universe: UniverseSpec = UNIVERSE,
        market: MarketSpec = MARKET,
    ) -> PanelTables:
        return build_panel(self.raw(), self.calendar, list(sessions or self.sessions), market, universe)


def cell(tables: PanelTables, session: date, instrument: str) -> dict[str, object]:
    """The one panel row of a key."""
    return tables.panel.frame.row(
        by_predicate=(pl.col("session") == session) & (pl.col("instrument") == instrument), named=True
    )


def reasons(tables: PanelTables, session: date, instrument: str) -> list[str]:
    """Every exclusion of a key."""
    rows = tables.exclusions.filter(pl.col("session") == session, pl.col("instrument") == instrument)
    return sorted(rows["reason"].to_list())


def faults(tables: PanelTables) -> list[tuple[date, str, str, str]]:
    """(session, instrument, table, rule) of the quarantine."""
    return [row[:4] for row in tables.quarantine.iter_rows()]
