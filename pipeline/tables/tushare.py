"""The Tushare Pro tables: keys, columns, the vendor's units, row caps and publication times. Values only.

Publication times are the late end of what the vendor's pages and their copies name, in Shanghai wall time.
"""

from __future__ import annotations

from datetime import date, time

import polars as pl

from pipeline.tables.known import NEVER, Published
from pipeline.tables.spec import Column, TableSpec

DATE, TEXT, REAL = pl.Date(), pl.String(), pl.Float64()

LIMITS_OUT = time(8, 40)
ST_LIST_OUT = time(9, 20)
FACTORS_OUT = time(9, 30)
BARS_OUT = time(17, 0)
RATIOS_OUT = time(19, 0)
FLOWS_OUT = time(19, 0)
MINUTES_OUT = time(20, 0)
# No documented hour. What these tables say of a day is public before its close; 20:00 leaves the vendor
# the rest of the day.
IRREGULAR = time(20, 0)
MIDNIGHT = time(0, 0)
SW2021_PUBLISHED = date(2021, 7, 30)


def _keys(*names: str) -> tuple[Column, ...]:
    """Text keys."""
    return tuple(Column(name, TEXT, nullable=False) for name in names)


def _day(name: str = "trade_date") -> Column:
    return Column(name, DATE, nullable=False)


def _reals(unit: str, *names: str, required: bool = True) -> tuple[Column, ...]:
    return tuple(Column(name, REAL, unit, required=required) for name in names)


def _optional(*names: str) -> tuple[Column, ...]:
    """Text that a dump may lack."""
    return tuple(Column(name, TEXT, required=False) for name in names)


def _today_only(*names: str, default: bool = True, documented: bool = True) -> tuple[Column, ...]:
    """Text as of the download day: the vendor overwrites it, so no earlier day may read it."""
    return tuple(
        Column(name, TEXT, default=default, required=False, documented=documented, known=NEVER)
        for name in names
    )


TRADE_CAL = TableSpec(
    vendor="tushare", name="trade_cal",
    summary="Natural days of the exchange and whether it opens.",
    key=("exchange", "cal_date"), event=None,
    layout="snapshot", fetch_by="snapshot", row_cap=2000, requests=((("exchange", "SSE"),),),
    # A year's holidays are announced in the November or December before it.
    known=Published(time(23, 59), ("cal_date",), days=-1, truncate="1y"),
    natural_days="cal_date",
    columns=(
        *_keys("exchange"), _day("cal_date"),
        Column("is_open", pl.Int8(), "0 or 1", nullable=False),
        Column("pretrade_date", DATE, required=False),
    ),
)

STOCK_BASIC = TableSpec(
    vendor="tushare", name="stock_basic",
    summary="Listed, delisted and suspended securities as of the download.",
    key=("ts_code",), event=None,
    layout="snapshot", fetch_by="snapshot", row_cap=6000, calls_per_minute=50,
    # The default answer holds survivors only.
    requests=((("list_status", "L"),), (("list_status", "D"),), (("list_status", "P"),)),
    known=Published(MIDNIGHT, ("list_date",)),
    columns=(
        *_keys("ts_code"),
        *_optional("symbol"),
        *_today_only("name", "area", "industry"),
        *_today_only("fullname", "enname", default=False),
        *_today_only("cnspell", "market"),
        Column("exchange", TEXT, default=False, required=False),
        Column("curr_type", TEXT, default=False, required=False),
        *_today_only("list_status", default=False),
        _day("list_date"),
        Column("delist_date", DATE, default=False, required=False,
               known=Published(MIDNIGHT, ("delist_date",))),
        *_today_only("is_hs", default=False),
        *_today_only("act_name", "act_ent_type", documented=False),
    ),
)

NAMECHANGE = TableSpec(
    vendor="tushare", name="namechange",
    summary="Names of securities with the days they were valid; audits ST.",
    key=("ts_code", "start_date", "name"), event=None,
    layout="snapshot", fetch_by="snapshot", row_cap=10_000,
    known=Published(IRREGULAR, ("ann_date", "start_date")),
    # One change is listed again under a later announcement; the first announcement is when it became known.
    prefer=("ann_date", "end_date"),
    columns=(
        *_keys("ts_code", "name"), _day("start_date"),
        # Filled in later, when the next name begins.
        Column("end_date", DATE, required=False, known=Published(IRREGULAR, ("end_date",))),
        Column("ann_date", DATE, required=False),
        *_optional("change_reason"),
    ),
)

