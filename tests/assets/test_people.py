"""What people read: trace, why, check feature, doctor, load. One tiny environment, never changed."""

from __future__ import annotations

import argparse
import io
import json
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from assets import arguments
from assets.cli import build_parser, main
from assets.console import cell, fixed, number, percent, table
from assets.doctor import examine
from assets.explaining import explain, standing
from assets.feature_check import check_feature
from assets.loading import load
from assets.tracing import trace_value
from pipeline.asof.origins import ORIGINS, origin
from pipeline.asof.panel import PANEL_COLUMNS
from pipeline.errors import BadInput, CalendarError, SchemaError
from pipeline.features.plan import FAMILIES
from pipeline.features.spec import Family, Feature
from pipeline.positions.policy import Policy
from pipeline.tables.tushare import TABLES

pytestmark = pytest.mark.xdist_group("tiny")

STUDY = "ashare_daily"
KEY = ["session", "instrument"]


@pytest.fixture(scope="module")
def late(tiny):
    """(session, instrument) of a row that the vendor began to serve only after its own decision."""
    patches = load(STUDY, "panel", "patches", home=tiny.environment.home)
    assert not patches.is_empty(), "the tiny market must have a late row among its live sessions"
    return patches.row(0, named=True)


def test_a_trace_shows_what_came_later(tiny, late, capsys):
    """Pins a trace that hides revisions: the late row is shown, marked later, and not used by its own day."""
    day = late["session"].isoformat()
    assert trace_value(tiny.environment, "panel", late["instrument"], day, "turnover") == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.strip().startswith(day))
    assert row.split()[-2:] == ["observed", "later"]
    assert "1 came later" in out
    assert "= None" in out


def test_a_trace_of_a_later_decision_uses_the_correction(tiny, late, capsys):
    """Pins a trace that reads the panel of the day instead of what the traced decision saw."""
    decision = late["effective_session"].isoformat()
    assert trace_value(tiny.environment, "features", late["instrument"], decision, "turnover_5") == 0
    out = capsys.readouterr().out
    corrected = [line.split() for line in out.splitlines() if line.endswith("corrected")]
    assert [(line[0], float(line[-2])) for line in corrected] == [(str(late["session"]), late["turnover"])]
    used = next(
        line for line in out.splitlines() if line.strip().startswith(str(late["session"])) and "observed" in line
    )
    assert used.split()[-1] == "used"
    assert "equal bit for bit" in out


@pytest.mark.parametrize("column", ["MA20", "market_volatility_20", "return_percentile_5", "minute_volatility"])
def test_a_traced_feature_is_rebuilt(tiny, column, capsys):
    """Pins a window that is too short, of each scope and of minutes: the value is computed again from it."""
    name = load(STUDY, "features", home=tiny.environment.home, columns=KEY, as_of=tiny.refused)["instrument"][0]
    trace_value(tiny.environment, "features", name, tiny.refused.isoformat(), column)
    assert "equal bit for bit" in capsys.readouterr().out


def test_a_feature_that_the_panel_no_longer_gives_is_told(tiny, capsys, monkeypatch):
    """Pins a rebuild that is never compared: another formula under the same name turns the trace red."""
    family = FAMILIES["returns"]
    shifted = Family(family.name, family.features, lambda history: family.compute(history) + np.float32(1))
    monkeypatch.setitem(FAMILIES, "returns", shifted)
    name = load(STUDY, "features", home=tiny.environment.home, columns=KEY)["instrument"][0]
    assert trace_value(tiny.environment, "features", name, tiny.refused.isoformat(), "return_5") == 1
    assert "DIFFERENT" in capsys.readouterr().out


