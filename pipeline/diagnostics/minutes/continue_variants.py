"""State-aware Continue on two kinds of entries: those the manager opens, which decide, and an oracle beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from pipeline.diagnostics.finding import Finding
from pipeline.diagnostics.minutes.continue_states import (
    BY_LABEL,
    NOT_READY,
    RULE,
    continue_rows,
    label_chosen_entries,
    manager_entries,
    state_aware_continue,
)
from pipeline.diagnostics.minutes.evaluation import BLOCKS, FIT, SKIPPED
from pipeline.features.minutes.position_state import AGES, SIDED, Barriers, position_states
from pipeline.frames import MINUTE_ROW as KEY
from pipeline.frames import AsOf
from pipeline.labels.path_outcomes import SIDES
from pipeline.labels.price_plan import FIXED, PricePlan
from pipeline.positions.manager_spec import ManagerConfig, PlanNumbers

SHOWN = ("checks", "reasons", "metrics", "counts")


def continue_variants(
    bars: AsOf,
    rows: pl.DataFrame,
    features: Sequence[str],
    decided: pl.DataFrame,
    config: ManagerConfig,
    plan: PricePlan,
    numbers: PlanNumbers,
    fit_rows: int,
) -> Finding:
    """State-aware Continue on the manager's entries, and on those whose label came true.

    Parameters
    ----------
    bars : AsOf
        Bars of the rows' days, each as known at its own close.
    rows : pl.DataFrame
        The key, `block` (fit_inner, E1, E2, E3), the features and the wide labels.
    features : sequence of str
        Market features of both arms.
    decided : pl.DataFrame
        Rows as `manager.predicted_edges` returns them, by models that were not fitted on them.
    config, plan, numbers
        The manager's thresholds; the plan and what is read of it.
    fit_rows : int
        States on fit rows at most, the newest.

    Returns
    -------
    Finding
        Of the manager's entries; tables of the oracle's end in `_oracle`, and its status is in the text.
    """
    missing = [name for name in SIDED if name not in features]
    if missing or plan.entry_plan_method != FIXED:
        reason = f"features of the state are absent: {', '.join(missing)}" if missing else "the plan is not fixed"
        return _unmeasured(reason)
    barriers = Barriers(target_distance_bps=plan.target_distance_bps, stop_distance_bps=plan.stop_distance_bps,
                        cost_bps=plan.cost_bps)
    targets = [f"{side.lower()}_entry_target" for side in SIDES]
    known = decided.drop(targets, strict=False).join(rows.select(*KEY, *targets), on=list(KEY), how="inner",
                                                     maintain_order="left")
    found = []
    for entries in (manager_entries(known, config, numbers), label_chosen_entries(known)):
        newest = _newest(entries, rows, fit_rows // len(AGES))
        states = position_states(bars, AsOf(rows), newest, barriers)
        seen = states.join(rows.select(KEY), on=list(KEY), how="semi", maintain_order="left")
        labels = rows.select(pl.exclude("block", *features))
        judged = continue_rows(seen, rows.select(*KEY, *features), labels, rows, plan)
        absent = [block for block in BLOCKS if judged.filter(pl.col("block") == block).is_empty()]
        found.append(_unmeasured(f"no position is open in {', '.join(absent)}") if absent
                     else state_aware_continue(judged, features))
    by_manager, oracle = found
    beside = {f"{name}_oracle": oracle.tables[name] for name in SHOWN if name in oracle.tables}
    text = (
        f"{by_manager.text} Entries on fit rows are decided by models that were fitted on other rows; their newest "
        f"{fit_rows // len(AGES):,} are looked at. Beside it "
        f"{BY_LABEL}: score {'none' if oracle.score is None else f'{oracle.score:.3f}'}, which bounds what better "
        "entries could bring and can never pass."
    )
    return replace(by_manager, text=text, tables=dict(by_manager.tables) | beside)


def _newest(entries: pl.DataFrame, rows: pl.DataFrame, most: int) -> pl.DataFrame:
    """Of the entries on fit rows the newest, `most` in all; every other one."""
    placed = entries.join(rows.select(*KEY, "block"), on=list(KEY), how="inner", maintain_order="left")
    fit = pl.col("block") == FIT
    return pl.concat([placed.filter(fit).sort("minute").tail(most), placed.filter(~fit)]).drop("block")


def _unmeasured(reason: str) -> Finding:
    """Not ready, because there was nothing to measure on."""
    rows = [(side.lower(), "state-aware Continue", reason) for side in SIDES]
    skipped = pl.DataFrame(rows, schema=SKIPPED, orient="row")
    return Finding(None, NOT_READY, f"Diagnostic only. Not measured: {reason}. {RULE}",
                   {"reasons": pl.DataFrame({"reason": [reason]}), "skipped": skipped}, rule=RULE)
