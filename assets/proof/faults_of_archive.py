"""Faults of Binance's archive: checksums that belie, ZIPs that are cut or hostile, CSVs that are not what they were."""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from assets.proof.fault_server import EVER, Asked, Change, Fault, Reply, Truth
from assets.proof.faults_of_http import ARCHIVE, CORRECTED, EQUAL, TOLD, always, answering, http_faults
from pipeline.tables.binance import FUNDING_RATE, KLINES_1M
from pipeline.tables.spec import TableSpec

SUM = ".CHECKSUM"
Lines = list[str]  # of the CSV, its header first


def archive_faults() -> Iterator[Fault]:
    """Every fault of the archive."""
    yield from http_faults(ARCHIVE, lambda asked: _is_zip(asked))
    yield from _files()
    yield from _published()
    yield from _contents()


def _is_zip(asked: Asked) -> bool:
    return asked.path.endswith(".zip")


def _is_sum(asked: Asked) -> bool:
    return asked.path.endswith(SUM)


def _files() -> Iterator[Fault]:
    """Files that are missing, checksums that are wrong, downloads that change on their way."""

    def made(kind: str, change: Change, end: str, form: str = "", times: int = 1) -> Fault:
        return Fault(kind, ARCHIVE, change, always(end), form, times)

    missing = answering(404, b"<Error><Code>NoSuchKey</Code></Error>")
    for form, wanted in (
        ("file and checksum", lambda asked: _is_zip(asked) or _is_sum(asked)),
        ("the file only", _is_zip),
    ):
        # The interface gives the same candles; of funding it adds a mark price, which the file takes away again.
        yield Fault(
            "file of a day not there yet", ARCHIVE, _on(wanted, missing), _by_table(EQUAL, CORRECTED), form, EVER
        )
    yield made("checksum of other bytes", _on(_is_sum, _other_sum), "BrokenArchive", times=EVER)
    yield made("checksum that is none", _on(_is_sum, answering(200)), "BrokenArchive", "HTML", EVER)
    yield made("checksum that is none", _on(_is_sum, answering(200, b"")), "BrokenArchive", "empty", EVER)
    yield made("checksum that is none", _on(_is_sum, _foreign_sum), "BrokenArchive", "another file's", EVER)
    yield made("bit flipped on the way", _on(_is_zip, _flipped), EQUAL, "once")
    yield made("bit flipped on the way", _on(_is_zip, _flipped), "BrokenArchive", "for good", EVER)
    yield made(
        "rest of a cut download",
        _resumed(lambda asked, truth: truth(replace(asked, headers={}))),
        EQUAL,
        "sent from the start with 200",
        2,
    )
    yield made("rest of a cut download", _resumed(_from_start), EQUAL, "sent from the start with 206", 2)


def _published() -> Iterator[Fault]:
    """ZIPs that hash to their checksum and are bad all the same."""
    for kind, form, make in (
        ("broken ZIP with a true checksum", "cut", lambda name, text: _zip({name: text})[:-40]),
        ("broken ZIP with a true checksum", "empty", lambda name, text: b""),
        ("broken ZIP with a true checksum", "damaged", lambda name, text: _damaged(_zip({name: text}))),
        ("ZIP that is not safe to unpack", "two members", lambda name, text: _zip({name: text, "other.csv": text})),
        ("ZIP that is not safe to unpack", "a path upwards", lambda name, text: _zip({f"../{name}": text})),
        ("ZIP that is not safe to unpack", "bomb", lambda name, text: _zip({name: b"0" * 3_000_000})),
        ("ZIP that is not safe to unpack", "encrypted", lambda name, text: _encrypted(_zip({name: text}))),
    ):
        yield Fault(kind, ARCHIVE, _republished(make), always("BrokenArchive"), form, EVER)


def _contents() -> Iterator[Fault]:
    """CSVs of the day with something else in them, in whole ZIPs with true checksums."""

    def made(
        kind: str, form: str, edit: Callable[[Lines], Lines], ends: Callable[[TableSpec], str], times: int = EVER
    ) -> Fault:
        return Fault(kind, ARCHIVE, _csv(edit), ends, form, times)

    equal, schema, candles = always(EQUAL), always("SchemaError"), _by_table
    yield made("same rows in another form", "no header", lambda lines: lines[1:], equal)
    yield made("same rows in another form", "microseconds", _microseconds, equal)
    yield made("same rows in another form", "CRLF", lambda lines: [f"{line}\r" for line in lines], equal)
    yield made("column that nobody declared", "", lambda lines: [f"{line},1" for line in lines], schema)
    yield made("column missing", "", lambda lines: [line.rpartition(",")[0] for line in lines], schema)
    yield made("text where a number belongs", "", _last_field("n/a"), candles("", "SchemaError"))
    yield made("text where a number belongs", "open", _open("n/a"), candles("SchemaError", ""))
    yield made("value missing", "", _open(""), candles("BadInput", ""))
    yield made("value missing", "", _last_field(""), candles("", "BadInput"))
    yield made("candle that cannot be", "NaN price", _open("NaN"), candles("BadInput", ""))
    yield made("candle that cannot be", "price of zero", _open("0"), candles("BadInput", ""))
    yield made(
        "file breaks off inside a line", "", lambda lines: [*lines[:-1], lines[-1][:9]], candles("BadInput", "BadInput")
    )
    yield made("row repeated", "", lambda lines: [*lines[:2], *lines[1:]], always("KeyViolation"))
    yield made("rows out of order", "", lambda lines: [lines[0], *lines[:0:-1]], candles("BadInput", ""))
    yield made("rows of another day", "", _day_later, candles("BrokenArchive", ""))
    yield made("no rows for open days", "header alone", lambda lines: lines[:1], always(TOLD))
    yield made("minute that the vendor adds later", "", lambda lines: [*lines[:50], *lines[51:]], candles(TOLD, ""))
    yield made("value that the vendor corrects later", "", _last_rate, candles("", CORRECTED))
    yield made("value that the vendor corrects later", "", _traded_more, candles(CORRECTED, ""))


