"""One schema: names, order, hash, sources and look-backs."""

from __future__ import annotations

import hashlib
import json

import pytest

from pipeline.errors import BadInput
from pipeline.features.minutes import schema
from pipeline.features.minutes.spec import SOURCES, MinuteFeature

NAMED_BY_THE_REFERENCE = {
    "ret_1m_bps", "ret_5m_bps", "ret_15m_bps", "realized_vol_15m_bps", "taker_imbalance_1m", "taker_imbalance_5m",
    "spread_bps", "spread_rank_24h_pct", "book_microprice_basis_bps", "book_pressure_taker_1m",
    "book_pressure_taker_5m",
}  # fmt: skip
ORDER_FLOW = (
    "ofi_l1_1m", "ofi_l1_3m", "ofi_l1_5m", "ofi_l1_15m", "mlofi_l5_1m", "mlofi_l5_5m", "mlofi_l20_1m", "mlofi_l20_5m",
    "mlofi_l5_l20_gap_1m", "microprice_basis_change_1m_bps", "microprice_basis_change_5m_bps",
    "ofi_l1_5m_zscore_240m", "mlofi_l20_5m_zscore_240m", "ofi_l1_5m_clipped", "ofi_l1_taker_5m",
    "ofi_l1_spread_rank_5m",
)  # fmt: skip
HASH = "3be69fd4cc3e997c97a963d707299890bc0d5619bac02da77312832e528fbe99"


def test_there_are_54_market_features_and_16_of_order_flow_in_the_agreed_order():
    """Pins a lost or renamed column, and an order-flow block in another order than the contract's."""
    assert (len(schema.MARKET), len(set(schema.ORDER)), schema.ORDER_FLOW) == (54, 70, ORDER_FLOW)
    assert set(schema.MARKET) >= NAMED_BY_THE_REFERENCE
    assert (*schema.MARKET, *ORDER_FLOW) == schema.ORDER


def test_the_order_hash_is_pinned_and_can_be_made_without_this_code():
    """Pins a silent reordering, and a hash that another runtime could not reproduce."""
    text = json.dumps(list(schema.ORDER), separators=(",", ":"))
    assert schema.order_hash() == hashlib.sha256(text.encode()).hexdigest() == HASH
    assert schema.order_hash(schema.ORDER_FLOW) == schema.order_hash(ORDER_FLOW[::-1]) != HASH


def test_every_row_of_the_schema_is_filled():
    """Pins a feature that nobody could compute from its declaration."""
    table = schema.schema_table()
    assert table["position"].to_list() == list(range(70))
    for column in ("name", "family", "meaning", "unit", "sources", "formula", "method", "missing"):
        assert table[column].str.len_chars().min() > 0, column


def test_a_study_without_books_or_spread_is_told_what_it_loses():
    """Pins losing a column without a word: what is lost is named with the source that it lacks."""
    lost = schema.lost_features({"bars", "funding"})
    assert set(ORDER_FLOW) < set(lost)
    assert lost["ofi_l1_spread_rank_5m"] == ("spread", "books")
    assert len(lost) + len(schema.available_features({"bars", "funding"})) == 70
    assert schema.lost_features(SOURCES) == {}


def test_lookbacks_are_declared_in_minutes():
    """Pins a warm-up that forgets what a window's first minute reads."""
    found = {feature.name: feature.lookback for feature in schema.SCHEMA}
    assert found["spread_rank_24h_pct"] == schema.lookback() == 1440
    assert (found["ret_15m_bps"], found["ofi_l1_5m"], found["ofi_l1_5m_zscore_240m"]) == (16, 6, 245)
    assert schema.lookback(["ret_15m_bps", "volume_zscore_60m"]) == 60


@pytest.mark.parametrize("names", [["ret_2m_bps"], ["ret_1m_bps", "ret_1m_bps"]])
def test_an_unknown_or_doubled_name_is_refused(names):
    """Pins a typing error that would train on fewer columns than asked for."""
    with pytest.raises(BadInput, match="in the schema"):
        schema.select(names)


def test_an_unknown_source_is_refused():
    """Pins a misspelt source that would lose features."""
    with pytest.raises(BadInput, match="sources are"):
        schema.available_features({"bars", "book"})


def test_a_window_longer_than_its_lookback_is_refused():
    """Pins a declaration that contradicts itself."""
    with pytest.raises(BadInput, match="look-back holds the window"):
        MinuteFeature("x", "f", "m", "u", ("bars",), 5, 4, "f", "m", "never")
