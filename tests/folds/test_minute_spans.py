"""Spans to the minute: purged by the instants that labels looked at, not by the days they touch."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl

from pipeline.calendars import Calendar
from pipeline.folds.spec import FoldSpec
from pipeline.folds.splits import make_folds, roles

DAYS = [date(2024, 1, 1) + timedelta(days=i) for i in range(30)]
CALENDAR = Calendar(tuple(DAYS), DAYS[-1])
KEY = ["session", "instrument", "minute"]


def minute_labels(days: int = 24, every: int = 23, seed: int = 5) -> pl.DataFrame:
    """Two symbols, a decision about every 23 minutes round the clock, labels of up to three hours."""
    draw, rows = np.random.default_rng(seed), []
    for symbol in ("BTCUSDT", "ETHUSDT"):
        at = datetime(2024, 1, 1, tzinfo=UTC)
        while at < datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=days):
            start = at + timedelta(minutes=1)
            end = start + timedelta(minutes=int(draw.choice([5, 45, 59, 180])))
            rows.append((at.date(), symbol, at, start, end if draw.random() > 0.02 else None))
            at += timedelta(minutes=int(draw.integers(1, 2 * every)))
    stamp = pl.Datetime("us", "UTC")
    schema = {"session": pl.Date, "instrument": pl.String, "minute": stamp, "label_start": stamp, "label_end": stamp}
    return pl.DataFrame(rows, schema=schema, orient="row").sort(KEY)


def test_every_row_agrees_with_a_comparison_of_all_pairs_of_instants() -> None:
    """Pins a day of rows lost at each side of a test block, a midnight that is a gap, and minutes that leak over it."""
    labels = minute_labels()
    folds = make_folds(labels, CALENDAR, FoldSpec(n_groups=4, n_test_groups=2, tune_share=0.25, locked_share=0.2))
    assert folds.certificate["overlap_rows"].sum() == 0
    start, end = (labels[c].to_numpy() for c in ("label_start", "label_end"))
    known = ~np.isnat(end)
    purged_somewhere = 0
    for split in folds.certificate["split"]:
        named = roles(folds, split, labels).to_numpy()
        by_day = labels.join(folds.split_sessions.filter(split=split), on="session", how="left", maintain_order="left")
        day_role = by_day["role"].to_numpy()
        tested = (day_role == "test") & known
        meets = np.array([known[i] and _meets(i, tested, start, end) for i in range(len(labels))])
        training = np.isin(day_role, ("fit", "tune")) & known
        by_test = training & meets
        kept_tune = (day_role == "tune") & known & ~by_test
        fit = (day_role == "fit") & known & ~by_test
        by_tune = np.array([fit[i] and _meets(i, kept_tune, start, end) for i in range(len(labels))])
        expected = np.where(~known, "unused", np.where(by_test | by_tune, "purged", day_role))
        np.testing.assert_array_equal(named, expected, err_msg=split)
        purged_somewhere += int((by_test | by_tune).sum())
    whole_days = labels.group_by("session").len()["len"].min()
    assert 0 < purged_somewhere < len(folds.certificate) * whole_days * 2  # rows at the borders, not days


def _meets(row: int, others: np.ndarray, start: np.ndarray, end: np.ndarray) -> bool:
    return bool(((start[row] < end[others]) & (start[others] < end[row])).any())


def test_an_embargo_counts_whole_days_after_the_last_span() -> None:
    """Pins an embargo of one session that lasts one minute."""
    labels = minute_labels()
    spec = FoldSpec(n_groups=4, n_test_groups=1, tune_share=0.25, locked_share=0.0, embargo_sessions=1)
    folds = make_folds(labels, CALENDAR, spec)
    tested = folds.split_sessions.filter(split="cpcv_00", role="test")["session"].max()
    mine = labels.with_columns(role=roles(folds, "cpcv_00", labels))
    reach = mine.filter(role="test")["label_end"].max()
    after = mine.filter(pl.col("session") > tested, pl.col("label_start") < reach + timedelta(days=1))
    assert set(after.filter(pl.col("label_end").is_not_null())["role"]) == {"purged"}
    later = mine.filter(pl.col("label_start") >= reach + timedelta(days=1), pl.col("label_end").is_not_null())
    assert later["role"].is_in(["fit", "tune"]).mean() > 0.99


def test_a_span_that_ends_at_midnight_belongs_to_the_day_before() -> None:
    """Pins a half-open end that is read as the first minute of the next day."""
    labels = minute_labels()
    midnight = datetime(2024, 1, 31, tzinfo=UTC)  # one day past the calendar
    last = labels.tail(1).with_columns(
        session=pl.lit(DAYS[-1]), minute=pl.lit(midnight - timedelta(minutes=30)).cast(labels.schema["minute"]),
        label_start=pl.lit(midnight - timedelta(minutes=29)).cast(labels.schema["minute"]),
        label_end=pl.lit(midnight).cast(labels.schema["minute"]),
    )  # fmt: skip
    folds = make_folds(pl.concat([labels, last]).sort(KEY), CALENDAR, FoldSpec(n_groups=4, n_test_groups=1))
    assert folds.certificate["overlap_rows"].sum() == 0
