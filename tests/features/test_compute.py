"""What `compute` and `plan` accept, refuse and promise about the table."""

from __future__ import annotations

from datetime import date

import numba
import numpy as np
import polars as pl
import pytest

from pipeline.asof.panel import PANEL_COLUMNS
from pipeline.errors import BadInput, KeyViolation, SchemaError
from pipeline.features.compute import compute
from pipeline.features.plan import FAMILIES, Plan, plan
from pipeline.features.spec import Feature
from pipeline.fingerprints import hash_frame
from tests.features.panels import Market, market

ALL = plan(list(FAMILIES))


@pytest.fixture(scope="module")
def small() -> Market:
    return market(n_instruments=6, n_sessions=70)


def run(m: Market, p: Plan = ALL, sessions=None) -> pl.DataFrame:
    return compute(m.as_of, m.patches, m.intraday, p, sessions or m.sessions[-5:])


def test_the_table_is_the_contract(small):
    """Pins the shape: one row per panel row of the sessions, key order, float32 in schema order, no NaN,
    no -0.0."""
    found = run(small)
    rows = small.panel.filter(pl.col("session").is_in(small.sessions[-5:]))
    assert found.select("session", "instrument").equals(rows.select("session", "instrument"))
    assert tuple(found.columns[2:]) == ALL.schema
    assert set(found.dtypes[2:]) == {pl.Float32}
    values = found.select(pl.col(pl.Float32)).fill_null(1).to_numpy()
    assert np.isfinite(values).all()
    assert not np.signbit(values[values == 0]).any()


def test_thread_count_does_not_change_a_bit(small):
    """Pins reductions across threads: one thread and all of them give the same hash."""
    before, hashes = numba.get_num_threads(), set()
    try:
        for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
            numba.set_num_threads(threads)
            hashes.add(hash_frame(run(small)))
    finally:
        numba.set_num_threads(before)
    assert len(hashes) == 1


def test_names_are_unique_and_declared_over_all_families():
    """Pins two families writing one column, and a feature filed under another family's name."""
    names = [f.name for family in FAMILIES.values() for f in family.features]
    assert len(set(names)) == len(names)
    assert all(f.family == family.name for family in FAMILIES.values() for f in family.features)
    assert ALL.lookback == max(f.lookback for f in ALL.features)


def test_the_schema_hash_sees_order():
    """Pins a model fed with columns in another order."""
    assert plan(["flow", "context"]).schema_hash != plan(["context", "flow"]).schema_hash


def test_inputs_are_columns_of_the_panel():
    """Pins two rooms drifting apart: every column that a feature reads is one that asof writes."""
    assert set(ALL.inputs) - {"bars"} <= set(PANEL_COLUMNS)


def test_declared_inputs_suffice(small):
    """Pins an undeclared read: each family computes from its declared columns alone, and gives the same
    values."""
    for family in FAMILIES.values():
        own = Plan((family,))
        columns = ["session", "instrument", "eligible", *(c for c in own.inputs if c != "bars")]
        bare = Market(small.panel.select(columns), small.patches, small.intraday)
        assert run(bare, own).equals(run(small, own))


def test_an_unknown_family_is_named_with_the_known_ones():
    """Pins a typing error in a study: it says what was asked and what exists."""
    with pytest.raises(BadInput, match=r"alfa.*known.*alpha158"):
        plan(["alfa"])


@pytest.mark.parametrize("names", [[], ["flow", "flow"]])
def test_an_empty_or_doubled_plan_is_refused(names):
    """Pins a table without columns, or with one column twice."""
    with pytest.raises(BadInput, match="plan needs families"):
        plan(names)


def test_a_feature_cannot_declare_a_window_without_today():
    """Pins a look-back of zero and a min_bars that no window can hold."""
    with pytest.raises(BadInput, match="lookback 3, min_bars 4"):
        Feature("x", "x", (), 3, 4, "instrument", "", "")


def test_bad_panels_are_refused_by_name(small):
    """Pins silent nonsense: a plain frame, a doubled key, an absent column, a session that was never
    built."""
    with pytest.raises(TypeError, match="AsOf"):
        compute(small.panel, small.patches, small.intraday, ALL, small.sessions[-1:])  # type: ignore[arg-type]
    doubled = Market(pl.concat([small.panel, small.panel[-1:]]), small.patches, small.intraday)
    with pytest.raises(KeyViolation, match="unique"):
        run(doubled)
    with pytest.raises(SchemaError, match="turnover"):
        run(Market(small.panel.drop("turnover"), small.patches, small.intraday))
    with pytest.raises(BadInput, match="2031-01-06"):
        run(small, sessions=[date(2031, 1, 6)])


def test_an_infinite_value_names_its_column(small):
    """Pins infinities that reach a model: a zero price that slipped through is refused with the column's
    name."""
    last = pl.col("session") == small.sessions[-1]
    broken = small.panel.with_columns(open=pl.when(last).then(0.0).otherwise("open"))
    with pytest.raises(BadInput, match="KMID"):
        run(Market(broken, small.patches.clear(), small.intraday), plan(["alpha158"]))


def test_without_minutes_or_money_flow_a_run_goes_on(small):
    """Pins a missing optional table stopping a run: its features are null, the others the same."""
    flows = [c for c in small.panel.columns if c.startswith("flow_")]
    panel = small.panel.with_columns(pl.lit(None, dtype=pl.Float64).alias(c) for c in flows)
    patches = small.patches.with_columns(pl.lit(None, dtype=pl.Float64).alias(c) for c in flows)
    found, whole = run(Market(panel, patches, small.intraday.clear())), run(small)
    gone = [f.name for f in ALL.features if f.family in ("flow", "intraday")]
    assert found.select(pl.col(gone).is_null().all()).row(0) == (True,) * len(gone)
    assert found["flow_gross_missing"].min() == 1.0
    same = [c for c in ALL.schema if c not in gone and c != "flow_gross_missing"]
    assert found.select(same).equals(whole.select(same))
