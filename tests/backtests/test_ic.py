"""Rank IC and quantile returns against scipy and pandas."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from pipeline.backtests.ic import forward_returns, ic_summary, information_coefficients, pooled_rank_ic, rank_ic
from pipeline.errors import BadInput, KeyViolation
from tests.backtests.cases import flat_panel, market_of, weekdays

DAYS = weekdays(2)


def frames(seed: int, n: int, missing: float, levels: int | None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A factor with ties (from `levels` values) and gaps, and two horizons with gaps of their own."""
    rng = np.random.default_rng(seed)
    size = n * len(DAYS)
    key = {
        "session": np.repeat(np.array(DAYS, "datetime64[D]"), n),
        "instrument": [f"{i:03d}" for i in range(n)] * len(DAYS),
    }
    values = rng.normal(size=size) if levels is None else rng.integers(0, levels, size).astype(float)
    gaps = [
        np.where(rng.random(size) < missing, np.nan, v) for v in (values, rng.normal(size=size), rng.normal(size=size))
    ]
    cast = pl.col("session").cast(pl.Date)
    return (
        pl.DataFrame(key | {"factor": gaps[0]}).with_columns(cast),
        pl.DataFrame(key | {"h1": gaps[1], "h5": gaps[2]})
        .with_columns(cast)
        .sample(fraction=1, shuffle=True, seed=seed),
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.sampled_from([0.0, 0.3]), st.sampled_from([None, 1, 4]))
def test_rank_ic_equals_scipy(seed: int, n: int, missing: float, levels: int | None) -> None:
    """Ties broken by order, missing values ranked, pairs mixed between horizons or sessions."""
    factor, returns = frames(seed, n, missing, levels)
    found = information_coefficients(factor, returns).ic
    joined = factor.join(returns, on=["session", "instrument"])
    for (day, horizon), part in found.partition_by("session", "horizon", as_dict=True).items():
        pairs = joined.filter(pl.col("session") == day).select("factor", horizon).fill_nan(None).drop_nulls().to_numpy()
        assert part["pairs"][0] == len(pairs)
        constant = len(pairs) < 2 or (pairs == pairs[0]).all(axis=0).any()
        expected = None if constant else pytest.approx(spearmanr(pairs[:, 0], pairs[:, 1]).statistic, abs=1e-12)
        assert part["rank_ic"][0] == expected


def exact_bins(values: pd.Series, q: int) -> pd.Series:
    """Bins between linearly interpolated quantiles, closed on the right, in fractions.

    pandas cuts the same bins in floats, so a value exactly on an edge may fall on either side of it.
    """
    ordered = sorted(map(Fraction, values))
    places = [Fraction(j * (len(ordered) - 1), q) for j in range(1, q)]
    edges = [
        ordered[int(p)] + (ordered[min(int(p) + 1, len(ordered) - 1)] - ordered[int(p)]) * (p - int(p)) for p in places
    ]
    return values.map(lambda value: 1 + sum(edge < value for edge in edges))


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(12, 80),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([None, 30]),
    st.integers(2, 10),
)
def test_quantile_returns_equal_pandas(seed: int, n: int, missing: float, levels: int | None, q: int) -> None:
    """Bins cut elsewhere than `pandas.qcut` cuts them, above all on values that lie on an edge."""
    factor, returns = frames(seed, n, missing, levels)
    found = information_coefficients(factor, returns, q).quantiles
    table = factor.join(returns, on=["session", "instrument"]).to_pandas()
    for day in DAYS:
        rows = table[(table.session == pd.Timestamp(day)) & table.factor.notna()]
        bins = exact_bins(rows.factor, q)
        if levels is None and all((len(rows) - 1) * j % q for j in range(1, q)):
            pd.testing.assert_series_equal(bins, pd.qcut(rows.factor, q, labels=False) + 1, check_dtype=False)
        for horizon in ("h1", "h5"):
            ours = found.filter((pl.col("session") == day) & (pl.col("horizon") == horizon))
            means, counts = rows[horizon].groupby(bins).mean(), rows[horizon].groupby(bins).count()
            assert ours["count"].to_list() == [counts.get(i, 0) for i in range(1, q + 1)]
            for i, value in zip(ours["quantile"], ours["mean_return"], strict=True):
                assert value == (pytest.approx(means[i], abs=1e-12) if counts.get(i, 0) else None)


def test_tied_edges_leave_bins_empty_and_lose_no_row() -> None:
    """Rows dropped, or an error, where most names share one factor value."""
    factor = pl.DataFrame(
        {
            "session": DAYS[:1] * 10,
            "instrument": [str(i) for i in range(10)],
            "factor": [0.0] * 8 + [1.0, 2.0],
        }
    )
    returns = factor.select("session", "instrument", h1=pl.lit(0.1))
    found = information_coefficients(factor, returns).quantiles
    assert found["count"].to_list() == [8, 0, 0, 0, 2]
    assert found["mean_return"].to_list() == pytest.approx([0.1, None, None, None, 0.1])


