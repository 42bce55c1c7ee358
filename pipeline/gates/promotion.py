"""Who may serve: the decision to promote, and the append-only record that is the champion pointer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import polars as pl

from pipeline.errors import PromotionRefused
from pipeline.gates.chain import Chain, Row
from pipeline.gates.spec import GateSpec, PromotionSpec

Kind = Literal["promoted", "refused", "rolled_back"]


@dataclass(frozen=True)
class Judgement:
    """Stored verdicts and what they judged.

    Parameters
    ----------
    verdicts : DataFrame
        docs `verdicts`.
    subject : str
        Hash that exists now; a verdict for another hash is void.
    judged_at : datetime
        When the verdicts were written.
    """

    verdicts: pl.DataFrame
    subject: str
    judged_at: datetime


def reasons_to_refuse(
    judgements: Mapping[str, Judgement], spec: PromotionSpec, *, now: datetime, rewritten: Iterable[str] = ()
) -> list[str]:
    """Every reason against promotion: a gate red, missing, stale, or for another hash; a pinned session rewritten.

    Parameters
    ----------
    judgements : mapping
        "evaluation" and "candidate" -> their stored verdicts.
    rewritten : iterable of str
        Pinned partitions whose content no longer hashes to the pin.
    """
    reasons = [f"stale: {name} was rewritten after it was pinned" for name in rewritten]
    for side in sorted({"evaluation", "candidate"} - {gate.applies_to for gate in spec.gates}):
        reasons.append(f"{side}: the study names no gate for it")
    for gate in spec.gates:
        judgement = judgements.get(gate.applies_to)
        if judgement is None:
            reasons.append(f"{gate.name}: missing, no {gate.applies_to} was judged")
        else:
            reasons += _against(gate, judgement)
    for side, judgement in judgements.items():
        if now - judgement.judged_at > timedelta(days=spec.max_age_days):
            reasons.append(
                f"stale: the {side} verdicts are older than {spec.max_age_days} days ({judgement.judged_at:%Y-%m-%d})"
            )
        if judgement.judged_at > now:
            reasons.append(f"stale: the {side} verdicts are dated in the future ({judgement.judged_at:%Y-%m-%d})")
    return reasons


def _against(gate: GateSpec, judgement: Judgement) -> list[str]:
    rows = judgement.verdicts.filter(pl.col("gate") == gate.name)
    if len(rows) != 1:
        return [f"{gate.name}: {'missing' if rows.is_empty() else 'judged twice'}"]
    verdict = rows.row(0, named=True)
    if verdict["evaluation_hash"] != judgement.subject:
        return [f"{gate.name}: judged another hash ({verdict['evaluation_hash'][:12]}, now {judgement.subject[:12]})"]
    if verdict["bound"] != gate.bound:
        return [f"{gate.name}: judged against the bound {verdict['bound']}, the study says {gate.bound}"]
    if verdict["status"] == "pass" or (verdict["status"] == "not_applicable" and gate.optional):
        return []
    return [f"{gate.name}: {verdict['status']}, {_observed(verdict)}"]


def _observed(verdict: Mapping[str, Any]) -> str:
    """`0.0114 (from -0.0025) against 0, mean of 813 sessions`."""
    if verdict["value"] is None:
        return str(verdict["detail"])
    low = "" if verdict["low"] is None else f" (from {verdict['low']:.4g})"
    return f"{verdict['value']:.4g}{low} against {verdict['bound']:g}, {verdict['detail']}"


class Champions:
    """The champion's records: a chain whose last promotion or rollback is the pointer.

    There is no separate pointer file, so there is nothing that could be edited unnoticed.
    """

    def __init__(self, root: Path) -> None:
        self.chain = Chain(root)

    def current(self) -> dict[str, Any] | None:
        """Body of the record that serves now; None before the first promotion."""
        return _serving(self.chain.rows())

    def history(self) -> list[dict[str, Any]]:
        return [{"number": row["number"], **row["body"]} for row in self.chain.rows()]

    def promote(
        self,
        bundle: str,
        reasons: list[str],
        *,
        evaluation: str,
        ledger_head: str,
        now: datetime,
        details: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Move the pointer, or record the refusal and raise. Promoting the champion again changes nothing.

        Raises
        ------
        PromotionRefused
            With every reason; the earlier champion goes on serving.
        """
        kind: Kind = "refused" if reasons else "promoted"
        body = {
            "kind": kind,
            "bundle": bundle,
            "evaluation": evaluation,
            "ledger_head": ledger_head,
            "reasons": reasons,
            "details": dict(details or {}),
        }

        def build(rows: list[Row]) -> dict[str, Any] | None:
            last = rows[-1]["body"] if rows else {}
            serving = _serving(rows)
            same = serving is not None and serving["bundle"] == bundle and not reasons
            again = bool(reasons) and {k: last.get(k) for k in body} == body
            return None if same or again else {**body, "at": now.isoformat()}

        row = self.chain.append(build)
        if reasons:
            raise PromotionRefused(
                "every gate of the evaluation and of the candidate must be green",
                "; ".join(reasons),
                "see the scorecard; the champion was not moved",
            )
        return self._body(row)

    def rollback(self, bundle: str, why: str, *, now: datetime) -> dict[str, Any]:
        """Move the pointer back to a bundle that was champion before; recorded with its reason."""
        earlier = {row["body"]["bundle"]: row["body"] for row in self.chain.rows() if row["body"]["kind"] == "promoted"}
        meant = [body for name, body in earlier.items() if name.startswith(bundle)]
        if len(meant) != 1 or not bundle:
            raise PromotionRefused(
                "a rollback names a bundle that was promoted before",
                bundle or "nothing",
                f"choose one of {sorted(name[:12] for name in earlier)}",
            )
        body = {**meant[0], "kind": "rolled_back", "reasons": [why], "at": now.isoformat()}
        row = self.chain.append(lambda rows: None if (_serving(rows) or {}).get("bundle") == body["bundle"] else body)
        return self._body(row)

    def _body(self, row: Row | None) -> dict[str, Any]:
        """What was just appended, also when another process has moved the pointer since; else what serves."""
        serving = row["body"] if row else self.current()
        assert serving is not None
        return serving


def _serving(rows: list[Row]) -> dict[str, Any] | None:
    return next((row["body"] for row in reversed(rows) if row["body"]["kind"] != "refused"), None)
