"""What people read of a study of minutes: trace, why, check feature, report. One tiny environment, never changed."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from assets import arguments
from assets.cli import main
from assets.explaining import explain
from assets.feature_check import check_feature
from assets.minute_explaining import standing
from assets.minute_feature_check import AHEAD, DAYS
from assets.minute_tracing import MinuteTrace, spoken
from assets.report import write_report
from assets.tracing import trace_value
from pipeline.errors import BadInput, CalendarError
from pipeline.features.minutes import plan as minute_plan
from pipeline.features.minutes import schema
from pipeline.features.minutes.spec import MinuteFamily
from pipeline.labels.price_plan import PricePlan, price_plan_context
from pipeline.positions.manager import KEY, gates
from pipeline.positions.manager_spec import ManagerConfig, OpenThresholds, PlanNumbers, SideThresholds
from resources.environments import Environment
from tests.minutes_tiny import STUDY, SYMBOL, TinyMinutes
from tests.tiny import copy_of

pytestmark = pytest.mark.xdist_group("tiny_minutes")

A_MINUTE = timedelta(minutes=1)
PARTS = {
    "Gates", "Sealed verdict", "Price plan", "Positions", "Chosen thresholds", "Equity", "Rank IC", "Members",
    "Calibration", "Live sessions", "Vendor tables", "Minutes", "Folds", "Lineage",
}  # fmt: skip


def _table(tiny: TinyMinutes, stage: str, name: str = "") -> pl.DataFrame:
    return tiny.environment.artifacts.table(STUDY, stage, name or stage)


def _scored(tiny: TinyMinutes) -> list[datetime]:
    """Minutes that the locked split tests."""
    return _table(tiny, "predictions").filter(split="locked")["minute"].sort().to_list()


@pytest.mark.parametrize(
    "column",
    ["ret_15m_bps", "taker_imbalance_5m", "spread_rank_24h_pct", "minutes_to_funding", "mlofi_l20_5m_zscore_240m"],
)
def test_a_traced_feature_is_rebuilt(tiny_minutes: TinyMinutes, column: str, capsys: pytest.CaptureFixture[str]):
    """Pins a window that is too short, of each source: the value is computed again from its look-back alone."""
    minute = _scored(tiny_minutes)[7]
    assert trace_value(tiny_minutes.environment, "features", SYMBOL, spoken(minute), column) == 0
    out = capsys.readouterr().out
    assert "equal bit for bit" in out
    declared = schema.select([column])[0].lookback
    assert f"{spoken(minute - (declared - 1) * A_MINUTE)}..{spoken(minute)}, {declared:,} minute" in out


def test_a_feature_that_the_panel_no_longer_gives_is_told(
    tiny_minutes: TinyMinutes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Pins a rebuild that is never compared: another formula under the same name turns the trace red."""
    family = schema.FAMILIES[0]
    shifted = MinuteFamily(family.name, family.features, lambda history: [v + 1 for v in family.compute(history)])
    monkeypatch.setattr("pipeline.features.minutes.compute.FAMILIES", (shifted, *schema.FAMILIES[1:]))
    typed = spoken(_scored(tiny_minutes)[7])
    assert trace_value(tiny_minutes.environment, "features", SYMBOL, typed, "ret_5m_bps") == 1
    assert "DIFFERENT" in capsys.readouterr().out


def test_a_trace_ends_at_the_vendor_row_of_the_minute(tiny_minutes: TinyMinutes, capsys: pytest.CaptureFixture[str]):
    """Pins a trace that shows another minute's candle, or none of when it was known."""
    minute = _scored(tiny_minutes)[0]
    trace_value(tiny_minutes.environment, "panel", SYMBOL, spoken(minute), "trades")
    out = capsys.readouterr().out
    row = tiny_minutes.environment.lake.latest("klines_1m").filter(open_time=minute.replace(tzinfo=None))
    line = next(line for line in out.splitlines() if line.strip().startswith(f"{minute:%Y-%m-%d %H:%M:%S}"))
    assert line.split()[-4:] == [f"{minute + A_MINUTE:%Y-%m-%d}", f"{minute + A_MINUTE:%H:%M}", "rule", "used"]
    assert str(row["count"][0]) in line.split()
    assert f"= {row['count'][0]}\n" in out


