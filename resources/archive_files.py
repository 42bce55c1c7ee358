"""A published ZIP of one CSV: is it what its checksum says, and is it safe to unpack. Bytes only, no network.

Nothing is ever unpacked to disk; a member that would leave its folder is refused all the same, because a file that
tries is not the vendor's.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path

from pipeline.errors import BrokenArchive

# A month of one-minute candles is 7 MB of text, and a day's shrinks threefold; rows that differ in their times only
# shrink more, but nowhere near the thousandfold of a bomb.
LARGEST_TEXT = 256 * 2**20
LARGEST_RATIO = 200
_CHUNK = 2**20
_ENCRYPTED = 0x1
_CHECKSUM = re.compile(r"([0-9a-fA-F]{64}) [ *](\S+)\s*")


def read_checksum(text: str, name: str) -> str:
    """The sha256 in a `.CHECKSUM` file: `<64 hex><two spaces><file name>`.

    Raises
    ------
    BrokenArchive
        Another form, or another file's.
    """
    found = _CHECKSUM.fullmatch(text)
    if not found or found.group(2) != name:
        raise BrokenArchive(f"{name}: its CHECKSUM holds a sha256 and its name", repr(text[:100]),
                            "the vendor changed the form, or a gateway answered")
    return found.group(1).lower()


def read_member(path: Path, name: str) -> bytes:
    """The one CSV of an archive's ZIP.

    Parameters
    ----------
    path : Path
        Of the ZIP.
    name : str
        Of the published file; its member is called the same, with `.csv`.

    Raises
    ------
    BrokenArchive
        Cut or damaged; more than one member, or one of another name (`..`, a folder, a link); encrypted; or text larger
        than a file of this archive can be.
    """
    member = name.removesuffix(".zip") + ".csv"
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, _only(archive, name, member), name)
    except FileNotFoundError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError) as error:
        raise BrokenArchive(f"{name} must be a whole ZIP", f"{type(error).__name__}: {error}",
                            "delete it and fetch it again") from None


def _only(archive: zipfile.ZipFile, name: str, member: str) -> zipfile.ZipInfo:
    """The member, if it is the only one and plain."""
    infos = archive.infolist()
    # ZipInfo cuts a name at a null byte; what the file holds is what counts.
    if [info.orig_filename for info in infos] != [member]:
        raise BrokenArchive(f"{name} holds only {member}", [info.orig_filename[:80] for info in infos[:5]],
                            "do not unpack it; fetch it again from the vendor itself")
    info, = infos
    if info.flag_bits & _ENCRYPTED or (info.external_attr >> 16) & 0o170000 == 0o120000:
        raise BrokenArchive(f"{name} holds a plain file", "an encrypted member or a link",
                            "do not unpack it; fetch it again from the vendor itself")
    if info.file_size > LARGEST_TEXT or info.file_size > LARGEST_RATIO * max(info.compress_size, 1):
        raise _bomb(name, f"{info.file_size:,} bytes from {info.compress_size:,}")
    return info


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> bytes:
    """All bytes; counted while they come, because sizes in the file's own directory may lie."""
    parts, size = [], 0
    most = min(LARGEST_TEXT, LARGEST_RATIO * max(info.compress_size, 1))
    with archive.open(info) as stream:
        while part := stream.read(_CHUNK):
            size += len(part)
            if size > most:
                raise _bomb(name, f"more than {most:,} bytes from {info.compress_size:,}")
            parts.append(part)
    return b"".join(parts)


def _bomb(name: str, observed: str) -> BrokenArchive:
    rule = f"{name} unpacks to at most {LARGEST_TEXT:,} bytes and {LARGEST_RATIO} times its size"
    return BrokenArchive(rule, observed, "do not unpack it; fetch it again from the vendor itself")
