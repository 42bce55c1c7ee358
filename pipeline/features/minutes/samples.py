"""The names of (instrument, minute) samples, joins on them, and the rows that are complete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from pipeline.asof.minutes import sample_id as sample_id
from pipeline.errors import BadInput, KeyViolation
from pipeline.features.minutes.schema import ORDER_FLOW
from pipeline.frames import MINUTE_ROW as KEY
from pipeline.frames import require_columns

SAMPLE_ID = "sample_id"


@dataclass(frozen=True)
class Counts:
    """Rows before and after a drop, and per dropping column the rows in which it was missing."""

    before: int
    after: int
    missing: dict[str, int]

    @property
    def dropped(self) -> int:
        return self.before - self.after


def drop_incomplete(frame: pl.DataFrame, names: Sequence[str] = ORDER_FLOW) -> tuple[pl.DataFrame, Counts]:
    """The rows in which every named column has a value, and the counts; nothing is filled.

    Raises
    ------
    BadInput
        No row is left; the error names the columns that are missing most often.
    """
    require_columns(frame, names, "drop_incomplete")
    missing = {name: frame[name].null_count() for name in names if frame[name].null_count()}
    kept = frame.drop_nulls(list(names))
    if kept.is_empty():
        worst = sorted(missing.items(), key=lambda item: -item[1])[:3]
        raise BadInput(
            "some row has every named feature",
            f"none of {frame.height} rows; missing most: {', '.join(f'{name} in {n}' for name, n in worst)}",
            "drop the features whose source is absent (lost_features names them), or give a longer history",
        )
    return kept, Counts(frame.height, kept.height, missing)


def join_features(left: pl.DataFrame, right: pl.DataFrame, on: str = SAMPLE_ID) -> pl.DataFrame:
    """`left` with the columns of `right`, one-to-one on `on`; key columns that both carry stay once.

    Raises
    ------
    KeyViolation
        A doubled or null `on`, or rows of one side without a partner, with the counts of both sides.
    BadInput
        A column that both carry and that is no key.
    """
    require_columns(left, [on], "join_features: left")
    require_columns(right, [on], "join_features: right")
    shared = [c for c in right.columns if c in left.columns and c not in (on, *KEY)]
    if shared:
        raise BadInput("a joined column comes from one side", shared, "drop or rename it on one side")
    _require_partners(left, right, on)
    once = right.drop(c for c in KEY if c in left.columns and c in right.columns and c != on)
    return left.join(once, on=on, how="left", validate="1:1", maintain_order="left")


def _require_partners(left: pl.DataFrame, right: pl.DataFrame, on: str) -> None:
    """An error with the rows, doubles and rows without partner of both sides unless the join is one-to-one."""
    counts = {}
    for side, frame, other in (("left", left, right), ("right", right, left)):
        alone = frame.select(on).join(other.select(on).unique(), on=on, how="anti").height
        counts[side] = (frame.height, frame.height - frame[on].drop_nulls().n_unique(), alone)
    if any(doubled or alone for _, doubled, alone in counts.values()):
        raise KeyViolation(
            f"a join on {on} keeps every row once",
            "; ".join(
                f"{side} {rows} rows, {doubled} doubled or null, {alone} without a partner"
                for side, (rows, doubled, alone) in counts.items()
            ),
            "compute both sides from the same minutes, or drop rows on both",
        )