def test_a_traced_prediction_lists_its_members_and_its_own_split(tiny, capsys):
    """Pins a lineage that names the models of other splits."""
    row = load(STUDY, "predictions", home=tiny.environment.home).filter(pl.col("split") == "locked").row(0, named=True)
    trace_value(tiny.environment, "predictions", row["instrument"], row["session"].isoformat(), "score", rows=1)
    out = capsys.readouterr().out
    assert f"= {row['score']}" in out
    assert {"models/locked|linear", "models/locked|boosted"} <= set(out.split())
    assert "cpcv_00" not in out
    trace_value(tiny.environment, "inference", row["instrument"], tiny.live[-1].isoformat(), "score", rows=1)
    assert "live   linear" in capsys.readouterr().out


def test_a_traced_label_shows_the_sessions_it_looked_at(tiny, capsys):
    """Pins a label traced at its decision: its raw rows are those of its span, in hindsight."""
    labels = load(STUDY, "labels", home=tiny.environment.home)
    row = labels.filter((pl.col("status") == "filled") & (pl.col("exit_delay") == 0)).row(0, named=True)
    trace_value(tiny.environment, "labels", row["instrument"], row["session"].isoformat(), "ret")
    out = capsys.readouterr().out
    days = {line.split()[0] for line in out.split("\ndaily:")[1].split("\n\n")[0].splitlines()[2:]}
    assert {str(row["entry_session"]), str(row["exit_session"])} <= days
    assert max(days) == str(row["exit_session"])
    assert "hindsight" in out


@pytest.mark.parametrize(
    ("typed", "error", "told"),
    [
        (("nonsense", "000053", "{day}", "close"), BadInput, "choose from panel"),
        (("panel", "999999", "{day}", "close"), BadInput, "close:"),
        (("panel", "000053", "yesterday", "close"), BadInput, "for example 2026"),
        (("panel", "000053", "{saturday}", "close"), CalendarError, "the nearest are"),
        (("panel", "000053", "{day}", "closs"), BadInput, "did you mean close"),
        (("panel", "000053", "2025-01-06", "close"), BadInput, "materialise panel"),
    ],
)
def test_nonsense_is_met_by_an_error_that_helps(tiny, typed, error, told):
    """Pins tracebacks and empty answers: each nonsense gives rule, observed value and a remedy."""
    saturday = next(
        tiny.live[-1] + timedelta(days=i) for i in range(7) if (tiny.live[-1] + timedelta(days=i)).weekday() == 5
    )
    filled = [part.format(day=tiny.live[-1], saturday=saturday) for part in typed]
    with pytest.raises(error, match=told) as broken:
        trace_value(tiny.environment, *filled)
    assert broken.value.observed
    assert broken.value.remedy


def test_codes_are_read_as_people_write_them(tiny):
    """Pins a lookup that knows one spelling: bare, suffixed, prefixed, and the code after a rename."""
    for typed in ("000053", "000053.sz", "SZ000053", " sz.000053 "):
        assert arguments.instrument(tiny.environment, typed) == "000053.SZ"
    new, old = next(iter(arguments.renames(tiny.environment).items()))
    assert arguments.instrument(tiny.environment, new) == arguments.instrument(tiny.environment, old) == old


def test_why_agrees_with_the_recorded_selection(tiny, capsys):
    """Pins a `why` of its own opinion: over a whole live session it selects exactly the recorded names."""
    day = tiny.live[-1]
    predictions = load(STUDY, "inference", "predictions", home=tiny.environment.home).filter(session=day)
    orders = load(STUDY, "inference", "orders", home=tiny.environment.home).filter(session=day)
    told = {}
    for name in predictions["instrument"]:
        assert explain(tiny.environment, name, day.isoformat()) == 0
        told[name] = capsys.readouterr().out.split("\nlive\n")[1].splitlines()[0]
    assert {name for name, text in told.items() if ": selected: rank" in text} == set(orders["instrument"])
    assert all("selected: rank" in text or "filtered: max_" in text for text in told.values())


