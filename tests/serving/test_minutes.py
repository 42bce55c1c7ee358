"""Serving by the minute against research on the same rows, its records, and one live minute against its day."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path

import polars as pl
import pytest

from pipeline.errors import BadInput, FoldgateError, IncompleteTables, LookAheadError, RecordConflict, SchemaError
from pipeline.positions.manager import decide, predicted_edges
from pipeline.positions.manager_spec import ManagerConfig, OpenThresholds, PlanNumbers, SideThresholds
from pipeline.serving.bundle import Bundle
from pipeline.serving.infer import Inference, infer
from pipeline.serving.minute_scorer import MinuteScorer
from pipeline.serving.parity import KEYS, compare, table_key
from pipeline.serving.records import BOOKS, MINUTES, Selection, write_no_selection, write_selection
from pipeline.serving.selecting import ENTRY_SCHEMA
from tests.serving.small_bundle import bundle_files, bundle_manifest
from tests.serving.small_minute_bundle import (
    CONFIG,
    KEY,
    PARTS,
    SCHEMA,
    STUDY,
    minute_files,
    minute_manifest,
    minute_research,
)

NO_PATHS = pl.DataFrame(schema={"session": pl.Date, "instrument": pl.String})
NEVER = SideThresholds(min_direction_prob=1.01, min_entry_prob=0.5, min_edge_bps=3.0)
IDLE = ManagerConfig(open=OpenThresholds(long=NEVER, short=NEVER))


@cache
def bundle(config: ManagerConfig = CONFIG) -> Bundle:
    return Bundle("", minute_manifest(), minute_files(config=config))


def tables(day: date | None = None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Features and panel of a day."""
    made = minute_research()
    return made.of_day(made.features, day), made.of_day(made.panel, day)


def served(config: ManagerConfig = CONFIG) -> Inference:
    return infer(bundle(config), *tables(), minute_research().day, NO_PATHS)


def frames(made: Inference) -> dict[str, pl.DataFrame]:
    return {name: getattr(made, name) for name in KEYS}


def test_serving_scores_are_the_bits_of_research() -> None:
    """Pins a live day that scores, calibrates or averages in another way, or loses the minute from the key."""
    made, live = minute_research(), served()
    eligible = live.panel.filter("eligible").select(KEY)
    assert 0 < len(eligible) < len(live.panel)
    for part in PARTS:
        recorded = made.fitted[part.member].scores.filter(pl.col("session") == made.day).drop("role")
        ours = live.scores.filter(pl.col("member") == part.name).drop("member")
        assert ours.equals(recorded.join(eligible, on=KEY, how="semi"))
    expected = made.predictions.filter(pl.col("session") == made.day).join(eligible, on=KEY, how="semi")
    assert live.predictions.equals(expected)
    assert live.predictions["score"].equals(live.predictions["direction_long_prob_pred"].alias("score"))


def test_orders_are_what_the_manager_decides() -> None:
    """Pins an order at another minute, side, size or price than the decision's own."""
    live, plan = served(), STUDY.labels.plan
    numbers = PlanNumbers.from_context(bundle().selector.context)  # type: ignore[attr-defined]
    named = minute_research().predictions.rename(lambda name: name.removesuffix("_pred"))
    kept = live.panel.filter("eligible")
    rows = decide(predicted_edges(named, numbers), CONFIG, numbers).join(kept, on=KEY).sort("minute", "instrument")
    expected = [row for row in rows.iter_rows(named=True) if row["side"] and row["planned_ratio"] > 0]
    assert len(expected) > 10
    assert live.orders.schema == pl.Schema(ENTRY_SCHEMA)
    assert live.orders["rank"].to_list() == list(range(1, len(expected) + 1))
    for ours, row in zip(live.orders.iter_rows(named=True), expected, strict=True):
        side, up = row["side"].lower(), row["side"] == "LONG"
        assert [ours[k] for k in KEY] == [row[k] for k in KEY]
        assert (ours["side"], ours["weight"]) == (row["side"], row["planned_ratio"])
        assert ours["score"] == row[f"{side}_predicted_edge_bps"]
        assert ours["entry_prob"] == row[f"{side}_entry_prob"]
        assert ours["direction_prob"] == row[f"direction_{side}_prob"]
        assert ours["price"] == row["close"]
        target, stop = plan.target_distance_bps / 1e4, plan.stop_distance_bps / 1e4
        assert ours["target_price"] == pytest.approx(row["close"] * (1 + target if up else 1 - target), rel=1e-14)
        assert ours["stop_price"] == pytest.approx(row["close"] * (1 - stop if up else 1 + stop), rel=1e-14)


