"""Checks between vendor tables: what fails is a `quarantine` row with table, rule and what was seen.

Nothing is repaired here. A row whose own quote is impossible has already lost its values (measures.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipeline.asof.build import Build
from pipeline.asof.identity import original_code
from pipeline.asof.intraday import BAR_FIELDS, Minutes
from pipeline.asof.knowledge import Versions, Window
from pipeline.asof.measures import picked
from pipeline.asof.rules import TICK

QUARANTINE = pl.Schema(
    {
        "session": pl.Date(),
        "instrument": pl.String(),
        "table": pl.String(),
        "rule": pl.String(),
        "observed": pl.String(),
    }
)

NO_LIMIT_SENTINEL = 10_000.0
"""CNY; an upper limit at or above it means that the day has none."""

RATIO_TOLERANCE = 1e-3
"""Relative; three decimals of a factor near 1 carry 5e-4 each, and minutes are cut to cents bar by bar."""

TURNOVER_TOLERANCE = 1e-2
"""Relative to the vendor's turnover, plus 0.01 percentage points."""


@dataclass(frozen=True)
class Audited:
    """Rows under audit: `frame` has the panel and audit columns, `picks` the vendor rows behind it.

    `context` are measured rows of the sessions just before, as far as they were handed in.
    """

    frame: pl.DataFrame
    context: pl.DataFrame
    picks: Mapping[str, np.ndarray]
    versions: Mapping[str, Versions]

    def vendor(self, table: str, columns: list[str]) -> pl.DataFrame:
        """Raw vendor columns beside the frame, `vendor_` before their names."""
        rows = picked(self.versions, self.picks, table, columns)
        return self.frame.hstack(rows.select(pl.col(c).alias(f"vendor_{c}") for c in columns))


def limit_mismatch(audited: Audited) -> pl.Series:
    """True where `stk_limit` and the dated rule disagree by more than half a tick on a traded day.

    A missing row, a null or the sentinel say "no limit" where the table has the session at all. Days on which
    the rule itself has no opinion (`limit_known` false: an issue price that nobody sent) are not compared.
    """
    if "stk_limit" not in audited.versions:
        return pl.repeat(False, len(audited.frame), eager=True).alias("limit_mismatch")
    frame = audited.vendor("stk_limit", ["up_limit", "down_limit"])
    free = (pl.col("vendor_up_limit") >= NO_LIMIT_SENTINEL).fill_null(True)
    differs = pl.any_horizontal(
        ((pl.col(f"vendor_{c}") - pl.col(c)).abs() > TICK / 2 + 1e-9).fill_null(True)
        for c in ("up_limit", "down_limit")
    )
    covered = pl.Series("covered", audited.picks["stk_limit"] >= 0)
    compared = pl.col("valid_bar") & pl.col("limit_known") & pl.col("covered").max().over("session")
    ruled = pl.col("up_limit").is_not_null()
    return (
        frame.with_columns(covered)
        .select((compared & pl.when(ruled).then(free | differs).otherwise(~free)).alias("limit_mismatch"))
        .to_series()
    )


def quarantined(audited: Audited, minutes: Minutes, build: Build) -> pl.DataFrame:
    """Every quarantine row that the sessions being built give rise to, in key order."""
    found = [
        *_quotes(audited),
        *_missing_rows(audited),
        _pre_close(audited),
        _turnover(audited),
        _limits(audited),
        _names(audited.frame),
        *_minutes(audited.frame, minutes),
        _strays(minutes, build.window),
        _unplaced(audited, build),
    ]
    return pl.concat(found).sort("session", "instrument", "table", "rule", "observed")