def test_a_filter_is_named_with_its_value_and_bound():
    """Pins a name that is called outranked although a risk limit stopped it, and a limit that is off."""
    predictions = pl.DataFrame(
        {
            "session": [date(2026, 9, 30)] * 4,
            "instrument": ["a", "b", "c", "d"],
            "rank_pred": [0.9, 0.8, 0.7, None],
            "buy_block_pred": [0.3, 0.1, 0.1, 0.1],
            "downlock_pred": [0.9, 0.9, 0.9, 0.9],
            "fragility_pred": [4.0, 3.0, 2.0, 1.0],
        }
    )
    policy = Policy(top_k=1, alpha="rank_pred", max_buy_block=0.2, max_fragility_rank=0.8)
    blocked = standing(predictions, policy, "a")
    assert blocked.place == 1
    assert blocked.filters == (
        "max_buy_block 0.2 (buy_block_pred is 0.3)",
        "max_fragility_rank 0.8 (fragility_pred is 4)",
    )
    assert standing(predictions, policy, "b").verdict(policy) == "selected: rank 1 of the 2 names that pass the filters"
    assert standing(predictions, policy, "c").verdict(policy).startswith("not selected: rank 2 of the 2")
    assert standing(predictions, policy, "d").verdict(policy) == "not selected: it has no score"


def test_why_names_exclusions_refusals_and_absence(tiny, capsys):
    """Pins a `why` that stays silent about names that were never scored, and about days without a selection."""
    home = tiny.environment.home
    row = load(STUDY, "panel", home=home).filter(~pl.col("eligible")).row(-1, named=True)
    explain(tiny.environment, row["instrument"], row["session"].isoformat())
    assert f"excluded by the rule `{row['exclusion']}`" in capsys.readouterr().out
    scored = load(STUDY, "panel", home=home).filter((pl.col("session") == tiny.refused) & pl.col("eligible"))
    explain(tiny.environment, scored["instrument"][0], tiny.refused.isoformat())
    assert "NO_SELECTION: only a champion serves" in capsys.readouterr().out
    basic = tiny.environment.lake.latest("stock_basic")
    first = load(STUDY, "panel", "summary", home=home)["session"][0]
    young = basic.filter(pl.col("list_date") > first)["ts_code"].to_list()
    assert young, "the tiny market lists a name inside its sample"
    explain(tiny.environment, young[0], first.isoformat())
    assert f"was not listed on {first}: listed" in capsys.readouterr().out


def test_why_tells_what_became_of_the_orders(tiny, capsys):
    """Pins a selection in research without its trade."""
    trades = load(STUDY, "backtest", "trades", home=tiny.environment.home)
    row = trades.filter((pl.col("book") == "locked") & (pl.col("status") == "filled")).row(0, named=True)
    explain(tiny.environment, row["instrument"], row["session"].isoformat())
    out = capsys.readouterr().out.split("what happened to the orders")[1]
    line = next(line for line in out.splitlines() if line.strip().startswith("locked"))
    assert str(row["entry_session"]) in line
    assert str(row["exit_session"]) in line
    assert "filled" in line


def test_a_sound_feature_is_described(tiny, capsys):
    """Pins a check that prints without measuring: look-back and IC are those of the stored tables."""
    assert check_feature(tiny.environment, "return_5") == 0
    out = capsys.readouterr().out
    assert "RED" not in out
    assert "declared 6, measured 6 sessions" in out
    home = tiny.environment.home
    labels = load(STUDY, "labels", home=home, columns=[*KEY, "ret"])
    features = load(STUDY, "features", home=home, columns=[*KEY, "return_5"])
    eligible = load(STUDY, "panel", home=home, columns=[*KEY, "eligible"]).filter("eligible")
    judged = eligible["session"].unique().sort().tail(120)
    rows = features.join(eligible, on=KEY).join(labels, on=KEY).drop_nulls(["return_5", "ret"])
    rows = rows.filter(pl.col("session").is_in(judged.implode()))
    slow = rows.group_by("session").agg(pl.corr("return_5", "ret", method="spearman"))["return_5"]
    told = next(line for line in out.splitlines() if "executable" in line).split()
    assert float(told[-6]) == pytest.approx(slow.mean(), abs=6e-5)
    assert int(told[-7]) == len(slow.drop_nulls())


