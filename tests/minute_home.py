"""A tiny environment of a study that decides by the minute, for tests of what lies around the stages."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

from pipeline.studies import STUDIES
from resources.environments import Environment, Settings, create_environment

MINUTE_STUDY = next(study for study in STUDIES.values() if study.market.decides == "minute")


def minute_environment(home: Path, decided: date = date(2026, 6, 29), **changes: Any) -> Environment:
    """An empty home on the six days of the simulated perpetual; its clock stands at a session's decision."""
    values = {"study": MINUTE_STUDY.name, "profile": "tiny", "first_session": date(2026, 6, 25),
              "last_session": date(2026, 6, 30)} | changes  # fmt: skip
    environment = create_environment(home, Settings.model_validate(values), home / "no_template")
    environment.move_clock(environment.study.market.decided_at(decided))
    return environment
