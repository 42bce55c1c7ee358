"""Calibrated scores -> orders: policies, what each selects, which is chosen. No prices, no fills."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import polars as pl
from pydantic import Field

from pipeline.errors import BadInput
from pipeline.frames import require_columns, require_unique
from pipeline.positions.spec import PolicySpec
from pipeline.spec import Spec

ORDER_SCHEMA: dict[str, pl.DataType] = {
    "session": pl.Date(),
    "rank": pl.Int32(),
    "instrument": pl.String(),
    "weight": pl.Float64(),
    "score": pl.Float64(),
}


class Policy(Spec):
    """One point of a policy grid, as chosen; it travels in bundles as plain JSON.

    Parameters
    ----------
    top_k : int
        Names per session; each order weighs `1 / top_k` of the free cash, also when fewer pass.
    alpha : str
        Prediction column that ranks, highest first.
    max_buy_block, max_downlock : float
        Largest `buy_block_pred`, `downlock_pred` a name may have; 1.0 is off.
    max_fragility_rank : float
        Largest cross-sectional percentile of `fragility_pred` a name may have; 1.0 is off.
    origin : str
        Where the choice was made: `grid`, or the rows it was chosen on.
    objective : float, optional
        Value of the objective there.
    """

    top_k: int = Field(ge=1)
    alpha: str
    max_buy_block: float = Field(default=1.0, gt=0, le=1)
    max_downlock: float = Field(default=1.0, gt=0, le=1)
    max_fragility_rank: float = Field(default=1.0, gt=0, le=1)
    origin: str = "grid"
    objective: float | None = None


def candidate_policies(spec: PolicySpec) -> list[Policy]:
    """Every policy of the grid, in grid order (the last filter varies fastest)."""
    grid = product(spec.max_buy_block, spec.max_downlock, spec.max_fragility_rank)
    return [
        Policy(
            top_k=spec.top_k,
            alpha=spec.alpha,
            max_buy_block=buy_block,
            max_downlock=downlock,
            max_fragility_rank=fragility,
        )
        for buy_block, downlock, fragility in grid
    ]


def _filters(policy: Policy) -> dict[str, pl.Expr]:
    """Column -> what a row must satisfy; only filters that are on, so that an unused head may be absent."""
    fragility = pl.col("fragility_pred").fill_nan(None)
    percentile = fragility.rank("average").over("session") / fragility.count().over("session")
    rules = {
        "buy_block_pred": (policy.max_buy_block, pl.col("buy_block_pred")),
        "downlock_pred": (policy.max_downlock, pl.col("downlock_pred")),
        "fragility_pred": (policy.max_fragility_rank, percentile),
    }
    return {column: value <= bound for column, (bound, value) in rules.items() if bound < 1.0}


def select(predictions: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """The orders of a policy: per session the `top_k` best names that pass every filter.

    Parameters
    ----------
    predictions : pl.DataFrame
        One row per (session, instrument): `policy.alpha` and the `<head>_pred` column of each filter that is
        on. A missing value never passes: neither a missing score nor a missing risk is bought.
    policy : Policy

    Returns
    -------
    pl.DataFrame
        `ORDER_SCHEMA` in key order (session, rank). Equal scores are ordered by instrument. Where fewer than
        `top_k` names pass there are fewer orders, none heavier: the rest of the cash stays idle.

    Raises
    ------
    SchemaError, KeyViolation
        A needed column is absent; a session holds an instrument twice (two splits in one call).
    """
    filters = _filters(policy)
    require_columns(predictions, ["session", "instrument", policy.alpha, *filters], "select")
    require_unique(predictions, ["session", "instrument"], "select")
    score = pl.col(policy.alpha).cast(pl.Float64)
    return (
        predictions.filter(score.is_finite(), *filters.values())
        .select("session", "instrument", score=score)
        .sort("session", "score", "instrument", descending=[False, True, False])
        .with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("session"))
        .filter(pl.col("rank") <= policy.top_k)
        .with_columns(weight=pl.lit(1.0 / policy.top_k))
        .select(*ORDER_SCHEMA)
        .cast(ORDER_SCHEMA)  # type: ignore[arg-type]
    )


def choose_policy(
    tune_predictions: pl.DataFrame,
    spec: PolicySpec,
    objective: Callable[[pl.DataFrame], float],
    origin: str = "tune",
) -> tuple[Policy, pl.DataFrame]:
    """The policy of the grid with the highest objective on the tune rows.

    Parameters
    ----------
    tune_predictions : pl.DataFrame
        As in `select`, rows of the split's tune group only.
    objective : callable
        Orders -> value, the larger the better. It is not asked about a policy that selects nothing.
    origin : str
        Written into the chosen policy.

    Returns
    -------
    policy : Policy
        The first of the best, with its objective.
    table : pl.DataFrame
        The whole search: one row a `candidate` in grid order, its values, `orders`, `objective` (null where
        it selected nothing or the value was NaN) and `chosen`.

    Raises
    ------
    BadInput
        No candidate has a value.
    """
    candidates = candidate_policies(spec)
    orders = [select(tune_predictions, policy) for policy in candidates]
    values = [None if part.is_empty() else float(objective(part)) for part in orders]
    values = [None if value is None or value != value else value for value in values]
    scored = [(value, -i) for i, value in enumerate(values) if value is not None]
    if not scored:
        raise BadInput(
            "at least one policy must select something and have a value on the tune rows",
            f"{len(candidates)} candidates, {tune_predictions.height} rows",
            "widen the filter grid or the tune group",
        )
    best = -max(scored)[1]
    table = pl.DataFrame(
        [{"candidate": i} | policy.model_dump(exclude={"origin", "objective"}) for i, policy in enumerate(candidates)]
    ).with_columns(
        orders=pl.Series([part.height for part in orders], dtype=pl.Int64),
        objective=pl.Series(values, dtype=pl.Float64),
        chosen=pl.Series([i == best for i in range(len(candidates))]),
    )
    return candidates[best].model_copy(update={"origin": origin, "objective": values[best]}), table