def test_predictions_are_scored_per_split_and_session() -> None:
    """A session of two splits pooled into one IC, or a blocked name counted as a zero return."""
    predictions = pl.DataFrame(
        {
            "split": ["a"] * 4 + ["b"] * 4,
            "session": DAYS[:1] * 8,
            "instrument": list("ABCD") * 2,
            "score": [1.0, 2, 3, 4, 4, 3, 2, 1],
        }
    )
    labels = pl.DataFrame({"session": DAYS[:1] * 4, "instrument": list("ABCD"), "ret": [0.1, 0.2, 0.3, None]})
    found = rank_ic(predictions, labels)
    assert found.select("split", "pairs").rows() == [("a", 3), ("b", 3)]
    assert found["rank_ic"].to_list() == pytest.approx([1.0, -1.0])
    summary = ic_summary(found).row(0, named=True)
    assert (summary["sessions"], summary["mean"], summary["positive"]) == (2, pytest.approx(0.0), 0.5)
    assert ic_summary(found, ["split"])["mean"].to_list() == pytest.approx([1.0, -1.0])


def test_icir_is_mean_over_sample_deviation() -> None:
    """A population deviation, or an annualised ratio under the plain name."""
    values = [0.1, 0.2, -0.05, 0.3]
    found = ic_summary(pl.DataFrame({"rank_ic": values}))["icir"][0]
    assert found == pytest.approx(np.mean(values) / np.std(values, ddof=1))


def test_forward_returns_count_sessions_not_rows() -> None:
    """A horizon stretched over a suspension, or returns across instruments."""
    days = weekdays(5)
    special = {("A", 2): {"kind": "suspended"}, ("A", 3): {"close": 20.0}, ("A", 4): {"close": 40.0}}
    found = forward_returns(market_of(flat_panel(days, ["A", "B"], special=special), days), [1, 2])
    a = found.filter(pl.col("instrument") == "A")
    assert a["1_sessions"].to_list() == [0.0, None, None, 1.0, None]
    assert a["2_sessions"].to_list() == [None, 1.0, None, None, None]
    assert found.filter(pl.col("instrument") == "B")["1_sessions"].to_list() == [0.0] * 4 + [None]


def test_bad_inputs_are_refused() -> None:
    """Doubled rows that would count twice; no horizon to judge."""
    factor, returns = frames(1, 5, 0.0, None)
    with pytest.raises(KeyViolation):
        information_coefficients(pl.concat([factor, factor]), returns)
    with pytest.raises(BadInput, match="horizon"):
        information_coefficients(factor, returns.select("session", "instrument"))


def test_pooled_rank_ic_is_spearmans_over_the_split() -> None:
    """Sessions that do not average to the correlation of all rows, or splits that are ranked together."""
    rng = np.random.default_rng(3)
    rows = pl.DataFrame({
        "split": np.repeat(["a", "b"], 60), "session": pl.Series(np.tile(np.repeat([1, 2, 3], 20), 2)).cast(pl.Date),
        "instrument": "X", "minute": pl.Series(np.arange(120) * 60_000_000).cast(pl.Datetime("us", "UTC")),
        "score": rng.normal(size=120).round(1), "ret": rng.normal(size=120),
    })  # fmt: skip
    found = pooled_rank_ic(rows.drop("ret"), rows.drop("split", "score"))
    for (split,), part in rows.partition_by("split", as_dict=True).items():
        mine = found.filter(pl.col("split") == split)
        assert mine["pairs"].to_list() == [20, 20, 20]
        assert mine["rank_ic"].mean() == pytest.approx(spearmanr(part["score"], part["ret"]).statistic, abs=1e-12)


def test_reversal_has_no_pooled_rank_ic_on_a_random_walk() -> None:
    """Ranks within the day, which see skill in minutes that follow a fall."""
    days, length, past, ahead = 120, 600, 120, 45
    walk = np.random.default_rng(4).normal(size=(days, past + length + ahead)).cumsum(axis=1)
    now = walk[:, past : past + length]
    frame = pl.DataFrame({
        "session": pl.Series(np.repeat(np.arange(days), length)).cast(pl.Int32).cast(pl.Date), "instrument": "X",
        "minute": pl.Series(np.arange(days * length) * 60_000_000).cast(pl.Datetime("us", "UTC")),
        "score": -(now - walk[:, :length]).ravel(), "ret": (walk[:, past + ahead :] - now).ravel(),
    })  # fmt: skip
    pooled = pooled_rank_ic(frame.drop("ret"), frame.drop("score"))["rank_ic"]
    daily = rank_ic(frame.drop("ret"), frame.drop("score"))["rank_ic"]
    assert abs(pooled.mean()) < 3 * pooled.std() / math.sqrt(days)
    assert daily.mean() > 3 * daily.std() / math.sqrt(days)
