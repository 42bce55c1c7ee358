"""`foldgate why CODE DATE`: excluded by which rules, filtered by which limit, outranked, or selected.

Minutes are in `minute_explaining.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl

from assets import arguments
from assets.console import cell, number, percent, table
from assets.minute_explaining import explain_minute
from pipeline.errors import BadInput
from pipeline.positions.policy import Policy, select
from pipeline.serving.bundle import load_bundle
from pipeline.serving.records import DAILY, NO_SELECTION
from resources.environments import Environment

OFF = 1.0
FILTERS = {"max_buy_block": "buy_block_pred", "max_downlock": "downlock_pred", "max_fragility_rank": "fragility_pred"}
"""Field of a policy -> the prediction that it bounds; `OFF` switches it off."""
STATE = ("board", "industry", "listing_age", "is_st", "close", "up_limit", "down_limit", "open_block", "close_block")


@dataclass(frozen=True)
class Standing:
    """How one name stood in one scored session.

    Parameters
    ----------
    place : int or None
        Rank by score among all names, whatever the filters say; None without a score.
    of : int
        Names in the session.
    passed : int
        Names that pass every filter of the policy.
    place_passed : int or None
        Rank among them; None where the name is filtered.
    filters : tuple of str
        The filters that stop it, each with value and bound.
    """

    place: int | None
    of: int
    passed: int
    place_passed: int | None
    filters: tuple[str, ...]

    @property
    def by_score(self) -> str:
        """Rank before any filter, in words."""
        return f"{self.place} of {self.of}" if self.place else f"none of {self.of}"

    def verdict(self, policy: Policy) -> str:
        """In words."""
        if self.place is None:
            return "not selected: it has no score"
        if self.place_passed is None:
            return f"filtered: {'; '.join(self.filters)}"
        rank = f"rank {self.place_passed} of the {self.passed} names that pass the filters"
        chosen = self.place_passed <= policy.top_k
        return f"selected: {rank}" if chosen else f"not selected: {rank}; the first {policy.top_k} are bought"


def standing(predictions: pl.DataFrame, policy: Policy, instrument: str) -> Standing:
    """Where a name stood among a session's predictions (one session, one split)."""
    everyone = policy.model_copy(update={"top_k": len(predictions)})
    plain = everyone.model_copy(update=dict.fromkeys(FILTERS, OFF))
    ranked, passed = select(predictions, plain), select(predictions, everyone)
    mine = predictions.filter(pl.col("instrument") == instrument).row(0, named=True)
    stopping = []
    for field, column in FILTERS.items():
        bound = getattr(policy, field)
        alone = plain.model_copy(update={field: bound})
        if bound < OFF and _rank(select(predictions, alone), instrument) is None:
            stopping.append(f"{field} {bound:g} ({column} is {cell(mine[column])})")
    return Standing(
        _rank(ranked, instrument), len(predictions), len(passed), _rank(passed, instrument),
        tuple(stopping),
    )  # fmt: skip


def _rank(orders: pl.DataFrame, instrument: str) -> int | None:
    found = orders.filter(pl.col("instrument") == instrument)["rank"]
    return int(found[0]) if len(found) else None


def explain(environment: Environment, code: str, session: str) -> int:
    """Print what became of a name in a session, or of a symbol at a minute, and why.

    Raises
    ------
    BadInput
        A code that the market never had, no session (or minute), or one that the panel does not hold.
    """
    asked = {"session": explain_session, "minute": explain_minute}[environment.study.market.decides]
    return asked(environment, code, session)


def explain_session(environment: Environment, code: str, session: str) -> int:
    """Print a name's state on a day, and why it was or was not selected, live and in research."""
    day, instrument = arguments.session(environment, session), arguments.instrument(environment, code)
    panel = _of_session(environment, "panel", "panel", day)
    mine = panel.filter(pl.col("instrument") == instrument)
    if mine.is_empty():
        print(f"{instrument} was not listed on {day}{_listing(environment, instrument)}")
        return 0
    row = mine.row(0, named=True)
    names = f"{row['code']}" + (f" (known as {instrument} first)" if row["code"] != instrument else "")
    print(f"{names} on {day}: {'may be scored' if row['eligible'] else 'excluded before scoring'}")
    for name in STATE:
        print(f"  {name:<12} {cell(row[name])}")
    if not row["eligible"]:
        reasons = _of_session(environment, "panel", "exclusions", day).filter(pl.col("instrument") == instrument)
        others = [f"`{reason}`" for reason in reasons["reason"] if reason != row["exclusion"]]
        also = f"; {' and '.join(others)} would exclude it too" if others else ""
        print(f"\nexcluded by the rule `{row['exclusion']}`{also}")
        return 0
    _explain_live(environment, instrument, day)
    _explain_research(environment, instrument, day)
    return 0


