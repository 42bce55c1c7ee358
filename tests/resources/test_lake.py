"""The lake: what is kept, since when it was known, and what a pinned reader sees."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import resources.lake
from pipeline.errors import BadInput, KeyViolation, MissingTable, SchemaError, Tampered
from pipeline.tables.spec import Column
from resources.lake import AppendReport, Lake
from tests.oracles.lake_rows import SlowLake
from tests.resources.lake_tables import (
    BARS,
    BY_CODE,
    HALTS,
    LISTINGS,
    MINUTES,
    MONDAY,
    TUESDAY,
    WEDNESDAY,
    after,
    bars,
    due,
)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def add(lake: Lake, rows: pl.DataFrame, at: datetime, complete=(), spec=BARS, **more) -> AppendReport:
    return lake.append(spec, rows, request="r", ingested_at=at, complete=complete, **more)


def known(lake: Lake, table: str = "bars") -> list[tuple]:
    return lake.scan(table).select("code", "value", "known_at", "knowledge").rows()


def test_a_backfill_is_known_by_rule(lake: Lake) -> None:
    """Pins backfilled history that would be unusable because it was 'known' at the download."""
    report = add(lake, bars((TUESDAY, "b", 2.0), (MONDAY, "a", 1.0)), after(WEDNESDAY), [MONDAY, TUESDAY])
    assert report == AppendReport(1, new=2, revised=0, unchanged=0, late=0, observed=0, vanished=0)
    assert known(lake) == [("a", 1.0, due(MONDAY), "rule"), ("b", 2.0, due(TUESDAY), "rule")]


def test_repeating_a_fetch_changes_nothing(lake: Lake) -> None:
    """Pins a re-run that makes new versions, or stale data versions downstream."""
    rows = bars((MONDAY, "a", math.nan), (MONDAY, "b", None), (MONDAY, "c", 0.0))
    add(lake, rows, after(MONDAY), [MONDAY])
    again = add(lake, rows.with_columns(value=pl.Series([math.nan, None, -0.0])), after(TUESDAY), [MONDAY])
    assert again == AppendReport(None, new=0, revised=0, unchanged=3, late=0, observed=0, vanished=0)
    assert lake.head() == 1


def test_a_changed_row_is_known_when_it_was_seen(lake: Lake) -> None:
    """Pins a correction that leaks into decisions made before it."""
    add(lake, bars((MONDAY, "a", 1.0), (MONDAY, "b", 1.0)), after(MONDAY), [MONDAY])
    report = add(lake, bars((MONDAY, "a", 9.0), (MONDAY, "b", 1.0)), after(TUESDAY), [MONDAY])
    assert (report.revised, report.unchanged, report.observed) == (1, 1, 1)
    before = lake.latest("bars", known_until=after(TUESDAY) - timedelta(microseconds=1))
    assert before["value"].to_list() == [1.0, 1.0]
    assert lake.latest("bars", known_until=after(TUESDAY))["value"].to_list() == [9.0, 1.0]


def test_a_value_that_appears_or_goes_is_a_revision(lake: Lake) -> None:
    """Pins comparisons in which null equals anything."""
    add(lake, bars((MONDAY, "a", None), (MONDAY, "b", 1.0)), after(MONDAY))
    assert add(lake, bars((MONDAY, "a", 1.0), (MONDAY, "b", None)), after(TUESDAY)).revised == 2


def test_a_row_returning_to_an_old_value_is_a_new_version(lake: Lake) -> None:
    """Pins deduplication by content alone, under which a reverted correction would never be reverted."""
    for hours, value in ((1, 1.0), (2, 2.0), (3, 1.0)):
        add(lake, bars((MONDAY, "a", value)), after(MONDAY, hours))
    assert lake.scan("bars")["value"].to_list() == [1.0, 2.0, 1.0]
    assert lake.latest("bars")["value"].to_list() == [1.0]


def test_a_row_absent_from_a_complete_fetch_came_late(lake: Lake) -> None:
    """Pins late rows dated by the rule, as if they had been there in time."""
    add(lake, bars((MONDAY, "a", 1.0)), after(MONDAY), [MONDAY])
    report = add(lake, bars((MONDAY, "a", 1.0), (MONDAY, "b", 2.0)), after(TUESDAY), [MONDAY])
    assert (report.new, report.late, report.observed) == (1, 1, 1)
    assert known(lake)[1] == ("b", 2.0, after(TUESDAY), "observed")


def test_an_incomplete_fetch_makes_nothing_late(lake: Lake) -> None:
    """Pins rows of a fetch that broke off being called late when the rest arrives."""
    add(lake, bars((MONDAY, "a", 1.0)), after(MONDAY))
    assert add(lake, bars((MONDAY, "b", 2.0)), after(TUESDAY), [MONDAY]).late == 0


def test_a_complete_fetch_before_the_rule_makes_nothing_late(lake: Lake) -> None:
    """Pins rows that were simply not due yet being called late."""
    add(lake, bars((MONDAY, "a", 1.0)), after(MONDAY, -2), [MONDAY])
    report = add(lake, bars((MONDAY, "a", 1.0), (MONDAY, "b", 2.0)), after(MONDAY, 3), [MONDAY])
    assert (report.new, report.late) == (1, 0)
    assert known(lake) == [("a", 1.0, due(MONDAY), "rule"), ("b", 2.0, due(MONDAY), "rule")]


def test_an_unchanged_fetch_after_the_rule_is_remembered(lake: Lake) -> None:
    """Pins look-ahead: a row first seen after an unchanged but due fetch must not count as known by rule."""
    rows = bars((MONDAY, "a", 1.0))
    add(lake, rows, after(MONDAY, -2), [MONDAY])
    assert add(lake, rows, after(MONDAY, 1), [MONDAY]).commit == 2
    assert add(lake, rows, after(MONDAY, 2), [MONDAY]).commit is None
    assert lake.manifest_hash(1) == lake.manifest_hash(2)
    late = add(lake, bars((MONDAY, "a", 1.0), (MONDAY, "b", 2.0)), after(MONDAY, 5), [MONDAY])
    assert late.late == 1


def test_an_empty_session_is_complete_and_its_first_row_late(lake: Lake) -> None:
    """Pins tables that may be empty (suspensions): their sessions were fetched, and a later row is news."""
    add(lake, BARS.empty(), after(WEDNESDAY), [MONDAY])
    assert lake.missing("bars", [MONDAY, TUESDAY]) == [TUESDAY]
    assert lake.scan("bars").schema == {**BARS.schema, **resources.lake.STAMPS}
    assert add(lake, bars((MONDAY, "a", 1.0)), after(WEDNESDAY, 20), [MONDAY]).late == 1


def test_rows_that_vanish_stay_and_are_counted(lake: Lake) -> None:
    """Pins deletion of history when a vendor drops a row."""
    rows = bars((MONDAY, "a", 1.0), (MONDAY, "b", 1.0), (TUESDAY, "a", 1.0))
    add(lake, rows, after(TUESDAY), [MONDAY, TUESDAY])
    assert add(lake, bars((MONDAY, "a", 1.0)), after(WEDNESDAY), [MONDAY]).vanished == 1
    assert lake.latest("bars").height == 3


def test_versions_of_one_key_are_never_known_at_once(lake: Lake) -> None:
    """Pins ties in which the reader's sort decides which version is the newest."""
    for value in (1.0, 2.0, 3.0):
        add(lake, bars((MONDAY, "a", value)), after(MONDAY, -3))
    frame = lake.scan("bars")
    assert frame["known_at"].is_unique().all()
    assert frame.sort("known_at")["value"].to_list() == [1.0, 2.0, 3.0]
    assert frame["known_at"][0] == due(MONDAY)


