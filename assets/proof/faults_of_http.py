"""Faults of the way between any vendor and us: gateways, cut and silent connections, damaged bodies."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import replace

from assets.proof.fault_server import EVER, Asked, Change, Fault, Reply, Truth
from pipeline.tables.spec import TableSpec

EQUAL, TOLD, CORRECTED, KEPT = "equal", "told", "corrected", "kept"
# Ends of answers in which nothing is wrong, except that the vendor says otherwise later.
PLAUSIBLE = (CORRECTED, KEPT)
TUSHARE, INTERFACE, ARCHIVE = "Tushare", "Binance interface", "Binance archive"
PAGE = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
SHORT_TIMEOUT = 0.5  # seconds; the true answers take some milliseconds


def always(ends: str) -> Callable[[TableSpec], str]:
    """An end that is the same for every table."""
    return lambda spec: ends


def answering(status: int, body: bytes = PAGE, **headers: str) -> Change:
    """One fixed answer to whatever was asked."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda asked, truth: Reply(status, {"Content-Type": "text/html", **named}, body)


def http_faults(channel: str, retried: Callable[[Asked], bool]) -> Iterator[Fault]:
    """The faults of one vendor's way.

    Parameters
    ----------
    retried : callable
        Whether a request's body is worth another try when it is no body of the protocol: all but a checksum's.
    """

    def made(
        kind: str, change: Change, ends: str = EQUAL, form: str = "", times: int = 2, timeout: float = 30.0
    ) -> Fault:
        return Fault(kind, channel, change, always(ends), form, times, timeout)

    refused = {TUSHARE: "RequestRejected"}.get(channel, "PermanentVendorError")
    yield made("gateway error with an HTML body", answering(502), form="502 twice")
    yield made("gateway error with an HTML body", answering(504, b""), form="504 twice")
    yield made("gateway error for good", answering(503), "VendorUnavailable", times=EVER)
    yield made("HTTP 408", answering(408, b""))
    yield made("HTTP 429 with Retry-After", answering(429, b"", Retry_After="7"))
    yield made("HTTP 403 of a firewall", answering(403), refused, times=EVER)
    yield made("connection closed without an answer", _cut(lambda body: -1))
    yield made("connection cut inside the body", _cut(lambda body: len(body) // 2))
    yield made("no answer before the time-out", _cut(lambda body: -1, stalls=True), times=1, timeout=SHORT_TIMEOUT)
    yield made(
        "answer stops half-way, connection open",
        _cut(lambda body: len(body) // 2, stalls=True),
        times=1,
        timeout=SHORT_TIMEOUT,
    )
    yield made("damaged gzip", _gzipped)
    yield made("HTML page with HTTP 200", _only(retried, answering(200)), times=1)
    yield made("empty body with HTTP 200", _only(retried, answering(200, b"")), times=1)
    yield made("whole answer, but its text is cut", _only(retried, _shortened), times=1)


def _only(wanted: Callable[[Asked], bool], change: Change) -> Change:
    return lambda asked, truth: change(asked, truth) if wanted(asked) else None


def _cut(after: Callable[[bytes], int], stalls: bool = False) -> Change:
    def change(asked: Asked, truth: Truth) -> Reply:
        reply = truth(asked)
        return replace(reply, sent=after(reply.body), stalls=stalls)

    return change


def _gzipped(asked: Asked, truth: Truth) -> Reply:
    """Compressed, with a byte of its middle changed."""
    reply = truth(asked)
    body = bytearray(gzip.compress(reply.body))
    body[len(body) // 2] ^= 0xFF
    body[-5] ^= 0xFF
    return replace(reply, headers={**reply.headers, "Content-Encoding": "gzip"}, body=bytes(body))


def _shortened(asked: Asked, truth: Truth) -> Reply:
    reply = truth(asked)
    return replace(reply, body=reply.body[: len(reply.body) * 2 // 3])