def _unplaced(audited: Audited, build: Build) -> pl.DataFrame:
    """Rows of `daily` without a place in the panel: a day that is no session, or a code not listed then."""
    daily, window = build.versions["daily"], build.window
    day = daily.rows["trade_date"].to_numpy().astype("datetime64[D]")
    first, last = window.calendar.days[build.sessions[[0, -1]]]
    in_time = daily.known <= np.where(daily.ordinal >= 0, daily.ordinal, build.sessions[-1])
    cell = window.cells(daily.instrument, daily.ordinal)
    listed = np.append(build.cell_rows(np.arange(len(build.listing.cells))), -1)[cell] >= 0
    built = (daily.ordinal < 0) | np.isin(daily.ordinal, build.sessions)
    at = np.flatnonzero((day >= first) & (day <= last) & in_time & built & ~listed)
    rule = np.where(
        daily.ordinal[at] < 0,
        "not_a_session",
        np.where(daily.instrument[at] < 0, "unknown_code", "not_listed"),
    )
    code = daily.rows["ts_code"].gather(at)
    rows = pl.DataFrame(
        {
            "session": pl.Series(day[at], dtype=pl.Date),
            "instrument": original_code(code, window.identity.renames),
            "rule": pl.Series(rule, dtype=pl.String),
            "ts_code": code,
        }
    )
    return _rows(rows.unique(), "daily", pl.col("rule"), _said("ts_code"))


def _rows(frame: pl.DataFrame, table: str, rule: pl.Expr | str, observed: pl.Expr) -> pl.DataFrame:
    """The quarantine columns of failing rows."""
    return frame.select(
        pl.col("session").cast(pl.Date),
        pl.col("instrument").cast(pl.String),
        pl.lit(table).alias("table"),
        (pl.lit(rule) if isinstance(rule, str) else rule).alias("rule"),
        observed.alias("observed"),
    )


def _said(*columns: str) -> pl.Expr:
    """`a=1.0 b=null …` of the named columns."""
    return pl.format(
        " ".join(f"{c.removeprefix('vendor_')}={{}}" for c in columns),
        *(pl.col(c).cast(pl.String).fill_null("null") for c in columns),
    )


def _quotes(audited: Audited) -> list[pl.DataFrame]:
    prices = ["open", "high", "low", "close", "pre_close", "vol", "amount"]
    vendor = [f"vendor_{c}" for c in prices]
    frame = audited.vendor("daily", prices).filter("has_bar")
    broken = frame.filter(~pl.col("valid_bar"))
    negative = frame.filter((pl.col("vendor_vol") < 0) | (pl.col("vendor_amount") < 0))
    halted = frame.filter(pl.col("suspended") & (pl.col("vendor_amount") > 0))
    return [
        _rows(broken, "daily", "invalid_quote", _said(*vendor)),
        _rows(negative, "daily", "negative_volume", _said("vendor_vol", "vendor_amount")),
        _rows(halted, "suspend_d", "bar_while_suspended", _said("vendor_amount")),
    ]


def _missing_rows(audited: Audited) -> list[pl.DataFrame]:
    """Traded rows that another table of the source lacks; money flow never covers the BSE."""
    found = []
    for table in ("adj_factor", "daily_basic", "moneyflow"):
        if table not in audited.versions:
            continue
        frame = audited.frame.with_columns(absent=pl.Series(audited.picks[table] < 0))
        served = pl.lit(True) if table != "moneyflow" else pl.col("board") != "bse"
        found.append(
            _rows(
                frame.filter("has_bar", "absent", served), table, "missing_row", pl.lit("daily has the row")
            )
        )
    carried = audited.frame.filter("factor_carried", "has_bar")
    return [*found, _rows(carried, "adj_factor", "factor_carried", _said("factor"))]


