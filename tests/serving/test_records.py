"""Records: append-only, stable columns, never yesterday's list, healed after a kill."""

from __future__ import annotations

import signal
import struct
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BadInput, RecordConflict, Tampered
from pipeline.serving.records import Selection, write_no_selection, write_selection

REPOSITORY = Path(__file__).parents[2]
DAY = date(2026, 3, 2)
HISTORY = Path("daily_top10_records/top10_history.csv")
LATEST = Path("daily_top10_records/top10_latest.csv")
ALL = Path("selections/all_selections.csv")
LATEST_ROW = Path("selections/latest_selection_row.csv")


def selection(day: date = DAY, names: int = 10, first: float = 0.9, bundle: str = "b" * 64) -> Selection:
    codes = [f"{i:06d}.SZ" for i in range(names)]
    ranked = {
        "rank": pl.Series(range(1, names + 1), dtype=pl.Int32), "instrument": codes, "code": codes,
        "weight": [0.1] * names, "score": [first - i / 30 for i in range(names)],
        "board": ["main"] * names, "industry": ["银行, 保险"] * names,
    }  # fmt: skip
    return Selection(day, bundle, pl.DataFrame(ranked))


def contents(root: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and write time of every record."""
    return {
        path.relative_to(root).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*.csv"))
    }


def rows(root: Path, name: Path) -> list[dict]:
    return pl.read_csv(root / name, infer_schema_length=0).to_dicts()


def test_columns_are_stable(tmp_path: Path) -> None:
    """Pins the files and columns that other machines read."""
    write_selection(tmp_path, selection())
    record = "trade_date,status,bundle,rank,code,instrument,weight,score,board,industry,reason"
    ranked = [f"{what}_{i:02d}" for what in ("rank", "weight", "score", "board", "industry") for i in range(1, 11)]
    wide = ",".join(["trade_date", "status", "bundle", "names", "codes", "plain_codes", *ranked, "reason"])
    headers = {name: data.decode().splitlines()[0] for name, (data, _) in contents(tmp_path).items()}
    assert headers == {
        "daily_top10_records/top10_history.csv": f"{record},attempt",
        "daily_top10_records/top10_latest.csv": f"{record},attempt",
        "daily_top10_records/trade_date=20260302/top10_record.csv": record,
        "selections/all_selections.csv": wide,
        "selections/latest_selection_row.csv": wide,
    }


def test_one_row_a_session_holds_everything(tmp_path: Path) -> None:
    """Pins copy-ready strings and values that slip by a rank."""
    path = write_selection(tmp_path, selection())
    assert path.relative_to(tmp_path) == Path("daily_top10_records/trade_date=20260302/top10_record.csv")
    (row,) = rows(tmp_path, ALL)
    assert (row["trade_date"], row["status"], row["names"]) == ("20260302", "SELECTED", "10")
    assert row["codes"].split(",") == [f"{i:06d}.SZ" for i in range(10)]
    assert row["plain_codes"].split(",") == [f"{i:06d}" for i in range(10)]
    assert (row["rank_03"], row["weight_03"], row["board_03"]) == ("000002.SZ", "0.1", "main")
    assert (float(row["score_03"]), row["industry_10"]) == (0.9 - 2 / 30, "银行, 保险")
    assert row["bundle"] == "b" * 64


def test_fewer_and_more_names_than_ten(tmp_path: Path) -> None:
    """Pins empty ranks where a policy's filters left fewer, and ranks lost where it selects more."""
    write_selection(tmp_path, selection(names=3))
    (few,) = rows(tmp_path, ALL)
    assert (few["names"], few["rank_03"], few["rank_04"], few["score_10"]) == ("3", "000002.SZ", None, None)
    write_selection(tmp_path, selection(DAY + timedelta(days=1), names=12))
    assert [row["rank_12"] for row in rows(tmp_path, ALL)] == [None, "000011.SZ"]


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_floats_keep_their_bits(tmp_path_factory: pytest.TempPathFactory, score: float, weight: float) -> None:
    """Pins scores that are rounded on their way through text into the derived files."""
    root = tmp_path_factory.mktemp("records")
    made = selection(names=1)
    ranked = made.ranked.with_columns(score=pl.lit(score), weight=pl.lit(weight))
    write_selection(root, Selection(DAY, made.bundle, ranked))
    (row,) = rows(root, ALL)
    for column, value in (("score_01", score), ("weight_01", weight)):
        assert struct.pack("d", float(row[column])) == struct.pack("d", value)


def test_the_same_selection_changes_no_byte(tmp_path: Path) -> None:
    """Pins a rerun that rewrites files, even with the same bytes."""
    write_selection(tmp_path, selection())
    before = contents(tmp_path)
    write_selection(tmp_path, selection())
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "other",
    [selection(first=0.9000000000000001), selection(bundle="c" * 64), selection(names=9)],
    ids=["one bit of a score", "another bundle", "fewer names"],
)
def test_another_selection_is_a_conflict_and_changes_nothing(other: Selection, tmp_path: Path) -> None:
    """Pins an overwrite of what was acted on; the message shows both lines."""
    write_selection(tmp_path, selection())
    before = contents(tmp_path)
    with pytest.raises(RecordConflict, match=r"trade_date=20260302: recorded '.*', now '"):
        write_selection(tmp_path, other)
    assert contents(tmp_path) == before


