"""`foldgate why CODE MINUTE`: which gate of the position manager stopped a minute, or how its position ended."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import polars as pl

from assets.console import cell, counted, number, table
from assets.minute_tracing import A_MINUTE, MinuteTrace, outcome, spoken
from pipeline.asof.minutes import KLINES, LATE
from pipeline.errors import BadInput
from pipeline.folds.spec import LOCKED
from pipeline.frames import MINUTE
from pipeline.labels.price_plan import price_plan_context
from pipeline.positions.manager import decide, direction_margin, gates, planned_ratio, predicted_edges, side_value
from pipeline.positions.manager_spec import SIDE_OFF, SIDES, ManagerConfig, PlanNumbers
from pipeline.serving.bundle import load_bundle
from pipeline.serving.records import MINUTES as RECORDS
from pipeline.serving.records import NO_SELECTION
from pipeline.serving.selecting import ManagerSelector
from pipeline.stages.position_manager import price_plan
from resources.environments import Environment

STATE = ("open", "high", "low", "close", "volume", "spread_bps", "data_quality_flag")
SHOWN_FEATURES = 8


@dataclass(frozen=True)
class Gate:
    """One condition of one side at one minute; `needs` is the bound in words."""

    name: str
    value: float
    needs: str
    passed: bool


@dataclass(frozen=True)
class Standing:
    """What the position manager makes of one minute, were it flat.

    Parameters
    ----------
    funnel : mapping
        LONG and SHORT -> their gates, in the order in which they are asked.
    values : mapping
        Side -> max(edge, 0) x direction x entry x (1 - risk), which decides between two sides that pass.
    side : str or None
        The one that it would open.
    ratio, edge_bps : float
        Planned share of capital, and predicted net edge, of that side.
    """

    funnel: Mapping[str, tuple[Gate, ...]]
    values: Mapping[str, float]
    side: str | None
    ratio: float
    edge_bps: float

    def stopped(self, side: str) -> Gate | None:
        """The first gate that a side does not pass."""
        return next((gate for gate in self.funnel[side] if not gate.passed), None)

    def of_side(self, side: str) -> str:
        """One side's fate in words."""
        gate = self.stopped(side)
        if gate is not None:
            return f"stopped at the gate `{gate.name}`: {number(gate.value)}, needs {gate.needs}"
        if side != self.side:
            return f"passes every gate, but the other side is worth more ({number(self.values[side])} against " \
                   f"{number(max(self.values.values()))})"  # fmt: skip
        return f"would open {self.ratio:.4g} of capital, predicted edge {self.edge_bps:.4g} bps"


def standing(predictions: pl.DataFrame, config: ManagerConfig, plan: PlanNumbers) -> Standing:
    """What the manager makes of one row of predictions (`<head>_pred`), by its own functions."""
    named = predictions.rename(lambda column: column.removesuffix("_pred"))
    rows = predicted_edges(named, plan)
    decided = decide(rows, config, plan).row(0, named=True)
    funnel = {side: tuple(_gates(rows, side, config, plan)) for side in SIDES}
    values = {side: float(rows.select(side_value(side)).item()) for side in SIDES}
    side = decided["side"] if decided["planned_ratio"] > 0 else None
    edge = decided[f"{side.lower()}_predicted_edge_bps"] if side else 0.0
    return Standing(funnel, values, side, decided["planned_ratio"], edge)


def _gates(rows: pl.DataFrame, side: str, config: ManagerConfig, plan: PlanNumbers) -> Iterator[Gate]:
    """The row gates as the manager states them, then the size."""
    prefix, bounds, sizing = side.lower(), config.open.side(side), config.sizing
    off = bounds.min_direction_prob >= SIDE_OFF
    asked: dict[str, tuple[pl.Expr, str]] = {
        "direction": (pl.col(f"direction_{prefix}_prob"),
                      "nothing: the side is switched off" if off else f"more than {bounds.min_direction_prob:g}"),
        "margin": (direction_margin(), f"more than {config.open.min_direction_margin:g}"),
        "entry": (pl.col(f"{prefix}_entry_prob"), f"more than {bounds.min_entry_prob:g}"),
        "risk": (pl.col("market_risk_prob"), f"less than {config.open.max_market_risk:g}"),
        "edge": (pl.col(f"{prefix}_predicted_edge_bps"), f"more than {bounds.min_edge_bps:g} bps"),
    }  # fmt: skip
    for name, passes in gates(side, config).items():
        value, words = asked[name]
        yield Gate(name, float(rows.select(value).item()), words, bool(rows.select(passes).item()))
    ratio = float(rows.select(planned_ratio(side, sizing, plan)).item())
    cap = sizing.cap(plan.loss_at_stop_bps)
    capped = f"a cap of at least {sizing.min_initial_ratio:g}; it is {cap:.4g}"
    needs = capped if cap < sizing.min_initial_ratio else f"at least {sizing.min_edge_bps:g} bps of edge"
    yield Gate("size", ratio, needs, ratio > 0)


