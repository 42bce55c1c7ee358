"""Leaks of the panel: what vendors say today, put into rows of the past. Each replaces one real function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import polars as pl

from assets.proof.leaks.catchers import LATER, LICENCE, LISTING
from assets.proof.leaks.contract import Leak, replaced
from pipeline.asof import build, panel, universe
from pipeline.asof.knowledge import Versions
from pipeline.asof.panel import PanelTables
from pipeline.asof.universe import Listing, Status
from pipeline.frames import AsOf, Hindsight
from pipeline.stages import sessions

Rows = Mapping[str, pl.DataFrame]
ALWAYS = datetime(1990, 1, 1, tzinfo=UTC)
LONG_AGO = date(1990, 1, 1)


def _of_today(rows: pl.DataFrame, since: str, until: str) -> pl.DataFrame:
    """An interval table as a snapshot: each code's newest state, in force and known for ever."""
    newest = rows.sort("known_at", since).unique("ts_code", keep="last", maintain_order=True)
    return newest.with_columns(
        pl.lit(LONG_AGO).alias(since),
        pl.lit(None, pl.Date).alias(until),
        known_at=pl.lit(ALWAYS).cast(rows.schema["known_at"]),
    )


def _current_names() -> AbstractContextManager[None]:
    def status(raw: Rows, listing: Listing, versions: Mapping[str, Versions], window: Any) -> Status:
        today = {**raw, "namechange": _of_today(raw["namechange"], "start_date", "end_date")}
        return universe.status(today, listing, {k: v for k, v in versions.items() if k != "stock_st"}, window)

    return replaced(build, "status", status)


def _current_universe() -> AbstractContextManager[None]:
    def listed(stock_basic: pl.DataFrame, window: Any) -> Listing:
        gone = stock_basic.filter(pl.col("delist_date").is_not_null())["ts_code"].unique()
        return universe.listed(stock_basic.filter(~pl.col("ts_code").is_in(gone.implode())), window)

    return replaced(build, "listed", listed)


def _current_industry() -> AbstractContextManager[None]:
    real = universe._industry

    def industry(members: pl.DataFrame, *rest: Any) -> pl.Series:
        return real(_of_today(members, "in_date", "out_date"), *rest)

    return replaced(universe, "_industry", industry)


def _latest_revision() -> AbstractContextManager[None]:
    real = Versions.of

    def of(rows: pl.DataFrame, event: str, window: Any) -> Versions:
        placed = real(rows, event, window)
        return replace(placed, known=placed.ordinal)

    return replaced(Versions, "of", staticmethod(of))


def _of_tomorrow(table: str) -> Callable[[], AbstractContextManager[None]]:
    """A session reads the next session's rows of a table."""

    def apply() -> AbstractContextManager[None]:
        real = build._require_whole

        def shifted(versions: dict[str, Versions], *rest: Any) -> None:
            own = versions[table]
            versions[table] = replace(own, ordinal=own.ordinal - 1, known=own.known - 1)
            real(versions, *rest)

        return replaced(build, "_require_whole", shifted)

    return apply


def _changed_panel(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[], AbstractContextManager[None]]:
    """The panel stage changes what was built before it stores it."""

    def apply() -> AbstractContextManager[None]:
        def built(*arguments: Any) -> PanelTables:
            tables = panel.build_panel(*arguments)
            return replace(tables, panel=AsOf(change(tables.panel.frame).select(tables.panel.frame.columns)))

        return replaced(sessions, "build_panel", built)

    return apply


def _next(expression: pl.Expr) -> pl.Expr:
    return expression.shift(-1).over("instrument", order_by="session")


def _forward_adjusted(frame: pl.DataFrame) -> pl.DataFrame:
    """Prices on the basis of the newest factor, as charts show them."""
    scale = pl.col("factor") / pl.col("factor").drop_nulls().last().over("instrument", order_by="session")
    return frame.with_columns(pl.col("open", "high", "low", "close", "pre_close") * scale, factor=pl.lit(1.0))


