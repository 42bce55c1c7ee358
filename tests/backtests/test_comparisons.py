"""Books to compare with, path books, the referee's red, and intervals."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from pipeline.backtests.books import equal_weight_orders, index_book, random_orders
from pipeline.backtests.bootstrap import (
    annualised_return,
    block_bootstrap,
    excess_over_random,
    share_of_random_beaten,
    sharpe,
)
from pipeline.backtests.engine import run_book, run_books
from pipeline.backtests.path_plan import path_orders
from pipeline.backtests.referee import impossible_fills
from pipeline.backtests.spec import ExecutionSpec
from pipeline.errors import BadInput
from pipeline.positions.policy import Policy
from tests.backtests.cases import flat_panel, market_of, orders_of, weekdays

SPEC = ExecutionSpec()
DAYS = weekdays(12)


def eligible(names: int, days: list = DAYS) -> pl.DataFrame:
    frame = pl.DataFrame({"session": days}).join(
        pl.DataFrame({"instrument": [f"{i:03d}" for i in range(names)]}), how="cross"
    )
    return frame.sample(fraction=1, shuffle=True, seed=1)


def test_random_books_draw_without_replacement_and_evenly() -> None:
    """A name drawn twice in a decision, or some names drawn more often than others."""
    orders = random_orders(eligible(20), 5, 2000, 3)
    assert (
        orders.group_by("book", "session")
        .agg(n=pl.col("instrument").n_unique(), rank=pl.col("rank").max())["n"]
        .eq(5)
        .all()
    )
    counts = orders["instrument"].value_counts()["count"].to_numpy()
    expected = 2000 * 12 * 5 / 20
    assert len(counts) == 20
    assert np.abs(counts / expected - 1).max() < 4 * np.sqrt((1 - 0.25) / expected)
    first = orders.filter(pl.col("rank") == 1)["instrument"].value_counts()["count"].to_numpy()
    assert np.abs(first / (expected / 5) - 1).max() < 4.5 / np.sqrt(expected / 5)


def test_a_draw_depends_on_nothing_but_seed_book_and_session() -> None:
    """Random books that change when the history grows or another book is added."""
    whole = random_orders(eligible(20), 5, 10, 3)
    part = random_orders(eligible(20, DAYS[4:7]), 5, 4, 3)
    same = whole.filter(pl.col("session").is_in(DAYS[4:7]) & pl.col("book").is_in(part["book"].unique().to_list()))
    assert part.equals(same)
    assert not random_orders(eligible(20), 5, 10, 4).equals(whole)
    books = [rows["instrument"].to_list() for rows in whole.partition_by("book")]
    assert len({tuple(b) for b in books}) == 10


def test_fewer_eligible_names_than_top_k_stay_at_their_weight() -> None:
    """A random book that concentrates where the model's would hold cash."""
    orders = random_orders(eligible(2), 5, 1, 3)
    assert orders.group_by("session").agg(pl.col("weight").sum())["weight"].to_list() == pytest.approx([0.4] * 12)


def test_equal_weight_holds_every_eligible_name() -> None:
    """A benchmark of some names only, or one weighted by something else."""
    orders = equal_weight_orders(eligible(4))
    assert orders.height == 48
    assert set(orders["weight"]) == {0.25}
    assert orders.filter(pl.col("session") == DAYS[0])["rank"].to_list() == [1, 2, 3, 4]


def test_the_index_starts_at_the_open_of_the_first_curve_session() -> None:
    """An index credited with the night before the book could buy."""
    market = market_of(flat_panel(DAYS, ["A"]), DAYS)
    index = pl.DataFrame({"session": DAYS, "open": [100.0] * 12, "close": [110.0 + i for i in range(12)]})
    orders = orders_of({DAYS[2]: ["A"]}, 1).with_columns(book=pl.lit("path_00"))
    tables = run_books(orders, market, SPEC, index)
    held = tables.equity.filter(pl.col("book") == "index")
    assert held["session"].to_list() == DAYS[3:6]
    assert held["net"].to_list() == pytest.approx([1.13, 1.14, 1.15])
    nav = tables.metrics.filter(pl.col("book") == "index", pl.col("name") == "final_nav_net")
    assert nav["value"].to_list() == pytest.approx([1.15])
    with pytest.raises(BadInput, match="first curve session"):
        index_book(index.tail(3), DAYS[3], DAYS[5])


