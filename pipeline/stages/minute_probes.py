"""What runs each diagnostic of a study of minutes: its probe, what it is given and how it is shown.

`run_<name>` runs the diagnostic of that name. The probes are `pipeline.diagnostics.minutes`; what they are given is
`probe_inputs`.
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from pipeline.diagnostics.finding import Finding
from pipeline.diagnostics.minutes.buckets import BucketSpec
from pipeline.diagnostics.minutes.conditional_entry import KEY as CONDITIONAL_KEY
from pipeline.diagnostics.minutes.conditional_entry import ConditionalEntrySpec, conditional_entry
from pipeline.diagnostics.minutes.continue_variants import continue_variants
from pipeline.diagnostics.minutes.direction_opportunity import direction_opportunity
from pipeline.diagnostics.minutes.dynamic_exits import dynamic_exits
from pipeline.diagnostics.minutes.evaluation import FIT
from pipeline.diagnostics.minutes.labels import KEY as LOW_MAE_KEY
from pipeline.diagnostics.minutes.labels import LowMaeSpec, low_mae_labels
from pipeline.diagnostics.minutes.nonlinear_variants import nonlinear_variants
from pipeline.diagnostics.minutes.order_flow_ablation import NOT_ACCEPTED, order_flow_ablation
from pipeline.diagnostics.minutes.order_flow_ablation import RULE as FLOW_RULE
from pipeline.diagnostics.minutes.pairs import KEY as PAIR_KEY
from pipeline.diagnostics.minutes.pairs import PairsSpec, condition_pairs
from pipeline.diagnostics.minutes.probe_heads import NotFittable
from pipeline.diagnostics.minutes.run_diagnosis import run_diagnosis
from pipeline.diagnostics.minutes.screens import single_feature_screen
from pipeline.diagnostics.minutes.structure import KEY as STRUCTURE_KEY
from pipeline.diagnostics.minutes.structure import StructureSpec, good_trade_structure
from pipeline.features.minutes.schema import ORDER_FLOW
from pipeline.folds.named import TUNE_INNER
from pipeline.folds.spec import LOCKED
from pipeline.frames import MINUTE_ROW as KEY
from pipeline.labels.plan_search import dynamic_grid
from pipeline.positions.manager_spec import ManagerSpec
from pipeline.stages.contract import Reader
from pipeline.stages.probe_inputs import (
    ProbeInputs,
    bars_as_known,
    chosen_config,
    decided_on_tune,
    decided_out_of_sample,
    probe_inputs,
    purged_for,
    seen_bars,
    stored_trades,
)
from pipeline.stages.probe_pictures import SHOWN, buckets_of_best, by_block, deciles, grouped
from pipeline.study import Study

FIT_ROWS = 60_000
"""Fit rows of the probes that fit heads, the newest: half a year takes the nonlinear probe 26 s, all of it 65 s."""

THRESHOLDS_BPS = (6.0, 12.0, 20.0, 40.0, 60.0)
"""Opportunity thresholds that are tried where the study sets none."""

NAMED = 6  # features without values that a text names
NO_FLOW = "NOT_APPLICABLE_WITHOUT_ORDER_FLOW"
EDGE_AXIS = "mean actual plan edge, bps"
LIFT_AXIS = "lift on E1, bps"


def run_run_diagnosis(study: Study, read: Reader) -> Finding:
    """Where in the run the trades were lost."""
    inputs = probe_inputs(study, read)
    targets = inputs.rows.select(*KEY, "long_entry_target", "short_entry_target")
    decided = decided_on_tune(study, read).join(targets, on=list(KEY), how="inner", maintain_order="left")
    grid = read.table("positions", "search", partitions=[LOCKED])
    found = run_diagnosis(
        inputs.rows, decided, stored_trades(read), grid, study.labels.heads, chosen_config(read), inputs.numbers
    )
    funnel, tenths = found.tables["funnel"], found.tables["entry_deciles"]
    return replace(found, figures={
        **grouped(funnel, ["gate"], "side", "cumulative_share", "funnel of the gates", "share of tune rows left"),
        **deciles(tenths, "edge_bps", "edge by decile of the entry probability", EDGE_AXIS),
    })  # fmt: skip


def run_single_features(study: Study, read: Reader) -> Finding:
    """Which bucket of which feature alone earns."""
    inputs = probe_inputs(study, read)
    found = single_feature_screen(inputs.blocks, inputs.features, BucketSpec(purge_minutes=inputs.purge_minutes))
    bars = by_block(found, ["side", "feature", "bucket"], "edge_bps", EDGE_AXIS)
    return _shown(inputs, replace(found, figures=bars | buckets_of_best(found)))


def run_condition_pairs(study: Study, read: Reader) -> Finding:
    """Which two buckets together earn."""
    inputs = probe_inputs(study, read)
    found = condition_pairs(inputs.blocks, inputs.features, PairsSpec(purge_minutes=inputs.purge_minutes))
    paired = found.tables["conditions"].group_by("side", maintain_order=True).head(SHOWN // 2)
    lifts = grouped(paired, ["side", "feature", "bucket"], "block", "lift_bps", "conditions that are paired", LIFT_AXIS)
    return _shown(inputs, replace(found, figures=by_block(found, PAIR_KEY, "edge_bps", EDGE_AXIS) | lifts))


def run_low_mae_labels(study: Study, read: Reader) -> Finding:
    """Whether a target without a deep drawdown is easier to foresee."""
    inputs = probe_inputs(study, read)
    spec = LowMaeSpec(purge_minutes=inputs.purge_minutes)
    found = low_mae_labels(inputs.capped(FIT_ROWS), inputs.features, spec)
    pictures = by_block(found, LOW_MAE_KEY, "edge_bps", EDGE_AXIS) | by_block(found, LOW_MAE_KEY, "auc", "AUC")
    return _fitted(inputs, replace(found, figures=pictures))


def run_conditional_entry(study: Study, read: Reader) -> Finding:
    """What entries could earn if the minutes with an opportunity were known."""
    inputs = probe_inputs(study, read)
    spec = ConditionalEntrySpec(purge_minutes=inputs.purge_minutes)
    found = conditional_entry(inputs.capped(FIT_ROWS), inputs.features, spec)
    return _fitted(inputs, replace(found, figures=by_block(found, CONDITIONAL_KEY[:-1], "edge_bps", EDGE_AXIS)))


def run_good_trade_structure(study: Study, read: Reader) -> Finding:
    """Whether anything known at the decision sets good trades apart."""
    inputs = probe_inputs(study, read)
    spec = StructureSpec(purge_minutes=inputs.purge_minutes)
    found = good_trade_structure(inputs.capped(FIT_ROWS), inputs.features, spec)
    first = pl.col("top_share") == spec.top_shares[0]
    trees = grouped(found.tables["trees"], ["side"], "block", "auc", "AUC of the trees by block", "AUC")
    return _fitted(inputs, replace(found, figures=by_block(found, STRUCTURE_KEY, "auc", "AUC", first) | trees))


def run_nonlinear_probe(study: Study, read: Reader) -> Finding:
    """Whether trees in place of the linear heads give trades that pay."""
    assert isinstance(study.policy, ManagerSpec)
    inputs = probe_inputs(study, read)
    decided = decided_on_tune(study, read)
    scores = [name for name in decided.columns if name not in inputs.rows.columns or name in KEY]
    rows = inputs.capped(FIT_ROWS).join(decided.select(scores), on=list(KEY), how="left", maintain_order="left")
    found = nonlinear_variants(rows, inputs.features, inputs.numbers, study.policy.base)
    if "metrics" not in found.tables:
        return _fitted(inputs, found)
    edge, axis = "mean_weighted_edge_bps", "mean weighted edge of the trades, bps"
    bars = grouped(found.tables["metrics"], ["variant"], "block", edge, "weighted edge by block", axis)
    return _fitted(inputs, replace(found, figures=bars))


def run_dynamic_exit_search(study: Study, read: Reader) -> Finding:
    """Whether a trailing plan would have earned."""
    inputs = probe_inputs(study, read)
    plans = dynamic_grid(inputs.labels.plan)
    longest = max(plan.max_hold_minutes for plan in plans)
    found = dynamic_exits(seen_bars(read, inputs.rows), plans, purged_for(inputs.blocks, longest))
    bars = by_block(found, ["price_plan_id", "side"], "mean_edge_bps", "mean net edge of all entries, bps")
    return _shown(inputs, replace(found, figures=bars))


def run_direction_opportunity(study: Study, read: Reader) -> Finding:
    """What direction labels by opportunity would look like."""
    inputs = probe_inputs(study, read)
    bounds, plan = inputs.labels.bounds, inputs.labels.plan
    own = bounds.opportunity_threshold_bps
    found = direction_opportunity(inputs.blocks, plan, bounds, THRESHOLDS_BPS if own is None else (own,))
    rates = found.tables["candidates"].sort("threshold_bps").select(
        "threshold_bps", *(pl.col(f"{way}_target") / pl.col("rows") for way in ("long", "short", "neutral"))
    ).unpivot(index="threshold_bps", variable_name="class", value_name="rate")  # fmt: skip
    bars = grouped(rates, ["threshold_bps"], "class", "rate", "classes by threshold, bps", "share of the rows")
    return _shown(inputs, replace(found, figures=bars))


def run_order_flow_ablation(study: Study, read: Reader) -> Finding:
    """Whether the order-flow features are worth having."""
    inputs = probe_inputs(study, read)
    flow = tuple(name for name in ORDER_FLOW if name in inputs.features)
    market = tuple(name for name in inputs.features if name not in flow)
    if len(flow) < len(ORDER_FLOW) or not market:
        lost = [name for name in ORDER_FLOW if name not in flow]
        text = (
            f"Diagnostic only. It does not apply: {len(lost)} of {len(ORDER_FLOW)} order-flow features have no values, "
            f"because the study has no books that make them: {', '.join(lost)}."
        )
        return Finding(None, NO_FLOW, text, rule=FLOW_RULE)
    try:
        found = order_flow_ablation(inputs.capped(FIT_ROWS), market, chosen_config(read), flow)
    except NotFittable as error:
        return Finding(None, NOT_ACCEPTED, f"Diagnostic only. Not measured: {error}.", rule=FLOW_RULE)
    gains = found.tables["gains"]
    bars = grouped(gains, ["head"], "block", "log_loss_gain", "what order flow takes off the log loss", "nats a row")
    return _fitted(inputs, replace(found, figures=bars))


def run_state_aware_continue(study: Study, read: Reader) -> Finding:
    """Whether Continue gains from knowing its position."""
    inputs = probe_inputs(study, read)
    rows = inputs.blocks
    tune, fit = decided_on_tune(study, read), rows.filter(pl.col("split_id") != TUNE_INNER)
    earlier = decided_out_of_sample(study, read, fit)
    shared = [name for name in tune.columns if name in earlier.columns]
    decided = pl.concat([earlier.select(shared), tune.select(shared)], how="vertical_relaxed")
    found = continue_variants(
        bars_as_known(read, rows), rows, inputs.features, decided, chosen_config(read), inputs.labels.plan,
        inputs.numbers, FIT_ROWS,
    )  # fmt: skip
    metrics = found.tables.get("metrics", pl.DataFrame())
    if metrics.is_empty():
        return _shown(inputs, found)
    bars = grouped(metrics, ["side", "block"], "arm", "auc", "AUC with and without the state", "AUC")
    return _shown(inputs, replace(found, figures=bars))


def _fitted(inputs: ProbeInputs, found: Finding) -> Finding:
    """As `_shown`, and how many of the fit rows the heads saw."""
    all_rows = inputs.blocks.filter(pl.col("block") == FIT).height
    said = f" Of {all_rows:,} fit rows the newest {FIT_ROWS:,} are used." if all_rows > FIT_ROWS else ""
    return _shown(inputs, replace(found, text=f"{found.text}{said}"))


def _shown(inputs: ProbeInputs, found: Finding) -> Finding:
    """With what was left out before the probe began, in words and numbers."""
    first = ", ".join(inputs.lost[:NAMED]) + (", ..." if len(inputs.lost) > NAMED else "")
    lost = f" {len(inputs.lost)} features of the schema have no values: {first}." if inputs.lost else ""
    dropped = f" {inputs.dropped:,} rows lack a feature and were left out." if inputs.dropped else ""
    counts = dict(found.counts) | {"incomplete_rows": inputs.dropped, "features": len(inputs.features),
                                   "features_without_values": len(inputs.lost)}  # fmt: skip
    return replace(found, text=f"{found.text}{lost}{dropped}", counts=counts)