def test_short_barriers_lie_on_the_other_side() -> None:
    """Pins a short whose target is above its entry."""
    side = CONFIG.open.short.model_copy(update={"min_direction_prob": 0.2, "min_entry_prob": 0.1, "min_edge_bps": -20})
    gates = CONFIG.open.model_copy(update={"long": NEVER, "short": side, "max_market_risk": 1.0})
    sizing = CONFIG.sizing.model_copy(update={"min_edge_bps": -20.0})
    orders = served(CONFIG.model_copy(update={"open": gates, "sizing": sizing})).orders
    assert set(orders["side"]) == {"SHORT"}
    assert orders.select((pl.col("target_price") < pl.col("price")).all()).item()
    assert orders.select((pl.col("stop_price") > pl.col("price")).all()).item()


def test_a_day_without_an_entry_is_a_decision(tmp_path: Path) -> None:
    """Pins a quiet day that fails, is recorded as a refusal, or leaves yesterday's entries as the latest."""
    made = served()
    write_selection(tmp_path, made.selection(made_day() - timedelta(days=1), "b" * 64))  # no rows of that day
    write_selection(tmp_path, made.selection(made_day(), "b" * 64))
    idle = served(IDLE)
    assert idle.orders.is_empty()
    assert idle.orders.schema == pl.Schema(ENTRY_SCHEMA)
    write_selection(tmp_path, idle.selection(made_day() + timedelta(days=1), "b" * 64))
    latest = pl.read_csv(tmp_path / "minute_decisions/decisions_latest.csv", infer_schema_length=0)
    assert latest.select("trade_date", "status", "rank", "minute").rows() == [("20240305", "NO_ENTRY", None, None)]
    assert compare(frames(idle), frames(served(IDLE))).exact


def made_day() -> date:
    return minute_research().day


def test_minutes_without_features_are_left_out_and_counted() -> None:
    """Pins a day lost to one incomplete minute, and minutes that vanish without a word."""
    features, panel = tables()
    cut = features.filter(pl.int_range(pl.len()) % 10 != 3)
    made, whole = infer(bundle(), cut, panel, made_day(), NO_PATHS), served()
    lost = panel.filter("eligible").join(cut, on=KEY, how="anti")
    eligible = int(panel["eligible"].sum())
    assert made.notes == {"minutes": len(panel), "eligible": eligible, "without_features": len(lost)}
    assert whole.notes == {"minutes": len(panel), "eligible": eligible, "without_features": 0}
    assert made.predictions.equals(whole.predictions.join(lost, on=KEY, how="anti"))


def test_order_of_rows_does_not_matter_and_a_difference_names_its_minute() -> None:
    """Pins scores that depend on the order of reading, and parity that does not say which minute."""
    features, panel = (frame.sample(fraction=1.0, shuffle=True, seed=4) for frame in tables())
    assert compare(frames(served()), frames(infer(bundle(), features, panel, made_day(), NO_PATHS))).exact
    row = served().orders.row(0, named=True)
    at = (pl.col("instrument") == row["instrument"]) & (pl.col("minute") == row["minute"])
    revised = features.with_columns(pl.when(at).then(9.0).otherwise(SCHEMA[1]).cast(pl.Float32).alias(SCHEMA[1]))
    report = compare(frames(served()), frames(infer(bundle(), revised, panel, made_day(), NO_PATHS)))
    first = report.first_difference
    assert first is not None
    assert first[:3] == ("features", f"{row['instrument']}|{row['minute']}", SCHEMA[1])
    counts = {asset.asset: asset.different for asset in report.assets}
    assert counts["features"] == counts["predictions"] == 1
    assert counts["scores"] == len(PARTS)
    assert table_key("scores", served().scores) == ("session", "member", "instrument", "minute")
    assert table_key("orders", served().orders) == ("session", "rank")