def test_a_correction_counts_from_the_day_after_it_came(
    tiny_minutes: TinyMinutes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Pins a trace that calls a correction used by a decision of the day on which it arrived."""
    minute = _scored(tiny_minutes)[30]
    lake = tiny_minutes.environment.lake
    real = lake.scan("klines_1m")
    late = real.filter(open_time=(minute - A_MINUTE).replace(tzinfo=None)).with_columns(
        close=pl.col("close") + 1, known_at=pl.lit(minute, pl.Datetime("us", "UTC")) - timedelta(seconds=20),
        knowledge=pl.lit("observed"),
    )  # fmt: skip
    corrected = pl.concat([real, late])

    def scan(table: str, **bounds: object) -> pl.DataFrame:
        return corrected if table == "klines_1m" else type(lake).scan(lake, table, **bounds)

    monkeypatch.setattr(lake, "scan", scan)
    trace_value(tiny_minutes.environment, "features", SYMBOL, spoken(minute), "ret_1m_bps")
    uses = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.endswith(("used", "later"))]
    assert sorted(uses) == ["later", "used", "used"]
    trace_value(tiny_minutes.environment, "labels", SYMBOL, spoken(minute - A_MINUTE), "ret")
    assert "1 replaced by then" in capsys.readouterr().out


def test_a_settlement_at_the_decision_is_not_read(
    tiny_minutes: TinyMinutes, capsys: pytest.CaptureFixture[str]
):
    """Pins a settlement that a trace shows although the decision at its very instant did not know it."""
    settled = _table(tiny_minutes, "panel", "funding")["funding_time"]
    scored = _table(tiny_minutes, "features")["minute"]
    minute = scored.filter((scored + A_MINUTE).is_in(settled.implode()))[-1]
    assert trace_value(tiny_minutes.environment, "features", SYMBOL, spoken(minute), "minutes_to_funding", rows=0) == 0
    rows = capsys.readouterr().out.split("funding_rate:")[1].splitlines()[2:]
    shown = [" ".join(line.split()[:2]) for line in rows]
    before = settled.filter(settled < minute + A_MINUTE).max()
    assert shown[0] == f"{before:%Y-%m-%d %H:%M:%S}"


def test_a_traced_label_shows_the_bars_it_looked_at(tiny_minutes: TinyMinutes, capsys: pytest.CaptureFixture[str]):
    """Pins a label traced at its decision: its raw rows reach to the end of its span, in hindsight."""
    row = _table(tiny_minutes, "labels").filter(pl.col("long_target_hit") == 1).row(5, named=True)
    trace_value(tiny_minutes.environment, "labels", SYMBOL, spoken(row["minute"]), "long_entry_target", rows=0)
    out = capsys.readouterr().out
    bars = re.findall(r"^  (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", out.split("klines_1m:")[1].split("\n\n")[0], re.M)
    assert max(bars) == f"{row['label_end'] - A_MINUTE:%Y-%m-%d %H:%M:%S}"
    assert f"long        target after {round(row['long_time_to_exit_ms'] / 60_000)} minute" in out
    assert "hindsight" in out


def test_a_traced_prediction_lists_its_members_and_its_own_split(
    tiny_minutes: TinyMinutes, capsys: pytest.CaptureFixture[str]
):
    """Pins a lineage that names the models of other splits, and 26 heads side by side."""
    minute = _scored(tiny_minutes)[3]
    trace_value(tiny_minutes.environment, "predictions", SYMBOL, spoken(minute), "long_entry_prob_pred", rows=1)
    out = capsys.readouterr().out
    assert {"models/locked|heads_linear"} <= set(out.split())
    assert "cpcv_00" not in out
    assert max(map(len, out.split("raw scores")[1].split("they read")[0].splitlines())) < 100
    trace_value(tiny_minutes.environment, "inference", SYMBOL, _live(tiny_minutes), "score", rows=1)
    assert "live heads_linear" in capsys.readouterr().out


def _live(tiny: TinyMinutes) -> str:
    day = tiny.live[-1].isoformat()
    rows = tiny.environment.artifacts.table(STUDY, "inference", "predictions", partitions=[day])
    return spoken(rows["minute"][10])


def _trace(environment: Environment, *typed: str) -> int:
    return trace_value(environment, "panel", *typed, "close")


@pytest.mark.parametrize("command", [_trace, explain])
@pytest.mark.parametrize(
    ("typed", "error", "told"),
    [
        ((SYMBOL, "2026-06-28"), BadInput, "add the minute, for example 2026-06-30T13:05"),
        ((SYMBOL, "20260628"), BadInput, "add the minute"),
        ((SYMBOL, "2026-06-28T13:05:30"), BadInput, "leave the seconds out"),
        ((SYMBOL, "yesterday"), BadInput, "YYYY-MM-DDTHH:MM"),
        ((SYMBOL, ""), BadInput, "(nothing)"),
        ((SYMBOL, "2025-06-28T13:05"), CalendarError, "the nearest are 2026-06-15"),
        ((SYMBOL, "2026-08-28T13:05"), BadInput, "panel holds 2026-06"),
        (("ETHUSDT", "2026-06-28T13:05"), BadInput, "close: BTCUSDT"),
    ],
)
def test_nonsense_is_met_by_an_error_that_helps(tiny_minutes: TinyMinutes, command, typed, error, told):
    """Pins tracebacks and empty answers: a day where a minute is needed, seconds, other symbols, other times."""
    with pytest.raises(error, match=re.escape(told)) as broken:
        command(tiny_minutes.environment, *typed)
    assert broken.value.observed
    assert broken.value.remedy


def test_a_minute_is_read_as_people_write_it(tiny_minutes: TinyMinutes):
    """Pins a minute that is shifted by the offset it was written with, or read as local time."""
    wanted = datetime(2026, 6, 28, 13, 5, tzinfo=UTC)
    for typed in ("2026-06-28T13:05", "2026-06-28T13:05Z", "2026-06-28 13:05", "2026-06-28T21:05+08:00"):
        assert arguments.minute(tiny_minutes.environment, typed) == wanted


def test_why_agrees_with_the_recorded_entries(tiny_minutes: TinyMinutes, capsys: pytest.CaptureFixture[str]):
    """Pins a `why` of its own opinion: it opens exactly at recorded minutes, and names a gate at the others."""
    day = tiny_minutes.live[-1].isoformat()
    artifacts = tiny_minutes.environment.artifacts
    minutes = artifacts.table(STUDY, "inference", "predictions", partitions=[day])["minute"]
    orders = artifacts.table(STUDY, "inference", "orders", partitions=[day])
    listed = set(orders["minute"].gather_every(max(len(orders) // 6, 1)))
    others = set(minutes.filter(~minutes.is_in(orders["minute"].implode())).gather_every(250))
    assert listed, "the tiny perpetual has entries on its last day"
    for minute in listed | others:
        assert explain(tiny_minutes.environment, SYMBOL, spoken(minute)) == 0
        live = capsys.readouterr().out.split("\nlive\n")[1].split("\nresearch")[0]
        assert ("would open" in live.splitlines()[0]) == ("recorded as entry" in live) == (minute in listed)
        assert minute in listed or "stopped at the gate `" in live


def test_why_follows_every_position_of_a_book(tiny_minutes: TinyMinutes, capsys: pytest.CaptureFixture[str]):
    """Pins an entry without its end, and a minute inside a position, or its cooldown, that seems to be free."""
    trades = _table(tiny_minutes, "backtest", "trades").filter(book="locked").sort("minute")
    assert len(trades), "the tiny perpetual trades on the sealed stretches"
    explain(tiny_minutes.environment, SYMBOL, spoken(trades["minute"][0]))
    out = capsys.readouterr().out
    first = trades.row(0, named=True)
    assert f"entered in the book locked: {first['side']}, " in out
    assert f"net {first['actual_edge_bps']:.4g} bps" in out
    told = set()
    for trade in trades.iter_rows(named=True):
        for minute in (trade["entry_at"], trade["exit_at"]):
            if minute in set(trades["minute"]) or minute not in set(_scored(tiny_minutes)):
                continue
            explain(tiny_minutes.environment, SYMBOL, spoken(minute))
            found = re.search(r"not entered in the book locked: (already in|cooldown after)", capsys.readouterr().out)
            told |= {found[1]} if found else set()
        if told == {"already in", "cooldown after"}:
            return
    assert told, "some minute inside a position or its cooldown would open, were it free"


def test_why_names_gaps_missing_features_and_refusals(
    tiny_minutes: TinyMinutes, capsys: pytest.CaptureFixture[str]
):
    """Pins a `why` that is silent about minutes that were never scored, and about days without decisions."""
    panel = _table(tiny_minutes, "panel")["minute"]
    whole = pl.datetime_range(panel.min(), panel.max(), "1m", eager=True, time_unit="us", time_zone="UTC")
    gap = whole.filter(~whole.is_in(panel.implode()))
    explain(tiny_minutes.environment, SYMBOL, spoken(gap[0]))
    assert "klines_1m has none (a gap)" in capsys.readouterr().out
    explain(tiny_minutes.environment, SYMBOL, spoken(panel[3]))
    assert "features missing at this minute, and a row is scored whole: ret_5m_bps" in capsys.readouterr().out
    refused = _table(tiny_minutes, "features").filter(session=tiny_minutes.refused)["minute"][0]
    explain(tiny_minutes.environment, SYMBOL, spoken(refused))
    assert "NO_SELECTION: only a champion serves" in capsys.readouterr().out


def test_missing_features_are_those_that_the_stage_left_null(tiny_minutes: TinyMinutes):
    """Pins a list of missing features of its own making: an incomplete row has some, a stored one has none."""
    stored = _table(tiny_minutes, "features")["minute"]
    panel = _table(tiny_minutes, "panel")["minute"]
    absent = panel.filter(~panel.is_in(stored.implode()))
    for minute in (absent[100], absent[-1]):
        assert MinuteTrace(tiny_minutes.environment, SYMBOL, spoken(minute)).missing_features()
    assert MinuteTrace(tiny_minutes.environment, SYMBOL, spoken(stored[-1])).missing_features() == []


PLAN = PlanNumbers.from_context(price_plan_context(PricePlan()))


def _row(**probabilities: float) -> pl.DataFrame:
    known = {
        "direction_long_prob": 0.7, "direction_short_prob": 0.2, "long_entry_prob": 0.9, "short_entry_prob": 0.9,
        "market_risk_prob": 0.1,
    }  # fmt: skip
    key = {"session": [datetime(2026, 6, 1).date()], "instrument": [SYMBOL],
           "minute": [datetime(2026, 6, 1, tzinfo=UTC)]}  # fmt: skip
    values = {f"{name}_pred": [value] for name, value in (known | probabilities).items()}
    return pl.DataFrame(key | values).with_columns(pl.col("minute").cast(pl.Datetime("us", "UTC")))


def _config(**changes: float) -> ManagerConfig:
    side = SideThresholds(min_direction_prob=0.6, min_entry_prob=0.5, min_edge_bps=0.0)
    return ManagerConfig(open=OpenThresholds(long=side, short=side, **changes))


@pytest.mark.parametrize(
    ("row", "gate"),
    [
        ({"direction_long_prob": 0.5}, "direction"),
        ({"direction_short_prob": 0.69}, "margin"),
        ({"long_entry_prob": 0.4}, "entry"),
        ({"market_risk_prob": 0.9}, "risk"),
        ({"long_entry_prob": 0.6}, "edge"),
        ({}, None),
    ],
)
def test_the_first_gate_that_stops_is_named(row: dict[str, float], gate: str | None):
    """Pins a funnel in another order, or with bounds of its own: one probability after the other is spoiled."""
    found = standing(_row(**row), _config(), PLAN)
    stopped = found.stopped("LONG")
    assert (stopped.name if stopped else None) == gate
    assert [each.name for each in found.funnel["LONG"]] == [*gates("LONG", _config()), "size"]
    assert (found.side == "LONG") == (gate is None)
    assert ("stopped at the gate" in found.of_side("LONG")) == (gate is not None)


def test_a_side_that_is_off_and_one_that_is_outbid_are_told():
    """Pins a switched-off side that seems a near miss, and a side that passes but loses to the other."""
    off = ManagerConfig(open=OpenThresholds(long=SideThresholds(min_direction_prob=1.01, min_entry_prob=0.5,
                                                                min_edge_bps=0.0)))  # fmt: skip
    assert "the side is switched off" in standing(_row(), off, PLAN).of_side("LONG")
    low = SideThresholds(min_direction_prob=0.1, min_entry_prob=0.5, min_edge_bps=0.0)
    both = standing(_row(), ManagerConfig(open=OpenThresholds(long=low, short=low)), PLAN)
    assert both.side == "LONG"
    assert "the other side is worth more" in both.of_side("SHORT")


def test_a_sound_feature_is_described(tiny_minutes: TinyMinutes, capsys: pytest.CaptureFixture[str]):
    """Pins a check that prints without measuring: look-back and IC are those of the stored tables."""
    assert check_feature(tiny_minutes.environment, "taker_imbalance_5m") == 0
    out = capsys.readouterr().out
    assert "RED" not in out
    assert "declared 5, measured 5 minutes" in out
    labels = _table(tiny_minutes, "labels").select(*KEY, "ret")
    panel = _table(tiny_minutes, "panel").filter("eligible")
    judged = panel["session"].unique().sort()[1:].tail(DAYS)
    taken = (2 * pl.col("taker_buy_volume").rolling_sum_by("minute", "5m") / pl.col("volume").rolling_sum_by(
        "minute", "5m") - 1)  # fmt: skip
    count = pl.col("minute").is_not_null().cast(pl.Int32).rolling_sum_by("minute", "5m")
    values = panel.sort("minute").with_columns(factor=taken, held=count).filter(pl.col("held") == 5)
    rows = values.join(labels, on=list(KEY)).drop_nulls(["factor", "ret"]).filter(
        pl.col("session").is_in(judged.implode()))  # fmt: skip
    slow = rows.select(pl.corr("factor", "ret", method="spearman")).item()
    told = next(line for line in out.splitlines() if "label ret" in line).split("(label ret)")[1].split()
    assert int(told[0]) == rows["session"].n_unique()
    assert float(told[1]) == pytest.approx(slow, abs=2e-4)  # float32 features tie where float64 ones do not
    assert sum("close to close" in line for line in out.splitlines()) == len(AHEAD)


def test_a_family_is_described_feature_by_feature(tiny_minutes: TinyMinutes, capsys: pytest.CaptureFixture[str]):
    """Pins a family of which some feature is left out."""
    assert check_feature(tiny_minutes.environment, "order_flow") == 0
    lines = [line.split()[:1] for line in capsys.readouterr().out.splitlines()]
    assert all([feature.name] in lines for feature in minute_plan.FAMILIES["order_flow"].features)


def test_a_leaking_feature_fails_the_check(
    tiny_minutes: TinyMinutes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Pins a check that never fails: a feature of the next minute's close turns the future cut red, and exits 1."""
    honest = schema.FAMILIES[0]

    def leaking(history):
        return [np.roll(values, -1) for values in honest.compute(history)]

    family = MinuteFamily(honest.name, honest.features, leaking)
    monkeypatch.setattr("pipeline.features.minutes.compute.FAMILIES", (family, *schema.FAMILIES[1:]))
    assert main(["check", "feature", "ret_1m_bps", "--home", str(tiny_minutes.environment.home)]) == 1
    out = capsys.readouterr().out
    assert "RED  future cut" in out
    assert "remedy:   read what is known one minute after the open only" in out


def test_a_feature_without_its_source_is_refused(tiny_minutes: TinyMinutes, monkeypatch: pytest.MonkeyPatch):
    """Pins a check of nulls: a feature of books in an environment without any is refused, with what it lacks."""
    artifacts = tiny_minutes.environment.artifacts
    whole = type(artifacts).table

    def bookless(self, study, stage, name, **asked):
        found = whole(self, study, stage, name, **asked)
        if name == "panel" and "spread_bps" in found.columns:
            return found.with_columns(spread_bps=pl.lit(None, pl.Float64))
        return found.clear() if name == "books" else found

    monkeypatch.setattr(type(artifacts), "table", bookless)
    with pytest.raises(BadInput, match="ofi_l1_1m needs books, which") as broken:
        check_feature(tiny_minutes.environment, "order_flow")
    assert "check one that reads bars or funding" in broken.value.remedy
    assert check_feature(tiny_minutes.environment, "ret_1m_bps") == 0


@pytest.mark.parametrize(("typed", "told"), [("ret_1_bps", "ret_1m_bps"), ("MA20", "choose from price")])
def test_an_unknown_feature_offers_the_close_ones(tiny_minutes: TinyMinutes, typed: str, told: str):
    """Pins a bare refusal of a typo, and features of sessions offered to a study of minutes."""
    with pytest.raises(BadInput, match=told):
        check_feature(tiny_minutes.environment, typed)


@pytest.fixture(scope="module")
def report(tiny_minutes: TinyMinutes, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("minute_report") / "report.html"
    write_report(tiny_minutes.environment, path)
    return path.read_text()


def test_every_part_of_the_report_is_there(report: str):
    """Pins a part that silently went missing, and parts that only stocks have."""
    headings = set(re.findall(r"<h2>(.*?)</h2>", report))
    assert headings >= PARTS
    assert not headings & {"Selected stocks", "Blocked entries and exits", "Exclusions"}
    assert report.count("data:image/png;base64,") >= 7


def test_the_report_tells_the_trades_of_every_book(tiny_minutes: TinyMinutes, report: str):
    """Pins figures of another book, a sealed verdict without its reasons, and thresholds that were not chosen."""
    trades = _table(tiny_minutes, "backtest", "trades")
    books = trades["book"].unique().sort().to_list()
    counts = [f"{len(trades.filter(book=book)):,}" for book in books]
    row = re.search(r"<td>trade_count</td>(.*?)</tr>", report)
    assert row is not None
    assert re.findall(r">([\d,]+)</td>", row[1]) == counts
    verdict = tiny_minutes.environment.artifacts.current(STUDY, "backtest")[""].metadata["verdict"]
    for reason in verdict["reasons"]:
        assert reason.replace("_", " ") in report
    for split in tiny_minutes.environment.study.folds.splits:
        assert f"<td>{split}</td>" in report.split('id="chosen-thresholds"')[1].split("</section>")[0]


def test_the_report_counts_minutes_and_live_days(tiny_minutes: TinyMinutes, report: str):
    """Pins gaps that are not told, and a live day that is left out because nothing was to be entered on it."""
    summary = _table(tiny_minutes, "panel", "summary")
    minutes = report.split('id="minutes"')[1].split("</section>")[0]
    assert f"<td>missing</td><td class=n>{summary['missing'].sum():,}</td>" in minutes
    live = report.split('id="live-sessions"')[1].split("</section>")[0]
    for day in tiny_minutes.live:
        assert f"<td>{day}</td>" in live
    named = report.split('id="folds"')[1].split("</section>")[0]
    assert re.findall(r"<td>(fit_inner|tune_inner|validation_locked|latest_stress)</td>", named)[-2:] == [
        "validation_locked", "latest_stress",
    ]  # fmt: skip


def test_families_that_were_dropped_are_told(tiny_minutes: TinyMinutes, tmp_path):
    """Pins a study without books that looks whole: the families left out are named, with what remains."""
    left = ["price", "volume", "clock"]
    runner = copy_of(tiny_minutes.environment.home, tmp_path / "home", overrides={"features": left})
    write_report(Environment(runner.environment.home), tmp_path / "report.html")
    remaining = sum(len(minute_plan.FAMILIES[name].features) for name in left)
    expected = f"left out: spread, book, funding, order_flow; {remaining} of {len(schema.ORDER)} features remain"
    assert expected in (tmp_path / "report.html").read_text()