STOCK_ST = TableSpec(
    vendor="tushare", name="stock_st",
    summary="Securities under special treatment, by day.",
    key=("trade_date", "ts_code"), event="trade_date",
    layout="session", fetch_by="session", row_cap=1000, affected_only=True,
    known=Published(ST_LIST_OUT, ("trade_date",)),
    columns=(*_keys("ts_code"), *_optional("name"), _day(), *_optional("type", "type_name")),
)

BSE_MAPPING = TableSpec(
    vendor="tushare", name="bse_mapping",
    summary="Old and new codes of Beijing securities.",
    key=("o_code",), event=None,
    layout="snapshot", fetch_by="snapshot", row_cap=1000,
    # Which codes are one security is identity, not news: the mapping joins rows from the first day on.
    known=Published(MIDNIGHT, ("list_date",)),
    columns=(*_today_only("name"), *_keys("o_code", "n_code"), _day("list_date")),
)

DAILY = TableSpec(
    vendor="tushare", name="daily",
    summary="Unadjusted daily bars.",
    key=("trade_date", "ts_code"), event="trade_date",
    layout="session", fetch_by="session", row_cap=6000, calls_per_minute=500,
    known=Published(BARS_OUT, ("trade_date",)),
    columns=(
        *_keys("ts_code"), _day(),
        *_reals("CNY a share", "open", "high", "low", "close"),
        Column("pre_close", REAL, "CNY a share, ex-right"),
        *_reals("CNY a share", "change", required=False),
        *_reals("percent of pre_close", "pct_chg", required=False),
        *_reals("lots of 100 shares", "vol"),
        *_reals("1,000 CNY", "amount"),
        Column("ah_vol", REAL, "lots of 100 shares", default=False, required=False, documented=False),
        Column("ah_amount", REAL, "1,000 CNY", default=False, required=False, documented=False),
    ),
)

ADJ_FACTOR = TableSpec(
    vendor="tushare", name="adj_factor",
    summary="Cumulative adjustment factors.",
    key=("trade_date", "ts_code"), event="trade_date",
    layout="session", fetch_by="session", row_cap=6000,
    known=Published(FACTORS_OUT, ("trade_date",)),
    columns=(*_keys("ts_code"), _day(), *_reals("cumulative, ratios only", "adj_factor")),
)

DAILY_BASIC = TableSpec(
    vendor="tushare", name="daily_basic",
    summary="Turnover, valuation ratios, share counts and market values by day.",
    key=("trade_date", "ts_code"), event="trade_date",
    layout="session", fetch_by="session", row_cap=6000,
    known=Published(RATIOS_OUT, ("trade_date",)),
    columns=(
        *_keys("ts_code"), _day(),
        *_reals("CNY a share", "close", required=False),
        *_reals("percent of float shares", "turnover_rate", required=False),
        *_reals("percent of free-float shares", "turnover_rate_f", required=False),
        *_reals("ratio", "volume_ratio", "pe", "pe_ttm", "pb", "ps", "ps_ttm", required=False),
        *_reals("percent", "dv_ratio", "dv_ttm", required=False),
        *_reals("10,000 shares", "total_share", "float_share", "free_share", required=False),
        *_reals("10,000 CNY", "total_mv", "circ_mv", required=False),
        Column("limit_status", pl.Int64(), default=False, required=False, documented=False),
    ),
)

STK_LIMIT = TableSpec(
    vendor="tushare", name="stk_limit",
    summary="Daily price limits.",
    key=("trade_date", "ts_code"), event="trade_date",
    layout="session", fetch_by="session", row_cap=5800,
    known=Published(LIMITS_OUT, ("trade_date",)),
    columns=(
        _day(), *_keys("ts_code"),
        Column("pre_close", REAL, "CNY a share", default=False, required=False),
        *_reals("CNY a share", "up_limit", "down_limit"),
    ),
)