def test_a_null_in_a_key_is_a_value_of_its_own(lake: Lake) -> None:
    """Pins suspensions without a timing multiplying at each fetch, since null joins to nothing."""
    halted = [(MONDAY, "a", None, 1.0), (MONDAY, "a", "09:30", 2.0)]
    rows = pl.DataFrame(halted, schema=HALTS.schema, orient="row")
    add(lake, rows, after(MONDAY), [MONDAY], HALTS)
    assert add(lake, rows, after(TUESDAY), [MONDAY], HALTS).unchanged == 2
    changed = rows.with_columns(value=pl.Series([7.0, 2.0]))
    report = add(lake, changed, after(TUESDAY), [MONDAY], HALTS)
    assert (report.revised, report.vanished) == (1, 0)
    assert lake.latest("halts")["value"].to_list() == [7.0, 2.0]


def test_snapshots_tell_yesterdays_listing_from_a_late_one(lake: Lake) -> None:
    """Pins a new listing called late, and an old row that appears only now dated to its listing."""
    first = bars((MONDAY, "a", 1.0), spec=LISTINGS)
    assert add(lake, first, after(TUESDAY), spec=LISTINGS).observed == 0
    second = bars((MONDAY, "a", 2.0), (MONDAY, "late", 1.0), (WEDNESDAY, "listed", 1.0), spec=LISTINGS)
    assert add(lake, second, after(WEDNESDAY), spec=LISTINGS).late == 1
    assert {code: (at, how) for code, _, at, how in known(lake, "listings")[1:]} == {
        "a": (after(WEDNESDAY), "observed"), "late": (after(WEDNESDAY), "observed"),
        "listed": (due(WEDNESDAY), "rule"),
    }


