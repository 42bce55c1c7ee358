"""What would have happened, and what every gate says about it: backtest and scorecard."""

from __future__ import annotations

from datetime import date
from functools import partial

import numpy as np
import polars as pl

from pipeline.asof.patches import latest
from pipeline.backtests.books import equal_weight_orders, random_orders
from pipeline.backtests.bootstrap import excess_over_random
from pipeline.backtests.engine import BacktestTables, run_books
from pipeline.backtests.ic import rank_ic
from pipeline.backtests.path_plan import path_orders
from pipeline.backtests.profile import selected_profile
from pipeline.backtests.referee import impossible_fills
from pipeline.fingerprints import hash_json
from pipeline.folds.paths import recombine
from pipeline.folds.spec import LOCKED
from pipeline.frames import AsOf
from pipeline.gates.evaluate import Evidence, evaluate
from pipeline.gates.ledger import Trial
from pipeline.reports.figures import equity_figure, ic_figure, verdicts_figure
from pipeline.stages.contract import Reader, Stage, StageResult
from pipeline.stages.market import ROW
from pipeline.stages.research import calibrated_members, read_eligible, read_labels, read_market, read_policy
from pipeline.study import Study

BOOK_KEY = ("book", "session")
EVALUATED = ("folds", "models", "calibrators", "positions", "predictions", "backtest")


def run_backtest(study: Study, read: Reader, _: str) -> StageResult:
    """The study's books on every path and on the locked stretch, beside index, universe and random books."""
    predictions = read.table("predictions", "predictions")
    orders = _orders(study, read, predictions)
    sessions = orders["session"].unique().sort()
    eligible = read_eligible(read).filter(pl.col("eligible") & pl.col("session").is_in(sessions.implode()))
    drawn = random_orders(eligible, study.policy.top_k, study.execution.random_books, study.execution.seed)
    equal = equal_weight_orders(eligible)
    columns = ["book", "session", "rank", "instrument", "weight"]
    books = run_books(
        pl.concat([part.select(columns) for part in (orders, drawn, equal)]),
        read_market(read),
        study.execution,
        index=_index(study, read, sessions[0]),
    )
    trials = _trials(study, read, books, predictions)
    ic = _rank_ic(read, predictions)
    compared = books.metrics.filter(~pl.col("book").str.starts_with("random_"))
    panel = read.table("panel", "panel", columns=[*ROW, "total_mv", "board", "industry"])
    profile = selected_profile(orders, panel)
    return StageResult(
        tables={
            "orders": orders,
            "equity": books.equity,
            "trades": books.trades,
            "metrics": books.metrics,
            "rank_ic": ic,
            "profile": profile,
        },
        keys={
            "orders": (*BOOK_KEY, "rank"),
            "equity": BOOK_KEY,
            "trades": (*BOOK_KEY, "rank"),
            "metrics": ("book", "name"),
            "rank_ic": ("path", "session"),
        },
        trials=trials,
        metadata={
            "net_annualised": _by_book(compared, "annualised_return_net"),
            "sharpe_net": _by_book(compared, "sharpe_net"),
        },
        figures={"equity": partial(equity_figure, books.equity), "rank IC": partial(ic_figure, ic)},
    )


def _orders(study: Study, read: Reader, predictions: pl.DataFrame) -> pl.DataFrame:
    policies = {split: read_policy(read, split) for split in study.folds.splits}
    return path_orders(
        predictions, policies, read.table("folds", "paths"), read.table("folds", "split_sessions")
    )


def _index(study: Study, read: Reader, first: date) -> pl.DataFrame | None:
    """The benchmark's raw open and close; None where the source has no index_daily."""
    rows = read.raw("index_daily", start=first)
    if rows is None:
        return None
    mine = rows.filter((pl.col("ts_code") == study.market.benchmark) & pl.col("open").is_not_null())
    newest = mine.sort("known_at").unique(["trade_date"], keep="last")
    return newest.select(session="trade_date", open="open", close="close").sort("session")


