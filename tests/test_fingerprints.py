"""Content hashes: what must count as a difference, and what must not."""

from __future__ import annotations

import math
import struct
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BadInput, KeyViolation
from pipeline.fingerprints import canonical_json, hash_frame, hash_json, hash_sources, session_hashes, with_imports

CELLS = st.one_of(st.none(), st.just(0.0), st.just(-0.0), st.just(math.nan), st.floats(width=32))
TEXTS = st.one_of(st.none(), st.text(alphabet="ab\0é", max_size=3))


PAIRS, FOURS = pl.Array(pl.Float64, 2), pl.Array(pl.Float64, 4)


def column(values: list, dtype: pl.DataType | type = pl.Float64) -> pl.DataFrame:
    return pl.DataFrame({"x": pl.Series(values, dtype=dtype)})


def nan_with_payload() -> float:
    return struct.unpack("<d", struct.pack("<Q", 0x7FF8_0000_0000_1234))[0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (column([0.0]), column([-0.0])),
        (column([math.nan]), column([nan_with_payload()])),
        (column([math.nan]), column([-math.nan])),
        (column([[0.0, math.nan]], PAIRS), column([[-0.0, nan_with_payload()]], PAIRS)),
        (column(["a", None], pl.Categorical), column(["a", None], pl.Enum(["b", "a"]))),
    ],
    ids=["minus zero", "NaN payload", "NaN sign", "inside arrays", "categories"],
)
def test_equal_values_hash_equal(one: pl.DataFrame, other: pl.DataFrame) -> None:
    """Pins a hash that changes with how a value happens to be represented."""
    assert hash_frame(one.rename({"x": "y"})) != hash_frame(one)
    if one.schema != other.schema:
        one, other = one.cast(pl.String), other.cast(pl.String)
    assert hash_frame(one) == hash_frame(other)


DIFFERENT = {
    "null and zero": (column([None]), column([0.0])),
    "null and NaN": (column([None]), column([math.nan])),
    "null and empty text": (column([None], pl.String), column([""], pl.String)),
    "null and False": (column([None], pl.Boolean), column([False], pl.Boolean)),
    "which row is null": (column([None, 0.0]), column([0.0, None])),
    "text boundaries": (column(["ab", "c"], pl.String), column(["a", "bc"], pl.String)),
    "text holding a zero byte": (column(["a\0", "b"], pl.String), column(["a", "\0b"], pl.String)),
    "type": (column([1], pl.Int32), column([1], pl.Int64)),
    "float width": (column([1.0], pl.Float32), column([1.0], pl.Float64)),
    "time unit": (column([1], pl.Datetime("us")), column([1], pl.Datetime("ms"))),
    "zone": (column([1], pl.Datetime("us")), column([1], pl.Datetime("us", "UTC"))),
    "rows of zeros": (column([0.0]), column([0.0, 0.0])),
    "null array and array of nulls": (column([None], PAIRS), column([[None, None]], PAIRS)),
    "array width": (column([[1.0, 2.0], [3.0, 4.0]], PAIRS), column([[1.0, 2.0, 3.0, 4.0]], FOURS)),
    "column order": (pl.DataFrame({"a": [1], "b": [1]}), pl.DataFrame({"b": [1], "a": [1]})),
    "column name boundaries": (pl.DataFrame({"a": [1], "ba": [1]}), pl.DataFrame({"ab": [1], "a": [1]})),
    "last bit": (column([0.1 + 0.2]), column([0.3])),
}


