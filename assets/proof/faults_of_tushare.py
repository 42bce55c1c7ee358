"""Faults of Tushare's own protocol: refusals in Chinese, pages that disagree, columns that change, late corrections."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from assets.proof.fault_server import EVER, Asked, Change, Fault, Reply, Truth
from assets.proof.faults_of_http import CORRECTED, EQUAL, KEPT, TOLD, TUSHARE, always, http_faults
from pipeline.tables.spec import TableSpec

PAGE_ROWS = 7
Items = list[list[Any]]
Ends = Callable[[TableSpec], str]

# kind, form, code, message, error, requests
REFUSALS = (
    ("quota used up", "a minute's", 40203, "抱歉，您每分钟最多访问该接口200次，权限的具体详情访问：…", EQUAL, 2),
    ("quota used up", "an hour's", 40203, "抱歉，您每小时最多访问该接口10次", "QuotaExhausted", EVER),
    ("quota used up", "a day's", 40203, "抱歉，您每天最多访问该接口5次", "QuotaExhausted", EVER),
    ("token refused", "", 40101, "您的token不对，请确认。", "TokenRejected", EVER),
    ("request refused", "unknown interface", 40001, "请指定正确的接口名", "RequestRejected", EVER),
    ("request refused", "parameter missing", -2001, "必填参数缺失", "RequestRejected", EVER),
    ("too many addresses", "", 40203, "抱歉，IP数量超限", "PermanentVendorError", EVER),
    ("code that nobody documented", "twice", 50101, "系统繁忙", EQUAL, 2),
    ("code that nobody documented", "for good", 50101, "系统繁忙", "VendorUnavailable", EVER),
)  # fmt: skip
NO_PERMISSION = "抱歉，您没有接口访问权限，权限的具体详情访问：https://tushare.pro/document/1?doc_id=108。"


def tushare_faults(required: Callable[[TableSpec], bool]) -> Iterator[Fault]:
    """Every fault of this vendor.

    Parameters
    ----------
    required : callable
        Whether the study cannot do without a table: the others may be refused.
    """
    yield from http_faults(TUSHARE, lambda asked: True)
    for kind, form, code, message, end, times in REFUSALS:
        yield Fault(kind, TUSHARE, _refusing(code, message), always(end), form, times)
    yield Fault(
        "no permission for the table",
        TUSHARE,
        _refusing(2002, NO_PERMISSION),
        lambda spec: "PermissionMissing" if required(spec) else TOLD,
        times=EVER,
    )
    yield Fault("error that repeats the token", TUSHARE, _repeating, always("VendorUnavailable"), times=EVER)
    yield from _odd_answers()
    yield from _altered()
    yield from _pages()
    yield from _corrected()


def _odd_answers() -> Iterator[Fault]:
    for form, data in (("null", None), ("a list", []), ("no items", {"fields": ["ts_code"]})):
        yield Fault("code 0 without data", TUSHARE, _answering(data), always(EQUAL), form)
    for form, items in (("null", [None]), ("a number", [7]), ("a nested list", [[[1]]])):
        yield Fault(
            "row that is no row",
            TUSHARE,
            _rows(_preceded(items)),
            always("SchemaError"),
            form,
            EVER,
        )


def _altered() -> Iterator[Fault]:
    """Answers of the protocol with something else in them."""

    def made(kind: str, form: str, edit: Callable[[list[str], Items], Items], ends: Ends) -> Fault:
        return Fault(kind, TUSHARE, _rows(edit), ends, form, EVER)

    equal, schema = always(EQUAL), always("SchemaError")
    yield made("same rows in another form", "columns in another order", _columns_reversed, equal)
    yield made("same rows in another form", "oldest first", lambda fields, rows: rows[::-1], equal)
    yield made("same rows in another form", "numbers as text", _retyped(int, str), equal)
    yield made("same rows in another form", "integers as floats", _retyped(int, float), equal)
    yield made("same rows in another form", "a row twice", lambda fields, rows: [*rows, rows[0]], equal)
    yield made("column that nobody declared", "", _column_added, schema)
    yield made("column missing", "", _column_dropped, schema)
    yield made("row that is no row", "a value short", lambda fields, rows: [rows[0][:-1], *rows[1:]], schema)
    yield made("text where a number belongs", "", _worded, lambda spec: "SchemaError" if _number(spec) else "")
    yield made("key is null", "", _keyless, lambda spec: "KeyViolation" if _number(spec) else "")
    # Where the spec chooses between rows of one key, the first announcement is right by rule.
    yield made("two values for one key", "", _doubled, lambda spec: "KeyViolation" if _number(spec) else "")
    by_session = {"session": "BadInput"}
    yield made("another session's rows", "", _other_session, lambda spec: by_session.get(spec.fetch_by, ""))
    yield made(
        "natural day missing in the calendar",
        "",
        _day_dropped,
        lambda spec: "CalendarError" if spec.natural_days else "",
    )
    yield Fault(
        "snapshot without rows",
        TUSHARE,
        _rows(lambda fields, rows: []),
        lambda spec: "VendorUnavailable" if spec.event is None else "",
        times=EVER,
    )
    yield Fault("open session without rows", TUSHARE, _rows(lambda fields, rows: []), _emptied, times=1)


def _pages() -> Iterator[Fault]:
    """Pages of a few rows, and what goes wrong between them; minutes are asked for in spans that never need one."""

    def made(kind: str, form: str, cut: Callable[[Items, int], tuple[Items, bool]], ends: Ends) -> Fault:
        return Fault(kind, TUSHARE, _paged(cut), _paging(ends), form, EVER, page=PAGE_ROWS)

    equal = always(EQUAL)
    yield made("row cap reached", "told by has_more", lambda rows, at: (_page(rows, at), _more(rows, at)), equal)
    yield made("row cap reached", "has_more missing", lambda rows, at: (_page(rows, at), False), equal)
    yield made("row repeated on the next page", "", _repeated, equal)
    yield made(
        "offset ignored",
        "",
        lambda rows, at: (_page(rows, 0), _more(rows, 0)),
        lambda spec: "VendorUnavailable" if spec.event is None else TOLD,
    )


def _paging(ends: Ends) -> Ends:
    return lambda spec: "" if spec.fetch_by == "instrument" else ends(spec)


def _corrected() -> Iterator[Fault]:
    """Answers in which nothing is wrong, except that the vendor says something else later."""
    shorter = _rows(lambda fields, rows: rows[1:], least=2)
    yield Fault("row that the vendor adds later", TUSHARE, shorter, _lacking, times=1)
    yield Fault("value that the vendor corrects later", TUSHARE, _rows(_revised), _if_number, times=1)
    yield Fault("row that the vendor withdraws later", TUSHARE, _rows(_phantom), _if_coded, times=1)


def _if_number(spec: TableSpec) -> str:
    return CORRECTED if _number(spec) else ""


def _lacking(spec: TableSpec) -> str:
    """A missing day of the calendar is an error of its own; a missing row of one index is a day without rows."""
    if spec.natural_days:
        return ""
    return TOLD if spec.fetch_by == "index" else CORRECTED


def _if_coded(spec: TableSpec) -> str:
    return KEPT if spec.fetch_by == "session" else ""


def _emptied(spec: TableSpec) -> str:
    if spec.event is None:
        return ""
    # One name without minutes is suspended, as far as anybody can tell.
    return CORRECTED if spec.may_be_empty or spec.fetch_by == "instrument" else TOLD


def _answering(data: Any) -> Change:
    body = json.dumps({"request_id": "x", "code": 0, "msg": "", "data": data}).encode()
    return lambda asked, truth: Reply(200, {"Content-Type": "application/json"}, body)


def _refusing(code: int, message: str) -> Change:
    body = json.dumps({"request_id": "x", "code": code, "msg": message, "data": None}, ensure_ascii=False).encode()
    return lambda asked, truth: Reply(200, {"Content-Type": "application/json"}, body)


def _repeating(asked: Asked, truth: Truth) -> Reply:
    return _refusing(50000, f"bad call: {asked.content.decode()}")(asked, truth)  # type: ignore[return-value]


def _rows(edit: Callable[[list[str], Items], Items], least: int = 1) -> Change:
    """Other rows in place of the true ones; `edit` may change the column names in place."""

    def change(asked: Asked, truth: Truth) -> Reply | None:
        reply = truth(asked)
        answer = json.loads(reply.body)
        data = answer["data"]
        if data is None or len(data["items"]) < least:
            return None
        data["items"] = edit(data["fields"], data["items"])
        return replace(reply, body=json.dumps(answer).encode())

    return change


def _preceded(items: list[Any]) -> Callable[[list[str], Items], Items]:
    return lambda fields, rows: [*items, *rows]


def _paged(cut: Callable[[Items, int], tuple[Items, bool]]) -> Change:
    """The server's own paging replaced, whatever page is asked for."""

    def change(asked: Asked, truth: Truth) -> Reply | None:
        reply = truth(asked.with_params(limit=None, offset=None))
        answer = json.loads(reply.body)
        data = answer["data"]
        if data is None or len(data["items"]) <= PAGE_ROWS:
            return None
        data["items"], data["has_more"] = cut(data["items"], int(asked.params.get("offset", 0)))
        return replace(reply, body=json.dumps(answer).encode())

    return change