def explain_minute(environment: Environment, code: str, minute: str) -> int:
    """Print a minute's state, and which gate stopped it or what became of the position, live and in research.

    Raises
    ------
    BadInput
        A symbol that the study does not name, no minute, or one of a month that the panel does not hold.
    """
    asked = MinuteTrace(environment, code, minute)
    panel = _of_session(environment, "panel", "panel", asked).filter(**asked.key)
    if panel.is_empty():
        print(f"no bar {asked.where}: {_absence(environment, asked)}")
        return 0
    row = panel.row(0, named=True)
    print(f"{asked.instrument} at {spoken(asked.minute)}, decided at {spoken(asked.minute + A_MINUTE)} UTC: "
          f"{'may be scored' if row['eligible'] else 'excluded before scoring'}")  # fmt: skip
    for name in STATE:
        print(f"  {name:<18} {cell(row[name])}")
    if not row["eligible"]:
        reasons = _of_session(environment, "panel", "exclusions", asked).filter(**asked.key)["reason"]
        print(f"\nexcluded by the rule {' and '.join(f'`{reason}`' for reason in reasons)}: {row['data_quality_flag']}")
        return 0
    if _of_session(environment, "features", "features", asked).filter(**asked.key).is_empty():
        _print_missing(asked)
        return 0
    _explain_live(environment, asked)
    _explain_research(environment, asked)
    _print_outcome(environment, asked)
    return 0


def _of_session(environment: Environment, stage: str, name: str, asked: MinuteTrace) -> pl.DataFrame:
    study, day = environment.study.name, asked.key["session"]
    held, month = environment.artifacts.current(study, stage), f"{day:%Y-%m}"
    if month not in held:
        stored = f"{stage} holds {min(held)}..{max(held)}" if held else f"{stage} was never made"
        raise BadInput(f"the {stage} holds {day}", stored, "`foldgate backfill` makes what the lake can give")
    rows = environment.artifacts.table(study, stage, name, partitions=[month])
    if stage == "panel" and name == stage and rows.filter(session=day).is_empty():
        raise BadInput(f"the {stage} holds {day}", f"{month} without that day", "it begins later, or is not over yet")
    return rows


def _absence(environment: Environment, asked: MinuteTrace) -> str:
    """Why a minute has no panel row."""
    reasons = _of_session(environment, "panel", "exclusions", asked).filter(**asked.key)["reason"].to_list()
    if LATE in reasons:
        return "its candle came after the minute had closed, so that no decision knew it"
    return f"{KLINES} has none (a gap); windows and outcomes do not reach over it"


def _print_missing(asked: MinuteTrace) -> None:
    missing = asked.missing_features()
    more = f" and {len(missing) - SHOWN_FEATURES} more" if len(missing) > SHOWN_FEATURES else ""
    print(f"\nnot scored: {counted(len(missing), 'feature')} missing at this minute, and a row is scored whole: "
          f"{', '.join(missing[:SHOWN_FEATURES])}{more}")  # fmt: skip
    print(f"  the window of a feature spans a gap, or a book or settlement is absent; see "
          f"`foldgate check feature {missing[0]}`" if missing else "  the panel has changed since features were made")


def _explain_live(environment: Environment, asked: MinuteTrace) -> None:
    study, artifacts, day = environment.study.name, environment.artifacts, asked.key["session"].isoformat()
    print("\nlive")
    if day not in artifacts.current(study, "inference"):
        refusals = _refusals(environment, asked)
        print(f"  {NO_SELECTION}: {refusals[-1]}" if refusals else "  never run for this day")
        return
    predictions = artifacts.table(study, "inference", "predictions", partitions=[day]).filter(**asked.key)
    bundle = json.loads(artifacts.file(study, "inference", "record.json", partition=day))["bundle"]
    served = load_bundle(environment.bundles(study), bundle).selector
    if predictions.is_empty() or not isinstance(served, ManagerSelector):
        print(f"  bundle {bundle[:12]}: not scored")
        return
    found = standing(predictions, served.policy, served.numbers)
    print(f"  bundle {bundle[:12]}: {_in_short(found)}")
    _print_funnel(found)
    listed = artifacts.table(study, "inference", "orders", partitions=[day])
    mine = listed.filter(instrument=asked.instrument, minute=asked.minute)
    if len(mine):
        order = mine.row(0, named=True)
        print(f"  recorded as entry {order['rank']} of {len(listed)} that day (each as if flat): {order['side']} at "
              f"{order['price']:g}, target {order['target_price']:.8g}, stop {order['stop_price']:.8g}")  # fmt: skip


def _refusals(environment: Environment, asked: MinuteTrace) -> list[str]:
    """Recorded reasons why the day has no decisions, in the order of the attempts."""
    history = environment.records(environment.study.name) / RECORDS.folder / RECORDS.history
    if not history.exists():
        return []
    rows = pl.read_csv(history, columns=["trade_date", "status", "reason"], infer_schema=False)
    return rows.filter(trade_date=f"{asked.minute:%Y%m%d}", status=NO_SELECTION)["reason"].to_list()


