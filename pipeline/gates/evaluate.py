"""Every gate's verdict as data: value, interval, bound, the rule in words and the hash it judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite, nan, sqrt

import numpy as np
import polars as pl

from pipeline.backtests.bootstrap import block_bootstrap
from pipeline.errors import BadInput
from pipeline.gates.ledger import returns_matrix
from pipeline.gates.spec import GateSpec, PromotionSpec
from pipeline.gates.statistics import (
    backtest_overfitting,
    deflated_sharpe,
    effective_trials,
    minimum_track_record,
    moments,
    probabilistic_sharpe,
)

VERDICT_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "gate": pl.String,
    "status": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "bound": pl.Float64,
    "rule": pl.String,
    "detail": pl.String,
    "evaluation_hash": pl.String,
}


@dataclass(frozen=True)
class Measured:
    """What a gate saw. `reached` is the number that is held against the bound."""

    reached: float
    passed: bool
    detail: str
    low: float = nan
    high: float = nan
    applicable: bool = True


@dataclass(frozen=True)
class Evidence:
    """What the gates read: plain tables and values of one evaluation or one candidate.

    Parameters
    ----------
    certificate : DataFrame
        docs `folds`.
    excess : Mapping[str, ndarray]
        Book -> net return per session less what random picks of the same number and size earn on average, in
        session order; books are the CPCV paths and `locked`. Picks are names, or minutes of the same book and side.
    net : Mapping[str, ndarray]
        Book -> net return of each session.
    rank_ic : Mapping[str, ndarray]
        `paths` and `locked` -> rank IC per session.
    metrics : Mapping[str, Mapping[str, float]]
        Book -> name -> value, docs `metrics`.
    calibration : DataFrame
        head, brier, constant_brier on out-of-sample rows.
    trials : DataFrame
        Ledger rows scored on the same rows as the paths.
    facts : Mapping[str, float]
        Single numbers: impossible_fills, quarantined_share, locked_openings, cost_bps, and the candidate's own.
    reasons : tuple of str, optional
        Why the position manager's own verdict refuses the sealed rows; empty where it does not.
    sessions_per_year : int
        By which values per session are annualised.
    """

    subject: str
    certificate: pl.DataFrame = field(default_factory=pl.DataFrame)
    excess: Mapping[str, np.ndarray] = field(default_factory=dict)
    net: Mapping[str, np.ndarray] = field(default_factory=dict)
    rank_ic: Mapping[str, np.ndarray] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    calibration: pl.DataFrame = field(default_factory=pl.DataFrame)
    trials: pl.DataFrame = field(default_factory=pl.DataFrame)
    facts: Mapping[str, float] = field(default_factory=dict)
    reasons: tuple[str, ...] | None = None
    sessions_per_year: int = 252


Gate = Callable[[Evidence, float, PromotionSpec], Measured]
LOCKED_BOOK = "locked"


def _paths(evidence: Evidence) -> dict[str, np.ndarray]:
    """The paths' books in order; at least one."""
    paths = {book: series for book, series in sorted(evidence.excess.items()) if book.startswith("path_")}
    if not paths:
        raise BadInput("return gates read the books path_00...", sorted(evidence.excess), "run the backtest stage")
    return paths


def paths_excess(evidence: Evidence) -> np.ndarray:
    """Net excess averaged over the paths, one value a session: the evaluation's own series."""
    return np.mean(np.stack(list(_paths(evidence).values())), axis=0)


def _trials(evidence: Evidence) -> pl.DataFrame:
    """The ledger's rows; at least the evaluation's own. None at all is no evidence, not a search of one."""
    if evidence.trials.is_empty():
        raise BadInput("the ledger holds the evaluation's own trial", "no trials", "run the backtest stage")
    return evidence.trials


def _annualised(series: np.ndarray, year: int, promotion: PromotionSpec) -> tuple[float, float, float]:
    """Mean value per session times the sessions of a year, with its block-bootstrap interval."""
    low, high = block_bootstrap(
        series, promotion.bootstrap_samples, promotion.bootstrap_block, promotion.confidence, 17
    )
    return float(series.mean() * year), low * year, high * year


