"""Plants beside the daily one: as strong as asked, known at their session, hidden from what must not find them."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from pipeline.asof.panel import build_panel
from pipeline.features.compute import compute
from pipeline.features.plan import plan
from pipeline.fingerprints import hash_frame
from pipeline.simulation.market import SimulatedMarket, simulate
from pipeline.simulation.minutes import SHAPE
from pipeline.simulation.oracle import mean_rank_ic
from pipeline.simulation.planting import regimes
from pipeline.simulation.profiles import PROFILES, Profile
from pipeline.studies.ashare_daily import STUDY
from resources.simulated import simulated_market
from tests.simulation.observables import observables, standardised

ROW = ["session", "instrument"]
PRICES = ["ts_code", "trade_date", "open", "high", "low", "close", "pre_close", "published_at"]


@pytest.fixture(scope="module")
def intraday() -> SimulatedMarket:
    return planted(plant="intraday", signal=0.1, sessions=300)


@pytest.fixture(scope="module")
def regime() -> SimulatedMarket:
    return planted(plant="regime")


def planted(**fields: Any) -> SimulatedMarket:
    """The demo market, 200 names x 400 sessions and rank IC 0.15, with some fields replaced."""
    return simulate(PROFILES["demo"].model_copy(update=fields))


def study_features(market: SimulatedMarket) -> pl.DataFrame:
    """The study's features of eligible rows, through the as-of panel; beside them `signal` and `ret`."""
    raw = {name: rows.rename({"published_at": "known_at"}) for name, rows in market.tables.items()}
    raw["stk_mins"] = market.minutes().rename({"published_at": "known_at"})
    tables = build_panel(raw, market.calendar, list(market.sessions), STUDY.market, STUDY.universe)
    features = compute(tables.panel, tables.patches, tables.intraday, plan(STUDY.features), list(market.sessions))
    renamed = dict(market.tables["bse_mapping"].select("o_code", "n_code").iter_rows())
    eligible = tables.panel.frame.filter("eligible").select(ROW)
    truth = market.oracle.with_columns(pl.col("instrument").replace(renamed))
    return features.join(eligible, on=ROW).join(truth, on=ROW)


def test_the_default_market_is_the_one_it_was(tiny: SimulatedMarket) -> None:
    """Pins a new plant that moves the old markets: every figure that was published of them would be another's."""
    assert tiny.profile.plant == "daily"
    assert (
        hash_frame(tiny.tables["daily"].drop("published_at"))
        == "4f42f49ce5b72909105a5d3c3b441ead86f2ead85bc827d38a2616f36ab1adc9"
    )
    assert (tiny.regime["regime"] == 1.0).all()


@pytest.mark.parametrize("plant", ["intraday", "regime"])
def test_planted_rank_ic_is_the_profiles(plant: str) -> None:
    """Pins a plant whose strength was calibrated for another: power figures would be wrong."""
    market = planted(plant=plant, signal=0.1, sessions=300)
    assert market.oracle_rank_ic == pytest.approx(0.1, abs=0.01)


def test_a_plant_that_pays_nothing_changes_no_price(null: SimulatedMarket) -> None:
    """Pins a plant that drives returns by another way than its signal; a regime shows in volumes alone."""
    inside, between = planted(plant="intraday", signal=0.0), planted(plant="regime", signal=0.0)
    assert inside.tables["daily"].equals(null.tables["daily"])
    assert between.tables["daily"].select(PRICES).equals(null.tables["daily"].select(PRICES))
    assert not between.tables["daily"]["vol"].equals(null.tables["daily"]["vol"])
    assert abs(inside.oracle_rank_ic) < 0.015
    assert abs(between.oracle_rank_ic) < 0.015


def test_intraday_signal_follows_from_the_sessions_own_sold_bars(intraday: SimulatedMarket) -> None:
    """Pins a signal that reads a later or an earlier session, or anything that no reader of the minutes can buy."""
    bars = intraday.minutes().with_columns(pl.col("trade_time").dt.date().alias("session"))
    usual = pl.DataFrame({"at": bars["trade_time"].dt.time().unique().sort(), "usual": SHAPE})
    moved = (
        bars.with_columns(pl.col("trade_time").dt.time().alias("at"))
        .join(usual, on="at")
        .filter(pl.col("high") > pl.col("low"))
        .with_columns((pl.col("vol") / pl.col("usual")).alias("excess"))
    )
    excess = pl.col("excess") * pl.col("usual").sum() / pl.col("vol").sum() - 1.0
    days = moved.group_by("session", instrument="ts_code").agg(
        ((pl.col("close") / pl.col("open") - 1.0) * excess).sum().alias("move")
    )
    rows = intraday.oracle.join(days, on=ROW, how="left").with_columns(pl.col("move").fill_null(0.0))
    pair = rows.select(standardised("move").alias("rebuilt"), "signal")
    assert pair.height > 45_000
    assert np.abs(pair["rebuilt"].to_numpy() - pair["signal"].to_numpy()).max() < 1e-5


