"""Errors that teach: each gives the rule, the observed value and the remedy."""

from __future__ import annotations


class FoldgateError(Exception):
    """A rule was broken.

    Parameters
    ----------
    rule : str
        What must hold.
    observed : object
        What was seen instead.
    remedy : str
        What the reader can do about it.
    """

    def __init__(self, rule: str, observed: object = "", remedy: str = "") -> None:
        self.rule, self.observed, self.remedy = rule, observed, remedy
        parts = [rule]
        if observed != "":
            parts.append(f"observed: {observed}")
        if remedy:
            parts.append(f"remedy: {remedy}")
        super().__init__("; ".join(parts))


class BadInput(FoldgateError):
    """Data or arguments that break a stated rule."""


class SchemaError(BadInput):
    """A table's columns or types differ from its spec."""


class KeyViolation(BadInput):
    """Null or doubled keys."""


class CalendarError(BadInput):
    """A date that is no session, or lies beyond the known calendar."""


class LookAheadError(FoldgateError):
    """Something read a fact before it could be known."""


class LawBroken(FoldgateError):
    """A value changed with something that it must not depend on."""


class MissingTable(FoldgateError):
    """A required vendor table is absent from the source or the lake."""


class IncompleteTables(FoldgateError):
    """A live decision was asked for while tables of its session are incomplete."""


class VendorError(FoldgateError):
    """A vendor's answer that is not data."""


class RetryableVendorError(VendorError):
    """Worth another try; `retry_after` in seconds when the vendor named it."""

    retry_after: float | None = None


class RateLimited(RetryableVendorError):
    """The per-interface quota was used up."""


class VendorUnavailable(RetryableVendorError):
    """Gateway error, time-out, truncated or non-JSON body."""


class PermanentVendorError(VendorError):
    """Another try cannot help."""


class TokenRejected(PermanentVendorError):
    """The vendor does not know the token."""


class PermissionMissing(PermanentVendorError):
    """The token may not read this table."""


class RequestRejected(PermanentVendorError):
    """Unknown interface or parameters."""


class QuotaExhausted(PermanentVendorError):
    """An hourly or daily quota is used up; it resets outside any retry window."""


class BrokenArchive(PermanentVendorError):
    """A published file that its checksum belies, that is cut, or that is unsafe to unpack."""


class LakeConflict(FoldgateError):
    """Another writer created the same commit."""


class Tampered(FoldgateError):
    """Bytes do not hash to what was recorded."""


class PromotionRefused(FoldgateError):
    """The champion pointer was not moved."""


class RecordConflict(FoldgateError):
    """A record of a session exists and differs from the new one."""


class ParityBroken(FoldgateError):
    """Live and research values differ."""
