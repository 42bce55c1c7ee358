"""Corrections: each decision session sees what was known by then, and nothing else moves."""

from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl
import pytest

from pipeline.features.compute import compute
from pipeline.features.history import build
from pipeline.features.laws import differences
from pipeline.features.plan import FAMILIES, plan
from pipeline.frames import AsOf
from tests.features.panels import Market, market

PLAN = plan(list(FAMILIES))
KEY = ["session", "instrument"]


def panel_as_seen_at(market: Market, decision: date) -> pl.DataFrame:
    """The obvious version: for every row, the newest patch effective by the decision, whole rows replaced."""
    newest = (
        market.patches.filter(pl.col("effective_session") <= decision)
        .sort("effective_session")
        .unique(KEY, keep="last", maintain_order=True)
    )
    measures = [c for c in newest.columns if c not in ("effective_session", *KEY)]
    held = market.panel.filter(pl.col("session") <= decision)
    patched = held.drop(measures).join(newest.drop("effective_session"), on=KEY, how="inner")
    return pl.concat([held.join(newest, on=KEY, how="anti"), patched.select(held.columns)]).sort(KEY)


@pytest.fixture(scope="module")
def revised() -> Market:
    return market(n_instruments=8, n_sessions=75, seed=21, patch_share=0.05)


def test_equal_to_rebuilding_the_panel_for_every_decision(revised):
    """Pins a correction that is missed, seen early, or leaks into another instrument, for all features,
    all rows."""
    assert len(revised.patches) > 15
    found = compute(revised.as_of, revised.patches, revised.intraday, PLAN, revised.sessions)
    for day in revised.sessions:
        seen = panel_as_seen_at(revised, day)
        expected = compute(AsOf(seen), revised.patches.clear(), revised.intraday, PLAN, [day])
        assert differences(found, expected, PLAN.schema) == []


def test_a_correction_changes_only_decisions_from_its_effective_session_on(revised):
    """Pins rewriting the past: values before the correction are the same bits, some value after it is
    another."""
    patch = revised.patches.sort("effective_session")[:1]
    effective = patch["effective_session"][0]
    plain = compute(revised.as_of, revised.patches.clear(), revised.intraday, PLAN, revised.sessions)
    found = compute(revised.as_of, patch, revised.intraday, PLAN, revised.sessions)
    before = pl.col("session") < effective
    assert differences(plain.filter(before), found.filter(before), PLAN.schema) == []
    changed = plain.filter(~before)["MA20"].equals(found.filter(~before)["MA20"])
    assert not changed


def test_the_newest_of_two_corrections_wins(revised):
    """Pins order: a second correction of the same row replaces the first from its own effective session
    on."""
    days, name = revised.sessions, "600000.SH"
    row = revised.panel.filter((pl.col("instrument") == name) & pl.col("close").is_not_null())[30:31]
    t = days.index(row["session"][0])
    measures = [c for c in revised.patches.columns if c != "effective_session"]
    later = pl.concat(
        row.select(pl.lit(days[t + wait]).alias("effective_session"), *measures).with_columns(
            close=pl.lit(close)
        )
        for wait, close in ((2, 50.0), (4, 70.0))
    )
    history = build(revised.panel, later[::-1], revised.intraday, PLAN.inputs, PLAN.lookback, days[t : t + 6])
    own = (history.rows["instrument"] == name).to_numpy()
    seen = history.values["close"][history.row_history[own], t]
    np.testing.assert_array_equal(seen, [row["close"][0]] * 2 + [50.0] * 2 + [70.0] * 2)


def test_only_corrected_instruments_cost_more(revised):
    """Pins the cost: histories grow with the corrections inside the window, not with the universe."""
    wanted = revised.sessions[-3:]
    n = revised.panel["instrument"].n_unique()
    plain = build(
        revised.panel, revised.patches.clear(), revised.intraday, PLAN.inputs, PLAN.lookback, wanted
    )
    one = build(revised.panel, revised.patches[-1:], revised.intraday, PLAN.inputs, PLAN.lookback, wanted)
    stale = build(revised.panel, revised.patches[-1:], revised.intraday, PLAN.inputs, 1, wanted)
    assert (len(plain.start), len(one.start), len(stale.start)) == (n, n + 1, n)
