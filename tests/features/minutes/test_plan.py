"""The plan of minute families: one order, one hash, and a warm-up counted in sessions."""

from __future__ import annotations

import pytest

from pipeline.asof import minute_versions
from pipeline.errors import BadInput
from pipeline.features.minutes import history
from pipeline.features.minutes.plan import FAMILIES, MinutePlan
from pipeline.features.minutes.schema import ORDER, SCHEMA, order_hash
from pipeline.features.plan import FAMILIES as SESSION_FAMILIES
from pipeline.features.plan import Plan, plan


def test_the_order_is_the_schemas_whatever_order_the_families_are_named_in() -> None:
    """Pins a schema that follows the study's list while `minute_features` gives schema order: columns would swap."""
    forth, back = plan(list(FAMILIES)), plan(list(FAMILIES)[::-1])
    assert forth.schema == back.schema == ORDER
    assert forth.schema_hash == back.schema_hash == order_hash()


def test_a_plan_of_some_families_holds_only_their_features_and_inputs() -> None:
    """Pins a study without books that is asked for them."""
    some = plan(["volume", "price"])
    assert some.schema == tuple(f.name for f in SCHEMA if f.family in ("volume", "price"))
    assert not {"books", "funding", "spread_bps"} & set(some.inputs)
    assert {"close", "volume", "trades"} <= set(some.inputs)
    assert {"books", "funding", "spread_bps"} <= set(plan(list(FAMILIES)).inputs)


def test_warm_up_is_counted_in_sessions_from_the_first_minute_of_one() -> None:
    """Pins minutes taken for sessions, and a first minute of a day without the minutes before midnight."""
    assert max(feature.lookback for feature in SCHEMA) == 1440
    assert plan(list(FAMILIES)).lookback == 2
    assert plan(["clock"]).lookback == 2  # one minute: rounds up to a whole session, and the one before


def test_every_minute_feature_is_a_series() -> None:
    """Pins a scope that would rank single minutes across a session of one symbol."""
    made = plan(["price"])
    assert set(made.scopes) == set(made.schema)
    assert set(made.scopes.values()) == {"series"}
    assert {feature.scope for feature in made.features} == {"series"}


def test_session_families_still_make_a_session_plan() -> None:
    """Pins daily studies that are handed a plan of minutes."""
    assert isinstance(plan(["returns"]), Plan)
    assert isinstance(plan(["price"]), MinutePlan)
    assert not set(SESSION_FAMILIES) & set(FAMILIES)


@pytest.mark.parametrize(
    ("families", "words"),
    [
        (["returns", "price"], "by the session or by the minute"),
        (["price", "price"], "each named once"),
        (["prices"], "registered feature families"),
    ],
)
def test_unusable_lists_of_families_are_refused(families: list[str], words: str) -> None:
    """Pins a plan of both kinds, of doubled columns, or of a misspelt family."""
    with pytest.raises(BadInput, match=words):
        plan(families)


def test_a_plan_of_nothing_is_refused() -> None:
    """Pins a study without features."""
    with pytest.raises(BadInput, match="no family"):
        MinutePlan(())


def test_the_panel_and_the_features_agree_on_the_longest_funding_interval() -> None:
    """Pins a settlement that the panel lets through and the features stop at: the panel may not import features."""
    assert minute_versions.LONGEST_FUNDING_HOURS == history.LONGEST_FUNDING_HOURS
