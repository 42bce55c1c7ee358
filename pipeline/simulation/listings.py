"""The world's slow facts as Tushare's snapshot tables: every version with the instant it was first served."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from functools import lru_cache

import numpy as np
import polars as pl

from pipeline.simulation import limits
from pipeline.simulation.securities import BSE_SWITCH, UNMAPPED, announcement
from pipeline.simulation.world import World, day_before, utc
from pipeline.tables.tushare import TABLES

MORNING, ANNOUNCED_AT = time(9, 0), time(18, 0)
HOLIDAYS_ANNOUNCED = (12, 20)  # month and day on which the next year's calendar is served
BSE_NOTICE = date(2025, 9, 12)
SW2021_PUBLISHED = date(2021, 7, 30)

INDUSTRIES = (
    "农林牧渔",
    "基础化工",
    "钢铁",
    "有色金属",
    "电子",
    "汽车",
    "家用电器",
    "食品饮料",
    "纺织服饰",
    "轻工制造",
    "医药生物",
    "公用事业",
    "交通运输",
    "房地产",
    "商贸零售",
    "社会服务",
    "银行",
    "非银金融",
    "综合",
    "建筑材料",
    "建筑装饰",
    "电力设备",
    "机械设备",
    "国防军工",
    "计算机",
    "传媒",
    "通信",
    "煤炭",
    "石油石化",
    "环保",
    "美容护理",
)
MARKETS = ("主板", "主板", "创业板", "科创板", "北交所")
EXCHANGES = ("SSE", "SZSE", "SZSE", "SSE", "BSE")
_FIRST, _SECOND, _LAST = (
    "华东中天海金新远恒宏",
    "瑞达泰信科源通丰盛和",
    ("股份", "科技", "材料", "电气", "医药", "智能", "重工", "能源"),
)

Row = tuple[object, ...]


@lru_cache(maxsize=4)
def names(world: World) -> list[str]:
    """Made-up company names, one per instrument."""
    rng = np.random.default_rng([world.profile.seed, 31])
    picks = rng.integers(0, [len(_FIRST), len(_SECOND), len(_LAST)], (len(world.securities), 3))
    return [_FIRST[a] + _SECOND[b] + _LAST[c] for a, b, c in picks]


@lru_cache(maxsize=4)
def st_names(world: World) -> pl.Series:
    """The name each instrument has, or would have, under special treatment: every third one `*ST`."""
    return pl.Series("name", [("*ST" if k % 3 == 0 else "ST") + name for k, name in enumerate(names(world))])


@lru_cache(maxsize=4)
def name_history(world: World) -> list[list[tuple[str, date, date, str]]]:
    """Per instrument, ascending: name, first day it is valid, announcement, reason."""
    s, days = world.securities, world.days
    plain, special = names(world), st_names(world).to_list()
    listed = s.listed.tolist()
    history = [[(plain[i], listed[i], listed[i], "其他")] for i in range(len(s))]
    for i, start, end in s.episodes.tolist():
        kind = "*ST" if special[i].startswith("*") else "ST"
        history[i].append((special[i], days[start], announcement(days[start], 1), kind))
        if s.arrangement[i] < 0 and end < len(days) and end <= s.last[i]:
            history[i].append((plain[i], days[end], announcement(days[end], 1), "撤销" + kind))
    for i in np.flatnonzero(s.arrangement >= 0).tolist():
        shanghai = s.board[i] in (limits.MAIN_SSE, limits.STAR)
        final = "退市" + plain[i][:2] if shanghai else plain[i][:2] + "退"
        day = days[s.arrangement[i]]
        history[i].append((final, day, announcement(day, 5), "其他"))
    return history


def delist_day(world: World, i: int) -> date | None:
    """The session after the last traded one; None for a name that stays."""
    s = world.securities
    return world.calendar.session(world.offset + int(s.last[i]) + 1) if s.delisted[i] else None


def trade_cal(world: World) -> pl.DataFrame:
    """Natural days; a year is served from the December before it."""
    calendar = world.calendar
    first, last = date(calendar.sessions[0].year, 1, 1), calendar.known_until
    opened, previous = set(calendar.sessions), None
    rows: list[Row] = []
    for k in range((last - first).days + 1):
        day = first + timedelta(days=k)
        since = utc(date(day.year - 1, *HOLIDAYS_ANNOUNCED), ANNOUNCED_AT)
        rows.append(("SSE", day, int(day in opened), previous, since))
        previous = day if day in opened else previous
    return _frame("trade_cal", ("exchange", "cal_date", "is_open", "pretrade_date"), rows)


def stock_basic(world: World) -> pl.DataFrame:
    """Snapshot versions: served from the listing day, changed by every new name and by the delisting."""
    s = world.securities
    rows: list[Row] = []
    for i, history in enumerate(name_history(world)):
        fixed = (
            s.code[i][:6],
            INDUSTRIES[s.industry[i]] if s.industry[i] != UNMAPPED else None,
            MARKETS[s.board[i]],
            EXCHANGES[s.board[i]],
            "CNY",
            s.listed[i].item(),
        )
        for name, day, _, _ in history:
            rows.append((s.code[i], name, "L", None, *fixed, utc(day, MORNING)))
        gone = delist_day(world, i)
        if gone is not None:
            rows.append((s.code[i], history[-1][0], "D", gone, *fixed, utc(gone, MORNING)))
    columns = (
        "ts_code",
        "name",
        "list_status",
        "delist_date",
        "symbol",
        "industry",
        "market",
        "exchange",
        "curr_type",
        "list_date",
    )
    return _frame("stock_basic", columns, rows)


def namechange(world: World) -> pl.DataFrame:
    """Names with their validity; an open interval is closed by a revision when the next name begins."""
    rows: list[Row] = []
    for i, history in enumerate(name_history(world)):
        code = world.securities.code[i]
        for k, (name, start, announced, reason) in enumerate(history):
            rows.append((code, name, start, None, announced, reason, utc(announced, ANNOUNCED_AT)))
            if k + 1 < len(history):
                following = history[k + 1][1]
                rows.append((code, name, start, day_before(following), announced, reason, utc(following, MORNING)))
    return _frame("namechange", ("ts_code", "name", "start_date", "end_date", "ann_date", "change_reason"), rows)


def bse_mapping(world: World) -> pl.DataFrame:
    """Old and new Beijing codes, served from the notice (the pilots: from their switch)."""
    s, called = world.securities, names(world)
    rows: list[Row] = []
    for i in np.flatnonzero(s.later_code != "").tolist():
        switch = s.switched[i].item()
        since = utc(BSE_NOTICE, ANNOUNCED_AT) if switch == BSE_SWITCH else utc(switch, time(8, 0))
        rows.append((called[i], s.code[i], s.later_code[i], s.listed[i].item(), since))
    return _frame("bse_mapping", ("name", "o_code", "n_code", "list_date"), rows)


def index_member_all(world: World) -> pl.DataFrame:
    """SW2021 memberships; earlier ones were mapped back when the classification was published."""
    s, called = world.securities, names(world)
    rows: list[Row] = []

    def member(i: int, industry: int, start: date, end: date | None, since: datetime) -> None:
        l1, l2, l3 = (f"{801_010 + 10 * industry + 1_000 * level}.SI" for level in range(3))
        label = INDUSTRIES[industry]
        rows.append(
            (
                l1,
                label,
                l2,
                label + "Ⅱ",
                l3,
                label + "Ⅲ",
                s.code[i],
                called[i],
                start,
                end,
                "N" if end else "Y",
                since,
            )
        )

    for i in np.flatnonzero(s.industry != UNMAPPED).tolist():
        start, old, new = s.listed[i].item(), int(s.industry[i]), int(s.later_industry[i])
        member(i, old, start, None, utc(max(start, SW2021_PUBLISHED), ANNOUNCED_AT))
        if s.industry_moved[i] > max(0, s.first[i]) and s.industry_moved[i] <= s.last[i]:
            moved = world.days[s.industry_moved[i]]
            since = utc(max(moved, SW2021_PUBLISHED), MORNING)
            member(i, old, start, moved, since)
            member(i, new, moved, None, since)
    columns = (
        "l1_code",
        "l1_name",
        "l2_code",
        "l2_name",
        "l3_code",
        "l3_name",
        "ts_code",
        "name",
        "in_date",
        "out_date",
        "is_new",
    )
    return _frame("index_member_all", columns, rows)


def _frame(table: str, columns: tuple[str, ...], rows: list[Row]) -> pl.DataFrame:
    """Rows in the spec's columns plus `published_at`, in key order, oldest version first."""
    spec = TABLES[table]
    given = pl.DataFrame(
        rows,
        orient="row",
        infer_schema_length=None,
        schema={**{c: spec.schema[c] for c in columns}, "published_at": pl.Datetime("us", "UTC")},
    )
    lacking = [pl.lit(None, dtype=c.dtype).alias(c.name) for c in spec.columns if c.name not in columns]
    return (
        given.with_columns(lacking)
        .select(*spec.names, "published_at")
        .sort(*spec.key, "published_at", maintain_order=True)
    )


SNAPSHOT_TABLES: dict[str, Callable[[World], pl.DataFrame]] = {
    "trade_cal": trade_cal,
    "stock_basic": stock_basic,
    "namechange": namechange,
    "bse_mapping": bse_mapping,
    "index_member_all": index_member_all,
}
