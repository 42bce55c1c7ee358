"""Sample names, one-to-one joins and complete rows."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest

from pipeline.errors import BadInput, KeyViolation
from pipeline.features.minutes.compute import minute_features
from pipeline.features.minutes.samples import drop_incomplete, join_features, sample_id
from pipeline.features.minutes.schema import MARKET, ORDER, ORDER_FLOW
from tests.features.minutes.markets import inputs


@pytest.fixture(scope="module")
def found() -> pl.DataFrame:
    market = inputs()
    return minute_features(market.bars, market.books, market.funding).with_columns(sample_id())


def test_a_sample_is_named_for_good():
    """Pins a name that moves with the batch, the machine or the time unit."""
    row = pl.DataFrame({"instrument": ["BTCUSDT"], "minute": [datetime(2024, 1, 1, tzinfo=UTC)]})
    assert row.select(sample_id()).item() == "BTCUSDT:1704067200000"


def test_samples_are_unique(found):
    """Pins two minutes or symbols under one name."""
    assert found["sample_id"].n_unique() == found.height


def test_incomplete_rows_are_dropped_and_counted(found):
    """Pins zero-filled order flow, and a drop without counts."""
    kept, counts = drop_incomplete(found)
    whole = found.select(pl.all_horizontal(pl.col(ORDER_FLOW).is_not_null())).to_series()
    assert (counts.before, counts.after, counts.dropped) == (found.height, whole.sum(), (~whole).sum())
    assert kept.equals(found.filter(whole))
    assert counts.missing["ofi_l1_5m"] == found["ofi_l1_5m"].null_count()
    assert 0 < counts.after < counts.before


def test_no_complete_row_is_an_error(found):
    """Pins a training run on nothing: the error names what is missing and how often."""
    with pytest.raises(BadInput, match=r"none of 100 rows.*in 100.*lost_features"):
        drop_incomplete(found[:100])


def test_a_join_keeps_every_row_once(found):
    """Pins a join in another row order, and key columns carried twice."""
    keys = ["session", "instrument", "minute", "sample_id"]
    left, right = found.select(*keys, *MARKET), found.select(*keys, *ORDER_FLOW).reverse()
    joined = join_features(left, right)
    assert joined.columns == [*keys, *ORDER]
    assert joined.equals(found.select(*keys, *ORDER))


@pytest.mark.parametrize(
    ("left", "right", "counts"),
    [
        (slice(0, 9), slice(0, 10), "left 9 rows, 0 doubled or null, 0 without a partner; right 10 rows, 0 doubled"),
        (slice(0, 10), slice(2, 10), "left 10 rows, 0 doubled or null, 2 without a partner; right 8 rows"),
    ],
)
def test_a_join_that_loses_rows_is_refused_with_both_counts(left, right, counts, found):
    """Pins rows lost without a word."""
    a, b = found.select("sample_id", "ret_1m_bps"), found.select("sample_id", "ofi_l1_1m")
    with pytest.raises(KeyViolation, match=counts):
        join_features(a[left], b[right])


def test_a_join_that_doubles_rows_is_refused(found):
    """Pins doubled samples on either side, and a null name that would match nothing."""
    a, b = found[:10].select("sample_id", "ret_1m_bps"), found[:10].select("sample_id", "ofi_l1_1m")
    with pytest.raises(KeyViolation, match="right 11 rows, 1 doubled"):
        join_features(a, pl.concat([b, b[:1]]))
    with pytest.raises(KeyViolation, match="left 11 rows, 1 doubled"):
        join_features(pl.concat([a, a[:1]]), b)
    with pytest.raises(KeyViolation, match="left 10 rows, 1 doubled or null"):
        join_features(a.with_columns(pl.when(pl.int_range(pl.len()) > 0).then("sample_id")), b)


def test_a_column_of_both_sides_is_refused(found):
    """Pins two versions of one feature, of which a suffix would hide one."""
    with pytest.raises(BadInput, match="ret_1m_bps"):
        join_features(found, found.select("sample_id", "ret_1m_bps"))
