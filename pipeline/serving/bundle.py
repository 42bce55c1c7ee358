"""Bundles: everything needed to score live, in a folder named by the hash of its contents.

ONNX, LightGBM text, JSON and Parquet only, so that loading one cannot run code. What the files compute is
`infer`'s business; who may serve is decided in `pipeline.gates`.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from llvmlite.binding import get_host_cpu_name  # type: ignore[import-untyped]

from pipeline.calibration.calibrators import Calibrators
from pipeline.errors import BadInput, Tampered
from pipeline.files import one_writer, sync, write_synced
from pipeline.fingerprints import canonical_json, hash_bytes
from pipeline.labels.spec import HeadSpec
from pipeline.models.prepared import Reads
from pipeline.models.scoring import MEMBER_FILE, Card, Scorer, load_member
from pipeline.models.spec import Layout
from pipeline.positions.manager_spec import ManagerConfig
from pipeline.positions.policy import Policy
from pipeline.serving.parts import Part, read_parts, require_mean
from pipeline.serving.selecting import Selector, selector

FORMAT = 2
MANIFEST = "manifest.json"
STUDY, POLICY, ENSEMBLE = "study.json", "policy.json", "ensemble.json"
SUFFIXES = (".json", ".onnx", ".txt", ".parquet")
LIBRARIES = ("numpy", "numba", "polars", "onnxruntime", "lightgbm")
GIVEN = ("schema", "schema_hash", "weights", "lineage")


@dataclass(frozen=True)
class Bundle:
    """A verified bundle, in memory: what was hashed is what is used.

    Parameters
    ----------
    hash : str
        sha256 of the manifest, which names the sha256 of every file.
    manifest : dict
        What was given to `write_bundle`, and `files`, `runtime`, `format`.
    files : dict
        Name -> bytes.
    """

    hash: str
    manifest: dict[str, Any]
    files: dict[str, bytes]

    def part_files(self, part: Part) -> dict[str, bytes]:
        """A part's files, named as its training named them."""
        prefix = part.file("")
        return {file.removeprefix(prefix): data for file, data in self.files.items() if file.startswith(prefix)}

    @property
    def window(self) -> int:
        """Sessions of features that scoring one session reads: the largest of the parts' windows."""
        return max(layout.sessions for layout in self._layouts)

    @cached_property
    def reads(self) -> Reads:
        """What the parts want beside the features."""
        normalisers = [scorer.normaliser for scorer in self.scorers.values()]
        minutes = next((known for known in normalisers if known.bars), normalisers[0])
        categories = dict.fromkeys(name for layout in self._layouts for name in layout.categories)
        return Reads(minutes.channels, minutes.bars, tuple(categories))

    @cached_property
    def _layouts(self) -> list[Layout]:
        return [Card.from_json(self.files[part.file(MEMBER_FILE)]).layout for part in self.parts]

    @cached_property
    def study(self) -> dict[str, Any]:
        """The study as plain JSON."""
        return json.loads(self.files[STUDY])

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """In the order in which they are averaged, the ensemble's: float sums depend on it."""
        return read_parts(self.files[ENSEMBLE])

    @property
    def weights(self) -> tuple[float, ...]:
        """What each part weighs, in order; they sum to 1."""
        return tuple(part.weight for part in self.parts)

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        return tuple(HeadSpec.model_validate(head) for head in self.study["labels"]["heads"])

    @cached_property
    def selector(self) -> Selector:
        """How predictions become orders."""
        return selector(self.study, self.files[POLICY])

    @property
    def policy(self) -> Policy | ManagerConfig:
        return self.selector.policy

    @property
    def row_key(self) -> tuple[str, ...]:
        """Key of panel, features and predictions."""
        return self.selector.key

    @cached_property
    def scorers(self) -> dict[str, Scorer]:
        """Part's name -> its serving form; models are read once per bundle."""
        return {part.name: load_member(self.part_files(part)) for part in self.parts}

    @cached_property
    def calibrators(self) -> dict[str, Calibrators]:
        return {part.name: Calibrators.from_json(self.files[part.calibrators]) for part in self.parts}

    def runtime_changes(self) -> dict[str, tuple[Any, Any]]:
        """What differs between the recorded runtime and this one: name -> (then, now).

        Scores are promised bit for bit only where this is empty.
        """
        then, now = self.manifest["runtime"], _runtime(self.files)
        return {name: (then.get(name), now.get(name)) for name in sorted(then | now) if then.get(name) != now.get(name)}


def write_bundle(root: Path, files: Mapping[str, bytes], manifest: Mapping[str, Any]) -> Bundle:
    """Write a bundle under the hash of its contents; writing the same one again changes nothing.

    Parameters
    ----------
    root : Path
        Folder of all bundles.
    files : mapping
        `study.json`, `policy.json`, `ensemble.json` (of `ensemble_file`), and per part of it
        `members/<member>@<split>/...` and `calibrators/<member>@<split>.json`.
    manifest : mapping
        At least `schema`, `schema_hash`, `lineage` and `weights` (part -> file -> sha256 that the training
        run recorded). The runtime of this process is added.

    Raises
    ------
    BadInput
        A file or field is absent, a name is not allowed, or the parts' weights make no mean.
    Tampered
        A part's file is not what its training recorded, or the bundle on disk is damaged.
    """
    _require_names(files)
    _require_whole(files, manifest)
    body = {
        **manifest,
        "files": {name: hash_bytes(data) for name, data in sorted(files.items())},
        "runtime": _runtime(files),
        "format": FORMAT,
    }
    text = canonical_json(body).encode()
    _require_trained(json.loads(text))
    digest = hash_bytes(text)
    with one_writer(root):
        if not (root / digest).exists():
            _write_folder(root, digest, {**files, MANIFEST: text})
    return load_bundle(root, digest)


