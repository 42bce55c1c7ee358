"""Gates as data: each can pass and can fail, absent evidence is missing, and a search is found out."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.errors import BadInput
from pipeline.gates.evaluate import GATES, VERDICT_SCHEMA, Evidence, evaluate
from pipeline.gates.ledger import Ledger, Trial
from pipeline.gates.spec import GateSpec, PromotionSpec

SESSIONS = [date(2024, 1, 1) + timedelta(days=i) for i in range(500)]
BOUNDS = {
    "folds_overlap": 0, "folds_coverage": 1, "rank_ic": 0, "net_excess": 0, "net_return": 0, "worst_path": 0,
    "probabilistic_sharpe": 0.95, "deflated_sharpe": 0.9, "overfitting": 0.5, "track_record": 1,
    "impossible_fills": 0, "calibration": 1.02, "locked_excess": 0, "locked_openings": 1, "break_even": 1,
    "sealed_verdict": 0, "capacity": 0.8, "quarantined": 0.05, "replay": 0, "weights": 0, "refit_correlation": 0.5,
    "conformance": 0,
}  # fmt: skip


def noise(seed: int, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(len(SESSIONS)) * 0.01 + mean


def ledger_of(root: Path, series: list[np.ndarray]) -> pl.DataFrame:
    ledger = Ledger(root)
    ledger.append(
        Trial(f"configuration {i}", str(i), "E", "paths", SESSIONS, returns.tolist())
        for i, returns in enumerate(series)
    )
    return ledger.rows()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """A skilful evaluation, with every piece of evidence."""
    paths = {f"path_{i:02d}": noise(i, 0.003) for i in range(3)}
    trials = [np.mean(list(paths.values()), axis=0), noise(10, 0.001), noise(11, 0.0)]
    certificate = {"split": ["a", "b"], "overlap_rows": [0, 0], "tested_min": [5, 5], "tested_max": [5, 5],
                   "tested_expected": [5, None]}  # fmt: skip
    return Evidence(
        subject="E",
        certificate=pl.DataFrame(certificate),
        excess=paths | {"locked": noise(20, 0.003)},
        net=paths,
        rank_ic={"paths": np.append(noise(30, 0.05), np.nan)},
        metrics={path: {"break_even_round_trip_bps": 60.0, "placed_share": 0.9} for path in paths},
        calibration=pl.DataFrame({"head": ["q", "r"], "brier": [0.1, 0.2], "constant_brier": [0.16, 0.2]}),
        trials=ledger_of(tmp_path_factory.mktemp("ledger"), trials),
        facts={"impossible_fills": 0, "fills": 900, "quarantined_share": 0.01, "locked_openings": 1,
               "cost_bps": 30.2, "replay_differences": 0, "weights_differences": 0, "refit_correlation": 0.9,
               "conformance_differences": 0},
        reasons=(),
    )  # fmt: skip


def judge(evidence: Evidence, *names: str, optional: bool = False) -> dict[str, dict[str, Any]]:
    gates = tuple(GateSpec(name=n, bound=BOUNDS[n], optional=optional) for n in names or BOUNDS)
    verdicts = evaluate(evidence, PromotionSpec(gates=gates, bootstrap_samples=200))
    assert verdicts.schema == pl.Schema(VERDICT_SCHEMA)
    return {row["gate"]: row for row in verdicts.iter_rows(named=True)}


def test_every_registered_gate_can_pass(good: Evidence) -> None:
    """Pins a gate that no evidence satisfies, and one that is registered but never tried."""
    assert BOUNDS.keys() == GATES.keys()
    rows = judge(good)
    assert {gate: row["status"] for gate, row in rows.items()} == dict.fromkeys(BOUNDS, "pass")
    assert all(row["rule"] and row["detail"] and row["evaluation_hash"] == "E" for row in rows.values())


BAD: dict[str, dict[str, Any]] = {
    "folds_overlap": {"certificate": pl.DataFrame({"overlap_rows": [0, 1]})},
    "folds_coverage": {"certificate": pl.DataFrame({"tested_min": [4], "tested_max": [5], "tested_expected": [5]})},
    "rank_ic": {"rank_ic": {"paths": noise(1)}},
    "net_excess": {"excess": {"path_00": noise(1)}},
    "net_return": {"net": {"path_00": noise(1), "path_01": noise(2)}},
    "conformance": {"facts": {"conformance_differences": 1}},
    "worst_path": {"excess": {"path_00": noise(1, 0.01), "path_01": noise(2, -0.001)}},
    "probabilistic_sharpe": {"excess": {"path_00": noise(1)}},
    "deflated_sharpe": {"excess": {"path_00": noise(1)}},
    "track_record": {"excess": {"path_00": noise(1, -0.001)}},
    "impossible_fills": {"facts": {"impossible_fills": 1, "fills": 3}},
    "calibration": {
        "calibration": pl.DataFrame({"head": ["q", "r"], "brier": [0.1, 0.21], "constant_brier": [0.16, 0.2]})
    },
    "locked_excess": {"excess": {"locked": noise(1, -0.001)}},
    "locked_openings": {"facts": {"locked_openings": 2}},
    "break_even": {"metrics": {"path_00": {"break_even_round_trip_bps": 30.0}}, "facts": {"cost_bps": 30.2}},
    "capacity": {"metrics": {"path_00": {"placed_share": 0.9}, "path_01": {"placed_share": 0.7}}},
    "quarantined": {"facts": {"quarantined_share": 0.06}},
    "replay": {"facts": {"replay_differences": 1}},
    "weights": {"facts": {"weights_differences": 1}},
    "refit_correlation": {"facts": {"refit_correlation": 0.49}},
    "sealed_verdict": {"reasons": ("latest_stress_trade_count_below_20",)},
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_every_gate_can_fail(name: str, good: Evidence) -> None:
    """Pins a gate that is green whatever it sees."""
    assert judge(replace(good, **BAD[name]), name)[name]["status"] == "fail"


def test_a_sealed_verdict_lists_its_reasons(good: Evidence) -> None:
    """Pins a refusal that says how many reasons there are, but not which."""
    reasons = ("latest_stress_trade_count_below_20", "validation_locked_avg_trade_edge_not_positive")
    row = judge(replace(good, reasons=reasons), "sealed_verdict")["sealed_verdict"]
    assert (row["value"], row["detail"]) == (2.0, ", ".join(reasons))


def test_a_year_has_the_sessions_of_its_market(good: Evidence) -> None:
    """Pins a market that never closes annualised by the sessions of a stock exchange."""
    names = ("net_excess", "worst_path", "locked_excess")
    year, longer = judge(good, *names), judge(replace(good, sessions_per_year=504), *names)
    for name in names:
        assert longer[name]["value"] == pytest.approx(2 * year[name]["value"], rel=1e-12)
    for name in ("net_excess", "locked_excess"):
        assert longer[name]["low"] == pytest.approx(2 * year[name]["low"], rel=1e-12)
    for name, word in (("probabilistic_sharpe", "annual Sharpe "), ("deflated_sharpe", "benchmark Sharpe ")):
        said = [judge(evidence, name)[name] for evidence in (good, replace(good, sessions_per_year=504))]
        numbers = [float(row["detail"].split(word)[1].split()[0]) for row in said]
        assert numbers[1] == pytest.approx(np.sqrt(2) * numbers[0], abs=0.02)
        assert said[0]["value"] == said[1]["value"]


def test_overfitting_can_fail(good: Evidence, tmp_path: Path) -> None:
    """Pins PBO: two configurations that win in turn, so that the winner of one half loses the other."""
    turns = np.repeat([0.01, -0.01], len(SESSIONS) // 2)
    trials = ledger_of(tmp_path, [noise(1) + turns, noise(2) - turns])
    assert judge(replace(good, trials=trials), "overfitting")["overfitting"]["status"] == "fail"


@pytest.mark.parametrize("name", BOUNDS)
def test_absent_evidence_is_missing_and_never_green(name: str) -> None:
    """Pins an empty evaluation that passes, and a scorecard that crashes instead of saying what lacks."""
    row = judge(Evidence(subject="E"), name)[name]
    allowed = {"missing", "not_applicable"} if name == "locked_excess" else {"missing"}
    assert row["status"] in allowed, row
    assert row["value"] is None


def test_empty_tables_are_no_evidence(good: Evidence) -> None:
    """Pins the vacuous pass: no splits overlap, no head is badly calibrated."""
    bare = replace(good, certificate=good.certificate.clear(), calibration=good.calibration.clear())
    rows = judge(bare, "folds_overlap", "folds_coverage", "calibration")
    statuses = {gate: row["status"] for gate, row in rows.items()}
    assert statuses == {"folds_overlap": "missing", "folds_coverage": "fail", "calibration": "not_applicable"}


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_number_that_is_none_never_passes(wrong: float, good: Evidence) -> None:
    """Pins a comparison with NaN or infinity that happens to be true."""
    for name, fact in (("refit_correlation", wrong), ("replay", -wrong)):
        facts = {"refit_correlation": fact, "replay_differences": fact}
        row = judge(replace(good, facts=facts), name)[name]
        assert (row["status"], row["value"]) == ("fail", None)
        assert name == "replay" or "ranks nothing" in row["detail"]


def test_one_configuration_has_no_pbo(good: Evidence, tmp_path: Path) -> None:
    """Pins the only case in which PBO may be left out; whether that counts is the study's to say."""
    alone = replace(good, trials=ledger_of(tmp_path, [noise(1)]))
    row = judge(alone, "overfitting")["overfitting"]
    assert (row["status"], row["value"], row["detail"]) == ("not_applicable", None, "1 trials, 1.0 effective")