def test_an_unchanged_snapshot_is_remembered(lake: Lake) -> None:
    """Pins look-ahead: what is dated Monday but absent from Tuesday's snapshot was not known on Monday."""
    rows = bars((date(2024, 1, 1), "a", 1.0), spec=LISTINGS)
    add(lake, rows, after(MONDAY, -30), spec=LISTINGS)
    add(lake, rows, after(TUESDAY), spec=LISTINGS)
    longer = bars((date(2024, 1, 1), "a", 1.0), (MONDAY, "b", 1.0), spec=LISTINGS)
    assert add(lake, longer, after(WEDNESDAY), spec=LISTINGS).late == 1


def test_a_code_that_was_not_asked_for_is_not_late(lake: Lake) -> None:
    """Pins a whole history called late because another code of the table had been fetched before."""
    add(lake, bars((MONDAY, "a", 1.0), spec=BY_CODE), after(MONDAY), [MONDAY], BY_CODE, codes=["a", "quiet"])
    assert lake.missing("by_code", [MONDAY], codes=["a", "quiet"]) == []
    assert lake.missing("by_code", [MONDAY], codes=["a", "new"]) == [MONDAY]
    rows = bars((MONDAY, "new", 1.0), (MONDAY, "quiet", 1.0), spec=BY_CODE)
    report = add(lake, rows, after(TUESDAY), [MONDAY], BY_CODE, codes=["new", "quiet"])
    assert (report.new, report.late, report.vanished) == (2, 1, 0)
    assert lake.missing("by_code", [MONDAY], codes=["a", "new"]) == []


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (bars((MONDAY, "a", 1.0), (MONDAY, "a", 2.0)), KeyViolation),
        (bars((MONDAY, None, 1.0)), KeyViolation),
        (bars((None, "a", 1.0)), KeyViolation),
        (bars((MONDAY, "a", 1.0)).cast({"value": pl.Float32}), SchemaError),
        (bars((MONDAY, "a", 1.0)).drop("value"), SchemaError),
        (bars((MONDAY, "a", 1.0)).with_columns(extra=1), SchemaError),
    ],
    ids=["doubled key", "null key", "null day", "type", "missing column", "unknown column"],
)
def test_bad_rows_leave_the_lake_alone(lake: Lake, rows: pl.DataFrame, error: type[Exception]) -> None:
    """Pins half a fetch, or one of another shape, ending up in the lake."""
    add(lake, bars((MONDAY, "z", 1.0)), after(MONDAY))
    with pytest.raises(error):
        add(lake, rows, after(TUESDAY), [MONDAY])
    assert lake.head() == 1
    assert lake.sweep(timedelta(0)) == []


def test_a_naive_instant_is_refused(lake: Lake) -> None:
    """Pins local times silently taken for UTC."""
    with pytest.raises(BadInput, match="aware"):
        add(lake, bars((MONDAY, "a", 1.0)), datetime(2024, 1, 2))
    add(lake, bars((MONDAY, "a", 1.0)), after(MONDAY))
    with pytest.raises(BadInput, match="aware"):
        lake.scan("bars", known_until=datetime(2024, 1, 2))


def test_a_stored_column_keeps_its_type_and_a_table_its_key(lake: Lake) -> None:
    """Pins a drift of types that makes older files unreadable."""
    add(lake, bars((MONDAY, "a", 1.0)), after(MONDAY))
    drifted = replace(BARS, columns=(*BARS.columns[:2], Column("value", pl.Int64())))
    with pytest.raises(SchemaError, match="keep their types"):
        add(lake, drifted.empty(), after(TUESDAY), spec=drifted)
    with pytest.raises(SchemaError, match="vendor"):
        add(lake, BARS.empty(), after(TUESDAY), spec=replace(BARS, vendor="other"))
    with pytest.raises(BadInput, match="part of the key"):
        add(lake, BARS.empty(), after(TUESDAY), spec=replace(BARS, name="loose", key=("code",)))