def _rank_ic(read: Reader, predictions: pl.DataFrame) -> pl.DataFrame:
    """path, session, rank_ic: of the policy's score with the executable return."""
    by_split = rank_ic(predictions, read_labels(read))
    return recombine(read.table("folds", "paths"), read.table("folds", "split_sessions"), by_split).drop(
        "split"
    )


def _configuration(study: Study, members: list[str]) -> str:
    """Hash of everything that was chosen about a configuration, but not of the rows it was scored on."""
    values = study.model_dump(mode="json", exclude={"name", "title", "promotion"})
    return hash_json([values, members])


def rows_name(read: Reader, kind: str) -> str:
    """Name of a set of gate-read rows: the kind, and the sessions it holds."""
    sessions = read.table("folds", "split_sessions").filter(pl.col("role") == "test")
    mine = sessions.filter((pl.col("split") == LOCKED) == (kind == LOCKED))["session"].unique().sort()
    return f"{kind}:{hash_json(mine.to_list())[:16]}" if len(mine) else f"{kind}:none"


def _trials(study: Study, read: Reader, books: BacktestTables, predictions: pl.DataFrame) -> list[Trial]:
    """The ensemble and each member alone: all are scored on rows that gates read, so all are counted."""
    names = [member.name for member in study.members]
    evaluation = evaluation_hash(read)
    found = []
    for label, members in [("ensemble", names), *((name, [name]) for name in names if len(names) > 1)]:
        equity = books.equity if label == "ensemble" else _member_equity(study, read, label, books)
        for kind in ("paths", LOCKED):
            chosen = _mean_excess(equity, kind)
            if chosen is not None:
                found.append(
                    Trial(
                        _configuration(study, members),
                        label,
                        evaluation,
                        rows_name(read, kind),
                        chosen["session"].to_list(),
                        chosen["excess"].to_list(),
                    )
                )
    return found


def _member_equity(study: Study, read: Reader, name: str, books: BacktestTables) -> pl.DataFrame:
    """The same protocol and policy grid point for one member alone, beside the same random books."""
    alone = pl.concat(
        [calibrated_members(study, read, split, "test", [name]) for split in study.folds.splits]
    )
    equity = run_books(_orders(study, read, alone), read_market(read), study.execution).equity
    return pl.concat([equity, books.equity.filter(pl.col("book").str.starts_with("random_"))])


def _mean_excess(equity: pl.DataFrame, kind: str) -> pl.DataFrame | None:
    """Net excess over the mean random book, averaged over the books of a kind."""
    wanted = equity.filter(
        pl.col("book").str.starts_with("path_") if kind == "paths" else pl.col("book") == LOCKED
    )
    parts = [excess_over_random(equity, book) for book in wanted["book"].unique().sort()]
    if not parts:
        return None
    return pl.concat(parts).group_by("session").agg(pl.col("excess").mean()).sort("session")


def _by_book(metrics: pl.DataFrame, name: str) -> list[dict[str, object]]:
    return metrics.filter(pl.col("name") == name).select("book", "value").to_dicts()


def evaluation_hash(read: Reader) -> str:
    """Hash of the pin and of everything trained and scored under it."""
    return hash_json({stage: read.versions(stage) for stage in EVALUATED if stage != "backtest"})


def run_scorecard(study: Study, read: Reader, _: str) -> StageResult:
    """Judge the evaluation: the recipe on pinned history, not the weights that a candidate is refitted to."""
    verdicts = evaluate(_evidence(study, read), study.promotion)
    red = verdicts.filter(~pl.col("status").is_in(["pass", "not_applicable"]))
    return StageResult(
        tables={"verdicts": verdicts},
        keys={"verdicts": ("gate",)},
        metadata={
            "passed": len(verdicts) - len(red),
            "refusing": red["gate"].to_list(),
            "ledger_head": read.stores.ledger.head(),
            "judged_at": read.now.isoformat(),
            "judges": "the recipe on pinned history, not the refitted weights",
            "verdicts": verdicts.select("gate", "status", "value", "low", "bound", "detail").to_dicts(),
        },
        figures={"gates": partial(verdicts_figure, verdicts)},
    )


