"""Searches among worthless configurations, with and without one that is not, and what the gates say of the best."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from math import sqrt
from pathlib import Path

import numpy as np
import polars as pl

from assets.proof.contract import Progress
from pipeline.gates.evaluate import Evidence, evaluate
from pipeline.gates.ledger import Ledger, Trial
from pipeline.study import Study

CONFIGURATIONS, SESSIONS, DEVIATION = 200, 500, 0.01
NAIVE = ("probabilistic_sharpe", "net_excess")  # what looks at the chosen series alone
SEARCH = ("deflated_sharpe", "overfitting")  # what knows how many were tried
DAYS = [date(2020, 1, 1) + timedelta(days=n) for n in range(SESSIONS)]
GREEN = ("pass", "not_applicable")


@dataclass(frozen=True)
class Search:
    """One search and its verdicts.

    Parameters
    ----------
    skill : float
        Annual Sharpe ratio of the one configuration that is not worthless; 0 where all are.
    best : float
        Annual Sharpe ratio of the chosen one, as measured.
    green : frozenset of str
        Gates that are green on the chosen one, beside the whole ledger.
    hidden : frozenset of str
        Gates that are green where the ledger knew of the chosen one alone.
    """

    seed: int
    skill: float
    best: float
    green: frozenset[str]
    hidden: frozenset[str]

    @property
    def passes(self) -> bool:
        """Whether all four gates let it through."""
        return self.green >= {*NAIVE, *SEARCH}

    @property
    def naive(self) -> bool:
        """Whether those would that know nothing of the search."""
        return self.green >= set(NAIVE)


def searched(study: Study, folder: Path, seed: int, skill: float) -> Search:
    """Every configuration is recorded in a ledger on disk; the best by its Sharpe ratio is picked and judged."""
    year = study.market.sessions_per_year
    returns = np.random.default_rng(seed).standard_normal((SESSIONS, CONFIGURATIONS)) * DEVIATION
    returns[:, 0] += skill / sqrt(year) * DEVIATION
    sharpe = returns.mean(axis=0) / returns.std(axis=0, ddof=1)
    best = int(sharpe.argmax())
    whole, alone = (_recorded(folder / str(i), returns, chosen)
                    for i, chosen in enumerate((range(CONFIGURATIONS), [best])))  # fmt: skip
    green, hidden = (_green(study, returns[:, best], trials) for trials in (whole, alone))
    return Search(seed, skill, float(sharpe[best] * sqrt(year)), green, hidden)


def _recorded(folder: Path, returns: np.ndarray, chosen: Sequence[int]) -> pl.DataFrame:
    shutil.rmtree(folder, ignore_errors=True)
    ledger = Ledger(folder)
    ledger.append(
        Trial(f"configuration {i}", str(i), "a search", "paths", DAYS, returns[:, i].tolist()) for i in chosen
    )
    rows = ledger.rows()
    shutil.rmtree(folder)
    return rows


def _green(study: Study, series: np.ndarray, trials: pl.DataFrame) -> frozenset[str]:
    """The study's own gates with the study's own bounds."""
    gates = tuple(gate for gate in study.promotion.gates if gate.name in (*NAIVE, *SEARCH))
    evidence = Evidence("a search", excess={"path_00": series}, trials=trials,
                        sessions_per_year=study.market.sessions_per_year)  # fmt: skip
    verdicts = evaluate(evidence, study.promotion.model_copy(update={"gates": gates}))
    return frozenset(verdicts.filter(pl.col("status").is_in(GREEN))["gate"])


def searches(study: Study, folder: Path, seeds: int, skills: Sequence[float], progress: Progress) -> list[Search]:
    """So many searches of each skill; the worthless ones first."""
    asked = [(seed, skill) for skill in skills for seed in range(seeds)]
    found = []
    for i, (seed, skill) in enumerate(asked):
        progress(f"{study.name}: search {i + 1} of {len(asked)}", i / len(asked))
        found.append(searched(study, folder / "search", 1000 + seed, skill))
    return found


def searches_table(study: Study, found: Sequence[Search]) -> pl.DataFrame:
    """One row a skill."""
    rows = []
    for skill in sorted({one.skill for one in found}):
        mine = [one for one in found if one.skill == skill]
        rows.append({
            "study": study.name,
            "true annual Sharpe of one": skill,
            "searches": len(mine),
            "best of 200, mean annual Sharpe": float(np.mean([one.best for one in mine])),
            "a naive test passes": sum(one.naive for one in mine),
            "deflated Sharpe passes": sum("deflated_sharpe" in one.green for one in mine),
            "PBO passes": sum("overfitting" in one.green for one in mine),
            "all gates pass": sum(one.passes for one in mine),
            "all pass, search hidden": sum(one.hidden >= {*NAIVE, *SEARCH} for one in mine),
        })  # fmt: skip
    return pl.DataFrame(rows)

