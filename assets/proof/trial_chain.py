"""A ledger changed in every way at every row; whether reading it, or the head anchored elsewhere, says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.errors import Tampered
from pipeline.fingerprints import canonical_json, hash_bytes
from pipeline.gates.ledger import Ledger

Files = dict[str, bytes]
Change = Callable[[Files, int], Files]
REGIONS = 8


def tampered(root: Path) -> pl.DataFrame:
    """One row a kind of change: at how many rows it was tried, and how often it was detected.

    Parameters
    ----------
    root : Path
        Folder of a ledger of at least two rows; it is as before when this returns.
    """
    anchor, held = Ledger(root).head(), _held(root)
    rows = []
    for kind, change in _changes():
        tried = detected = 0
        for number in range(1, len(held) + 1):
            changed = change(dict(held), number)
            if changed == held:
                continue  # the newest row has no next one
            _put(root, held, changed)
            tried, detected = tried + 1, detected + _seen(root, anchor)
            _put(root, changed, held)
        rows.append({"change": kind, "rows tried": tried, "detected": detected})
    Ledger(root).verify(anchor)
    return pl.DataFrame(rows)


def _seen(root: Path, anchor: str) -> bool:
    try:
        Ledger(root).verify(anchor)
    except Tampered:
        return True
    return False


def _held(root: Path) -> Files:
    return {path.name: path.read_bytes() for path in sorted(root.glob("[0-9]*.json"))}


def _put(root: Path, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> None:
    for name in before.keys() - after.keys():
        (root / name).unlink()
    for name, data in after.items():
        if before.get(name) != data:
            (root / name).write_bytes(data)


def _name(number: int) -> str:
    return f"{number:06d}.json"


def _changes() -> Iterator[tuple[str, Change]]:
    yield "row removed", _removed
    yield "row removed, those after it moved up", lambda held, at: _without(held, at)
    yield "row removed, those after it chained anew", lambda held, at: _chained(_without(held, at), at)
    yield "tail cut from the row on", _cut
    yield "two rows swapped", _swapped
    yield "row doubled", _doubled
    yield "rows emptied", lambda held, at: held | {_name(at): b""}
    yield "field added", lambda held, at: _with(held, at, lambda row: row | {"note": "x"})
    for field, value in (("sharpe", 0.0), ("returns", [0.0, 0.0]), ("label", "x"), ("rows", "x"), ("identity", "x")):
        def edit(held: Files, at: int, field: str = field, value: Any = value) -> Files:
            return _with(held, at, lambda row: row | {"body": row["body"] | {field: value}})

        def forged(held: Files, at: int, edit: Change = edit) -> Files:
            return _chained(edit(held, at), at)

        yield f"{field} edited", edit
        yield f"{field} edited, the row and those after it chained anew", forged
    for region in range(REGIONS):
        yield f"a bit flipped, region {region + 1} of {REGIONS}", lambda held, at, i=region: held | {
            _name(at): _flip(held[_name(at)], (2 * i + 1) / (2 * REGIONS))
        }  # fmt: skip


def _removed(held: Files, at: int) -> Files:
    return {name: data for name, data in held.items() if name != _name(at)}


def _without(held: Files, at: int) -> Files:
    kept = [data for name, data in held.items() if name != _name(at)]
    return {_name(number): data for number, data in enumerate(kept, start=1)}


def _cut(held: Files, at: int) -> Files:
    return {name: data for name, data in held.items() if name < _name(at)}


def _swapped(held: Files, at: int) -> Files:
    here, there = _name(at), _name(at + 1)
    return held | {here: held[there], there: held[here]} if there in held else held


def _doubled(held: Files, at: int) -> Files:
    """The row once more at the end, in the folder's numbering."""
    return held | {_name(len(held) + 1): held[_name(at)]}


def _with(held: Files, at: int, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Files:
    return held | {_name(at): canonical_json(change(json.loads(held[_name(at)]))).encode() + b"\n"}


def _flip(data: bytes, share: float) -> bytes:
    at = int(share * (len(data) - 1))  # the last byte ends the line
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _chained(held: Files, first: int) -> Files:
    """Numbers, links and hashes made right again from a row on, as anyone can who knows the format."""
    rows = [json.loads(held[name]) for name in sorted(held)]
    for i in range(first - 1, len(rows)):
        rows[i]["number"], rows[i]["before"] = i + 1, rows[i - 1]["hash"] if i else "0" * 64
        kept = {name: rows[i][name] for name in ("number", "before", "body")}
        rows[i]["hash"] = hash_bytes(canonical_json(kept).encode())
    return {_name(i): canonical_json(row).encode() + b"\n" for i, row in enumerate(rows, start=1)}
