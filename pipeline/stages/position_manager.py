"""Decisions of a position manager: one position at a time under a price plan, beside a random minute of its book."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import polars as pl

from pipeline.backtests.ic import pooled_rank_ic
from pipeline.backtests.plan_books import excess_over_random_minutes, plan_equity, plan_metrics, session_returns
from pipeline.backtests.plan_referee import impossible_trades
from pipeline.errors import BadInput
from pipeline.fingerprints import canonical_json
from pipeline.folds.named import SEALED_SPLITS, TUNE_INNER
from pipeline.folds.spec import LOCKED
from pipeline.labels.minute_spec import PlanLabelSpec
from pipeline.labels.price_plan import PricePlan, price_plan_context
from pipeline.positions.manager import (
    KEY,
    MODEL_EDGES,
    OUTCOME_COLUMNS,
    PROBABILITIES,
    predicted_edges,
    run,
    with_truth,
)
from pipeline.positions.manager_search import optimism_gap, search, switched_off
from pipeline.positions.manager_spec import ManagerConfig, ManagerSpec, PlanNumbers
from pipeline.positions.trades import TRADE_SCHEMA, judge, trade_metrics
from pipeline.reports.figures import equity_figure
from pipeline.spec import Spec
from pipeline.stages.contract import Reader, StageResult
from pipeline.stages.minutes import bars_in_truth
from pipeline.stages.pinned import read_labels
from pipeline.study import Study

SIDES = ("long", "short")
VERDICT_FILE = "verdict.json"


def _manager(study: Study) -> ManagerSpec:
    assert isinstance(study.policy, ManagerSpec)
    return study.policy


def price_plan(study: Study) -> PricePlan:
    """The plan that labels and trades share."""
    assert isinstance(study.labels, PlanLabelSpec)
    return study.labels.plan


def _numbers(study: Study) -> PlanNumbers:
    return PlanNumbers.from_context(price_plan_context(price_plan(study)))


def head_objective(study: Study, read: Reader) -> None:
    """None: no family of minute heads chooses an epoch."""
    return


def decided_rows(study: Study, read: Reader, predictions: pl.DataFrame) -> pl.DataFrame:
    """One split's predictions as the manager reads them, with both predicted edges and what came of either side."""
    heads = [name for name in (*PROBABILITIES, *MODEL_EDGES) if f"{name}_pred" in predictions.columns]
    named = predictions.select(*KEY, *(pl.col(f"{name}_pred").alias(name) for name in heads))
    plan = _numbers(study)
    truth = [f"{side}_{name}" for side in SIDES for name in OUTCOME_COLUMNS]
    outcomes = read_labels(study, read).select(*KEY, *truth)
    return with_truth(predicted_edges(named, plan), outcomes, plan)


def choose(study: Study, read: Reader, tuned: pl.DataFrame, origin: str) -> tuple[ManagerConfig, pl.DataFrame]:
    """Thresholds of the grid with the best score on the tune rows, the first of the best; off where even they lose."""
    rows = decided_rows(study, read, tuned).with_columns(split_id=pl.lit(TUNE_INNER))  # a split's tune group is its own
    found = search(rows, _numbers(study), _manager(study).grid, _manager(study).base)
    earns = found.metrics.mean_weighted_edge_bps > 0.0
    table = found.table.with_columns(adopted=pl.col("chosen") & earns)
    return (found.config if earns else switched_off(found.config)), table


def read_policy(data: bytes) -> ManagerConfig:
    return ManagerConfig.model_validate_json(data)


def adopted(policy: Spec, origin: str) -> Spec:
    """As it is: where a configuration was chosen is no part of what it does."""
    return policy