def test_members_that_agree_have_no_pbo(good: Evidence, tmp_path: Path) -> None:
    """Pins a refusal by coin toss: of two series that are nearly one, the better half is noise and PBO is about 0.5."""
    common = noise(1)
    trials = ledger_of(tmp_path, [common + 0.05 * noise(2), common + 0.05 * noise(3)])
    assert judge(replace(good, trials=trials), "overfitting")["overfitting"]["status"] == "not_applicable"


def test_sides_are_judged_apart(good: Evidence) -> None:
    """Pins a candidate judged by its evaluation's gates."""
    gates = (GateSpec(name="replay", bound=0, applies_to="candidate"), GateSpec(name="net_excess", bound=0))
    promotion = PromotionSpec(gates=gates)
    assert evaluate(good, promotion)["gate"].to_list() == ["net_excess"]
    assert evaluate(good, promotion, side="candidate")["gate"].to_list() == ["replay"]


def test_an_unknown_gate_is_named() -> None:
    """Pins a misspelt gate that would otherwise never be judged."""
    with pytest.raises(BadInput, match="net_exces"):
        evaluate(Evidence(subject="E"), PromotionSpec(gates=(GateSpec(name="net_exces", bound=0),)))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, pl.DataFrame]:
    """The best of 200 worthless configurations, and the ledger that counted them all."""
    series = [noise(1000 + i) for i in range(200)]
    best = max(series, key=lambda returns: returns.mean() / returns.std())
    return best, ledger_of(tmp_path_factory.mktemp("searched"), series)


def test_the_best_of_200_noise_configurations_is_refused(searched: tuple[np.ndarray, pl.DataFrame]) -> None:
    """Pins the false discovery: by itself it looks certain, beside the search that found it, it does not."""
    best, trials = searched
    evidence = Evidence(subject="E", excess={"path_00": best}, trials=trials)
    rows = judge(evidence, "probabilistic_sharpe", "net_excess", "deflated_sharpe")
    assert rows["probabilistic_sharpe"]["status"] == "pass"
    assert rows["net_excess"]["status"] == "pass"
    assert rows["deflated_sharpe"]["status"] == "fail"
    assert rows["deflated_sharpe"]["value"] < 0.7
    assert rows["deflated_sharpe"]["detail"].startswith("200 trials, 200.0 effective")


def test_a_hidden_search_passes_which_is_why_the_ledger_counts(
    searched: tuple[np.ndarray, pl.DataFrame], tmp_path: Path
) -> None:
    """Pins that it is the count which refuses: the same returns with the search left out are green."""
    best, _ = searched
    hidden = Evidence(subject="E", excess={"path_00": best}, trials=ledger_of(tmp_path, [best]))
    assert judge(hidden, "deflated_sharpe")["deflated_sharpe"]["status"] == "pass"