SUSPEND_D = TableSpec(
    vendor="tushare", name="suspend_d",
    summary="Suspensions and resumptions, with their hours.",
    event="trade_date",
    # A null timing is the whole day, and a value of the key like any other.
    key=("trade_date", "ts_code", "suspend_type", "suspend_timing"),
    layout="session", fetch_by="session", row_cap=5000, calls_per_minute=200,
    known=Published(IRREGULAR, ("trade_date",)),
    may_be_empty=True, announces_future=True,
    columns=(*_keys("ts_code"), _day(), *_optional("suspend_timing"), *_keys("suspend_type")),
)

INDEX_DAILY = TableSpec(
    vendor="tushare", name="index_daily",
    summary="Daily bars of indices.",
    key=("trade_date", "ts_code"), event="trade_date",
    layout="session", fetch_by="index", row_cap=8000,
    known=Published(BARS_OUT, ("trade_date",)),
    columns=(
        *_keys("ts_code"), _day(),
        *_reals("index points", "close"),
        *_reals("index points", "open", "high", "low", "pre_close", "change", required=False),
        *_reals("percent", "pct_chg", required=False),
        *_reals("lots of 100 shares", "vol", required=False),
        *_reals("1,000 CNY", "amount", required=False),
    ),
)

INDEX_MEMBER_ALL = TableSpec(
    vendor="tushare", name="index_member_all",
    summary="Shenwan 2021 industry memberships with their dates.",
    key=("ts_code", "l3_code", "in_date"), event=None,
    layout="snapshot", fetch_by="snapshot", row_cap=2000,
    requests=((("is_new", "Y"),), (("is_new", "N"),)),
    # Memberships before the classification was published were mapped back.
    known=Published(IRREGULAR, ("in_date",), not_before=SW2021_PUBLISHED),
    columns=(
        *_optional("l1_code"), Column("l1_name", TEXT),
        *_optional("l2_code", "l2_name"),
        *_keys("l3_code"), *_optional("l3_name"),
        *_keys("ts_code"), *_today_only("name"),
        _day("in_date"),
        Column("out_date", DATE, known=Published(IRREGULAR, ("out_date",), not_before=SW2021_PUBLISHED)),
        *_today_only("is_new"),
    ),
)

MONEYFLOW = TableSpec(
    vendor="tushare", name="moneyflow",
    summary="Bought and sold volumes and amounts by order size; no Beijing.",
    key=("trade_date", "ts_code"), event="trade_date",
    layout="session", fetch_by="session", row_cap=6000,
    known=Published(FLOWS_OUT, ("trade_date",)),
    columns=(
        *_keys("ts_code"), _day(),
        *(
            column
            for size in ("sm", "md", "lg", "elg") for side in ("buy", "sell")
            for column in (
                *_reals("lots of 100 shares", f"{side}_{size}_vol", required=False),
                *_reals("10,000 CNY", f"{side}_{size}_amount"),
            )
        ),
        *_reals("lots of 100 shares", "net_mf_vol", required=False),
        *_reals("10,000 CNY", "net_mf_amount", required=False),
    ),
)

STK_MINS = TableSpec(
    vendor="tushare", name="stk_mins",
    summary="Unadjusted five-minute bars.",
    key=("ts_code", "trade_time"), event="trade_time",
    layout="session", fetch_by="instrument", row_cap=8000, requests=((("freq", "5min"),),),
    known=Published(MINUTES_OUT, ("trade_time",)),
    columns=(
        *_keys("ts_code"), Column("trade_time", pl.Datetime("us"), "end of the bar", nullable=False),
        *_reals("CNY a share", "open", "close", "high", "low"),
        *_reals("shares", "vol"),
        *_reals("CNY", "amount"),
    ),
)

TABLES: dict[str, TableSpec] = {
    spec.name: spec
    for spec in (
        TRADE_CAL, STOCK_BASIC, NAMECHANGE, STOCK_ST, BSE_MAPPING, DAILY, ADJ_FACTOR, DAILY_BASIC, STK_LIMIT,
        SUSPEND_D, INDEX_DAILY, INDEX_MEMBER_ALL, MONEYFLOW, STK_MINS,
    )
}
