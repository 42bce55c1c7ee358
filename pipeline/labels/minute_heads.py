"""Labels of a minute's decision: direction, entry, continue, exit, risk, and the wide table that trains on them.

Rules over path outcomes and nothing else; the bounds are `minute_spec`. Every family is a frame with the key, its
columns, the span `[label_start, label_end)` that its targets looked at, and where they come from.

A span starts at the decision, one minute after the minute's open. It ends with the bar of the exit where only the
trade counts, and with the horizon where a label looks at all bars, as every MFE and MAE does.
"""

from __future__ import annotations

from typing import Any, Final

import polars as pl

from pipeline.errors import BadInput
from pipeline.fingerprints import hash_frame
from pipeline.frames import MINUTE_ROW as KEY
from pipeline.frames import Hindsight, require_columns, require_unique
from pipeline.labels.minute_spec import BY_OPPORTUNITY, BY_RETURN, MinuteLabelSpec
from pipeline.labels.path_outcomes import SIDES, MinutePaths, future_spread_rank, look_ahead, outcomes_of
from pipeline.labels.price_plan import DYNAMIC, OPPORTUNITY_METHODS, PricePlan

FAMILIES: Final = ("direction", "entry", "continue", "exit", "risk")
SPAN: Final = ("label_start", "label_end")
ORIGIN: Final = ("label_method", "label_version", "price_plan_id", "price_plan_hash", "cost_bps")
FEATURES: Final = ("ret_15m_bps", "realized_vol_15m_bps")
DIRECTION: Final = ("long_target", "short_target", "neutral_target")
CONTINUE_METHOD: Final = "CONTINUE_PLAN_RESTARTED_V1"
EXIT_METHOD: Final = "EXIT_PATH_AHEAD_V1"
RISK_METHOD: Final = "RISK_PATH_AHEAD_V1"
_PREFIXES = tuple(side.lower() for side in SIDES)
_MINUTE = pl.duration(minutes=1)


def direction_by_return(outcomes: pl.DataFrame, plan: PricePlan, spec: MinuteLabelSpec) -> pl.DataFrame:
    """`long_target`, `short_target`, `neutral_target` and `future_return_bps` from the return over the horizon.

    Parameters
    ----------
    outcomes : pl.DataFrame
        `path_outcomes` over `spec.horizon_minutes`.
    """
    move, bound = pl.col("long_future_return_bps"), spec.direction_return_bps
    named = outcomes.select(*KEY, move.alias("future_return_bps"),
                            *_three_ways(move > bound, move < -bound), *_span(spec.horizon_minutes))
    return _stamped(named.select(*KEY, *DIRECTION, "future_return_bps", *SPAN), BY_RETURN, plan, spec)


def direction_by_opportunity(entry: pl.DataFrame, plan: PricePlan, spec: MinuteLabelSpec) -> pl.DataFrame:
    """The side whose max achievable net edge reaches the threshold and leads the other's.

    A missing edge cannot win, and does not stop the other side.

    Parameters
    ----------
    entry : pl.DataFrame
        The key and `{long,short}_max_achievable_net_edge_bps`, of `entry_labels` under the same plan.
    """
    edges = [f"{side}_max_achievable_net_edge_bps" for side in _PREFIXES]
    require_columns(entry, [*KEY, *edges], "direction by opportunity")
    if spec.opportunity_threshold_bps is None:
        raise BadInput(f"{BY_OPPORTUNITY} needs opportunity_threshold_bps", "none", "choose a threshold in bps")
    long, short = (pl.col(edge).fill_nan(None).fill_null(float("-inf")) for edge in edges)

    def wins(own: pl.Expr, other: pl.Expr) -> pl.Expr:
        return (own >= spec.opportunity_threshold_bps) & (own - other >= spec.opportunity_lead_bps)

    named = entry.select(*KEY, *_three_ways(wins(long, short), wins(short, long)), *_span(plan.max_hold_minutes))
    return _stamped(named, BY_OPPORTUNITY, plan, spec)


