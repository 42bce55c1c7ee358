"""Tushare's answers: which error is which, and what a page holds. No network and no waiting here.

The vendor documents one error code; the others differ between accounts of it, so the message decides first.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from pipeline.errors import (
    PermanentVendorError,
    PermissionMissing,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    TokenRejected,
    VendorError,
    VendorUnavailable,
)

SLOWER = "calls_per_minute is above what the account allows"
NEW_TOKEN = "copy the token from the account page again"
NO_TABLE = "get the permission from the vendor, or run without this table"
SPEC_BUG = "the request is wrong; this is a bug in the table's spec"

# The minute limit's text also holds the word for permission: order matters.
BY_MESSAGE: tuple[tuple[str, type[VendorError], str], ...] = (
    (r"每分钟最多", RateLimited, SLOWER),
    (r"每小时最多|每天最多", QuotaExhausted, "wait until the quota resets, or ask for fewer sessions"),
    (r"token\s*(不对|无效)", TokenRejected, NEW_TOKEN),
    (r"没有.*权限|积分", PermissionMissing, NO_TABLE),
    (r"IP数量超限", PermanentVendorError, "the token is in use from too many addresses"),
    (r"请指定正确的接口名|必填参数|参数校验失败", RequestRejected, SPEC_BUG),
)
BY_CODE: dict[int, tuple[type[VendorError], str]] = {
    40101: (TokenRejected, NEW_TOKEN),
    2002: (PermissionMissing, NO_TABLE),
    40203: (RateLimited, SLOWER),
    40001: (RequestRejected, SPEC_BUG),
    -2001: (RequestRejected, SPEC_BUG),
}


@dataclass(frozen=True)
class Page:
    """One answer: the server's column names, its rows, and whether it says that there are more."""

    fields: tuple[str, ...]
    items: list[list[Any]]
    has_more: bool


def error_of(table: str, code: object, message: str) -> VendorError:
    """The typed error of an answer whose code is not 0; an unknown one is worth another try."""
    rule, observed = f"{table}: the vendor must answer with data", f"code {code}: {message}"
    for pattern, kind, remedy in BY_MESSAGE:
        if re.search(pattern, message, re.IGNORECASE):
            return kind(rule, observed, remedy)
    kind, remedy = BY_CODE.get(code if isinstance(code, int) else 0, (VendorUnavailable, "try again later"))
    return kind(rule, observed, remedy)


def error_of_status(table: str, status: int) -> VendorError:
    """The typed error of an HTTP status that is not 200."""
    rule, observed = f"{table}: the vendor must answer with HTTP 200", f"HTTP {status}"
    if status == 429:
        return RateLimited(rule, observed, SLOWER)
    if status >= 500 or status == 408:
        return VendorUnavailable(rule, observed, "try again later")
    return RequestRejected(rule, observed, "check base_url")


def allowed_calls(message: str) -> int | None:
    """The calls a minute that the vendor's limit message names."""
    found = re.search(r"每分钟最多访问该接口(\d+)次", message)
    return int(found.group(1)) if found else None


def read_page(table: str, body: bytes) -> Page:
    """The page in an answer's body.

    Raises
    ------
    VendorError
        The answer is an error, or no answer of this protocol: HTML, cut JSON, no data.
    """
    rule = f"{table}: the body must be JSON with code and data"
    remedy = "a gateway answered, or the answer was cut"
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or "code" not in answer:
        raise VendorUnavailable(rule, repr(body[:60].decode("utf-8", "replace")), remedy)
    if answer["code"] != 0:
        raise error_of(table, answer["code"], str(answer.get("msg") or ""))
    data = answer.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("items"), list):
        raise VendorUnavailable(rule, f"code 0 and data {type(data).__name__}", remedy)
    return Page(tuple(data.get("fields") or ()), data["items"], bool(data.get("has_more")))
