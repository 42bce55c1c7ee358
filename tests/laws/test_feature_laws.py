"""Every registered feature, and every channel of Path A, obeys the laws; and each law can turn red."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date

import numba
import numpy as np
import polars as pl
import pytest

from pipeline.errors import LawBroken
from pipeline.features import laws
from pipeline.features.channels import CHANNELS, channel_family
from pipeline.features.compute import path_channels
from pipeline.features.history import History
from pipeline.features.plan import FAMILIES, Plan, plan
from pipeline.features.spec import Family, Feature
from tests.features.panels import N_BARS, Market, market

KEY = ["session", "instrument"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Thousands of tiny computations: starting threads would cost more than they do."""
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(before)


@pytest.fixture(scope="module")
def small() -> Market:
    return market(n_instruments=9, n_sessions=72, patch_share=0.03)


def subject(plan: Plan, inputs: Market, **options) -> laws.Subject:
    """Cut at every sixth session, which is where any of these leaks shows."""
    return laws.Subject(plan, inputs, cuts=tuple(inputs.sessions[-1::-6]), **options)


@pytest.fixture(scope="module")
def wide() -> Market:
    return market(n_instruments=60, n_sessions=72)


@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__)
def test_every_registered_feature_obeys(law, small):
    """Pins extent dependence: a value that moves with what is stored around its window."""
    law(subject(plan(list(FAMILIES)), small))


def _with_bars(inputs: Market, n_bars: int) -> Market:
    """The market with the first bars of its days as whole days of `n_bars`."""
    bars = inputs.intraday["bars"].to_numpy()[:, : n_bars * 5]
    return replace(
        inputs, intraday=inputs.intraday.with_columns(bars=pl.Series(bars, dtype=pl.Array(pl.Float64, n_bars * 5)))
    )


def stored_channels(inputs: Market, plan: Plan, sessions: Sequence[date]) -> pl.DataFrame:
    """The `paths` table as columns, one per channel and bar; a panel row without minutes is a row of nulls."""
    paths = path_channels(inputs.intraday, inputs.as_of, sessions)
    by_bar = paths["channels"].to_numpy().reshape(len(paths), -1, len(CHANNELS)).transpose(0, 2, 1)
    columns = pl.DataFrame(by_bar.reshape(len(paths), -1), schema=dict.fromkeys(plan.schema, pl.Float32))
    rows = inputs.panel.filter(pl.col("session").is_in(list(sessions))).select(KEY).sort(KEY)
    stored = pl.concat([paths.select(KEY), columns], how="horizontal")
    return rows.join(stored, on=KEY, how="left", maintain_order="left")


def channel_subject(inputs: Market, n_bars: int, calculate: laws.Calculate) -> laws.Subject:
    return subject(Plan((channel_family(n_bars),)), _with_bars(inputs, n_bars), calculate=calculate)


@pytest.mark.parametrize(
    ("n_bars", "calculate"), [(N_BARS, stored_channels), (16, stored_channels), (16, laws.calculate_features)]
)
def test_every_channel_obeys(n_bars, calculate, small):
    """Pins a channel that moves with other days, names or batches: every law, bar by bar, and one session measured."""
    judged = channel_subject(small, n_bars, calculate)
    for law in laws.LAWS:
        law(judged)
    assert laws.measured_lookbacks(judged) == dict.fromkeys(judged.plan.schema, 1)


def _tomorrows_bars(values: pl.DataFrame) -> pl.Expr:
    return pl.col(values.columns[2:]).shift(-1).over("instrument", order_by="session")


def _filled_forward(values: pl.DataFrame) -> pl.Expr:
    return pl.col(values.columns[2:]).forward_fill().over("instrument", order_by="session")


def _less_batch_mean(values: pl.DataFrame) -> pl.Expr:
    return pl.col(values.columns[2:]) - pl.col(values.columns[2:]).mean()


def _less_session_mean(values: pl.DataFrame) -> pl.Expr:
    return pl.col(values.columns[2:]) - pl.col(values.columns[2:]).mean().over("session")