def _tradable_tomorrow(frame: pl.DataFrame) -> pl.DataFrame:
    blocked = _next(pl.col("open_block").is_in(["limit_up", "limit_down"])).fill_null(False)
    return frame.with_columns(eligible=pl.col("eligible") & ~blocked)


def _open_tomorrow(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(eligible=pl.col("eligible") & _next(pl.col("close").is_not_null()).fill_null(False))


def _backfilled(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col("pe_ttm", "close").backward_fill().over("instrument", order_by="session"))


def _whole_sample_rank(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(turnover=pl.col("turnover").rank() / pl.len())


def _early_listing() -> AbstractContextManager[None]:
    return replaced(universe, "BSE_OPENING", LONG_AGO)


def _final_truth() -> AbstractContextManager[None]:
    return replaced(sessions, "AsOf", Hindsight)


def _corrections_at_once() -> AbstractContextManager[None]:
    real = panel.patches_of

    def patches(made: Any) -> pl.DataFrame:
        rows = real(made)
        return rows.with_columns(effective_session=pl.lit(made.window.calendar.days[made.sessions[0]]))

    return replaced(panel, "patches_of", patches)


def _minutes_of_tomorrow() -> AbstractContextManager[None]:
    real = panel.minutes

    def minutes(versions: Versions | None, cell_row: np.ndarray, *rest: Any) -> Any:
        moved = versions and replace(versions, ordinal=versions.ordinal - 1, known=versions.known - 1)
        return real(moved, cell_row, *rest)

    return replaced(panel, "minutes", minutes)


PANEL_LEAKS = (
    Leak("current ST names", "asof.universe.status: the newest name for all of history", LATER, _current_names),
    Leak("today's universe, survivors only", "asof.universe.listed: names that will be delisted are left out", LATER,
         _current_universe),
    Leak("today's industry", "asof.universe._industry: the newest membership for all of history", LATER,
         _current_industry),
    Leak("latest revision instead of the one known", "asof.knowledge.Versions.of: every version known at its session",
         LATER, _latest_revision),
    Leak("corrections applied before they came", "asof.patches.patches_of: effective from the month's first session",
         LATER, _corrections_at_once),
    Leak("forward-adjusted prices", "asof.panel.build_panel: prices over the newest factor", LATER,
         _changed_panel(_forward_adjusted)),
    Leak("tomorrow's limit flag read today", "asof.panel.build_panel: eligible only if the next open is not locked",
         LATER, _changed_panel(_tradable_tomorrow)),
    Leak("tomorrow's suspension read today", "asof.panel.build_panel: eligible only if the next session has a bar",
         LATER, _changed_panel(_open_tomorrow)),
    Leak("bfill of prices and valuation", "asof.panel.build_panel: missing values from later rows", LATER,
         _changed_panel(_backfilled)),
    Leak("whole-sample rank", "asof.panel.build_panel: turnover ranked over all rows built", LATER,
         _changed_panel(_whole_sample_rank)),
    Leak("daily_basic before publication", "asof.build: the next session's rows", LATER, _of_tomorrow("daily_basic")),
    Leak("stock_st of tomorrow", "asof.build: the next session's list", LATER, _of_tomorrow("stock_st")),
    Leak("suspend_d of tomorrow", "asof.build: the next session's rows", LATER, _of_tomorrow("suspend_d")),
    Leak("moneyflow of tomorrow", "asof.build: the next session's rows", LATER, _of_tomorrow("moneyflow")),
    Leak("minute bars of tomorrow", "asof.intraday.minutes: the next session's bars", LATER, _minutes_of_tomorrow),
    Leak("BSE rows before listing", "asof.universe.BSE_OPENING: 1990", LISTING, _early_listing),
    Leak("features read the final truth", "stages.sessions: hands Hindsight to compute", LICENCE, _final_truth),
)  # fmt: skip
