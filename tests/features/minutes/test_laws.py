"""Every registered minute feature obeys the laws, needs the look-back it declares; and each law can turn red."""

from __future__ import annotations

import polars as pl
import pytest

from pipeline.errors import LawBroken
from pipeline.features.minutes import laws
from pipeline.features.minutes.schema import ORDER, SCHEMA
from tests.features.minutes.markets import inputs, minute

# Each symbol a day past its last gap; 209 and 2129 close when a late funding is due.
CUTS = tuple(minute(i) for i in (209, 299, 380, 390, 1500, 1829, 2129, 2600, 3399))


@pytest.fixture(scope="module")
def subject() -> laws.MinuteSubject:
    return laws.MinuteSubject(inputs(), CUTS)


@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__)
def test_every_registered_feature_obeys(law, subject):
    """Pins extent dependence: a value that moves with what is stored around its window."""
    law(subject)
    assert subject.judged == ORDER


def test_a_declared_lookback_is_what_the_values_need(subject):
    """Pins look-backs declared by guess: with one minute fewer, some value of every windowed feature changes."""
    many = tuple(minute(i) for i in (2129, *range(1829, 3400, 31)))
    slack = []
    for minutes in sorted({feature.lookback for feature in SCHEMA} - {1}):
        needy = {feature.name for feature in SCHEMA if feature.lookback == minutes}
        for cut in many:
            short = subject.window(cut, minutes - 1, sorted(needy))
            needy -= {row[0] for row in laws.differences(subject.whole, short, needy)}
            if not needy:
                break
        slack += sorted(needy)
    assert slack == []


def test_measured_lookbacks_find_the_windows(subject):
    """Pins a measurement that echoes the declaration instead of measuring."""
    columns = {"ret_15m_bps": 16, "ofi_l1_5m": 6, "ofi_l1_5m_zscore_240m": 245, "minute_of_day_sin": 1}
    chosen = laws.MinuteSubject(subject.inputs, tuple(minute(i) for i in (2900, 3399)), tuple(columns))
    assert laws.measured_lookbacks(chosen) == columns


def _next_minute(values: pl.DataFrame) -> pl.Expr:
    return pl.col("ret_1m_bps").shift(-1).over("instrument", order_by="minute")


def _running_sum(values: pl.DataFrame) -> pl.Expr:
    return pl.col("ret_1m_bps").cum_sum().over("instrument", order_by="minute")


def _less_batch_mean(values: pl.DataFrame) -> pl.Expr:
    return pl.col("ret_1m_bps") - pl.col("ret_1m_bps").mean()


def _less_minute_mean(values: pl.DataFrame) -> pl.Expr:
    return pl.col("ret_1m_bps") - pl.col("ret_1m_bps").mean().over("minute")


@pytest.mark.parametrize(
    ("law", "broken"),
    [
        (laws.check_future_cut, _next_minute),
        (laws.check_past_cut, _running_sum),
        (laws.check_batch_range, _less_batch_mean),
        (laws.check_universe, _less_minute_mean),
    ],
    ids=lambda x: x.__name__,
)
def test_each_law_turns_red(law, broken, subject):
    """Pins a law that cannot fail: each meets the leak it exists for, and its red names column and remedy."""

    def calculate(part, names):
        values = laws.calculate_features(part, names)
        return values.with_columns(ret_1m_bps=broken(values))

    with pytest.raises(LawBroken, match=r"ret_1m_bps.*remedy"):
        law(laws.MinuteSubject(subject.inputs, CUTS, ("ret_1m_bps", "ret_3m_bps"), calculate))


def test_the_order_law_turns_red(subject):
    """Pins a feature that reads rows as they arrive."""

    def calculate(part, names):
        values = laws.calculate_features(part, names)
        first = part.bars["instrument"][0], part.bars["minute"][0]
        seen = (pl.col("instrument") == first[0]) & (pl.col("minute") == first[1])
        return values.with_columns(ret_1m_bps=pl.col("ret_1m_bps").fill_null(0.0) + seen.cast(pl.Float32))

    with pytest.raises(LawBroken, match="ret_1m_bps"):
        laws.check_batch_order(laws.MinuteSubject(subject.inputs, CUTS, ("ret_1m_bps",), calculate))
