"""A vendor on a real socket of this machine, with faults between its true answers and the client.

Which faults there are, and what an ingestion must make of them, is not here.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx

from pipeline.tables.spec import TableSpec

EVER = 10**9
LONGEST_STALL = 20.0  # seconds; a client gives up long before
REASONS = {200: "OK", 206: "Partial Content"}


@dataclass(frozen=True)
class Asked:
    """One request as it came in.

    Parameters
    ----------
    subject : str
        What it asks about: a Tushare interface, or the path without its prefix.
    params : mapping
        Of the query, or of Tushare's body.
    """

    method: str
    path: str
    subject: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    content: bytes

    def with_params(self, **changes: str | None) -> Asked:
        """The same request with parameters replaced, or dropped where None."""
        params = {k: v for k, v in {**self.params, **changes}.items() if v is not None}
        if self.method == "GET":
            return replace(self, params=params)
        body = json.loads(self.content) | {"params": params}
        return replace(self, params=params, content=json.dumps(body).encode())


@dataclass(frozen=True)
class Reply:
    """What goes back.

    Parameters
    ----------
    sent : int, optional
        Bytes of the body after which the connection is cut; -1: nothing is sent at all.
    stalls : bool
        The connection then stays open and silent.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    sent: int | None = None
    stalls: bool = False


Truth = Callable[[Asked], Reply]
Change = Callable[[Asked, Truth], "Reply | None"]


@dataclass(frozen=True)
class Fault:
    """One thing that a vendor does wrong, or unlike its pages.

    Parameters
    ----------
    kind, form : str
        What it is; one kind may have several forms.
    channel : str
        Whose protocol it belongs to.
    change : callable
        (request, the true vendor) -> the answer in its place; None leaves this request alone.
    ends : callable
        Table -> how an ingestion must end: `EQUAL`, `TOLD`, `CORRECTED`, `KEPT`, or the name of an error; "" where the
        fault cannot befall the table.
    times : int
        Requests that it befalls.
    timeout : float
        Seconds that the client waits.
    page : int
        Row cap of the table while it lasts; 0: the vendor's own.
    """

    kind: str
    channel: str
    change: Change
    ends: Callable[[TableSpec], str]
    form: str = ""
    times: int = 2
    timeout: float = 30.0
    page: int = 0


@dataclass
class Armed:
    """A fault that waits for its requests: after `skip` of those that it could befall, the next `left`."""

    fault: Fault
    left: int
    skip: int = 0
    injected: int = 0


class Weather:
    """The faults of the moment over a true vendor; safe to ask from several threads.

    Attributes
    ----------
    armed : list of Armed
    requests : int
        Answered since the start.
    """

    def __init__(self, vendor: httpx.BaseTransport) -> None:
        self._vendor, self._lock = vendor, threading.Lock()
        self.armed: list[Armed] = []
        self.requests = 0

    def arm(self, faults: Sequence[Armed] = ()) -> None:
        """These faults and no others."""
        with self._lock:
            self.armed = list(faults)

    def answer(self, asked: Asked) -> Reply:
        """The true answer, or that of the first fault that befalls the request."""
        with self._lock:
            self.requests += 1
            for armed in self.armed:
                changed = armed.fault.change(asked, self._true) if armed.left > 0 else None
                if changed is None:
                    continue
                if armed.skip > 0:
                    armed.skip -= 1
                    continue
                armed.left -= 1
                armed.injected += 1
                return changed
            return self._true(asked)

    def _true(self, asked: Asked) -> Reply:
        query = f"?{urlencode(asked.params)}" if asked.method == "GET" and asked.params else ""
        request = httpx.Request(
            asked.method, f"http://vendor{asked.path}{query}", headers=dict(asked.headers), content=asked.content
        )
        answer = self._vendor.handle_request(request)
        return Reply(answer.status_code, dict(answer.headers), answer.read())


class Loopback:
    """Serves a weather on 127.0.0.1 while it is open."""

    def __init__(self, weather: Weather) -> None:
        self._server = _Server(weather)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Loopback:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a stalled connection must not hold up the end

    def __init__(self, weather: Weather) -> None:
        self.weather = weather
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in the middle of an answer is what some faults are for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def _serve(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        reply = self.server.weather.answer(_asked(self.command, self.path, dict(self.headers), content))
        if reply.sent != -1:
            body = reply.body if reply.sent is None else reply.body[: reply.sent]
            self.wfile.write(_head(reply) + body)
        if reply.stalls:
            self.connection.settimeout(LONGEST_STALL)
            self.connection.recv(1)  # returns when the client hangs up
        self.close_connection = reply.stalls or reply.sent is not None


def _asked(method: str, target: str, headers: dict[str, str], content: bytes) -> Asked:
    parts = urlsplit(target)
    kept = {name: value for name, value in headers.items() if name.lower() == "range"}
    if method == "POST":
        body = json.loads(content)
        return Asked(method, parts.path, str(body["api_name"]), dict(body["params"]), kept, content)
    subject = parts.path.removeprefix("/fapi/v1/")
    return Asked(method, parts.path, subject, dict(parse_qsl(parts.query)), kept, content)


def _head(reply: Reply) -> bytes:
    """Status line and headers; the length is that of the whole body, also where less of it is sent."""
    dropped = ("content-length", "transfer-encoding", "connection")
    headers = {name: value for name, value in reply.headers.items() if name.lower() not in dropped}
    lines = [
        f"HTTP/1.1 {reply.status} {REASONS.get(reply.status, 'Fault')}",
        *(f"{name}: {value}" for name, value in headers.items()),
        f"Content-Length: {len(reply.body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()
