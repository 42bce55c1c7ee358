"""The five market states of the contract page, as made-up paths: which columns tell each pair apart."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.features.compute import compute
from pipeline.features.plan import plan
from tests.features.panels import Market, market, weekdays

PLAN = plan(["alpha158", "returns", "limits"])
SESSIONS, NAMES = 80, 40
NORMAL = 2e6  # shares a session
# State -> column and the side on which the state lies; the same table stands in docs/architecture.md.
STATES = {
    "continuation": {"RSQR20": 1, "CNTD20": 1, "max_drawdown_20": 1, "return_20": 1},
    "exhaustion": {"upper_shadow_5": 1, "VMA20": -1, "KSFT2": -1, "close_streak_10": 1},
    "rebound": {"max_drawdown_20": -1, "drawdown_recovery_20": 1, "IMXD20": -1, "return_5": 1},
    "liquidity expansion": {"amount_expansion_5": 1, "turnover_5": 1, "VMA5": -1, "VSUMD20": 1},
    "crowding at the limit price": {
        "limit_position": 1, "limit_up_closes_5": 1, "limit_up_streak_10": 1, "limit_up_one_price_20": 1,
    },
}  # fmt: skip
FALL = "a fall that goes on"  # no state: what a rebound is not
PATHS = [*STATES, FALL]
CONTRACT = Path(__file__).resolve().parents[2] / "docs/architecture.md"


def path(state: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Daily log returns, shadows as shares of the price, shares traded, and the days locked at the upper limit."""
    step = rng.normal(0, 0.008, SESSIONS)
    upper, lower = rng.exponential(0.004, (2, SESSIONS))
    volume = NORMAL * np.exp(rng.normal(0, 0.2, SESSIONS))
    locked, one_price = np.zeros((2, SESSIONS), bool)
    match state:
        case "continuation":  # a steady climb at the usual volume
            step[-20:] = rng.normal(0.009, 0.006, 20)
        case "exhaustion":  # the climb, ending in heavy days that rise little and close far below their high
            step[-20:] = rng.normal(0.011, 0.008, 20)
            step[-4:] = rng.uniform(0.001, 0.006, 4)
            upper[-4:] = rng.uniform(0.02, 0.05, 4)
            volume[-4:] *= 2.5
        case "rebound":  # a fall of about a fifth, then four days up
            step[-18:-4], step[-4:] = rng.normal(-0.018, 0.008, 14), rng.normal(0.03, 0.008, 4)
        case "a fall that goes on":
            step[-18:] = rng.normal(-0.014, 0.008, 18)
        case "liquidity expansion":  # trading doubles and trebles, the price goes nowhere
            volume[-5:] *= np.linspace(1.8, 3.5, 5)
        case "crowding at the limit price":  # two closes at the limit, then two days at that price alone
            locked[-4:] = one_price[-2:] = True
            volume[-2:] *= 0.2
    return {"step": step, "upper": upper, "lower": lower, "volume": volume, "locked": locked, "one_price": one_price}


def panel(state: str, number: int) -> pl.DataFrame:
    """Panel rows of one made-up name; the last session is the decision."""
    p = path(state, np.random.default_rng([number, PATHS.index(state)]))
    closes = [20.0]
    for step, locked in zip(p["step"], p["locked"], strict=True):
        closes.append(round(closes[-1] * (1.1 if locked else np.exp(step)), 2))
    close, before = np.array(closes[1:]), np.array(closes[:-1])
    open_ = np.where(p["one_price"], close, before)
    return pl.DataFrame({
        "session": weekdays(SESSIONS), "instrument": f"{state} {number:02d}", "eligible": True,
        "open": open_, "high": np.where(p["locked"], close, np.maximum(open_, close) * (1 + p["upper"])),
        "low": np.where(p["one_price"], close, np.minimum(open_, close) * (1 - p["lower"])),
        "close": close, "pre_close": before, "volume": p["volume"], "amount": p["volume"] * close, "factor": 1.0,
        "up_limit": np.round(before * 1.1, 2), "down_limit": np.round(before * 0.9, 2), "suspended": False,
        "turnover": p["volume"] / 1e8,
    })  # fmt: skip


@pytest.fixture(scope="module")
def values() -> dict[str, pl.DataFrame]:
    """State -> the columns of its names at the decision."""
    rows = pl.concat(panel(state, number) for state in PATHS for number in range(NAMES))
    empty = market(n_instruments=2, n_sessions=3)
    inputs = Market(rows, empty.patches.clear(), empty.intraday.clear())
    found = compute(inputs.as_of, inputs.patches, inputs.intraday, PLAN, inputs.sessions[-1:])
    return {state: found.filter(pl.col("instrument").str.starts_with(state)) for state in PATHS}


def share_above(one: pl.Series, other: pl.Series) -> float:
    """Share of pairs in which a value of `one` exceeds one of `other` (ties half): 1 or 0 separates, 0.5 does not."""
    a, b = one.to_numpy()[:, None], other.to_numpy()[None, :]
    return float(((a > b) + 0.5 * (a == b)).mean())


def separation(values: dict[str, pl.DataFrame], state: str, other: str, column: str) -> float:
    """How surely a column named for `state` puts it on its side of `other`."""
    above = share_above(values[state][column], values[other][column])
    return above if STATES[state][column] > 0 else 1.0 - above


@pytest.mark.parametrize(("one", "other"), combinations(STATES, 2))
def test_named_columns_separate_every_pair(one, other, values):
    """Pins a daily sequence that cannot show two states apart: a column named for one of them tells 95 % of pairs."""
    found = [separation(values, one, other, column) for column in STATES[one]]
    found += [separation(values, other, one, column) for column in STATES[other]]
    assert max(found) >= 0.95


@pytest.mark.parametrize(("state", "column"), [(state, column) for state in STATES for column in STATES[state]])
def test_every_named_column_shows_its_state(state, column, values):
    """Pins a column listed for a state that it does not show: on its side of some other path, in 95 % of pairs."""
    assert max(separation(values, state, other, column) for other in PATHS if other != state) >= 0.95


def test_a_rebound_is_told_from_the_fall_before_it(values):
    """Pins a drawdown that says how deep and not whether it is over: as deep in both, regained in one."""
    deep = [values[path]["max_drawdown_20"].max() for path in ("rebound", FALL)]
    assert max(deep) < -0.1
    assert separation(values, "rebound", FALL, "drawdown_recovery_20") >= 0.99


def test_the_contract_lists_the_states_with_their_columns():
    """Pins the page and this test drifting apart: state, column and side of every row."""
    text = CONTRACT.read_text(encoding="utf-8")
    for state, columns in STATES.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {state} |"))
        listed = re.findall(r"`(\w+)` ([+-])", row)
        assert dict(listed) == {column: "+" if side > 0 else "-" for column, side in columns.items()}
