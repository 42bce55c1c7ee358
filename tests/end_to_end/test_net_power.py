"""The net on planted markets: from vendor rows to test scores, what it finds and what it must not find."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from benchmarks.multi_path_evidence import KEY, Market, fitted, make, rank_ic
from pipeline.diagnostics.ablation import standard_error
from pipeline.studies.ashare_daily import STUDY

pytestmark = [pytest.mark.xdist_group("net_power"), pytest.mark.slow]

NAMES, SESSIONS, SIGNAL, SEED = 150, 320, 0.2, 20_260_930
LAGS = 2 * STUDY.labels.exit_session  # labels of neighbouring sessions overlap
MEMBERS = {member.name: member for member in STUDY.members}


@cache
def market(plant: str) -> Market:
    return make(plant, NAMES, SESSIONS, SIGNAL, SEED)


def found(plant: str, name: str) -> np.ndarray:
    """Rank IC of a member on each test session."""
    scores, _, _ = fitted(MEMBERS[name], market(plant))
    return rank_ic(scores, "rank_head", market(plant).labels)


def planted(plant: str) -> float:
    """Rank IC of the planted signal itself on the same rows."""
    made = market(plant)
    rows = made.roles.filter(role="test").join(made.prepared.rows, on=KEY, how="semi").join(made.oracle, on=KEY)
    return float(rank_ic(rows, "signal", made.labels).mean())


@pytest.mark.parametrize(("plant", "others"), [("intraday", 0.3), ("regime", 0.75)])
def test_the_net_recovers_a_signal_that_the_others_do_not_see(plant: str, others: float) -> None:
    """Pins paths whose bars are shifted, scaled away or never reach the heads, and a FiLM that does nothing."""
    oracle = planted(plant)
    assert oracle > 0.1
    shares = {name: found(plant, name).mean() / oracle for name in MEMBERS}
    assert shares["multi_path"] >= 0.8, shares
    assert max(shares["linear"], shares["boosted"]) < others, shares


def test_the_net_finds_nothing_where_nothing_is() -> None:
    """Pins a net that sees its own future: a window or bar too late shows as a rank IC on a market of noise."""
    ic = found("none", "multi_path")
    assert abs(ic.mean()) <= 3.0 * standard_error(ic, LAGS)
    assert standard_error(ic, LAGS) < 0.05
