"""What would have happened, and what every gate says about it: backtest and scorecard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl

from pipeline.fingerprints import hash_json
from pipeline.folds.paths import recombine
from pipeline.folds.spec import LOCKED
from pipeline.frames import ordered_mean
from pipeline.gates.evaluate import Evidence, evaluate
from pipeline.gates.ledger import Trial
from pipeline.reports.figures import ic_figure, verdicts_figure
from pipeline.spec import Spec
from pipeline.stages.contract import Reader, Stage, StageResult
from pipeline.stages.decisions import decisions
from pipeline.stages.pinned import read_eligible, read_labels
from pipeline.stages.research import calibrated_members, read_policy
from pipeline.study import Study

EVALUATED = ("folds", "models", "calibrators", "positions", "predictions", "backtest")


def run_backtest(study: Study, read: Reader, _: str) -> StageResult:
    """The study's books on every path and on the locked stretch, and the rank IC of its score."""
    predictions = read.table("predictions", "predictions", columns=decisions(study).columns(study))
    policies = {split: read_policy(study, read, split) for split in study.folds.splits}
    books = decisions(study).backtest(study, read, predictions, policies)
    ic = _rank_ic(study, read, predictions)
    return replace(
        books,
        tables={**books.tables, "rank_ic": ic},
        keys={**books.keys, "rank_ic": ("path", "session")},
        trials=_trials(study, read, books.tables["excess"], policies),
        figures={**books.figures, "rank IC": partial(ic_figure, ic)},
    )


def _rank_ic(study: Study, read: Reader, predictions: pl.DataFrame) -> pl.DataFrame:
    """path, session, rank_ic: of the policy's score with the return that followed."""
    by_split = decisions(study).rank_ic(predictions, read_labels(study, read))
    return recombine(read.table("folds", "paths"), read.table("folds", "split_sessions"), by_split).drop("split")


def _configuration(study: Study, members: Sequence[str]) -> str:
    """Hash of everything that was chosen about a configuration, but not of the rows it was scored on.

    The ensemble counts for a member alone too: its orders follow the policies that the ensemble chose on tune. Which
    fits a champion would hold does not.
    """
    values = study.model_dump(mode="json", exclude={"name", "title", "promotion", "ensemble"})
    return hash_json([values, study.ensemble_names, study.ensemble.weights, members])


def rows_name(read: Reader, kind: str) -> str:
    """Name of a set of gate-read rows: the kind, and the sessions it holds."""
    sessions = read.table("folds", "split_sessions").filter(pl.col("role") == "test")
    mine = sessions.filter((pl.col("split") == LOCKED) == (kind == LOCKED))["session"].unique().sort()
    return f"{kind}:{hash_json(mine.to_list())[:16]}" if len(mine) else f"{kind}:none"


def _trials(study: Study, read: Reader, excess: pl.DataFrame, policies: Mapping[str, Spec]) -> list[Trial]:
    """The ensemble and each member alone: all are scored on rows that gates read, so all are counted."""
    together = study.ensemble_names
    alone = [(member.name,) for member in study.members if (member.name,) != together]
    scored = [("ensemble", together, excess)]
    scored += [(names[0], names, _member_excess(study, read, names[0], policies)) for names in alone]
    evaluation, found = evaluation_hash(read), []
    for label, members, values in scored:
        for kind in ("paths", LOCKED):
            mean = _mean_excess(values, kind)
            if len(mean):
                found.append(
                    Trial(
                        configuration=_configuration(study, members),
                        label=label,
                        evaluation=evaluation,
                        rows=rows_name(read, kind),
                        sessions=mean["session"].to_list(),
                        returns=mean["excess"].to_list(),
                    )
                )
    return found


def _member_excess(study: Study, read: Reader, name: str, policies: Mapping[str, Spec]) -> pl.DataFrame:
    """The same protocol and policies for one member alone."""
    wanted = decisions(study).columns(study) or pl.all()
    alone = [calibrated_members(study, read, split, "test", {name: 1.0}).select(wanted) for split in study.folds.splits]
    return decisions(study).excess(study, read, pl.concat(alone), policies)


def _mean_excess(excess: pl.DataFrame, kind: str) -> pl.DataFrame:
    """session, excess: averaged over the paths, or of the locked stretch."""
    wanted = pl.col("book") == LOCKED if kind == LOCKED else pl.col("book") != LOCKED
    by_session = excess.filter(wanted).group_by("session", maintain_order=True)
    return by_session.agg(ordered_mean(pl.col("excess"))).sort("session")


def evaluation_hash(read: Reader) -> str:
    """Hash of the pin and of everything trained and scored under it."""
    return hash_json({stage: read.versions(stage) for stage in EVALUATED if stage != "backtest"})


def run_scorecard(study: Study, read: Reader, _: str) -> StageResult:
    """Judge the evaluation: the recipe on pinned history, not the weights that a candidate is refitted to."""
    verdicts = evaluate(_evidence(study, read), study.promotion)
    red = verdicts.filter(~pl.col("status").is_in(["pass", "not_applicable"]))
    return StageResult(
        tables={"verdicts": verdicts},
        keys={"verdicts": ("gate",)},
        metadata={
            "passed": len(verdicts) - len(red),
            "refusing": red["gate"].to_list(),
            "ledger_head": read.stores.ledger.head(),
            "judged_at": read.now.isoformat(),
            "judges": "the recipe on pinned history, not the refitted weights",
            "verdicts": verdicts.select("gate", "status", "value", "low", "bound", "detail").to_dicts(),
        },
        figures={"gates": partial(verdicts_figure, verdicts)},
    )


