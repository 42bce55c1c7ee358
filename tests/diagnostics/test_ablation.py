"""The ablation's arithmetic: which variants there are, how they are compared, and what is said about it."""

from __future__ import annotations

import math
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from pipeline.diagnostics.ablation import (
    NO_MINUTES,
    Measured,
    Variant,
    compared,
    standard_error,
    variants,
    verdict,
    worth_of_blocks,
)
from pipeline.models.spec import DailyPathSpec, IntradayPathSpec, LinearSpec, MultiPathNetSpec, TowerSpec

NET = MultiPathNetSpec(
    name="net",
    intraday=IntradayPathSpec(sessions=2, kernels=(3,), width=2),
    daily=DailyPathSpec(window=3, features=("f0",)),
    towers=(TowerSpec(name="context", features=("f1",)),),
    execution=("f2",),
    regime=("market",),
)
LAGS = 2


def measured(values: list[float] | np.ndarray, first: date = date(2024, 1, 1)) -> Measured:
    days = tuple((first + timedelta(days=i)).isoformat() for i in range(len(values)))
    return Measured(days, tuple(float(value) for value in values), 10, 1.0, 0.5, 0)


def by_name(spec: MultiPathNetSpec, *, minutes: bool = True) -> dict[str, Variant]:
    return {variant.name: variant for variant in variants(spec, minutes=minutes)}


def test_every_block_is_left_out_once_and_every_path_stands_alone() -> None:
    """Pins a block that no variant leaves out, and an "only" that keeps FiLM or the execution context."""
    found = {name: variant.paths for name, variant in by_name(NET).items()}
    assert found == {
        "all": "A+B+C+FiLM", "A off": "B+C+FiLM", "B off": "A+C+FiLM", "C off": "A+B+FiLM", "FiLM off": "A+B+C",
        "A only": "A", "B only": "B", "C only": "C",
    }  # fmt: skip
    assert [v.spec.execution for n, v in by_name(NET).items() if n.endswith("only")] == [(), (), ()]
    assert by_name(NET)["FiLM off"].spec == NET.model_copy(update={"film": ()})
    assert all(variant.spec.epochs == NET.epochs for variant in by_name(NET).values())


def test_the_same_net_is_not_fitted_twice() -> None:
    """Pins training a variant that is another one under a second name."""
    plain = NET.model_copy(update={"film": (), "execution": (), "towers": ()})
    assert {name: v.paths for name, v in by_name(plain).items()} == {"all": "A+B", "A off": "B", "B off": "A"}
    alone = NET.model_copy(update={"film": (), "execution": (), "towers": (), "intraday": None})
    assert list(by_name(alone)) == ["all"]


def test_a_market_without_minutes_has_no_variant_of_path_a() -> None:
    """Pins a variant that claims to measure Path A where there is none, or that is absent without a reason."""
    found = by_name(NET, minutes=False)
    assert {name for name, variant in found.items() if variant.reason == NO_MINUTES} == {"A off", "A only"}
    others = [variant for variant in found.values() if not variant.reason]
    assert all("A" not in variant.paths.split("+") and not variant.spec.intraday for variant in others)


def test_another_family_is_measured_whole() -> None:
    """Pins a linear member that an ablation takes apart, or leaves out of the comparison."""
    assert variants(LinearSpec(), minutes=True) == (Variant("linear", "whole", LinearSpec()),)


