"""Whether the order-flow features are worth having: market features alone against market and order flow.

Diagnostic only. Both arms fit the same linear Direction and Entry heads on the same rows; labels, position manager
and model contract stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from pipeline.diagnostics.finding import Finding
from pipeline.diagnostics.minutes.evaluation import BLOCKS, FIT, rows_of
from pipeline.diagnostics.minutes.probe_heads import (
    CONFIRMING,
    direction_class,
    huber,
    log_loss,
    logistic,
    matrix,
    probe_rows,
    require_classes,
    values,
)
from pipeline.errors import BadInput
from pipeline.features.minutes.samples import Counts, drop_incomplete
from pipeline.features.minutes.schema import ORDER_FLOW
from pipeline.fingerprints import hash_frame, hash_json
from pipeline.frames import MINUTE_ROW as KEY
from pipeline.frames import require_columns
from pipeline.labels.path_outcomes import SIDES
from pipeline.labels.plan_search import EVALUATION_BLOCKS
from pipeline.models.metrics import auc
from pipeline.models.spec import LinearHeadsSpec
from pipeline.positions.manager_spec import ManagerConfig

ACCEPTED = "ORDER_FLOW_ACCEPTED"
NOT_ACCEPTED = "ORDER_FLOW_NOT_ACCEPTED"
MARKET_ONLY, WITH_FLOW = "market", "market_and_order_flow"
HEADS = ("direction", "long_entry", "short_entry")
LABELS = (
    "long_target", "short_target", "neutral_target",
    *(f"{side.lower()}_{name}" for side in SIDES for name in ("entry_target", "actual_plan_net_edge_bps")),
)  # fmt: skip
LEAST_FIT_ROWS = 1_000
RULE = "Accepted only if the log loss of each head is strictly lower with order flow on both E2 and E3."
TOP_SHARE = 0.10
_QUANTILES = {"p1": 0.01, "p50": 0.50, "p99": 0.99}


def order_flow_ablation(
    rows: pl.DataFrame,
    market: Sequence[str],
    manager: ManagerConfig,
    order_flow: Sequence[str] = ORDER_FLOW,
    spec: LinearHeadsSpec | None = None,
) -> Finding:
    """Both arms on the rows that have every feature.

    Parameters
    ----------
    rows : pl.DataFrame
        The key, `block` (fit_inner, E1, E2, E3), `label_start`, `label_end`, `LABELS` and the features; rows with a
        missing order-flow feature are dropped and counted.
    market, order_flow : sequence of str
        Features of the first arm, and what the second adds.
    manager : ManagerConfig
        Named by its hash in the manifest; nothing here runs it.
    spec : LinearHeadsSpec, optional

    Returns
    -------
    Finding
        `ORDER_FLOW_ACCEPTED` only if each of the three heads has a strictly lower log loss with order flow on both
        E2 and E3; `score` is the smallest of these six gains in nats (negative: a loss). Tables `gains`, `metrics`,
        `features`, `rows`, `manifest`.

    Raises
    ------
    SchemaError, KeyViolation, BadInput
        As `probe_rows`; a feature in both lists; no row with every order-flow feature; under 1,000 fit rows or one
        class among them.
    """
    spec = spec or LinearHeadsSpec()
    both = sorted(set(market) & set(order_flow))
    if both or not order_flow:
        raise BadInput("order-flow features are added to the market's", both or "none", "name each feature once")
    require_columns(rows, [*KEY, "block", *LABELS, *market, *order_flow], "the order-flow ablation")
    described = _described(rows, order_flow)
    finite = pl.col(order_flow).cast(pl.Float64)
    nulled = rows.with_columns(pl.when(finite.is_finite()).then(finite))
    kept, counts = drop_incomplete(nulled, order_flow)
    whole = probe_rows(kept, [*market, *order_flow], LABELS, "the order-flow ablation")
    arms = {MARKET_ONLY: tuple(market), WITH_FLOW: (*market, *order_flow)}
    metrics = pl.DataFrame([row for arm, names in arms.items() for row in _arm(whole, arm, names, spec)])
    gains = flow_gains(metrics)
    confirming = gains.filter(pl.col("block").is_in(CONFIRMING))
    status = ACCEPTED if confirming["better"].all() else NOT_ACCEPTED
    tables = {
        "gains": gains,
        "metrics": metrics,
        "features": described,
        "rows": _rows(rows, whole, counts),
        "manifest": _manifest(whole, arms, manager, spec),
    }
    return Finding(float(confirming["log_loss_gain"].to_numpy().min()), status, _text(confirming, counts), tables,
                   rule=RULE, counts=rows_of({block: whole.filter(pl.col("block") == block) for block in BLOCKS}))


def flow_gains(metrics: pl.DataFrame) -> pl.DataFrame:
    """Per block and head: what order flow takes off the log loss, adds to the AUC and to the top edge; `better`."""
    arms = [metrics.filter(pl.col("arm") == arm) for arm in (MARKET_ONLY, WITH_FLOW)]
    beside = arms[0].join(arms[1], on=["block", "head"], suffix="_flow", maintain_order="left", validate="1:1")
    gain = pl.col("log_loss") - pl.col("log_loss_flow")
    return beside.select("block", "head", log_loss_gain=gain, auc_gain=pl.col("auc_flow") - pl.col("auc"),
                         edge_mae_gain_bps=pl.col("edge_mae_bps") - pl.col("edge_mae_bps_flow"),
                         top_edge_gain_bps=pl.col("top_edge_bps_flow") - pl.col("top_edge_bps"), better=gain > 0)


def _arm(rows: pl.DataFrame, arm: str, features: Sequence[str], spec: LinearHeadsSpec) -> list[dict[str, Any]]:
    """Metrics of one arm, per evaluation block and head."""
    parts = {block: rows.filter(pl.col("block") == block) for block in BLOCKS}
    seen = {block: matrix(part, features) for block, part in parts.items()}
    out = []
    for head in HEADS:
        truths = {block: direction_class(part) if head == "direction" else values(part, f"{head}_target")
                  for block, part in parts.items()}
        require_classes(truths[FIT], LEAST_FIT_ROWS, f"{head} of arm {arm}", 3 if head == "direction" else 2)
        fitted = logistic(seen[FIT], truths[FIT], spec.iterations)
        edges = None if head == "direction" else f"{head.removesuffix('_entry')}_actual_plan_net_edge_bps"
        regressor = None if edges is None else huber(seen[FIT], values(parts[FIT], edges), spec.iterations)
        for block in EVALUATION_BLOCKS:
            own: dict[str, Any] = {"arm": arm, "block": block, "head": head, "rows": parts[block].height}
            p = fitted.predict(seen[block])
            own |= _quality(truths[block], p)
            predicted = None if regressor is None else regressor.predict(seen[block])
            out.append(own | _edge(parts[block], edges, p, predicted) | {"converged": fitted.converged})
    return out


def _quality(y: np.ndarray, p: np.ndarray) -> dict[str, Any]:
    """Log loss and Brier score; AUC of a two-class head."""
    hot = y[:, None] == np.arange(p.shape[1]) if p.ndim == 2 else y[:, None]
    squares = ((p.reshape(len(y), -1) - hot) ** 2).sum(axis=1)
    return {"log_loss": log_loss(y, p), "brier": float(squares.mean()), "auc": auc(y, p) if p.ndim == 1 else None}


def _edge(part: pl.DataFrame, column: str | None, p: np.ndarray, predicted: np.ndarray | None) -> dict[str, Any]:
    """Actual plan edge of the top tenth by probability, and the regression's mean absolute error."""
    if column is None or predicted is None:
        return {"edge_mae_bps": None, "top_edge_bps": None}
    truth = values(part, column)
    top = np.argsort(-p, kind="stable")[: max(1, int(np.ceil(TOP_SHARE * len(p))))]
    return {"edge_mae_bps": float(np.abs(predicted - truth).mean()), "top_edge_bps": float(truth[top].mean())}


