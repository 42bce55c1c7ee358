"""Executable labels: cases by hand, and random markets against the slow oracle."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipeline.calendars import Calendar
from pipeline.errors import BadInput, CalendarError, KeyViolation
from pipeline.frames import AsOf, Hindsight
from pipeline.labels.executable import COLUMNS, HEADS, executable_labels
from pipeline.labels.spec import HeadSpec, LabelSpec
from tests.oracles.labels_slow import slow_labels

DAYS = [day for i in range(60) if (day := date(2024, 1, 1) + timedelta(i)).weekday() < 5]
CALENDAR = Calendar(tuple(DAYS), DAYS[-1])
SPEC = LabelSpec(family="executable", heads=(HeadSpec(name="rank", kind="rank"),), max_exit_delay=4)
SCHEMA = {
    "session": pl.Date,
    "instrument": pl.String,
    "open": pl.Float64,
    "low": pl.Float64,
    "close": pl.Float64,
    "factor": pl.Float64,
    "open_block": pl.String,
    "close_block": pl.String,
    "eligible": pl.Boolean,
}


def _market(n: int, names: str = "a", **changes: dict[tuple[str, int], Any]) -> pl.DataFrame:
    """Flat prices of 10 on `n` sessions; changes: column -> {(name, session ordinal): value}."""
    base = {
        "open": 10.0,
        "low": 10.0,
        "close": 10.0,
        "factor": 1.0,
        "open_block": None,
        "close_block": None,
        "eligible": True,
    }
    rows = [
        {"session": DAYS[t], "instrument": name}
        | {column: changes.get(column, {}).get((name, t), value) for column, value in base.items()}
        for t in range(n)
        for name in names
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def _label(market: pl.DataFrame, t: int = 0, name: str = "a", spec: LabelSpec = SPEC) -> dict[str, Any]:
    labels = executable_labels(Hindsight(market), CALENDAR, [DAYS[t]], spec)
    return labels.filter(pl.col("instrument") == name).row(0, named=True)


def test_return_runs_from_the_next_open_to_the_third_close_in_adjusted_prices() -> None:
    """An entry at T's own close, an exit one session off, or raw prices across an adjustment."""
    market = _market(
        8,
        open={("a", 1): 8.0},
        close={("a", 3): 5.0},
        low={("a", 2): 7.0, ("a", 3): 4.0},
        factor={("a", t): 2.0 for t in (3, 4, 5, 6, 7)},
    )
    label = _label(market)
    assert (label["entry_session"], label["exit_session"]) == (DAYS[1], DAYS[3])
    assert (label["entry_price"], label["exit_price"], label["ret"]) == (8.0, 10.0, 0.25)
    assert (label["label_start"], label["label_end"]) == (DAYS[0], DAYS[4])
    assert (label["status"], label["exit_delay"]) == ("filled", 0)
    assert label["fragility"] == pytest.approx(1 - 7 / 8)


def test_blocked_entry_has_no_return_and_ends_after_the_attempt() -> None:
    """A name bought at a limit or without a row, or a span that claims to have looked further."""
    gone = (
        _market(8).filter(pl.col("session") != DAYS[1]).vstack(_market(8, "b")).sort("session", "instrument")
    )
    for market in (_market(8, open_block={("a", 1): "limit_up"}), gone):
        label = _label(market)
        assert (label["status"], label["label_end"], label["ret"]) == ("entry_blocked", DAYS[2], None)
        assert (label["buy_block"], label["rank"], label["downlock"], label["intraday_aux"]) == (
            1.0,
            None,
            None,
            None,
        )
        assert (label["entry_session"], label["entry_price"]) == (None, None)


def test_blocked_exit_is_carried_to_the_first_tradable_close() -> None:
    """An exit sold at a limit or in a suspension, or a span that hides how long it looked."""
    market = _market(12, close_block={("a", 3): "limit_down", ("a", 4): "suspended"}, close={("a", 5): 9.0})
    label = _label(market)
    assert (label["exit_session"], label["exit_delay"], label["label_end"]) == (DAYS[5], 2, DAYS[6])
    assert label["ret"] == pytest.approx(-0.1)


def test_an_exit_blocked_too_long_is_censored_after_the_last_look() -> None:
    """An endless wait, or a censored label that carries a number."""
    blocked = {("a", t): "limit_up" for t in range(3, 12)}
    label = _label(_market(12, close_block=blocked))
    assert (label["status"], label["ret"], label["exit_session"]) == ("censored", None, None)
    assert label["label_end"] == DAYS[8]  # target 3, four more sessions looked at: 3..7
    assert (label["rank"], label["fragility"], label["downlock"], label["buy_block"]) == (
        None,
        None,
        0.0,
        0.0,
    )
    del blocked["a", 7]
    assert _label(_market(12, close_block=blocked))["exit_delay"] == 4