def test_a_new_column_is_null_in_older_rows(lake: Lake) -> None:
    """Pins a lake that a vendor's new column makes unreadable."""
    add(lake, bars((MONDAY, "a", 1.0)), after(MONDAY))
    wider = replace(BARS, columns=(*BARS.columns, Column("extra", pl.String())))
    add(lake, bars((TUESDAY, "a", 1.0)).with_columns(extra=pl.lit("x")), after(TUESDAY), spec=wider)
    assert lake.scan("bars")["extra"].to_list() == [None, "x"]


def test_content_hashes_ignore_how_rows_arrived(tmp_path: Path) -> None:
    """Pins data versions that depend on batches, order, fetch times or requests."""
    one, other = Lake(tmp_path / "one"), Lake(tmp_path / "other")
    rows = bars((MONDAY, "a", 1.0), (MONDAY, "b", 2.0), (TUESDAY, "a", 3.0), (WEDNESDAY, "a", 4.0))
    one.append(BARS, rows, request="all", ingested_at=after(WEDNESDAY), complete=[MONDAY])
    for i in (3, 1, 0, 2):
        other.append(BARS, rows[i], request=str(i), ingested_at=after(WEDNESDAY, i + 2))
    assert one.manifest_hash() == other.manifest_hash()
    assert one.manifest().tables["bars"].sessions == other.manifest().tables["bars"].sessions


def test_a_revision_changes_its_own_session_only(lake: Lake) -> None:
    """Pins revisions that go unnoticed downstream, and those that make everything stale."""
    add(lake, bars((MONDAY, "a", 1.0), (TUESDAY, "a", 1.0)), after(TUESDAY))
    before = lake.manifest()
    add(lake, bars((TUESDAY, "a", 2.0)), after(WEDNESDAY))
    old, new = before.table("bars").sessions, lake.manifest().table("bars").sessions
    assert old[MONDAY.isoformat()] == new[MONDAY.isoformat()]
    assert old[TUESDAY.isoformat()] != new[TUESDAY.isoformat()]


def test_a_pinned_reader_sees_its_commit_for_ever(lake: Lake) -> None:
    """Pins research that changes under its feet."""
    add(lake, bars((MONDAY, "a", 1.0)), after(MONDAY), [MONDAY])
    pinned, digest = lake.scan("bars"), lake.manifest_hash()
    add(lake, bars((MONDAY, "a", 2.0), (TUESDAY, "a", 1.0)), after(TUESDAY), [TUESDAY])
    for reader in (lake, Lake(lake.root)):
        assert reader.scan("bars", at=1).equals(pinned)
        assert reader.manifest_hash(1) == digest != reader.manifest_hash()
        assert reader.missing("bars", [TUESDAY], at=1) == [TUESDAY]
    with pytest.raises(BadInput, match="between 0 and 2"):
        lake.scan("bars", at=3)


def test_an_unknown_table_is_said(lake: Lake) -> None:
    """Pins an empty frame where a table was never ingested."""
    with pytest.raises(MissingTable, match="bars"):
        lake.scan("bars")
    assert lake.tables() == []
    assert lake.missing("bars", [MONDAY]) == [MONDAY]


def test_bounds_hold_at_their_edges(lake: Lake) -> None:
    """Pins off-by-one days and instants, in dates and in minute stamps."""
    add(lake, bars(*((day, "a", 1.0) for day in (MONDAY, TUESDAY, WEDNESDAY))), after(WEDNESDAY))
    assert lake.scan("bars", start=TUESDAY, end=TUESDAY)["day"].to_list() == [TUESDAY]
    inside = lake.scan("bars", known_after=due(MONDAY), known_until=due(TUESDAY))
    assert inside["day"].to_list() == [TUESDAY]
    stamps = [datetime(2024, 1, 30), datetime(2024, 1, 30, 23, 59, 59, 999999), datetime(2024, 1, 31)]
    rows = pl.DataFrame([("a", at, 1.0) for at in stamps], schema=MINUTES.schema, orient="row")
    lake.append(MINUTES, rows, request="r", ingested_at=after(WEDNESDAY))
    assert lake.scan("minutes", start=TUESDAY, end=TUESDAY)["at"].to_list() == stamps[:2]
    assert list(lake.manifest().table("minutes").sessions) == ["2024-01-30", "2024-01-31"]