def load_bundle(root: Path, hash: str) -> Bundle:
    """Read a bundle, verifying every file.

    Raises
    ------
    BadInput
        No such bundle, or one of another format.
    Tampered
        A file is changed, absent or unexpected; named with both hashes.
    """
    folder = root / hash
    if not re.fullmatch(r"[0-9a-f]{64}", hash) or not folder.is_dir():
        raise BadInput("a bundle is loaded by its full hash", hash, "write it again, or restore the bundles folder")
    manifest = _verified_manifest(folder, hash)
    if manifest.get("format") != FORMAT:
        raise BadInput(
            f"a bundle has format {FORMAT}", manifest.get("format"), "load it with the version that wrote it"
        )
    expected = manifest["files"]
    found = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_symlink() or not p.is_dir()}
    found.pop(MANIFEST)
    for name in sorted(expected.keys() | found.keys()):
        if name not in found or name not in expected or found[name].is_symlink():
            _tampered(
                name,
                expected.get(name, "no such file"),
                "a link"
                if name in found and found[name].is_symlink()
                else "an extra file"
                if name in found
                else "absent",
            )
    files = {name: path.read_bytes() for name, path in found.items()}
    for name, data in files.items():
        if hash_bytes(data) != expected[name]:
            _tampered(name, expected[name], hash_bytes(data))
    _require_names(files)
    _require_trained(manifest)
    return Bundle(hash, manifest, files)


def _verified_manifest(folder: Path, hash: str) -> dict[str, Any]:
    path = folder / MANIFEST
    if path.is_symlink():
        _tampered(MANIFEST, "a file", "a link")
    text = path.read_bytes() if path.is_file() else b""
    if hash_bytes(text) != hash:
        _tampered(MANIFEST, hash, hash_bytes(text) if text else "absent")
    return json.loads(text)


def _tampered(name: str, expected: str, observed: str) -> None:
    raise Tampered(
        "every file of a bundle hashes to what its manifest records",
        f"{name}: expected {expected}, observed {observed}",
        "restore the bundle from a backup, or refit the candidate",
    )


def _require_names(files: Mapping[str, bytes]) -> None:
    """Plain relative names, and formats that hold no code: no pickle can enter or be loaded."""
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or path.as_posix() != name or ".." in path.parts or name == MANIFEST:
            raise BadInput("a bundle's files have plain relative names", name, "name them as in the ensemble's parts")
        if path.suffix not in SUFFIXES:
            raise BadInput(
                f"a bundle's files end in {', '.join(SUFFIXES)}",
                name,
                "export the model; pickle is never read",
            )


def _require_whole(files: Mapping[str, bytes], manifest: Mapping[str, Any]) -> None:
    absent = [name for name in (STUDY, POLICY, ENSEMBLE) if name not in files]
    parts = () if absent else read_parts(files[ENSEMBLE])
    absent += [file for part in parts for file in (part.file(MEMBER_FILE), part.calibrators) if file not in files]
    absent += [f"manifest field {name}" for name in GIVEN if name not in manifest]
    if absent:
        raise BadInput("a bundle holds all that serving needs", f"absent: {absent}", "pack the whole candidate")
    require_mean(parts, manifest["weights"])


def _require_trained(manifest: Mapping[str, Any]) -> None:
    """Every part's file is the one that its training run recorded: untrained weights cannot be served."""
    recorded = {
        f"members/{part}/{file}": digest
        for part, files in manifest["weights"].items()
        for file, digest in files.items()
    }
    packed = {name: digest for name, digest in manifest["files"].items() if name.startswith("members/")}
    for name in sorted(recorded.keys() | packed.keys()):
        if recorded.get(name) != packed.get(name):
            raise Tampered(
                "a part's files are those that its training run recorded",
                f"{name}: expected {recorded.get(name)}, observed {packed.get(name)}",
                "refit the candidate",
            )


def _write_folder(root: Path, digest: str, files: Mapping[str, bytes]) -> None:
    """Beside, synced, then one rename. The caller holds the lock, so any leftover is a dead writer's."""
    for leftover in root.glob(".*.tmp"):
        shutil.rmtree(leftover)
    folder = root / f".{digest}.tmp"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_synced(folder / name, data)
    for inner in (folder, *(p for p in folder.rglob("*") if p.is_dir())):
        sync(inner)
    folder.rename(root / digest)
    sync(root)


def _runtime(files: Mapping[str, bytes]) -> dict[str, Any]:
    """What a score's bits depend on besides the files."""
    from pipeline.models.onnx_runtime import PROVIDERS, THREADS  # onnxruntime takes 0.2 s to import

    cards = {name: Card.from_json(data) for name, data in files.items() if name.endswith(f"/{MEMBER_FILE}")}
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "cpu": get_host_cpu_name(),
        "threads": THREADS,
        "providers": list(PROVIDERS),
        "batch": {card.name: card.serving_batch for card in cards.values()},
        **{name: version(name) for name in LIBRARIES},
    }
