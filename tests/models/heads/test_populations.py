"""Which rows heads train on: populations, their least size, the row cap, and what is recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.errors import BadInput, SchemaError
from pipeline.labels.minute_models import five_models
from pipeline.labels.spec import HeadSpec, PopulationSpec
from pipeline.models.examples import targets_of
from pipeline.models.heads.populations import on_fit_rows
from tests.models.heads.small_minutes import KEY, LINEAR, TRAINING, TREES, fit, small_minutes

MARKET = small_minutes()
FIT = (MARKET.roles["role"] == "fit").to_numpy()


def trained_on(heads: tuple[HeadSpec, ...], row_cap: int | None = None, labels: pl.DataFrame = MARKET.labels):
    targets = targets_of(MARKET.prepared, labels, heads)
    return targets, *on_fit_rows(targets, FIT, MARKET.prepared, labels, heads, row_cap)


def test_each_side_trains_on_its_own_opportunities() -> None:
    """Pins one population for both sides, a threshold that is not inclusive, and filtered tune or test rows."""
    edges = MARKET.labels.with_columns(
        long_max_achievable_net_edge_bps=pl.when(pl.int_range(pl.len()) % 2 == 0).then(40.0).otherwise(39.99)
    )
    heads = tuple(head for head in five_models("side_opportunity") if head.model == "entry")
    whole, kept, rows = trained_on(heads, labels=edges)
    assert [rows[head.name].fit_filter for head in heads] == [
        "SIDE_OPPORTUNITY_LONG_GE_40_BPS_FIT_ROWS",
        "SIDE_OPPORTUNITY_SHORT_GE_40_BPS_FIT_ROWS",
    ] * 2
    inside = (np.arange(len(whole)) % 2 == 0) | ~FIT
    np.testing.assert_array_equal(kept[:, 0], np.where(inside, whole[:, 0], np.nan))
    short = edges["short_max_achievable_net_edge_bps"].to_numpy() >= 40
    np.testing.assert_array_equal(np.isnan(kept[:, 1]), FIT & ~short)
    assert rows["long_entry_prob"].fit_rows == np.count_nonzero(FIT & inside)
    assert rows["long_entry_prob"].fit_total_rows == np.count_nonzero(FIT)
    assert rows["long_entry_prob"].fit_row_ratio == pytest.approx(0.5, abs=1e-3)
    assert rows["long_expected_net_edge_bps"].target_source == "long_actual_plan_net_edge_bps"


def test_direction_labels_choose_the_rows_of_their_side() -> None:
    """Pins a short head that is trained where the long side won."""
    heads = tuple(head for head in five_models("direction_label") if head.model == "entry")
    _, kept, rows = trained_on(heads)
    assert rows["short_entry_prob"].fit_filter == "DIRECTION_LABEL_SHORT_FIT_ROWS"
    won = MARKET.labels["short_target"].to_numpy() == 1
    np.testing.assert_array_equal(np.isnan(kept[:, 1]), FIT & ~won)


def test_without_a_population_all_fit_rows_train() -> None:
    """Pins a filter where none was asked for; rows without a label are not counted as trained on."""
    whole, kept, rows = trained_on(MARKET.heads)
    np.testing.assert_array_equal(kept, whole)
    assert {row.fit_filter for row in rows.values()} == {"ALL_FIT_ROWS"}
    unlabelled = np.count_nonzero(np.isnan(MARKET.labels["long_exit_target"].to_numpy()) & FIT)
    assert unlabelled > 0
    assert rows["long_exit_prob"].fit_rows == FIT.sum() - unlabelled


@pytest.mark.parametrize("count", [999, 1_000])
def test_a_population_has_a_thousand_rows(count: int) -> None:
    """Pins a head that is trained on a handful of rows and looks like any other."""
    place = np.flatnonzero(FIT)[:count]
    chosen = np.isin(np.arange(len(FIT)), place).astype(np.float32)
    population = PopulationSpec(method="direction_label", side="LONG", column="chosen")
    head = HeadSpec(name="h", kind="probability", target="spike_target", population=population)
    labels = MARKET.labels.with_columns(chosen=pl.Series(chosen))
    if count == 1_000:
        assert trained_on((head,), labels=labels)[2]["h"].fit_rows == 1_000
        return
    with pytest.raises(BadInput, match="999 of h under DIRECTION_LABEL_LONG_FIT_ROWS"):
        trained_on((head,), labels=labels)
    with pytest.raises(SchemaError, match="chosen"):
        trained_on((head,))


def test_a_row_cap_keeps_the_newest_rows_of_all_symbols() -> None:
    """Pins the oldest rows, one symbol only (key order is not the order of time), or a cap before the population."""
    heads = tuple(head for head in five_models("direction_label") if head.name in ("long_entry_prob", "spike_prob"))
    _, kept, rows = trained_on(heads, row_cap=1_200)
    assert {row.fit_rows for row in rows.values()} == {1_200}
    used = MARKET.labels.select(KEY).filter(pl.Series(~np.isnan(kept[:, 1]) & FIT))
    newest = MARKET.roles.filter(role="fit").sort("minute").tail(1_200)
    assert used["minute"].min() == newest["minute"].min()
    assert used["instrument"].value_counts()["count"].to_list() == [600, 600]
    side = MARKET.labels.filter(pl.Series(~np.isnan(kept[:, 0]) & FIT))
    assert set(side["long_target"]) == {1.0}


@pytest.mark.parametrize("spec", [LINEAR, TREES], ids=lambda spec: spec.name)
def test_only_fitting_is_filtered(spec, tmp_path: Path) -> None:
    """Pins scores or metrics of the population alone, a constant of all rows, and a head that its neighbours change."""
    filtered = replace(MARKET, heads=five_models("side_opportunity"))
    plain, chosen = (fit(spec, market, tmp_path) for market in (MARKET, filtered))
    assert chosen.scores.height == plain.scores.height
    test = chosen.metrics["test"]["long_entry_prob"]
    assert test["rows"] == MARKET.roles.filter(role="test").height
    inside = MARKET.labels.filter(pl.Series(FIT), pl.col("long_max_achievable_net_edge_bps") >= 40)
    assert test["constant"] == pytest.approx(inside["long_entry_target"].mean())
    entry = pl.selectors.starts_with("long_entry", "short_entry", "long_expected_net", "short_expected_net")
    assert chosen.scores.select(~entry).equals(plain.scores.select(~entry))
    for column in chosen.scores.select(entry).columns:
        assert not chosen.scores[column].equals(plain.scores[column])


def test_a_row_cap_is_what_a_member_trains_on(tmp_path: Path) -> None:
    """Pins a cap that is recorded but not obeyed: rows before it may be anything."""
    capped = TRAINING.model_copy(update={"row_cap": 1_000})
    old = pl.col("minute") < MARKET.roles.filter(role="fit").sort("minute").tail(1_000)["minute"].min()
    labels = MARKET.labels.with_columns(
        pl.when(old).then(-pl.col(c)).otherwise(c).alias(c) for c in ("long_actual_plan_net_edge_bps",)
    )
    heads = tuple(head for head in MARKET.heads if head.name == "long_expected_net_edge_bps")
    files = [
        fit(LINEAR, replace(m, heads=heads), tmp_path, capped).files for m in (MARKET, replace(MARKET, labels=labels))
    ]
    assert files[0] == files[1]
