"""Faults of Binance's interface: bans and weights, pages that overlap or stop short, candles that cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from assets.proof.fault_server import EVER, Asked, Change, Fault, Reply, Truth
from assets.proof.faults_of_http import EQUAL, INTERFACE, TOLD, always, answering, http_faults
from pipeline.tables.spec import TableSpec

KLINES, FUNDING, CONTRACTS = "klines", "fundingRate", "exchangeInfo"
# Interface path -> the table it fills.
TABLE_OF = {KLINES: "klines_1m", FUNDING: "funding_rate", CONTRACTS: "exchange_info"}
FEWER_ROWS = 200  # in place of the cap that the vendor's pages name
MINUTE_MS = 60_000
Ends = Callable[[TableSpec], str]


def interface_faults(now: datetime) -> Iterator[Fault]:
    """Every fault of this interface; bans are told relative to an aware instant."""
    yield from http_faults(INTERFACE, lambda asked: True)
    yield from _refusals(now)
    yield from _shapes()
    yield from _forms()
    yield from _pages()
    yield from _impossible()
    yield from _clocks()


def _refusals(now: datetime) -> Iterator[Fault]:
    soon, late = (int((now + wait).timestamp() * 1000) for wait in (timedelta(minutes=2), timedelta(days=2)))
    banned = "Way too many requests; IP(1.2.3.4) banned until {}. Please use the websocket for live updates."
    # kind, form, status, code, message, end, requests
    for kind, form, status, code, message, end, times in (
        ("ban after too many requests", "two minutes", 418, -1003, banned.format(soon), EQUAL, 1),
        ("ban after too many requests", "two days", 418, -1003, banned.format(late), "QuotaExhausted", EVER),
        ("HTTP 400 of a passing error", "too many orders", 400, -1015, "Too many new orders.", EQUAL, 2),
        (
            "HTTP 400 of a passing error",
            "internal",
            400,
            -1001,
            "Internal error; unable to process your request.",
            EQUAL,
            2,
        ),
        ("request refused", "unknown symbol", 400, -1121, "Invalid symbol.", "RequestRejected", EVER),
        ("request refused", "unknown interval", 400, -1120, "Invalid interval.", "RequestRejected", EVER),
        (
            "country refused",
            "",
            451,
            0,
            "Service unavailable from a restricted location.",
            "PermanentVendorError",
            EVER,
        ),
    ):
        body = json.dumps({"code": code, "msg": message}).encode()
        yield Fault(kind, INTERFACE, answering(status, body), always(end), form, times)
    yield Fault("weight of the minute used up", INTERFACE, _heavy, always(EQUAL), times=2)


def _shapes() -> Iterator[Fault]:
    """JSON of another shape with HTTP 200; some are refused as the vendor's failure, some as another schema."""
    error = {"code": -1000, "msg": "An unknown error occured while processing the request."}
    for form, answer, end in (
        ("an error object", error, lambda spec: "SchemaError" if spec.event is None else "VendorUnavailable"),
        ("null", None, lambda spec: "SchemaError" if spec.event is None else "VendorUnavailable"),
        ("rows that are null", [None], always("SchemaError")),
        ("rows that are numbers", [7], always("SchemaError")),
        ("rows that are empty", [{}], always("SchemaError")),
    ):
        yield Fault("JSON of another shape", INTERFACE, _edited(_instead(answer)), end, form, EVER)
    yield Fault(
        "JSON of another shape",
        INTERFACE,
        _at("time", lambda rows: {}),
        _if(KLINES, "SchemaError"),
        "no server time",
        EVER,
    )
    yield Fault(
        "JSON of another shape",
        INTERFACE,
        _at("fundingInfo", lambda rows: [None]),
        _if(FUNDING, "SchemaError"),
        "no intervals",
        EVER,
    )


def _forms() -> Iterator[Fault]:
    """The same rows otherwise written, or with fields that nobody declared."""
    for subject in (FUNDING, CONTRACTS):
        yield Fault(
            "fields that nobody declared", INTERFACE, _at(subject, _fields_added), _if(subject, EQUAL), times=EVER
        )
    yield Fault(
        "same rows in another form", INTERFACE, _at(KLINES, _numbers), _if(KLINES, EQUAL), "numbers, not text", EVER
    )
    yield Fault(
        "column that nobody declared",
        INTERFACE,
        _at(KLINES, lambda rows: [[*row, "1"] for row in rows]),
        _if(KLINES, "SchemaError"),
        "thirteen values",
        EVER,
    )
    yield Fault(
        "text where a number belongs", INTERFACE, _at(KLINES, _cell(1, "n/a")), _if(KLINES, "SchemaError"), times=EVER
    )
    yield Fault("value missing", INTERFACE, _at(KLINES, _cell(4, None)), _if(KLINES, "BadInput"), "price", EVER)
    yield Fault(
        "value missing", INTERFACE, _at(FUNDING, _without("fundingTime")), _if(FUNDING, "SchemaError"), "time", EVER
    )
    yield Fault(
        "value missing", INTERFACE, _at(FUNDING, _without("fundingRate")), _if(FUNDING, "BadInput"), "rate", EVER
    )


