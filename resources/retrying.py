"""Tries again what a vendor may answer later: how often, how long between, and what `Retry-After` says. No network."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import parsedate_to_datetime

import tenacity

from pipeline.clock import Clock
from pipeline.errors import RetryableVendorError

ATTEMPTS = 6


def retrying(sleep: Callable[[float], None]) -> tenacity.Retrying:
    """Up to `ATTEMPTS` tries of whatever raises a `RetryableVendorError`; the last error is raised as it is."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(RetryableVendorError), stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=_pause, sleep=sleep, reraise=True,
    )


def retry_after(header: str | None, clock: Clock) -> float | None:
    """Seconds of a Retry-After header, given as a number or as a date."""
    if header is None:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        return max((parsedate_to_datetime(header) - clock.now()).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None


def _pause(state: tenacity.RetryCallState) -> float:
    """Seconds before the next try: what the vendor said, else 1, 2, 4, … with a second of jitter."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, RetryableVendorError) and error.retry_after is not None:
        return error.retry_after
    return tenacity.wait_exponential_jitter(initial=1, max=60, jitter=1)(state)
