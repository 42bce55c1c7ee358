"""Binance's REST answers: which error is which, what a ban says, and the weight that is left. No network here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.clock import Clock
from pipeline.errors import (
    PermanentVendorError,
    QuotaExhausted,
    RateLimited,
    RequestRejected,
    VendorError,
    VendorUnavailable,
)

SLOWER = "another program on this address uses the same budget; wait, or run one at a time"
_BANNED = re.compile(r"banned until (\d{13})")
# Waiting longer inside a run is no longer a retry: the vendor bans for up to three days.
LONGEST_WAIT = 600.0
INTERNAL = (-1000, -1001)
TOO_MANY = (-1003, -1015)
# A tenth of the budget is left to whoever else calls from this address.
SHARE = 0.9


def error_of(what: str, status: int, body: bytes, after: float | None, now: datetime) -> VendorError:
    """The typed error of an answer that is not HTTP 200.

    Parameters
    ----------
    what : str
        The path asked for.
    after : float or None
        Seconds of the Retry-After header.
    now : datetime
        Aware; a ban names the millisecond of its end.
    """
    code, message = _code(body)
    rule, observed = f"{what}: the vendor must answer with data", f"HTTP {status}, code {code}: {message}"
    if status in (418, 429) or code in TOO_MANY:
        wait = after if after is not None else _banned_for(message, now)
        if wait is not None and wait > LONGEST_WAIT:
            until = (now + timedelta(seconds=wait)).replace(microsecond=0)
            return QuotaExhausted(rule, observed, f"the ban ends at {until.isoformat()}; start again then")
        limited = RateLimited(rule, observed, SLOWER)
        limited.retry_after = wait if wait is not None else 60.0
        return limited
    if status >= 500 or status == 408 or code in INTERNAL:
        unavailable = VendorUnavailable(rule, observed, "try again later")
        unavailable.retry_after = after
        return unavailable
    if status in (403, 451):
        return PermanentVendorError(rule, observed, "the vendor refuses this address or country; use the archive")
    return RequestRejected(rule, observed, "check the symbol and the base URL")


def read_json(what: str, body: bytes) -> Any:
    """The JSON of a good answer."""
    try:
        return json.loads(body)
    except ValueError:
        raise VendorUnavailable(f"{what}: the body must be JSON", repr(body[:60].decode("utf-8", "replace")),
                                "a gateway answered, or the answer was cut") from None


def _code(body: bytes) -> tuple[int | None, str]:
    try:
        answer = json.loads(body)
        return answer.get("code"), str(answer.get("msg", ""))
    except (ValueError, AttributeError):
        return None, body[:60].decode("utf-8", "replace")


def _banned_for(message: str, now: datetime) -> float | None:
    found = _BANNED.search(message)
    if not found:
        return None
    return max((datetime.fromtimestamp(int(found.group(1)) / 1000, UTC) - now).total_seconds(), 0.0)


class WeightBudget:
    """What may still be asked in the running minute, as the vendor itself counts it for this address.

    Parameters
    ----------
    limit : int
        Weight a minute.
    clock : Clock
    sleep : callable
        Takes seconds.
    """

    def __init__(self, limit: int, clock: Clock, sleep: Callable[[float], None]) -> None:
        self.limit, self._clock, self._sleep = limit, clock, sleep
        self.used, self._minute = 0, datetime.min.replace(tzinfo=UTC)

    def wait(self, weight: int) -> None:
        """Return when a request of this weight fits; the count starts anew with each minute."""
        now = self._clock.now()
        if now.replace(second=0, microsecond=0) > self._minute:
            self._start(now)
        if self.used + weight > self.limit * SHARE:
            following = self._minute + timedelta(minutes=1)
            self._sleep((following - now).total_seconds())
            self._start(following)
        self.used += weight

    def read(self, header: str | None) -> None:
        """Take over the vendor's own count, which holds what others asked too."""
        if header is not None and header.isdigit():
            self.used = int(header)

    def learn(self, exchange_info: dict[str, Any]) -> None:
        """The limit that the vendor names itself."""
        for limit in exchange_info.get("rateLimits", ()):
            if limit.get("rateLimitType") == "REQUEST_WEIGHT" and limit.get("interval") == "MINUTE":
                self.limit = int(limit["limit"]) // int(limit.get("intervalNum", 1))

    def _start(self, at: datetime) -> None:
        self._minute, self.used = at.replace(second=0, microsecond=0), 0