def folds_overlap(evidence: Evidence, bound: float, _: PromotionSpec) -> Measured:
    """training rows whose label span meets a held-out span number at most the bound"""
    rows = int(evidence.certificate["overlap_rows"].sum())
    if evidence.certificate.is_empty():
        raise BadInput("a certificate has splits", 0, "run the folds stage")
    return Measured(rows, rows <= bound, f"{rows} rows over {len(evidence.certificate)} splits")


def folds_coverage(evidence: Evidence, bound: float, _: PromotionSpec) -> Measured:
    """the share of splits whose sessions are tested exactly as often as the scheme says reaches the bound"""
    tested = evidence.certificate.drop_nulls("tested_expected")
    exact = (tested["tested_min"] == tested["tested_expected"]) & (tested["tested_max"] == tested["tested_expected"])
    value = float(exact.mean() or 0.0)  # type: ignore[arg-type]
    return Measured(value, value >= bound, f"{exact.sum()} of {len(exact)} splits")


def rank_ic(evidence: Evidence, bound: float, promotion: PromotionSpec) -> Measured:
    """the lower end of the interval of the mean out-of-sample rank IC exceeds the bound"""
    series = evidence.rank_ic["paths"]
    series = series[~np.isnan(series)]  # sessions without a realised return
    low, high = block_bootstrap(
        series, promotion.bootstrap_samples, promotion.bootstrap_block, promotion.confidence, 13
    )
    return Measured(float(series.mean()), low > bound, f"mean of {len(series)} sessions", low, high)


def net_excess(evidence: Evidence, bound: float, promotion: PromotionSpec) -> Measured:
    """the lower end of the interval of the annual net excess over random picks, mean of the paths, exceeds the bound"""
    value, low, high = _annualised(paths_excess(evidence), evidence.sessions_per_year, promotion)
    return Measured(value, low > bound, "a year, net, mean of the paths", low, high)


def net_return(evidence: Evidence, bound: float, promotion: PromotionSpec) -> Measured:
    """the lower end of the interval of the annual return after all costs, mean of the paths, exceeds the bound"""
    paths = [series for book, series in sorted(evidence.net.items()) if book.startswith("path_")]
    if not paths:
        raise BadInput("the net return is that of path_00...", sorted(evidence.net), "run the backtest stage")
    value, low, high = _annualised(np.mean(np.stack(paths), axis=0), evidence.sessions_per_year, promotion)
    return Measured(value, low > bound, f"a year, net, mean of {len(paths)} paths, compared with nothing", low, high)


def worst_path(evidence: Evidence, bound: float, _: PromotionSpec) -> Measured:
    """the annual net excess of the worst path exceeds the bound"""
    values = {book: float(series.mean() * evidence.sessions_per_year) for book, series in _paths(evidence).items()}
    worst = min(values, key=lambda book: values[book])
    return Measured(values[worst], values[worst] > bound, f"{worst} of {len(values)} paths")


def probabilistic(evidence: Evidence, bound: float, _: PromotionSpec) -> Measured:
    """PSR of the net excess: probability that its true Sharpe ratio is above zero reaches the bound"""
    m = moments(paths_excess(evidence))
    value = probabilistic_sharpe(m)
    annual = m.sharpe * sqrt(evidence.sessions_per_year)
    return Measured(value, value >= bound, f"annual Sharpe {annual:.2f} on {m.n} returns")


def deflated(evidence: Evidence, bound: float, _: PromotionSpec) -> Measured:
    """DSR of the net excess, deflated by the ledger's effective number of trials, reaches the bound"""
    m = moments(paths_excess(evidence))
    counted = _trials(evidence)
    trials = effective_trials(returns_matrix(counted))
    deviation = float(counted["sharpe"].std() or 0.0) if len(counted) > 1 else 0.0  # type: ignore[arg-type]
    value, benchmark = deflated_sharpe(m, trials, deviation)
    searched = f"{len(counted)} trials, {trials:.1f} effective"
    detail = f"{searched}, benchmark Sharpe {benchmark * sqrt(evidence.sessions_per_year):.2f} a year"
    return Measured(value, value >= bound, detail)