@pytest.mark.parametrize(
    ("known", "end", "buy_block"), [(1, None, None), (2, None, 0.0), (3, None, 0.0), (4, DAYS[4], 0.0)]
)
def test_a_label_is_open_until_its_last_session_is_known(
    known: int, end: date | None, buy_block: float | None
) -> None:
    """A span end, or a head, given out before it could be known."""
    label = _label(_market(known))
    assert (label["label_end"], label["buy_block"]) == (end, buy_block)
    assert (label["status"] == "open") == (end is None) == (label["rank"] is None)
    assert (label["intraday_aux"] is None) == (known < 2)


def test_an_open_exit_that_may_still_be_carried_stays_open() -> None:
    """A carried position declared censored because the data ended."""
    market = _market(6, close_block={("a", t): "suspended" for t in range(3, 6)})
    assert (_label(market)["status"], _label(market)["label_end"]) == ("open", None)


@pytest.mark.parametrize(
    ("closes", "blocks", "expected"),
    [
        ({}, {}, 0.0),
        ({}, {1: "limit_down"}, 1.0),  # locked on the way, sold in time
        ({4: 9.0}, {3: "limit_down"}, 1.0),  # locked at the target
        ({4: 11.0}, {3: "limit_up"}, 0.0),  # blocked, but on the good side
        ({2: 10.0, 4: 9.0}, {3: "suspended"}, 1.0),  # came back below the last close one could have sold at
        ({2: 8.0, 4: 9.0}, {3: "suspended"}, 0.0),  # came back above it
        ({1: 12.0, 4: 11.0}, {2: "suspended", 3: "suspended"}, 1.0),
        (
            {4: 9.0},
            {1: "suspended", 2: "suspended", 3: "suspended"},
            1.0,
        ),  # no close since entry: against the entry
        ({4: 9.0}, {3: "no_amount"}, 0.0),
        ({}, dict.fromkeys(range(3, 8), "suspended"), None),  # never came back: the loss is unknown
        ({}, dict.fromkeys(range(3, 7), "suspended") | {7: "limit_down"}, 1.0),
    ],
)
def test_downlock_means_a_loss_that_could_not_be_sold(
    closes: dict[int, float], blocks: dict[int, str], expected: float | None
) -> None:
    """Upside locks counted as risk, or a suspension that gapped down counted as harmless."""
    market = _market(
        12,
        close={("a", t): p for t, p in closes.items()},
        close_block={("a", t): b for t, b in blocks.items()},
    )
    assert _label(market)["downlock"] == expected


def test_ranks_take_eligible_filled_rows_only_and_share_ties() -> None:
    """A cross-section ranked with names that could not be scored or bought, or ties broken by row order."""
    names = "abcdefg"
    market = _market(
        8,
        names,
        close={(n, 3): p for n, p in zip(names, [11, 12, 12, 14, 15, 99, 98], strict=True)},
        eligible={("f", 0): False},
        open_block={("g", 1): "suspended"},
    )
    labels = executable_labels(Hindsight(market), CALENDAR, [DAYS[0]], SPEC)
    assert labels["rank"].to_list() == [-0.5, -0.125, -0.125, 0.25, 0.5, None, None]
    assert labels["q"].to_list() == [0.0, 0.0, 0.0, 0.0, 1.0, None, None]
    assert labels["buy_block"].to_list() == [0.0] * 5 + [None, 1.0]
    assert labels.filter(pl.col("instrument") == "f").select("ret", "status").row(0) == (
        pytest.approx(8.9),
        "filled",
    )


@pytest.mark.parametrize(
    ("n", "tail", "ones"), [(10, 0.2, 2), (25, 0.28, 7), (100, 0.2, 20), (6, 0.2, 2), (1, 0.2, 1)]
)
def test_upper_tail_holds_its_share(n: int, tail: float, ones: int) -> None:
    """One name too many because 0.28 * 25 is not exactly 7."""
    names = [f"{i:03d}" for i in range(n)]
    market = pl.concat(
        [
            _market(8, "a", close={("a", 3): 10.0 + i}).with_columns(instrument=pl.lit(name))
            for i, name in enumerate(names)
        ]
    )
    labels = executable_labels(Hindsight(market), CALENDAR, [DAYS[0]], SPEC.model_copy(update={"tail": tail}))
    assert labels["q"].sum() == ones


MARKETS = st.builds(
    lambda seed, names, n, risk: _random_market(np.random.default_rng(seed), names, n, risk),
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    st.integers(2, 24),
    st.sampled_from([0.0, 0.1, 0.5]),
)


