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
ERRORS = 2.0  # standard errors beyond which a difference is called one
FIXED_B = (1.9600, 2.9694, 0.4160, -0.5324)  # Bartlett kernel, 97.5 %: a cubic in the bandwidth's share
NO_MINUTES = "the market has no minute bars"
PATHS: dict[str, dict[str, Any]] = {"A": {"intraday": None}, "B": {"daily": None}, "C": {"towers": ()}}
"""Path -> what switches it off."""
FILM: dict[str, Any] = {"film": ()}

TABLE = {
    "member": pl.String, "variant": pl.String, "paths": pl.String, "parameters": pl.Int64, "sessions": pl.Int64,
    "rank_ic": pl.Float64, "rank_ic_se": pl.Float64, "difference": pl.Float64, "difference_se": pl.Float64,
    "tune_loss": pl.Float64, "objective": pl.Float64, "epoch": pl.Int64, "reason": pl.String,
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
    """A fitted variant on the tune rows.

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


def compared(measured: Sequence[tuple[Variant, Measured | None]], lags: int) -> pl.DataFrame:
    """The ablation table: one row a variant, each beside `all` of its own net, other members beside the first net's.

    Parameters
    ----------
    measured : sequence of (Variant, Measured or None)
        None where the variant gives a reason.
    lags : int
        Sessions over which rank ICs are taken to depend on each other.

    Returns
    -------
    DataFrame
        Columns of `TABLE`. `difference` is the variant minus `all`, paired session by session.
    """
    whole = {variant.member: found for variant, found in measured if variant.name == ALL and found is not None}
    first = next(iter(whole.values()))
    rows = []
    for variant, found in measured:
        row = {"member": variant.member, "variant": variant.name, "paths": variant.paths, "reason": variant.reason}
        if found is not None:
            row |= _figures(found, lags)
        if found is not None and variant.name != ALL:
            row |= _beside(found, whole.get(variant.member, first), lags)
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


def _figures(found: Measured, lags: int) -> dict[str, Any]:
    ic = np.array(found.rank_ic)
    return {
        "parameters": found.parameters,
        "sessions": len(ic),
        "rank_ic": float(ic.mean()) if len(ic) else None,
        "rank_ic_se": standard_error(ic, lags),
        "tune_loss": found.tune_loss,
        "objective": found.objective,
        "epoch": found.epoch,
    }


def _beside(found: Measured, whole: Measured, lags: int) -> dict[str, Any]:
    """Difference to `all` on the sessions that both have."""
    other = dict(zip(whole.sessions, whole.rank_ic, strict=True))
    pairs = zip(found.sessions, found.rank_ic, strict=True)
    differences = np.array([value - other[day] for day, value in pairs if day in other])
    mean = float(differences.mean()) if len(differences) else None
    return {"difference": mean, "difference_se": standard_error(differences, lags)}