Damage = Callable[[pl.DataFrame, pl.DataFrame], tuple[pl.DataFrame, pl.DataFrame]]
REFUSALS: dict[str, tuple[Damage, type[FoldgateError], str]] = {
    "no minute eligible": (lambda f, p: (f, p.with_columns(eligible=False)), BadInput, "0 of 2400 minutes are"),
    "no minute with features": (lambda f, p: (f.clear(), p), BadInput, "0 have features"),
    "no panel": (lambda f, p: (f, p.clear()), IncompleteTables, "0 sessions"),
    "panel without a price": (lambda f, p: (f, p.drop("close")), SchemaError, "close"),
    "tomorrow's minutes": (
        lambda f, p: (f.with_columns(pl.col("session") + timedelta(days=1)), p), LookAheadError, "features rows of"),
    "two days": (
        lambda f, p: (f, pl.concat([p, p.with_columns(pl.col("session") - timedelta(days=1))])),
        IncompleteTables, "2 sessions"),
    "a minute twice": (lambda f, p: (pl.concat([f, f[:1]]), p), FoldgateError, "unique"),
    "reordered schema": (lambda f, p: (f.select(*KEY, *reversed(SCHEMA)), p), SchemaError, "column 0"),
    "a hole in a feature": (
        lambda f, p: (f.with_columns(pl.lit(None, pl.Float32).alias(SCHEMA[2])), p), BadInput, "complete and finite"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case: str) -> None:
    """Pins each input that research never saw and that would nevertheless give plausible entries."""
    damage, error, observed = REFUSALS[case]
    with pytest.raises(error, match=observed):
        infer(bundle(), *damage(*tables()), made_day(), NO_PATHS)


def test_what_is_recorded(tmp_path: Path) -> None:
    """Pins a record that differs from the orders, a rerun that rewrites, a second decision, and a late refusal."""
    made = served()
    for _ in range(2):
        path = write_selection(tmp_path, made.selection(made_day(), "b" * 64))
    assert path.relative_to(tmp_path) == Path("minute_decisions/trade_date=20240304/decisions.csv")
    record = pl.read_csv(path)
    assert set(record["status"]) == {"SELECTED"}
    for column in ("rank", "instrument", "side", "weight", "score", "price", "target_price", "stop_price", "entry_prob",
                   "direction_prob", "market_risk_prob"):  # fmt: skip
        assert record[column].to_list() == made.orders[column].to_list(), column
    assert record["minute"][0] == made.orders["minute"][0].strftime("%Y-%m-%dT%H:%M:%SZ")
    other = replace(made.selection(made_day(), "b" * 64), bundle="c" * 64)
    with pytest.raises(RecordConflict, match="trade_date=20240304"):
        write_selection(tmp_path, other)
    assert write_no_selection(tmp_path, made_day(), "late", BOOKS["position_manager"]) == path
    (day,) = pl.read_csv(tmp_path / "decision_days/all_days.csv").to_dicts()
    assert day["entries"] == day["long_entries"] + day["short_entries"] == len(made.orders)
    assert day["mean_weight"] == pytest.approx(made.orders["weight"].mean())
    assert not (tmp_path / "daily_top10_records").exists()


def test_refusals_are_numbered_and_the_latest_says_so(tmp_path: Path) -> None:
    """Pins a refused day that shows the day before's entries, or that loses its attempts once it is decided."""
    write_selection(tmp_path, served().selection(made_day(), "b" * 64))
    later = made_day() + timedelta(days=1)
    for reason in ("late", "later"):
        write_no_selection(tmp_path, later, reason, MINUTES)
    latest = pl.read_csv(tmp_path / "decision_days/latest_day_row.csv", infer_schema_length=0).to_dicts()
    assert [(row["status"], row["entries"], row["reason"]) for row in latest] == [("NO_SELECTION", "0", "later")]
    write_selection(tmp_path, served(IDLE).selection(later, "b" * 64))
    history = pl.read_csv(tmp_path / "minute_decisions/decisions_history.csv").filter(trade_date=20240305)
    assert history["status"].to_list() == ["NO_SELECTION", "NO_SELECTION", "NO_ENTRY"]
    assert history["attempt"].to_list() == [1, 2, 3]


def test_an_empty_list_of_names_is_still_no_selection(tmp_path: Path) -> None:
    """Pins a day of stocks on which nothing was selected, recorded as if that had been decided."""
    empty = served(IDLE).orders.select("rank", "instrument", "weight", "score")
    empty = empty.with_columns(pl.lit("").alias(name) for name in ("code", "board", "industry"))
    with pytest.raises(BadInput, match="ranks 1, 2"):
        write_selection(tmp_path, Selection(made_day(), "b", empty))


def test_one_minute_has_the_bits_of_its_day() -> None:
    """Pins a live feed that decides otherwise than the day's replay, from a row or from plain numbers."""
    live, scorer = served(), MinuteScorer(bundle())
    features = tables()[0].join(live.predictions.select(KEY), on=KEY, how="semi", maintain_order="left")
    decided = bundle().selector.decided(live.predictions)  # type: ignore[attr-defined]
    opened = live.orders.select(KEY).join(features.with_row_index(), on=KEY)["index"].to_list()
    for i in [*range(0, len(features), 61), *opened[:10]]:
        row = features[i]
        of_row = {k: row[k][0] for k in KEY}
        for given in (row, row.drop("session").row(0, named=True)):
            made = scorer.score(given)
            assert made.predictions.equals(live.predictions[i])
            assert made.scores.equals(live.scores.filter(**of_row))
            expected = decided.row(i, named=True)
            assert made.decision[:2] == (expected["side"], expected["planned_ratio"])
            own = f"{(expected['side'] or '').lower()}_predicted_edge_bps"
            assert made.decision.predicted_edge_bps == expected.get(own)
    assert any(scorer.score(features[i]).decision.planned_ratio > 0 for i in opened[:1])


@pytest.mark.parametrize(
    ("change", "error", "observed"),
    [
        ({SCHEMA[1]: None}, BadInput, "complete and finite"),
        ({SCHEMA[1]: float("nan")}, BadInput, "complete and finite"),
        ({SCHEMA[1]: float("inf")}, BadInput, "complete and finite"),
        ({"new": 1.0}, SchemaError, r"unknown \['new'\]"),
        ({"minute": datetime(2024, 3, 4)}, BadInput, "its zone"),
    ],
)
def test_a_minute_is_refused(change: dict, error: type[FoldgateError], observed: str) -> None:
    """Pins a hole, an unknown column or a local time that would be scored."""
    row = tables()[0][5].row(0, named=True) | change
    with pytest.raises(error, match=observed):
        MinuteScorer(bundle()).score(row)


def test_more_or_less_than_one_minute_is_refused() -> None:
    """Pins a silent first row, and a feature that is taken for 0."""
    scorer = MinuteScorer(bundle())
    with pytest.raises(BadInput, match="2 rows"):
        scorer.score(tables()[0][:2])
    with pytest.raises(SchemaError, match=SCHEMA[3]):
        scorer.score(tables()[0][:1].drop(SCHEMA[3]))


def test_a_zone_is_an_instant() -> None:
    """Pins a minute of another zone that lands in another session."""
    scorer, row = MinuteScorer(bundle()), tables()[0][5].row(0, named=True)
    shifted = row | {"minute": row["minute"].astimezone(tz=UTC).astimezone()}
    assert scorer.score(shifted).predictions.equals(scorer.score(row).predictions)


def test_names_are_not_scored_alone() -> None:
    """Pins ranks within a session of one name."""
    with pytest.raises(BadInput, match="its own features decide"):
        MinuteScorer(Bundle("", bundle_manifest(), bundle_files()))