def test_each_block_of_a_path_uses_its_own_splits_scores_and_policy() -> None:
    """One split's policy applied to all blocks: it saw the other blocks' labels."""
    groups = {0: DAYS[:2], 1: DAYS[2:4], 2: DAYS[4:6]}
    tested = {"cpcv_00": (0, 1), "cpcv_01": (0, 2), "cpcv_02": (1, 2)}
    paths = pl.DataFrame(
        [
            ("path_00", 0, "cpcv_00"),
            ("path_00", 1, "cpcv_00"),
            ("path_00", 2, "cpcv_01"),
            ("path_01", 0, "cpcv_01"),
            ("path_01", 1, "cpcv_02"),
            ("path_01", 2, "cpcv_02"),
        ],
        schema={"path": pl.String, "group": pl.Int16, "split": pl.String},
        orient="row",
    )
    sessions = [
        (split, day, group, "test" if group in blocks else "fit")
        for split, blocks in tested.items()
        for group, days in groups.items()
        for day in days
    ]
    split_sessions = pl.DataFrame(
        sessions,
        schema={"split": pl.String, "session": pl.Date, "group": pl.Int16, "role": pl.String},
        orient="row",
    )
    rows = [
        (split, day, name, score if split != "cpcv_02" else -score)
        for split, blocks in tested.items()
        for group in blocks
        for day in groups[group]
        for name, score in (("A", 2.0), ("B", 1.0))
    ]
    predictions = pl.DataFrame(rows, schema=["split", "session", "instrument", "rank_pred"], orient="row")
    policies = {split: Policy(top_k=2 if split == "cpcv_01" else 1, alpha="rank_pred") for split in tested}
    orders = path_orders(predictions, policies, paths, split_sessions)
    held = {
        (b, s): rows["instrument"].to_list()
        for (b, s), rows in orders.partition_by("book", "session", as_dict=True).items()
    }
    assert [held["path_00", day] for day in DAYS[:6]] == [["A"]] * 4 + [["A", "B"]] * 2
    assert [held["path_01", day] for day in DAYS[:6]] == [["A", "B"]] * 2 + [["B"]] * 4
    with pytest.raises(BadInput, match="own policy"):
        path_orders(predictions, {"cpcv_00": policies["cpcv_00"]}, paths, split_sessions)
    with pytest.raises(BadInput):
        path_orders(predictions.filter(pl.col("split") != "cpcv_02"), policies, paths, split_sessions)


FORGERIES = {
    "the name must not be suspended": {("A", 1): {"suspended": True}},
    "the amount must be positive": {("A", 1): {"amount": 0.0}},
    "the open must be positive": {("A", 1): {"open": -1.0}},
    "the open must not be at the upper limit": {("A", 1): {"up_limit": 10.0}},
    "the open must not be at the lower limit": {("A", 1): {"down_limit": 10.004}},
    "the close must not be at the upper limit": {("A", 3): {"up_limit": 10.0}},
    "the close must not be at the lower limit": {("A", 3): {"down_limit": 9.996}},
    "the price must be open x factor": {("A", 1): {"factor": 1.5}},
    "the price must be close x factor": {("A", 3): {"close": 10.5}},
    "the name must be listed": {("A", 3): None},
}


