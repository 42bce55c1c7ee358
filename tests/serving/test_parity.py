"""Parity: any one bit is found and named, and nothing else is."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BadInput, KeyViolation
from pipeline.serving.parity import KEYS, compare

DAY = date(2026, 3, 2)
NAMES = ["000001.SZ", "000002.SZ", "600000.SH"]
MEMBERS = ["boosted", "linear"]


def frames() -> dict[str, pl.DataFrame]:
    """A small inference with every type, nulls and a NaN."""
    keys = pl.DataFrame({"session": [DAY] * 3, "instrument": NAMES})
    earlier = keys.with_columns(session=pl.col("session") - pl.duration(days=1))
    window = pl.concat([earlier, keys])
    tags = {"code": NAMES, "board": ["main", None, "star"], "industry": ["银行", "a", "b"]}
    members = pl.DataFrame({"member": MEMBERS}).join(keys, how="cross")
    return {
        "panel": keys.with_columns(
            **{name: pl.Series(values) for name, values in tags.items()}, close=pl.Series([1.5, None, float("nan")]),
            eligible=pl.Series([True, False, None])),
        "features": window.with_columns(
            f0=pl.Series(np.arange(6, dtype=np.float32)), f1=pl.Series([None, 0, 1, 2, 3, 4], dtype=pl.Float32)),
        "paths": keys.with_columns(
            first_session_pressure_00=pl.Series([0.5, None, float("nan")], dtype=pl.Float32)),
        "tensors": pl.DataFrame({"member": MEMBERS, "session": [DAY] * 2, "hash": ["aa", "bb"]}),
        "scores": members.with_columns(rank_head=pl.Series(np.linspace(0, 1, 6, dtype=np.float32))),
        "predictions": keys.with_columns(rank_pred=pl.Series([0.1, 0.5, 0.9]), score=pl.Series([0.1, 0.5, 0.9])),
        "orders": pl.DataFrame({"session": [DAY] * 2, "rank": [1, 2], "instrument": NAMES[:2], "weight": [0.5] * 2}),
    }  # fmt: skip


def changed(value: object, dtype: pl.DataType) -> object:
    """The value with its lowest bit flipped, or another one of its kind."""
    if value is None:
        return {pl.Boolean: True, pl.String: ""}.get(type(dtype), 0.0)
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        bits = np.float32 if dtype == pl.Float32 else np.float64
        flipped = np.array([value], bits).view(np.uint32 if bits is np.float32 else np.uint64)
        return (flipped ^ 1).view(bits)[0]
    return f"{value}x" if isinstance(value, str) else value + 1  # type: ignore[operator]


def with_value(frame: pl.DataFrame, row: int, column: str, value: object) -> pl.DataFrame:
    """The frame with one cell replaced, bit for bit."""
    series = frame[column]
    cell = pl.Series(column, np.array([value]) if isinstance(value, np.floating) else [value], series.dtype)
    return frame.with_columns(pl.concat([series[:row], cell, series[row + 1 :]]))


def test_equal_frames_are_exact() -> None:
    """Pins nulls and NaN that differ from themselves, and order of rows taken for a difference."""
    shuffled = {name: frame.sample(fraction=1.0, shuffle=True, seed=1) for name, frame in frames().items()}
    report = compare(frames(), shuffled)
    assert report.exact
    assert report.first_difference is None
    assert report.rows == sum(len(frame) for frame in frames().values()) == 25
    table = report.to_frame(DAY)
    assert table["asset"].to_list() == list(KEYS)
    assert table["exact"].all()
    assert table["different"].sum() == 0
    assert table["column"].null_count() == 7


CELLS = [
    (asset, row, column)
    for asset, frame in frames().items()
    for column in frame.columns
    if column not in KEYS[asset]
    for row in range(len(frame))
]


@pytest.mark.parametrize(("asset", "row", "column"), CELLS)
def test_any_flipped_bit_is_found_and_named(asset: str, row: int, column: str) -> None:
    """Pins a column that is not compared, a tolerance, and a report that names the wrong place."""
    live, research = frames(), frames()
    value = live[asset][column][row]
    live[asset] = with_value(live[asset], row, column, changed(value, live[asset].schema[column]))
    report = compare(live, research)
    assert not report.exact
    found = report.first_difference
    assert found is not None
    key = live[asset].row(row, named=True)
    label = "|".join(str(key[name]) for name in KEYS[asset] if name != "session")
    assert found[:3] == (asset, label, column)
    assert found.live != found.research
    counts = dict(report.to_frame(DAY).select("asset", "different").iter_rows())
    assert counts == dict.fromkeys(KEYS, 0) | {asset: 1}


@pytest.mark.parametrize(
    ("live", "research"),
    [(0.0, -0.0), (float("nan"), None), (1.0, None), (np.uint64(0x7FF8000000000001), float("nan"))],
    ids=["signed zero", "NaN and null", "value and null", "NaN payload"],
)
def test_values_that_compare_equal_elsewhere(live: object, research: object) -> None:
    """Pins equality of floats in place of equality of bits."""
    if isinstance(live, np.uint64):
        live = np.array([live]).view(np.float64)[0]
    sides = [frames(), frames()]
    for side, value in zip(sides, (live, research), strict=True):
        side["predictions"] = with_value(side["predictions"], 1, "score", value)
    found = compare(*sides).first_difference
    assert found is not None
    assert found[:3] == ("predictions", "000002.SZ", "score")
    assert found.live != found.research


def test_a_float_is_shown_with_its_bits() -> None:
    """Pins a report in which both sides read 0.5."""
    live = frames()
    live["scores"] = with_value(live["scores"], 0, "rank_head", np.float32(1e-45))
    found = compare(live, frames()).first_difference
    assert found is not None
    assert (found.live, found.research) == ("1.401298464324817e-45 (0x1)", "0.0 (0x0)")
    assert str(found).startswith("scores, boosted|000001.SZ, rank_head: live 1.4")


def test_causes_come_before_effects() -> None:
    """Pins a report that blames the orders for a wrong feature."""
    live = frames()
    for asset in reversed(KEYS):
        column = live[asset].columns[-1]
        live[asset] = with_value(live[asset], 0, column, changed(live[asset][column][0], live[asset].schema[column]))
        found = compare(live, frames()).first_difference
        assert found is not None
        assert found.asset == asset


def test_absent_and_unexpected_rows() -> None:
    """Pins a name that only one side scored."""
    short, long = frames(), frames()
    short["scores"] = short["scores"].filter(pl.col("instrument") != "000002.SZ")
    for live, research, shown in ((short, long, ("absent", "present")), (long, short, ("present", "absent"))):
        report = compare(live, research)
        assert report.first_difference == ("scores", "boosted|000002.SZ", "row", *shown)
        assert report.to_frame(DAY).filter(asset="scores").select("rows", "different").row(0) == (6, 2)


def test_columns_and_types_are_compared() -> None:
    """Pins a head that one side lacks, a reordered schema, and a widened type that equals in value."""
    fewer, reordered, wider = frames(), frames(), frames()
    fewer["scores"] = fewer["scores"].drop("rank_head")
    reordered["features"] = reordered["features"].select("session", "instrument", "f1", "f0")
    wider["features"] = wider["features"].with_columns(pl.col("f0").cast(pl.Float64))
    lacking = compare(fewer, frames()).first_difference
    assert lacking == ("scores", "", "rank_head", "absent", "column rank_head Float32")
    assert compare(reordered, frames()).first_difference[:3] == ("features", "", "f1")  # type: ignore[index]
    assert compare(wider, frames()).first_difference[3:] == ("column f0 Float64", "column f0 Float32")  # type: ignore[index]


def test_nothing_compared_is_not_parity() -> None:
    """Pins the vacuous exact: an asset that was not stored, or stored empty."""
    without = {name: frame for name, frame in frames().items() if name != "tensors"}
    with pytest.raises(BadInput, match="tensors"):
        compare(without, frames())
    empty = frames() | {"orders": frames()["orders"].clear()}
    with pytest.raises(BadInput, match="orders"):
        compare(empty, empty)
    assert compare(empty, frames()).first_difference == ("orders", "1", "row", "absent", "present")


def test_doubled_keys_are_refused() -> None:
    """Pins a join that multiplies rows and compares each with each."""
    doubled = frames()
    doubled["predictions"] = pl.concat([doubled["predictions"], doubled["predictions"][:1]])
    with pytest.raises(KeyViolation, match="live predictions"):
        compare(doubled, frames())


@given(st.lists(st.binary(min_size=8, max_size=8), min_size=1, max_size=20), st.data())
@settings(max_examples=60, deadline=None)
def test_exact_if_and_only_if_all_bits_agree(values: list[bytes], data: st.DataObject) -> None:
    """Pins any pattern of 64 bits: found where it differs, in key order, and only there."""
    others = [data.draw(st.sampled_from([value, data.draw(st.binary(min_size=8, max_size=8))])) for value in values]
    days = [DAY + timedelta(days=i) for i in range(len(values))]
    sides = [
        frames() | {"predictions": pl.DataFrame({
            "session": days, "instrument": ["a"] * len(days), "score": np.frombuffer(b"".join(side), np.float64)})}
        for side in (values, others)
    ]  # fmt: skip
    differing = [i for i, pair in enumerate(zip(values, others, strict=True)) if pair[0] != pair[1]]
    report = compare(*sides)
    assert report.exact == (not differing)
    assert dict(report.to_frame(DAY).select("asset", "different").iter_rows())["predictions"] == len(differing)
