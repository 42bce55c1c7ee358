"""Bundles: the hash is the content, every damage is named, and a killed write leaves nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.calibration.calibrators import Calibrators
from pipeline.errors import BadInput, Tampered
from pipeline.fingerprints import canonical_json, hash_bytes
from pipeline.models.scoring import Card
from pipeline.models.spec import Layout
from pipeline.positions.policy import Policy
from pipeline.serving.bundle import MANIFEST, load_bundle, write_bundle
from pipeline.serving.parts import Part, ensemble_file

REPOSITORY = Path(__file__).parents[2]
PARTS = (Part("net", "a", 0.75), Part("linear", "b", 0.25))


def files() -> dict[str, bytes]:
    """Two members that nobody trained; writing and loading read no more of them than their cards."""
    found = {
        "study.json": canonical_json({"name": "small"}).encode(),
        "ensemble.json": ensemble_file(PARTS, {}),
        "policy.json": canonical_json(Policy(top_k=10, alpha="rank_pred")).encode(),
    }
    for part, window in zip(PARTS, (20, 1), strict=True):
        found[part.file("member.json")] = Card(part.member, "linear", (), Layout(window=window), 64).to_json()
        found[part.file("model.onnx")] = f"weights of {part.name}".encode()
        found[part.calibrators] = Calibrators(()).to_json()
    return found


def manifest(packed: dict[str, bytes]) -> dict[str, Any]:
    weights: dict[str, dict[str, str]] = {part.name: {} for part in PARTS}
    for name, data in packed.items():
        if name.startswith("members/"):
            _, member, file = name.split("/", 2)
            weights[member][file] = hash_bytes(data)
    return {"schema": ["f0"], "schema_hash": "0", "weights": weights, "lineage": {"ledger_head": "0"}}


def folder_bytes(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_name_is_the_content(tmp_path: Path) -> None:
    """Pins a hash that depends on the order of a dict, and a second write that touches the first."""
    packed = files()
    first = write_bundle(tmp_path, packed, manifest(packed))
    before = folder_bytes(tmp_path)
    backwards = dict(reversed(packed.items()))
    assert write_bundle(tmp_path, backwards, dict(reversed(manifest(packed).items()))).hash == first.hash
    assert folder_bytes(tmp_path) == before
    assert first.hash == hash_bytes((tmp_path / first.hash / MANIFEST).read_bytes())
    assert load_bundle(tmp_path, first.hash).files == packed


@pytest.mark.parametrize("change", ["file", "lineage", "policy"])
def test_any_other_content_has_another_name(change: str, tmp_path: Path) -> None:
    """Pins two bundles that share an address: one of them would be served as the other."""
    packed = files()
    first = write_bundle(tmp_path, packed, manifest(packed))
    if change == "file":
        packed["members/net@a/model.onnx"] += b"!"
    elif change == "policy":
        packed["policy.json"] = canonical_json(Policy(top_k=9, alpha="rank_pred")).encode()
    described = manifest(packed) | ({"lineage": {"ledger_head": "1"}} if change == "lineage" else {})
    assert write_bundle(tmp_path, packed, described).hash != first.hash


def test_what_a_bundle_says_of_itself(tmp_path: Path) -> None:
    """Pins the window (largest part's), parts in the ensemble's order, and the runtime record."""
    packed = files()
    bundle = write_bundle(tmp_path, packed, manifest(packed))
    assert (bundle.window, bundle.parts, bundle.weights) == (20, PARTS, (0.75, 0.25))
    assert bundle.part_files(PARTS[0]) == {
        "member.json": packed["members/net@a/member.json"], "model.onnx": b"weights of net@a"
    }  # fmt: skip
    assert bundle.manifest["files"] == {name: hash_bytes(data) for name, data in packed.items()}
    runtime = bundle.manifest["runtime"]
    assert runtime["batch"] == {"linear": 64, "net": 64}
    assert (runtime["threads"], runtime["providers"]) == (1, ["CPUExecutionProvider"])
    assert {"numpy", "polars", "onnxruntime", "lightgbm", "python", "cpu", "machine"} <= runtime.keys()
    assert bundle.manifest["format"] == 2


def test_another_runtime_is_named(tmp_path: Path) -> None:
    """Pins a library update under a champion: its scores are no longer promised bit for bit."""
    packed = files()
    bundle = write_bundle(tmp_path, packed, manifest(packed))
    assert bundle.runtime_changes() == {}
    now = bundle.manifest["runtime"]["numpy"]
    bundle.manifest["runtime"] |= {"numpy": "1.26.4", "gpu": "none"}
    assert bundle.runtime_changes() == {"gpu": ("none", None), "numpy": ("1.26.4", now)}


@pytest.mark.parametrize("name", [*files(), MANIFEST])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_every_damaged_file_is_named_at_load(name: str, damage: str, tmp_path: Path) -> None:
    """Pins a file that is not verified: one flipped bit of any file, and any file cut or gone."""
    packed = files()
    bundle = write_bundle(tmp_path, packed, manifest(packed))
    path = tmp_path / bundle.hash / name
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data[:-1] + (bytes([data[-1] ^ 1]) if damage == "flip" else b""))
    observed = "absent" if damage == "remove" else hash_bytes(path.read_bytes())
    expected = bundle.hash if name == MANIFEST else hash_bytes(data)
    with pytest.raises(Tampered, match=f"{name}: expected {expected}, observed {observed}"):
        load_bundle(tmp_path, bundle.hash)
    with pytest.raises(Tampered):
        write_bundle(tmp_path, packed, manifest(packed))


@pytest.mark.parametrize(
    "extra", ["model.pkl", "members/net@a/extra.json", ".hidden", "members/net@a/link.onnx", "link"]
)
def test_an_unexpected_file_is_refused(extra: str, tmp_path: Path) -> None:
    """Pins files smuggled beside the hashed ones, links included."""
    packed = files()
    bundle = write_bundle(tmp_path, packed, manifest(packed))
    path = tmp_path / bundle.hash / extra
    if "link" in extra:
        path.symlink_to(tmp_path if extra == "link" else path.with_name("model.onnx"))
    else:
        path.write_bytes(b"x")
    with pytest.raises(Tampered, match=f"{extra}: expected no such file"):
        load_bundle(tmp_path, bundle.hash)


@pytest.mark.parametrize("name", ["members/net@a/model.onnx", MANIFEST])
def test_a_link_in_place_of_a_file_is_refused(name: str, tmp_path: Path) -> None:
    """Pins a file that lies outside its bundle, where it can be changed after it was verified."""
    packed = files()
    bundle = write_bundle(tmp_path, packed, manifest(packed))
    path = tmp_path / bundle.hash / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Tampered, match="observed a link"):
        load_bundle(tmp_path, bundle.hash)


def test_a_consistent_forgery_has_another_address(tmp_path: Path) -> None:
    """Pins a manifest rewritten to fit a changed file: the folder's name no longer is its hash."""
    packed = files()
    bundle = write_bundle(tmp_path, packed, manifest(packed))
    folder = tmp_path / bundle.hash
    (folder / "policy.json").write_bytes(b"{}")
    forged = json.loads((folder / MANIFEST).read_text())
    forged["files"]["policy.json"] = hash_bytes(b"{}")
    (folder / MANIFEST).write_text(canonical_json(forged))
    with pytest.raises(Tampered, match=MANIFEST):
        load_bundle(tmp_path, bundle.hash)


@pytest.mark.parametrize(
    "name", ["model.pkl", "model.pt", "model", "a/../b.json", "/a.json", "a//b.json", "./a.json", MANIFEST]
)
def test_names_and_formats_that_may_not_enter(name: str, tmp_path: Path) -> None:
    """Pins pickles, formats that can hold code, and names that leave the folder."""
    packed = files()
    with pytest.raises(BadInput, match="a bundle's files"):
        write_bundle(tmp_path, packed | {name: b"x"}, manifest(packed))
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize(
    "absent", ["study.json", "policy.json", "ensemble.json", "members/net@a/member.json", "calibrators/net@a.json"]
)
def test_a_bundle_is_whole(absent: str, tmp_path: Path) -> None:
    """Pins a bundle that promotes and then cannot serve."""
    packed = files()
    del packed[absent]
    with pytest.raises(BadInput, match=absent):
        write_bundle(tmp_path, packed, manifest(packed))


@pytest.mark.parametrize("field", ["schema", "schema_hash", "weights", "lineage"])
def test_a_manifest_is_whole(field: str, tmp_path: Path) -> None:
    """Pins a bundle without schema or lineage."""
    packed = files()
    described = manifest(packed)
    del described[field]
    with pytest.raises(BadInput, match=f"manifest field {field}"):
        write_bundle(tmp_path, packed, described)


@pytest.mark.parametrize(
    ("parts", "rule"),
    [
        ((), "each once"),
        (PARTS[:1], "each once"),
        ((*PARTS, PARTS[0]), "each once"),
        ((replace(PARTS[0], weight=0.7), PARTS[1]), "sum to 1"),
        ((replace(PARTS[0], weight=1.25), replace(PARTS[1], weight=-0.25)), "sum to 1"),
    ],
)
def test_an_ensemble_is_a_mean_of_what_was_trained(parts: tuple[Part, ...], rule: str, tmp_path: Path) -> None:
    """Pins a model packed and never averaged, one that counts twice, and scores outside of what members said."""
    packed = files()
    described = manifest(packed)
    with pytest.raises(BadInput, match=rule):
        write_bundle(tmp_path, packed | {"ensemble.json": ensemble_file(parts, {})}, described)


@pytest.mark.parametrize("change", ["other weights", "unrecorded file", "file left out"])
def test_weights_are_those_that_the_training_recorded(change: str, tmp_path: Path) -> None:
    """Pins a published system that served untrained weights for 12 days."""
    packed = files()
    described = manifest(packed)
    if change == "other weights":
        packed["members/net@a/model.onnx"] = b"random weights"
    elif change == "unrecorded file":
        packed["members/net@a/more.onnx"] = b"x"
    else:
        del packed["members/net@a/model.onnx"]
    with pytest.raises(Tampered, match="training run recorded"):
        write_bundle(tmp_path, packed, described)
    assert not [path for path in tmp_path.glob("*") if path.name != ".lock"]


@pytest.mark.parametrize("hash", ["", "..", "0" * 63, "0" * 64, "../" + "0" * 61])
def test_only_full_hashes_of_bundles_are_loaded(hash: str, tmp_path: Path) -> None:
    """Pins a path in place of a hash, and the message when a bundle was removed."""
    with pytest.raises(BadInput, match="full hash"):
        load_bundle(tmp_path, hash)


KILLED = """
import os, pathlib, signal, sys
from pipeline.serving.bundle import write_bundle
from tests.serving.test_bundle import files, manifest
pathlib.Path.rename = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
packed = files()
write_bundle(pathlib.Path(sys.argv[1]), packed, manifest(packed))
"""


def test_a_killed_write_leaves_no_bundle(tmp_path: Path) -> None:
    """Pins half a bundle under its final name, litter that stays, and a lock that outlives its holder."""
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=REPOSITORY, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.suffix for path in tmp_path.iterdir() if path.is_dir()] == [".tmp"]
    packed = files() | {"calibrators/other.json": b"[]"}
    bundle = write_bundle(tmp_path, packed, manifest(packed))
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [bundle.hash]


WRITER = """
import pathlib, sys
from pipeline.serving.bundle import write_bundle
from tests.serving.test_bundle import files, manifest
packed = files()
for i in range(20):
    described = manifest(packed) | {"lineage": {"ledger_head": str(i)}}
    write_bundle(pathlib.Path(sys.argv[1]), packed, described)
"""


def test_two_processes_write_the_same_bundles(tmp_path: Path) -> None:
    """Pins a writer that removes the other's half-written folder, or fails because it was second."""
    running = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], cwd=REPOSITORY) for _ in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    names = [path.name for path in tmp_path.iterdir() if path.is_dir()]
    assert len([load_bundle(tmp_path, name) for name in names]) == 20