def test_differences_are_paired_by_session() -> None:
    """Pins means over different sessions being subtracted: a hard day that one variant lacks is no gain."""
    whole = measured([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, -9.0])
    off = measured([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    rows = [(by_name(NET)["all"], [whole]), (by_name(NET)["A off"], [off])]
    table = compared([*rows, (Variant("linear", "whole", LinearSpec()), [off])], LAGS)
    assert table["difference"].to_list() == [None, pytest.approx(-0.1), pytest.approx(-0.1)]
    assert table["rank_ic"][0] == pytest.approx(np.mean(whole.rank_ic))
    assert table["sessions"].to_list() == [7, 6, 6]


def test_each_net_is_beside_its_own_whole() -> None:
    """Pins a second net's variants being compared with the first net."""
    other = NET.model_copy(update={"name": "other"})
    low, high = measured([0.0] * 8), measured([1.0] * 8)
    rows = [(by_name(NET)["all"], [low]), (by_name(other)["all"], [high]), (by_name(other)["C off"], [high])]
    assert compared(rows, LAGS)["difference"].to_list() == [None, None, 0.0]


def test_an_absent_variant_keeps_its_row_and_reason() -> None:
    """Pins a variant that vanishes from the table, and one that is judged without having been measured."""
    found = by_name(NET, minutes=False)
    table = compared([(found["all"], [measured([0.1] * 8)]), (found["A off"], [])], LAGS)
    assert table.row(1, named=True)["reason"] == NO_MINUTES
    assert table.row(1, named=True)["rank_ic"] is None
    assert worth_of_blocks(table).is_empty()


def table_of(**differences: list[float] | np.ndarray) -> pl.DataFrame:
    """A table in which leaving a block out changes the rank IC by the given series."""
    rows = [(by_name(NET)["all"], [measured(np.zeros(60))])]
    rows += [(by_name(NET)[f"{block} off"], [measured(values)]) for block, values in differences.items()]
    return compared(rows, LAGS)


NOISE = np.random.default_rng(5).standard_normal(60)


def test_what_costs_rank_ic_helps() -> None:
    """Pins the sign: a block whose absence lowers the rank IC is the one that helps."""
    blocks = worth_of_blocks(table_of(A=NOISE - 2.0, B=NOISE + 2.0, C=NOISE - NOISE.mean()))
    assert dict(blocks.select("block", "verdict").rows()) == {
        "A": "helps",
        "B": "hurts",
        "C": "no difference seen",
    }
    assert blocks["worth"][0] == pytest.approx(2.0 - NOISE.mean())
    assert verdict(blocks) == (pytest.approx(1 / 3), "helps: A; hurts: B; no difference seen: C")


def test_the_status_says_all_or_none() -> None:
    """Pins "every block helps" being said of a table in which one does not."""
    assert verdict(worth_of_blocks(table_of(A=NOISE - 2.0, B=NOISE - 3.0))) == (1.0, "every block helps")
    level = NOISE - NOISE.mean()
    none = worth_of_blocks(table_of(A=level, FiLM=np.zeros(60)))
    assert verdict(none) == (0.0, "no block differs from all by 2 standard errors")


def test_too_few_sessions_judge_nothing() -> None:
    """Pins a verdict from a handful of sessions: with 10 of them 28 % of nothing passed plain errors."""
    blocks = worth_of_blocks(table_of(A=NOISE[:5] - 9.0))
    assert blocks["verdict"].to_list() == ["too few sessions"]
    assert verdict(blocks) == (None, "too few tune sessions to judge a block")
    assert verdict(blocks.clear()) == (None, "no block can be left out")


def test_seeds_are_averaged_and_enter_the_error() -> None:
    """Pins a difference between two seeds that is sold as one between two nets."""
    whole, off = [measured(NOISE + shift) for shift in (0.0, 0.3, 0.6)], [measured(NOISE + s) for s in (0.1, 0.4, 0.7)]
    rows = [(by_name(NET)["all"], whole), (by_name(NET)["A off"], off)]
    table = compared([*rows, (Variant("linear", "whole", LinearSpec()), off[:1])], LAGS)
    assert table["seeds"].to_list() == [3, 3, 1]
    assert table["rank_ic"].to_list() == pytest.approx([NOISE.mean() + shift for shift in (0.3, 0.4, 0.1)])
    assert table["seed_deviation"].to_list() == [pytest.approx(0.3), pytest.approx(0.3), None]
    assert table["difference"][1:].to_list() == pytest.approx([0.1, -0.2])
    of_sessions = standard_error(NOISE, LAGS)
    assert of_sessions is not None
    assert table["rank_ic_se"].to_list() == pytest.approx(
        [math.hypot(of_sessions, math.sqrt(0.09 / 3))] * 2 + [of_sessions]
    )
    # the sessions agree on every difference, so what is left is the seeds' part: of both nets, or of `all` alone
    assert table["difference_se"][1:].to_list() == pytest.approx([math.sqrt(2 * 0.09 / 3), math.sqrt(0.09 / 3)])
    assert worth_of_blocks(table)["verdict"].to_list() == ["no difference seen"]


def slow_standard_error(values: np.ndarray, lags: int) -> float:
    """Newey and West's double sum over all pairs of sessions, times the fixed-b widening."""
    n, mean = len(values), sum(values) / len(values)
    total = 0.0
    for i in range(n):
        for j in range(n):
            weight = max(0.0, 1.0 - abs(i - j) / (lags + 1))
            total += weight * (values[i] - mean) * (values[j] - mean)
    b = (lags + 1) / n
    return math.sqrt(total) / n * (1.96 + 2.9694 * b + 0.416 * b**2 - 0.5324 * b**3) / 1.96


@pytest.mark.parametrize(("n", "lags"), [(14, 6), (45, 6), (30, 0)])
def test_the_standard_error_is_newey_wests(n: int, lags: int) -> None:
    """Pins a weight, a lag or a division that is off by one."""
    values = np.convolve(np.random.default_rng(n).standard_normal(n + 2), np.ones(3), "valid")
    assert standard_error(values, lags) == pytest.approx(slow_standard_error(values, lags), rel=1e-12)


def test_overlapping_labels_do_not_make_differences() -> None:
    """Pins an error that takes overlapping sessions for independent ones: 31 % of nothing passed two of those."""
    draw = np.random.default_rng(0)
    passed = naive = 0
    for _ in range(1000):
        values = np.convolve(draw.standard_normal(47), np.ones(3), "valid")
        error = standard_error(values, 6)
        assert error is not None
        passed += abs(values.mean()) > 2 * error
        naive += abs(values.mean()) > 2 * values.std(ddof=1) / math.sqrt(45)
    assert passed < 110
    assert naive > 200


def test_a_series_is_never_shorter_than_two_blocks() -> None:
    """Pins an error from fewer sessions than depend on each other."""
    assert standard_error(np.arange(13.0), 6) is None
    assert standard_error(np.arange(14.0), 6) is not None
    assert standard_error(np.empty(0), 0) is None