def direction_report(labels: pl.DataFrame, splits: pl.DataFrame) -> dict[str, Any]:
    """Counts, rates by split and the data's hash.

    Parameters
    ----------
    labels : pl.DataFrame
        A direction frame, its method of one kind.
    splits : pl.DataFrame
        The key and `split_id`, one row per label row.

    Raises
    ------
    BadInput
        A label row without a split.
    """
    require_unique(splits, KEY, "splits")
    rows = labels.join(splits.select(*KEY, "split_id"), on=KEY, how="left", maintain_order="left")
    if rows["split_id"].null_count():
        raise BadInput("every direction label belongs to a split", f"{rows['split_id'].null_count()} without one",
                       "hand over the splits of the same rows")
    counts = rows.group_by("split_id", maintain_order=True).agg(pl.len().alias("rows"), pl.col(DIRECTION).sum())
    by_split = {
        row["split_id"]: row | {name.replace("_target", "_rate"): row[name] / row["rows"] for name in DIRECTION}
        for row in counts.iter_rows(named=True)
    }
    return {
        "label_method": labels["label_method"].unique().sort().to_list(),
        "rows": labels.height,
        "counts": {name: int(labels[name].sum()) for name in DIRECTION},
        "splits": by_split,
        "data_hash": hash_frame(labels, KEY),
    }


def entry_labels(outcomes: pl.DataFrame, plan: PricePlan, spec: MinuteLabelSpec) -> pl.DataFrame:
    """Edges of an entry at this minute and whether it is worth it, per side.

    Parameters
    ----------
    outcomes : pl.DataFrame
        `path_outcomes` of the plan over its own horizon.

    Returns
    -------
    pl.DataFrame
        Per side `entry_target` Int8, `expected_net_edge_bps` (plan edge, or MFE less cost under the two opportunity
        methods), `actual_plan_net_edge_bps`, `max_achievable_gross_edge_bps`, `max_achievable_net_edge_bps`, `mae_bps`.
        `label_end` covers target, expected and plan edge: the later exit of both sides under
        `PRICE_PLAN_OUTCOME_V1`, else the horizon. A head that trains on MFE or MAE looks up to `horizon_end`.
    """
    opportunity = plan.entry_target_method in OPPORTUNITY_METHODS
    columns = []
    for side in _PREFIXES:
        actual = pl.col(f"{side}_gross_edge_bps") - plan.cost_bps
        gross, mae = pl.col(f"{side}_mfe_bps"), pl.col(f"{side}_mae_bps")
        net = gross - plan.cost_bps
        expected = net if opportunity else actual
        worth = expected >= plan.min_expected_net_edge_bps
        if plan.entry_target_method == "OPPORTUNITY_QUALITY_V1":
            worth &= (actual >= plan.min_plan_net_edge_bps) & (mae <= plan.max_entry_mae_bps)
        columns += [
            worth.cast(pl.Int8).alias(f"{side}_entry_target"), expected.alias(f"{side}_expected_net_edge_bps"),
            actual.alias(f"{side}_actual_plan_net_edge_bps"), gross.alias(f"{side}_max_achievable_gross_edge_bps"),
            net.alias(f"{side}_max_achievable_net_edge_bps"), mae,
        ]
    start, horizon_end = _span(plan.max_hold_minutes)
    named = outcomes.select(*KEY, *columns, start, horizon_end if opportunity else _last_exit(),
                            horizon_end.alias("horizon_end"))
    return _stamped(named, plan.entry_target_method, plan, spec)


def continue_labels(outcomes: pl.DataFrame, plan: PricePlan, spec: MinuteLabelSpec) -> pl.DataFrame:
    """Whether the same plan, started again at this minute, is worth staying for; realised by its exit.

    Parameters
    ----------
    outcomes : pl.DataFrame
        `path_outcomes` of the plan over `spec.horizon_minutes`.

    Returns
    -------
    pl.DataFrame
        Per side `continue_target` (under a fixed plan never after a stop: the first barrier decides, not a later MAE)
        and `expected_continue_edge_bps`.
    """
    columns = []
    for side in _PREFIXES:
        edge = pl.col(f"{side}_gross_edge_bps") - plan.cost_bps
        worth = edge >= spec.continue_edge_bps
        if plan.entry_plan_method != DYNAMIC:
            worth &= pl.col(f"{side}_stop_hit") == 0
        columns += [worth.cast(pl.Int8).alias(f"{side}_continue_target"),
                    edge.alias(f"{side}_expected_continue_edge_bps")]
    start, _ = _span(spec.horizon_minutes)
    return _stamped(outcomes.select(*KEY, *columns, start, _last_exit()), CONTINUE_METHOD, plan, spec)