@pytest.mark.parametrize("rule", FORGERIES)
def test_the_referee_goes_red_on_each_impossibility(rule: str) -> None:
    """A referee that cannot fail: fills of an open market are judged against quotes that forbid them."""
    orders = orders_of({DAYS[0]: ["A"]}, 1)
    honest = flat_panel(DAYS, ["A"])
    trades = run_book(orders, market_of(honest, DAYS), SPEC).trades
    assert impossible_fills(trades, honest).is_empty()
    found = impossible_fills(trades, flat_panel(DAYS, ["A"], special=FORGERIES[rule]))
    assert rule in found["rule"].to_list()


def test_the_referee_goes_red_on_a_same_day_sale_and_a_kind_delisting() -> None:
    """T+0 sales, fills before the decision, a delisting paid in full or of a name that still trades."""
    panel = flat_panel(DAYS, ["A"])
    trades = run_book(orders_of({DAYS[0]: ["A"]}, 1), market_of(panel, DAYS), SPEC).trades
    same_day = trades.with_columns(exit_session=pl.col("entry_session"))
    assert impossible_fills(same_day, panel)["rule"].to_list() == ["the day must come after the one before it"]
    early = trades.with_columns(entry_session=pl.col("session"))
    assert impossible_fills(early, panel)["rule"].to_list() == ["the day must come after the one before it"]
    still_there = trades.with_columns(status=pl.lit("delisted"))
    assert impossible_fills(still_there, panel)["rule"].to_list() == [
        "a delisted name has no later row",
        "a delisting pays the last close less the haircut",
    ]


def test_the_interval_is_known_for_independent_values_and_wider_for_persistent_ones() -> None:
    """A bootstrap that ignores serial dependence calls an overlapping book certain."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0.001, 0.01, 2000)
    low, high = block_bootstrap(noise, 2000, 1, 0.95, 7)
    assert (high - low) / 2 == pytest.approx(1.96 * noise.std() / np.sqrt(2000), rel=0.08)
    assert low < noise.mean() < high
    smooth = np.convolve(rng.normal(0, 0.01, 2009), np.ones(10) / 10, "valid")
    narrow, wide = (block_bootstrap(smooth, 2000, block, 0.95, 7) for block in (1, 30))
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])
    assert block_bootstrap(noise, 200, 5, 0.9, 7) == block_bootstrap(pl.Series(noise), 200, 5, 0.9, 7)


def test_interval_statistics_are_the_reported_ones() -> None:
    """An interval around another number than the one it stands beside."""
    returns = np.array([[0.01, -0.02, 0.03, 0.005]])
    assert sharpe(returns)[0] == pytest.approx(returns.mean() / returns.std(ddof=1) * np.sqrt(252))
    assert annualised_return(returns)[0] == pytest.approx(np.prod(1 + returns) ** (252 / 4) - 1)
    assert sharpe(np.zeros((1, 4)))[0] == 0
    with pytest.raises(BadInput, match="two blocks"):
        block_bootstrap(returns[0], 100, 10, 0.95, 1)


def test_excess_is_over_the_mean_of_the_random_books() -> None:
    """Drift sold as skill: a book equal to the average random book has no excess."""
    books = {"random_000": [1.0, 1.1, 1.1], "random_001": [1.0, 1.3, 1.3], "path_00": [1.0, 1.2, 1.32]}
    equity = pl.concat(
        pl.DataFrame({"session": DAYS[:3], "gross": navs, "net": navs}).select(pl.lit(book).alias("book"), pl.all())
        for book, navs in books.items()
    )
    assert excess_over_random(equity, "path_00")["excess"].to_list() == pytest.approx([0.0, 0.1])
    assert share_of_random_beaten(equity, "path_00") == 1.0
    late = pl.concat(
        [
            equity.filter(pl.col("book") != "path_00"),
            equity.filter(pl.col("book") == "path_00", pl.col("session") > DAYS[0]),
        ]
    )
    assert share_of_random_beaten(late, "path_00") == 1.0  # grew 10% where the others stood still
    with pytest.raises(BadInput, match="random books"):
        excess_over_random(equity.filter(pl.col("book") == "path_00"), "path_00")