@pytest.mark.parametrize("pair", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_different_values_hash_differently(pair: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    """Pins two contents that one hash would confuse."""
    assert hash_frame(pair[0]) != hash_frame(pair[1])


@settings(deadline=None)
@given(st.lists(st.tuples(CELLS, TEXTS, st.none() | st.booleans()), min_size=2, max_size=12), st.data())
def test_chunks_and_row_order_do_not_count(rows: list[tuple], data: st.DataObject) -> None:
    """Pins a hash that depends on how a frame was put together rather than on what it holds."""
    schema = {"n": pl.Float64, "s": pl.String, "b": pl.Boolean}
    frame = pl.DataFrame(rows, schema=schema, orient="row").with_row_index("key")
    cut = data.draw(st.integers(0, len(rows)))
    chunked = pl.concat([frame[:cut], frame[cut:]], rechunk=False)
    shuffled = frame[data.draw(st.permutations(range(len(rows))))]
    assert hash_frame(chunked) == hash_frame(frame)
    rebuilt = pl.DataFrame(frame[cut:].to_dict(as_series=False), schema=frame.schema)
    assert hash_frame(frame[cut:]) == hash_frame(rebuilt)
    assert hash_frame(shuffled, ["key"]) == hash_frame(frame, ["key"])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), CELLS, TEXTS), max_size=20))
def test_a_session_hashes_as_if_it_were_alone(rows: list[tuple]) -> None:
    """Pins session hashes that change with the sessions around them (nulls or text elsewhere)."""
    frame = pl.DataFrame(rows, schema={"d": pl.Int32, "n": pl.Float64, "s": pl.String}, orient="row").select(
        pl.col("d").cast(pl.Date).alias("session"), pl.int_range(pl.len()).alias("key"), "n", "s"
    )
    days = frame["session"].unique().sort()
    assert session_hashes(frame, ["key"]) == {
        day.isoformat(): hash_frame(frame.filter(session=day), ["key"]) for day in days
    }


def test_a_row_without_a_session_is_refused() -> None:
    """Pins rows that no session's hash would cover."""
    frame = pl.DataFrame({"session": [date(2024, 1, 2), None], "x": [1, 2]})
    with pytest.raises(KeyViolation, match="session"):
        session_hashes(frame, ["x"])


def test_unordered_types_are_refused_by_name() -> None:
    """Pins a silent hash of object addresses."""
    with pytest.raises(BadInput, match="x: Struct"):
        hash_frame(pl.DataFrame({"x": [{"a": 1}]}))


def test_hashing_a_wide_frame_uses_the_pool_and_agrees() -> None:
    """Pins a threaded path that would hash columns in order of completion."""
    frame = pl.DataFrame({f"c{i}": np.arange(60_000) * (i + 1.0) for i in range(12)})
    assert frame.estimated_size() > 4 << 20
    days = frame.with_columns(session=pl.lit(date(2024, 1, 2)))
    assert list(session_hashes(days, ["c0"]).values()) == [hash_frame(days)]
    assert hash_frame(frame) != hash_frame(frame.select(reversed(frame.columns)))


def test_json_is_canonical() -> None:
    """Pins hashes that depend on the order of keys or sets, and NaN that JSON cannot hold."""
    assert hash_json({"b": 1, "a": {2, 1}}) == hash_json({"a": {1, 2}, "b": 1})
    assert canonical_json({"at": datetime(2024, 1, 2, tzinfo=UTC), "n": np.int64(3)}) == (
        '{"at":"2024-01-02T00:00:00+00:00","n":3}'
    )
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(math.nan)


def test_code_hashes_tell_files_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pins two equally named files whose contents were swapped between folders."""
    package = tmp_path / "swapped"
    for sub, text in (("a", "x = 1\n"), ("b", "x = 2\n")):
        (package / sub).mkdir(parents=True)
        (package / sub / "same.py").write_text(text)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    before = hash_sources(["swapped"])
    (package / "a" / "same.py").write_text("x = 2\n")
    (package / "b" / "same.py").write_text("x = 1\n")
    assert hash_sources(["swapped"]) != before


def test_a_module_brings_what_it_imports_from_its_own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pins code that a stage runs through two other modules and that no code version notices."""
    package = tmp_path / "imported_room"
    package.mkdir()
    for name, text in {
        "__init__": "",
        "first": "from json import dumps\nfrom imported_room import second\n",
        "second": "def late():\n    from imported_room.third import value\n",
        "third": "from imported_room.first import dumps\nvalue = 1\n",
        "apart": "from imported_room.third import value\n",
    }.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    room = "imported_room"
    assert with_imports(f"{room}.first", room) == {f"{room}.first", f"{room}.second", f"{room}.third"}
    assert with_imports("json.decoder", room) == {"json.decoder"}
