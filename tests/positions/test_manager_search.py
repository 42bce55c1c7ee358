"""The search over thresholds, its nested use, and the optimism it reports."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import numba
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BadInput, KeyViolation, SchemaError
from pipeline.positions.manager import run
from pipeline.positions.manager_kernels import STATISTICS
from pipeline.positions.manager_search import AXES, Fold, candidate_config, nested_search, optimism_gap, search
from pipeline.positions.manager_spec import EXPANDED_GRID, GRID, SIDE_OFF, ManagerConfig, SearchGrid
from pipeline.positions.trades import TradeMetrics, trade_metrics
from tests.oracles.manager_slow import slow_metrics, slow_trades
from tests.positions.minutes import PLAN, SLOW_PLAN, SLOW_SIZING, random_rows

SMALL = SearchGrid(long_direction=(0.3, 0.5, SIDE_OFF), short_direction=(0.2, SIDE_OFF), entry=(0.1, 0.4),
                   market_risk=(0.6, 1.0), edge=(-5.0, 3.0), margin=(0.0, 0.1))


def test_the_grids_hold_the_agreed_values() -> None:
    """A value lost from a grid: the count of trials that a gate reads would change with it."""
    assert (GRID.size, EXPANDED_GRID.size) == (1_536, 17_280)
    assert GRID.long_direction == GRID.short_direction == (0.50, 0.60, 0.70, 1.01)
    assert GRID.common == ((0.30, 0.50, 0.70, 0.85), (0.45, 0.65), (3, 8, 15, 25), (0.02, 0.06, 0.10))
    assert EXPANDED_GRID.long_direction == EXPANDED_GRID.short_direction == (0.20, 0.30, 0.40, 0.50, 0.60, 1.01)
    assert EXPANDED_GRID.common == (
        (0.05, 0.10, 0.20, 0.30, 0.40, 0.50), (0.45, 0.65, 0.85, 1.00), (-5, 0, 3, 5, 8), (0, 0.01, 0.02, 0.05))


@pytest.mark.parametrize(("grid", "step"), [(GRID, 11), (EXPANDED_GRID, 131)])
def test_candidates_equal_the_slow_manager(grid: SearchGrid, step: int) -> None:
    """The compiled search drifting from the rules, in any metric of any candidate."""
    rows = random_rows(7, 120)
    table, plain = search(rows, PLAN, grid).table, rows.to_dicts()
    assert table["trade_count"].n_unique() > 5
    for point in table.gather_every(step).to_dicts():
        sizing = SLOW_SIZING | {"single": 1.0, "min_edge": point["edge"]}
        expected = slow_metrics(slow_trades(plain, point, sizing, SLOW_PLAN, cooldown=5))
        assert {name: point[name] for name in STATISTICS} == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("grid", [GRID, EXPANDED_GRID])
def test_the_chosen_configuration_trades_as_its_row_says(grid: SearchGrid) -> None:
    """A chosen configuration that, run again, gives other figures than those it was chosen for."""
    rows = random_rows(11, 400)
    found = search(rows, PLAN, grid)
    chosen = found.table.filter("chosen").row(0, named=True)
    assert found.metrics == trade_metrics(run(rows, found.config, PLAN, "tune_inner"))
    assert {name: chosen[name] for name in STATISTICS} == found.metrics.model_dump()
    assert found.metrics.trade_count > 0


def test_the_first_of_equally_good_candidates_wins() -> None:
    """A tie broken by thread or sort order: the thresholds between two rows are all the same manager."""
    rows = random_rows(2, 100)
    table = search(rows, PLAN, EXPANDED_GRID).table
    best = table.filter(pl.col("score") == table["score"].max())
    assert best.height > 1
    assert best["candidate"].min() == table.filter("chosen")["candidate"].item()


def test_candidates_come_in_grid_order() -> None:
    """A table whose thresholds belong to another row's metrics."""
    table = search(random_rows(2, 50), PLAN, SMALL).table
    assert table.select(AXES).rows()[:3] == [(0.3, 0.2, 0.1, 0.6, -5, 0), (0.3, 0.2, 0.1, 0.6, -5, 0.1),
                                             (0.3, 0.2, 0.1, 0.6, 3, 0)]
    assert table.select(AXES).rows()[-1] == (1.01, 1.01, 0.4, 1.0, 3.0, 0.1)
    assert table["candidate"].to_list() == list(range(SMALL.size))


def test_the_search_writes_its_thresholds_into_add_and_sizing() -> None:
    """Adding, or sizing, under thresholds that nobody searched; a cooldown the search resets."""
    base = ManagerConfig(version="7").model_copy(update={"add": ManagerConfig().add.model_copy(
        update={"cooldown_minutes": 9})})
    point = dict(zip(AXES, (0.5, 0.6, 0.4, 0.45, 8.0, 0.02), strict=True))
    config = candidate_config(base, GRID, point)
    assert (config.add.max_market_risk, config.add.min_entry_prob, config.add.min_edge_bps) == (0.45, 0.4, 8.0)
    assert (config.add.cooldown_minutes, config.version) == (9, "7")
    assert (config.sizing.min_edge_bps, config.sizing.max_single_leg_ratio) == (8.0, 1.0)
    assert (config.open.long.min_direction_prob, config.open.short.min_direction_prob) == (0.5, 0.6)


