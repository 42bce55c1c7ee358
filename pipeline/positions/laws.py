"""What every choice of entries must obey. A red is a `LawBroken`; a law returns how many rows it compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from pipeline.errors import LawBroken


def check_entries_ignore_outcomes(
    choose: Callable[[pl.DataFrame], pl.DataFrame], rows: pl.DataFrame, outcomes: Sequence[str]
) -> int:
    """The same rows are entered whatever came of them: their outcomes trade places, and nothing changes."""
    order = np.random.default_rng(3).permutation(len(rows))
    expected, found = choose(rows), choose(rows.with_columns(pl.col(list(outcomes)).gather(order)))
    if not expected.equals(found):
        raise LawBroken(
            "entries are chosen before anything is known of what comes of them",
            f"{len(expected)} entries of {len(rows)} rows, {len(found)} with other outcomes",
            "choose by predictions, never by labels",
        )
    return len(rows)