def _pre_close(audited: Audited) -> pl.DataFrame:
    """The reference price against the previous close x factor ratio, over suspended sessions."""
    columns = ["session", "instrument", "place", "close", "pre_close", "factor"]
    parts = (audited.context, audited.frame)
    rows = pl.concat([part.filter(~pl.col("suspended")).select(columns) for part in parts])
    pairs = rows.with_columns(pl.col("close", "factor").shift(1).over("place").name.prefix("previous_"))
    jumped = pl.col("factor") != pl.col("previous_factor")
    slack = TICK / 2 + 1e-9 + pl.when(jumped).then(RATIO_TOLERANCE * pl.col("pre_close")).otherwise(0.0)
    expected = pl.col("previous_close") * pl.col("previous_factor") / pl.col("factor")
    own = pairs.with_columns(expected=expected).filter(pl.col("session") >= audited.frame["session"].min())
    wrong = own.filter((pl.col("pre_close") - pl.col("expected")).abs() > slack)
    return _rows(wrong, "daily", "pre_close_against_factor", _said("pre_close", "expected"))


def _turnover(audited: Audited) -> pl.DataFrame:
    """`turnover_rate` (percent) against lots over float shares (10,000)."""
    frame = audited.vendor("daily_basic", ["turnover_rate", "float_share"]).with_columns(
        expected=pl.col("volume") / 100 / pl.col("vendor_float_share")
    )
    slack = 0.01 + TURNOVER_TOLERANCE * pl.col("vendor_turnover_rate").abs()
    wrong = frame.filter((pl.col("vendor_turnover_rate") - pl.col("expected")).abs() > slack)
    return _rows(wrong, "daily_basic", "turnover_against_shares", _said("vendor_turnover_rate", "expected"))


def _limits(audited: Audited) -> pl.DataFrame:
    frame = audited.vendor("stk_limit", ["up_limit", "down_limit"]).filter("limit_mismatch")
    columns = ("vendor_up_limit", "vendor_down_limit", "up_limit", "down_limit")
    said = pl.format(
        "vendor {} {} rule {} {}", *(pl.col(c).cast(pl.String).fill_null("none") for c in columns)
    )
    return _rows(frame, "stk_limit", "limit_against_rule", said)


def _names(frame: pl.DataFrame) -> pl.DataFrame:
    """`stock_st` against the name in force; `st_by_name` is null where only one of the two speaks."""
    wrong = frame.filter(pl.col("st_by_name") != pl.col("is_st"))
    return _rows(wrong, "stock_st", "st_against_name", _said("is_st", "st_by_name"))


def _minutes(frame: pl.DataFrame, minutes: Minutes) -> list[pl.DataFrame]:
    """Bars against the day: volume and amount add up, high and low agree, the last close is the close."""
    if not len(minutes.row):
        return []
    bars = minutes.bars.reshape(len(minutes.row), -1, len(BAR_FIELDS))
    last = np.where(np.isnan(bars[:, :, 3]), -1, np.arange(bars.shape[1])).max(axis=1)
    sums = pl.DataFrame(
        {
            "volume": minutes.volume,
            "amount": np.nansum(bars[:, :, 4], axis=1),
            "high": np.fmax.reduce(bars[:, :, 1], axis=1),
            "low": np.fmin.reduce(bars[:, :, 2], axis=1),
            "close": bars[np.arange(len(bars)), last, 3],
        }
    ).select(pl.all().fill_nan(None).name.prefix("minutes_"))
    days = frame[minutes.row].hstack(sums).filter("valid_bar")
    found = []
    for column in ("volume", "amount", "high", "low", "close"):
        slack = RATIO_TOLERANCE * pl.col(column) if column in ("volume", "amount") else pl.lit(TICK / 2)
        wrong = days.filter((pl.col(f"minutes_{column}") - pl.col(column)).abs() > slack)
        found.append(_rows(wrong, "stk_mins", f"minutes_{column}", _said(f"minutes_{column}", column)))
    return found


def _strays(minutes: Minutes, window: Window) -> pl.DataFrame:
    days = window.calendar.days[minutes.strays["ordinal"].to_numpy()]
    rows = minutes.strays.with_columns(session=pl.Series(days), instrument=pl.col("ts_code"))
    return _rows(rows, "stk_mins", "bar_time", _said("trade_time"))
