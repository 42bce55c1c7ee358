"""What each block of the multi-path net is worth: its variants, and the table that compares them.

Not here: fitting a variant, and which rows it may see (`pipeline/stages/ablation.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.models.spec import MemberSpec, MultiPathNetSpec

ALL = "all"
SEEDS = 3  # trainings of a net: from seed to seed the same net moved by 0.004 in rank IC, leaving a block out by 0.01
ERRORS = 2.0  # standard errors beyond which a difference is called one
FIXED_B = (1.9600, 2.9694, 0.4160, -0.5324)  # Bartlett kernel, 97.5 %: a cubic in the bandwidth's share
NO_MINUTES = "the market has no minute bars"
PATHS: dict[str, dict[str, Any]] = {"A": {"intraday": None}, "B": {"daily": None}, "C": {"towers": ()}}
"""Path -> what switches it off."""
FILM: dict[str, Any] = {"film": ()}

TABLE = {
    "member": pl.String, "variant": pl.String, "paths": pl.String, "parameters": pl.Int64, "seeds": pl.Int64,
    "sessions": pl.Int64, "rank_ic": pl.Float64, "rank_ic_se": pl.Float64, "seed_deviation": pl.Float64,
    "difference": pl.Float64, "difference_se": pl.Float64, "tune_loss": pl.Float64, "objective": pl.Float64,
    "epochs": pl.String, "reason": pl.String,
}  # fmt: skip
BLOCKS = {
    "member": pl.String, "block": pl.String, "worth": pl.Float64, "worth_se": pl.Float64, "verdict": pl.String,
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """A member with some of its blocks on.

    Parameters
    ----------
    member, name : str
        `all`, `A off`, `A only`, `FiLM off`; a member that is no net has one variant, `whole`.
    spec : MemberSpec
    reason : str
        Why it cannot be measured; empty where it can.
    """

    member: str
    name: str
    spec: MemberSpec
    reason: str = ""

    @property
    def paths(self) -> str:
        """`A+B+C+FiLM`; empty for a member that is no net."""
        if not isinstance(self.spec, MultiPathNetSpec):
            return ""
        return "+".join([*_on(self.spec), *(["FiLM"] if self.spec.film else [])])


@dataclass(frozen=True)
class Measured:
    """A variant fitted with one seed, on the tune rows.

    Parameters
    ----------
    sessions : tuple of str
        ISO dates that have a rank IC, ascending.
    rank_ic : tuple of float
        Of the alpha's raw head with its own label, per session.
    parameters : int or None
        Trained weights; None for a member that is no net.
    tune_loss : float or None
        At the chosen epoch.
    objective : float or None
        Execution-aware value of the served scores; None where it is not finite.
    epoch : int or None
        The chosen one, from 0.
    """

    sessions: tuple[str, ...]
    rank_ic: tuple[float, ...]
    parameters: int | None
    tune_loss: float | None
    objective: float | None
    epoch: int | None


def variants(spec: MemberSpec, *, minutes: bool) -> tuple[Variant, ...]:
    """Everything on, each block left out, each path alone (without FiLM and execution context).

    A variant that is the same net as an earlier one, or no net at all, is left out.

    Parameters
    ----------
    minutes : bool
        Whether the market has minute bars; without them Path A is absent from every variant.
    """
    if not isinstance(spec, MultiPathNetSpec):
        return (Variant(spec.name, "whole", spec),)
    on = _on(spec)
    made = [Variant(spec.name, ALL, spec)]
    made += [Variant(spec.name, f"{path} off", _without(spec, PATHS[path])) for path in on if len(on) > 1]
    made += [Variant(spec.name, "FiLM off", _without(spec, FILM))]
    made += [Variant(spec.name, f"{path} only", _alone(spec, path)) for path in on]
    first = {variant.spec: variant for variant in reversed(made)}
    kept = [variant for variant in made if first[variant.spec] is variant]
    return tuple(kept if minutes else (_without_minutes(variant) for variant in kept))


@dataclass(frozen=True)
class _Series:
    """A variant over its seeds: mean rank IC by session, and what its mean owes to the seeds (a variance)."""

    rank_ic: dict[str, float]
    by_seed: list[float]
    seed_variance: float


def compared(measured: Sequence[tuple[Variant, Sequence[Measured]]], lags: int) -> pl.DataFrame:
    """The ablation table: one row a variant, each beside `all` of its own net, other members beside the first net's.

    Parameters
    ----------
    measured : sequence of (Variant, sequence of Measured)
        One of each seed; empty where the variant gives a reason.
    lags : int
        Sessions over which rank ICs are taken to depend on each other.

    Returns
    -------
    DataFrame
        Columns of `TABLE`. `difference` is the variant minus `all`, paired session by session. Standard errors hold
        the sessions' part and the seeds' part; the variance from seed to seed is taken to be one for all nets.
    """
    spread = _variance_of_seeds([found for _, found in measured])
    series = [(variant, found, _over_seeds(found, spread)) for variant, found in measured]
    whole = {variant.member: own for variant, found, own in series if variant.name == ALL and found}
    first = next(iter(whole.values()))
    rows = []
    for variant, found, own in series:
        row = {"member": variant.member, "variant": variant.name, "paths": variant.paths, "reason": variant.reason}
        if found:
            row |= _figures(found, own, lags)
        if found and variant.name != ALL:
            row |= _beside(own, whole.get(variant.member, first), lags)
        rows.append(row)
    return pl.DataFrame(rows, schema=TABLE)


def worth_of_blocks(table: pl.DataFrame) -> pl.DataFrame:
    """What leaving a block out costs in rank IC: columns of `BLOCKS`, one row a block that could be left out."""
    left_out = table.filter(pl.col("variant").str.ends_with(" off") & (pl.col("reason") == ""))
    worth, error = -pl.col("difference"), pl.col("difference_se")
    return left_out.select(
        "member",
        block=pl.col("variant").str.strip_suffix(" off"),
        worth=worth,
        worth_se=error,
        verdict=pl.when(error.is_null()).then(pl.lit("too few sessions"))
        .when(worth > ERRORS * error).then(pl.lit("helps"))
        .when(worth < -ERRORS * error).then(pl.lit("hurts"))
        .otherwise(pl.lit("no difference seen")),
    ).cast(BLOCKS)  # type: ignore[arg-type]


def verdict(blocks: pl.DataFrame) -> tuple[float | None, str]:
    """Share of the judged blocks that help, and the answer in a few words."""
    judged = blocks.filter(pl.col("verdict") != "too few sessions")
    if judged.is_empty():
        return None, "too few tune sessions to judge a block" if len(blocks) else "no block can be left out"
    share = float((judged["verdict"] == "helps").mean())  # type: ignore[arg-type]
    if share == 1.0:
        return share, "every block helps"
    if (judged["verdict"] == "no difference seen").all():
        return share, f"no block differs from all by {ERRORS:g} standard errors"
    several = judged["member"].n_unique() > 1
    said = []
    for word in ("helps", "hurts", "no difference seen"):
        named = judged.filter(pl.col("verdict") == word).iter_rows(named=True)
        names = [f"{row['member']} {row['block']}" if several else row["block"] for row in named]
        said += [f"{word}: {', '.join(names)}"] if names else []
    return share, "; ".join(said)


def standard_error(values: NDArray[np.float64], lags: int) -> float | None:
    """Standard error of the mean of a serially dependent series, in time order; two of them are a 95 % bound.

    Newey and West 1987: autocovariances up to `lags` with Bartlett weights, widened for a short series by the
    fixed-b critical value of Kiefer and Vogelsang 2005 over the normal one. Of 3,000 series without any difference,
    whose values overlap over 3 sessions, two of them with 6 lags were passed by 8 % of those of 45 sessions and by
    7 % of those of 100; without the widening and with 3 lags, by 11 % and 10 %.

    Returns
    -------
    float or None
        None for fewer than two blocks of `lags + 1` values.
    """
    n = len(values)
    if n < 2 * (lags + 1):
        return None
    deviation = values - values.mean()
    covariance = [float(deviation[lag:] @ deviation[: n - lag]) / n for lag in range(lags + 1)]
    weighted = sum((1.0 - lag / (lags + 1)) * value for lag, value in enumerate(covariance[1:], 1))
    share = (lags + 1) / n
    widened = sum(factor * share**power for power, factor in enumerate(FIXED_B)) / FIXED_B[0]
    return widened * math.sqrt((covariance[0] + 2.0 * weighted) / n)


def _on(spec: MultiPathNetSpec) -> list[str]:
    held = {"A": spec.intraday, "B": spec.daily, "C": spec.towers}
    return [path for path, block in held.items() if block]


def _without(spec: MultiPathNetSpec, changes: dict[str, Any]) -> MultiPathNetSpec:
    return MultiPathNetSpec.model_validate(spec.model_dump() | changes)


def _alone(spec: MultiPathNetSpec, path: str) -> MultiPathNetSpec:
    changes: dict[str, Any] = {"execution": ()} | FILM
    for other in (name for name in PATHS if name != path):
        changes |= PATHS[other]
    return _without(spec, changes)


def _without_minutes(variant: Variant) -> Variant:
    """The variant as a market without minutes has it: what is about Path A alone has nothing to measure."""
    spec = variant.spec
    assert isinstance(spec, MultiPathNetSpec)
    rest = [path for path in _on(spec) if path != "A"]
    if variant.name == ALL and not rest:
        return variant  # fitting it says what is wrong
    if variant.name == "A off" or not rest:
        return replace(variant, reason=NO_MINUTES)
    return replace(variant, spec=_without(spec, PATHS["A"]))


def _variance_of_seeds(found: Sequence[Sequence[Measured]]) -> float:
    """Variance of the mean rank IC from seed to seed, pooled over the variants that were fitted with several."""
    means = [[float(np.mean(each.rank_ic)) for each in seeds if each.rank_ic] for seeds in found]
    several = [np.var(values, ddof=1) for values in means if len(values) > 1]
    return float(np.mean(several)) if several else 0.0


def _over_seeds(found: Sequence[Measured], spread: float) -> _Series:
    """Mean over the seeds on the sessions that all have; a variant of one seed owes nothing to it that is known."""
    held = [dict(zip(each.sessions, each.rank_ic, strict=True)) for each in found]
    days = [day for day in held[0] if all(day in one for one in held)] if held else []
    mean = {day: float(np.mean([one[day] for one in held])) for day in days}
    by_seed = [float(np.mean(each.rank_ic)) for each in found if each.rank_ic]
    return _Series(mean, by_seed, spread / len(found) if len(found) > 1 else 0.0)


def _figures(found: Sequence[Measured], own: _Series, lags: int) -> dict[str, Any]:
    ic = np.array(list(own.rank_ic.values()))
    return {
        "parameters": found[0].parameters,
        "seeds": len(found),
        "sessions": len(ic),
        "rank_ic": float(ic.mean()) if len(ic) else None,
        "rank_ic_se": _with_seeds(standard_error(ic, lags), own.seed_variance),
        "seed_deviation": float(np.std(own.by_seed, ddof=1)) if len(own.by_seed) > 1 else None,
        "tune_loss": _mean([each.tune_loss for each in found]),
        "objective": _mean([each.objective for each in found]),
        "epochs": " ".join(str(each.epoch) for each in found if each.epoch is not None),
    }


def _beside(own: _Series, whole: _Series, lags: int) -> dict[str, Any]:
    """Difference to `all` on the sessions that both have."""
    pairs = own.rank_ic.items()
    differences = np.array([value - whole.rank_ic[day] for day, value in pairs if day in whole.rank_ic])
    error = _with_seeds(standard_error(differences, lags), own.seed_variance + whole.seed_variance)
    return {"difference": float(differences.mean()) if len(differences) else None, "difference_se": error}


def _with_seeds(error: float | None, variance: float) -> float | None:
    return None if error is None else math.sqrt(error**2 + variance)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
