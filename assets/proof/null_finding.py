"""What null markets say together: pooled rank IC, its power, which gates refused. Which markets is `null_market`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from assets.proof.contract import BROKEN, HELD
from assets.proof.leaking_vendor import COLUMN, TABLE
from assets.proof.simulated_research import RETURN_GATES, MarketPlan
from pipeline.diagnostics.finding import Finding
from pipeline.reports.figures import bars_figure

Results = Mapping[str, Mapping[str, Any]]
LIMIT = 3.0  # standard errors
SURE = LIMIT + 1.645  # of them, a mean that is seen 95 times in 100
BLOCK = 10  # sessions that stay together; returns of neighbouring decisions overlap by three sessions at most


@dataclass(frozen=True)
class Pooled:
    """The mean over markets.

    Parameters
    ----------
    error : float
        The larger of two standard errors: between the markets, and between stretches of `BLOCK` sessions.
    """

    markets: int
    sessions: int
    mean: float
    error: float

    @property
    def away(self) -> float:
        """Standard errors from nothing."""
        return self.mean / self.error


def pooled(series: Sequence[Sequence[float]]) -> Pooled:
    """Of one series of rank ICs a market; neighbouring sessions share their luck, markets share none."""
    arrays = [np.asarray(values, np.float64) for values in series]
    means = np.array([values.mean() for values in arrays])
    stretches = np.concatenate([_stretches(values) for values in arrays])
    between = _error(means) if len(means) > 1 else 0.0
    return Pooled(len(arrays), sum(map(len, arrays)), float(means.mean()), max(between, _error(stretches)))


def _stretches(values: np.ndarray) -> np.ndarray:
    whole = len(values) // BLOCK
    return np.asarray(values[: whole * BLOCK].reshape(whole, BLOCK).mean(axis=1))


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def finding(plans: Sequence[MarketPlan], found: Results, precision: Mapping[str, float | None]) -> Finding:
    """Held where every study's mean is within the limit, every candidate refused, and the largest leak seen.

    Parameters
    ----------
    found : mapping
        Plan's name -> `null_market.control`.
    precision : mapping
        Study -> the pooled standard error may be at most this.
    """
    clean = [plan for plan in plans if not plan.leak]
    studies = list(dict.fromkeys(plan.study for plan in clean))
    pools = {name: pooled([found[p.name]["rank_ic"] for p in clean if p.study == name]) for name in studies}
    leaks = _leaks(plans, found, pools)
    wrong = [*_imprecise(pools, precision), *_unrefused(clean, found)]
    wrong += [f"{name}: {pool.mean:+.4f} is {pool.away:+.1f} standard errors from 0"
              for name, pool in pools.items() if abs(pool.away) > LIMIT]  # fmt: skip
    if len(leaks) and not leaks.row(-1, named=True)["seen"]:
        wrong.append(f"a leak of {leaks['rank IC of the column'][-1]:.3f} went unseen")
    control_table = _control(clean, found, pools)
    return Finding(
        score=max((abs(pool.away) for pool in pools.values()), default=None),
        status=BROKEN if wrong else HELD,
        text=_text(clean, found, pools, leaks, wrong),
        tables={"control": control_table, **({"leaks": leaks} if len(leaks) else {}),
                "gates": _gates(clean, found), "markets": _markets(clean, found)},
        figures={"mean rank IC of null markets": partial(_picture, control_table, leaks)},
        rule=f"|mean rank IC| <= {LIMIT:g} standard errors; every candidate refused by a gate on returns, none missing",
        counts={"markets": len(clean), "leaking markets": len(plans) - len(clean)},
    )  # fmt: skip


def _imprecise(pools: Mapping[str, Pooled], precision: Mapping[str, float | None]) -> list[str]:
    asked = {name: precision.get(name) or math.inf for name in pools}
    return [f"{name}: a standard error of {pool.error:.5f} is above {asked[name]:g}"
            for name, pool in pools.items() if pool.error > asked[name]]  # fmt: skip


def _unrefused(plans: Sequence[MarketPlan], found: Results) -> list[str]:
    """Candidates that were promoted, or refused for what is no matter of returns: that would be a broken run."""
    wrong = []
    for plan in plans:
        result, gates = found[plan.name], found[plan.name]["gates"]
        if result["promoted"] or not result["refused"]:
            wrong.append(f"{plan.name} was promoted")
        elif "missing" in gates.values() or not any(gates.get(gate) == "fail" for gate in RETURN_GATES):
            wrong.append(f"{plan.name} was refused, but not for its returns")
    return wrong


def _control(plans: Sequence[MarketPlan], found: Results, pools: Mapping[str, Pooled]) -> pl.DataFrame:
    """One row a study, and one a kind of its markets."""
    rows = []
    for name, pool in pools.items():
        mine = [plan for plan in plans if plan.study == name]
        rows.append(_pool_row(name, "all", pool, mine, found))
        rises = sorted({plan.market["rise"] for plan in mine if "rise" in plan.market})
        for rise in rises if len(rises) > 1 else ():
            some = [plan for plan in mine if plan.market["rise"] == rise]
            if len(some) > 1:
                kind = f"every name {rise:+.2%} a session" if rise else "no drift"
                rows.append(_pool_row(name, kind, pooled([found[p.name]["rank_ic"] for p in some]), some, found))
    return pl.DataFrame(rows)


def _pool_row(name: str, kind: str, pool: Pooled, plans: Sequence[MarketPlan], found: Results) -> dict[str, Any]:
    return {
        "study": name,
        "markets of": kind,
        "markets": pool.markets,
        "sessions": pool.sessions,
        "mean rank IC": pool.mean,
        "standard error": pool.error,
        "in standard errors": pool.away,
        "seen every other time from": LIMIT * pool.error,
        "seen 95 times in 100 from": SURE * pool.error,
        "promoted": sum(found[plan.name]["promoted"] for plan in plans),
    }


def _leaks(plans: Sequence[MarketPlan], found: Results, pools: Mapping[str, Pooled]) -> pl.DataFrame:
    """One row a size of leak: what the graph made of it, beside the very same markets without it."""
    sizes = sorted({(plan.study, plan.leak) for plan in plans if plan.leak})
    rows = []
    for name, size in sizes:
        told = [plan.name for plan in plans if (plan.study, plan.leak) == (name, size)]
        means = np.array([np.mean(found[plan]["rank_ic"]) for plan in told])
        without = np.array([np.mean(found[plan.split("_leak_")[0]]["rank_ic"]) for plan in told])
        gained = float((means - without).mean())
        rows.append(
            {
                "study": name,
                "rank IC of the column": float(np.mean([found[plan]["leaked"] for plan in told])),
                "markets": len(told),
                "mean rank IC": float(means.mean()),
                "without the leak": float(without.mean()),
                "gained": gained,
                "its standard error": _error(means - without) if len(told) > 1 else None,
                "in standard errors of the control": gained / pools[name].error,
                "seen": gained > LIMIT * pools[name].error,
            }
        )
    return pl.DataFrame(rows)


def _gates(plans: Sequence[MarketPlan], found: Results) -> pl.DataFrame:
    """How many null markets each gate would have refused alone."""
    rows = []
    for name in dict.fromkeys(plan.study for plan in plans):
        mine = [found[plan.name]["gates"] for plan in plans if plan.study == name]
        red = Counter(gate for gates in mine for gate, status in gates.items() if status == "fail")
        rows += [{"study": name, "gate": gate, "markets": len(mine), "refused": red[gate]} for gate in mine[0]]
    return pl.DataFrame(rows).sort("study", "refused", "gate", descending=[False, True, False])


def _markets(plans: Sequence[MarketPlan], found: Results) -> pl.DataFrame:
    rows = []
    for plan in plans:
        values, gates = np.asarray(found[plan.name]["rank_ic"]), found[plan.name]["gates"]
        rows.append(
            {
                "study": plan.study,
                "seed": plan.market["seed"],
                "drift a session": plan.market.get("rise"),
                "sessions": len(values),
                "mean rank IC": float(values.mean()),
                "standard error": _error(_stretches(values)),
                "red gates": sum(status == "fail" for status in gates.values()),
                "promoted": found[plan.name]["promoted"],
            }
        )
    return pl.DataFrame(rows)


def _text(
    plans: Sequence[MarketPlan], found: Results, pools: Mapping[str, Pooled], leaks: pl.DataFrame, wrong: Sequence[str]
) -> str:
    parts = [f"Not so: {'; '.join(wrong[:5])}."] if wrong else []
    for name, pool in pools.items():
        parts.append(
            f"{name}: {pool.markets} markets without signal, {pool.sessions:,} sessions out of sample, mean rank IC "
            f"{pool.mean:+.5f} with a standard error of {pool.error:.5f} ({pool.away:+.1f} standard errors). A mean of "
            f"{SURE * pool.error:.4f} would be seen 95 times in 100, one of {LIMIT * pool.error:.4f} every other time."
        )
    promoted = sum(found[plan.name]["promoted"] for plan in plans)
    parts.append(f"{promoted} of {len(plans)} candidates were promoted, under the studies' own gates and bounds.")
    for row in leaks.iter_rows(named=True):
        parts.append(
            f"Where the vendor's {TABLE}.{COLUMN} knows the future with a rank IC of "
            f"{row['rank IC of the column']:.3f}, the graph gains {row['gained']:+.4f} on {row['markets']} of these "
            f"markets: "
            f"{row['in standard errors of the control']:.1f} standard errors of the control."
        )
    return " ".join(parts)


def _picture(control_table: pl.DataFrame, leaks: pl.DataFrame) -> bytes:
    names = [f"{row['study']}, {row['markets of']}" for row in control_table.iter_rows(named=True)]
    names += [f"a column leaks {row['rank IC of the column']:.3f}" for row in leaks.iter_rows(named=True)]
    values = [*control_table["mean rank IC"], *(leaks["mean rank IC"] if len(leaks) else ())]
    errors = [LIMIT * error for error in control_table["standard error"]] + [None] * len(leaks)
    return bars_figure(names, values, errors, f"mean out-of-sample rank IC, +- {LIMIT:g} standard errors")