@pytest.mark.parametrize(
    ("law", "broken"),
    [
        (laws.check_future_cut, _tomorrows_bars),
        (laws.check_past_cut, _filled_forward),
        (laws.check_batch_range, _less_batch_mean),
        (laws.check_universe, _less_session_mean),
    ],
    ids=lambda x: x.__name__,
)
def test_each_law_turns_red_on_a_broken_channel(law, broken, small):
    """Pins laws that look at channels without seeing: tomorrow's bars, bars filled forward, and two normalisations."""

    def calculate(inputs, plan, sessions):
        # Whole history first, as a careless stage would; the laws cut what is stored.
        values = stored_channels(inputs, plan, inputs.sessions if broken is not _less_batch_mean else sessions)
        return values.with_columns(broken(values)).filter(pl.col("session").is_in(list(sessions)))

    with pytest.raises(LawBroken, match="bar_return"):
        law(channel_subject(small, 16, calculate))


def _planted(compute, lookback: int = 5, min_bars: int = 1, scope: str = "instrument") -> Plan:
    feature = Feature(
        "planted", "planted", ("close", "factor"), lookback, min_bars, scope, "ratio", "broken on purpose"
    )
    return Plan((Family("planted", (feature,), lambda history: compute(history).astype(np.float32)[None]),))


def _tomorrow(history: History) -> np.ndarray:
    close = np.roll(history.values["close"], -1, axis=1)
    return history.take(close)


def _recursive(history: History) -> np.ndarray:
    close, average = history.values["close"], np.zeros(len(history.start))
    out = np.empty_like(close)
    for t in range(close.shape[1]):
        average = 0.5 * average + 0.5 * np.nan_to_num(close[:, t])
        out[:, t] = average
    return history.take(out)


def _batch_normalised(history: History) -> np.ndarray:
    close = history.lagged("close")
    return close - np.nanmean(close)


def _market_relative(history: History) -> np.ndarray:
    close = history.lagged("close")
    return close - history.per_session(np.array([np.nansum(close[a:b]) for a, b in _spans(history)]))


def _spans(history: History) -> list[tuple[int, int]]:
    return list(zip(history.row_starts[:-1], history.row_starts[1:], strict=True))


def _always(history: History) -> np.ndarray:
    return np.ones(len(history.rows))


def _arrival_order(market, plan, sessions):
    values = laws.calculate_features(market, plan, sessions)
    first = market.panel["instrument"][0]
    return values.with_columns(planted=(values["instrument"] == first).cast(values["planted"].dtype))


@pytest.mark.parametrize(
    ("law", "broken", "options"),
    [
        (laws.check_future_cut, _planted(_tomorrow), {}),
        (laws.check_past_cut, _planted(_recursive), {}),
        (laws.check_batch_range, _planted(_batch_normalised), {}),
        (laws.check_batch_order, _planted(_always), {"calculate": _arrival_order}),
        (laws.check_universe, _planted(_market_relative), {}),
        (laws.check_min_bars, _planted(_always, min_bars=3), {}),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_each_law_turns_red(law, broken, options, small):
    """Pins a law that cannot fail: each meets the leak it exists for, and its red names column and remedy."""
    with pytest.raises(LawBroken, match=r"planted.*remedy"):
        law(subject(broken, small, **options))


def test_a_declared_lookback_is_what_the_values_need(wide):
    """Pins look-backs declared by guess: with one session fewer, some value of every windowed feature
    changes."""
    slack = []
    for family in FAMILIES.values():
        whole = laws.Subject(Plan((family,)), wide)
        for lookback in sorted({f.lookback for f in family.features} - {1}):
            needy = {f.name for f in family.features if f.lookback == lookback}
            for at in range(len(wide.sessions) - 1, lookback, -1):
                short = whole.window(whole.plan, at, lookback - 1)
                needy -= {row[0] for row in laws.differences(whole.whole, short, needy)}
                if not needy:
                    break
            slack += sorted(needy)
    assert slack == []


def test_measured_lookbacks_find_the_windows(small):
    """Pins a measurement that echoes the declaration instead of measuring."""
    columns = {"MA20": 20, "ROC60": 61, "realised_volatility_5": 6, "market_volatility_20": 21}
    chosen = laws.Subject(plan(["alpha158", "returns", "regime"]), small, tuple(columns), tuple(small.sessions[-5:]))
    assert laws.measured_lookbacks(chosen) == columns


def test_measured_lookbacks_expose_a_recursive_feature(small):
    """Pins unbounded memory: an exponential average without a window needs all of history, not the 5 it
    declares."""
    broken = laws.Subject(_planted(_recursive), small, cuts=tuple(small.sessions[-1:]))
    assert laws.measured_lookbacks(broken)["planted"] > 20