def exit_labels(
    outcomes: pl.DataFrame, features: pl.DataFrame, plan: PricePlan, spec: MinuteLabelSpec
) -> pl.DataFrame:
    """Whether a position of each side should be left at this minute.

    Parameters
    ----------
    outcomes : pl.DataFrame
        `path_outcomes` over `spec.horizon_minutes`.
    features : pl.DataFrame
        The key and `ret_15m_bps`; a row without it has no reversal label.

    Returns
    -------
    pl.DataFrame
        `exit_stagnation_target`: the return ahead is idle. Per side `exit_adverse_target`: its MAE reaches the bound;
        `exit_reversal_target`: the last 15 minutes went its way and the return ahead goes against it by more than
        idle; `exit_target`: any of the three.
    """
    rows = _with_features(outcomes, features, ("ret_15m_bps",))
    move, past = pl.col("long_future_return_bps"), pl.col("ret_15m_bps")
    idle = move.abs() <= spec.exit_stagnation_bps
    columns = [idle.cast(pl.Int8).alias("exit_stagnation_target")]
    for side, sign in zip(_PREFIXES, (1, -1), strict=True):
        adverse = pl.col(f"{side}_mae_bps") >= spec.exit_adverse_bps
        reversal = (sign * past > 0) & (sign * move < -spec.exit_stagnation_bps)
        named = {"adverse": adverse, "reversal": reversal}
        columns += [rule.cast(pl.Int8).alias(f"{side}_exit_{name}_target") for name, rule in named.items()]
        columns.append((idle | adverse | reversal).cast(pl.Int8).alias(f"{side}_exit_target"))
    return _stamped(rows.select(*KEY, *columns, *_span(spec.horizon_minutes)), EXIT_METHOD, plan, spec)


def risk_labels(
    outcomes: pl.DataFrame, spread_rank: pl.DataFrame, features: pl.DataFrame, plan: PricePlan, spec: MinuteLabelSpec
) -> pl.DataFrame:
    """Market and position risk over the horizon, with the components they are made of.

    Parameters
    ----------
    outcomes : pl.DataFrame
        `path_outcomes` over `spec.horizon_minutes`.
    spread_rank : pl.DataFrame
        `future_spread_rank` of the same rows.
    features : pl.DataFrame
        The key and `realized_vol_15m_bps`: root mean square of one-minute log returns, as the outcomes' own.

    Returns
    -------
    pl.DataFrame
        `market_risk_target` = drawdown or spike or volatility expansion (null where only a missing volatility could
        decide); `{long,short}_position_risk_target`; the components `market_drawdown_target`, `spike_target`,
        `volatility_expansion_target`, `position_drawdown_target`, and `liquidity_deterioration_target`, which is no
        part of market risk.
    """
    rows = _with_features(outcomes, features, ("realized_vol_15m_bps",)).join(
        spread_rank, on=KEY, how="left", maintain_order="left")
    path_risk = pl.max_horizontal(f"{side}_mae_bps" for side in _PREFIXES)
    largest = pl.max_horizontal(path_risk, *(f"{side}_mfe_bps" for side in _PREFIXES))
    present = pl.col("realized_vol_15m_bps")
    present = pl.when(present.is_not_null()).then(pl.max_horizontal(present, pl.lit(spec.volatility_floor_bps)))
    components = {
        "market_drawdown_target": path_risk >= spec.market_drawdown_bps,
        "spike_target": largest >= spec.market_spike_bps,
        "volatility_expansion_target": pl.col("future_realized_vol_bps") >= spec.volatility_expansion * present,
        "position_drawdown_target": path_risk >= spec.position_drawdown_bps,
        "liquidity_deterioration_target": pl.col("future_spread_rank_24h_pct") >= spec.liquidity_rank,
    }
    market = components["market_drawdown_target"] | components["spike_target"] | components[
        "volatility_expansion_target"]
    own = {
        f"{side}_position_risk_target":
            (pl.col(f"{side}_mae_bps") >= spec.position_mae_bps) | (pl.col(f"{side}_stop_hit") == 1)
        for side in _PREFIXES
    }
    named = {"market_risk_target": market} | own | components
    return _stamped(rows.select(*KEY, *(rule.cast(pl.Int8).alias(name) for name, rule in named.items()),
                                *_span(spec.horizon_minutes)), RISK_METHOD, plan, spec)