def _evidence(study: Study, read: Reader) -> Evidence:
    rows = read.stores.ledger.rows()
    own = decisions(study).evidence(study, read)
    return Evidence(
        subject=evaluation_hash(read),
        certificate=read.table("folds", "certificate"),
        excess=_series(read.table("backtest", "excess"), "excess"),
        net=_net_series(read.table("backtest", "equity")),
        rank_ic=_ic_series(read.table("backtest", "rank_ic")),
        metrics=_nested(read.table("backtest", "metrics")),
        calibration=_brier(study, read),
        trials=rows.filter(pl.col("rows") == rows_name(read, "paths")),
        sessions_per_year=study.market.sessions_per_year,
        **own | {"facts": own["facts"] | _facts(study, read, rows)},
    )


def _series(books: pl.DataFrame, column: str) -> dict[str, np.ndarray]:
    """Book -> its values in session order. Paths end alike up to carried exits; the shorter are cash from then on."""
    series = {
        str(book): part.sort("session")[column].to_numpy()
        for (book,), part in books.partition_by("book", as_dict=True).items()
    }
    longest = max((len(values) for book, values in series.items() if book != LOCKED), default=0)
    return {
        book: values if book == LOCKED else np.pad(values, (0, longest - len(values)))
        for book, values in series.items()
    }


def _net_series(equity: pl.DataFrame) -> dict[str, np.ndarray]:
    """Book -> its net return of each session."""
    own = equity.filter(pl.col("book").str.starts_with("path_") | (pl.col("book") == LOCKED)).sort("book", "session")
    before = pl.col("net").shift(fill_value=1.0).over("book")
    return _series(own.select("book", "session", net=pl.col("net") / before - 1.0), "net")


def _ic_series(ic: pl.DataFrame) -> dict[str, np.ndarray]:
    """Mean rank IC per session over the paths, and on the locked stretch."""
    by_session = ic.filter(pl.col("path") != LOCKED).group_by("session", maintain_order=True)
    paths = by_session.agg(ordered_mean(pl.col("rank_ic"))).sort("session")
    return {
        "paths": paths["rank_ic"].to_numpy(),
        LOCKED: ic.filter(pl.col("path") == LOCKED)["rank_ic"].to_numpy(),
    }


def _nested(metrics: pl.DataFrame) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for book, name, value in metrics.drop_nulls("value").iter_rows():
        found.setdefault(book, {})[name] = value
    return found


def _brier(study: Study, read: Reader) -> pl.DataFrame:
    """head, brier, constant_brier over all out-of-sample rows; the constant is the head's rate on those rows."""
    heads = {head.name: head.label for head in study.labels.heads if head.kind == "probability"}
    key, labels, parts = list(study.row_key), read_labels(study, read), []
    for head, label in heads.items():  # one at a time: all of them beside their truths are wide
        truth = labels.select(*key, y=pl.col(label).cast(pl.Float64)).drop_nulls("y")
        served = read.table("predictions", "predictions", columns=[*key, f"{head}_pred"])
        known = served.join(truth, on=key).select("y", p=f"{head}_pred")
        parts.append(
            known.select(
                head=pl.lit(head),
                brier=((pl.col("p") - pl.col("y")) ** 2).mean(),
                constant_brier=((pl.col("y").mean() - pl.col("y")) ** 2).mean(),
            ).filter(pl.col("constant_brier") > 0)
        )
    return pl.concat(parts)


def _facts(study: Study, read: Reader, ledger: pl.DataFrame) -> dict[str, float]:
    quarantine = read.table("panel", "quarantine").select(study.row_key).unique()
    return {
        "quarantined_share": len(quarantine) / max(len(read_eligible(study, read)), 1),
        "locked_openings": float(ledger.filter(pl.col("rows") == rows_name(read, LOCKED))["evaluation"].n_unique()),
    }


BACKTEST = Stage(
    "backtest",
    "whole",
    ("folds", "predictions", "positions"),
    run_backtest,
    ("execution", "policy", "members", "ensemble.members", "ensemble.weights"),
    (
        "pipeline.backtests", "pipeline.positions", "pipeline.calibration", "pipeline.folds", "pipeline.labels",
        "pipeline.gates.ledger", "pipeline.asof.patches",
    ),
    pinned=True,
    summary="Trades, equity and costs per path and on the locked stretch, beside index, universe and random books.",
)
SCORECARD = Stage(
    "scorecard",
    "whole",
    EVALUATED,
    run_scorecard,
    ("promotion", "execution"),
    (
        "pipeline.gates", "pipeline.backtests", "pipeline.positions", "pipeline.folds.spec", "pipeline.labels",
        "pipeline.asof",
    ),
    pinned=True,
    summary="The verdict of every gate as data. Judges the recipe, not the refitted weights.",
)
