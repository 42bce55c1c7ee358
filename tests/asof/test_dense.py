"""Long tables as arrays, and patches laid over panels."""

from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl
import pytest

from pipeline.asof.panel import MEASURES, apply_patches, dense
from pipeline.errors import SchemaError

DAYS = [date(2024, 1, d) for d in (2, 3, 4)]
FRAME = pl.DataFrame(
    {
        "session": [DAYS[2], DAYS[0], DAYS[0]],
        "instrument": ["a", "b", "a"],
        "x": [1.0, None, 3.0],
        "flag": [True, False, True],
        "name": ["p", "q", "r"],
    }
)


def test_values_land_on_their_axes():
    """Pins: a transposed or shifted array, and a missing row read as zero."""
    arrays = dense(FRAME, ["x", "flag"], DAYS)
    assert arrays.sessions.dtype == "datetime64[D]"
    assert arrays.instruments.tolist() == ["a", "b"]
    np.testing.assert_array_equal(arrays.values["x"], [[3, np.nan, 1], [np.nan] * 3])
    np.testing.assert_array_equal(arrays.values["flag"], [[1, np.nan, 1], [0, np.nan, np.nan]])
    assert all(v.flags.c_contiguous and v.dtype == np.float64 for v in arrays.values.values())


def test_axes_may_be_narrower_wider_and_in_any_order():
    """Pins: rows outside the axes that wrap around into other cells."""
    arrays = dense(FRAME, ["x"], [DAYS[2], DAYS[1]], ["z", "a"])
    np.testing.assert_array_equal(arrays.values["x"], [[np.nan, np.nan], [1, np.nan]])
    assert dense(FRAME.clear(), ["x"]).values["x"].shape == (0, 0)


def test_text_is_refused():
    """Pins: strings silently turned into NaN."""
    with pytest.raises(SchemaError, match="name"):
        dense(FRAME, ["name"])


def patches(*rows: tuple[date, date, str, float | None]) -> pl.DataFrame:
    blank = {c: pl.lit(None, pl.Boolean if c == "suspended" else pl.Float64) for c in MEASURES}
    frame = pl.DataFrame(
        rows,
        schema={
            "effective_session": pl.Date,
            "session": pl.Date,
            "instrument": pl.String,
            "close": pl.Float64,
        },
        orient="row",
    )
    return frame.with_columns(**{c: e for c, e in blank.items() if c != "close"})


PANEL = pl.DataFrame(
    {"session": DAYS, "instrument": ["a"] * 3, "close": [1.0, 2.0, 3.0], "other": ["x", "y", "z"]}
)


def test_the_newest_patch_in_force_wins_and_may_take_a_value_away():
    """Pins: an older patch laid over a newer one, a future one applied, a correction to null ignored."""
    late = patches((DAYS[2], DAYS[0], "a", None), (DAYS[1], DAYS[0], "a", 9.0), (DAYS[1], DAYS[0], "b", 5.0))
    assert apply_patches(PANEL, late, until=DAYS[0]).equals(PANEL)
    assert apply_patches(PANEL, late, until=DAYS[1])["close"].to_list() == [9.0, 2.0, 3.0]
    final = apply_patches(PANEL, late)
    assert final["close"].to_list() == [None, 2.0, 3.0]
    assert final["other"].equals(PANEL["other"])
    assert PANEL["close"].to_list() == [1.0, 2.0, 3.0]
