"""A proof: a claim of the project, put to a test that could refute it, and what that test cannot see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.diagnostics.finding import Finding

Size = Literal["small", "full"]
"""`small` is what the tests run on every change; `full` is what is published."""

Progress = Callable[[str, float], None]
"""What was done, and the share that is behind us."""

HELD, BROKEN = "HELD", "BROKEN"


@dataclass(frozen=True)
class Proof:
    """One claim and its test.

    Parameters
    ----------
    name : str
        Names its asset, its folder and its part of `docs/proof.md`.
    title : str
    claims : str
        What is put to the test, in a sentence.
    cannot_see : str
        What would pass unnoticed.
    figure : str
        What its finding's score is.
    run : callable
        (size, empty folder for its work, progress) -> Finding; its status is `HELD` or `BROKEN`, its score the figure
        that people quote, its first table the one that is published.
    """

    name: str
    title: str
    claims: str
    cannot_see: str
    figure: str
    run: Callable[[Size, Path, Progress], Finding]