def test_the_result_depends_neither_on_row_order_nor_on_threads() -> None:
    """A search whose bits change with the machine, or with how the rows were stored."""
    rows = random_rows(13, 200)
    found = search(rows, PLAN, SMALL)
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        again = search(rows.sample(fraction=1, shuffle=True, seed=1), PLAN, SMALL)
    finally:
        numba.set_num_threads(threads)
    assert again.table.equals(found.table)
    assert again.config == found.config


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 20), st.sampled_from([0.4, 3.0, 20.0]))
def test_any_search_agrees_with_running_its_choice(seed: int, cooldown: int, max_loss: float) -> None:
    """Search and run, two implementations of one rule, drifting apart on odd sizes and waits."""
    rows = random_rows(seed, 40)
    base = ManagerConfig()
    base = base.model_copy(update={
        "add": base.add.model_copy(update={"cooldown_minutes": cooldown}),
        "sizing": base.sizing.model_copy(update={"max_loss_per_trade_bps": max_loss}),
    })
    found = search(rows, PLAN, SMALL, base)
    assert trade_metrics(run(rows, found.config, PLAN, "tune_inner")) == found.metrics
    if max_loss / 10.0 < base.sizing.min_initial_ratio:
        assert found.trading_candidates == 0


def test_a_search_that_never_trades_says_so() -> None:
    """An error, or a made-up best, where every candidate stays out."""
    never = SearchGrid(long_direction=(SIDE_OFF,), short_direction=(SIDE_OFF,), entry=(0.1, 0.2), market_risk=(1.0,),
                       edge=(0.0,), margin=(0.0,))
    found = search(random_rows(1, 30), PLAN, never)
    assert (found.trading_candidates, found.metrics, found.config.open.long.min_entry_prob) == (0, TradeMetrics(), 0.1)
    assert found.metrics.score == -1_000_000


def test_rows_of_another_split_are_refused() -> None:
    """A threshold tuned on the sealed pair, by accident or by naming it."""
    rows = random_rows(1, 30)
    for split in ("fit_inner", "validation_locked", "latest_stress"):
        with pytest.raises(BadInput, match=split):
            search(rows.with_columns(split_id=pl.lit(split)), PLAN, SMALL)
    with pytest.raises(BadInput, match="validation_locked"):
        search(rows.with_columns(split_id=pl.lit("validation_locked")), PLAN, SMALL,
               tune_splits=("tune_inner", "validation_locked"))
    with pytest.raises(SchemaError, match="split_id"):
        search(rows.drop("split_id"), PLAN, SMALL)
    with pytest.raises(BadInput, match="no rows"):
        search(rows.clear(), PLAN, SMALL)


@pytest.mark.parametrize(
    "change",
    [{"entry": (0.1, 0.1)}, {"margin": ()}, {"long_direction": (1.02,)}, {"market_risk": (1.01,)},
     {"edge": (float("nan"),)}, {"entry": tuple(i / 100 for i in range(80))}],
)
def test_grids_outside_their_range_are_refused(change: dict) -> None:
    """A doubled candidate counted as two trials, or more thresholds than the mask has bits."""
    with pytest.raises(BadInput, match="observed"):
        SearchGrid(**(SMALL.model_dump() | change))


def _folds(seed: int, n_folds: int = 3) -> list[Fold]:
    rows = random_rows(seed, 300)
    minutes = rows["minute"]
    cut = [minutes.min() + (minutes.max() - minutes.min()) * i / n_folds for i in range(n_folds)]
    cut.append(minutes.max() + timedelta(minutes=1))
    inside = [pl.col("minute").is_between(a, b, closed="left") for a, b in pairwise(cut)]
    return [Fold(f"fold_{i}", rows.filter(~part), rows.filter(part)) for i, part in enumerate(inside)]


def test_each_fold_trades_under_its_own_choice() -> None:
    """A nested result whose thresholds saw the rows they are judged on."""
    folds = _folds(4)
    result = nested_search(folds, PLAN, SMALL)
    for fold in folds:
        alone = search(fold.tune, PLAN, SMALL)
        assert result.configs[fold.name] == alone.config
        part = result.trades.filter(pl.col("eval_split") == fold.name)
        assert part.equals(run(fold.test, alone.config, PLAN, fold.name))
    assert result.nested == trade_metrics(result.trades)
    assert result.outside == search(pl.concat([fold.test for fold in folds]), PLAN, SMALL).metrics
    assert result.gap == optimism_gap(result.outside, result.nested)
    assert result.gap.score == result.outside.score - result.nested.score


def test_tuning_on_the_judged_rows_looks_better_than_it_is() -> None:
    """An optimism gap of the wrong sign: on rows without signal the outside choice must flatter itself."""
    gaps = [nested_search(_folds(seed), PLAN, SMALL).gap for seed in range(6)]
    assert sum(gap.score for gap in gaps) > 0
    assert sum(gap.mean_weighted_edge_bps > 0 for gap in gaps) >= 4


def test_folds_that_share_rows_are_refused() -> None:
    """A row tested twice, or tuned and tested: the gap would be measured on leaked rows."""
    folds = _folds(4)
    with pytest.raises(KeyViolation, match="twice"):
        nested_search([folds[0], folds[0]], PLAN, SMALL)
    with pytest.raises(BadInput, match="fold_0"):
        nested_search([Fold("fold_0", pl.concat([folds[0].tune, folds[0].test]), folds[0].test)], PLAN, SMALL)
    with pytest.raises(BadInput, match="folds"):
        nested_search([], PLAN, SMALL)
