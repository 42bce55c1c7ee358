"""The base of every part of a study description."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """A frozen value with no unknown keys; its canonical JSON is what gets hashed."""

    model_config = ConfigDict(frozen=True, extra="forbid")
