"""Whether a Continue model that knows the state of its position beats one that sees the market alone.

Diagnostic only. States are `pipeline.features.minutes.position_state`; the truth is the Continue label of the
current minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import polars as pl
from pydantic import Field

from pipeline.diagnostics.finding import Finding
from pipeline.diagnostics.minutes.evaluation import BLOCKS, FIT, rows_of
from pipeline.diagnostics.minutes.probe_heads import (
    CONFIRMING,
    Head,
    huber,
    logistic,
    matrix,
    probe_rows,
    ridge,
    values,
)
from pipeline.errors import BadInput, KeyViolation
from pipeline.features.minutes.position_state import STATE_KEY, STATE_ORDER
from pipeline.frames import MINUTE_ROW as KEY
from pipeline.frames import require_columns, require_unique
from pipeline.labels.path_outcomes import SIDES
from pipeline.labels.plan_search import EVALUATION_BLOCKS
from pipeline.labels.price_plan import FIXED, PricePlan
from pipeline.models.metrics import auc
from pipeline.positions.manager import decide
from pipeline.positions.manager_spec import ManagerConfig, PlanNumbers
from pipeline.spec import Spec

PASS = "PASS_TO_FORMAL_CHAIN"
NOT_READY = "NOT_READY_FOR_FORMAL_CHAIN"
BY_MANAGER: Final = "POSITION_MANAGER_ENTRIES"
BY_LABEL: Final = "ORACLE_LABEL_CHOSEN_ENTRIES"
LOWEST_AUC, HIGHEST_MAE_RATIO = 0.60, 0.97
MARKET_ONLY, WITH_STATE = "market", "market_and_state"
CHECKS = ("auc_at_least_0.60", "mae_ratio_at_most_0.97", "auc_better_than_market", "mae_better_than_market",
          "regressor_converged")  # fmt: skip
LABELS = ("label_start", "label_end")
RULE: Final = (
    "Passes only if on E2 and E3 and both sides AUC >= 0.60, MAE ratio <= 0.97, both strictly better than market only, "
    "and the regressor stopped before its limit; never on entries that were chosen by their own label."
)


class ContinueSpec(Spec):
    """How both arms are fitted.

    Parameters
    ----------
    regressor : str
    iterations : int
        Limit of the logistic and of the Huber head.
    ridge_alpha : float
    clip_bps : float, optional
        The regression trains on targets clipped to +- this; it is measured on the true ones.
    least_fit_rows : int
        A side with fewer is skipped and named.
    """

    regressor: Literal["huber", "ridge"] = "huber"
    iterations: int = Field(default=1_000, ge=1)
    ridge_alpha: float = Field(default=10.0, gt=0)
    clip_bps: float | None = Field(default=None, gt=0)
    least_fit_rows: int = Field(default=1_000, ge=2)


def manager_entries(rows: pl.DataFrame, config: ManagerConfig, plan: PlanNumbers) -> pl.DataFrame:
    """Entries the manager would open at each row, were it flat.

    Parameters
    ----------
    rows : pl.DataFrame
        As `manager.predicted_edges` returns them, of models that were not fitted on these rows.

    Returns
    -------
    pl.DataFrame
        Key, `side`, `entry_predicted_edge_bps`, `entry_direction_prob`, `entries_by`: what `position_states` reads.
    """
    opened = decide(rows, config, plan).filter(pl.col("side").is_not_null(), pl.col("planned_ratio") > 0)
    return pl.concat([_at_entry(opened.filter(pl.col("side") == side), side, BY_MANAGER) for side in SIDES])


def label_chosen_entries(rows: pl.DataFrame) -> pl.DataFrame:
    """The oracle: entries whose label came true, on rows as in `manager_entries` with `{long,short}_entry_target`.

    It reads the future, so what is found on it can never pass.
    """
    names = [f"{side.lower()}_entry_target" for side in SIDES]
    require_columns(rows, [*KEY, *names], "label-chosen entries")
    return pl.concat([_at_entry(rows.filter(pl.col(name) == 1), side, BY_LABEL)
                      for side, name in zip(SIDES, names, strict=True)])


def _at_entry(rows: pl.DataFrame, side: str, by: str) -> pl.DataFrame:
    return rows.select(*KEY, side=pl.lit(side), entry_predicted_edge_bps=f"{side.lower()}_predicted_edge_bps",
                       entry_direction_prob=f"direction_{side.lower()}_prob", entries_by=pl.lit(by))


def continue_rows(
    states: pl.DataFrame, features: pl.DataFrame, labels: pl.DataFrame, blocks: pl.DataFrame, plan: PricePlan
) -> pl.DataFrame:
    """States beside the market features, the block and the side's Continue label of their own minute.

    Parameters
    ----------
    states : pl.DataFrame
        `position_states` with `entries_by`.
    features : pl.DataFrame
        The key and the market features; every state's minute has a row.
    labels : pl.DataFrame
        `continue_labels` of a fixed plan. States whose minutes ahead are not whole have none and drop out.
    blocks : pl.DataFrame
        The key and `block`; states of a purged minute drop out.

    Returns
    -------
    pl.DataFrame
        With `continue_target`, `expected_continue_edge_bps`, `label_start`, `label_end`, `block`.

    Raises
    ------
    SchemaError, KeyViolation, BadInput
        A column is absent; a key is doubled; a state's minute has no features; the plan is not fixed, or is not the
        labels'.
    """
    if plan.entry_plan_method != FIXED:
        raise BadInput("state-aware Continue is measured under a fixed plan", plan.entry_plan_method,
                       "label with a FIXED_TARGET_STOP_V1 plan")
    require_unique(states, STATE_KEY, "states")
    truths = [f"{side.lower()}_{name}" for side in SIDES for name in ("continue_target", "expected_continue_edge_bps")]
    require_columns(labels, [*KEY, *LABELS, *truths, "price_plan_hash"], "Continue labels")
    others = sorted(set(labels["price_plan_hash"].to_list()) - {plan.price_plan_hash})
    if others:
        raise BadInput("Continue labels and states are of one price plan", others, "label with the states' plan")
    for frame, what in ((features, "features"), (labels, "Continue labels"), (blocks, "blocks")):
        require_unique(frame, KEY, what)
    beside = states.join(features, on=list(KEY), how="inner", validate="m:1")
    if beside.height != states.height:
        raise KeyViolation("every state's minute has features", f"{states.height} states, {beside.height} joined",
                           "compute the features of all minutes")
    read = beside.join(labels.select(*KEY, *LABELS, *truths), on=list(KEY), how="inner", validate="m:1")
    long = pl.col("side") == "LONG"
    own = (pl.when(long).then(f"long_{name}").otherwise(f"short_{name}").alias(name)
           for name in ("continue_target", "expected_continue_edge_bps"))
    settled = read.with_columns(own).drop(truths)
    return settled.join(blocks.select(*KEY, "block"), on=list(KEY), how="inner", validate="m:1").sort(STATE_KEY)


def state_aware_continue(rows: pl.DataFrame, market: Sequence[str], spec: ContinueSpec | None = None) -> Finding:
    """Both arms per side, fitted on fit_inner, measured on E1, E2 and E3.

    Parameters
    ----------
    rows : pl.DataFrame
        As `continue_rows` returns them.
    market : sequence of str
        Market features of both arms.
    spec : ContinueSpec, optional

    Returns
    -------
    Finding
        `PASS_TO_FORMAL_CHAIN` only if on E2 and E3 and both sides AUC >= 0.60, MAE ratio <= 0.97, both strictly better
        than market only, and the regressor stopped before its limit; never on an oracle's entries. `score` is the
        lowest of these AUCs, None where a side could not be measured. Tables `checks`, `reasons`, `metrics`, `counts`.

    Raises
    ------
    SchemaError, KeyViolation, BadInput
        As `probe_rows`; entries of two kinds.
    """
    spec = spec or ContinueSpec()
    truth = ("continue_target", "expected_continue_edge_bps", "entries_by")
    whole = probe_rows(rows, [*market, *STATE_ORDER], truth, "state-aware Continue", STATE_KEY[3:])
    kinds = whole["entries_by"].unique().to_list()
    if kinds not in ([BY_MANAGER], [BY_LABEL]):
        raise BadInput(f"entries are by {BY_MANAGER} or by {BY_LABEL}", sorted(map(str, kinds)), "measure them apart")
    skipped = {side: reason for side in SIDES if (reason := _unfit(whole, side, spec))}
    arms = {MARKET_ONLY: tuple(market), WITH_STATE: (*market, *STATE_ORDER)}
    metrics = pl.DataFrame(
        [row for side in SIDES if side not in skipped for arm, names in arms.items()
         for row in _arm(whole.filter(pl.col("side") == side), side, arm, names, spec)],
        schema=_METRICS,
    )
    checks = continue_checks(metrics)
    reasons = [*skipped.values(), *([BY_LABEL] if kinds == [BY_LABEL] else []),
               *(f"{row['block']}_{row['side']}_not_{row['check']}"
                 for row in checks.filter(~pl.col("passed")).iter_rows(named=True))]
    scores = checks.filter(pl.col("check") == CHECKS[0])["value"]
    tables = {
        "checks": checks, "reasons": pl.DataFrame({"reason": reasons}, schema={"reason": pl.String}),
        "metrics": metrics, "counts": whole.group_by("block", "side", "entries_by").agg(
            rows=pl.len(), rate=pl.col("continue_target").mean()).sort("block", "side"),
    }  # fmt: skip
    score = None if skipped else float(scores.to_numpy().min())
    counted = rows_of({block: whole.filter(pl.col("block") == block) for block in BLOCKS})
    return Finding(score, NOT_READY if reasons else PASS, _text(kinds[0], checks, reasons, spec), tables, rule=RULE,
                   counts=counted)


_METRICS: Final = {
    "side": pl.String, "arm": pl.String, "block": pl.String, "rows": pl.Int64, "auc": pl.Float64,
    "mae_bps": pl.Float64, "mae_constant_bps": pl.Float64, "mae_ratio": pl.Float64, "iterations": pl.Int64,
    "converged": pl.Boolean,
}  # fmt: skip


def continue_checks(metrics: pl.DataFrame) -> pl.DataFrame:
    """The status rule on E2 and E3: one row per block, side and check with `value`, `bound`, `passed`."""
    rows = []
    parts = [metrics.filter(pl.col("arm") == arm, pl.col("block").is_in(CONFIRMING))
             for arm in (WITH_STATE, MARKET_ONLY)]
    for own, other in zip(*(part.sort("block", "side").to_dicts() for part in parts), strict=True):
        figures = (
            (own["auc"], LOWEST_AUC, own["auc"] >= LOWEST_AUC),
            (own["mae_ratio"], HIGHEST_MAE_RATIO, own["mae_ratio"] <= HIGHEST_MAE_RATIO),
            (own["auc"], other["auc"], own["auc"] > other["auc"]),
            (own["mae_ratio"], other["mae_ratio"], own["mae_ratio"] < other["mae_ratio"]),
            (float(own["converged"]), 1.0, own["converged"]),
        )
        rows += [{"block": own["block"], "side": own["side"], "check": check, "value": value, "bound": bound,
                  "passed": passed} for check, (value, bound, passed) in zip(CHECKS, figures, strict=True)]
    return pl.DataFrame(rows, schema={"block": pl.String, "side": pl.String, "check": pl.String,
                                      "value": pl.Float64, "bound": pl.Float64, "passed": pl.Boolean})


def _unfit(rows: pl.DataFrame, side: str, spec: ContinueSpec) -> str | None:
    """Why a side cannot be measured: too few fit rows, or a block without both classes."""
    own = rows.filter(pl.col("side") == side)
    fit = own.filter(pl.col("block") == FIT).height
    if fit < spec.least_fit_rows:
        return f"{side}_fit_rows_{fit}_below_{spec.least_fit_rows}"
    for block in BLOCKS:
        part = own.filter(pl.col("block") == block)
        if part.filter(pl.col("continue_target") == 1).height in (0, part.height):
            return f"{side}_{block}_without_both_classes"
    if values(own.filter(pl.col("block") == FIT), "expected_continue_edge_bps").std() == 0.0:
        return f"{side}_fit_rows_with_one_edge"
    return None


def _arm(rows: pl.DataFrame, side: str, arm: str, names: Sequence[str], spec: ContinueSpec) -> list[dict[str, Any]]:
    """Metrics of one side and arm, per evaluation block."""
    fit = rows.filter(pl.col("block") == FIT)
    x, edge = matrix(fit, names), values(fit, "expected_continue_edge_bps")
    chance, regressor = logistic(x, values(fit, "continue_target"), spec.iterations), _regressor(x, edge, spec)
    constant, out = float(np.median(edge)), []
    for block in EVALUATION_BLOCKS:
        part = rows.filter(pl.col("block") == block)
        seen, truth = matrix(part, names), values(part, "expected_continue_edge_bps")
        mae, plain = (float(np.abs(p - truth).mean()) for p in (regressor.predict(seen), constant))
        if plain == 0.0:
            raise BadInput("edges of a block differ from the fit's median", f"{side} {block}", "widen the block")
        area = auc(values(part, "continue_target"), chance.predict(seen))
        out.append({"side": side, "arm": arm, "block": block, "rows": part.height, "auc": area, "mae_bps": mae,
                    "mae_constant_bps": plain, "mae_ratio": mae / plain, "iterations": regressor.rounds,
                    "converged": regressor.converged})
    return out


def _regressor(x: np.ndarray, edge: np.ndarray, spec: ContinueSpec) -> Head:
    target = edge if spec.clip_bps is None else np.clip(edge, -spec.clip_bps, spec.clip_bps)
    return huber(x, target, spec.iterations) if spec.regressor == "huber" else ridge(x, target, spec.ridge_alpha)


def _text(kind: str, checks: pl.DataFrame, reasons: Sequence[str], spec: ContinueSpec) -> str:
    oracle = " These entries were chosen by their own label: an oracle, which cannot pass." if kind == BY_LABEL else ""
    passed = [f"{row['block']}_{row['side']}_{row['check']}"
              for row in checks.filter("passed").iter_rows(named=True)]
    return (
        f"Diagnostic only. Positions by {kind}, looked at some minutes after entry: market features against market "
        f"and 22 state features, logistic and {spec.regressor} heads.{oracle} {RULE} "
        f"Reasons against: {', '.join(reasons) or 'none'}. Passed: {', '.join(passed) or 'none'}."
    )