def test_no_daily_feature_sees_the_intraday_signal(intraday: SimulatedMarket) -> None:
    """Pins an intraday plant that a linear model finds in daily columns; a lock at a limit once showed it with 0.09.

    A column that is constant in a session shows nothing in it and counts as 0. Of noise the mean daily rank correlation
    has a standard deviation of 0.005 here; the largest of some 260 is near 0.02.
    """
    names = list(plan(STUDY.features).schema)
    rows = study_features(intraday)
    assert mean_rank_ic(rows, "signal") > 0.09
    ranks = rows.select("session", pl.col(*names, "signal").rank().over("session"))
    by_session = (
        ranks.group_by("session").agg(pl.corr(name, "signal") for name in names).select(pl.col(names).fill_nan(None))
    )
    assert sum(by_session[name].null_count() < 10 for name in names) > 200  # the rest: market features and rare flags
    seen = by_session.select(pl.all().fill_null(0.0).mean().abs()).row(0, named=True)
    found = sorted(((value, name) for name, value in seen.items()), reverse=True)
    assert found[0][0] < 0.04, found[:5]


def test_regime_signal_is_the_daily_one_times_the_state(regime: SimulatedMarket) -> None:
    """Pins a regime plant that reads more than published prices and volumes and the state of its own session."""
    rows = observables(regime).join(regime.oracle, on=ROW).join(regime.regime, on="session")
    combined = -standardised("return_5") - 0.7 * standardised("activity")
    rows = rows.with_columns(combined.alias("combined"))
    pair = rows.select(
        (standardised("combined") * pl.col("regime")).alias("x"), pl.col("signal").alias("y")
    ).drop_nulls()
    assert pair.height > 60_000
    assert np.quantile(np.abs(pair["x"].to_numpy() - pair["y"].to_numpy()), 0.999) < 0.01


def test_without_the_state_the_regime_signal_pays_nothing(regime: SimulatedMarket) -> None:
    """Pins a state of one sign, by which a model that is blind to it would earn what the plant is to withhold."""
    rows = regime.oracle.join(regime.regime, on="session").with_columns(
        (pl.col("signal") / pl.col("regime")).alias("daily")
    )
    busy, quiet = (rows.filter(mask) for mask in (pl.col("regime") > 0.3, pl.col("regime") < -0.3))
    assert regime.oracle_rank_ic == pytest.approx(0.15, abs=0.01)
    assert abs(mean_rank_ic(rows, "daily")) < 0.02
    assert mean_rank_ic(busy, "daily") > 0.12
    assert mean_rank_ic(quiet, "daily") < -0.12


def test_the_state_shows_in_the_markets_turnover(regime: SimulatedMarket) -> None:
    """Pins a state that nobody could read at the session it belongs to."""
    basic = regime.tables["daily_basic"].unique(["trade_date", "ts_code"], keep="last")
    turnover = basic.group_by(session="trade_date").agg(pl.col("turnover_rate").mean().log())
    both = regime.regime.join(turnover, on="session")
    assert len(both) == 400
    assert np.corrcoef(both["regime"], both["turnover_rate"])[0, 1] > 0.75


def test_states_are_slow_balanced_and_do_not_read_ahead() -> None:
    """Pins a state that mostly has one sign, that flips like a coin, or that knows how long the sample is."""
    paths = np.stack([regimes(seed, 3, 400) for seed in range(40)])
    assert np.abs(paths.mean(axis=1)).max() < 0.08
    assert 0.4 < (paths > 0).mean(axis=1).min() <= (paths > 0).mean(axis=1).max() < 0.6
    flips = (np.diff(np.sign(paths), axis=1) != 0).sum(axis=1)
    assert 12 <= flips.min() <= flips.max() <= 20  # 400 sessions at 25 from flip to flip
    assert np.array_equal(regimes(7, 3, 400)[:150], regimes(7, 3, 150))


def test_a_plant_is_chosen_by_override() -> None:
    """Pins a knob that settings cannot reach."""
    assert simulated_market("tiny", {"plant": "regime"}).regime["regime"].n_unique() == 160


def test_an_intraday_plant_needs_minutes_on_sale() -> None:
    """Pins a market whose signal nobody can read."""
    with pytest.raises(ValidationError, match="minutes that are sold"):
        Profile(name="blind", instruments=40, sessions=160, plant="intraday", minutes=False)
