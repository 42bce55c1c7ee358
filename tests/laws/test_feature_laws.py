"""Every registered feature obeys the laws, and each law can turn red."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from pipeline.errors import LawBroken
from pipeline.features import laws
from pipeline.features.history import History
from pipeline.features.plan import FAMILIES, Plan, plan
from pipeline.features.spec import Family, Feature
from tests.features.panels import Market, market


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
