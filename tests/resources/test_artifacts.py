"""Stage results: equal contents are one version, older ones stay, altered bytes are refused."""

from __future__ import annotations

import math
import threading
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

import resources.artifacts
from pipeline.errors import BadInput, KeyViolation, MissingTable, SchemaError, Tampered
from pipeline.fingerprints import hash_frame
from resources.artifacts import Artifacts, Version

KEY = {"panel": ("session", "instrument")}
DAYS = [date(2024, 1, 2), date(2024, 1, 3)]
PANEL = pl.DataFrame({"session": [d for d in DAYS for _ in "ab"], "instrument": ["a", "b"] * 2,
                      "close": [1.0, 2.0, 3.0, math.nan]})


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path)


def write(artifacts: Artifacts, frame: pl.DataFrame = PANEL, partition: str = "", **more) -> Version:
    settings = {"files": {}, "keys": KEY, "lineage": {}, **more}
    return artifacts.write("study", "panel", partition, {"panel": frame}, **settings)


def test_what_is_written_is_read_back(artifacts: Artifacts) -> None:
    """Pins a store that loses types, nulls, arrays, key order or bytes."""
    channels = pl.Series([[1.0, None], None, [0.0, -0.0], [1.0, 2.0]], dtype=pl.Array(pl.Float32, 2))
    frame = PANEL.with_columns(channels=channels)
    version = write(artifacts, frame[[3, 1, 0, 2]], files={"weights.onnx": b"\0\1", "empty": b""},
                    lineage={"code": "c"}, metadata={"loss": math.nan, "at": DAYS[0], "n": [1, math.inf]})
    assert artifacts.table("study", "panel", "panel").equals(frame)
    assert artifacts.file("study", "panel", "weights.onnx") == b"\0\1"
    assert artifacts.file("study", "panel", "empty") == b""
    assert version.metadata == {"loss": None, "at": "2024-01-02", "n": [1, None]}
    assert Artifacts(artifacts.root).current("study", "panel") == {"": version}
    assert version.tables["panel"]["rows"] == 4
    first = hash_frame(frame.filter(session=DAYS[0]))
    assert version.tables["panel"]["sessions"][DAYS[0].isoformat()] == first


def test_equal_contents_are_one_version(artifacts: Artifacts, tmp_path: Path) -> None:
    """Pins hashes that depend on row order, chunks, lineage, the clock, or the place."""
    version = write(artifacts, lineage={"run": 1}, files={"a": b"1", "b": b"2"})
    chunked = pl.concat([PANEL[2:], PANEL[:2]], rechunk=False)
    other = write(Artifacts(tmp_path / "other"), chunked, lineage={"run": 2}, files={"b": b"2", "a": b"1"},
                  metadata={"seconds": 3})
    assert other.hash == version.hash


@pytest.mark.parametrize(
    "changed",
    [
        PANEL.with_columns(close=pl.Series([1.0, 2.0, 3.0, None])),
        PANEL.with_columns(close=pl.Series([1.0, 2.0, 3.0000000000000004, math.nan])),
        PANEL.cast({"close": pl.Float32}),
        PANEL.select("session", "close", "instrument"),
        PANEL[:3],
        PANEL[:0],
    ],
    ids=["null for NaN", "last bit", "type", "column order", "a row less", "no rows"],
)
def test_different_contents_are_different_versions(artifacts: Artifacts, changed: pl.DataFrame) -> None:
    """Pins a change that the version's hash would hide."""
    assert write(artifacts).hash != write(artifacts, changed).hash
    assert write(artifacts, PANEL[:0]).hash != write(artifacts, PANEL[:0].cast({"close": pl.Float32})).hash


def test_a_changed_session_leaves_the_others_hashes(artifacts: Artifacts) -> None:
    """Pins session hashes of which all change with one row."""
    before = write(artifacts).tables["panel"]["sessions"]
    changed = PANEL.with_columns(close=pl.when(pl.col("session") == DAYS[1]).then(9.0).otherwise("close"))
    after = write(artifacts, changed).tables["panel"]["sessions"]
    assert before[DAYS[0].isoformat()] == after[DAYS[0].isoformat()]
    assert before[DAYS[1].isoformat()] != after[DAYS[1].isoformat()]


def test_writing_the_same_again_is_no_commit_and_new_lineage_no_new_bytes(artifacts: Artifacts) -> None:
    """Pins a store that grows with each re-run, and lineage that stays at its first value."""
    first = write(artifacts, lineage={"read": "x"})
    assert write(artifacts, lineage={"read": "x"}) == first
    second = write(artifacts, lineage={"read": "y"})
    assert (second.hash, second.tables, second.sequence) == (first.hash, first.tables, first.sequence + 1)
    assert artifacts.current("study", "panel")[""].lineage == {"read": "y"}
    assert len(list(artifacts.root.rglob("*.parquet"))) == 1


def test_pins_read_what_was_pinned(artifacts: Artifacts) -> None:
    """Pins research that sees a rebuilt or an added partition."""
    january, february = write(artifacts, PANEL, "2024-01"), write(artifacts, PANEL[:2], "2024-02")
    pinned = {"2024-01": january.hash}
    write(artifacts, PANEL[:1], "2024-01")
    read = lambda **more: artifacts.table("study", "panel", "panel", **more)  # noqa: E731
    assert read(pinned=pinned).equals(PANEL)
    assert read().equals(pl.concat([PANEL[:1], PANEL[:2]]))
    assert read(partitions=["2024-02", "2024-01"], pinned=pinned).equals(pl.concat([PANEL, PANEL[:2]]))
    assert read(partitions=["2024-02"], columns=["close"]).columns == ["close"]
    assert list(artifacts.current("study", "panel")) == ["2024-01", "2024-02"]
    assert artifacts.version("study", "panel", "2024-02", february.hash) == february