def test_a_family_is_described_feature_by_feature(tiny, capsys):
    """Pins a family of which some feature is left out, or a market-wide one that breaks the table."""
    assert check_feature(tiny.environment, "regime") == 0
    lines = [line.split()[:1] for line in capsys.readouterr().out.splitlines()]
    assert all([feature.name] in lines for feature in FAMILIES["regime"].features)


def test_a_leaking_feature_fails_the_check(tiny, capsys, monkeypatch):
    """Pins a check that never fails: a feature of tomorrow's close turns the future cut red, and exits 1."""

    def tomorrow(history):
        return history.take(np.roll(history.values["close"], -1, axis=1)).astype(np.float32)[None]

    feature = Feature("tomorrow", "planted", ("close",), 1, 0, "instrument", "CNY", "tomorrow's close")
    monkeypatch.setitem(FAMILIES, "planted", Family("planted", (feature,), tomorrow))
    assert main(["check", "feature", "tomorrow", "--home", str(tiny.environment.home)]) == 1
    out = capsys.readouterr().out
    assert "RED  future cut" in out
    assert "remedy:   read sessions at or before the decision" in out


def test_an_unknown_feature_offers_the_close_ones(tiny):
    """Pins a bare refusal of a typo."""
    with pytest.raises(BadInput, match="MA20"):
        check_feature(tiny.environment, "ma2O")


def test_a_doctor_of_a_sound_environment_is_content(tiny):
    """Pins a doctor that cries wolf, or says nothing of a table, a stage or the champion."""
    out = io.StringIO()
    assert examine(tiny.environment.home, out) == 0
    text = out.getvalue()
    assert "FAIL" not in text
    for word in (*tiny.environment.study.table_names, "calendar", "features", "trial ledger", "champion"):
        assert any(line.startswith("ok") and word in line for line in text.splitlines()), word


@pytest.mark.parametrize("settings", [None, "{", json.dumps({"source": "crystal ball"})])
def test_a_doctor_survives_a_broken_home(tmp_path, settings):
    """Pins a doctor that dies of the disease: no settings, half a file, or values of another version."""
    if settings is not None:
        (tmp_path / "settings.json").write_text(settings)
    out = io.StringIO()
    assert examine(tmp_path, out) == 1
    failed = [line for line in out.getvalue().splitlines() if line.startswith("FAIL")]
    assert len(failed) == 1
    assert "environment" in failed[0]


def test_a_doctor_finds_what_is_missing(tmp_path):
    """Pins a doctor that looks at the machine alone: an environment without data fails on calendar and tables."""
    (tmp_path / "settings.json").write_text(json.dumps({"source": "simulated", "profile": "tiny"}))
    out = io.StringIO()
    assert examine(tmp_path, out) == 1
    assert {line.split()[1] for line in out.getvalue().splitlines() if line.startswith("FAIL")} >= {
        "calendar",
        "tables",
    }


def test_as_of_shows_the_panel_as_a_decision_knew_it(tiny, late):
    """Pins hindsight in notebooks: a correction appears from the decision that knew it, and nothing later does."""
    home, mine = (
        tiny.environment.home,
        (pl.col("instrument") == late["instrument"]) & (pl.col("session") == late["session"]),
    )
    columns = ["turnover"]
    before = load(STUDY, "panel", home=home, as_of=late["session"])
    after = load(STUDY, "panel", home=home, as_of=late["effective_session"].isoformat())
    assert before.filter(mine)["turnover"].to_list() == [None]
    assert after.filter(mine)["turnover"].to_list() == [late["turnover"]]
    assert before["session"].max() == late["session"]
    assert load(STUDY, "panel", home=home, as_of=late["effective_session"], columns=columns).equals(
        after.select(columns)
    )
    known = load(STUDY, "labels", home=home, as_of=late["session"])
    assert known["label_end"].max() <= late["session"]