def _of_session(environment: Environment, stage: str, name: str, day: date) -> pl.DataFrame:
    study, month = environment.study.name, f"{day:%Y-%m}"
    held = environment.artifacts.current(study, stage)
    if month not in held:
        stored = f"{stage} holds {min(held)}..{max(held)}" if held else f"{stage} was never made"
        raise BadInput(f"the {stage} holds {day}", stored, "`foldgate backfill` makes what the lake can give")
    rows = environment.artifacts.table(study, stage, name, partitions=[month]).filter(pl.col("session") == day)
    if rows.is_empty() and name == stage:
        raise BadInput(
            f"the {stage} holds {day}", f"{month} without that session", "it begins later, or was not decided yet"
        )
    return rows


def _listing(environment: Environment, instrument: str) -> str:
    row = environment.lake.latest("stock_basic").filter(pl.col("ts_code") == instrument)
    if row.is_empty():
        return ""
    listed, gone = row["list_date"][0], row["delist_date"][0]
    return f": listed {listed}" + (f", delisted {gone}" if gone else "")


def _explain_live(environment: Environment, instrument: str, day: date) -> None:
    study, artifacts = environment.study.name, environment.artifacts
    print("\nlive")
    version = artifacts.current(study, "inference").get(day.isoformat())
    if version is None:
        refusals = _refusals(environment, day)
        print(f"  NO_SELECTION: {refusals[-1]}" if refusals else "  never run for this session")
        return
    predictions = artifacts.table(study, "inference", "predictions", partitions=[day.isoformat()])
    record = json.loads(artifacts.file(study, "inference", "record.json", partition=day.isoformat()))
    policy = load_bundle(environment.bundles(study), record["bundle"]).policy
    assert isinstance(policy, Policy)
    found = standing(predictions, policy, instrument)
    row = predictions.filter(pl.col("instrument") == instrument).row(0, named=True)
    print(f"  bundle {record['bundle'][:12]}: {found.verdict(policy)}")
    print(f"  rank {found.by_score} by score {number(row['score'])}; {_heads(row)}")


def _refusals(environment: Environment, day: date) -> list[str]:
    """Recorded reasons why the session has no selection, in the order of the attempts."""
    history = environment.records(environment.study.name) / DAILY / "top10_history.csv"
    if not history.exists():
        return []
    rows = pl.read_csv(history, columns=["trade_date", "status", "reason"], infer_schema=False)
    return rows.filter(trade_date=f"{day:%Y%m%d}", status=NO_SELECTION)["reason"].to_list()


def _heads(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number(value)}" for name, value in row.items() if name.endswith("_pred"))


def _explain_research(environment: Environment, instrument: str, day: date) -> None:
    study, artifacts = environment.study, environment.artifacts
    print("\nresearch (out of sample: each split's models never saw this session)")
    scored = (
        artifacts.table(study.name, "predictions", "predictions").filter(pl.col("session") == day)
        if artifacts.current(study.name, "predictions")
        else pl.DataFrame(schema={"split": pl.String, "instrument": pl.String})
    )
    rows = []
    for split in scored.filter(pl.col("instrument") == instrument)["split"].sort():
        of_split = scored.filter(pl.col("split") == split).drop("split")
        policy = Policy.model_validate_json(artifacts.file(study.name, "positions", "policy.json", partition=split))
        found = standing(of_split, policy, instrument)
        score = of_split.filter(pl.col("instrument") == instrument)["score"][0]
        rows.append([split, found.by_score, number(score), found.verdict(policy)])
    if not rows:
        print("  not scored: no split tests this session, or its label was not known yet")
        return
    table(["split", "by score", "score", "verdict"], rows)
    _print_trades(environment, instrument, day)


def _print_trades(environment: Environment, instrument: str, day: date) -> None:
    """What happened to the orders of the day."""
    if not environment.artifacts.current(environment.study.name, "backtest"):
        return
    trades = environment.artifacts.table(environment.study.name, "backtest", "trades").filter(
        (pl.col("instrument") == instrument) & (pl.col("session") == day)
    )
    traded = trades.filter(pl.col("book").str.starts_with("path_") | (pl.col("book") == "locked"))
    if traded.is_empty():
        return
    print("\nwhat happened to the orders")
    cells = [
        [row["book"], row["status"], _leg(row, "entry"), _leg(row, "exit"), percent(row["net_return"])]
        for row in traded.iter_rows(named=True)
    ]
    table(["book", "status", "entry", "exit", "net return"], cells)


def _leg(row: Mapping[str, Any], side: str) -> str:
    block = f" ({row[f'{side}_block']})" if row[f"{side}_block"] else ""
    return f"{row[f'{side}_session'] or '-'}{block}"
