"""From a number to its origin, and why a name was or was not selected."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import polars as pl

from pipeline.asof.identity import original_code
from pipeline.asof.knowledge import decision_times
from pipeline.errors import BadInput
from pipeline.features.plan import plan
from pipeline.study import Study
from resources.environments import Environment

TRACED = {"panel": "panel", "features": "features", "labels": "labels", "predictions": "predictions", "inference": "predictions"}
SHOWN_ROWS = 40


def instrument_of(environment: Environment, code: str) -> str:
    """The stable id behind any code a security ever had."""
    if "bse_mapping" not in environment.lake.tables():
        return code
    mapping = environment.lake.latest("bse_mapping")
    renames = dict(zip(mapping["n_code"], mapping["o_code"], strict=True))
    return str(original_code(pl.Series([code]), renames)[0])


def trace_value(environment: Environment, asset: str, code: str, session: date, column: str) -> int:
    """Print the value, the versions it came from, and the raw rows inside its window with their `known_at`."""
    if asset not in TRACED:
        raise BadInput("a trace starts at one of these assets", asset, f"choose from {sorted(TRACED)}")
    study, instrument = environment.study, instrument_of(environment, code)
    table = environment.artifacts.table(study.name, asset, TRACED[asset])
    rows = table.filter((pl.col("instrument") == instrument) & (pl.col("session") == session))
    if column not in table.columns:
        raise BadInput(f"a column of {asset}", column, f"one of {[c for c in table.columns if c not in ('session', 'instrument')]}")
    if rows.is_empty():
        raise BadInput("the row exists", f"{asset} {instrument} {session}", "`foldgate why` says why a name is not there")
    for row in rows.iter_rows(named=True):
        split = f" (split {row['split']})" if "split" in row else ""
        print(f"{asset}.{column} of {instrument} on {session}{split} = {row[column]!r}")
    _print_versions(environment, study, asset, session)
    lookback, inputs = _window(study, asset, column)
    _print_raw(environment, study, instrument, session, lookback, inputs)
    return 0


def _window(study: Study, asset: str, column: str) -> tuple[int, Sequence[str]]:
    """Sessions of look-back and panel inputs behind a column."""
    if asset == "panel":
        return 1, (column,)
    if asset == "labels":
        return 1, ("open", "close", "factor")
    the_plan = plan(study.features)
    chosen = [f for f in the_plan.features if f.name == column] if asset == "features" else list(the_plan.features)
    return max(f.lookback for f in chosen), sorted({name for f in chosen for name in f.inputs})


def _print_versions(environment: Environment, study: Study, asset: str, session: date) -> None:
    versions = environment.artifacts.current(study.name, asset)
    partition = next((p for p in (session.isoformat(), f"{session:%Y-%m}", "") if p in versions), next(iter(versions)))
    version = versions[partition]
    print(f"\nversion {version.hash[:16]} of {asset}/{partition or 'whole'}, code {version.lineage.get('code', '')}, read:")
    for name, digest in list(version.lineage.get("read", {}).items())[:SHOWN_ROWS]:
        print(f"  {name:<28} {digest[:16]}")


def _print_raw(environment: Environment, study: Study, instrument: str, session: date, lookback: int, inputs: Sequence[str]) -> None:
    """Raw vendor rows of the window that were known at the decision, newest first."""
    calendar = environment.calendar()
    first = calendar.session(max(calendar.ordinal(session) - lookback + 1, 0))
    decision = decision_times([session], study.market)[0]
    print(f"\ndecision at {decision}; look-back {lookback} sessions from {first}; inputs {', '.join(inputs)}")
    for name in study.table_names:
        spec = environment.tables[name]
        if spec.layout != "session" or name not in environment.lake.tables() or "ts_code" not in spec.names or name == "stk_mins":
            continue
        rows = environment.lake.scan(name, start=first, end=session)
        mine = rows.filter(original_code(rows["ts_code"], _renames(environment)) == instrument).sort("known_at", descending=True)
        if mine.is_empty():
            continue
        known = mine.filter(pl.col("known_at") <= decision)
        print(f"\n{name}: {len(known)} rows known at the decision, {len(mine) - len(known)} known only later")
        with pl.Config(tbl_rows=SHOWN_ROWS, tbl_cols=14, tbl_hide_dataframe_shape=True, tbl_width_chars=200):
            print(known.drop("request").sort(spec.event or "known_at", descending=True).head(8))


def _renames(environment: Environment) -> dict[str, str]:
    if "bse_mapping" not in environment.lake.tables():
        return {}
    mapping = environment.lake.latest("bse_mapping")
    return dict(zip(mapping["n_code"], mapping["o_code"], strict=True))


def explain(environment: Environment, code: str, session: date) -> int:
    """Print the name's state on a day: excluded by which rules, or scored, ranked, selected or filtered."""
    study, instrument, artifacts = environment.study, instrument_of(environment, code), environment.artifacts
    mine = (pl.col("instrument") == instrument) & (pl.col("session") == session)
    panel = artifacts.table(study.name, "panel", "panel").filter(mine)
    if panel.is_empty():
        print(f"{code} ({instrument}) has no row on {session}: not listed then, or no open session of the panel")
        return 1
    row = panel.row(0, named=True)
    shown = ("code", "board", "industry", "listing_age", "is_st", "close", "up_limit", "down_limit", "open_block", "close_block")
    print(f"{code} ({instrument}) on {session}: " + ", ".join(f"{name} {row[name]}" for name in shown))
    if not row["eligible"]:
        reasons = artifacts.table(study.name, "panel", "exclusions").filter(mine)["reason"].to_list()
        print(f"excluded before scoring: first by {row['exclusion']}; every rule that applies: {', '.join(reasons)}")
        return 0
    for stage, table, place in (("inference", "predictions", "live"), ("predictions", "predictions", "research")):
        _explain_scores(environment, stage, table, place, mine, session)
    return 0


def _explain_scores(environment: Environment, stage: str, table: str, place: str, mine: pl.Expr, session: date) -> None:
    study, artifacts = environment.study, environment.artifacts
    if not artifacts.current(study.name, stage):
        return
    scored = artifacts.table(study.name, stage, table).filter(pl.col("session") == session)
    group = ["split"] if "split" in scored.columns else []
    ranked = scored.with_columns(
        place=pl.col("score").rank("ordinal", descending=True).over(group or pl.lit(1)), of=pl.len().over(group or pl.lit(1)),
    ).filter(mine)
    for row in ranked.iter_rows(named=True):
        heads: dict[str, Any] = {name: round(value, 4) for name, value in row.items() if name.endswith("_pred")}
        split = f" {row['split']}" if group else ""
        print(f"{place}{split}: rank {row['place']} of {row['of']}, score {row['score']:.4f}, {heads}")
    source = "inference" if stage == "inference" else "backtest"
    if not artifacts.current(study.name, source):
        return
    orders = artifacts.table(study.name, source, "orders").filter(mine)
    for order in orders.iter_rows(named=True):
        print(f"{place}: selected at rank {order['rank']}" + (f" in {order['book']}" if "book" in order else ""))
    if orders.is_empty() and not ranked.is_empty():
        print(f"{place}: scored but not selected: below the top {study.policy.top_k}, or stopped by the policy's risk filters")
