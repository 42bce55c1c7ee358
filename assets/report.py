"""The report of an environment's last run: reads stored results, draws, writes one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from assets.diagnosing import findings_section
from assets.jobs import MARKET_STAGES, RESEARCH_STAGES
from assets.proving import proof_section
from assets.report_live import live_section
from assets.report_members import calibration_section, members_section
from assets.report_minutes import minutes_section
from assets.report_positions import plan_section, positions_section, sealed_section, thresholds_section
from assets.report_stored import Stored
from pipeline.backtests.spec import ExecutionSpec
from pipeline.errors import FoldgateError
from pipeline.features.plan import plan
from pipeline.folds.named import FIT_INNER, SEALED_SPLITS, TUNE_INNER
from pipeline.folds.spec import LOCKED
from pipeline.labels.minute_spec import PlanLabelSpec
from pipeline.reports import figures
from pipeline.reports.html import Section, page
from pipeline.studies import STUDIES
from resources.environments import Environment
from resources.warehouse import observed_shares

HEADLINES = (
    "final_nav_gross",
    "final_nav_net",
    "annualised_return_gross",
    "annualised_return_net",
    "sharpe_gross",
    "sharpe_net",
    "max_drawdown_gross",
    "max_drawdown_net",
    "positive_days_net",
    "entry_block_rate",
    "exit_block_rate",
    "delayed_exit_sessions",
    "instruments",
    "turnover",
    "break_even_round_trip_bps",
    "placed_share",
    "full_capacity_cny",
    "curve_sessions",
)


def write_report(environment: Environment, target: Path) -> None:
    """Everything the run has stored so far; a stage that has not run is left out and said."""
    stored = Stored(environment)
    sections = [section for build in SECTIONS if (section := build(stored)) is not None]
    promoted, verdict = _outcome(environment)
    text = page(
        environment.study.title,
        f"{environment.study.name}; {_origin(environment)}; as of {environment.clock.now():%Y-%m-%d %H:%M} UTC",
        promoted,
        verdict,
        sections,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(target)


def _origin(environment: Environment) -> str:
    """Where the rows came from, in words; a live source is the vendor of its name."""
    settings = environment.settings
    if settings.live:
        return settings.source.capitalize()
    simulated = f"simulated market, profile {settings.profile}"
    return simulated if settings.source == "simulated" else f"tables of {Path(settings.folder).name}"


def _outcome(environment: Environment) -> tuple[bool, str]:
    champions = environment.champions(environment.study.name)
    try:
        serving, history = champions.current(), champions.history()
    except FoldgateError as broken:
        return False, str(broken)
    if history and history[-1]["kind"] == "refused":
        return False, "Promotion refused: " + "; ".join(history[-1]["reasons"])
    return (
        (True, f"Champion {serving['bundle'][:12]} serves since {serving['at'][:10]}.")
        if serving
        else (False, "Nothing was promoted yet.")
    )


def _gates(stored: Stored) -> Section | None:
    parts = [table for stage in ("scorecard", "candidate") if (table := stored.table(stage, "verdicts")) is not None]
    if not parts:
        return None
    verdicts = pl.concat(parts).select("gate", "status", "value", "low", "high", "bound", "rule", "detail")
    return Section(
        "Gates",
        "The scorecard judges the recipe on pinned history, not the refitted weights; "
        "the candidate's own gates judge those.",
        tables={"verdicts": verdicts},
    )


def _equity(stored: Stored) -> Section | None:
    equity, metrics = stored.table("backtest", "equity"), stored.table("backtest", "metrics")
    if equity is None or metrics is None:
        return None
    shown = metrics.filter(pl.col("name").is_in(HEADLINES) & ~pl.col("book").str.starts_with("random_"))
    wide = shown.pivot(on="book", index="name", values="value", sort_columns=True)
    order = pl.DataFrame({"name": HEADLINES})
    return Section(
        "Equity",
        f"Every CPCV path is one full-length out-of-sample series. {_costs(stored)}",
        pictures={
            "NAV, log scale": figures.equity_figure(equity),
            "drawdown, net": figures.drawdown_figure(equity),
        },
        tables={"by book": order.join(wide, on="name", how="inner", maintain_order="left")},
    )


def _costs(stored: Stored) -> str:
    """What net means."""
    costs, labels = stored.study.execution, stored.study.labels
    if isinstance(costs, ExecutionSpec):
        return (
            f"Net of {costs.buy_cost_bps} bp on buys and {costs.sell_cost_bps} bp on sells; "
            "the band is random books of the same protocol and costs."
        )
    assert isinstance(labels, PlanLabelSpec)
    return (
        f"Net of the price plan's {labels.plan.cost_bps:g} bps a trade; a day's return is the sum over the trades "
        "entered in it, each at its share of capital."
    )


def _ic(stored: Stored) -> Section | None:
    ic = stored.table("backtest", "rank_ic")
    if ic is None:
        return None
    value = pl.col("rank_ic")
    table = (
        ic.group_by("path")
        .agg(
            sessions=value.count(),
            mean=value.mean(),
            icir=value.mean() / value.std(),
            positive=(value > 0).mean(),
        )
        .sort("path")
    )
    return Section(
        "Rank IC",
        f"Spearman correlation of the score with {_return_in_words(stored)}, session by session.",
        pictures={"rank IC over time": figures.ic_figure(ic)},
        tables={"by path": table},
    )


def _return_in_words(stored: Stored) -> str:
    labels = stored.study.labels
    if isinstance(labels, PlanLabelSpec):
        return f"the return over the {labels.plan.max_hold_minutes} minutes after the decision"
    return "the executable return"


def _blocks(stored: Stored) -> Section | None:
    metrics = stored.table("backtest", "metrics")
    return (
        None
        if metrics is None or "entry_block_rate" not in metrics["name"]
        else Section(
            "Blocked entries and exits",
            "Orders that the market would not have filled, and exits that had to be carried.",
            pictures={"block rates": figures.blocks_figure(metrics)},
        )
    )


def _profile(stored: Stored) -> Section | None:
    profile = stored.table("backtest", "profile")
    if profile is None:
        return None
    mine = profile.filter(pl.col("book") == "path_00")
    shares = mine.filter(pl.col("section").is_in(["cap_bucket", "board", "industry"])).select(
        "section", "name", share_pct=100 * pl.col("value")
    )
    sizes = mine.filter(pl.col("section") == "market_cap_cny").select("name", "value")
    return Section(
        "Selected stocks",
        "Stock-days of the first path: market-cap buckets by percentile, boards, largest industries.",
        tables={"share of stock-days": shares, "market cap, CNY": sizes},
    )


def _exclusions(stored: Stored) -> Section | None:
    summary, rows = stored.table("panel", "summary"), stored.table("panel", "exclusions")
    if summary is None or rows is None:
        return None
    if "minutes" in summary.columns:
        return minutes_section(stored, summary, rows)
    quarantine = stored.table("panel", "quarantine")
    tables = {"rows by reason": rows.group_by("reason").len("rows").sort("rows", descending=True)}
    if quarantine is not None and len(quarantine):
        tables["quarantine by rule"] = quarantine.group_by("table", "rule").len("rows").sort("rows", descending=True)
    return Section(
        "Exclusions",
        "Every exclusion is a row with its reason; a name can have several.",
        pictures={"names per session": figures.exclusions_figure(summary)},
        tables=tables,
    )


def _folds(stored: Stored) -> Section | None:
    sessions, certificate = stored.table("folds", "split_sessions"), stored.table("folds", "certificate")
    if sessions is None or certificate is None:
        return None
    return Section(
        "Folds",
        "The certificate recounts overlaps by another algorithm than the purge.",
        pictures={"roles": figures.folds_figure(sessions)},
        tables={"certificate": certificate} | _named(stored, sessions),
    )


def _named(stored: Stored, sessions: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Sessions of the named splits, where the study seals two stretches."""
    if not stored.study.folds.stress_share:
        return {}
    sealed = dict(enumerate(SEALED_SPLITS, stored.study.folds.n_groups))
    tested = pl.col("group").replace_strict(sealed, default=None, return_dtype=pl.String)
    name = pl.when(pl.col("role") == "fit").then(pl.lit(FIT_INNER)).when(pl.col("role") == "tune").then(
        pl.lit(TUNE_INNER)).when(pl.col("role") == "test").then(tested)  # fmt: skip
    named = (
        sessions.filter(split=LOCKED).with_columns(named_split=name).drop_nulls("named_split").group_by("named_split")
        .agg(sessions=pl.len(), first=pl.col("session").min(), last=pl.col("session").max()).sort("first")
    )  # fmt: skip
    return {f"named splits: the roles of {LOCKED}": named}