def _page(rows: Items, at: int) -> Items:
    return rows[at : at + PAGE_ROWS]


def _repeated(rows: Items, at: int) -> tuple[Items, bool]:
    return _page(rows, max(at - 1, 0)), _more(rows, at)


def _more(rows: Items, at: int) -> bool:
    return at + PAGE_ROWS < len(rows)


def _columns_reversed(fields: list[str], rows: Items) -> Items:
    fields.reverse()
    return [row[::-1] for row in rows]


def _retyped(kind: type, to: Callable[[Any], Any]) -> Callable[[list[str], Items], Items]:
    kinds = (int, float) if to is str else (kind,)
    return lambda fields, rows: [[to(v) if isinstance(v, kinds) else v for v in row] for row in rows]


def _column_added(fields: list[str], rows: Items) -> Items:
    fields.append("surprise")
    return [[*row, 1.0] for row in rows]


def _column_dropped(fields: list[str], rows: Items) -> Items:
    del fields[0]
    return [row[1:] for row in rows]


def _number(spec: TableSpec) -> bool:
    """Whether a table has a measure to spoil, and rows of one key are no choice of its spec."""
    return not spec.prefer and any(column.dtype.is_float() for column in spec.columns)


def _measure(rows: Items) -> tuple[int, int]:
    """Row and place of the first fractional number: a measure, whatever the table."""
    return next((i, j) for i, row in enumerate(rows) for j, value in enumerate(row) if isinstance(value, float))


def _worded(fields: list[str], rows: Items) -> Items:
    i, j = _measure(rows)
    rows[i][j] = "n/a?"
    return rows


def _keyless(fields: list[str], rows: Items) -> Items:
    rows[0][fields.index("ts_code")] = None
    return rows


def _doubled(fields: list[str], rows: Items) -> Items:
    i, j = _measure(rows)
    other = list(rows[i])
    other[j] += 1.0
    return [*rows, other]


def _revised(fields: list[str], rows: Items) -> Items:
    i, j = _measure(rows)
    rows[i][j] += 1.0
    return rows


def _phantom(fields: list[str], rows: Items) -> Items:
    """A row under a code of before 2025-10, which later answers give under the new one only."""
    other = list(rows[0])
    other[fields.index("ts_code")] = "838163.BJ"
    return [*rows, other]


def _other_session(fields: list[str], rows: Items) -> Items:
    at = fields.index("trade_date")
    return [[*row[:at], "20200102", *row[at + 1 :]] for row in rows]


def _day_dropped(fields: list[str], rows: Items) -> Items:
    return [*rows[: len(rows) // 2], *rows[len(rows) // 2 + 1 :]]
