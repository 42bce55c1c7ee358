"""Running proofs, keeping what they found, and writing the page that publishes it. What is proved is in `proof/`.

    <home>/proof/<size>/<name>/scratch/      the proof's own folder; an interrupted one goes on there
    <home>/proof/<size>/<name>/result.json   what it found
    <home>/proof/<size>/<name>/*.png
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from assets.arguments import one_of
from assets.markdown import markdown_table
from assets.proof.contract import BROKEN, HELD, Progress, Proof, Size
from assets.proof.registry import PROOFS
from pipeline.diagnostics.finding import Finding
from pipeline.errors import BadInput
from pipeline.files import replace_if_changed
from pipeline.fingerprints import canonical_json
from pipeline.reports.html import Section

RESULT = "result.json"
BESIDE = "cpcv_bakeoff.md"  # what a benchmark measured beside other splitters, which are no dependencies of ours
SHOWN, SHOWN_MORE = 60, 15  # rows of a proof's first table on the page, and of the others; the rest is counted
PUBLISHED: Size = "full"
EVERY_SIZE: tuple[Size, ...] = ("full", "small")
HEAD = """# Proof

What the project claims, put to tests that could refute it. Every figure here comes from one command:

```
foldgate prove
```

`foldgate prove --small` puts the same code through the same tests at the size that `make test` runs, in minutes. The
table says which size a figure has, and how long the run took that ended: what an interrupted one had finished is not
made again. A proof that holds says what was tried, not that nothing else exists: the last line of each says what it
cannot see.
"""


@dataclass(frozen=True)
class Result:
    """A proof's stored finding.

    Parameters
    ----------
    said : dict
        `status`, `score`, `text`, `seconds`, `counts`, `tables` (title, columns, rows, total), `pictures` (title,
        file).
    folder : Path
        Where its pictures lie.
    """

    said: dict[str, Any]
    folder: Path


def asked_for(names: Sequence[str]) -> list[Proof]:
    """The named proofs in their order; all of them without a name.

    Raises
    ------
    BadInput
        There is no such proof.
    """
    for name in names:
        one_of("a proof", name, [proof.name for proof in PROOFS])
    return [proof for proof in PROOFS if not names or proof.name in names]


def run_proof(proof: Proof, size: Size, home: Path, progress: Progress) -> Result:
    """Run a proof and keep what it found; what an interrupted run left in its folder is used again."""
    folder = home / "proof" / size / proof.name
    work = folder / "scratch"
    work.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    found = proof.run(size, work, progress)
    if found.status not in (HELD, BROKEN):
        raise BadInput(f"a proof is {HELD} or {BROKEN}", f"{proof.name}: {found.status}", "correct the proof")
    result = _kept(folder, found, round(time.perf_counter() - started, 1))
    shutil.rmtree(work)
    return result


def _kept(folder: Path, found: Finding, seconds: float) -> Result:
    pictures = {f"{proof_file(title)}.png": draw() for title, draw in found.figures.items()}
    for name, data in pictures.items():
        replace_if_changed(folder / name, data)
    said = {
        "status": found.status,
        "score": found.score,
        "text": found.text,
        "seconds": seconds,
        "counts": dict(found.counts),
        "tables": [_table(name, frame) for name, frame in found.tables.items()],
        "pictures": list(zip(found.figures, pictures, strict=True)),
    }
    replace_if_changed(folder / RESULT, canonical_json(said).encode())
    return Result(json.loads(canonical_json(said)), folder)


def _table(name: str, frame: pl.DataFrame) -> dict[str, Any]:
    rows = [list(row) for row in frame.head(SHOWN).rows()]
    return {"title": name, "columns": frame.columns, "rows": rows, "total": len(frame)}


def proof_file(title: str) -> str:
    """A title as a file name."""
    return "_".join("".join(c if c.isalnum() else " " for c in title.lower()).split())


def held(home: Path, size: Size, proof: Proof) -> Result | None:
    """What a proof found last; None where it never ran to its end."""
    folder = home / "proof" / size / proof.name
    path = folder / RESULT
    return Result(json.loads(path.read_bytes()), folder) if path.exists() else None


def write_page(home: Path, sizes: Sequence[Size], target: Path) -> None:
    """The page of every proof at the first of the sizes that ran, its pictures beside it in a folder of its name."""
    results = {proof.name: _newest(home, sizes, proof) for proof in PROOFS}
    rows = [
        (f"[{proof.title}](#{anchor(proof.title)})", *_summary(proof, found))
        for proof, found in ((proof, results[proof.name]) for proof in PROOFS)
    ]
    lines = [HEAD, *markdown_table(["claim", "outcome", "figure", "which is", "size", "took"], rows)]
    for proof in PROOFS:
        lines += _section(proof, results[proof.name], target)
    beside = target.with_suffix("") / BESIDE
    if beside.exists():
        lines += ["", beside.read_text(encoding="utf-8")]
    replace_if_changed(target, ("\n".join(lines).rstrip() + "\n").encode())


def _newest(home: Path, sizes: Sequence[Size], proof: Proof) -> Result | None:
    return next((found for size in sizes if (found := held(home, size, proof)) is not None), None)


def anchor(title: str) -> str:
    """A heading as a link on the page names it."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def _summary(proof: Proof, found: Result | None) -> tuple[object, ...]:
    if found is None:
        return ("not run",)
    said = found.said
    return said["status"], said["score"], proof.figure, found.folder.parent.name, f"{said['seconds']:.0f} s"


def _section(proof: Proof, found: Result | None, target: Path) -> list[str]:
    lines = ["", f"## {proof.title}", "", proof.claims]
    if found is None:
        return [*lines, "", f"Not run: `foldgate prove {proof.name}`."]
    lines += ["", f"**{found.said['status']}.** {found.said['text']}"]
    for title, name in found.said["pictures"]:
        copy = target.with_suffix("") / f"{proof.name}_{name}"
        replace_if_changed(copy, (found.folder / name).read_bytes())
        lines += ["", f"![{title}]({target.stem}/{copy.name})"]
    for i, table in enumerate(found.said["tables"]):
        lines += ["", f"{table['title']}:", "", *markdown(table, SHOWN if i == 0 else SHOWN_MORE)]
    return [*lines, "", f"*What it cannot see:* {proof.cannot_see}"]


def markdown(table: dict[str, Any], most: int = SHOWN) -> list[str]:
    """Lines of a stored table; rows that are not shown are counted."""
    rows = table["rows"][:most]
    lines = markdown_table(table["columns"], rows)
    left = table["total"] - len(rows)
    return [*lines, "", f"… and {left} rows more."] if left > 0 else lines


def proof_section(home: Path) -> Section | None:
    """Which proofs ran in this home and what they said, for the report; None where none did."""
    rows = []
    for proof in PROOFS:
        found = _newest(home, EVERY_SIZE, proof)
        if found is not None:
            size, said = found.folder.parent.name, found.said
            figure = {"figure": said["score"], "which is": proof.figure}
            rows.append({"claim": proof.title, "size": size, "outcome": said["status"], **figure})
    words = "What the checks can catch, measured; docs/proof.md says what each cannot see."
    return Section("Proof", words, tables={"proofs": pl.DataFrame(rows)}) if rows else None
