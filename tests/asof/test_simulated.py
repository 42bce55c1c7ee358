"""The panel of a simulated market whose limit rules are code of their own: two opinions, no difference."""

from __future__ import annotations

import polars as pl
import pytest

from pipeline.asof.panel import PanelTables, build_panel
from pipeline.simulation.market import SimulatedMarket, simulate
from pipeline.simulation.profiles import PROFILES
from tests.asof.markets import MARKET, UNIVERSE


@pytest.fixture(scope="module")
def market() -> SimulatedMarket:
    return simulate(PROFILES["tiny"])


@pytest.fixture(scope="module")
def built(market: SimulatedMarket) -> PanelTables:
    raw = {name: rows.rename({"published_at": "known_at"}) for name, rows in market.tables.items()}
    return build_panel(raw, market.calendar, list(market.sessions), MARKET, UNIVERSE)


def test_computed_limits_equal_the_simulated_exchange(built):
    """Pins: a dated rule that two independent readings of the facts understand differently."""
    traded = built.panel.frame.filter(pl.col("up_limit").is_not_null())
    assert traded["board"].n_unique() == 4
    assert len(traded) > 1_000
    assert not built.panel.frame["limit_mismatch"].any()


def test_only_the_planted_faults_are_quarantined_and_patched(built):
    """Pins: false alarms on an honest market, which would teach people to ignore the quarantine."""
    share = len(built.quarantine) / len(built.panel.frame)
    assert share < 0.02
    assert not set(built.quarantine["rule"]) & {
        "not_listed",
        "unknown_code",
        "invalid_quote",
        "st_against_name",
    }
    late = built.patches.filter(pl.col("effective_session") <= pl.col("session"))
    assert late.is_empty()


def test_old_and_new_codes_are_one_row_a_day(built):
    """Pins: a security doubled or lost on the day its code changes."""
    bse = built.panel.frame.filter(pl.col("board") == "bse")
    assert not bse.select("session", "instrument").is_duplicated().any()
    assert (
        not bse["instrument"]
        .is_in(bse.filter(pl.col("code") != pl.col("instrument"))["code"].unique().implode())
        .any()
    )
