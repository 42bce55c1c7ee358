"""The lake's rules, one row at a time in plain Python: what a fetch adds, and what a reader sees."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

Key = tuple[date, str]


@dataclass
class SlowLake:
    """Versions as lists of (known_at, value, knowledge) per key."""

    versions: dict[Key, list[tuple[datetime, float | None, str]]] = field(default_factory=dict)
    fetched: dict[date, list[datetime]] = field(default_factory=dict)

    def append(self, rows: dict[Key, float | None], at: datetime, complete: list[date], rule) -> None:
        for key, value in rows.items():
            held = self.versions.setdefault(key, [])
            due = rule(key[0])
            if not held:
                late = any(due <= fetch for fetch in self.fetched.get(key[0], []))
                held.append((max(due, at), value, "observed") if late else (due, value, "rule"))
            elif not same(held[-1][1], value):
                known = max(due, at, held[-1][0] + timedelta(microseconds=1))
                held.append((known, value, "observed"))
        for day in complete:
            self.fetched.setdefault(day, []).append(at)

    def latest(self, until: datetime) -> dict[Key, float | None]:
        seen = {key: [v for v in held if v[0] <= until] for key, held in self.versions.items()}
        return {key: held[-1][1] for key, held in seen.items() if held}


def same(one: float | None, other: float | None) -> bool:
    """Null equals null, NaN equals NaN, -0.0 equals 0.0."""
    if one is None or other is None:
        return one is other
    return one == other or (math.isnan(one) and math.isnan(other))