def backtest(study: Study, read: Reader, predictions: pl.DataFrame, policies: Mapping[str, Spec]) -> StageResult:
    """Trades on every path and on the sealed stretches; each block under its own split's thresholds."""
    books = _books(study, read, predictions, policies)
    trades, sessions = _trades(study, books, policies), _sessions(books)
    year = study.market.sessions_per_year
    equity = plan_equity(session_returns(trades, sessions))
    metrics = plan_metrics(trades, sessions, year)
    verdict = _verdict(study, trades, policies)
    gap = _optimism(study, books, trades)
    return StageResult(
        tables={
            "trades": trades,
            "equity": equity,
            "metrics": metrics,
            "excess": excess_over_random_minutes(trades, _truth(study, read), sessions),
            "optimism": gap,
        },
        keys={
            "trades": ("book", *KEY, "side"),
            "equity": ("book", "session"),
            "metrics": ("book", "name"),
            "excess": ("book", "session"),
            "optimism": ("book",),
        },
        files={VERDICT_FILE: canonical_json(verdict).encode()} if verdict else {},
        metadata={
            "trades": trades.group_by("book").agg(pl.len().alias("trades")).sort("book").to_dicts(),
            "optimism_gap": gap.to_dicts(),
            "verdict": verdict or {},
        },
        figures={"equity": partial(equity_figure, equity)},
    )


def excess(study: Study, read: Reader, predictions: pl.DataFrame, policies: Mapping[str, Spec]) -> pl.DataFrame:
    """Each trade's net edge beyond a random minute of its book, side and size."""
    books = _books(study, read, predictions, policies)
    return excess_over_random_minutes(_trades(study, books, policies), _truth(study, read), _sessions(books))


def _books(
    study: Study, read: Reader, predictions: pl.DataFrame, policies: Mapping[str, Spec]
) -> dict[tuple[str, int, str], pl.DataFrame]:
    """(book, group, split) -> the decided rows of that block, blocks of a book in order.

    Split by split, without a frame of all: two years of minutes are 2.6 million tested rows of some 45 columns.
    """
    tested = read.table("folds", "split_sessions").filter(pl.col("role") == "test")
    supply = read.table("folds", "paths").sort("path", "group")
    blocks: dict[tuple[str, int], pl.DataFrame] = {}
    for (split,), part in predictions.partition_by("split", as_dict=True, maintain_order=True).items():
        groups = tested.filter(pl.col("split") == split).select("session", "group")
        rows = decided_rows(study, read, part).join(groups, on="session", maintain_order="left")
        by_group = rows.partition_by("group", as_dict=True, include_key=False, maintain_order=True)
        blocks |= {(str(split), int(group)): block for (group,), block in by_group.items()}
    absent = sorted({(split, group) for _, group, split in supply.rows()} - blocks.keys())
    if absent:
        raise BadInput("every block of a path has predictions", absent, "materialise the predictions of all splits")
    return {(book, group, split): blocks[split, group] for book, group, split in supply.rows()}


def _trades(
    study: Study, books: Mapping[tuple[str, int, str], pl.DataFrame], policies: Mapping[str, Spec]
) -> pl.DataFrame:
    """`book` and the columns of a trade; every block under its own split's thresholds.

    Blocks of a book follow each other in time: what a block still holds, the next one waits for.
    """
    plan, held, made_of = _numbers(study), dict[str, pl.DataFrame](), list[pl.DataFrame]()
    for (book, group, split), rows in books.items():
        config = policies[split]
        assert isinstance(config, ManagerConfig)
        free = _free_rows(rows, held[book], config) if book in held else rows
        made = run(free, config, plan, _stretch(study, book, group, split))
        held[book] = pl.concat([held[book], made]) if book in held else made
        made_of.append(made.select(pl.lit(book).alias("book"), *TRADE_SCHEMA))
    return pl.concat(made_of)


def _free_rows(rows: pl.DataFrame, trades: pl.DataFrame, config: ManagerConfig) -> pl.DataFrame:
    """Rows at which no earlier position of their symbol is open, or cools down."""
    wait = pl.duration(minutes=config.add.cooldown_minutes)
    busy = trades.group_by("instrument").agg((pl.col("exit_at").max() + wait).alias("busy_until"))
    entered = pl.col("minute") + pl.duration(minutes=1)
    free = pl.col("busy_until").is_null() | (entered >= pl.col("busy_until"))
    return rows.join(busy, on="instrument", how="left", maintain_order="left").filter(free).drop("busy_until")


