"""One simulated market through the whole graph, from a vendor's answers to an attempt at promotion. No claims here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import polars as pl

from assets.proof.contract import Progress
from assets.proof.homes import runner_of
from assets.proof.leaking_vendor import leaking_source
from assets.runs import Runner
from pipeline.errors import PromotionRefused
from pipeline.files import replace_if_changed
from pipeline.fingerprints import canonical_json
from pipeline.folds.spec import LOCKED
from pipeline.studies import STUDIES
from pipeline.study import Study
from resources.environments import Settings, create_environment
from resources.vendors import VENDORS

# Gates that ask for returns: a market without any predictability is refused by these, a broken run by others.
RETURN_GATES = ("rank_ic", "net_excess", "worst_path", "probabilistic_sharpe", "deflated_sharpe", "track_record")
PROCESSES = 2


@dataclass(frozen=True)
class MarketPlan:
    """A market, and what a study makes of it.

    Parameters
    ----------
    name : str
        Of its files.
    study, profile : str
    market, overrides : mapping
        Fields to replace in the profile, and dotted ones in the study.
    leak : float
        Rank correlation of a vendor's column with the return that follows; see `leaking_vendor`.
    promotes : bool
        Whether promotion is attempted.
    """

    name: str
    study: str
    profile: str
    market: Mapping[str, Any]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    leak: float = 0.0
    promotes: bool = True


Work = Callable[[MarketPlan, Path], dict[str, Any]]
"""(plan, empty folder) -> values for JSON."""


def with_members(study: Study, members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Overrides that leave a study with these members, and an ensemble of those of its own that are among them."""
    names = {member["name"] for member in members}
    together = [name for name in study.ensemble.members if name in names]
    return {"members": [dict(member) for member in members], "ensemble.members": together}


def researched(plan: MarketPlan, home: Path) -> Runner:
    """The market's history from raw tables to a scorecard."""
    vendor = VENDORS[STUDIES[plan.study].market.vendor]
    sessions = vendor.market_sessions(vendor.market(plan.profile, plan.market))
    settings = Settings(
        study=plan.study,
        profile=plan.profile,
        market=dict(plan.market),
        first_session=sessions[0],
        last_session=sessions[-1],
        overrides=dict(plan.overrides),
    )
    environment = create_environment(home, settings, home / "no_template")
    if plan.leak:
        environment.source = leaking_source(environment, plan.leak)
    runner = runner_of(environment)
    runner.ingest()
    runner.market()
    runner.research()
    return runner


def out_of_sample(runner: Runner) -> pl.DataFrame:
    """session, rank_ic: of the study's own score, mean over the paths; the locked stretch is one of its own."""
    ic = runner.environment.artifacts.table(runner.study.name, "backtest", "rank_ic").drop_nulls("rank_ic")
    kept = ic.with_columns(locked=pl.col("path") == LOCKED)
    return kept.group_by("locked", "session").agg(pl.col("rank_ic").mean()).sort("session").drop("locked")


def verdicts(runner: Runner) -> dict[str, str]:
    """Gate -> status, of the recipe and of the candidate."""
    artifacts, study = runner.environment.artifacts, runner.study.name
    tables = [artifacts.table(study, stage, "verdicts") for stage in ("scorecard", "candidate")]
    return dict(pl.concat(tables).select("gate", "status").rows())


def attempt_promotion(runner: Runner) -> str:
    """Why the candidate was refused; empty where it was promoted."""
    runner.judged("candidate")
    try:
        runner.stages(["champion"])
    except PromotionRefused as refused:
        return str(refused.observed)
    return ""


def each_market(
    work: Work, plans: Sequence[MarketPlan], folder: Path, progress: Progress, processes: int = 1
) -> dict[str, dict[str, Any]]:
    """What `work` finds in every market, by the plan's name. What was found is kept: a killed run goes on there."""
    waiting = [plan for plan in plans if not _result(folder, plan).exists()]
    if processes == 1:
        for i, plan in enumerate(waiting):
            progress(plan.name, i / len(waiting))
            _work(work, plan, folder)
    elif waiting:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            running = {pool.submit(_work, work, plan, folder): plan.name for plan in waiting}
            for i, done in enumerate(as_completed(running), 1):
                done.result()
                progress(running[done], i / len(waiting))
    return {plan.name: json.loads(_result(folder, plan).read_bytes()) for plan in plans}


def _result(folder: Path, plan: MarketPlan) -> Path:
    return folder / f"{plan.name}.json"


def _work(work: Work, plan: MarketPlan, folder: Path) -> None:
    """One market in a home of its own, which is gone afterwards: at demo size it holds 0.3 GB."""
    home = folder / plan.name
    shutil.rmtree(home, ignore_errors=True)
    found = work(plan, home)
    replace_if_changed(_result(folder, plan), canonical_json(found).encode())
    shutil.rmtree(home)
