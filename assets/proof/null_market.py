"""Null market control: where nothing can be foretold, nothing is found and nothing is promoted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assets.proof.contract import Progress, Size
from assets.proof.leaking_vendor import leaked_rank_ic
from assets.proof.null_finding import finding
from assets.proof.simulated_research import (
    PROCESSES,
    MarketPlan,
    attempt_promotion,
    each_market,
    out_of_sample,
    researched,
    verdicts,
    with_members,
)
from pipeline.diagnostics.finding import Finding
from pipeline.studies import STUDIES
from pipeline.study import Study

LEFT_OUT = ("multi_path",)  # families that need minutes a market
FIRST_SEED = 20_270_000


@dataclass(frozen=True)
class Markets:
    """The null markets of one kind of study.

    Parameters
    ----------
    count : int
    profile : str
    market : mapping
        Fields of the profile beside `signal` and `seed`.
    rises : tuple of float
        Taken in turn: log return of every name a session, or None where the market has no such knob.
    precision : float or None
        The pooled standard error may be at most this.
    leaks : mapping
        Rank correlation of a column with the future -> how many of the markets are also told by such a vendor.
    study : mapping
        Dotted fields beside the members.
    rounds : int or None
        At most, of a boosted member.
    """

    count: int
    profile: str
    market: Mapping[str, Any]
    rises: tuple[float | None, ...] = (None,)
    precision: float | None = None
    leaks: Mapping[float, int] | None = None
    study: Mapping[str, Any] | None = None
    rounds: int | None = None


MARKETS: dict[Size, dict[str, Markets]] = {
    "small": {
        "session": Markets(
            2, "tiny", {"minutes": False}, rises=(0.0, 0.002), rounds=8,
            study={"folds.n_groups": 3, "execution.random_books": 20, "promotion.bootstrap_samples": 300},
        ),
    },
    "full": {
        "session": Markets(60, "demo", {"minutes": False}, rises=(0.0, 0.001, 0.002), precision=0.001,
                           leaks={0.03: 8, 0.06: 8}, rounds=20),
        "minute": Markets(8, "demo", {"days": 100}, rounds=20),
    },
}  # fmt: skip


def run(size: Size, folder: Path, progress: Progress) -> Finding:
    """Every market through the whole graph of its study, then the pooled figures."""
    plans = [plan for study in STUDIES.values() for plan in plans_of(study, size)]
    found = each_market(control, plans, folder, progress, PROCESSES if size == "full" else 1)
    asked = {name: MARKETS[size].get(study.market.decides) for name, study in STUDIES.items()}
    return finding(plans, found, {name: markets.precision for name, markets in asked.items() if markets})


def plans_of(study: Study, size: Size) -> list[MarketPlan]:
    """The study's null markets, and the same ones told by a vendor that knows the future."""
    asked = MARKETS[size].get(study.market.decides)
    if asked is None:
        return []
    overrides = {**with_members(study, _members(study, asked.rounds)), **(asked.study or {})}
    made = [
        MarketPlan(f"{study.name}_{i:03d}", study.name, asked.profile, _fields(asked, i), overrides)
        for i in range(asked.count)
    ]
    for leak, count in (asked.leaks or {}).items():
        made += [leaking(plan, leak) for plan in made[:count]]
    return made


def leaking(plan: MarketPlan, leak: float) -> MarketPlan:
    """The same market, told by a vendor one of whose columns knows the future."""
    name = f"{plan.name}_leak_{leak:g}"
    return MarketPlan(name, plan.study, plan.profile, plan.market, plan.overrides, leak, promotes=False)


def _fields(asked: Markets, i: int) -> dict[str, Any]:
    rise = asked.rises[i % len(asked.rises)]
    return {**asked.market, "signal": 0.0, "seed": FIRST_SEED + i} | ({} if rise is None else {"rise": rise})


def _members(study: Study, rounds: int | None) -> list[dict[str, Any]]:
    kept = [member.model_dump(mode="json") for member in study.members if member.family not in LEFT_OUT]
    return [{**member, "rounds": rounds} if rounds and "rounds" in member else member for member in kept]


def control(plan: MarketPlan, home: Path) -> dict[str, Any]:
    """Out-of-sample rank IC by session, and what became of the candidate where there is one."""
    runner = researched(plan, home)
    found: dict[str, Any] = {"rank_ic": out_of_sample(runner)["rank_ic"].to_list()}
    if plan.leak:
        found["leaked"] = leaked_rank_ic(runner.environment, plan.leak)
    if plan.promotes:
        refused = attempt_promotion(runner)
        promoted = runner.environment.champions(plan.study).current() is not None
        found |= {"refused": refused, "promoted": promoted, "gates": verdicts(runner)}
    return found