def test_no_selection_is_what_the_latest_files_say(tmp_path: Path) -> None:
    """Pins yesterday's list shown as today's after a refusal."""
    write_selection(tmp_path, selection())
    write_no_selection(tmp_path, DAY + timedelta(days=1), 'tables missing:\n"daily", stk_limit')
    for name in (LATEST, LATEST_ROW):
        (row,) = rows(tmp_path, name)
        assert (row["trade_date"], row["status"]) == ("20260303", "NO_SELECTION")
        assert row["reason"] == 'tables missing: "daily", stk_limit'
        assert not any(value for column, value in row.items() if column.startswith(("rank", "code", "score")))
    assert [row["status"] for row in rows(tmp_path, ALL)] == ["SELECTED", "NO_SELECTION"]


def test_a_refused_session_may_be_selected_later(tmp_path: Path) -> None:
    """Pins the attempts: every refusal stays in the history, the selection stands, one row a session."""
    for reason in ("late", "late", "still late"):
        path = write_no_selection(tmp_path, DAY, reason)
    assert path.name == "no_selection_02.csv"
    write_selection(tmp_path, selection(names=2))
    history = [(row["attempt"], row["status"], row["reason"], row["rank"]) for row in rows(tmp_path, HISTORY)]
    assert history == [
        ("1", "NO_SELECTION", "late", None),
        ("2", "NO_SELECTION", "still late", None),
        ("3", "SELECTED", None, "1"),
        ("3", "SELECTED", None, "2"),
    ]
    assert [row["status"] for row in rows(tmp_path, ALL)] == ["SELECTED"]
    assert [row["status"] for row in rows(tmp_path, LATEST)] == ["SELECTED"] * 2


def test_a_repeated_refusal_and_a_late_one_change_nothing(tmp_path: Path) -> None:
    """Pins a retry that fills the history, and a failed rerun that takes back what was selected."""
    write_no_selection(tmp_path, DAY, "late")
    before = contents(tmp_path)
    write_no_selection(tmp_path, DAY, "late")
    assert contents(tmp_path) == before
    path = write_selection(tmp_path, selection())
    before = contents(tmp_path)
    assert write_no_selection(tmp_path, DAY, "conflict") == path
    assert contents(tmp_path) == before


def test_many_refusals_keep_their_order(tmp_path: Path) -> None:
    """Pins attempts sorted as text: the 100th before the 11th."""
    first = write_no_selection(tmp_path, DAY, "reason 1")
    for i in range(2, 100):
        text = first.read_text().replace("reason 1", f"reason {i}")
        first.with_name(f"no_selection_{i:02d}.csv").write_text(text)
    for i in (100, 101):
        write_no_selection(tmp_path, DAY, f"reason {i}")
    assert [row["reason"] for row in rows(tmp_path, HISTORY)] == [f"reason {i}" for i in range(1, 102)]
    assert rows(tmp_path, LATEST)[0]["attempt"] == "101"


def test_an_earlier_session_recorded_later_is_not_the_latest(tmp_path: Path) -> None:
    """Pins a backfill that shows an old list as today's."""
    write_selection(tmp_path, selection())
    write_selection(tmp_path, selection(DAY - timedelta(days=3), first=0.5))
    assert rows(tmp_path, LATEST)[0]["trade_date"] == "20260302"
    assert [row["trade_date"] for row in rows(tmp_path, ALL)] == ["20260227", "20260302"]


