"""What every diagnostic hands back. How it is stored, drawn and shown is the business of the stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import polars as pl


@dataclass(frozen=True)
class Finding:
    """The answer to one question about a result; nothing is trained, chosen or promoted by it.

    Parameters
    ----------
    score : float or None
        One number to watch; what it is, the text says. None where nothing could be measured.
    status : str
        The answer in a few words.
    text : str
        A few sentences: what was measured, on which rows, and what it cannot tell.
    tables : mapping
        Name -> frame, rows in the order in which they should be read.
    figures : mapping
        Title -> what draws its PNG.
    rule : str
        How the status follows from what was measured; empty where the text says it.
    counts : mapping
        What was looked at, in numbers.
    """

    score: float | None
    status: str
    text: str
    tables: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    figures: Mapping[str, Callable[[], bytes]] = field(default_factory=dict)
    rule: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