def _by_table(candles: str, funding: str) -> Callable[[TableSpec], str]:
    return lambda spec: {KLINES_1M.name: candles, FUNDING_RATE.name: funding}[spec.name]


def _on(wanted: Callable[[Asked], bool], change: Change) -> Change:
    return lambda asked, truth: change(asked, truth) if wanted(asked) else None


def _other_sum(asked: Asked, truth: Truth) -> Reply | None:
    reply = truth(asked)
    if reply.status != 200:
        return None
    _, _, name = reply.body.partition(b"  ")
    return replace(reply, body=b"0" * 64 + b"  " + name)


def _foreign_sum(asked: Asked, truth: Truth) -> Reply | None:
    reply = truth(asked)
    return replace(reply, body=reply.body[:64] + b"  ETHUSDT-1m-2020-01-01.zip\n") if reply.status == 200 else None


def _flipped(asked: Asked, truth: Truth) -> Reply | None:
    reply = truth(asked)
    if reply.status != 200:
        return None
    body = bytearray(reply.body)
    body[len(body) // 2] ^= 1
    return replace(reply, body=bytes(body))


def _resumed(answer: Change) -> Change:
    """Cuts a download, then answers the request for its rest in another way."""

    def change(asked: Asked, truth: Truth) -> Reply | None:
        if not _is_zip(asked):
            return None
        if any(name.lower() == "range" for name in asked.headers):
            return answer(asked, truth)
        reply = truth(asked)
        return replace(reply, sent=len(reply.body) // 2) if reply.status == 200 else None

    return change


def _from_start(asked: Asked, truth: Truth) -> Reply:
    return replace(truth(replace(asked, headers={})), status=206)


def _republished(make: Callable[[str, bytes], bytes]) -> Change:
    """Another ZIP in place of the published one, with a checksum of its own."""

    def change(asked: Asked, truth: Truth) -> Reply | None:
        path = asked.path.removesuffix(SUM)
        true = truth(replace(asked, path=path, headers={}))
        if true.status != 200:
            return None
        name = PurePosixPath(path).name
        with zipfile.ZipFile(io.BytesIO(true.body)) as held:
            made = make(name.removesuffix(".zip") + ".csv", held.read(held.namelist()[0]))
        if asked.path == path:
            return replace(true, body=made)
        return replace(true, body=f"{hashlib.sha256(made).hexdigest()}  {name}\n".encode())

    return change


def _csv(edit: Callable[[Lines], Lines]) -> Change:
    def make(name: str, text: bytes) -> bytes:
        return _zip({name: ("\n".join(edit(text.decode().splitlines())) + "\n").encode()})

    return _republished(make)


def _zip(members: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, text in members.items():
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    return held.getvalue()


def _damaged(content: bytes) -> bytes:
    body = bytearray(content)
    body[len(body) // 2] ^= 0xFF
    return bytes(body)


def _encrypted(content: bytes) -> bytes:
    """Bit 0 of the flags set in the local header and in the directory."""
    body = bytearray(content)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = body.rindex(mark) + offset
        struct.pack_into("<H", body, at, struct.unpack_from("<H", body, at)[0] | 1)
    return bytes(body)


def _microseconds(lines: Lines) -> Lines:
    """Instants are the first number of a line, and of a candle the seventh too."""
    out = lines[:1]
    for line in lines[1:]:
        fields = line.split(",")
        for i in (0, 6) if len(fields) > 6 else (0,):
            fields[i] += "000"
        out.append(",".join(fields))
    return out


def _field(at: int, value: str) -> Callable[[Lines], Lines]:
    def edit(lines: Lines) -> Lines:
        fields = lines[2].split(",")
        fields[at] = value
        return [*lines[:2], ",".join(fields), *lines[3:]]

    return edit


def _open(value: str) -> Callable[[Lines], Lines]:
    return _field(1, value)


def _last_field(value: str) -> Callable[[Lines], Lines]:
    return _field(-1, value)


def _last_rate(lines: Lines) -> Lines:
    """The newest settlement: a month's file begins before the days asked for."""
    return [*lines[:-1], lines[-1].rpartition(",")[0] + ",0.00012345"]


def _traded_more(lines: Lines) -> Lines:
    """One minute's number of trades."""
    return _field(8, str(int(lines[2].split(",")[8]) + 1))(lines)


def _day_later(lines: Lines) -> Lines:
    fields = lines[-1].split(",")
    fields[0], fields[6] = (str(int(fields[i]) + 86_400_000) for i in (0, 6))
    return [*lines, ",".join(fields)]
