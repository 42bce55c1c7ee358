"""Selection rules and the policy search."""

from __future__ import annotations

from datetime import date

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import BadInput, KeyViolation, SchemaError
from pipeline.fingerprints import hash_json
from pipeline.positions.policy import Policy, candidate_policies, choose_policy, select
from pipeline.positions.spec import PolicySpec

DAY = date(2024, 1, 2)
PLAIN = Policy(top_k=2, alpha="rank_pred")


def predictions(rows: dict[str, list], session: date = DAY) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=dict.fromkeys(rows, pl.Float64), strict=False)
    names = pl.Series([chr(65 + i) for i in range(frame.height)])
    return frame.with_columns(session=pl.lit(session), instrument=names)


def test_ties_are_ordered_by_instrument_whatever_the_row_order() -> None:
    """A selection that depends on the order in which rows arrive."""
    frame = predictions({"rank_pred": [0.5, 0.5, 0.5, 0.1]})
    for seed in range(5):
        assert select(frame.sample(fraction=1, shuffle=True, seed=seed), PLAIN)["instrument"].to_list() == [
            "A",
            "B",
        ]


def test_fewer_names_keep_their_weight() -> None:
    """Concentration when the filters leave few names: the missing ones' cash must stay idle."""
    orders = select(predictions({"rank_pred": [0.5]}), Policy(top_k=4, alpha="rank_pred"))
    assert orders.rows() == [(DAY, 1, "A", 0.25, 0.5)]


def test_missing_scores_and_missing_risks_are_not_bought() -> None:
    """NaN sorted on top, or an unknown risk read as no risk."""
    nan = float("nan")
    frame = predictions({"rank_pred": [nan, None, 0.3, 0.2, 0.1], "buy_block_pred": [0, 0, nan, None, 0.1]})
    assert select(frame, Policy(top_k=5, alpha="rank_pred", max_buy_block=0.2))["instrument"].to_list() == ["E"]


def test_fragility_is_judged_by_its_rank_among_all_scored_names() -> None:
    """A fragility bound on the raw prediction, or on the rank among the survivors of another filter."""
    frame = predictions(
        {"rank_pred": [5.0, 4, 3, 2], "fragility_pred": [9e9, 0.3, 0.2, 0.1], "downlock_pred": [0, 1, 0, 0.0]}
    )
    policy = Policy(top_k=4, alpha="rank_pred", max_fragility_rank=0.6, max_downlock=0.5)
    assert select(frame, policy)["instrument"].to_list() == ["C", "D"]


def test_a_switched_off_filter_needs_no_column_and_an_active_one_does() -> None:
    """A study without a head must run; a study that filters by an absent head must be told so."""
    frame = predictions({"rank_pred": [0.5]})
    assert select(frame, PLAIN).height == 1
    with pytest.raises(SchemaError, match="buy_block_pred"):
        select(frame, Policy(top_k=2, alpha="rank_pred", max_buy_block=0.2))


def test_two_splits_in_one_call_are_refused() -> None:
    """Predictions of several splits ranked together, so that a name competes with itself."""
    frame = predictions({"rank_pred": [0.5, 0.4]})
    with pytest.raises(KeyViolation):
        select(pl.concat([frame, frame]), PLAIN)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30),
    st.integers(1, 5),
)
def test_selection_is_the_best_of_those_that_pass(rows: list, k: int) -> None:
    """Any name left out that passes the filters and scores higher than one taken."""
    frame = predictions(
        {
            "rank_pred": [float(r[0]) for r in rows],
            "buy_block_pred": [r[1] for r in rows],
            "fragility_pred": [r[2] for r in rows],
        }
    )
    orders = select(frame, Policy(top_k=k, alpha="rank_pred", max_buy_block=0.5))
    passing = sorted((-r[0], chr(65 + i)) for i, r in enumerate(rows) if r[1] <= 0.5)
    assert list(zip(-orders["score"], orders["instrument"], strict=True)) == passing[:k]


def test_a_session_does_not_depend_on_the_others_in_the_call() -> None:
    """Ranks or percentiles taken over the whole frame instead of the session."""
    frame = predictions({"rank_pred": [0.1, 0.2, 0.3], "fragility_pred": [0.1, 0.2, 0.3]})
    other = predictions({"rank_pred": [7.0, 8, 9], "fragility_pred": [7.0, 8, 9]}, date(2024, 1, 3))
    policy = Policy(top_k=2, alpha="rank_pred", max_fragility_rank=0.7)
    alone = select(frame, policy)
    assert select(pl.concat([other, frame]), policy).filter(pl.col("session") == DAY).equals(alone)


def test_the_grid_comes_in_order_with_filters_off_first() -> None:
    """A search order that changes with the run would change which of two equal policies wins."""
    candidates = candidate_policies(PolicySpec())
    assert len(candidates) == 8
    assert (candidates[0].max_buy_block, candidates[0].max_downlock, candidates[0].max_fragility_rank) == (
        1.0,
        1.0,
        1.0,
    )
    assert candidates[1].max_fragility_rank == 0.9


FULL = {
    "rank_pred": [0.4, 0.3, 0.2, 0.1],
    "buy_block_pred": [0.9, 0.1, 0.1, 0.1],
    "downlock_pred": [0.0] * 4,
    "fragility_pred": [0.4, 0.3, 0.2, 0.1],
}


def test_the_first_of_the_best_wins_and_the_search_is_kept() -> None:
    """A later equal policy that displaces an earlier one; a search that forgets its losers."""
    spec = PolicySpec(top_k=1)
    policy, table = choose_policy(predictions(FULL), spec, lambda orders: -float(orders["score"][0]))
    assert table["objective"].to_list() == [-0.4, -0.3, -0.4, -0.3, -0.3, -0.3, -0.3, -0.3]
    assert table["chosen"].to_list() == [i == 1 for i in range(8)]
    assert policy == candidate_policies(spec)[1].model_copy(update={"origin": "tune", "objective": -0.3})


def test_a_policy_without_value_never_wins() -> None:
    """NaN compared as the largest, or the objective asked about an empty selection."""
    spec = PolicySpec(top_k=1, max_buy_block=(1.0, 0.05), max_downlock=(1.0,), max_fragility_rank=(1.0, 0.9))
    values = iter([float("nan"), -5.0])
    policy, table = choose_policy(predictions(FULL), spec, lambda _: next(values))
    assert table["orders"].to_list() == [1, 1, 0, 0]
    assert table["objective"].to_list() == [None, -5.0, None, None]
    assert policy.max_fragility_rank == 0.9
    with pytest.raises(BadInput, match="at least one policy"):
        choose_policy(predictions(FULL), spec, lambda _: float("nan"))


def test_a_policy_survives_json_with_its_hash() -> None:
    """A bundle that serves another policy than the one that was judged."""
    policy = Policy(top_k=10, alpha="rank_pred", max_buy_block=0.2, origin="cpcv_03", objective=1.5)
    again = Policy.model_validate_json(policy.model_dump_json())
    assert again == policy
    assert hash_json(again) == hash_json(policy)


@pytest.mark.parametrize("grid", [(), (0.0,), (1.5,), (1.0, 1.0)])
def test_senseless_grids_are_refused(grid: tuple) -> None:
    """A filter that lets nothing through, means nothing, or counts one trial twice."""
    with pytest.raises(ValidationError):
        PolicySpec(max_buy_block=grid)