def overfitting(evidence: Evidence, bound: float, _: PromotionSpec) -> Measured:
    """PBO by CSCV over the ledger's configurations is at most the bound; fewer than two effective ones do not apply"""
    matrix = returns_matrix(_trials(evidence))
    effective = effective_trials(matrix)
    if effective < 2.0:  # members of one ensemble agree: which of them is best in a half is noise, PBO is near 0.5
        return Measured(nan, False, f"{matrix.shape[1]} trials, {effective:.1f} effective", applicable=False)
    blocks = min(16, max(4, len(matrix) // 20 // 2 * 2))
    result = backtest_overfitting(matrix, blocks)
    return Measured(
        result.probability,
        result.probability <= bound,
        f"{matrix.shape[1]} configurations, {blocks} blocks, slope {result.slope:.2f}",
    )


def track_record(evidence: Evidence, bound: float, promotion: PromotionSpec) -> Measured:
    """out-of-sample sessions are at least the bound times the minimum track record length of the net excess"""
    m = moments(paths_excess(evidence))
    needed = minimum_track_record(m, 0.0, promotion.confidence)
    value = m.n / needed if isfinite(needed) else 0.0
    return Measured(value, value >= bound, f"{m.n} sessions, MinTRL {needed:.0f}")


def impossible_fills(evidence: Evidence, bound: float, _: PromotionSpec) -> Measured:
    """fills that the raw tables say could not have happened number at most the bound"""
    value = evidence.facts["impossible_fills"]
    return Measured(value, value <= bound, f"{value:.0f} of {evidence.facts['fills']:.0f} fills")


def calibration(evidence: Evidence, bound: float, _: PromotionSpec) -> Measured:
    """the worst ratio of a probability head's Brier score to the constant's, out of sample, is at most the bound"""
    ratios = evidence.calibration.with_columns(ratio=pl.col("brier") / pl.col("constant_brier")).sort("ratio")
    if ratios.is_empty():
        return Measured(nan, False, "no probability head with both outcomes", applicable=False)
    worst = ratios.row(-1, named=True)
    return Measured(worst["ratio"], worst["ratio"] <= bound, f"worst head {worst['head']}")


def locked_excess(evidence: Evidence, bound: float, promotion: PromotionSpec) -> Measured:
    """the annual net excess over random picks on the locked stretch exceeds the bound"""
    if LOCKED_BOOK not in evidence.excess:
        return Measured(nan, False, "the study locks no stretch", applicable=False)
    value, low, high = _annualised(evidence.excess[LOCKED_BOOK], evidence.sessions_per_year, promotion)
    return Measured(value, value > bound, f"{len(evidence.excess[LOCKED_BOOK])} sessions", low, high)


def locked_openings(evidence: Evidence, bound: float, _: PromotionSpec) -> Measured:
    """evaluations of this study that opened this locked stretch number at most the bound"""
    value = evidence.facts["locked_openings"]
    return Measured(value, value <= bound, f"{value:.0f} evaluation(s) opened these sessions")


def sealed_verdict(evidence: Evidence, bound: float, _: PromotionSpec) -> Measured:
    """the position manager's reasons to refuse its trades on the sealed rows number at most the bound"""
    if evidence.reasons is None:
        raise BadInput("a verdict on the sealed rows says its reasons", "no verdict", "run the backtest stage")
    reasons = evidence.reasons
    return Measured(len(reasons), len(reasons) <= bound, ", ".join(reasons) or "no reason to refuse")


def break_even(evidence: Evidence, bound: float, _: PromotionSpec) -> Measured:
    """the round-trip cost at which the paths earn nothing is at least the bound times the cost charged"""
    values = [
        m["break_even_round_trip_bps"]
        for b, m in evidence.metrics.items()
        if b.startswith("path_") and isfinite(m.get("break_even_round_trip_bps", nan))
    ]
    value = float(np.median(values)) / evidence.facts["cost_bps"] if values else 0.0
    return Measured(value, value >= bound, f"median of {len(values)} paths over {evidence.facts['cost_bps']:.1f} bps")


def capacity(evidence: Evidence, bound: float, _: PromotionSpec) -> Measured:
    """the share of the stated capital that lots and the participation cap let in is at least the bound"""
    books = {book: series for book, series in evidence.metrics.items() if book.startswith("path_")}
    if not books:
        raise BadInput("capacity reads the metrics of path_00...", sorted(evidence.metrics), "run the backtest stage")
    value = float(min(series["placed_share"] for series in books.values()))
    return Measured(value, value >= bound, f"worst of {len(books)} paths")


def quarantined(evidence: Evidence, bound: float, _: PromotionSpec) -> Measured:
    """the share of panel rows with quarantined vendor values is at most the bound"""
    value = evidence.facts["quarantined_share"]
    return Measured(value, value <= bound, f"{value:.4%} of panel rows")


def _equal(fact: str, what: str) -> Gate:
    def gate(evidence: Evidence, bound: float, _: PromotionSpec) -> Measured:
        value = evidence.facts[fact]
        return Measured(value, value <= bound, f"{value:g} {what}")

    gate.__doc__ = f"{what} number at most the bound"
    return gate


def refit_correlation(evidence: Evidence, bound: float, _: PromotionSpec) -> Measured:
    """rank correlation of the refitted members with the split models on the newest tested sessions reaches the bound"""
    value = evidence.facts["refit_correlation"]
    undefined = "not defined: on some session all scores are one number, which ranks nothing"
    return Measured(value, value >= bound, "mean over sessions" if isfinite(value) else undefined)


GATES: dict[str, Gate] = {
    "folds_overlap": folds_overlap,
    "folds_coverage": folds_coverage,
    "rank_ic": rank_ic,
    "net_excess": net_excess,
    "net_return": net_return,
    "worst_path": worst_path,
    "probabilistic_sharpe": probabilistic,
    "deflated_sharpe": deflated,
    "overfitting": overfitting,
    "track_record": track_record,
    "impossible_fills": impossible_fills,
    "calibration": calibration,
    "locked_excess": locked_excess,
    "locked_openings": locked_openings,
    "sealed_verdict": sealed_verdict,
    "break_even": break_even,
    "capacity": capacity,
    "quarantined": quarantined,
    "replay": _equal("replay_differences", "replayed scores that differ from the training run's"),
    "weights": _equal("weights_differences", "files that do not hash to what the training run recorded"),
    "refit_correlation": refit_correlation,
    "conformance": _equal("conformance_differences", "vector values of the contract that the bundle gives otherwise"),
}


def evaluate(evidence: Evidence, promotion: PromotionSpec, side: str = "evaluation") -> pl.DataFrame:
    """Judge every gate of one side (`evaluation` or `candidate`).

    Returns
    -------
    DataFrame
        docs `verdicts`. A gate whose evidence is absent is `missing`, which promotion treats as red.

    Raises
    ------
    BadInput
        When the study names a gate that is not registered.
    """
    rows = []
    for spec in promotion.gates:
        if spec.applies_to != side:
            continue
        if spec.name not in GATES:
            raise BadInput("a gate is registered", spec.name, f"choose one of {sorted(GATES)}")
        rows.append(_verdict(spec, evidence, promotion))
    return pl.DataFrame(rows, schema=VERDICT_SCHEMA)


def _verdict(spec: GateSpec, evidence: Evidence, promotion: PromotionSpec) -> dict[str, object]:
    gate = GATES[spec.name]
    row: dict[str, object] = {
        "gate": spec.name,
        "bound": spec.bound,
        "rule": gate.__doc__,
        "evaluation_hash": evidence.subject,
    }
    try:
        seen = gate(evidence, spec.bound, promotion)
    except (KeyError, BadInput, pl.exceptions.ColumnNotFoundError) as absent:
        return row | {
            "status": "missing",
            "value": None,
            "low": None,
            "high": None,
            "detail": f"no evidence: {absent}",
        }
    status = "not_applicable" if not seen.applicable else "pass" if seen.passed and isfinite(seen.reached) else "fail"
    numbers = {
        name: value if isfinite(value) else None
        for name, value in {"value": seen.reached, "low": seen.low, "high": seen.high}.items()
    }
    return row | numbers | {"status": status, "detail": seen.detail}
