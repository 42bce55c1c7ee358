"""Decisions of a top-k book: names held in sleeves, beside index, universe and random books."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from functools import partial
from typing import Any

import polars as pl

from pipeline.asof.patches import latest
from pipeline.backtests.books import equal_weight_orders, random_orders
from pipeline.backtests.bootstrap import excess_over_random
from pipeline.backtests.engine import BacktestTables, run_book, run_books
from pipeline.backtests.ic import rank_ic as rank_ic
from pipeline.backtests.market import Market
from pipeline.backtests.metrics import execution_objective
from pipeline.backtests.path_plan import path_orders
from pipeline.backtests.profile import selected_profile
from pipeline.backtests.referee import impossible_fills
from pipeline.backtests.spec import ExecutionSpec
from pipeline.folds.spec import LOCKED
from pipeline.frames import ROW, AsOf
from pipeline.positions.policy import Policy, choose_policy, select
from pipeline.positions.spec import PolicySpec
from pipeline.reports.figures import equity_figure
from pipeline.spec import Spec
from pipeline.stages.contract import Reader, StageResult
from pipeline.stages.pinned import read_eligible
from pipeline.study import Study

BOOK_KEY = ("book", "session")
ORDER_COLUMNS = ("book", "session", "rank", "instrument", "weight")


def _policy(study: Study) -> PolicySpec:
    assert isinstance(study.policy, PolicySpec)
    return study.policy


def _execution(study: Study) -> ExecutionSpec:
    assert isinstance(study.execution, ExecutionSpec)
    return study.execution


def read_market(read: Reader) -> Market:
    """Prices and tradability in final truth, for fills only."""

    def build() -> Market:
        panel, patches = read.table("panel", "panel"), read.table("panel", "patches")
        return Market.from_hindsight(latest(AsOf(panel), patches), read.calendar)

    return read.once("market", build)


def tune_objective(study: Study, read: Reader) -> Callable[[pl.DataFrame], float]:
    """Execution-aware value of scored rows: the study's own protocol on them, net of costs."""

    def objective(orders: pl.DataFrame) -> float:
        return execution_objective(run_book(orders, read_market(read), _execution(study)).equity)

    return objective


def head_objective(study: Study, read: Reader) -> Callable[[pl.DataFrame], float]:
    """The same for raw scores: rank by the alpha's own head, no filters."""
    policy, value = _policy(study), tune_objective(study, read)
    head, plain = policy.alpha.removesuffix("_pred") + "_head", Policy(top_k=policy.top_k, alpha=policy.alpha)
    return lambda scores: value(select(scores.rename({head: policy.alpha}), plain))


def choose(study: Study, read: Reader, tuned: pl.DataFrame, origin: str) -> tuple[Policy, pl.DataFrame]:
    """The policy of the grid with the best execution-aware value on the tune rows."""
    return choose_policy(tuned, _policy(study), tune_objective(study, read), origin=origin)


def read_policy(data: bytes) -> Policy:
    return Policy.model_validate_json(data)


def adopted(policy: Spec, origin: str) -> Spec:
    """With the split that it was chosen on written into it."""
    return policy.model_copy(update={"origin": origin})


def columns(study: Study) -> None:
    """All of them: the policy's filters may read any head."""
    return


def backtest(study: Study, read: Reader, predictions: pl.DataFrame, policies: Mapping[str, Spec]) -> StageResult:
    """The study's books on every path and on the locked stretch, beside index, universe and random books."""
    orders = _orders(read, predictions, policies)
    books, beyond = _beside_random(study, read, orders, benchmarks=True)
    compared = books.metrics.filter(~pl.col("book").str.starts_with("random_"))
    panel = read.table("panel", "panel", columns=[*ROW, "total_mv", "board", "industry"])
    return StageResult(
        tables={
            "orders": orders,
            "equity": books.equity,
            "trades": books.trades,
            "metrics": books.metrics,
            "excess": beyond,
            "profile": selected_profile(orders, panel),
        },
        keys={
            "orders": (*BOOK_KEY, "rank"),
            "equity": BOOK_KEY,
            "trades": (*BOOK_KEY, "rank"),
            "metrics": ("book", "name"),
            "excess": BOOK_KEY,
        },
        metadata={
            "net_annualised": by_book(compared, "annualised_return_net"),
            "sharpe_net": by_book(compared, "sharpe_net"),
        },
        figures={"equity": partial(equity_figure, books.equity)},
    )




