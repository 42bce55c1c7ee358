"""The report of an environment's last run: reads stored results, draws, writes one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from assets.diagnosing import findings_section
from assets.jobs import MARKET_STAGES, RESEARCH_STAGES
from assets.report_members import members_section
from pipeline.backtests.ic import rank_ic
from pipeline.errors import FoldgateError
from pipeline.reports import figures
from pipeline.reports.html import Section, page
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


class _Stored:
    """Tables of one study, or None where a stage has not run."""

    def __init__(self, environment: Environment) -> None:
        self.environment, self.study = environment, environment.study

    def table(self, stage: str, name: str) -> pl.DataFrame | None:
        if not self.environment.artifacts.current(self.study.name, stage):
            return None
        return self.environment.artifacts.table(self.study.name, stage, name)

    def hashes(self, stage: str) -> dict[str, str]:
        return {p: v.hash for p, v in self.environment.artifacts.current(self.study.name, stage).items()}


def write_report(environment: Environment, target: Path) -> None:
    """Everything the run has stored so far; a stage that has not run is left out and said."""
    stored = _Stored(environment)
    sections = [section for build in SECTIONS if (section := build(stored)) is not None]
    promoted, verdict = _outcome(environment)
    settings = environment.settings
    origin = {
        "simulated": f"simulated market, profile {settings.profile}",
        "imported": f"tables of {Path(settings.folder).name}",
        "tushare": "Tushare",
    }[settings.source]
    text = page(
        environment.study.title,
        f"{environment.study.name}; {origin}; as of {environment.clock.now():%Y-%m-%d %H:%M} UTC",
        promoted,
        verdict,
        sections,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(target)


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


def _gates(stored: _Stored) -> Section | None:
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


def _equity(stored: _Stored) -> Section | None:
    equity, metrics = stored.table("backtest", "equity"), stored.table("backtest", "metrics")
    if equity is None or metrics is None:
        return None
    shown = metrics.filter(pl.col("name").is_in(HEADLINES) & ~pl.col("book").str.starts_with("random_"))
    wide = shown.pivot(on="book", index="name", values="value", sort_columns=True)
    order = pl.DataFrame({"name": HEADLINES})
    costs = stored.study.execution
    return Section(
        "Equity",
        "Every CPCV path is one full-length out-of-sample series. "
        f"Net of {costs.buy_cost_bps} bp on buys and {costs.sell_cost_bps} bp on sells; "
        "the band is random books of the same protocol and costs.",
        pictures={
            "NAV, log scale": figures.equity_figure(equity),
            "drawdown, net": figures.drawdown_figure(equity),
        },
        tables={"by book": order.join(wide, on="name", how="inner", maintain_order="left")},
    )


def _ic(stored: _Stored) -> Section | None:
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
        "Spearman correlation of the score with the executable return, session by session.",
        pictures={"rank IC over time": figures.ic_figure(ic)},
        tables={"by path": table},
    )


def _members(stored: _Stored) -> Section | None:
    return members_section(stored.environment)


def _calibration(stored: _Stored) -> Section | None:
    table = stored.table("calibrators", "reliability")
    if table is None:
        return None
    scores = (
        table.group_by("member", "head", "stage")
        .agg(pl.col("brier").mean(), pl.col("ece").mean(), rows=pl.col("rows").sum())
        .sort("member", "head", "stage", descending=[False, False, True])
    )
    pooled = (
        table.group_by("member", "head", "stage", "bin")
        .agg(
            mean_pred=(pl.col("mean_pred") * pl.col("rows")).sum() / pl.col("rows").sum(),
            rate=(pl.col("rate") * pl.col("rows")).sum() / pl.col("rows").sum(),
        )
        .sort("member", "head", "bin")
    )
    return Section(
        "Calibration",
        "Reliability on the tune groups, all splits pooled by bin.",
        pictures={"observed rate against prediction": figures.reliability_figure(pooled)},
        tables={"Brier score and calibration error": scores},
    )


def _blocks(stored: _Stored) -> Section | None:
    metrics = stored.table("backtest", "metrics")
    return (
        None
        if metrics is None
        else Section(
            "Blocked entries and exits",
            "Orders that the market would not have filled, and exits that had to be carried.",
            pictures={"block rates": figures.blocks_figure(metrics)},
        )
    )


def _profile(stored: _Stored) -> Section | None:
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


def _exclusions(stored: _Stored) -> Section | None:
    summary, rows = stored.table("panel", "summary"), stored.table("panel", "exclusions")
    if summary is None or rows is None:
        return None
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


def _folds(stored: _Stored) -> Section | None:
    sessions, certificate = stored.table("folds", "split_sessions"), stored.table("folds", "certificate")
    if sessions is None or certificate is None:
        return None
    return Section(
        "Folds",
        "The certificate recounts overlaps by another algorithm than the purge.",
        pictures={"roles": figures.folds_figure(sessions)},
        tables={"certificate": certificate},
    )


def _live(stored: _Stored) -> Section | None:
    orders, parity = stored.table("inference", "orders"), stored.table("parity", "report")
    if orders is None:
        return None
    last = orders.filter(pl.col("session") == orders["session"].max()).select(
        "session", "rank", "code", "score", "board", "industry"
    )
    tables: dict[str, pl.DataFrame] = {"latest selection": last}
    if parity is not None:
        tables["parity by session"] = (
            parity.group_by("session")
            .agg(exact=pl.col("exact").all(), rows=pl.col("rows").sum(), different=pl.col("different").sum())
            .sort("session")
        )
    realised = _realised(stored)
    if realised is not None:
        tables["realised so far"] = realised
    return Section(
        "Live sessions",
        "Each session was inferred with what was known at its decision time and rebuilt later by the research path.",
        tables=tables,
    )


def _realised(stored: _Stored) -> pl.DataFrame | None:
    """Per recorded session whose labels have ended: rank IC of the live score, mean return of what was selected."""
    predictions, labels = stored.table("inference", "predictions"), stored.table("labels", "labels")
    orders = stored.table("inference", "orders")
    if predictions is None or labels is None or orders is None:
        return None
    known = labels.filter(pl.col("ret").is_not_null()).select("session", "instrument", "ret")
    ic = rank_ic(predictions, known).filter(pl.col("rank_ic").is_not_null())
    selected = orders.join(known, on=["session", "instrument"])
    held = selected.group_by("session").agg(selected_return=pl.col("ret").mean())
    whole = known.group_by("session").agg(all_names_return=pl.col("ret").mean())
    return ic.join(held, on="session", how="left").join(whole, on="session", how="left").sort("session")


def _vendor_tables(stored: _Stored) -> Section | None:
    if not stored.environment.lake.tables():
        return None
    shares = observed_shares(stored.environment.lake)
    held = set(shares["table"])
    absent = [f"{use.table} (loses {use.loses})" for use in stored.study.tables if use.table not in held]
    words = "A row is known by its table's publication rule or, once the table is watched, when it was observed."
    return Section(
        "Vendor tables",
        words + (" Absent: " + "; ".join(absent) + "." if absent else ""),
        tables={"rows of all versions, and the share that was observed": shares},
    )


def _diagnostics(stored: _Stored) -> Section | None:
    return findings_section(stored.environment)


def _lineage(stored: _Stored) -> Section | None:
    rows: list[dict[str, Any]] = []
    for stage in [*MARKET_STAGES, *RESEARCH_STAGES]:
        hashes = stored.hashes(stage)
        if hashes:
            newest = max(hashes)
            rows.append({"stage": stage, "partitions": len(hashes), "newest": newest, "hash": hashes[newest]})
    lake = stored.environment.lake
    words = f"Lake commit {lake.head()}, manifest {lake.manifest_hash()}."
    return Section("Lineage", words, tables={"content hashes": pl.DataFrame(rows)} if rows else {})


SECTIONS: tuple[Callable[[_Stored], Section | None], ...] = (
    _gates, _equity, _ic, _members, _calibration, _blocks, _profile, _live, _vendor_tables, _exclusions, _folds,
    _diagnostics, _lineage,
)  # fmt: skip