@pytest.mark.parametrize("ranks", [[], [2, 3], [1, 3], [2, 1], [1, 1]])
def test_ranks_are_one_two_three(ranks: list[int], tmp_path: Path) -> None:
    """Pins an empty list recorded as a selection, and ranks that lost a name."""
    ranked = selection(names=len(ranks)).ranked.with_columns(rank=pl.Series(ranks, dtype=pl.Int32))
    with pytest.raises(BadInput, match="ranks 1, 2"):
        write_selection(tmp_path, Selection(DAY, "b", ranked))
    assert not contents(tmp_path)


@pytest.mark.parametrize("damage", ["edit", "remove", "truncate", "header"])
def test_an_edited_record_is_seen_at_the_next_write(damage: str, tmp_path: Path) -> None:
    """Pins a track record polished afterwards: history does not follow it."""
    path = write_selection(tmp_path, selection())
    text = path.read_text()
    if damage == "remove":
        path.unlink()
    else:
        path.write_text(
            {"edit": text.replace("000000", "600519"), "truncate": text[:-20], "header": "x\n" + text}[damage]
        )
    before = contents(tmp_path)
    with pytest.raises(Tampered):
        write_no_selection(tmp_path, DAY + timedelta(days=1), "late")
    assert {name: data for name, data in contents(tmp_path).items() if "20260303" not in name} == before


def test_derived_files_are_rebuilt_from_the_records(tmp_path: Path) -> None:
    """Pins derived files that were lost or edited; the records are the truth."""
    for i in range(3):
        write_selection(tmp_path, selection(DAY + timedelta(days=i)))
    before = {name: data for name, (data, _) in contents(tmp_path).items()}
    (tmp_path / HISTORY).unlink()
    (tmp_path / LATEST_ROW).unlink()
    (tmp_path / LATEST).write_text("nonsense")
    (tmp_path / ALL).write_bytes(b"")
    write_selection(tmp_path, selection())
    assert {name: data for name, (data, _) in contents(tmp_path).items()} == before


KILLED = """
import os, pathlib, signal, sys
from tests.serving import test_records as t
name, root = sys.argv[1], pathlib.Path(sys.argv[2])
real = pathlib.Path.replace
def replace(self, target):
    if target.name == name:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, target)
def link(*names):
    os.kill(os.getpid(), signal.SIGKILL)
if name == "record":
    os.link = link
pathlib.Path.replace = replace
t.write_selection(root, t.selection(t.DAY + t.timedelta(days=1)))
"""


@pytest.mark.parametrize("name", ["record", HISTORY.name, ALL.name])
def test_a_kill_between_two_files_heals(name: str, tmp_path: Path) -> None:
    """Pins a day that is on record but in no history, or the other way round, for ever."""
    write_selection(tmp_path, selection())
    killed = subprocess.run([sys.executable, "-c", KILLED, name, str(tmp_path)], cwd=REPOSITORY, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "daily_top10_records/trade_date=20260303/top10_record.csv").exists() == (name != "record")
    write_selection(tmp_path, selection(DAY + timedelta(days=1)))
    for derived, expected in ((HISTORY, 20), (LATEST, 10), (ALL, 2), (LATEST_ROW, 1)):
        assert len(rows(tmp_path, derived)) == expected
        assert rows(tmp_path, derived)[-1]["trade_date"] == "20260303"
    assert not list(tmp_path.rglob("*.tmp"))


WRITER = """
import pathlib, sys
from tests.serving import test_records as t
for i in range(int(sys.argv[1]), 30, 2):
    t.write_selection(pathlib.Path(sys.argv[2]), t.selection(t.DAY + t.timedelta(days=i)))
"""


def test_two_processes_record_at_once(tmp_path: Path) -> None:
    """Pins a derived file written from what one process had read before the other wrote."""
    running = [subprocess.Popen([sys.executable, "-c", WRITER, start, str(tmp_path)], cwd=REPOSITORY) for start in "01"]
    assert [process.wait(60) for process in running] == [0, 0]
    assert len(rows(tmp_path, ALL)) == 30
    assert len(rows(tmp_path, HISTORY)) == 300
