"""A sliding window over calls, one per interface. It knows no vendor and no network."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from datetime import datetime, timedelta

from pipeline.clock import Clock

WINDOW = timedelta(seconds=60)


class SlidingWindow:
    """At most so many calls of one interface in any 60 seconds, within this process.

    Parameters
    ----------
    clock : Clock
    sleep : callable
        Takes seconds.
    """

    def __init__(self, clock: Clock, sleep: Callable[[float], None]) -> None:
        self._clock, self._sleep = clock, sleep
        self._calls: defaultdict[str, deque[datetime]] = defaultdict(deque)

    def wait(self, name: str, limit: int | None) -> None:
        """Return when the next call may go out; at once where there is no limit."""
        if limit is None:
            return
        calls, now = self._calls[name], self._clock.now()
        while calls and calls[0] <= now - WINDOW:
            calls.popleft()
        # A call is booked at the time it may go out, so that a clock that stands still cannot loop.
        at = now if len(calls) < limit else max(now, calls[-limit] + WINDOW)
        calls.append(at)
        if at > now:
            self._sleep((at - now).total_seconds())

    def until_free(self, name: str) -> float:
        """Seconds until the window of an interface has surely passed, when the vendor itself said stop."""
        calls = self._calls[name]
        oldest = calls[0] if calls else self._clock.now()
        return max((oldest + WINDOW - self._clock.now()).total_seconds(), 1.0)