def _stretch(study: Study, book: str, group: int, split: str) -> str:
    """Name of the stretch that a block belongs to: the two sealed ones by theirs, a path's by its split."""
    if book != LOCKED:
        return split
    return SEALED_SPLITS[group - study.folds.n_groups]


def _sessions(books: Mapping[tuple[str, int, str], pl.DataFrame]) -> pl.DataFrame:
    """book, session: every day that a book decided on, traded or not."""
    parts = [rows.select(pl.lit(book).alias("book"), "session").unique() for (book, _, _), rows in books.items()]
    return pl.concat(parts).unique().sort("book", "session")


def _truth(study: Study, read: Reader) -> pl.DataFrame:
    """The plan's net edge of either side at every scored minute."""
    return read_labels(study, read).select(*KEY, *(f"{side}_actual_plan_net_edge_bps" for side in SIDES))


def _verdict(study: Study, trades: pl.DataFrame, policies: Mapping[str, Spec]) -> dict[str, Any] | None:
    """The verdict on the sealed pair; None where the study keeps no stress stretch."""
    config = policies.get(LOCKED)
    if not study.folds.stress_share or not isinstance(config, ManagerConfig):
        return None
    sealed = trades.filter(pl.col("book") == LOCKED)
    by_stretch = {name: sealed.filter(pl.col("eval_split") == name).drop("book") for name in SEALED_SPLITS}
    return judge(by_stretch, config, _numbers(study)).model_dump(mode="json")


def _optimism(
    study: Study, books: Mapping[tuple[str, int, str], pl.DataFrame], trades: pl.DataFrame
) -> pl.DataFrame:
    """Per path what one choice on all of its tested rows would have earned beyond the choices made on tune rows."""
    spec, found = _manager(study), []
    for book in sorted({name for name, _, _ in books if name != LOCKED}):
        rows = pl.concat([part for (name, _, _), part in books.items() if name == book])
        outside = search(rows.with_columns(split_id=pl.lit(TUNE_INNER)), _numbers(study), spec.grid, spec.base).metrics
        nested = trade_metrics(trades.filter(pl.col("book") == book))
        gap = optimism_gap(outside, nested).model_dump()
        found.append({"book": book, "nested_trades": nested.trade_count, "outside_trades": outside.trade_count} | gap)
    return pl.DataFrame(found)


def columns(study: Study) -> list[str]:
    """Of 26 heads the manager reads seven."""
    heads = {head.name for head in study.labels.heads}
    return ["split", *KEY, *(f"{name}_pred" for name in (*PROBABILITIES, *MODEL_EDGES) if name in heads), "score"]


def rank_ic(predictions: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """Over all minutes of a split: within a day they would be compared with the path that led to them."""
    return pooled_rank_ic(predictions, labels)


def evidence(study: Study, read: Reader) -> dict[str, Any]:
    """What the referee says of the trades, the cost they were charged, and why the sealed pair refuses."""
    trades, plan = read.table("backtest", "trades"), price_plan(study)
    reasons = read.metadata("backtest")["verdict"].get("reasons")
    return {
        "facts": {
            "impossible_fills": float(_impossible(study, read, trades)),
            "fills": float(len(trades)),
            "cost_bps": plan.cost_bps,
        },
        "reasons": None if reasons is None else tuple(reasons),
    }


def _impossible(study: Study, read: Reader, trades: pl.DataFrame) -> int:
    """Rules that the referee finds broken by any trade."""
    if trades.is_empty():
        return 0
    bars = bars_in_truth(read, trades["session"].unique().sort().to_list())
    return len(impossible_trades(trades, bars, price_plan(study), _manager(study).base.add.cooldown_minutes))
