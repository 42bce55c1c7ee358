"""Files that appear whole or not at all, also under a kill or a power cut. What they mean is their owners' business."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_synced(path: Path, data: bytes) -> None:
    """Write and sync; not atomic by itself."""
    with path.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def sync(path: Path) -> None:
    """Make a file's bytes, or the names inside a folder, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def create_once(path: Path, data: bytes, writer: str = "") -> bool:
    """Create a file exclusively; False when the name is taken already.

    Writers that race name themselves. A folder's one writer does not, so that a killed try leaves nothing behind
    that the next one does not overwrite.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}{writer}.tmp")
    write_synced(temporary, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)
    return True


def replace_if_changed(path: Path, data: bytes) -> None:
    """Replace a derived file in one rename; a file that is right already is not touched."""
    if path.exists() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    write_synced(temporary, data)
    temporary.replace(path)
    sync(path.parent)


@contextmanager
def one_writer(root: Path) -> Iterator[None]:
    """Hold the folder's lock, so that temporary names and derived files have one writer; a kill releases it."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("wb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