def _evidence(study: Study, read: Reader) -> Evidence:
    equity, trades = read.table("backtest", "equity"), read.table("backtest", "trades")
    books = [book for book in equity["book"].unique().sort() if book.startswith("path_") or book == LOCKED]
    excess = {book: excess_over_random(equity, book)["excess"].to_numpy() for book in books}
    rows = read.stores.ledger.rows()
    return Evidence(
        subject=evaluation_hash(read),
        certificate=read.table("folds", "certificate"),
        excess=_same_length(excess),
        rank_ic=_ic_series(read.table("backtest", "rank_ic")),
        metrics=_nested(read.table("backtest", "metrics")),
        calibration=_brier(study, read),
        trials=rows.filter(pl.col("rows") == rows_name(read, "paths")),
        facts=_facts(study, read, trades, rows),
    )


def _same_length(excess: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Paths end on the same session up to carried exits; the shorter ones are cash from then on."""
    longest = max((len(series) for book, series in excess.items() if book.startswith("path_")), default=0)
    return {
        book: np.pad(series, (0, longest - len(series))) if book.startswith("path_") else series
        for book, series in excess.items()
    }


def _ic_series(ic: pl.DataFrame) -> dict[str, np.ndarray]:
    """Mean rank IC per session over the paths, and on the locked stretch."""
    paths = (
        ic.filter(pl.col("path") != LOCKED).group_by("session").agg(pl.col("rank_ic").mean()).sort("session")
    )
    return {
        "paths": paths["rank_ic"].to_numpy(),
        LOCKED: ic.filter(pl.col("path") == LOCKED)["rank_ic"].to_numpy(),
    }


def _nested(metrics: pl.DataFrame) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for book, name, value in metrics.drop_nulls("value").iter_rows():
        found.setdefault(book, {})[name] = value
    return found


def _brier(study: Study, read: Reader) -> pl.DataFrame:
    """head, brier, constant_brier over all out-of-sample rows; the constant is the head's rate on those rows."""
    heads = [head.name for head in study.labels.heads if head.kind == "probability"]
    joined = read.table("predictions", "predictions").join(
        read_labels(read).select(*ROW, *heads), on=list(ROW)
    )
    parts = []
    for head in heads:
        known = joined.drop_nulls(head).select(p=f"{head}_pred", y=pl.col(head).cast(pl.Float64))
        parts.append(
            known.select(
                head=pl.lit(head),
                brier=((pl.col("p") - pl.col("y")) ** 2).mean(),
                constant_brier=((pl.col("y").mean() - pl.col("y")) ** 2).mean(),
            ).filter(pl.col("constant_brier") > 0)
        )
    return pl.concat(parts)


def _facts(study: Study, read: Reader, trades: pl.DataFrame, ledger: pl.DataFrame) -> dict[str, float]:
    panel, patches = read.table("panel", "panel"), read.table("panel", "patches")
    wrong = impossible_fills(trades, latest(AsOf(panel), patches).frame, study.execution.delisting_haircut)
    quarantine = read.table("panel", "quarantine").select(ROW).unique()
    return {
        "impossible_fills": float(len(wrong)),
        "fills": float(trades["entry_session"].count()),
        "quarantined_share": len(quarantine) / max(len(panel), 1),
        "locked_openings": float(
            ledger.filter(pl.col("rows") == rows_name(read, LOCKED))["evaluation"].n_unique()
        ),
        "cost_bps": study.execution.buy_cost_bps + study.execution.sell_cost_bps,
    }


BACKTEST = Stage(
    "backtest",
    "whole",
    ("folds", "predictions", "positions"),
    run_backtest,
    ("execution", "policy", "members"),
    ("pipeline.backtests", "pipeline.positions"),
    pinned=True,
    summary="Trades, equity and costs per path and on the locked stretch, beside index, universe and random books.",
)
SCORECARD = Stage(
    "scorecard",
    "whole",
    EVALUATED,
    run_scorecard,
    ("promotion", "execution"),
    ("pipeline.gates",),
    pinned=True,
    summary="The verdict of every gate as data. Judges the recipe, not the refitted weights.",
)