def _random_market(rng: np.random.Generator, names: int, n: int, risk: float) -> pl.DataFrame:
    """Prices in whole tenths (for ties), blocks, missing rows and factors, delistings."""
    rows = []
    for i in range(names):
        last = n if rng.random() < 0.7 else int(rng.integers(1, n + 1))
        for t in range(last):
            blocks = [
                None
                if rng.random() >= risk
                else str(rng.choice(["suspended", "limit_up", "limit_down", "no_amount"]))
                for _ in range(2)
            ]
            prices = [float(x) / 10 for x in rng.integers(80, 121, 2)]
            dark = "suspended" in blocks
            rows.append(
                {
                    "session": DAYS[t],
                    "instrument": f"{i}",
                    "open": None if dark else prices[0],
                    "close": None if dark else prices[1],
                    "low": None if dark else min(prices) - 0.3,
                    "factor": None if rng.random() < risk / 5 else 1.0 + (t > n // 2) * 0.5,
                    "open_block": "suspended" if dark else blocks[0],
                    "close_block": "suspended" if dark else blocks[1],
                    "eligible": bool(rng.random() < 0.8),
                }
            )
    market = pl.DataFrame(rows, schema=SCHEMA)
    # One name that is always there: a session without any row is refused.
    steady = _market(n, "i").with_columns(instrument=pl.lit("index"), eligible=pl.lit(False))
    return pl.concat([market, steady]).sort("session", "instrument")


@settings(max_examples=80, deadline=None)
@given(MARKETS, st.integers(1, 4), st.integers(0, 5), st.sampled_from([0.1, 0.2, 0.5]))
def test_random_markets_agree_with_the_slow_oracle(
    market: pl.DataFrame, exit_session: int, delay: int, tail: float
) -> None:
    """Any status, date, price or head that differs from a row-by-row reading of the protocol."""
    spec = SPEC.model_copy(update={"exit_session": exit_session, "max_exit_delay": delay, "tail": tail})
    sessions = market["session"].unique().sort().to_list()
    labels = executable_labels(Hindsight(market), CALENDAR, sessions, spec)
    expected = slow_labels(market.to_dicts(), DAYS, sessions[-1], exit_session, delay, tail)
    assert labels.select("session", "instrument").rows() == sorted(expected)
    for row in labels.iter_rows(named=True):
        truth = expected[row["session"], row["instrument"]]
        for column in COLUMNS[2:]:
            want = truth[column]
            want = pytest.approx(want, rel=1e-6, abs=1e-7) if isinstance(want, float) else want
            assert row[column] == want, (column, row, truth)


def test_a_known_label_does_not_depend_on_how_far_the_frame_reaches() -> None:
    """qlib#2080: a value that changes with the extent of the data, early or late."""
    market = _random_market(np.random.default_rng(4), 6, 24, 0.1)
    whole = executable_labels(Hindsight(market), CALENDAR, DAYS[5:8], SPEC)
    parts = pl.concat(
        [
            executable_labels(
                Hindsight(market.filter(pl.col("session").is_between(day, DAYS[DAYS.index(day) + 7]))),
                CALENDAR,
                [day],
                SPEC,
            )
            for day in DAYS[5:8]
        ]
    )
    assert_frame_equal(whole, parts)
    assert_frame_equal(
        whole,
        executable_labels(
            Hindsight(market.sample(fraction=1, shuffle=True, seed=1)),
            CALENDAR,
            [DAYS[7], DAYS[5], DAYS[6]],
            SPEC,
        ),
    )


def test_table_is_the_one_of_the_contract() -> None:
    """Columns, types or order that a later stage does not expect."""
    labels = executable_labels(Hindsight(_market(8)), CALENDAR, DAYS[:4], SPEC)
    assert tuple(labels.columns) == COLUMNS
    assert labels.schema["exit_delay"] == pl.Int16
    assert {labels.schema[c] for c in ("label_start", "label_end", "entry_session", "exit_session")} == {
        pl.Date
    }
    assert {labels.schema[c] for c in ("entry_price", "exit_price", "ret")} == {pl.Float64}
    assert {labels.schema[c] for c in HEADS} == {pl.Float32}


def test_refusals_name_what_is_wrong() -> None:
    """Labels made from a frame that may be as-of, has holes, doubled rows or contradictions."""
    market = _market(8)
    with pytest.raises(TypeError):
        executable_labels(AsOf(market), CALENDAR, [DAYS[0]], SPEC)  # type: ignore[arg-type]
    for bad, message in [
        (market.filter(pl.col("session") != DAYS[2]), f"none on {DAYS[2]}"),
        (market.filter(pl.col("session") != DAYS[0]), f"none on {DAYS[0]}"),
        (_market(8, open={("a", 2): 0.0}), "positive open"),
        (_market(8, close={("a", 2): None}), "positive close"),
    ]:
        with pytest.raises(BadInput, match=message):
            executable_labels(Hindsight(bad), CALENDAR, [DAYS[0]], SPEC)
    with pytest.raises(KeyViolation):
        executable_labels(Hindsight(market.vstack(market.head(1))), CALENDAR, [DAYS[0]], SPEC)
    with pytest.raises(BadInput, match="at least one decision session"):
        executable_labels(Hindsight(market), CALENDAR, [], SPEC)
    unknown = LabelSpec(family="executable", heads=(HeadSpec(name="alpha", kind="rank"),))
    with pytest.raises(BadInput, match="alpha"):
        executable_labels(Hindsight(market), CALENDAR, [DAYS[0]], unknown)


def test_a_span_that_ends_past_the_announced_calendar_is_refused() -> None:
    """A guessed holiday: the session after the last one looked at is not announced yet."""
    short = Calendar(tuple(DAYS[:4]), DAYS[3])
    with pytest.raises(CalendarError, match="refresh trade_cal"):
        executable_labels(Hindsight(_market(4)), short, [DAYS[0]], SPEC)
