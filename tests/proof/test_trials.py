"""The ledger counts all that was scored, its count refuses, and each check under proof can fail."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from assets.proof import trial_numbers
from assets.proof.contract import BROKEN, HELD
from assets.proof.homes import runner_of
from assets.proof.trial_chain import tampered
from assets.proof.trial_numbers import golden
from assets.proof.trial_search import Search, searched
from assets.proof.trials import SIZES, another_configuration, counted, finding, long_ledger, run
from pipeline.diagnostics.finding import Finding
from pipeline.gates import chain, evaluate
from pipeline.gates.ledger import Ledger
from pipeline.studies import STUDIES

STUDY = STUDIES["ashare_daily"]
pytestmark = pytest.mark.xdist_group("proof_trials")
REFUSED = Search(0, 0.0, 2.0, frozenset({"probabilistic_sharpe", "net_excess"}), frozenset())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trials")


@pytest.fixture(scope="module")
def found(folder: Path) -> Finding:
    return run("small", folder, lambda text, done: None)


def test_what_is_scored_is_counted_and_the_count_refuses(found: Finding) -> None:
    """Pins a trial that is not recorded, also of a run that failed, and a search that passes as one configuration."""
    assert (found.status, found.score) == (HELD, 1.0), found.text
    recorded = found.tables["recorded"]
    assert recorded["after"].to_list()[-1] == "a run that failed after scoring"
    assert recorded["recorded"].to_list() == [6, 6, 12, 18]
    assert found.tables["searches"]["all pass, search hidden"].sum() > 0
    assert set(found.tables["changes"]["rows tried"]) <= {17, 18}


def test_the_full_version_searches_more_than_fifty_times() -> None:
    """Pins a fraction that rests on a few seeds, and a study that is left out."""
    assert SIZES["full"].searches >= 50
    assert SIZES["full"].studies is None


def of(
    recorded: pl.DataFrame, numbers: pl.DataFrame | None = None, search: Search = REFUSED,
    changed: pl.DataFrame | None = None,
) -> str:  # fmt: skip
    good = pl.DataFrame({"ledger": ["x"], "change": ["x"], "rows tried": [1], "detected": [1]})
    return finding(recorded, golden() if numbers is None else numbers, [(STUDY, [search])],
                   good if changed is None else changed).status  # fmt: skip


def test_a_trial_that_is_not_recorded_breaks_it(found: Finding, folder: Path, monkeypatch) -> None:
    """Pins a count that is compared with itself: members alone are scored and not recorded."""
    assert of(found.tables["recorded"]) == HELD
    append = Ledger.append
    monkeypatch.setattr(
        Ledger, "append", lambda self, trials: append(self, [t for t in trials if t.label == "ensemble"])
    )
    environment = another_configuration(folder / STUDY.name)
    runner_of(environment).stages(["backtest"])
    assert of(pl.DataFrame([counted(environment, "with members left out")])) == BROKEN


def test_an_unverified_chain_breaks_it(found: Finding, tmp_path: Path, monkeypatch) -> None:
    """Pins changes that no one looks for: rows whose hashes are not checked, a head that is not asked for."""
    monkeypatch.setattr("assets.proof.trials.LONG_LEDGER", 4)
    for check in ("_row_hash", "verify"):
        root = long_ledger(tmp_path / check)
        assert of(found.tables["recorded"], changed=tampered(root)) == HELD
        with monkeypatch.context() as patch:
            if check == "verify":
                patch.setattr(chain.Chain, "verify", lambda self, anchor: self.rows())
            else:
                patch.setattr(chain, "_row_hash", lambda row: row.get("hash"))
            assert of(found.tables["recorded"], changed=tampered(root)) == BROKEN


def test_a_gate_that_ignores_the_search_breaks_it(found: Finding, tmp_path: Path, monkeypatch) -> None:
    """Pins a refusal that has nothing to do with the count: with one effective trial the best of 200 passes."""
    passing = next(seed for seed in range(1000, 1010) if searched(STUDY, tmp_path, seed, 0.0).naive)
    assert of(found.tables["recorded"], search=searched(STUDY, tmp_path, passing, 0.0)) == HELD
    monkeypatch.setattr(evaluate, "effective_trials", lambda returns: 1.0)
    assert of(found.tables["recorded"], search=searched(STUDY, tmp_path, passing, 0.0)) == BROKEN


def test_a_wrong_statistic_breaks_it(found: Finding, monkeypatch) -> None:
    """Pins golden numbers that are computed from the code they judge: annualised moments, excess kurtosis."""
    honest = trial_numbers.probabilistic_sharpe
    monkeypatch.setattr(trial_numbers, "probabilistic_sharpe", lambda m: honest(m.__class__(m.n, m.sharpe, m.skew, 2)))
    assert of(found.tables["recorded"], numbers=golden()) == BROKEN