def _vendor_tables(stored: Stored) -> Section | None:
    if not stored.environment.lake.tables():
        return None
    shares = observed_shares(stored.environment.lake)
    held = set(shares["table"])
    absent = [f"{use.table} (loses {use.loses})" for use in stored.study.tables if use.table not in held]
    words = "A row is known by its table's publication rule or, once the table is watched, when it was observed."
    return Section(
        "Vendor tables",
        words + (" Absent: " + "; ".join(absent) + "." if absent else "") + _left_out(stored),
        tables={"rows of all versions, and the share that was observed": shares},
    )


def _left_out(stored: Stored) -> str:
    """Feature families of the registered study that this environment does without, in words."""
    registered = STUDIES[stored.study.name].features
    gone = [name for name in registered if name not in stored.study.features]
    if not gone:
        return ""
    whole, left = len(plan(registered).schema), len(plan(stored.study.features).schema)
    return f" Feature families left out: {', '.join(gone)}; {left} of {whole} features remain."


def _proofs(stored: Stored) -> Section | None:
    return proof_section(stored.environment.home)


def _diagnostics(stored: Stored) -> Section | None:
    return findings_section(stored.environment)


def _lineage(stored: Stored) -> Section | None:
    rows: list[dict[str, Any]] = []
    for stage in [*MARKET_STAGES, *RESEARCH_STAGES]:
        hashes = stored.hashes(stage)
        if hashes:
            newest = max(hashes)
            rows.append({"stage": stage, "partitions": len(hashes), "newest": newest, "hash": hashes[newest]})
    lake = stored.environment.lake
    words = f"Lake commit {lake.head()}, manifest {lake.manifest_hash()}."
    return Section("Lineage", words, tables={"content hashes": pl.DataFrame(rows)} if rows else {})


SECTIONS: tuple[Callable[[Stored], Section | None], ...] = (
    _gates, sealed_section, plan_section, positions_section, thresholds_section, _equity, _ic, members_section,
    calibration_section, _blocks, _profile, live_section, _vendor_tables, _exclusions, _folds, _diagnostics, _proofs,
    _lineage,
)  # fmt: skip