def minute_labels(
    bars: Hindsight, features: pl.DataFrame, plan: PricePlan, spec: MinuteLabelSpec
) -> pl.DataFrame:
    """The wide training table: all five families of every minute whose bars ahead are known.

    Parameters
    ----------
    bars : Hindsight
        As `path_outcomes` reads them.
    features : pl.DataFrame
        The key, `ret_15m_bps` and `realized_vol_15m_bps`; rows without features keep their labels.
    plan, spec : PricePlan, MinuteLabelSpec
        Barriers and cost; bounds and horizon.

    Returns
    -------
    pl.DataFrame
        In key order: `label_start` and `label_end` of the row, which cover every column; per family
        `<family>_label_end` and `<family>_label_method`; `label_version`, `price_plan_id`, `price_plan_hash`,
        `cost_bps`; then the columns of the families.
    """
    paths = MinutePaths.from_bars(bars)
    own = look_ahead(paths, plan.max_hold_minutes)
    common = own if plan.max_hold_minutes == spec.horizon_minutes else look_ahead(paths, spec.horizon_minutes)
    entered = outcomes_of(paths, plan, own)
    outcomes = entered if common is own else outcomes_of(paths, plan, common)
    entry = entry_labels(entered, plan, spec)
    opportunity = spec.direction_method == BY_OPPORTUNITY
    frames = (
        direction_by_opportunity(entry, plan, spec) if opportunity else direction_by_return(outcomes, plan, spec),
        entry,
        continue_labels(outcomes, plan, spec),
        exit_labels(outcomes, features, plan, spec),
        risk_labels(outcomes, future_spread_rank(paths, common), features, plan, spec),
    )
    return _wide(dict(zip(FAMILIES, frames, strict=True)))


def _wide(frames: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """Families side by side on the rows that all of them have."""
    shared = ("label_start", "label_version", "price_plan_id", "price_plan_hash", "cost_bps")
    rows = frames["entry"].select(*KEY, *shared, "horizon_end")
    for family, frame in frames.items():
        own = frame.drop(shared).drop("horizon_end", strict=False)
        own = own.rename({"label_end": f"{family}_label_end", "label_method": f"{family}_label_method"})
        rows = rows.join(own, on=KEY, how="inner", maintain_order="left", validate="1:1")
    ends, methods = ([f"{family}_{name}" for family in FAMILIES] for name in ("label_end", "label_method"))
    rows = rows.with_columns(pl.max_horizontal("horizon_end", *ends).alias("label_end")).drop("horizon_end")
    return rows.select(*KEY, *SPAN, *ends, *methods, *shared[1:], pl.exclude(*KEY, *SPAN, *ends, *methods, *shared))


def _three_ways(long: pl.Expr, short: pl.Expr) -> tuple[pl.Expr, ...]:
    rules = (long, short, ~(long | short))
    return tuple(rule.cast(pl.Int8).alias(name) for name, rule in zip(DIRECTION, rules, strict=True))


def _span(minutes: int) -> tuple[pl.Expr, pl.Expr]:
    """From the decision to the close of the last of `minutes` bars."""
    start = pl.col("minute") + _MINUTE
    return start.alias("label_start"), (start + pl.duration(minutes=minutes)).alias("label_end")


def _last_exit() -> pl.Expr:
    """The close of the bar at which the later of both sides left."""
    bars = pl.max_horizontal(f"{side}_time_to_exit_ms" for side in _PREFIXES)
    return (pl.col("minute") + _MINUTE + pl.duration(milliseconds=bars)).alias("label_end")


def _stamped(frame: pl.DataFrame, method: str, plan: PricePlan, spec: MinuteLabelSpec) -> pl.DataFrame:
    """With the columns that say where the labels come from."""
    origin = (method, spec.version, plan.price_plan_id, plan.price_plan_hash, plan.cost_bps)
    return frame.with_columns(pl.lit(value).alias(name) for name, value in zip(ORIGIN, origin, strict=True))


def _with_features(outcomes: pl.DataFrame, features: pl.DataFrame, names: tuple[str, ...]) -> pl.DataFrame:
    """Outcomes beside some features, as Float64, null where a row has none."""
    require_columns(features, [*KEY, *names], "labels that compare with the decision minute")
    require_unique(features, KEY, "features")
    read = features.select(*KEY, pl.col(names).cast(pl.Float64).fill_nan(None))
    return outcomes.join(read, on=KEY, how="left", maintain_order="left")
