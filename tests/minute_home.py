"""A tiny environment of a study that decides by the minute, for tests of what lies around the stages."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

from pipeline.studies import STUDIES
from resources.environments import Environment, Settings, create_environment

MINUTE_STUDY = next(study for study in STUDIES.values() if study.market.decides == "minute")


def minute_environment(home: Path, **changes: Any) -> Environment:
    """An empty home on the simulated perpetual; its clock stands at the decision of the last but one day."""
    market: dict[str, Any] = changes.pop("market", {})
    values = {"study": MINUTE_STUDY.name, "profile": "tiny", "market": market,
              "first_session": date(2026, 6, 25), "last_session": date(2026, 6, 30)} | changes  # fmt: skip
    environment = create_environment(home, Settings.model_validate(values), home / "no_template")
    last: date = values["last_session"]
    environment.move_clock(environment.study.market.decided_at(last.replace(day=last.day - 1)))
    return environment