def test_an_older_result_can_become_current_again(artifacts: Artifacts) -> None:
    """Pins 'current' by first appearance: A, B, A must end at A."""
    first = write(artifacts)
    write(artifacts, PANEL[:1])
    assert write(artifacts).hash == first.hash
    assert Artifacts(artifacts.root).current("study", "panel")[""].hash == first.hash


def test_what_is_absent_is_named(artifacts: Artifacts) -> None:
    """Pins an empty frame where a stage never ran, a partition is missing or a name is wrong."""
    read = lambda **more: artifacts.table("study", "panel", "panel", **more)  # noqa: E731
    with pytest.raises(MissingTable, match="no partition"):
        read()
    assert artifacts.current("study", "panel") == {}
    write(artifacts, partition="2024-01")
    with pytest.raises(MissingTable, match="2024-02"):
        read(partitions=["2024-01", "2024-02"])
    with pytest.raises(MissingTable, match="version ffff"):
        read(pinned={"2024-01": "ffff"})
    with pytest.raises(MissingTable, match="table trades"):
        artifacts.table("study", "panel", "trades")
    with pytest.raises(MissingTable, match=r"file model\.onnx"):
        artifacts.file("study", "panel", "model.onnx", partition="2024-01")
    with pytest.raises(SchemaError, match="same columns"):
        read(columns=["opne"])
    write(artifacts, PANEL.drop("close"), "2024-02")
    with pytest.raises(SchemaError, match="same columns"):
        read()


@pytest.mark.parametrize("rows", [[0, 0, 1], [0, 4]], ids=["doubled", "null"])
def test_bad_keys_are_refused_and_nothing_is_written(artifacts: Artifacts, rows: list[int]) -> None:
    """Pins results with two truths for one key, whose order would be left to chance."""
    with_null = pl.concat([PANEL, PANEL[:1].with_columns(instrument=pl.lit(None, dtype=pl.String))])
    with pytest.raises(KeyViolation, match="unique and not null"):
        write(artifacts, with_null[rows])
    assert list(artifacts.root.rglob("*")) == []


def test_names_cannot_leave_the_store(artifacts: Artifacts) -> None:
    """Pins a study name that writes elsewhere."""
    with pytest.raises(BadInput, match="plain folder names"):
        artifacts.write("../study", "panel", "", {}, {}, lineage={})


def test_altered_bytes_are_refused(artifacts: Artifacts) -> None:
    """Pins serving weights, or judging a table, that someone changed on disk; file and hashes are named."""
    version = write(artifacts, files={"weights.onnx": b"trained"})
    weights = next(artifacts.root.rglob("*.onnx"))
    weights.write_bytes(b"untrained")
    with pytest.raises(Tampered) as caught:
        artifacts.file("study", "panel", "weights.onnx")
    assert version.files["weights.onnx"] in str(caught.value)
    assert caught.value.observed not in ("", version.files["weights.onnx"])
    assert artifacts.file("study", "panel", "weights.onnx", verify=False) == b"untrained"
    table = next(artifacts.root.rglob("*.parquet"))
    data = bytearray(table.read_bytes())
    data[20] ^= 1
    table.write_bytes(data)
    with pytest.raises(Tampered, match=table.name):
        artifacts.table("study", "panel", "panel", verify=True)
    table.unlink()
    with pytest.raises(Tampered, match="no file"):
        artifacts.verify(version)


def test_pruning_keeps_what_is_current_or_reached(artifacts: Artifacts) -> None:
    """Pins a prune that takes what a champion needs, or leaves the bytes of what it forgot."""
    old, kept, current = (write(artifacts, PANEL[:n], files={"n.txt": bytes([n])}) for n in (1, 2, 3))
    gone = artifacts.prune({kept.hash})
    own = {old.tables["panel"]["file"], f"files/study/panel/{old.files['n.txt']}.txt"}
    assert set(gone) == own
    for reader in (artifacts, Artifacts(artifacts.root)):
        for version in (kept, current):
            assert reader.version("study", "panel", "", version.hash) == version
            reader.verify(version)
        with pytest.raises(MissingTable, match="pruned"):
            reader.version("study", "panel", "", old.hash)
    assert artifacts.prune({kept.hash}) == []
    assert write(artifacts, PANEL[:1]).hash != old.hash
    assert artifacts.table("study", "panel", "panel").equals(PANEL[:1])


def test_a_checkpoint_changes_nothing(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pins checkpoints that differ from the fold, prunes included."""
    monkeypatch.setattr(resources.artifacts, "CHECKPOINT_EVERY", 3)
    for n in (1, 2, 1, 3):
        write(artifacts, PANEL[:n], "2024-01")
    artifacts.prune(set())
    write(artifacts, PANEL, "2024-02")
    write(artifacts, PANEL[:2], "2024-02")
    assert len(list((artifacts.root / "checkpoints").iterdir())) == 2
    fresh = Artifacts(artifacts.root)
    assert fresh.versions() == artifacts.versions()
    assert fresh.current("study", "panel") == artifacts.current("study", "panel")


def test_writers_of_many_partitions_lose_nothing(artifacts: Artifacts) -> None:
    """Pins lost updates when folds are trained at once."""
    def run(split: int) -> None:
        write(Artifacts(artifacts.root), PANEL.with_columns(close=pl.lit(float(split))), f"split_{split:02d}")

    threads = [threading.Thread(target=run, args=(split,)) for split in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(artifacts.current("study", "panel")) == [f"split_{split:02d}" for split in range(12)]
    closes = artifacts.table("study", "panel", "panel")["close"]
    assert closes.unique(maintain_order=True).to_list() == [float(split) for split in range(12)]
    assert artifacts.sweep(timedelta(0)) == []