def _pages() -> Iterator[Fault]:
    at = _at
    yield Fault("fewer rows a page than asked for", INTERFACE, _fewer, _if((KLINES, FUNDING), EQUAL), times=EVER)
    yield Fault("startTime ignored", INTERFACE, _newest, _if(KLINES, TOLD), times=EVER)
    yield Fault(
        "page that overlaps the one before", INTERFACE, _overlapping, _if(KLINES, "VendorUnavailable"), times=EVER
    )
    yield Fault(
        "row repeated", INTERFACE, at(KLINES, lambda rows: [rows[0], *rows]), _if(KLINES, "KeyViolation"), times=EVER
    )
    yield Fault(
        "row repeated", INTERFACE, at(FUNDING, lambda rows: [rows[0], *rows]), _if(FUNDING, "KeyViolation"), times=EVER
    )
    yield Fault(
        "rows out of order", INTERFACE, at(KLINES, lambda rows: rows[::-1]), _if(KLINES, "BadInput"), times=EVER
    )
    yield Fault(
        "minute that the vendor adds later",
        INTERFACE,
        at(KLINES, lambda rows: [*rows[:50], *rows[51:]], least=60),
        _if(KLINES, TOLD),
        times=1,
    )
    yield Fault(
        "no rows for open days",
        INTERFACE,
        at((KLINES, FUNDING), lambda rows: []),
        _if((KLINES, FUNDING), TOLD),
        times=EVER,
    )


def _impossible() -> Iterator[Fault]:
    for form, edit in (
        ("high below low", _cell(2, "0.01")),
        ("price of zero", _cell(4, "0")),
        ("volume below zero", _cell(5, "-1")),
        ("takers above the volume", _cell(9, "1e15")),
        ("NaN price", _cell(1, "NaN")),
        ("off the minute's grid", lambda rows: [[rows[0][0] + 1, *rows[0][1:]], *rows[1:]]),
    ):
        yield Fault("candle that cannot be", INTERFACE, _at(KLINES, edit), _if(KLINES, "BadInput"), form, EVER)


def _clocks() -> Iterator[Fault]:
    yield Fault(
        "server's clock",
        INTERFACE,
        _at("time", lambda now: {"serverTime": now["serverTime"] + 10 * MINUTE_MS}),
        _if(KLINES, EQUAL),
        "ten minutes fast",
        EVER,
    )
    # Slow by ten days: every candle asked for looks unfinished to it, or the last ones do.
    yield Fault(
        "server's clock",
        INTERFACE,
        _at("time", lambda now: {"serverTime": now["serverTime"] - 10 * 1440 * MINUTE_MS}),
        _if(KLINES, TOLD),
        "ten days slow",
        EVER,
    )


def _if(subjects: str | tuple[str, ...], end: str) -> Ends:
    """An end for the tables of some paths; the fault cannot befall the others."""
    names = [TABLE_OF[s] for s in ((subjects,) if isinstance(subjects, str) else subjects)]
    return lambda spec: end if spec.name in names else ""


def _edited(
    edit: Callable[[Any], Any],
    wanted: Callable[[Asked], bool] = lambda asked: asked.subject in TABLE_OF,
    least: int = 0,
) -> Change:
    """Another JSON in place of the true one."""

    def change(asked: Asked, truth: Truth) -> Reply | None:
        if not wanted(asked):
            return None
        reply = truth(asked)
        answer = json.loads(reply.body)
        if reply.status != 200 or (isinstance(answer, list) and len(answer) < max(least, 1)):
            return None
        return replace(reply, body=json.dumps(edit(answer)).encode())

    return change


def _instead(answer: Any) -> Callable[[Any], Any]:
    return lambda rows: answer


def _at(subjects: str | tuple[str, ...], edit: Callable[[Any], Any], least: int = 0) -> Change:
    """Another JSON in place of the true one of some paths."""
    named = (subjects,) if isinstance(subjects, str) else subjects
    return _edited(edit, lambda asked: asked.subject in named, least)


def _cell(column: int, value: Any) -> Callable[[Any], Any]:
    """One value of the second row replaced."""
    return lambda rows: [rows[0], [*rows[1][:column], value, *rows[1][column + 1 :]], *rows[2:]]


def _without(name: str) -> Callable[[Any], Any]:
    return lambda rows: [{k: v for k, v in row.items() if k != name} for row in rows]


def _numbers(rows: Any) -> Any:
    return [[float(v) if isinstance(v, str) else v for v in row] for row in rows]


def _fields_added(answer: Any) -> Any:
    for row in answer if isinstance(answer, list) else answer["symbols"]:
        row["rateType"] = "Regular"
    return answer


def _heavy(asked: Asked, truth: Truth) -> Reply:
    reply = truth(asked)
    return replace(reply, headers={**reply.headers, "X-MBX-USED-WEIGHT-1M": "2399"})


def _fewer(asked: Asked, truth: Truth) -> Reply | None:
    """The vendor lowers its cap and does not say so."""
    if asked.subject not in (KLINES, FUNDING):
        return None
    rows = FEWER_ROWS if asked.subject == KLINES else 2
    return truth(asked.with_params(limit=str(rows)))


def _newest(asked: Asked, truth: Truth) -> Reply | None:
    return truth(asked.with_params(startTime=None)) if asked.subject == KLINES else None


def _overlapping(asked: Asked, truth: Truth) -> Reply | None:
    """Each page begins two minutes before what was asked for."""
    if asked.subject != KLINES:
        return None
    return truth(asked.with_params(startTime=str(int(asked.params["startTime"]) - 2 * MINUTE_MS)))