def test_small_files_of_a_month_are_folded_together(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pins months of one-session files; content, hashes and old pins must not notice."""
    monkeypatch.setattr(resources.lake, "MERGE_FILES", 3)
    for i in range(8):
        add(lake, bars((date(2024, 1, 2 + i), "a", float(i))), after(WEDNESDAY, i), [date(2024, 1, 2 + i)])
    assert len(lake.manifest().table("bars").files) <= 4
    assert lake.scan("bars")["value"].to_list() == [float(i) for i in range(8)]
    assert lake.scan("bars", at=3)["value"].to_list() == [0.0, 1.0, 2.0]
    assert lake.sweep(timedelta(0)) == []
    plain = Lake(lake.root.parent / "plain")
    plain.append(BARS, lake.latest("bars").select(BARS.names), request="r", ingested_at=after(WEDNESDAY))
    assert plain.manifest_hash() == lake.manifest_hash()


def test_a_checkpoint_changes_nothing_but_speed(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pins checkpoints that differ from the fold, and a torn one that makes the lake unreadable."""
    monkeypatch.setattr(resources.lake, "CHECKPOINT_EVERY", 4)
    for i in range(10):
        add(lake, bars((date(2024, 1, 2 + i), "a", float(i))), after(WEDNESDAY, i), [date(2024, 1, 2 + i)])
    add(lake, bars((MONDAY, "b", 1.0), spec=BY_CODE), after(WEDNESDAY), [MONDAY], BY_CODE)
    saved = sorted((lake.root / "checkpoints").iterdir())
    assert [path.name for path in saved] == ["000000000004.json", "000000000008.json"]
    assert Lake(lake.root).manifest() == lake.manifest()
    assert Lake(lake.root).manifest(6) == lake.manifest(6)
    saved[1].write_text('{"number": 8, "sta')
    assert Lake(lake.root).manifest() == lake.manifest()


def test_a_hole_in_the_log_and_altered_bytes_are_said(lake: Lake) -> None:
    """Pins reading on past a lost commit, or trusting a file that someone edited."""
    for i, day in enumerate((MONDAY, TUESDAY)):
        add(lake, bars((day, "a", float(i))), after(WEDNESDAY))
    lake.verify()
    file = lake.root / lake.manifest().table("bars").files[0].file
    data = bytearray(file.read_bytes())
    data[10] ^= 1
    file.write_bytes(data)
    with pytest.raises(Tampered, match=file.name):
        lake.verify()
    (lake.root / "log" / "000000000001.json").unlink()
    with pytest.raises(Tampered, match="no gaps"):
        Lake(lake.root).scan("bars")


def test_an_entry_of_a_later_format_is_refused(lake: Lake) -> None:
    """Pins an old release misreading what a newer one wrote."""
    add(lake, bars((MONDAY, "a", 1.0)), after(MONDAY))
    entry = lake.root / "log" / "000000000001.json"
    entry.write_text(json.dumps({**json.loads(entry.read_text()), "format": 2}))
    with pytest.raises(BadInput, match="format"):
        Lake(lake.root).tables()


DAYS = st.sampled_from([MONDAY, TUESDAY, WEDNESDAY])
VALUES = st.sampled_from([None, math.nan, 0.0, -0.0, 1.0])
FETCH = st.tuples(
    st.dictionaries(st.tuples(DAYS, st.sampled_from("abc")), VALUES, max_size=6),
    st.integers(0, 40), st.lists(DAYS, unique=True, max_size=3),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(FETCH, min_size=1, max_size=5))
def test_any_history_of_fetches_agrees_with_the_slow_lake(fetches: list[tuple]) -> None:
    """Pins the vectorised rules against the same ones row by row, with fetches before and after the rule."""
    with tempfile.TemporaryDirectory() as folder:
        lake, slow, at = Lake(Path(folder)), SlowLake(), after(MONDAY, -5)
        moments = [at]
        for rows, hours, complete in fetches:
            at += timedelta(hours=hours)
            moments += [at, at - timedelta(microseconds=1)]
            add(lake, bars(*((*key, value) for key, value in rows.items())), at, complete)
            slow.append(rows, at, complete, due)
        stored = lake.scan("bars")
        expected = {(day, code, known_at, knowledge) for (day, code), held in slow.versions.items()
                    for known_at, _, knowledge in held}
        assert set(stored.select("day", "code", "known_at", "knowledge").iter_rows()) == expected
        assert stored.height == len(expected)
        for moment in [*moments, due(WEDNESDAY)]:
            seen = lake.latest("bars", known_until=moment)
            truth = [(*key, value) for key, value in sorted(slow.latest(moment).items())]
            assert seen.select(BARS.names).equals(bars(*truth)), moment
