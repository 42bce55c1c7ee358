"""The order-flow ablation: planted order flow is accepted, noise is not; E1 decides nothing."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from pipeline.diagnostics.minutes.order_flow_ablation import (
    ACCEPTED,
    HEADS,
    NOT_ACCEPTED,
    order_flow_ablation,
)
from pipeline.errors import BadInput, SchemaError
from pipeline.features.minutes.schema import ORDER_FLOW
from pipeline.positions.manager_spec import ManagerConfig
from tests.diagnostics.minutes.block_rows import block_rows

MARKET = ("ret_1m_bps", "spread_bps")


def rows(strength: dict[str, float], seed: int = 3) -> pl.DataFrame:
    """Both sides' labels follow `ret_1m_bps` and, by a block's strength, `ofi_l1_5m`."""
    frame = block_rows((*MARKET, *ORDER_FLOW), 3_000, 900, seed)
    rng = np.random.default_rng(seed + 1)
    flow = frame["block"].replace_strict(strength, return_dtype=pl.Float64).to_numpy() * frame["ofi_l1_5m"].to_numpy()
    push = 0.5 * frame["ret_1m_bps"].to_numpy() + flow + rng.normal(size=frame.height)
    long, short = push > 0.6, push < -0.6
    columns = {"long_target": long, "short_target": short, "neutral_target": ~(long | short),
               "long_entry_target": long, "short_entry_target": short}
    return frame.with_columns(
        *(pl.Series(name, value.astype(np.int8)) for name, value in columns.items()),
        pl.Series("long_actual_plan_net_edge_bps", 5 * push - 6.5),
        pl.Series("short_actual_plan_net_edge_bps", -5 * push - 6.5),
    )


ALL = {"fit_inner": 1.0, "E1": 1.0, "E2": 1.0, "E3": 1.0}


@pytest.fixture(scope="module")
def planted() -> pl.DataFrame:
    return rows(ALL)


def test_planted_order_flow_is_accepted(planted):
    """Pins an ablation that cannot see a strong signal, and arms fitted on different rows."""
    holed = planted.with_columns(ofi_l1_1m=pl.when(pl.int_range(pl.len()) % 10 == 0).then(None).otherwise("ofi_l1_1m"))
    found = order_flow_ablation(holed, MARKET, ManagerConfig())
    assert found.status == ACCEPTED
    assert found.score == found.tables["gains"].filter(pl.col("block") != "E1")["log_loss_gain"].min() > 0.05
    rows_of = found.tables["metrics"].group_by("block").agg(pl.col("rows").n_unique())["rows"].to_list()
    assert rows_of == [1, 1, 1]
    total = found.tables["rows"].row(-1, named=True)
    assert total == {"block": "all", "before": 5_700, "after": 5_130, "dropped": 570}


def test_noise_is_not_accepted():
    """Pins acceptance by chance: sixteen noise features cost log loss."""
    found = order_flow_ablation(rows(dict.fromkeys(ALL, 0.0)), MARKET, ManagerConfig())
    assert found.status == NOT_ACCEPTED
    assert "Not better: " in found.text


@pytest.mark.parametrize("block", ["E2", "E3"])
def test_both_confirming_blocks_count(block):
    """Pins acceptance by one of the two: where the sign turns, order flow hurts."""
    found = order_flow_ablation(rows(ALL | {block: -1.0}), MARKET, ManagerConfig())
    assert found.status == NOT_ACCEPTED
    assert set(found.tables["gains"].filter(~pl.col("better"))["block"]) == {block}


def test_e1_does_not_count():
    """Pins a confirming role of the block on which candidates are picked."""
    assert order_flow_ablation(rows(ALL | {"E1": -1.0}), MARKET, ManagerConfig()).status == ACCEPTED


def test_the_manifest_and_the_described_features(planted):
    """Pins a manifest that does not name what was kept, and nulls counted after the drop."""
    holed = planted.with_columns(ofi_l1_1m=pl.when(pl.int_range(pl.len()) < 57).then(None).otherwise("ofi_l1_1m"))
    tables = order_flow_ablation(holed, MARKET, ManagerConfig()).tables
    unchanged = tables["manifest"].filter(pl.col("state") == "unchanged")
    assert unchanged["item"].to_list() == ["labels", "position_manager", "model_contract"]
    assert unchanged["hash"][1] == ManagerConfig().config_hash()
    assert tables["features"]["feature"].to_list() == list(ORDER_FLOW)
    assert tables["features"].row(0)[:3] == ("ofi_l1_1m", 5_700, 57)
    assert tables["features"]["p50"][1] == pytest.approx(planted["ofi_l1_3m"].median())
    assert tables["features"]["p99"][1] == pytest.approx(planted["ofi_l1_3m"].quantile(0.99, "linear"))
    assert set(tables["metrics"]["head"]) == set(HEADS)


def test_bad_input_is_named(planted):
    """Pins overlapping lists, an empty addition, nothing complete, a missing label and a head of one class."""
    run = ManagerConfig()
    with pytest.raises(BadInput, match="added to the market"):
        order_flow_ablation(planted, (*MARKET, "ofi_l1_5m"), run)
    with pytest.raises(BadInput, match="some row has every named feature"):
        order_flow_ablation(planted.with_columns(ofi_l1_1m=pl.lit(float("inf"))), MARKET, run)
    with pytest.raises(SchemaError, match="long_actual_plan_net_edge_bps"):
        order_flow_ablation(planted.drop("long_actual_plan_net_edge_bps"), MARKET, run)
    with pytest.raises(BadInput, match="rows of each class"):
        order_flow_ablation(planted.with_columns(long_entry_target=pl.lit(0)), MARKET, run)
    with pytest.raises(BadInput, match="features are finite"):
        order_flow_ablation(planted.with_columns(spread_bps=pl.lit(None, pl.Float64)), MARKET, run)