@pytest.mark.parametrize(
    ("asked", "error", "told"),
    [
        ({"study": "ashare"}, BadInput, "did you mean ashare_daily"),
        ({"stage": "pannel"}, BadInput, "did you mean panel"),
        ({"stage": "backtest"}, BadInput, "several tables"),
        ({"stage": "backtest", "table": "trade"}, BadInput, "did you mean trades"),
        ({"stage": "predictions", "as_of": "2026-09-30"}, BadInput, "whole pinned history"),
        ({"as_of": "soon"}, BadInput, "YYYY-MM-DD"),
        ({"as_of": "1999-01-04"}, BadInput, "it begins in"),
        ({"columns": ["closs"]}, SchemaError, "closs"),
        ({"columns": ["closs"], "as_of": "2026-09-30"}, SchemaError, "closs"),
    ],
)
def test_load_refuses_what_it_cannot_mean(tiny, asked, error, told):
    """Pins silent guesses in notebooks: a wrong name, a table not named, a view that a table does not have."""
    with pytest.raises(error, match=told):
        load(**({"study": STUDY, "stage": "panel", "home": tiny.environment.home} | asked))


def test_every_panel_column_has_an_origin():
    """Pins a panel column that cannot be traced, and an origin that names no documented vendor column."""
    untraced = {"session", "instrument", "decision_time"}
    for column in set(PANEL_COLUMNS) - untraced:
        for name, columns in origin([column]).items():
            assert set(columns) <= set(TABLES[name].names), (column, name)
        assert origin([column]), column
    assert set(ORIGINS) - set(PANEL_COLUMNS) == {"bars"}


def test_origins_are_the_columns_that_the_panel_read(tiny):
    """Pins an origin that points at the wrong vendor column: each value is its raw one in other units."""
    home, day = tiny.environment.home, tiny.refused
    panel = load(STUDY, "panel", home=home, as_of=day).filter(session=day)
    for column, tables in ORIGINS.items():
        (name, columns), *more = tables.items()
        if more or len(columns) > 1 or column not in panel.columns or panel[column].dtype != pl.Float64:
            continue
        raw = tiny.environment.lake.latest(name, start=day, end=day).select(code="ts_code", raw=columns[0])
        ratio = panel.join(raw, on="code").select(pl.col(column) / pl.col("raw")).to_series().drop_nulls().drop_nans()
        scale = ratio.median()
        assert scale == pytest.approx(10 ** round(np.log10(scale))), column
        assert ratio.is_close(scale).all(), column


def test_tables_align_and_numbers_are_short(capsys):
    """Pins columns that drift with Chinese names, and numbers of sixteen digits."""
    table(["name", "value"], [["有色金属", "1.5"], ["x", "-"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["  name      value", "  有色金属    1.5", "  x             -"]
    assert [number(v) for v in (0.123456789, 2.5e-7, 12345.678, None, float("nan"))] == [
        "0.1235", "2.5e-07", "1.235e+04", "-", "-",
    ]  # fmt: skip
    assert (fixed(-0.00001), percent(0.981), percent(None), cell(None), cell(33179.0)) == (
        "0.0000",
        "98.1 %",
        "-",
        "-",
        "33179",
    )


def test_every_command_explains_itself():
    """Pins a command, or an argument of one, without a word of help, or whose help cannot be rendered."""
    commands = next(action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    assert {"demo", "trace", "why", "check", "doctor", "infer"} <= set(commands.choices)
    assert {action.dest for action in commands._choices_actions if action.help} == set(commands.choices)
    for name, command in commands.choices.items():
        assert [action.dest for action in command._actions if not action.help] == [], name
        assert "(default: )" not in command.format_help(), name
