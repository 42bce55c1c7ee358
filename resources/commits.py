"""The commit log under both stores: immutable files, and numbered entries that say which of them count.

What an entry means is the business of `lake.py` and `artifacts.py`. A commit is the exclusive creation of the
next numbered entry, complete from its first visible byte, so readers never see half of one and two writers
cannot both win. Files of a writer that died belong to no entry and are swept.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from pipeline.clock import Clock, SystemClock
from pipeline.errors import BadInput, LakeConflict, Tampered
from pipeline.files import sync, write_synced
from pipeline.fingerprints import canonical_json, hash_file

DIGITS = 12
TEMPORARY = ".writing-"
# A reader that starts cold replays at most this many entries on top of a checkpoint (about 40 us each).
CHECKPOINT_EVERY = 256


class CommitLog:
    """Numbered entries under `log/`, content-addressed files under `files/`.

    Parameters
    ----------
    root : Path
        Folder of the store; made at the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._log = self.root / "log"
        self._checkpoints = self.root / "checkpoints"
        self._files = self.root / "files"
        self._seen = 0

    def head(self) -> int:
        """Number of the newest commit; 0 for an empty store."""
        seen = self._seen or max(_numbers(self._log), default=0)
        while self._entry(seen + 1).exists():
            seen += 1
        self._seen = seen
        return seen

    def entries(self, after: int, until: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Entries with `after < number <= until`, in order."""
        for number in range(after + 1, until + 1):
            try:
                yield number, json.loads(self._entry(number).read_bytes())
            except FileNotFoundError:
                raise Tampered("the commit log must have no gaps", self._entry(number),
                               "restore the missing entry; the commits after it build on it") from None

    def commit(self, number: int, entry: Mapping[str, object]) -> None:
        """Create entry `number`, or nothing.

        Raises
        ------
        LakeConflict
            Another writer created this number first.
        """
        if number != 1 and not self._entry(number - 1).exists():
            raise BadInput("a commit takes the number after the newest one", number, f"use {self.head() + 1}")
        temporary = self._temporary(self._log)
        try:
            write_synced(temporary, canonical_json(entry).encode())
            os.link(temporary, self._entry(number))
        except FileExistsError:
            raise LakeConflict("a commit number can be taken once", number,
                               "read the head again and retry") from None
        finally:
            temporary.unlink(missing_ok=True)
        sync(self._log)

    def store(self, folder: str, suffix: str, write: Callable[[Path], object]) -> tuple[str, str]:
        """Keep what `write` puts into the path it is given, under the hash of its bytes.

        Returns
        -------
        tuple of str
            The path relative to the store's root, and the sha256 that is also the file's name.
        """
        temporary = self._temporary(self._files / folder)
        try:
            write(temporary)
            sync(temporary)
            digest = hash_file(temporary)
            final = temporary.parent / f"{digest}{suffix}"
            os.replace(temporary, final)
        finally:
            temporary.unlink(missing_ok=True)
        sync(final.parent)
        return final.relative_to(self.root).as_posix(), digest

    def save_checkpoint(self, number: int, state: object) -> None:
        """Keep the fold of entries 1..`number`; a convenience that may be deleted at any time."""
        temporary = self._temporary(self._checkpoints)
        try:
            write_synced(temporary, json.dumps({"number": number, "state": state}).encode())
            os.replace(temporary, self._checkpoints / f"{number:0{DIGITS}d}.json")
        finally:
            temporary.unlink(missing_ok=True)

    def load_checkpoint(self, until: int) -> tuple[int, Any] | None:
        """The newest whole checkpoint at or before commit `until`."""
        for number in sorted((n for n in _numbers(self._checkpoints) if n <= until), reverse=True):
            try:
                kept = json.loads((self._checkpoints / f"{number:0{DIGITS}d}.json").read_bytes())
            except (FileNotFoundError, ValueError):
                continue
            return kept["number"], kept["state"]
        return None

    def sweep(
        self, referenced: Callable[[], Collection[str]], older_than: timedelta, clock: Clock | None = None
    ) -> list[str]:
        """Delete what no commit reaches: files of writers that died, and unfinished temporary files.

        Parameters
        ----------
        referenced : callable
            Paths, relative to the root, that must stay; asked after the old files were listed, so that none
            committed meanwhile is lost.
        older_than : timedelta
            Age below which a file may still be on its way into a commit.

        Returns
        -------
        list of str
            Paths deleted, relative to the root.
        """
        limit = ((clock or SystemClock()).now() - older_than).timestamp()
        unfinished = [*self._log.glob(f"{TEMPORARY}*"), *self._checkpoints.glob(f"{TEMPORARY}*")]
        old = [path for path in [*self._files.rglob("*"), *unfinished]
               if path.is_file() and path.stat().st_mtime <= limit]
        keep = set(referenced())
        loose = {path.relative_to(self.root).as_posix(): path for path in old}
        return sorted(name for name, path in loose.items() if name not in keep and _discard(path, limit))

    def verify(self, file: str) -> None:
        """Refuse a file whose bytes no longer hash to its name."""
        path = self.root / file
        expected = path.stem
        observed = hash_file(path) if path.exists() else "no file"
        if observed != expected:
            raise Tampered(f"{file} must hash to {expected}", observed,
                           "restore the file from a copy, or rebuild it")

    def _entry(self, number: int) -> Path:
        return self._log / f"{number:0{DIGITS}d}.json"

    def _temporary(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{TEMPORARY}{os.getpid()}-{uuid.uuid4().hex}"


def _numbers(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return [int(name[:DIGITS]) for name in os.listdir(folder) if name[:DIGITS].isdigit()]


def _discard(path: Path, limit: float) -> bool:
    """Move aside, look again, delete: a writer may have put the same content back since the age was read."""
    aside = path.with_name(f"{TEMPORARY}swept-{uuid.uuid4().hex}")
    os.rename(path, aside)
    if aside.stat().st_mtime > limit:
        os.rename(aside, path)
        return False
    aside.unlink()
    return True
