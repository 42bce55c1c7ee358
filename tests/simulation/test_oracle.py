"""The planted signal: as strong as asked, readable from vendor tables, and absent when nothing is planted."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from pipeline.simulation.market import SimulatedMarket, simulate
from pipeline.simulation.oracle import mean_rank_ic
from pipeline.simulation.profiles import PROFILES
from tests.simulation.observables import observables, standardised


@pytest.mark.parametrize(("name", "target"), [("tiny", 0.3), ("demo", 0.15)])
def test_planted_rank_ic_is_the_profiles(name: str, target: float, request: pytest.FixtureRequest) -> None:
    """Pins a signal that is stronger or weaker than the profile says, by which every power figure would be wrong."""
    market: SimulatedMarket = request.getfixturevalue(name)
    assert market.oracle_rank_ic == pytest.approx(target, abs=0.01)


def test_a_large_market_is_planted_without_the_luck_of_its_sample() -> None:
    """Pins a weak signal that is planted a third too weak, because the calibration sample had luck without it.

    Both markets share all noise, so that their difference is what was planted; the sample has no such luck as theirs.
    """
    sizes = {"instruments": 300, "sessions": 800, "seed": 20_260_930, "minutes": False}
    planted, null = (
        simulate(PROFILES["demo"].model_copy(update={**sizes, "signal": signal})) for signal in (0.03, 0.0)
    )
    assert planted.oracle_rank_ic - null.oracle_rank_ic == pytest.approx(0.03, abs=0.003)


def test_nothing_planted_nothing_found(null: SimulatedMarket) -> None:
    """Pins a null market in which the past predicts: limits, ticks and magnets must leave no trade behind.

    The mean rank IC of one feature over 400 sessions has a standard deviation of about 0.004 between seeds.
    """
    features = ["return_1", "return_5", "return_20", "activity", "size", "pb", "turnover_rate", "range"]
    rows = null.oracle.join(observables(null).select("session", "instrument", *features), on=["session", "instrument"])
    found = {name: mean_rank_ic(rows, name) for name in features}
    assert null.strength == 0.0
    assert abs(null.oracle_rank_ic) < 0.015
    assert max(abs(value) for value in found.values()) < 0.02, found


def test_signal_can_be_read_from_the_vendor_tables(demo: SimulatedMarket) -> None:
    """Pins a signal that no honest feature could find: it must follow from published prices and volumes."""
    rows = observables(demo).join(demo.oracle, on=["session", "instrument"])
    rebuilt = rows.with_columns((-standardised("return_5")).alias("a"), (-standardised("activity")).alias("b"))
    rebuilt = rebuilt.with_columns((pl.col("a") + 0.7 * pl.col("b")).alias("combined"))
    pair = rebuilt.select(standardised("combined").alias("x"), pl.col("signal").alias("y")).drop_nulls()
    assert pair.height > 60_000
    # Volumes of a bonus issue's day are per share of another count in float32; nothing else may differ.
    assert np.quantile(np.abs(pair["x"].to_numpy() - pair["y"].to_numpy()), 0.999) < 0.01


def test_the_signal_pays_after_the_entry_only(demo: SimulatedMarket) -> None:
    """Pins a drift that falls into the night before the entry, where nobody could earn it."""
    rows = (
        observables(demo)
        .with_columns(
            (pl.col("open") / pl.col("pre_close")).log().shift(-1).over("instrument").alias("night"),
            (pl.col("close") / pl.col("open")).log().shift(-1).over("instrument").alias("day"),
        )
        .join(demo.oracle.drop("ret"), on=["session", "instrument"])
    )
    night = mean_rank_ic(rows.rename({"night": "ret"}), "signal")
    day = mean_rank_ic(rows.rename({"day": "ret"}), "signal")
    assert day > 0.08
    assert abs(night) < 0.02


def test_a_rising_market_lifts_every_name_alike() -> None:
    """Pins a rise that some names share in more than others: it would be a signal, and no null market could have it."""
    gain = [(pl.col("close") / pl.col("pre_close")).log().sum().alias("gain"), pl.len().alias("sessions")]
    flat, rising = (
        observables(simulate(PROFILES["tiny"].model_copy(update={"signal": 0.0, "rise": rise})))
        .group_by("instrument")
        .agg(gain)
        for rise in (0.0, 0.002)
    )
    both = flat.join(rising, on="instrument", suffix="_rising").filter(pl.col("sessions") > 100)
    each = both.select((pl.col("gain_rising") - pl.col("gain")) / pl.col("sessions")).to_series()
    assert each.median() == pytest.approx(0.002, abs=0.0002)
    assert each.std() < 0.0005  # type: ignore[operator]