def _described(rows: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Nulls and 1 / 50 / 99 % quantiles of each new feature on all rows, the dropped ones too."""
    out = []
    for name in names:
        column = rows[name].cast(pl.Float64)
        finite = column.filter(column.is_finite().fill_null(False))
        quantiles = {q: finite.quantile(share, "linear") for q, share in _QUANTILES.items()}
        out.append({"feature": name, "rows": len(column), "nulls": len(column) - len(finite)} | quantiles)
    return pl.DataFrame(out, schema_overrides=dict.fromkeys(_QUANTILES, pl.Float64))


def _rows(before: pl.DataFrame, after: pl.DataFrame, counts: Counts) -> pl.DataFrame:
    """Rows per block before and after the drop; the last row is all of them."""
    tally = [before.group_by("block").agg(before=pl.len()), after.group_by("block").agg(after=pl.len())]
    table = tally[0].join(tally[1], on="block", how="left").sort("block").select("block", "before", "after")
    total = pl.DataFrame({"block": ["all"], "before": [counts.before], "after": [counts.after]}, schema=table.schema)
    return pl.concat([table, total]).with_columns(dropped=pl.col("before") - pl.col("after"))


def _manifest(
    rows: pl.DataFrame, arms: dict[str, tuple[str, ...]], manager: ManagerConfig, spec: LinearHeadsSpec
) -> pl.DataFrame:
    """What both arms share, and what differs between them."""
    shared = {
        "labels": hash_frame(rows.select(*KEY, *LABELS), KEY),
        "position_manager": manager.config_hash(),
        "model_contract": hash_json({"heads": list(HEADS), "spec": spec.model_dump(mode="json")}),
    }
    lines = [{"item": item, "state": "unchanged", "hash": value} for item, value in shared.items()]
    lines += [{"item": f"features of {arm}", "state": "compared", "hash": hash_json(list(names))}
              for arm, names in arms.items()]
    return pl.DataFrame(lines)


def _text(confirming: pl.DataFrame, counts: Counts) -> str:
    worse = [f"{row['head']} on {row['block']}" for row in confirming.filter(~pl.col("better")).iter_rows(named=True)]
    return (
        "Diagnostic only; labels, position manager and model contract are unchanged. Both arms fit linear Direction "
        f"and Entry heads on the same rows: {counts.dropped} of {counts.before} were dropped for a missing order-flow "
        f"feature. {RULE} "
        f"Not better: {', '.join(worse) or 'none'}."
    )