def by_book(metrics: pl.DataFrame, name: str) -> list[dict[str, object]]:
    """One metric of every book."""
    return metrics.filter(pl.col("name") == name).select("book", "value").to_dicts()


def excess(study: Study, read: Reader, predictions: pl.DataFrame, policies: Mapping[str, Spec]) -> pl.DataFrame:
    """Net excess over random books of the same protocol and policies."""
    return _beside_random(study, read, _orders(read, predictions, policies), benchmarks=False)[1]


def _orders(read: Reader, predictions: pl.DataFrame, policies: Mapping[str, Spec]) -> pl.DataFrame:
    chosen = {split: policy for split, policy in policies.items() if isinstance(policy, Policy)}
    return path_orders(predictions, chosen, read.table("folds", "paths"), read.table("folds", "split_sessions"))


def _beside_random(
    study: Study, read: Reader, orders: pl.DataFrame, *, benchmarks: bool
) -> tuple[BacktestTables, pl.DataFrame]:
    """Books of the orders, and each one's net excess over random books that start when it starts.

    The locked stretch has random books of its own: a book that is still filling its sleeves is not comparable with
    one that has been invested for a year.
    """
    locked, execution = pl.col("book") == LOCKED, _execution(study)
    parts = [part for part in (orders.filter(~locked), orders.filter(locked)) if not part.is_empty()]
    tables: list[BacktestTables] = []
    found: list[pl.DataFrame] = []
    for part in parts:
        eligible = read_eligible(study, read).filter(
            pl.col("eligible") & pl.col("session").is_in(part["session"].unique().implode())
        )
        drawn = random_orders(eligible, _policy(study).top_k, execution.random_books, execution.seed)
        shown = [part, drawn, equal_weight_orders(eligible)] if benchmarks else [part, drawn]
        index = _index(study, read, part["session"][0]) if benchmarks else None
        ran = run_books(
            pl.concat([book.select(ORDER_COLUMNS) for book in shown]), read_market(read), execution, index=index
        )
        own = part["book"].unique().sort().to_list()
        found += [excess_over_random(ran.equity, book).insert_column(0, pl.lit(book).alias("book")) for book in own]
        tables.append(ran if not tables else _only(ran, own))
    return _stacked(tables), pl.concat(found)


def _only(tables: BacktestTables, books: list[str]) -> BacktestTables:
    keep = pl.col("book").is_in(books)
    return BacktestTables(tables.equity.filter(keep), tables.trades.filter(keep), tables.metrics.filter(keep))


def _stacked(tables: list[BacktestTables]) -> BacktestTables:
    return BacktestTables(
        pl.concat([part.equity for part in tables]),
        pl.concat([part.trades for part in tables]),
        pl.concat([part.metrics for part in tables]),
    )


def _index(study: Study, read: Reader, first: date) -> pl.DataFrame | None:
    """The benchmark's raw open and close; None where the source has no index_daily."""
    rows = read.raw("index_daily", start=first)
    if rows is None:
        return None
    mine = rows.filter((pl.col("ts_code") == study.market.benchmark) & pl.col("open").is_not_null())
    newest = mine.sort("known_at").unique(["trade_date"], keep="last")
    return newest.select(session="trade_date", open="open", close="close").sort("session")


def evidence(study: Study, read: Reader) -> dict[str, Any]:
    """What the referee says of the fills, and the cost they were charged."""
    execution, trades = _execution(study), read.table("backtest", "trades")
    panel, patches = read.table("panel", "panel"), read.table("panel", "patches")
    wrong = impossible_fills(trades, latest(AsOf(panel), patches).frame, execution.delisting_haircut)
    return {
        "facts": {
            "impossible_fills": float(len(wrong)),
            "fills": float(trades["entry_session"].count()),
            "cost_bps": execution.buy_cost_bps + execution.sell_cost_bps,
        }
    }