def _plan(environment: Environment) -> PlanNumbers:
    return PlanNumbers.from_context(price_plan_context(price_plan(environment.study)))


def _in_short(found: Standing) -> str:
    if found.side:
        return f"{found.side} {found.of_side(found.side)}"
    return "; ".join(f"{side} {found.of_side(side)}" for side in SIDES)


def _print_funnel(found: Standing) -> None:
    """Every gate of both sides, with value and bound."""
    rows = []
    for name in (gate.name for gate in found.funnel[SIDES[0]]):
        mine = {side: next(gate for gate in found.funnel[side] if gate.name == name) for side in SIDES}
        cells = [[number(gate.value), gate.needs, "ok" if gate.passed else "STOPS"] for gate in mine.values()]
        rows.append([name, *cells[0], *cells[1]])
    table(["gate", "LONG", "needs", "", "SHORT", "needs", ""], rows, indent=4)


def _print_outcome(environment: Environment, asked: MinuteTrace) -> None:
    """What either side of the plan would have made of the minute, once its label is known."""
    labels = environment.artifacts.current(environment.study.name, "labels")
    if f"{asked.minute:%Y-%m}" not in labels:
        return
    known = _of_session(environment, "labels", "labels", asked).filter(**asked.key)
    if len(known):
        row = known.row(0, named=True)
        print("\nwhat followed")
        for side in ("long", "short"):
            print(f"  {side.upper():<6} {outcome(row, side)}")


def _explain_research(environment: Environment, asked: MinuteTrace) -> None:
    study, artifacts = environment.study.name, environment.artifacts
    print("\nresearch (out of sample: each split's models never saw this day)")
    scored = (
        artifacts.table(study, "predictions", "predictions").filter(**asked.key)
        if artifacts.current(study, "predictions")
        else pl.DataFrame(schema={"split": pl.String})
    )
    if scored.is_empty():
        print("  not scored: no split tests this day, or its label was not known yet")
        return
    for split in scored["split"].sort():
        config = ManagerConfig.model_validate_json(artifacts.file(study, "positions", "policy.json", partition=split))
        found = standing(scored.filter(split=split).drop("split"), config, _plan(environment))
        print(f"  split {split}: {_in_short(found)}")
        _print_funnel(found)
        if found.side:
            print(f"    {_in_book(environment, asked, split, config)}")


def _in_book(environment: Environment, asked: MinuteTrace, split: str, config: ManagerConfig) -> str:
    """Whether the book of the split entered, and how it ended; else what it was busy with."""
    study, artifacts = environment.study.name, environment.artifacts
    if not artifacts.current(study, "backtest"):
        return "not traded yet: the backtest has not run"
    book = _book_of(environment, asked, split)
    trades = artifacts.table(study, "backtest", "trades").filter(book=book, instrument=asked.instrument)
    mine = trades.filter(minute=asked.minute)
    if len(mine):
        return f"entered in the book {book}: {_ended(mine.row(0, named=True))}"
    before = trades.filter(pl.col(MINUTE) < asked.minute).sort(MINUTE).tail(1)
    if before.is_empty():
        return f"not entered in the book {book}"
    trade = before.row(0, named=True)
    free = trade["exit_at"] + timedelta(minutes=config.add.cooldown_minutes)
    if asked.minute + A_MINUTE < trade["exit_at"]:
        why = f"already in a {trade['side']} position from {spoken(trade['entry_at'])} to {spoken(trade['exit_at'])}"
    else:
        why = (f"cooldown after the {trade['side']} position that ended at {spoken(trade['exit_at'])}; free again at "
               f"{spoken(free)}")  # fmt: skip
    return f"not entered in the book {book}: {why}"


def _book_of(environment: Environment, asked: MinuteTrace, split: str) -> str:
    """The path that a split's rows of this day belong to."""
    study, artifacts = environment.study.name, environment.artifacts
    sessions = artifacts.table(study, "folds", "split_sessions").filter(split=split, session=asked.key["session"])
    paths = artifacts.table(study, "folds", "paths").join(sessions.select("split", "group"), on=["split", "group"])
    return str(paths["path"][0]) if len(paths) else LOCKED


def _ended(trade: Mapping[str, Any]) -> str:
    ways = {"target_hit": "the target", "stop_hit": "the stop"}
    how = next((words for name, words in ways.items() if trade[name]), "the plan's time or trail")
    minutes = counted(round(trade["minutes_to_exit"]), "minute")
    return (f"{trade['side']}, {trade['planned_ratio']:.4g} of capital, left by {how} after {minutes} at "
            f"{spoken(trade['exit_at'])}: gross {trade['gross_edge_bps']:.4g} bps, net {trade['actual_edge_bps']:.4g} "
            f"bps, of capital {trade['weighted_edge_bps']:.4g} bps")  # fmt: skip
